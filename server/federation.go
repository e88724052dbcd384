package server

import "ebb/federation"

// edus says who takes in which ephemeral data of other servers.
func (s *services) edus() map[string]federation.EDU {
	return map[string]federation.EDU{}
}
