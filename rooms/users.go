package rooms

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"maunium.net/go/mautrix/id"

	"ebb/storage"
)

// maxCachedUsers bounds the memory of short names: 100,000 take about 15 MB.
const maxCachedUsers = 100_000

// userCache knows users' short names.
type userCache struct {
	mu   sync.RWMutex // guards nids; a leaf lock
	nids map[id.UserID]int64
}

func (c *userCache) init() { c.nids = map[id.UserID]int64{} }

func (c *userCache) get(user id.UserID) (int64, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	nid, ok := c.nids[user]
	return nid, ok
}

func (c *userCache) put(user id.UserID, nid int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.nids) >= maxCachedUsers {
		clear(c.nids)
	}
	c.nids[user] = nid
}

// UserNID is a user's short name; a user whom nothing has named yet gets one.
func (s *Service) UserNID(ctx context.Context, user id.UserID) (int64, error) {
	nid, known, err := s.LookupUser(ctx, user)
	if err != nil || known {
		return nid, err
	}
	err = s.db.Write(ctx, func(tx *storage.Tx) (err error) {
		nid, err = tx.UserNID(string(user))
		return err
	})
	if err == nil {
		s.users.put(user, nid)
	}
	return nid, err
}

// LookupUser returns a user's short name without making one.
func (s *Service) LookupUser(ctx context.Context, user id.UserID) (nid int64, known bool, err error) {
	return s.LookupUserIn(ctx, nil, user)
}

// LookupUserIn is LookupUser for callers with a read transaction: what memory lacks is read through tx, or if that is nil in a
// read of its own.
func (s *Service) LookupUserIn(ctx context.Context, tx *storage.Tx, user id.UserID) (nid int64, known bool, err error) {
	if nid, known = s.users.get(user); known {
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
		s.users.put(user, nid)
	}
	return nid, known, err
}

// RoomMembership is one room of a user.
type RoomMembership struct {
	Room       int64
	Membership Membership
	Position   storage.Pos // the member event
	Changed    storage.Pos // since when it is so
	JoinedPos  storage.Pos // since when the user is joined without a break; 0: not joined
	Forgotten  bool
}

// maxCachedMemberships bounds how many users' rooms are kept in memory.
const maxCachedMemberships = 20_000

// membershipCache keeps the rooms of local users, each list sorted by room and never written to again.
type membershipCache struct {
	mu    sync.Mutex // guards users and their entries; a leaf lock
	users map[int64]*userRooms
}

type userRooms struct {
	loaded bool
	// seen counts the changes that were committed while the list was being loaded: such a list is loaded again.
	seen int
	list []RoomMembership
}

func (c *membershipCache) init() { c.users = map[int64]*userRooms{} }

// Memberships lists the rooms of a user of this server by room, also those left and forgotten. It is shared: callers do
// not change it.
func (s *Service) Memberships(ctx context.Context, user int64) ([]RoomMembership, error) {
	for {
		list, u, seen, ok := s.own.begin(user)
		if ok {
			return list, nil
		}
		var rows []storage.MemberRow
		err := s.db.ReadInner(ctx, func(tx *storage.Tx) (err error) {
			rows, err = tx.UserMemberships(user)
			return err
		})
		if err != nil {
			return nil, err
		}
		list = make([]RoomMembership, len(rows))
		for i, m := range rows {
			list[i] = RoomMembership{Room: m.Room, Membership: m.Membership, Position: m.Position, Changed: max(m.Position, m.Changed), JoinedPos: m.JoinedPos, Forgotten: m.Forgotten}
		}
		if s.own.finish(user, u, seen, list) {
			return list, nil
		}
	}
}

// JoinedSince returns the position since which a local user has been joined to a room without a break, 0 if they are not joined.
// What memory lacks is read through tx, or if that is nil in a read of its own.
func (s *Service) JoinedSince(ctx context.Context, tx *storage.Tx, user, room int64) (storage.Pos, error) {
	if tx == nil {
		list, err := s.Memberships(ctx, user)
		return joinedPosIn(list, room), err
	}
	if list, _, _, ok := s.own.begin(user); ok {
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

func joinedPosIn(list []RoomMembership, room int64) storage.Pos {
	i, found := slices.BinarySearchFunc(list, room, func(m RoomMembership, room int64) int { return cmp.Compare(m.Room, room) })
	if !found {
		return 0
	}
	return list[i].JoinedPos
}

// JoinedRooms lists the rooms that a local user is joined to.
// Spec: client-server-api#get_matrixclientv3joined_rooms
func (s *Service) JoinedRooms(ctx context.Context, user int64) (joined []string, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		joined, err = tx.JoinedRooms(user)
		return err
	})
	return joined, err
}

// begin gives the list, or starts to load it.
func (c *membershipCache) begin(user int64) (list []RoomMembership, u *userRooms, seen int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u = c.users[user]
	if u == nil {
		if len(c.users) >= maxCachedMemberships {
			for nid := range c.users {
				delete(c.users, nid)
				break
			}
		}
		u = &userRooms{}
		c.users[user] = u
	}
	return u.list, u, u.seen, u.loaded
}

// finish puts a loaded list in, unless something was committed meanwhile.
func (c *membershipCache) finish(user int64, u *userRooms, seen int, list []RoomMembership) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users[user] != u || u.seen != seen {
		return false
	}
	u.loaded, u.list = true, list
	return true
}

// update changes one room of a user; it is called once the change is committed.
func (c *membershipCache) update(user, room int64, change func(*RoomMembership)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.users[user]
	if u == nil {
		return
	}
	u.seen++
	if !u.loaded {
		return
	}
	u.list = slices.Clone(u.list)
	i, found := slices.BinarySearchFunc(u.list, room, func(m RoomMembership, room int64) int { return int(min(1, max(-1, m.Room-room))) })
	if !found {
		u.list = slices.Insert(u.list, i, RoomMembership{Room: room})
	}
	change(&u.list[i])
}

// committed is the Listener that keeps the lists up to date.
func (c *membershipCache) committed(commit *Commit) {
	for _, m := range commit.Members {
		if m.Local {
			c.update(m.NID, commit.Room.nid, m.update)
		}
	}
	for _, user := range commit.Forgotten {
		c.update(user, commit.Room.nid, func(m *RoomMembership) { m.Forgotten = m.Membership == Leave || m.Membership == Ban })
	}
}

// update makes the change in the user's list of rooms.
func (m *CommittedMember) update(own *RoomMembership) {
	switch {
	case m.To != Join:
		own.JoinedPos = 0
	case own.Membership != Join:
		own.JoinedPos = m.Changed
	}
	own.Membership, own.Changed, own.Position, own.Forgotten = m.To, m.Changed, m.Pos, false
}
