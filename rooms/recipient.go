package rooms

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/storage"
)

// typeIgnoredUsers is the account data that lists whom a user ignores.
const typeIgnoredUsers = "m.ignored_user_list"

// joinedSince is the position since which a local user has been joined without a break, 0 for one who is not joined. With
// a tx it never reads outside it.
func (s *Service) joinedSince(ctx context.Context, tx *storage.Tx, user, room int64) (storage.Pos, error) {
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
	i, found := slices.BinarySearchFunc(list, room, func(m RoomMembership, room int64) int { return cmpInt(m.Room, room) })
	if !found {
		return 0
	}
	return list[i].JoinedPos
}

// ignoreCache keeps whom local users ignore.
type ignoreCache struct {
	mu      sync.Mutex // guards the rest; a leaf lock
	changes int        // grows with every change: a list that was read before the newest one is not kept
	users   map[int64]map[id.UserID]struct{}
}

// maxCachedIgnores bounds the users in an ignoreCache; most lists are empty.
const maxCachedIgnores = 20_000

func (c *ignoreCache) get(user int64) (list map[id.UserID]struct{}, changes int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list, ok = c.users[user]
	return list, c.changes, ok
}

func (c *ignoreCache) put(user int64, list map[id.UserID]struct{}, changes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes != changes {
		return
	}
	if len(c.users) >= maxCachedIgnores {
		clear(c.users)
	}
	c.users[user] = list
}

// forget is called when a user's list has changed, before anybody is told.
func (c *ignoreCache) forget(user int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	delete(c.users, user)
}

// ignored lists whom a local user ignores. With a tx it never reads outside it.
func (s *Service) ignored(ctx context.Context, tx *storage.Tx, user int64) (map[id.UserID]struct{}, error) {
	list, changes, ok := s.reader.ignores.get(user)
	if ok {
		return list, nil
	}
	read := func(tx *storage.Tx) (err error) {
		list, err = readIgnored(tx, user)
		return err
	}
	if tx != nil { // its snapshot may be older than the newest change: not kept
		err := read(tx)
		return list, err
	}
	if err := s.db.Read(ctx, read); err != nil {
		return nil, err
	}
	s.reader.ignores.put(user, list, changes)
	return list, nil
}

// readIgnored reads whom a user ignores. Nobody ignores themselves, whatever the list says: they would not see what they write.
func readIgnored(tx *storage.Tx, user int64) (map[id.UserID]struct{}, error) {
	content, found, err := tx.AccountData(user, 0, typeIgnoredUsers)
	if err != nil || !found {
		return nil, err
	}
	self, err := tx.UserID(user)
	list := parseIgnored(json.RawMessage(content))
	delete(list, id.UserID(self))
	return list, err
}

// parseIgnored reads the content of m.ignored_user_list; what is malformed ignores nobody.
func parseIgnored(content json.RawMessage) map[id.UserID]struct{} {
	list, ok := canonjson.Get(content, "ignored_users")
	if !ok {
		return nil
	}
	out := map[id.UserID]struct{}{}
	if canonjson.Each(list, func(user string, _ []byte) error {
		out[id.UserID(strings.Clone(user))] = struct{}{}
		return nil
	}) != nil {
		return nil
	}
	return out
}

// erasures knows who asked for erasure, and since when it holds.
type erasures struct {
	mu    sync.RWMutex // guards users; a leaf lock
	users map[int64]storage.Pos
}

func (e *erasures) load(ctx context.Context, db *storage.DB) error {
	return db.Read(ctx, func(tx *storage.Tx) error {
		list, err := tx.ErasedUsers()
		for _, u := range list {
			e.users[u.User] = u.Position
		}
		return err
	})
}

// erasedAt is the position of a user's request for erasure; false where there was none.
func (s *Service) erasedAt(user int64) (storage.Pos, bool) {
	e := &s.reader.erased
	e.mu.RLock()
	defer e.mu.RUnlock()
	p, ok := e.users[user]
	return p, ok
}

// Erase makes a user's events redacted copies for everybody who joins their rooms from now on. No redactions are sent.
// Spec: client-server-api#post_matrixclientv3accountdeactivate erase
func (s *Service) Erase(ctx context.Context, user int64) error {
	var at storage.Pos
	return s.db.Enqueue(storage.Write{
		Do: func(tx *storage.Tx) error {
			at = tx.NextPos()
			return tx.EraseUser(user, at)
		},
		Committed: func() {
			e := &s.reader.erased
			e.mu.Lock()
			defer e.mu.Unlock()
			if _, done := e.users[user]; !done {
				e.users[user] = at
			}
		},
	}).Wait(ctx)
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
