package redactions

import (
	"context"
	"strconv"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

const (
	// minLifetime and maxLifetime bound the lifetimes that users choose for their messages. The lower bound also
	// catches clients that send seconds instead of milliseconds.
	minLifetime = 24 * time.Hour
	maxLifetime = 10 * 365 * 24 * time.Hour
	// maxLifetimes is for how many rooms a user can choose a lifetime. It includes the one for all rooms.
	maxLifetimes = 200
	// daily is the time between two requests that are made because of such a lifetime.
	daily = 24 * time.Hour
	// maxDaily is for how many users one write makes these requests.
	maxDaily = 100
)

// Lifetimes are the times after which the messages of a user are redacted, as the user has chosen.
type Lifetimes struct {
	All   time.Duration // in rooms that are not in Rooms; 0: the messages stay
	Rooms map[id.RoomID]time.Duration
}

// LifetimeBounds returns the smallest and the largest lifetime that a user can choose.
func LifetimeBounds() (least, most time.Duration) { return minLifetime, maxLifetime }

// CheckLifetime checks a lifetime in milliseconds, as clients send it.
//
// Errors: M_INVALID_PARAM.
func CheckLifetime(ms int64) (time.Duration, error) {
	if ms < minLifetime.Milliseconds() || ms > maxLifetime.Milliseconds() {
		return 0, errLifetime()
	}
	return time.Duration(ms) * time.Millisecond, nil
}

func errLifetime() error {
	return mxerr.InvalidParam("The lifetime must be between %d and %d milliseconds (1 day and %d days)", minLifetime.Milliseconds(), maxLifetime.Milliseconds(),
		maxLifetime/(24*time.Hour))
}

// Lifetimes returns the lifetimes that a user has chosen.
func (s *Service) Lifetimes(ctx context.Context, user ident.UserNID) (out Lifetimes, err error) {
	out.Rooms = map[id.RoomID]time.Duration{}
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.MessageLifetimes(user, maxLifetimes)
		for _, l := range rows {
			switch d := time.Duration(l.Lifetime) * time.Millisecond; {
			case l.Room == 0:
				out.All = d
			case l.RoomID != "":
				out.Rooms[id.RoomID(l.RoomID)] = d
			}
		}
		return err
	})
	return out, err
}

// SetLifetime stores that the messages of a user are redacted once they are older than d: in one room in which the user
// is or was, or in all rooms without a lifetime of their own if room is "". Run carries it out, at once and then daily.
//
// Errors: M_INVALID_PARAM, M_FORBIDDEN.
func (s *Service) SetLifetime(ctx context.Context, user ident.UserNID, room id.RoomID, d time.Duration) error {
	if d < minLifetime || d > maxLifetime {
		return errLifetime()
	}
	err := s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		nid, found, err := limitedRoom(tx, user, room)
		if err != nil {
			return err
		}
		if !found {
			return mxerr.Forbidden("You are not in this room")
		}
		if err := mayAddLifetime(tx, user, nid); err != nil {
			return err
		}
		if err := tx.SetMessageLifetime(user, nid, d.Milliseconds()); err != nil {
			return err
		}
		return s.auditLifetime(ctx, tx, "message lifetime set", user, room, "lifetime", d)
	})
	if err == nil {
		s.WakeOwn()
	}
	return err
}

// DropLifetime deletes a lifetime that SetLifetime has stored. No message is redacted because of it after DropLifetime
// has returned. It reports whether there was one.
func (s *Service) DropLifetime(ctx context.Context, user ident.UserNID, room id.RoomID) (found bool, err error) {
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		nid, known, err := limitedRoom(tx, user, room)
		if err != nil || !known {
			return err
		}
		if found, err = tx.DropMessageLifetime(user, nid); err != nil || !found {
			return err
		}
		return s.auditLifetime(ctx, tx, "message lifetime removed", user, room)
	})
	if err == nil && found {
		s.WakeOwn() // another lifetime may hold for the room from now on
	}
	return found, err
}

// SetLifetimeAgain applies an entry of the ledger in a database that was restored from a backup. It does nothing if the
// backup does not have the user or the room.
func SetLifetimeAgain(tx *storage.Tx, e storage.LedgerEntry) (done bool, err error) {
	number, err := strconv.ParseInt(e.Name, 10, 64)
	if err != nil {
		return false, err
	}
	user, room := ident.UserNID(e.Ref), ident.RoomNID(number)
	if e.Value == 0 {
		return tx.DropMessageLifetime(user, room)
	}
	_, found, err := tx.Account(user)
	if err == nil && found && room != 0 {
		_, found, err = tx.RoomByNID(room)
	}
	if err != nil || !found {
		return false, err
	}
	return true, tx.SetMessageLifetime(user, room, e.Value)
}

// limitedRoom returns the number of a room for which a user may choose a lifetime: 0 for all rooms.
func limitedRoom(tx *storage.Tx, user ident.UserNID, room id.RoomID) (nid ident.RoomNID, found bool, err error) {
	if room == "" {
		return 0, true, nil
	}
	row, found, err := tx.RoomByID(string(room))
	if err != nil || !found {
		return 0, false, err
	}
	m, found, err := tx.NextMembership(user, row.NID-1)
	return row.NID, found && m.Room == row.NID, err
}

// mayAddLifetime returns an error if a user has chosen lifetimes for too many rooms.
func mayAddLifetime(tx *storage.Tx, user ident.UserNID, room ident.RoomNID) error {
	rows, err := tx.MessageLifetimes(user, maxLifetimes)
	if err != nil || len(rows) < maxLifetimes {
		return err
	}
	for _, l := range rows {
		if l.Room == room {
			return nil
		}
	}
	return mxerr.InvalidParam("Lifetimes can be chosen for at most %d rooms: remove one of them, or choose one for all rooms", maxLifetimes)
}

func (s *Service) auditLifetime(ctx context.Context, tx *storage.Tx, kind string, user ident.UserNID, room id.RoomID, more ...any) error {
	name, err := tx.UserID(user)
	if err != nil {
		return err
	}
	attrs := []any{"user", name}
	if room != "" {
		attrs = append(attrs, "room", room)
	}
	return s.opts.Audit.Add(ctx, tx, kind, append(attrs, more...)...)
}

// requestDaily makes the requests to redact messages that have reached the lifetime that their users have chosen: one
// for each user, once a day. The write that makes a request also postpones the next one, so that each is made once.
func (s *Service) requestDaily(ctx context.Context) error {
	now := s.opts.Now()
	var due []ident.UserNID
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		due, err = tx.DueMessageLifetimes(now.UnixMilli(), now.Add(daily).UnixMilli(), maxDaily)
		return err
	})
	if err != nil || len(due) == 0 {
		return err
	}
	by, err := s.opts.Time(ctx)
	if err != nil {
		return err
	}
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		due, err := tx.DueMessageLifetimes(now.UnixMilli(), now.Add(daily).UnixMilli(), maxDaily)
		if err != nil {
			return err
		}
		for _, user := range due {
			if err := tx.AddOwnRedaction(&storage.OwnRedaction{User: user, Before: by.UnixMilli(), Daily: true}); err != nil {
				return err
			}
			if err := tx.PostponeMessageLifetimes(user, now.Add(daily).UnixMilli()); err != nil {
				return err
			}
		}
		return nil
	})
}
