package accounts

import (
	"context"

	"ebb/ident"
	"ebb/storage"
)

// Binding is an address that a user has bound to themselves at an identity server.
type Binding = storage.IdentityBinding

// maxBindings bounds the stored bindings of a user, and thereby the identity servers that are asked to remove them.
const maxBindings = 20

// Bindings returns the bindings of a user.
func (s *Service) Bindings(ctx context.Context, user ident.UserNID) (list []Binding, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		list, err = tx.IdentityBindings(user, maxBindings)
		return err
	})
	return list, err
}

// AddBinding stores a binding, so that it can be removed later. If the user has maxBindings already, it stores nothing.
func (s *Service) AddBinding(ctx context.Context, user ident.UserNID, b Binding) error {
	return s.write(ctx, func(w *write) error {
		known, err := w.IdentityBindings(user, maxBindings)
		if err != nil || len(known) == maxBindings {
			return err
		}
		return w.AddIdentityBinding(user, b)
	})
}

// RemoveBinding deletes a stored binding.
func (s *Service) RemoveBinding(ctx context.Context, user ident.UserNID, b Binding) error {
	return s.write(ctx, func(w *write) error { return w.DeleteIdentityBinding(user, b) })
}
