package accountdata

import (
	"context"
	"encoding/json"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/keyed"
	"ebb/rooms"
	"ebb/storage"
)

// typeIgnoredUsers is the type of the account data that lists the users whom a user ignores.
const typeIgnoredUsers = "m.ignored_user_list"

// maxCachedIgnores bounds an ignoreCache, in bytes. Most lists are empty.
const maxCachedIgnores = 8 << 20

// ignoreCache caches, for each local user, the list of users whom that user ignores.
type ignoreCache struct {
	lists *keyed.Memo[ident.UserNID, map[id.UserID]struct{}]
}

func (c *ignoreCache) init(bytes int64) {
	c.lists = keyed.NewMemo(keyed.Options[ident.UserNID, map[id.UserID]struct{}]{Bytes: bytes, Size: sizeOfIgnores})
}

// sizeOfIgnores estimates the memory that a list takes.
func sizeOfIgnores(_ ident.UserNID, list map[id.UserID]struct{}) int64 {
	size := 100
	for user := range list {
		size += 48 + len(user)
	}
	return int64(size)
}

// committed is a rooms.Listener. It removes the lists that a commit has changed from the cache.
func (c *ignoreCache) committed(commit *rooms.Commit) {
	for _, a := range commit.AccountData {
		if a.Type == typeIgnoredUsers {
			c.lists.Forget(a.User)
		}
	}
}

// Ignores returns the users whom the given local user ignores. Callers must not modify the map. A list that is not in
// the cache is read through tx, or in a new transaction if tx is nil.
func (s *Service) Ignores(ctx context.Context, tx *storage.Tx, user ident.UserNID) (map[id.UserID]struct{}, error) {
	if tx != nil { // its snapshot may be older than the newest change, so the result is not cached
		if list, ok := s.ignored.lists.Peek(user); ok {
			return list, nil
		}
		return s.readIgnored(tx, user)
	}
	return s.ignored.lists.Get(ctx, user, func(ctx context.Context) (list map[id.UserID]struct{}, err error) {
		err = s.db.ReadInner(ctx, func(tx *storage.Tx) (err error) {
			list, err = s.readIgnored(tx, user)
			return err
		})
		return list, err
	})
}

// readIgnored reads the list of users whom the given user ignores. It leaves out the given user, who would otherwise
// not see their own messages, and the sender of server notices, since whoever has taken over an account could hide the
// alerts about that.
func (s *Service) readIgnored(tx *storage.Tx, user ident.UserNID) (map[id.UserID]struct{}, error) {
	content, found, err := tx.AccountData(user, 0, typeIgnoredUsers)
	if err != nil || !found {
		return nil, err
	}
	self, err := tx.UserID(user)
	list := parseIgnored(json.RawMessage(content))
	delete(list, id.UserID(self))
	delete(list, s.notices)
	return list, err
}

// parseIgnored returns the users in the given content of m.ignored_user_list, or nil if the content is malformed.
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
