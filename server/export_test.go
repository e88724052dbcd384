package server

import (
	"context"

	"ebb/accounts"
	"ebb/accounts/factors"
	"ebb/search"
	"ebb/storage"
)

// Factors returns the second factors.
func (s *Server) Factors() *factors.Service { return s.svc.factors }

// Accounts returns the accounts.
func (s *Server) Accounts() *accounts.Service { return s.svc.accounts }

// DB returns the database.
func (s *Server) DB() *storage.DB { return s.svc.db }

// ResumeExports begins to build the exports again that had not ended when the server stopped, as Run does by itself.
func (s *Server) ResumeExports(ctx context.Context) error { return s.svc.export.Resume(ctx) }

// DestroyDue destroys messages that are due and ask for it, as Run does by itself.
func (s *Server) DestroyDue(ctx context.Context) error {
	_, err := s.svc.redactions.StepDestructs(ctx)
	return err
}

// SendDelayed sends the delayed events that are due, as Run does by itself.
func (s *Server) SendDelayed(ctx context.Context) error {
	_, err := s.svc.delayed.SendDue(ctx)
	return err
}

// SearchIndex returns the search index, or nil if search is switched off.
func (s *Server) SearchIndex() *search.Index { return s.svc.search }

// FlushAudit writes the failed sign-ins that were counted, as Run does by itself.
func (s *Server) FlushAudit(ctx context.Context) error { return s.svc.audit.Flush(ctx) }
