package accounts

import (
	"context"
	"fmt"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/storage"
)

// Deactivate closes an account permanently: nobody can log in to it or reuse its name, and the user leaves every room.
// If erase is set, users who join a room later get redacted copies of the user's events, and all other data of the user
// is deleted, which waits while there is a legal hold on the user. When Deactivate returns, all sessions have ended;
// leaving rooms is retried until it succeeds.
// Spec: client-server-api#post_matrixclientv3accountdeactivate
//
// Errors: M_NOT_FOUND.
func (s *Service) Deactivate(ctx context.Context, user id.UserID, erase bool) error {
	var nid ident.UserNID
	err := s.write(ctx, func(w *write) error {
		a, err := s.activeAccount(w.Tx, user)
		if err != nil {
			return err
		}
		nid = a.NID
		w.note("account deactivated", "user", user, "erased", erase)
		return s.deactivate(w, nid, erase)
	})
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	if err := s.leave(ctx, storage.LeavingAccount{NID: nid, Erase: erase}, user); err != nil {
		s.opts.Log.Error("Cannot remove a deactivated user from every room yet; retrying", "user", user, "err", err)
	}
	return nil
}

func (s *Service) deactivate(w *write, nid ident.UserNID, erase bool) error {
	if _, err := w.Deactivate(nid, erase); err != nil {
		return err
	}
	if err := s.deleteAllDevices(w, nid, ""); err != nil {
		return err
	}
	if err := w.DeleteEmails(nid); err != nil {
		return err
	}
	if err := w.ForgetFactors(nid); err != nil {
		return err
	}
	if err := w.DeleteUpstreamIdentities(nid); err != nil {
		return err
	}
	if err := w.ForgetNotices(nid); err != nil {
		return err
	}
	if err := w.DeleteDelayedEvents(nid); err != nil {
		return err
	}
	w.after(func() { s.sessions.dropUser(nid) })
	if !erase {
		return nil
	}
	_, held, err := w.HoldOn(0, nid)
	if err != nil || held { // package holds erases the data when the hold is lifted
		return err
	}
	return w.EraseData(nid)
}

// leave removes a deactivated user from all rooms and, if requested, erases the user's events.
func (s *Service) leave(ctx context.Context, l storage.LeavingAccount, user id.UserID) error {
	if l.Erase && s.opts.Hooks.Erase != nil {
		if err := s.opts.Hooks.Erase(ctx, l.NID); err != nil {
			return fmt.Errorf("erase %s: %w", user, err)
		}
	}
	if s.opts.Hooks.LeaveRooms != nil {
		if err := s.opts.Hooks.LeaveRooms(ctx, l.NID, user); err != nil {
			return fmt.Errorf("leave rooms of %s: %w", user, err)
		}
	}
	return s.write(ctx, func(w *write) error { return w.HasLeft(l.NID) })
}

// resumeDeactivations completes deactivations that a crash or an error has interrupted.
func (s *Service) resumeDeactivations(ctx context.Context) {
	type leaving struct {
		storage.LeavingAccount
		user string
	}
	var list []leaving
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.LeavingAccounts()
		for _, r := range rows {
			user, err := tx.UserID(r.NID)
			if err != nil {
				return err
			}
			list = append(list, leaving{r, user})
		}
		return err
	})
	for _, l := range list {
		if err == nil {
			err = s.leave(ctx, l.LeavingAccount, id.UserID(l.user))
		}
	}
	if err != nil && ctx.Err() == nil {
		s.opts.Log.Error("Cannot complete deactivations", "err", err)
	}
}
