package server

import (
	"context"
	"errors"

	"ebb/config"
)

// Reload applies those settings of a new configuration that can change while the server runs, currently the shared
// secret for registration. It also reads all certificates and the registration files of application services again.
// Anything that cannot be read keeps its old value and is named in the error.
func (s *Server) Reload(cfg *config.Config) error {
	s.admin.SetSharedSecret(cfg.Registration.SharedSecret)
	s.mu.Lock()
	certificates := s.certificates
	s.mu.Unlock()
	failed := []error{s.svc.apps.Reload(context.Background(), cfg)}
	for _, c := range certificates {
		failed = append(failed, c.Load())
	}
	return errors.Join(failed...)
}
