package export

import (
	"context"

	"maunium.net/go/mautrix/id"

	"ebb/storage"
)

// maxAttempts is how many starts of the server begin to build an export again. An export may be why the server ends.
const maxAttempts = 3

// request is the row of an export that is begun.
func (e *export) request() storage.ExportRequest {
	return storage.ExportRequest{User: e.owner.User, Admin: e.owner.Admin, Conversations: e.status.Conversations, RequestedTS: e.status.Started.UnixMilli()}
}

// Resume begins to build again the exports that had not ended when the server stopped. It gives up those that were
// asked for longer than Lifetime ago, or that maxAttempts starts have not built. Run calls it.
func (s *Service) Resume(ctx context.Context) error {
	var again []storage.ExportRequest
	oldest := s.opts.Now().Add(-Lifetime).UnixMilli()
	err := s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		again = nil
		rows, err := tx.ExportRequests(2 * maxExports)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.RequestedTS <= oldest || r.Attempts >= maxAttempts {
				if err := tx.DeleteExportRequest(r.User, r.Admin); err != nil {
					return err
				}
				continue
			}
			r.Attempts++
			if err := tx.PutExportRequest(r); err != nil {
				return err
			}
			again = append(again, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range again {
		e, err := s.enter(Owner{User: r.User, Admin: r.Admin}, id.UserID(r.UserID), r.Conversations)
		if err != nil {
			return err
		}
		if e != nil {
			s.opts.Log.Info("An export of an account is built again", "user", r.UserID)
			s.launch(e)
		}
	}
	return nil
}

// forget deletes the request of an export that has ended or failed, so that the next start does not build it again.
func (s *Service) forget(o Owner) {
	err := s.opts.DB.Write(context.Background(), func(tx *storage.Tx) error { return tx.DeleteExportRequest(o.User, o.Admin) })
	if err != nil {
		s.opts.Log.Warn("Cannot delete the request of an export that has ended; the next start may build it again", "err", err)
	}
}
