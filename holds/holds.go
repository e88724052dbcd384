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
	"ebb/export"
	"ebb/ident"
	"ebb/media"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/legalhold"
	"ebb/storage"
)

const (
	maxReason = 1000 // bytes in a reason
	// confirmTime is how long a request to lift a hold can be confirmed.
	confirmTime = 7 * 24 * time.Hour
	// pageSize is how many holds are read at a time.
	pageSize = 100
)

// Options are the dependencies of a Service. All fields are required but Audit and Commits.
type Options struct {
	Server   string
	DB       *storage.DB
	Rooms    *rooms.Service
	Media    *media.Service
	Accounts *export.Service // writes what is stored about a held user
	Notify   bool            // whether people who ask for erasure are told of holds
	Erasures Erasures
	Audit    *audit.Log
	Commits  *rooms.Commits
	Now      func() time.Time
}

// Erasures deletes the data of erased users. accounts.Service implements it.
type Erasures interface {
	// ResumeErasures carries out the erasures for which storage.Tx.EraseClosed was called. If that fails, it is
	// repeated later.
	ResumeErasures(ctx context.Context)
}

// Service manages legal holds. It is safe for concurrent use.
type Service struct {
	opts      Options
	exporting chan struct{} // has a value for each export that is being written
}

// New returns a Service.
func New(o Options) *Service { return &Service{o, make(chan struct{}, maxExports)} }

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
	// Also are the rooms that the hold covers besides Room: those that replace it or that it replaced. Only Add and
	// Hold set it.
	Also []Covered
}

// Covered is a room that a hold covers because of an upgrade.
type Covered struct {
	Room  id.RoomID
	Since time.Time
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

// Add adds a hold. When it returns, nothing that the hold covers is deleted any more. A hold on a room also covers the
// rooms that replace it or that it replaced, and those that replace them later, until it is lifted.
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
	var h Hold
	err := s.write(ctx, func(tx *storage.Tx) ([]rooms.CommittedHold, error) {
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
		changes := []rooms.CommittedHold{{Room: row.Room, User: row.User}}
		if row.Room != 0 {
			followed, err := legalhold.Follow(tx, row.Room)
			if err != nil {
				return nil, err
			}
			changes = append(changes, followed...)
		}
		if h, err = s.withRooms(tx, row); err != nil {
			return nil, err
		}
		return changes, s.opts.Audit.Add(ctx, tx, "legal hold added", "hold", row.NID, "room", n.Room, "user", n.User, "reason", n.Reason, "review", day(n.Review), "by", n.By)
	})
	return h, err
}

// withRooms returns a hold with the rooms that it covers because of upgrades.
func (s *Service) withRooms(tx *storage.Tx, row storage.LegalHold) (Hold, error) {
	h := s.holdOf(row)
	for after, more := int64(0), true; more; {
		page, err := tx.FollowingHolds(row.NID, after, pageSize)
		if err != nil {
			return h, err
		}
		for _, f := range page {
			h.Also, after = append(h.Also, Covered{id.RoomID(f.RoomID), time.UnixMilli(f.AddedTS)}), f.NID
		}
		more = len(page) == pageSize
	}
	return h, nil
}

// Follow extends all holds on rooms to the rooms that replace these or that they replaced. The writes that change which
// room replaces which do this themselves; Follow is for holds from before they did.
func (s *Service) Follow(ctx context.Context) error {
	for after, more := int64(0), true; more; {
		list, err := s.List(ctx, after, false, pageSize)
		if err != nil {
			return err
		}
		for _, h := range list {
			if after = h.ID; h.Room == "" {
				continue
			}
			if err := s.follow(ctx, h); err != nil {
				return err
			}
		}
		more = len(list) == pageSize
	}
	return nil
}

func (s *Service) follow(ctx context.Context, h Hold) error {
	return s.write(ctx, func(tx *storage.Tx) ([]rooms.CommittedHold, error) {
		row, found, err := tx.RoomByID(string(h.Room))
		if err != nil || !found {
			return nil, err
		}
		return legalhold.Follow(tx, row.NID)
	})
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func (s *Service) checkReview(t time.Time) error {
	if !t.After(s.opts.Now()) {
		return mxerr.InvalidParam("A hold needs a review date in the future")
	}
	return nil
}

// write runs f in a write and delivers the holds that f returns, if any.
func (s *Service) write(ctx context.Context, f func(tx *storage.Tx) ([]rooms.CommittedHold, error)) error {
	var changed []rooms.CommittedHold
	return s.opts.DB.Enqueue(storage.Write{
		Do: func(tx *storage.Tx) (err error) {
			changed, err = f(tx)
			return err
		},
		Committed: func() {
			if len(changed) > 0 {
				s.opts.Commits.Deliver(&rooms.Commit{Holds: changed})
			}
		},
	}).Wait(ctx)
}

// List returns at most limit holds that administrators have added after the given one, the oldest first. Holds that
// were lifted are included if lifted is set.
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
		if err == nil {
			h, err = s.withRooms(tx, row)
		}
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
	case row.Follows != 0:
		return row, mxerr.InvalidParam("Hold %d belongs to hold %d, which covers the room because of an upgrade; use that number", nid, row.Follows)
	case row.LiftedTS != 0 && !lifted:
		return row, mxerr.InvalidParam("Hold %d was lifted", nid)
	}
	return row, nil
}

// Lift asks for a hold to be lifted, or confirms that if another administrator has asked within confirmTime. The result
// says which. A hold that was lifted covers no room any more, however often its room was upgraded. What expired under
// it goes with the next purge. If the user was erased meanwhile and no other hold is on the user, the erasure is
// completed, in several writes if there is much.
//
// Errors: M_NOT_FOUND; M_INVALID_PARAM if it was lifted before; M_FORBIDDEN if the same administrator asks again.
func (s *Service) Lift(ctx context.Context, nid int64, by id.UserID) (h Hold, err error) {
	now := s.opts.Now().UnixMilli()
	err = s.write(ctx, func(tx *storage.Tx) ([]rooms.CommittedHold, error) {
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
		changes, err := liftNow(tx, row, string(by), now)
		if err != nil {
			return nil, err
		}
		err = s.opts.Audit.Add(ctx, tx, "legal hold lifted", "hold", nid, "room", row.RoomID, "user", row.UserID, "asked_by", row.AskedBy, "by", by)
		return changes, err
	})
	if err == nil && !h.Lifted.IsZero() {
		s.opts.Erasures.ResumeErasures(context.WithoutCancel(ctx))
	}
	return h, err
}

// liftNow lifts a hold, and carries out what has waited for that.
func liftNow(tx *storage.Tx, row storage.LegalHold, by string, ts int64) ([]rooms.CommittedHold, error) {
	lifted, err := tx.LiftLegalHold(row.NID, by, ts)
	if err != nil {
		return nil, err
	}
	if err := continueErasure(tx, row.User); err != nil {
		return nil, err
	}
	changes := make([]rooms.CommittedHold, len(lifted))
	for i, l := range lifted {
		changes[i] = rooms.CommittedHold{Room: l.Room, User: l.User, Lifted: true}
	}
	return changes, tx.EraseReleasedReports()
}

// LiftAgain lifts a hold that was lifted after a backup, in a database that was restored from the backup, before any
// service uses it. It reports whether the hold stood.
func LiftAgain(tx *storage.Tx, nid, ts int64) (lifted bool, err error) {
	row, found, err := tx.LegalHold(nid)
	if err != nil || !found || row.LiftedTS != 0 {
		return false, err
	}
	_, err = liftNow(tx, row, "ledger", ts)
	return err == nil, err
}

// continueErasure lets package accounts delete the data of a user whose erasure has waited for a hold. If everything is
// to be erased, package erasure does that by itself.
func continueErasure(tx *storage.Tx, user ident.UserNID) error {
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
	_, everything, err := tx.Erasure(user)
	if err != nil || everything {
		return err
	}
	return tx.EraseClosed(user, storage.Erased)
}

// Review sets the next review date of a hold.
//
// Errors: M_NOT_FOUND; M_INVALID_PARAM.
func (s *Service) Review(ctx context.Context, nid int64, review time.Time, by string) (h Hold, err error) {
	if err := s.checkReview(review); err != nil {
		return h, err
	}
	err = s.write(ctx, func(tx *storage.Tx) ([]rooms.CommittedHold, error) {
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

// Notice returns what a user who asks for erasure is told: that a hold on the user or on a room of the user keeps some
// of the user's data. It returns "" if there is none, or if nobody is to be told. A nil Service tells nobody.
func (s *Service) Notice(ctx context.Context, user ident.UserNID) (text string, err error) {
	if s == nil || !s.opts.Notify {
		return "", nil
	}
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		concerned, err := tx.HoldConcerns(user)
		if concerned {
			text = notice
		}
		return err
	})
	return text, err
}

// notice says nothing about who has asked for the hold, where, and why.
const notice = "Some of your data must be kept for legal reasons. Nobody sees it any more, and it will be deleted as soon as the reason has ended."

// Count returns how many holds stand, and how many of them are past their review date.
func (s *Service) Count(ctx context.Context) (all, overdue int64, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		all, overdue, err = tx.CountLegalHolds(s.opts.Now().UnixMilli())
		return err
	})
	return all, overdue, err
}
