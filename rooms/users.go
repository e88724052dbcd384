package rooms

import (
	"cmp"
	"context"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/keyed"
	"ebb/storage"
)

// maxCachedUsers bounds the cache of user numbers: 100,000 take about 15 MB. The number of a user never
// changes.
const maxCachedUsers = 100_000

// UserNID returns the number of a user, and allots one if the user has none.
func (s *Service) UserNID(ctx context.Context, user id.UserID) (ident.UserNID, error) {
	nid, known, err := s.LookupUser(ctx, user)
	if err != nil || known {
		return nid, err
	}
	err = s.db.Write(ctx, func(tx *storage.Tx) (err error) {
		nid, err = tx.UserNID(string(user))
		return err
	})
	if err == nil {
		s.users.Put(user, nid)
	}
	return nid, err
}

// LookupUser is like UserNID, but allots no number. It returns false if the user has none.
func (s *Service) LookupUser(ctx context.Context, user id.UserID) (nid ident.UserNID, known bool, err error) {
	return s.LookupUserIn(ctx, nil, user)
}

// LookupUserIn is like LookupUser, but reads through the transaction tx if the number is not in memory. If tx is nil,
// it begins a new transaction.
func (s *Service) LookupUserIn(ctx context.Context, tx *storage.Tx, user id.UserID) (nid ident.UserNID, known bool, err error) {
	if nid, known = s.users.Get(user); known {
		return nid, true, nil
	}
	if tx != nil {
		return tx.LookupUser(string(user))
	}
	err = s.db.ReadInner(ctx, func(tx *storage.Tx) (err error) {
		nid, known, err = tx.LookupUser(string(user))
		return err
	})
	if err == nil && known {
		s.users.Put(user, nid)
	}
	return nid, known, err
}

// RoomMembership is a user's membership in a room.
type RoomMembership struct {
	Room       ident.RoomNID
	Membership Membership
	Position   storage.Pos // of the member event
	Changed    storage.Pos // where it became current
	JoinedPos  storage.Pos // where the user joined without leaving since; 0: not joined
	Forgotten  bool
}

// maxCachedMemberships bounds the lists of users' rooms in memory, in bytes; a room takes 64.
const maxCachedMemberships = 20 << 20

// membershipCache caches the rooms of local users. Each list is sorted by room and never modified.
type membershipCache struct {
	lists *keyed.Memo[ident.UserNID, []RoomMembership]
}

func (c *membershipCache) init(bytes int64) {
	c.lists = keyed.NewMemo(keyed.Options[ident.UserNID, []RoomMembership]{Bytes: bytes, Size: func(_ ident.UserNID, list []RoomMembership) int64 { return int64(100 + 64*len(list)) }})
}

// Memberships returns the rooms of a local user sorted by room, including those left and forgotten. The slice is
// shared; callers must not modify it.
func (s *Service) Memberships(ctx context.Context, user ident.UserNID) ([]RoomMembership, error) {
	return s.own.lists.Get(ctx, user, func(ctx context.Context) (list []RoomMembership, err error) {
		err = s.db.ReadInner(ctx, func(tx *storage.Tx) error {
			rows, err := tx.UserMemberships(user)
			list = make([]RoomMembership, len(rows))
			for i, m := range rows {
				list[i] = RoomMembership{Room: m.Room, Membership: m.Membership, Position: m.Position, Changed: max(m.Position, m.Changed), JoinedPos: m.JoinedPos, Forgotten: m.Forgotten}
			}
			return err
		})
		return list, err
	})
}

// JoinedSince returns the position since which a local user has been joined to a room without a break, or 0 if they are
// not joined. If this is not in memory, it is read through tx, or in a new transaction if tx is nil.
func (s *Service) JoinedSince(ctx context.Context, tx *storage.Tx, user ident.UserNID, room ident.RoomNID) (storage.Pos, error) {
	if tx == nil {
		list, err := s.Memberships(ctx, user)
		return joinedPosIn(list, room), err
	}
	if list, ok := s.own.lists.Peek(user); ok {
		return joinedPosIn(list, room), nil
	}
	rows, err := tx.UserMemberships(user)
	for _, m := range rows {
		if m.Room == room {
			return m.JoinedPos, err
		}
	}
	return 0, err
}

func joinedPosIn(list []RoomMembership, room ident.RoomNID) storage.Pos {
	i, found := slices.BinarySearchFunc(list, room, func(m RoomMembership, room ident.RoomNID) int { return cmp.Compare(m.Room, room) })
	if !found {
		return 0
	}
	return list[i].JoinedPos
}

// JoinedRooms returns the IDs of the rooms that a local user is joined to.
// Spec: client-server-api#get_matrixclientv3joined_rooms
func (s *Service) JoinedRooms(ctx context.Context, user ident.UserNID) (joined []string, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		joined, err = tx.JoinedRooms(user)
		return err
	})
	return joined, err
}

// update changes the entry of one room in a user's list. It is called once the change is committed.
func (c *membershipCache) update(user ident.UserNID, room ident.RoomNID, change func(*RoomMembership)) {
	c.lists.Update(user, func(list []RoomMembership) []RoomMembership {
		list = slices.Clone(list)
		i, found := slices.BinarySearchFunc(list, room, func(m RoomMembership, room ident.RoomNID) int { return cmp.Compare(m.Room, room) })
		if !found {
			list = slices.Insert(list, i, RoomMembership{Room: room})
		}
		change(&list[i])
		return list
	})
}

// remove removes a room from a user's list.
func (c *membershipCache) remove(user ident.UserNID, room ident.RoomNID) {
	c.lists.Update(user, func(list []RoomMembership) []RoomMembership {
		return slices.DeleteFunc(slices.Clone(list), func(m RoomMembership) bool { return m.Room == room })
	})
}

// committed is the Listener that keeps the cached lists up to date.
func (c *membershipCache) committed(commit *Commit) {
	for _, m := range commit.Members {
		if m.Local {
			c.update(m.NID, commit.Room.nid, m.update)
		}
	}
	for _, user := range commit.Forgotten {
		if commit.Removed {
			c.remove(user, commit.Room.nid)
			continue
		}
		c.update(user, commit.Room.nid, func(m *RoomMembership) { m.Forgotten = m.Membership == Leave || m.Membership == Ban })
	}
}

// update applies the change of a membership to the entry of the room in the user's list.
func (m *CommittedMember) update(own *RoomMembership) {
	switch {
	case m.To != Join:
		own.JoinedPos = 0
	case own.Membership != Join:
		own.JoinedPos = m.Changed
	}
	own.Membership, own.Changed, own.Position, own.Forgotten = m.To, m.Changed, m.Pos, false
}
