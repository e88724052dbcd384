// Package holds manages legal holds. While a hold on a room or a user stands, nothing that it covers is deleted: the
// messages of the room or of the user, what they were before they were redacted, and their media. A hold makes nothing
// visible.
//
// The package decides who may add and lift holds and records that in the audit log. Those who delete ask
// rooms.Service.Held. A hold is lifted by two administrators: one asks for it and another one confirms it.
package holds

import (
	"context"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/audit"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

const (
	maxReason = 1000 // bytes in a reason
	// confirmTime is how long a request to lift a hold can be confirmed.
	confirmTime = 7 * 24 * time.Hour
)

// Options are the dependencies of a Service. All fields are required but Audit and Commits.
type Options struct {
	DB      *storage.DB
	Rooms   *rooms.Service
	Audit   *audit.Log
	Commits *rooms.Commits
	Now     func() time.Time
}

// Service manages legal holds. It is safe for concurrent use.
type Service struct{ opts Options }

// New returns a Service.
func New(o Options) *Service { return &Service{o} }

// Hold is a legal hold on a room or on a user.
type Hold struct {
	ID       int64
	Room     id.RoomID // "": the hold is on a user
	User     id.UserID
	Reason   string
	AddedBy  string
	Added    time.Time
	Review   time.Time
	AskedBy  string // who asked for it to be lifted; "": nobody, or too long ago
	Asked    time.Time
	LiftedBy string
	Lifted   time.Time // zero: it stands
}

func (s *Service) holdOf(row storage.LegalHold) Hold {
	h := Hold{
		ID: row.NID, Room: id.RoomID(row.RoomID), User: id.UserID(row.UserID), Reason: row.Reason, AddedBy: row.AddedBy, Added: time.UnixMilli(row.AddedTS),
		Review: time.UnixMilli(row.ReviewTS), LiftedBy: row.LiftedBy,
	}
	if row.LiftedTS != 0 {
		h.Lifted = time.UnixMilli(row.LiftedTS)
	}
	if row.LiftedTS != 0 || s.askedInTime(row) {
		h.AskedBy, h.Asked = row.AskedBy, time.UnixMilli(row.AskedTS)
	}
	return h
}

// askedInTime reports whether somebody has asked for a hold to be lifted, and that can still be confirmed.
func (s *Service) askedInTime(row storage.LegalHold) bool {
	return row.AskedBy != "" && s.opts.Now().Sub(time.UnixMilli(row.AskedTS)) <= confirmTime
}

// NewHold describes a hold that is added. Exactly one of Room and User must be set.
type NewHold struct {
	Room   id.RoomID
	User   id.UserID
	Reason string
	Review time.Time // when somebody must decide whether the hold is still needed
	By     string    // who adds it
}

// Add adds a hold. When it returns, nothing that the hold covers is deleted any more.
//
// Errors: M_NOT_FOUND if the room or the user is unknown; M_MISSING_PARAM, M_INVALID_PARAM.
func (s *Service) Add(ctx context.Context, n NewHold) (Hold, error) {
	n.Reason = strings.TrimSpace(n.Reason)
	switch {
	case (n.Room == "") == (n.User == ""):
		return Hold{}, mxerr.InvalidParam("A hold is either on a room or on a user")
	case n.Reason == "":
		return Hold{}, mxerr.MissingParam("A hold needs a reason")
	case len(n.Reason) > maxReason:
		return Hold{}, mxerr.InvalidParam("The reason must not be longer than %d bytes", maxReason)
	}
	if err := s.checkReview(n.Review); err != nil {
		return Hold{}, err
	}
	row := storage.LegalHold{RoomID: string(n.Room), UserID: string(n.User), Reason: n.Reason, AddedBy: n.By, AddedTS: s.opts.Now().UnixMilli(), ReviewTS: n.Review.UnixMilli()}
	if n.Room != "" {
		room, err := s.opts.Rooms.Room(ctx, n.Room)
		if err != nil {
			return Hold{}, mxerr.NotFound("There is no room %s", n.Room).Because(err)
		}
		row.Room = room.NID()
	}
	err := s.write(ctx, func(tx *storage.Tx) (*rooms.CommittedHold, error) {
		if n.User != "" {
			nid, found, err := tx.LookupUser(string(n.User))
			if err == nil && !found {
				err = mxerr.NotFound("There is no user %s", n.User)
			}
			if err != nil {
				return nil, err
			}
			row.User = nid
		}
		var err error
		if row.NID, err = tx.AddLegalHold(row); err != nil {
			return nil, err
		}
		err = s.opts.Audit.Add(ctx, tx, "legal hold added", "hold", row.NID, "room", n.Room, "user", n.User, "reason", n.Reason, "review", day(n.Review), "by", n.By)
		return &rooms.CommittedHold{Room: row.Room, User: row.User}, err
	})
	return s.holdOf(row), err
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func (s *Service) checkReview(t time.Time) error {
	if !t.After(s.opts.Now()) {
		return mxerr.InvalidParam("A hold needs a review date in the future")
	}
	return nil
}

// write runs f in a write and delivers the hold that f returns, if any.
func (s *Service) write(ctx context.Context, f func(tx *storage.Tx) (*rooms.CommittedHold, error)) error {
	var changed *rooms.CommittedHold
	return s.opts.DB.Enqueue(storage.Write{
		Do: func(tx *storage.Tx) (err error) {
			changed, err = f(tx)
			return err
		},
		Committed: func() {
			if changed != nil {
				s.opts.Commits.Deliver(&rooms.Commit{Holds: []rooms.CommittedHold{*changed}})
			}
		},
	}).Wait(ctx)
}

// List returns at most limit holds after the given one, the oldest first. Holds that were lifted are included if lifted
// is set.
func (s *Service) List(ctx context.Context, after int64, lifted bool, limit int) (list []Hold, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.LegalHolds(after, lifted, limit)
		for _, row := range rows {
			list = append(list, s.holdOf(row))
		}
		return err
	})
	return list, err
}

// Hold returns a hold.
//
// Errors: M_NOT_FOUND.
func (s *Service) Hold(ctx context.Context, nid int64) (h Hold, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		row, err := standing(tx, nid, true)
		h = s.holdOf(row)
		return err
	})
	return h, err
}

// standing returns the row of a hold. It refuses one that was lifted unless lifted is set.
func standing(tx *storage.Tx, nid int64, lifted bool) (storage.LegalHold, error) {
	row, found, err := tx.LegalHold(nid)
	switch {
	case err != nil:
		return row, err
	case !found:
		return row, mxerr.NotFound("There is no hold %d", nid)
	case row.LiftedTS != 0 && !lifted:
		return row, mxerr.InvalidParam("Hold %d was lifted", nid)
	}
	return row, nil
}

// Lift asks for a hold to be lifted, or confirms that if another administrator has asked within confirmTime. The result
// says which. What expired under the hold goes with the next purge. If the user was erased meanwhile and no other hold
// is on the user, the erasure is completed.
//
// Errors: M_NOT_FOUND; M_INVALID_PARAM if it was lifted before; M_FORBIDDEN if the same administrator asks again.
func (s *Service) Lift(ctx context.Context, nid int64, by id.UserID) (h Hold, err error) {
	now := s.opts.Now().UnixMilli()
	err = s.write(ctx, func(tx *storage.Tx) (*rooms.CommittedHold, error) {
		row, err := standing(tx, nid, false)
		if err != nil {
			return nil, err
		}
		if !s.askedInTime(row) {
			row.AskedBy, row.AskedTS = string(by), now
			h = s.holdOf(row)
			if err := tx.AskToLift(nid, string(by), now); err != nil {
				return nil, err
			}
			return nil, s.opts.Audit.Add(ctx, tx, "legal hold: lifting asked for", "hold", nid, "by", by)
		}
		if row.AskedBy == string(by) {
			return nil, mxerr.Forbidden("You have asked for this hold to be lifted; another administrator must confirm it")
		}
		row.LiftedBy, row.LiftedTS = string(by), now
		h = s.holdOf(row)
		if err := tx.LiftLegalHold(nid, string(by), now); err != nil {
			return nil, err
		}
		if err := completeErasure(tx, row.User); err != nil {
			return nil, err
		}
		err = s.opts.Audit.Add(ctx, tx, "legal hold lifted", "hold", nid, "room", row.RoomID, "user", row.UserID, "asked_by", row.AskedBy, "by", by)
		return &rooms.CommittedHold{Room: row.Room, User: row.User, Lifted: true}, err
	})
	return h, err
}

// completeErasure deletes the data of a user whose erasure has waited for a hold.
func completeErasure(tx *storage.Tx, user ident.UserNID) error {
	if user == 0 {
		return nil
	}
	_, held, err := tx.HoldOn(0, user)
	if err != nil || held {
		return err
	}
	erased, err := tx.IsErased(user)
	if err != nil || !erased {
		return err
	}
	return tx.EraseData(user)
}

// Review sets the next review date of a hold.
//
// Errors: M_NOT_FOUND; M_INVALID_PARAM.
func (s *Service) Review(ctx context.Context, nid int64, review time.Time, by string) (h Hold, err error) {
	if err := s.checkReview(review); err != nil {
		return h, err
	}
	err = s.write(ctx, func(tx *storage.Tx) (*rooms.CommittedHold, error) {
		row, err := standing(tx, nid, false)
		if err != nil {
			return nil, err
		}
		row.ReviewTS = review.UnixMilli()
		h = s.holdOf(row)
		if err := tx.ReviewLegalHold(nid, row.ReviewTS); err != nil {
			return nil, err
		}
		return nil, s.opts.Audit.Add(ctx, tx, "legal hold reviewed", "hold", nid, "review", day(review), "by", by)
	})
	return h, err
}

// Count returns how many holds stand, and how many of them are past their review date.
func (s *Service) Count(ctx context.Context) (all, overdue int64, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		all, overdue, err = tx.CountLegalHolds(s.opts.Now().UnixMilli())
		return err
	})
	return all, overdue, err
}
