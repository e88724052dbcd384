package server

import (
	"context"

	"ebb/search"
)

// SendDelayed sends the delayed events that are due, as Run does by itself.
func (s *Server) SendDelayed(ctx context.Context) error {
	_, err := s.svc.delayed.SendDue(ctx)
	return err
}

// SearchIndex returns the search index, or nil if search is switched off.
func (s *Server) SearchIndex() *search.Index { return s.svc.search }
