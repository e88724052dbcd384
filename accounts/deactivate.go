package accounts

import (
	"context"
	"fmt"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/storage"
)

// Erasure is how much of a user's data is erased when the account is closed.
type Erasure = storage.Erasure

// The kinds of erasure.
const (
	NotErased        = storage.NotErased
	Erased           = storage.Erased           // what the specification says
	ErasedEverything = storage.ErasedEverything // the user's messages, media and names too
)

// ErasureOf returns the kind of erasure that a request asks for: everything includes erase.
func ErasureOf(erase, everything bool) Erasure {
	switch {
	case everything:
		return ErasedEverything
	case erase:
		return Erased
	}
	return NotErased
}

// Deactivate closes an account permanently: nobody can log in to it or reuse its name, and the user leaves every room.
// If the user is erased, users who join a room later get redacted copies of the user's events, and all other data of
// the user is deleted, which waits while there is a legal hold on the user. If everything is erased, package erasure
// also removes what the user has sent, before the user leaves the rooms. When Deactivate returns, all sessions have
// ended; the rest is retried until it succeeds.
// Spec: client-server-api#post_matrixclientv3accountdeactivate
//
// Errors: M_NOT_FOUND.
func (s *Service) Deactivate(ctx context.Context, user id.UserID, erase Erasure) error {
	return s.deactivate(ctx, user, erase, s.activeAccount)
}

// Erase is Deactivate for a user who is erased. The account may be closed already.
//
// Errors: M_NOT_FOUND.
func (s *Service) Erase(ctx context.Context, user id.UserID, erase Erasure) error {
	return s.deactivate(ctx, user, erase, s.account)
}

// deactivate closes the account that find returns, if it is open, and erases the user.
func (s *Service) deactivate(ctx context.Context, user id.UserID, erase Erasure, find func(*storage.Tx, id.UserID) (storage.AccountRow, error)) error {
	var nid ident.UserNID
	err := s.write(ctx, func(w *write) error {
		a, err := find(w.Tx, user)
		if err != nil {
			return err
		}
		nid = a.NID
		if a.DeactivatedTS != 0 {
			w.note("closed account erased", "user", user, "everything", erase == ErasedEverything)
			return w.EraseClosed(nid, erase)
		}
		w.note("account deactivated", "user", user, "erased", erase != NotErased, "everything", erase == ErasedEverything)
		return s.closeAccount(w, nid, erase)
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

func (s *Service) closeAccount(w *write, nid ident.UserNID, erase Erasure) error {
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
	return nil
}

// erasePart is how many rows of an erased user's data one write deletes, before the last one deletes the rest.
const erasePart = 200

// eraseData deletes the data of an erased user other than events, in several writes if there is much. It reports
// whether a legal hold on the user forbids that. Package holds makes the erasure continue when the hold is lifted.
func (s *Service) eraseData(ctx context.Context, nid ident.UserNID) (held bool, err error) {
	for more := true; more; {
		err := s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
			more = false
			_, held, err = tx.HoldOn(0, nid)
			if err != nil || held {
				return err
			}
			n, err := tx.EraseDataPart(nid, erasePart)
			if more = n == erasePart; err != nil || more {
				return err
			}
			return tx.EraseData(nid)
		})
		if err != nil {
			return held, err
		}
	}
	return held, nil
}

// leave removes a deactivated user from all rooms and, if requested, erases the user's data and events. If everything
// is erased, package erasure removes the user from the rooms.
func (s *Service) leave(ctx context.Context, l storage.LeavingAccount, user id.UserID) (err error) {
	held := false
	if l.Erase != NotErased {
		if held, err = s.eraseData(ctx, l.NID); err != nil {
			return fmt.Errorf("erase the data of %s: %w", user, err)
		}
		if s.opts.Hooks.Erase != nil {
			if err := s.opts.Hooks.Erase(ctx, l.NID); err != nil {
				return fmt.Errorf("erase %s: %w", user, err)
			}
		}
	}
	if l.Erase == ErasedEverything {
		return nil
	}
	if s.opts.Hooks.LeaveRooms != nil {
		if err := s.opts.Hooks.LeaveRooms(ctx, l.NID, user); err != nil {
			return fmt.Errorf("leave rooms of %s: %w", user, err)
		}
	}
	return s.write(ctx, func(w *write) error {
		if held { // if the hold has been lifted meanwhile, the data are still there
			if _, still, err := w.HoldOn(0, l.NID); err != nil || !still {
				return err
			}
		}
		return w.HasLeft(l.NID)
	})
}

// ResumeErasures completes erasures that have waited for a legal hold.
func (s *Service) ResumeErasures(ctx context.Context) { s.resumeDeactivations(ctx) }

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
