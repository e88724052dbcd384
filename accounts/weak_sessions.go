package accounts

import (
	"context"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/storage"
)

// weakBatch is the number of sessions that endWeakSessions examines in one write. It keeps writes short.
const weakBatch = 500

// endWeakSessions ends the sessions that lack a required second factor with a soft logout, so that their devices keep
// their keys and can log in again.
func (s *Service) endWeakSessions(ctx context.Context) error {
	enforced := false
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		enforced, err = s.gate.Enforces(tx)
		return err
	})
	for after := ident.DeviceNID(0); enforced && err == nil && ctx.Err() == nil; {
		after, err = s.endWeakSessionsAfter(ctx, after)
		enforced = after != 0
	}
	return err
}

// endWeakSessionsAfter examines one batch of sessions. It returns the last device of the batch, or 0 if there are no
// more.
func (s *Service) endWeakSessionsAfter(ctx context.Context, after ident.DeviceNID) (last ident.DeviceNID, err error) {
	err = s.write(ctx, func(w *write) error {
		rows, err := w.Sessions(after, weakBatch)
		if err != nil {
			return err
		}
		if len(rows) == weakBatch {
			last = rows[len(rows)-1].Device
		}
		for _, row := range rows {
			if err := s.endIfWeak(w, row); err != nil {
				return err
			}
		}
		return nil
	})
	return last, err
}

func (s *Service) endIfWeak(w *write, row storage.SessionRow) error {
	if s.gate.Allows(row.Account, gate.Evidence(row.Evidence)) {
		return nil
	}
	w.after(func() { s.sessions.dropDevice(row.Account.NID, row.Device) })
	w.note("session without a second factor ended", "user", s.UserID(row.Account.Localpart))
	return w.ExpireTokens(row.Device)
}
