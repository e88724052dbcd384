package feed

import (
	"context"
	"iter"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
)

// maxStalePresence bounds the users whose presence, most of it offline, a client gets in its first answer after a
// restart of the server.
const maxStalePresence = 500

// presenceNews returns the presence that is new to the client. When hundreds of users come online at once, everybody in
// their rooms is woken; so records are looked up one by one as they are written rather than collected.
func (b *builder) presenceNews(ctx context.Context) iter.Seq[presenceRecord] {
	var users []ident.UserNID
	switch stale := b.since.Epoch != b.epoch || b.since.Presence < b.presenceFloor(); {
	case b.initial:
		b.next.Presence, users = b.Service.presence.allNotable()
	case stale:
		b.next.Presence = b.Service.presence.newest()
		return b.everybody(ctx)
	default:
		b.next.Presence, users = b.Service.presence.since(b.since.Presence)
	}
	users = b.onlyWatched(ctx, users)
	for user, nid := range b.shared.come {
		r, known := b.Service.presence.of(nid)
		if known && r.notable() && b.watches(ctx, nid, user) && !slices.Contains(users, nid) {
			users = append(users, nid)
		}
	}
	return func(yield func(presenceRecord) bool) {
		for _, nid := range users {
			if r, known := b.Service.presence.of(nid); known && !yield(r) {
				return
			}
		}
	}
}

func (b *builder) presenceFloor() int64 {
	b.Service.presence.mu.Lock()
	defer b.Service.presence.mu.Unlock()
	return b.Service.presence.floor
}

// manyLooks is the number of lookups (users times rooms) up to which checking each room for each user is cheaper than
// collecting all members of the rooms.
const manyLooks = 4096

// onlyWatched returns the users whose presence the user may see.
func (b *builder) onlyWatched(ctx context.Context, users []ident.UserNID) []ident.UserNID {
	if len(users)*len(b.plan.all) <= manyLooks {
		return slices.DeleteFunc(users, func(nid ident.UserNID) bool { return !b.watches(ctx, nid, b.remoteUser(nid)) })
	}
	shown := map[ident.UserNID]bool{b.UserNID: true}
	b.anyRoom(ctx, func(room *rooms.Room) bool {
		if spreadsPresence(room) {
			for m := range room.EachLocal() {
				shown[m.NID] = true
			}
		}
		return false
	})
	return slices.DeleteFunc(users, func(nid ident.UserNID) bool {
		if shown[nid] {
			return false
		}
		user := b.remoteUser(nid)
		return user == "" || !b.watches(ctx, nid, user)
	})
}

// remoteUser returns the ID of the remote user nid if their presence is known, and "" otherwise.
func (b *builder) remoteUser(nid ident.UserNID) id.UserID {
	if r, known := b.Service.presence.of(nid); known && r.remote {
		return r.id
	}
	return ""
}

// watches reports whether the user of the request may see the presence of user nid. If that is a remote user, remote is
// their user ID.
func (b *builder) watches(ctx context.Context, nid ident.UserNID, remote id.UserID) bool {
	return nid == b.UserNID || b.anyRoom(ctx, func(room *rooms.Room) bool {
		return (room.HasLocal(nid) || remote != "" && room.Membership(remote) == rooms.Join) && spreadsPresence(room)
	})
}

// everybody returns the presence of all users whose presence the user may see, including those without a record. It
// returns at most maxStalePresence records, which are looked up one by one, as in presenceNews.
func (b *builder) everybody(ctx context.Context) iter.Seq[presenceRecord] {
	users := map[ident.UserNID]id.UserID{}
	b.anyRoom(ctx, func(room *rooms.Room) bool {
		if !spreadsPresence(room) {
			return false
		}
		for m := range room.EachLocal() {
			if len(users) == maxStalePresence {
				return true
			}
			users[m.NID] = m.User
		}
		return false
	})
	for _, r := range b.Service.presence.remoteNotable() {
		if len(users) < maxStalePresence && b.watches(ctx, r.nid, r.id) {
			users[r.nid] = r.id
		}
	}
	return func(yield func(presenceRecord) bool) {
		for nid, user := range users {
			r, _ := b.Service.presence.of(nid)
			r.id = user
			if !yield(r) {
				return
			}
		}
	}
}

// writePresence appends the presence section.
func (b *builder) writePresence(records iter.Seq[presenceRecord]) {
	f := &b.filter.Presence
	if !f.typ("m.presence") {
		return
	}
	b.section("presence", func() {
		n := 0
		for r := range records {
			if f.sender(string(r.id)) && !b.ignores(r.id) && (f.Limit < 0 || n < f.Limit) {
				b.out = r.appendEvent(b.list(), b.now)
				n++
			}
		}
	})
}
