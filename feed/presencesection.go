package feed

import (
	"context"
	"iter"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
)

// maxStalePresence bounds the people of whom a client that comes back after a restart of the server is told that they
// are not here, as far as the server knows.
const maxStalePresence = 500

// presenceNews is the presence that is new to the client. Where hundreds come online at once everybody in their rooms
// is woken, so the records are not gathered, but looked up one by one when they are written.
func (b *builder) presenceNews(ctx context.Context) iter.Seq[presenceRecord] {
	var users []ident.UserNID
	switch stale := b.since.Epoch != b.epoch || b.since.Presence < b.presenceFloor(); {
	case b.initial:
		b.next.Presence, users = b.Service.presence.here()
	case stale:
		b.next.Presence = b.Service.presence.newest()
		return slices.Values(b.everybody(ctx))
	default:
		b.next.Presence, users = b.Service.presence.since(b.since.Presence)
	}
	users = b.onlyWatched(ctx, users)
	for user, nid := range b.shared.come {
		r, known := b.Service.presence.of(nid)
		if known && r.telling() && b.watches(ctx, nid, user) && !slices.Contains(users, nid) {
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

// manyLooks is up to how many looks into rooms it is cheaper to ask each room for each user than to gather everybody in
// them.
const manyLooks = 4096

// onlyWatched keeps the people whom the user is shown.
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

// remoteUser is the id of a user of another server whose presence is known, "" for others.
func (b *builder) remoteUser(nid ident.UserNID) id.UserID {
	if r, known := b.Service.presence.of(nid); known && r.remote {
		return r.id
	}
	return ""
}

// watches tells whether the user is shown another one's presence; remote names one of another server.
func (b *builder) watches(ctx context.Context, nid ident.UserNID, remote id.UserID) bool {
	return nid == b.UserNID || b.anyRoom(ctx, func(room *rooms.Room) bool {
		return (room.HasLocal(nid) || remote != "" && room.Membership(remote) == rooms.Join) && spreadsPresence(room)
	})
}

// everybody gives the presence of everyone whom the user is shown, also of those of whom nothing is known.
func (b *builder) everybody(ctx context.Context) []presenceRecord {
	seen := map[ident.UserNID]bool{}
	var records []presenceRecord
	b.anyRoom(ctx, func(room *rooms.Room) bool {
		if !spreadsPresence(room) {
			return false
		}
		for m := range room.EachLocal() {
			if seen[m.NID] || len(records) >= maxStalePresence {
				continue
			}
			seen[m.NID] = true
			r, _ := b.Service.presence.of(m.NID)
			r.id = m.User
			records = append(records, r)
		}
		return false
	})
	for _, r := range b.Service.presence.remoteHere() {
		if len(records) < maxStalePresence && b.watches(ctx, r.nid, r.id) {
			records = append(records, r)
		}
	}
	return records
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
