package media

import (
	"context"

	"ebb/storage"
)

// refsPage is how many references to a file are read at a time. Usually the first one decides.
const refsPage = 100

// use is what the database says about the use of media.
type use struct {
	quarantined bool
	refs        []storage.MediaRef // the first ones
}

func readUse(tx *storage.Tx, m storage.MediaName) (u use, err error) {
	if u.quarantined, err = tx.MediaQuarantined(m); err != nil {
		return u, err
	}
	u.refs, err = tx.MediaRefs(m, storage.FirstMediaRef, refsPage)
	return u, err
}

// mustBeShown returns M_NOT_FOUND if media are in quarantine, or if all messages that refer to them have expired. Media
// to which nothing refers are shown: a message in an encrypted room may refer to them.
func (s *Service) mustBeShown(ctx context.Context, m storage.MediaName, u use) error {
	if u.quarantined {
		return errGone()
	}
	for refs := u.refs; len(refs) > 0; {
		for _, ref := range refs {
			if live, err := s.live(ctx, ref); err != nil || live {
				return err
			}
		}
		if len(refs) < refsPage {
			return errGone()
		}
		err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			refs, err = tx.MediaRefs(m, refs[len(refs)-1], refsPage)
			return err
		})
		if err != nil {
			return err
		}
		if len(refs) == 0 {
			return errGone()
		}
	}
	return nil
}

// live reports whether a text that refers to media is still shown.
func (s *Service) live(ctx context.Context, ref storage.MediaRef) (bool, error) {
	if ref.Redacted || ref.Flags&storage.GoneEvent != 0 { // a legal hold keeps the reference
		return false, nil
	}
	if ref.Kind != storage.MessageMedia || s.opts.Rooms == nil {
		return true, nil
	}
	expired, err := s.opts.Rooms.MessageExpired(ctx, ref.Room, ref.OriginTS, ref.ReceivedTS)
	return !expired, err
}
