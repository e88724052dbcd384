package rooms

import (
	"context"
	"encoding/json"
	"strings"
	"sync"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/storage"
)

// typeIgnoredUsers is the account data that lists whom a user ignores.
const typeIgnoredUsers = "m.ignored_user_list"

// ignoreCache keeps whom local users ignore.
type ignoreCache struct {
	mu      sync.Mutex // guards the rest; a leaf lock
	changes int        // grows with every change: a list that was read before the newest one is not kept
	users   map[int64]map[id.UserID]struct{}
}

// maxCachedIgnores bounds the users in an ignoreCache; most lists are empty.
const maxCachedIgnores = 20_000

func (c *ignoreCache) init() { c.users = map[int64]map[id.UserID]struct{}{} }

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

// committed is the Listener that forgets the lists that have changed.
func (c *ignoreCache) committed(commit *Commit) {
	for _, a := range commit.AccountData {
		if a.Type == typeIgnoredUsers {
			c.forget(a.User)
		}
	}
}

func (c *ignoreCache) forget(user int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	delete(c.users, user)
}

// Ignores returns the users whom a local user ignores; the caller must not change it. What memory lacks is read through tx, or if
// that is nil in a read of its own.
func (s *Service) Ignores(ctx context.Context, tx *storage.Tx, user int64) (map[id.UserID]struct{}, error) {
	list, changes, ok := s.ignores.get(user)
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
	s.ignores.put(user, list, changes)
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
