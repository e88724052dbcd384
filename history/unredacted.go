package history

import (
	"context"
	"encoding/json"
	"net/http"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

// Errors of Unredacted.
const (
	codeUnredactedDeleted     = "FI.MAU.MSC2815_UNREDACTED_CONTENT_DELETED"
	codeUnredactedNotReceived = "FI.MAU.MSC2815_UNREDACTED_CONTENT_NOT_RECEIVED"
)

// Unredacted is like GetEvent for a moderator of the room, who gets a redacted event as it was before the redaction, if
// the original is still kept. It reports whether the result is an original.
// Spec: MSC2815
//
// Errors: M_NOT_FOUND if the requester may not see the event; M_FORBIDDEN unless the requester is in the room and has
// the power to redact events of others; M_USER_SUSPENDED; the errors of MSC2815.
func (s *Service) Unredacted(ctx context.Context, roomID id.RoomID, eventID id.EventID, to ident.Requester) (form json.RawMessage, original bool, err error) {
	err = s.readingEvent(ctx, roomID, eventID, to, func(tx *storage.Tx, v *viewer, e *rooms.Event, at sight) error {
		if err := v.mayUnredact(); err != nil {
			return err
		}
		before, err := v.unredacted(tx, e)
		if err != nil {
			return err
		}
		original = before != e
		form, err = v.one(tx, before, at, FormOptions{RoomID: true, Bundle: true})
		return err
	})
	return form, original, err
}

func (v *viewer) mayUnredact() error {
	levels := v.room.Levels()
	switch {
	case !v.joined || levels.UserLevel(v.to.UserID) < levels.Redact:
		return mxerr.Forbidden("Only moderators of the room may read the content of redacted events")
	case v.to.Suspended:
		return mxerr.UserSuspended()
	}
	return nil
}

// unredacted returns the event as it was before its redaction. If it was not redacted, unredacted returns e.
func (v *viewer) unredacted(tx *storage.Tx, e *rooms.Event) (*rooms.Event, error) {
	if e.RedactedBy == 0 {
		return received(e)
	}
	o, found, err := tx.OriginalOf(e.Pos)
	if err != nil {
		return nil, err
	}
	if !found || !v.svc.rooms.OriginalReadable(&o) {
		keep := v.svc.rooms.RetentionPolicy().Redacted
		return nil, mxerr.New(http.StatusNotFound, codeUnredactedDeleted, "The content of the event is not kept any more").
			With("fi.mau.msc2815.content_keep_ms", keep.Milliseconds())
	}
	row, found, err := tx.EventAt(e.Pos)
	if err == nil && !found {
		err = errNoEvent
	}
	if err != nil {
		return nil, err
	}
	row.JSON = o.JSON
	original, err := v.room.LoadEvent(&row)
	if err != nil {
		return nil, err
	}
	return received(original)
}

// received returns the event, or an error if another server has sent it without the content that it was hashed with.
func received(e *rooms.Event) (*rooms.Event, error) {
	if !e.CheckContentHash() {
		return nil, mxerr.New(http.StatusNotFound, codeUnredactedNotReceived, "This server has never received the content of the event")
	}
	return e, nil
}
