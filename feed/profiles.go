package feed

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
	"ebb/wake"
)

// Changes of profile fields (MSC4429, MSC4262). Only those of local users are known: other servers do not send theirs.

const (
	// maxProfileChanges bounds the changes that are read for all users together. If there are more since a
	// token, those of the users who share a room with the user are read instead.
	maxProfileChanges = 500
	// maxProfileBytes bounds the profile fields of one response. What exceeds it is left out: clients can ask for it.
	maxProfileBytes = 4 << 20
)

// profileWatch records whether profile fields have changed, and which users wait for such changes.
type profileWatch struct {
	// mu guards the rest; a leaf lock, before Hub.mu.
	mu     sync.Mutex
	newest storage.Pos           // no field changed after it
	users  map[ident.UserNID]int // waiting requests by user
}

func newProfileWatch(newest storage.Pos) *profileWatch {
	return &profileWatch{newest: newest, users: map[ident.UserNID]int{}}
}

// watch registers a request that waits for changes, until the returned function is called.
func (w *profileWatch) watch(user ident.UserNID) (done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.users[user]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.users[user]--; w.users[user] == 0 {
			delete(w.users, user)
		}
	}
}

// changed records that profile fields have changed, and wakes all users who wait for such changes. Some of them share
// no room with the users whose profiles changed, and find nothing new; it would cost more to find out who shares a
// room.
func (w *profileWatch) changed(list []rooms.CommittedProfile, hub *wake.Hub) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range list {
		w.newest = max(w.newest, p.Pos)
	}
	for user := range w.users {
		hub.Nudge(user)
	}
}

// changedSince reports whether a field may have changed after a position.
func (w *profileWatch) changedSince(pos storage.Pos) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.newest > pos
}

// profilesChanged reports whether the client wants profile fields and some may have changed since its token.
func (b *builder) profilesChanged() bool {
	return b.filter.Profiles.Fields != nil && b.Service.profiles.changedSince(b.since.Pos)
}

// profileChanges returns the profile fields of local users that changed in (since, upTo]. It selects the fields named
// in fields, or all if fields is nil, and the users for whom shown returns true. If there are many changes, it calls
// the function everybody instead, which must return exactly the users for whom shown returns true, and reads only their
// changes.
func profileChanges(
	tx *storage.Tx, since, upTo storage.Pos, fields []string, shown func(ident.UserNID) bool, everybody func() []ident.UserNID,
) ([]storage.ProfileChange, error) {
	list, err := tx.ProfileChanges(since, upTo, maxProfileChanges+1)
	if err == nil && len(list) > maxProfileChanges {
		shown = func(ident.UserNID) bool { return true }
		list, err = tx.ProfileChangesOf(everybody(), since, upTo)
	}
	return slices.DeleteFunc(list, func(c storage.ProfileChange) bool {
		return fields != nil && !slices.Contains(fields, c.Name) || !shown(c.User)
	}), err
}

// profileNews appends the profile fields that are new to the client: the changed fields of users who share a room with
// the user, all fields of users whom the client has not seen yet, and null for users who no longer share a room.
// Spec: MSC4429
func (b *builder) profileNews(ctx context.Context) error {
	fields := b.filter.Profiles.Fields
	if fields == nil {
		return nil
	}
	var changes []storage.ProfileChange
	err := b.read(ctx, func(tx *storage.Tx) (err error) {
		if !b.initial && b.profilesChanged() {
			shown := func(user ident.UserNID) bool { return b.sharesWith(ctx, user) }
			changes, err = profileChanges(tx, b.since.Pos, b.upTo, fields, shown, func() []ident.UserNID { return b.sharing(ctx) })
		}
		if fresh := b.unseen(ctx); err == nil && len(fresh) > 0 {
			var current []storage.ProfileChange
			current, err = tx.ProfileFieldsOf(fresh, fields)
			changes = append(changes, current...)
		}
		return err
	})
	if err != nil {
		return err
	}
	b.writeProfiles(changes)
	return nil
}

// sharesWith reports whether a local user is the user or shares a room with the user.
func (b *builder) sharesWith(ctx context.Context, user ident.UserNID) bool {
	return user == b.UserNID || b.anyRoom(ctx, func(room *rooms.Room) bool { return room.HasLocal(user) })
}

// sharing lists the user and the local users who share a room with the user.
func (b *builder) sharing(ctx context.Context) []ident.UserNID {
	seen := map[ident.UserNID]bool{b.UserNID: true}
	out := []ident.UserNID{b.UserNID}
	b.anyRoom(ctx, func(room *rooms.Room) bool {
		for m := range room.EachLocal() {
			if !seen[m.NID] {
				seen[m.NID], out = true, append(out, m.NID)
			}
		}
		return false
	})
	return out
}

// unseen returns the local users whose profiles the client does not have. Without lazy loading these are everybody in a
// first answer or one with full_state, and otherwise the users who have come to share a room. With lazy loading, they
// also include the users whose member events are in the answer.
func (b *builder) unseen(ctx context.Context) []ident.UserNID {
	users := map[ident.UserNID]bool{}
	switch {
	case b.filter.Room.State.LazyLoadMembers:
		for _, sent := range b.sent {
			if room, err := b.opts.Rooms.RoomByNID(ctx, sent.room); err == nil {
				if m := room.MemberOf(sent.member); m != nil {
					users[m.NID] = true
				}
			}
		}
		if b.large() {
			users[b.UserNID] = true
		}
	case b.large():
		return b.sharing(ctx)
	}
	for user, nid := range b.shared.come {
		if b.opts.Rooms.IsLocal(user) {
			users[nid] = true
		}
	}
	out := make([]ident.UserNID, 0, len(users))
	for nid := range users {
		out = append(out, nid)
	}
	return out
}

// writeProfiles appends changes of profile fields by user, and null for local users who share no room any more.
func (b *builder) writeProfiles(changes []storage.ProfileChange) {
	mark := len(b.out)
	b.key(b.filter.Profiles.section())
	b.out = append(b.out, '{')
	body := len(b.out)
	for user, fields := range byUser(changes) {
		b.key(user)
		b.out = append(b.out, `{"profile_updates":{`...)
		for name, value := range fields {
			b.key(name)
			b.out = append(append(b.out, cmp.Or(value, "null")...), ',')
		}
		b.endSection()
		b.endSection()
	}
	for user := range b.shared.gone {
		if b.opts.Rooms.IsLocal(user) {
			b.key(string(user))
			b.out = append(b.out, `{"profile_updates":null},`...)
		}
	}
	if len(b.out) == body {
		b.out = b.out[:mark]
		return
	}
	b.some = true
	b.endSection()
}

// section returns the name of the section of a response.
func (f *ProfileFilter) section() string {
	if f.Unstable {
		return "org.matrix.msc4429.users"
	}
	return "users"
}

// byUser groups changes by the ID of the user and the name of the field. The value of a deleted field is "".
func byUser(changes []storage.ProfileChange) map[string]map[string]string {
	out, size := map[string]map[string]string{}, 0
	for _, c := range changes {
		if size += len(c.Name) + len(c.Value); size > maxProfileBytes {
			break
		}
		if out[c.UserID] == nil {
			out[c.UserID] = map[string]string{}
		}
		out[c.UserID][c.Name] = c.Value
	}
	return out
}
