package rooms

import (
	"sync/atomic"

	"ebb/canonjson"
	"ebb/mxerr"
	"ebb/rooms/acl"
)

// aclCache caches the compiled access control list of a room until the event changes.
type aclCache struct{ last atomic.Pointer[compiledACL] }

type compiledACL struct {
	event *Event
	list  *acl.List
}

// AllowsServer reports whether the room's server access control list allows the given server.
// Spec: client-server-api#mroomserver_acl
func (r *Room) AllowsServer(server string) bool {
	e := r.State(typeServerACL, "")
	if e == nil {
		return true
	}
	c := r.acl.last.Load()
	if c == nil || c.event != e {
		c = &compiledACL{event: e, list: acl.Compile(e.Content())}
		r.acl.last.Store(c)
	}
	return c.list.Allows(server)
}

// checkOwnACL rejects a server access control list that denies this server: nobody on this server could revert it.
func (s *Service) checkOwnACL(content []byte) error {
	if content, err := canonjson.Canonical(content, false); err == nil && !acl.Compile(content).Allows(s.opts.Server) {
		return mxerr.InvalidParam("This access control list would exclude your own server, %s, from the room", s.opts.Server)
	}
	return nil
}
