package rooms

import (
	"context"
	"sync"

	"ebb/ident"
	"ebb/storage"
)

// erasures holds the users who have asked for erasure, with the position of each request.
type erasures struct {
	mu    sync.RWMutex // guards users; a leaf lock
	users map[ident.UserNID]storage.Pos
}

func (e *erasures) load(ctx context.Context, db *storage.DB) error {
	e.users = map[ident.UserNID]storage.Pos{}
	return db.Read(ctx, func(tx *storage.Tx) error {
		list, err := tx.ErasedUsers()
		for _, u := range list {
			e.users[u.User] = u.Position
		}
		return err
	})
}

// committed is the Listener that records requests for erasure. Only a user's first request counts.
func (e *erasures) committed(c *Commit) {
	for _, erased := range c.Erased {
		e.mu.Lock()
		if _, done := e.users[erased.User]; !done {
			e.users[erased.User] = erased.Pos
		}
		e.mu.Unlock()
	}
}

// ErasedAt returns the position of a user's request for erasure, and false if there is none.
func (s *Service) ErasedAt(user ident.UserNID) (storage.Pos, bool) {
	e := &s.erased
	e.mu.RLock()
	defer e.mu.RUnlock()
	p, ok := e.users[user]
	return p, ok
}

// Erase hides the content of a user's events from everybody who joins the rooms from now on: they get redacted copies.
// No redactions are sent.
// Spec: client-server-api#post_matrixclientv3accountdeactivate erase
func (s *Service) Erase(ctx context.Context, user ident.UserNID) error {
	var at storage.Pos
	return s.db.Enqueue(storage.Write{
		Do: func(tx *storage.Tx) error {
			at = tx.NextPos()
			return tx.EraseUser(user, at)
		},
		Committed: func() { s.opts.Commits.Deliver(&Commit{Erased: []CommittedErasure{{User: user, Pos: at}}}) },
	}).Wait(ctx)
}
