package appservice

import (
	"context"
	"slices"

	"ebb/history"
	"ebb/ident"
	"ebb/keyed"
	"ebb/rooms"
	"ebb/storage"
)

// maxInterests bounds the rooms for which it is cached whether they concern an application service.
const maxInterests = 50_000

// interest caches which rooms concern an application service. Commits update it.
type interest struct {
	rooms *keyed.Map[ident.RoomNID, bool]
	// aliased holds the rooms that have a local alias in the namespaces. The map is replaced but never changed.
	aliased map[ident.RoomNID]bool
}

func newInterest() *interest {
	return &interest{rooms: keyed.NewMap[ident.RoomNID, bool](maxInterests)}
}

// concerns reports whether all events of a room concern an application service. They do if the room's ID or one of its
// aliases is in the namespaces, or if one of the application service's users is joined.
func (a *app) concerns(known *interest, room *rooms.Room) bool {
	if yes, ok := known.rooms.Get(room.NID()); ok {
		return yes
	}
	yes := a.examine(known.aliased, room)
	known.rooms.Put(room.NID(), yes)
	return yes
}

// concernsNow is like concerns, for callers outside the committer. It adds nothing to the cache, because its result may
// be out of date by then.
func (a *app) concernsNow(known *interest, room *rooms.Room) bool {
	if yes, ok := known.rooms.Get(room.NID()); ok {
		return yes
	}
	return a.examine(known.aliased, room)
}

// examine is like concerns without the cache.
func (a *app) examine(aliased map[ident.RoomNID]bool, room *rooms.Room) bool {
	if aliased[room.NID()] || matches(a.Rooms, string(room.ID())) {
		return true
	}
	for m := range room.EachLocal() {
		if a.owns(m.User) {
			return true
		}
	}
	return false
}

// observe updates the cache after a commit.
func (a *app) observe(known *interest, c *rooms.Commit) {
	if c.Room == nil {
		return
	}
	if c.Entered || c.Rejudged || c.Completed != 0 || c.Aliases {
		known.rooms.Forget(c.Room.NID())
	}
	for i := range c.Members {
		switch m := &c.Members[i]; {
		case !m.Local || !m.Joined() && !m.Left() || !a.owns(m.User):
		case m.Joined():
			known.rooms.Put(c.Room.NID(), true)
		default:
			known.rooms.Forget(c.Room.NID())
		}
	}
}

// concernsEvent reports whether an event concerns an application service. It must be called after observe.
func (a *app) concernsEvent(known *interest, room *rooms.Room, e *rooms.Event) bool {
	if key, isState := e.StateKey(); isState && e.Type() == typeMember && a.ownsID(key) {
		return true // even if this user is the last one to leave, or the first one to be invited
	}
	return room != nil && a.concerns(known, room)
}

const typeMember = "m.room.member"

// aliasPage is the number of aliases that are read at a time.
const aliasPage = 1000

// readAliases finds the rooms with a local alias in the namespaces.
func (s *Service) readAliases(ctx context.Context, a *app) (map[ident.RoomNID]bool, error) {
	found := map[ident.RoomNID]bool{}
	if len(a.Aliases) == 0 {
		return found, nil
	}
	for after, more := "", true; more; {
		err := s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
			list, err := tx.Aliases(after, aliasPage)
			for _, one := range list {
				if after = one.Alias; matches(a.Aliases, one.Alias) {
					found[one.Room] = true
				}
			}
			more = len(list) == aliasPage
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// scanBatch is the number of events that are read at a time to find those that concern an application service.
const scanBatch = 500

// scan examines the next scanBatch events in (after, upTo] and returns those that concern an application service, and
// the position up to which it looked. A user of the application service makes an event concern it only if the user was
// joined when the event arrived.
func (s *Service) scan(ctx context.Context, a *app, known *interest, after, upTo storage.Pos) (found []history.Placed, done storage.Pos, err error) {
	var rows []storage.Arrival
	var stays []storage.LocalMemberSince
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if rows, err = tx.Arrivals(after, upTo, scanBatch); err != nil || len(rows) == 0 {
			return err
		}
		stays, err = tx.LocalMembersSince(roomsOf(rows), after)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	ids, err := s.roomIDs(ctx, a, rows)
	if err != nil {
		return nil, 0, err
	}
	own := map[ident.RoomNID][]storage.LocalMemberSince{}
	for _, stay := range stays {
		if a.ownsID(stay.User) {
			own[stay.Room] = append(own[stay.Room], stay)
		}
	}
	for _, row := range rows {
		about := row.Type == typeMember && a.ownsID(row.StateKey)
		if about || !row.Outside && (known.aliased[row.Room] || ids[row.Room] || covers(own[row.Room], row.Position)) {
			found = append(found, history.Placed{Pos: row.Position, Room: row.Room})
		}
	}
	if done = upTo; len(rows) == scanBatch {
		done = rows[len(rows)-1].Position
	}
	return found, done, nil
}

// covers reports whether one of the users was joined to the room at the given position. For users who have left, only
// the end of their stay is known, so it assumes that they were joined at all times before.
func covers(stays []storage.LocalMemberSince, pos storage.Pos) bool {
	return slices.ContainsFunc(stays, func(s storage.LocalMemberSince) bool {
		return s.Membership == rooms.Join && s.JoinedPos <= pos || s.Membership != rooms.Join && s.Position >= pos
	})
}

func roomsOf(rows []storage.Arrival) (out []ident.RoomNID) {
	seen := map[ident.RoomNID]bool{}
	for _, row := range rows {
		if !seen[row.Room] {
			seen[row.Room] = true
			out = append(out, row.Room)
		}
	}
	return out
}

// roomIDs returns the rooms of the given events, and whether the ID of each is in the namespaces.
func (s *Service) roomIDs(ctx context.Context, a *app, rows []storage.Arrival) (map[ident.RoomNID]bool, error) {
	if len(a.Rooms) == 0 {
		return nil, nil
	}
	list, err := s.opts.Rooms.RoomsByNID(ctx, roomsOf(rows))
	found := map[ident.RoomNID]bool{}
	for _, room := range list {
		found[room.NID()] = matches(a.Rooms, string(room.ID()))
	}
	return found, err
}
