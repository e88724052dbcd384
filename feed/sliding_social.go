package feed

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// threadsExtension is MSC4308.
type threadsExtension struct {
	extension
	Limit *int64 `json:"limit"`
}

func (x *threadsExtension) limit() int {
	if x.Limit == nil {
		return DefaultThreadSubscriptions
	}
	return int(min(max(*x.Limit, 1), MaxThreadSubscriptions))
}

// writeThreads appends the user's thread subscriptions that have changed. If older changes are missing, it also appends
// prev_batch, with which the client gets them by ThreadSubscriptionsPage.
func (b *slidingBuilder) writeThreads(context.Context) (bool, error) {
	t := &b.threads
	if len(t.Subscribed)+len(t.Unsubscribed) == 0 {
		return false, nil
	}
	out := struct {
		*ThreadSubscriptions
		PrevBatch string `json:"prev_batch,omitempty"`
	}{ThreadSubscriptions: t}
	if t.Earlier > b.since.Pos {
		out.PrevBatch = threadToken(t.Earlier)
	}
	raw, err := json.Marshal(out)
	b.out, b.some = append(b.out, raw...), true
	return true, err
}

// profilesExtension is MSC4262.
type profilesExtension struct {
	roomsExtension
	Fields *[]string `json:"fields"` // nil: all
}

func (x *profilesExtension) fields() []string {
	if x.Fields == nil {
		return nil
	}
	return append([]string{}, *x.Fields...)
}

// allProfileFields is the text of a profilesExtension that wants all fields.
const allProfileFields = "null"

// text returns the fields that the extension wants, in the form in which a slidingState records them: as a sorted list
// in JSON, or allProfileFields, or "" if the client does not want the extension.
func (x *profilesExtension) text() string {
	switch {
	case !x.on():
		return ""
	case x.Fields == nil:
		return allProfileFields
	}
	list := x.fields()
	slices.Sort(list)
	return string(appendStrings(nil, slices.Compact(list)))
}

// noteProfileFields records in the state of the connection which profile fields the client wants. If it did not want
// some of them before, noteProfileFields sets b.moreFields, and b.hadFields to those that it wanted.
func (b *slidingBuilder) noteProfileFields() {
	x := &b.run.extensions.Profiles
	before, now := b.change.profiles, x.text()
	if before == now {
		return
	}
	b.change.profiles, b.change.changed = now, true
	if b.initial || now == "" || before == allProfileFields {
		return
	}
	if before != "" {
		_ = json.Unmarshal([]byte(before), &b.hadFields)
	}
	had := func(name string) bool { return slices.Contains(b.hadFields, name) }
	b.moreFields = x.Fields == nil || slices.ContainsFunc(*x.Fields, func(name string) bool { return !had(name) })
}

// writeProfileUpdates appends the profile fields that have changed, all fields of users whom the client has not seen
// yet, those that the client did not want before, and null for users who share no room any more.
// Spec: MSC4262
func (b *slidingBuilder) writeProfileUpdates(ctx context.Context) (bool, error) {
	changes, err := b.profileUpdates(ctx)
	if err != nil {
		return false, err
	}
	b.out = append(b.out, `{"users":{`...)
	body := len(b.out)
	for user, fields := range byUser(changes) {
		b.roomKey(id.RoomID(user))
		b.appendProfile(fields)
	}
	for user := range b.shared.gone {
		if b.opts.Rooms.IsLocal(user) {
			b.roomKey(id.RoomID(user))
			b.out = append(b.out, "null"...)
		}
	}
	some := len(b.out) > body
	b.out = append(b.out, `}}`...)
	b.some = b.some || some || b.moreFields // the answer confirms more fields even if nobody has any of them
	return some, nil
}

// appendProfile appends the changes of one profile, as byUser returns them.
func (b *slidingBuilder) appendProfile(fields map[string]string) {
	var removed []string
	b.out = append(b.out, '{')
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if fields[name] == "" {
			removed = append(removed, name)
			continue
		}
		if b.out[len(b.out)-1] == '{' {
			b.out = append(b.out, `"updated":{`...)
		} else {
			b.out = append(b.out, ',')
		}
		b.out = append(canonjson.AppendString(b.out, name), ':')
		b.out = append(b.out, fields[name]...)
	}
	if len(removed) < len(fields) {
		b.out = append(b.out, '}')
	}
	if len(removed) > 0 {
		if len(removed) < len(fields) {
			b.out = append(b.out, ',')
		}
		b.out = appendStrings(append(b.out, `"removed":`...), removed)
	}
	b.out = append(b.out, '}')
}

// profileUpdates reads the profile fields that are new to the client: the changes of all users who share a room with
// the user, the fields of these users that the client did not want before, and the complete profiles of users who have
// come to share a room that the extension covers. If the client restricts the extension to lists or rooms, the changes
// and the additional fields are restricted to the members of these rooms, too.
func (b *slidingBuilder) profileUpdates(ctx context.Context) (changes []storage.ProfileChange, err error) {
	x := &b.run.extensions.Profiles
	var covered []*rooms.Room
	for i := range b.rooms {
		if r := &b.rooms[i]; r.stage == stageJoined && x.covers(r) {
			covered = append(covered, r.room)
		}
	}
	isCovered := func(user ident.UserNID) bool {
		return user == b.UserNID || slices.ContainsFunc(covered, func(r *rooms.Room) bool { return r.HasLocal(user) })
	}
	shown := isCovered
	if x.Lists == nil && x.Rooms == nil {
		shown = func(user ident.UserNID) bool { return b.sharesWith(ctx, user) }
	}
	everybody := func() []ident.UserNID {
		return slices.DeleteFunc(b.sharing(ctx), func(user ident.UserNID) bool { return !shown(user) })
	}
	changed := !b.initial && b.Service.profiles.changedSince(b.since.Pos)
	fresh := slices.DeleteFunc(b.unseen(ctx), func(user ident.UserNID) bool { return !isCovered(user) })
	if fields := x.fields(); fields != nil && len(fields) == 0 || !changed && !b.moreFields && len(fresh) == 0 {
		return nil, nil
	}
	err = b.read(ctx, func(tx *storage.Tx) error {
		if changed {
			if changes, err = profileChanges(tx, b.since.Pos, b.upTo, x.fields(), shown, everybody); err != nil {
				return err
			}
		}
		if b.moreFields {
			more, err := tx.ProfileFieldsOf(everybody(), x.fields())
			if err != nil {
				return err
			}
			changes = append(changes, slices.DeleteFunc(more, func(c storage.ProfileChange) bool { return slices.Contains(b.hadFields, c.Name) })...)
		}
		current, err := tx.ProfileFieldsOf(fresh, x.fields())
		changes = append(changes, current...)
		return err
	})
	return changes, err
}
