package feed

import (
	"context"
	"encoding/json"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

const (
	// maxSlidingUsers bounds the users whose account data and rooms are remembered for sliding sync.
	maxSlidingUsers = 5000
	// For at most maxRemovals rooms that the user is not in any more, it is looked up whether the user left or was
	// removed. Those that the user left last come first. maxRemovalSteps bounds the member events that are read for one
	// room.
	maxRemovals     = 1000
	maxRemovalSteps = 8
)

// slidingUser caches, for one user, facts about the user's rooms and account data that sliding sync needs and that are
// not in memory elsewhere. It is shared and must not be modified.
type slidingUser struct {
	direct  map[id.RoomID]struct{} // rooms in m.direct
	tags    map[ident.RoomNID][]string
	outside map[ident.RoomNID]roomFacts // invites and knocks of rooms that this server is not in
	removed map[ident.RoomNID]bool      // the user was in the room and was kicked or banned
}

// slidingUser returns the slidingUser of the given user, from the cache if it is there.
func (s *Service) slidingUser(ctx context.Context, user ident.UserNID) (*slidingUser, error) {
	return s.sliding.users.Get(ctx, user, func(ctx context.Context) (u *slidingUser, err error) {
		err = s.opts.DB.ReadInner(ctx, func(tx *storage.Tx) error {
			u, err = readSlidingUser(tx, user)
			return err
		})
		return u, err
	})
}

// forgetSlidingUsers is called for each commit. It drops the users whose slidingUser the commit may have changed.
func (s *Service) forgetSlidingUsers(c *rooms.Commit) {
	for i := range c.Members {
		if c.Members[i].Local {
			s.sliding.users.Forget(c.Members[i].NID)
		}
	}
	for _, d := range c.AccountData {
		if d.Type == "m.direct" || d.Type == "m.tag" {
			s.sliding.users.Forget(d.User)
		}
	}
}

func readSlidingUser(tx *storage.Tx, user ident.UserNID) (*slidingUser, error) {
	u := &slidingUser{direct: map[id.RoomID]struct{}{}, tags: map[ident.RoomNID][]string{}, outside: map[ident.RoomNID]roomFacts{}}
	direct, _, err := tx.AccountData(user, 0, "m.direct")
	if err != nil {
		return nil, err
	}
	u.readDirect([]byte(direct))
	tags, err := tx.AccountDataOfType(user, "m.tag")
	if err != nil {
		return nil, err
	}
	for _, d := range tags {
		if list, ok := canonjson.Get([]byte(d.Content), "tags"); ok {
			_ = canonjson.Each(list, func(tag string, _ []byte) error {
				u.tags[d.Room] = append(u.tags[d.Room], tag)
				return nil
			})
		}
	}
	stripped, err := tx.StrippedStates(user)
	if err != nil {
		return nil, err
	}
	for room, text := range stripped {
		u.outside[room] = factsOfStripped([]byte(text))
	}
	u.removed, err = removals(tx, user)
	return u, err
}

// readDirect reads m.direct, in which clients may store anything.
func (u *slidingUser) readDirect(content []byte) {
	_ = canonjson.Each(content, func(_ string, list []byte) error {
		var rooms []id.RoomID
		if json.Unmarshal(list, &rooms) == nil {
			for _, room := range rooms {
				u.direct[room] = struct{}{}
			}
		}
		return nil
	})
}

// factsOfStripped returns what stripped state says about a room.
func factsOfStripped(text []byte) (f roomFacts) {
	var events []struct {
		Type    string          `json:"type"`
		Content json.RawMessage `json:"content"`
	}
	if json.Unmarshal(text, &events) != nil {
		return f
	}
	for _, e := range events {
		f.known = true
		switch e.Type {
		case "m.room.create":
			f.roomType = roomTypeOf(e.Content)
		case "m.room.encryption":
			f.encrypted = true
		}
	}
	return f
}

// removals finds the rooms that a user was in until they were kicked or banned. It follows the user's member events
// backwards, one step in all rooms with each query.
func removals(tx *storage.Tx, user ident.UserNID) (map[ident.RoomNID]bool, error) {
	memberships, err := tx.UserMemberships(user)
	if err != nil {
		return nil, err
	}
	memberships = slices.DeleteFunc(memberships, func(m storage.MemberRow) bool {
		return m.Forgotten || m.Membership != rooms.Leave && m.Membership != rooms.Ban
	})
	if len(memberships) == 0 {
		return nil, nil
	}
	slices.SortFunc(memberships, func(a, b storage.MemberRow) int { return int(b.Position - a.Position) })
	self, err := tx.UserID(user)
	if err != nil {
		return nil, err
	}
	removed := map[ident.RoomNID]bool{}
	var positions []storage.Pos
	for _, m := range memberships[:min(len(memberships), maxRemovals)] {
		positions = append(positions, m.Position)
	}
	for step := 0; step < maxRemovalSteps && len(positions) > 0; step++ {
		events, err := tx.EventsAt(positions)
		if err != nil {
			return nil, err
		}
		var before []storage.StateKey
		for i := range events {
			e := &events[i]
			if step == 0 && e.Sender == user {
				continue // the user left
			}
			if membershipOf(e.JSON) == rooms.Join {
				removed[e.Room] = true
				continue
			}
			before = append(before, storage.StateKey{Snapshot: e.Snapshot, Type: memberType, Key: self})
		}
		found, err := tx.StateKeysOf(before)
		if err != nil {
			return nil, err
		}
		positions = positions[:0]
		for _, pos := range found {
			positions = append(positions, pos)
		}
	}
	return removed, nil
}

// membershipOf returns the membership in the content of a member event.
func membershipOf(event []byte) rooms.Membership {
	content, _ := canonjson.Get(event, "content")
	raw, _ := canonjson.Get(content, "membership")
	text, _ := canonjson.Unquote(raw)
	return text
}
