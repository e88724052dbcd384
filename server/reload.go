package server

import (
	"errors"

	"ebb/config"
)

// Reload takes over what a new configuration changes while the server runs: the shared secret for registration. It also reads
// every certificate and the registration files of application services again. What cannot be read stays as it is and is in the
// error.
func (s *Server) Reload(cfg *config.Config) error {
	s.admin.SetSharedSecret(cfg.Registration.SharedSecret)
	s.mu.Lock()
	certificates := s.certificates
	s.mu.Unlock()
	failed := []error{cfg.CheckAppservices().Err()}
	for _, c := range certificates {
		failed = append(failed, c.Load())
	}
	return errors.Join(failed...)
}
