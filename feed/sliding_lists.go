package feed

import (
	"cmp"
	"context"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// roomListFilter selects the rooms of a list. A field with the zero value selects all rooms.
type roomListFilter struct {
	dm, encrypted, invited       *bool
	types, notTypes              []string // "" for rooms without a type
	tags, notTags, spaces        []string
	hasTypes, hasTags, hasSpaces bool
	some                         bool // the filter may leave out rooms
}

// roomFacts holds the properties of a room by which a roomListFilter selects.
type roomFacts struct {
	dm, encrypted, invited bool
	roomType               string
	known                  bool // encrypted and roomType are known
	tags                   []string
	room                   id.RoomID
}

// admits reports whether the filter selects a room. children are the rooms in the filter's spaces.
func (f *roomListFilter) admits(r *roomFacts, children map[id.RoomID]bool) bool {
	byState := f.encrypted != nil || f.hasTypes || len(f.notTypes) > 0
	switch {
	case f.dm != nil && *f.dm != r.dm, f.invited != nil && *f.invited != r.invited, byState && !r.known:
		return false
	case f.encrypted != nil && *f.encrypted != r.encrypted:
		return false
	case f.hasTypes && !slices.Contains(f.types, r.roomType), slices.Contains(f.notTypes, r.roomType):
		return false
	case f.hasTags && !anyOf(r.tags, f.tags), anyOf(r.tags, f.notTags):
		return false
	}
	return !f.hasSpaces || children[r.room]
}

// anyOf reports whether the lists have an element in common.
func anyOf(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// slidingRoom is a room that the client may get. There is one for each of the user's rooms, so it is small.
type slidingRoom struct {
	*rooms.RoomMembership
	room     *rooms.Room
	since    storage.Pos   // the client has the room up to here; 0 if it does not have it
	activity storage.Pos   // what the lists are sorted by
	want     *combinedWant // nil: the room is in no range, and nothing is subscribed to it
	work     *roomWork     // nil: the client keeps what it has of the room
	sent     int32         // index in the connection's state; -1: the client does not have the room
	stage    stage
	dm       bool
	listed   bool // it is in a list, but perhaps in none of its ranges
}

// roomWork holds the additional data of a slidingRoom that may be part of the answer. Most rooms have no roomWork, so
// that a slidingRoom is small.
type roomWork struct {
	*slidingRoom
	fresh      bool     // the client gets the room as a new one
	next       sentRoom // what the client has of it with the answer
	receipts   []storage.SyncReceipt
	ownReceipt bool // the user has read on: the unread counts are new
}

// combinedWant is what the client wants of a room: the union of what it wants by each list that has the room in its
// ranges and by its subscription. Rooms with the same lists and the same subscription share one combinedWant.
type combinedWant struct {
	limit    int
	required []*requiredState
	lists    []string
	more     []wantStep // earlier calls of and, with their results
}

// wantStep is a remembered call of combinedWant.and: to is the result for the arguments config and list.
type wantStep struct {
	config *roomConfig
	list   string
	to     *combinedWant
}

// and returns the union of w and what the client wants by one more list, or by a subscription if list is "". The same
// arguments give the same value, which rooms share.
func (w *combinedWant) and(c *roomConfig, list string) *combinedWant {
	for _, s := range w.more {
		if s.config.required == c.required && s.config.limit == c.limit && s.list == list {
			return s.to
		}
	}
	to := &combinedWant{limit: max(w.limit, c.limit), required: w.required, lists: w.lists}
	if !slices.ContainsFunc(w.required, func(p *requiredState) bool { return p.text == c.required.text }) {
		to.required = append(slices.Clip(w.required), c.required)
	}
	if list != "" {
		to.lists = append(slices.Clip(w.lists), list)
	}
	w.more = append(w.more, wantStep{c, list, to})
	return to
}

// add extends what the client wants of room r by what it wants of a list, or of a subscription if list is "".
func (b *slidingBuilder) add(r *slidingRoom, c *roomConfig, list string) {
	before := r.want
	if before == nil {
		before = &b.nothingWanted
	}
	r.want = before.and(c, list)
}

// selects reports whether the client wants the given state event. It leaves lazy loading out of account, which may add
// members.
func (w *combinedWant) selects(key pdu.StateKey, user id.UserID) bool {
	return slices.ContainsFunc(w.required, func(p *requiredState) bool { return p.selects(key, user) })
}

// lazy reports whether the client wants the member events that it needs to show the timeline.
func (w *combinedWant) lazy() bool {
	return slices.ContainsFunc(w.required, func(p *requiredState) bool { return p.lazy })
}

// allMembers reports whether the client wants all member events.
func (w *combinedWant) allMembers() bool {
	return slices.ContainsFunc(w.required, func(p *requiredState) bool { return selectsAll(p, memberType) })
}

// selectsAll reports whether a selection may include all state events of a type.
func selectsAll(p *requiredState, typ string) bool {
	return !(p.byName && typ == memberType) && slices.ContainsFunc(p.include, func(e stateElement) bool {
		return e.Key == nil && !e.Me && (e.Type == nil || *e.Type == typ)
	})
}

// listRooms finds the rooms that the client may get, and determines what it wants of each by its lists and
// subscriptions. It returns the number of rooms in each list.
func (b *slidingBuilder) listRooms(ctx context.Context) (counts []int, err error) {
	if len(b.run.lists)+len(b.run.subscriptions)+len(b.change.slidingState.rooms) == 0 {
		return nil, nil
	}
	if err := b.candidates(ctx); err != nil {
		return nil, err
	}
	for i := range b.rooms {
		r := &b.rooms[i]
		if c, ok := b.run.subscriptions[r.room.ID()]; ok {
			b.add(r, &c, "")
		}
		_, r.dm = b.user.direct[r.room.ID()]
	}
	if len(b.run.lists) == 0 {
		return nil, nil
	}
	sorted := b.scratch.sorted[:0]
	for i := range b.rooms {
		sorted = append(sorted, &b.rooms[i])
	}
	b.scratch.sorted = sorted
	slices.SortFunc(sorted, func(x, y *slidingRoom) int {
		return cmp.Or(cmp.Compare(y.activity, x.activity), cmp.Compare(y.Room, x.Room))
	})
	counts = make([]int, len(b.run.lists))
	for i := range b.run.lists {
		counts[i] = b.fillList(&b.run.lists[i], sorted)
	}
	return counts, nil
}

// fillList goes through the rooms in sorted that belong to list l, and adds what the list wants to those in its ranges.
// It returns the number of rooms in the list.
func (b *slidingBuilder) fillList(l *slidingList, sorted []*slidingRoom) (count int) {
	var children map[id.RoomID]bool
	if l.filters.hasSpaces {
		children = b.childrenOf(l.filters.spaces)
	}
	for _, r := range sorted {
		if l.filters.some {
			if facts := b.factsOf(r); !l.filters.admits(&facts, children) {
				continue
			}
		}
		r.listed = true
		if l.all || slices.ContainsFunc(l.ranges, func(x indexRange) bool { return int64(count) >= x.from && int64(count) <= x.to }) {
			b.add(r, &l.roomConfig, l.name)
		}
		count++
	}
	return count
}

// candidates finds the rooms that the client may get. These are the rooms that the user is joined to, is invited to,
// knocks on or was removed from. A room that the user has left is one of them if the client has it.
func (b *slidingBuilder) candidates(ctx context.Context) error {
	var err error
	if b.user, err = b.slidingUser(ctx, b.UserNID); err != nil {
		return err
	}
	sent := b.change.slidingState.rooms
	at, loaded := 0, b.plan.loaded
	for i := range b.plan.all {
		m := &b.plan.all[i]
		for at < len(sent) && sent[at].room < m.Room {
			at++
		}
		r := slidingRoom{RoomMembership: m, sent: -1, activity: m.Changed}
		if at < len(sent) && sent[at].room == m.Room {
			r.sent, r.since = int32(at), cmp.Or(sent[at].since, b.since.Pos)
		}
		if m.Membership == rooms.Join {
			r.room, loaded = loaded[0], loaded[1:]
			r.activity = storage.Pos(r.room.LastOrder() / orderStep)
		}
		if b.mayGet(&r) {
			b.rooms = append(b.rooms, r)
		}
	}
	return b.loadOthers(ctx)
}

// loadOthers loads the rooms that the user may get and is not joined to. It drops invites of ignored users.
func (b *slidingBuilder) loadOthers(ctx context.Context) error {
	var nids []ident.RoomNID
	for i := range b.rooms {
		if b.rooms[i].room == nil {
			nids = append(nids, b.rooms[i].Room)
		}
	}
	if len(nids) == 0 {
		return nil
	}
	list, err := b.opts.Rooms.RoomsByNID(ctx, nids)
	if err != nil {
		return err
	}
	kept := b.rooms[:0]
	for _, r := range b.rooms {
		if r.room == nil {
			r.room, list = list[0], list[1:]
		}
		if r.stage == stageStripped {
			own := r.room.State(memberType, string(b.UserID))
			if own == nil {
				continue
			}
			if hidden, err := b.hidesInvite(ctx, r.RoomMembership, own.Sender()); err != nil {
				return err
			} else if hidden {
				continue
			}
		}
		kept = append(kept, r)
	}
	clear(b.rooms[len(kept):])
	b.rooms = kept
	return nil
}

// mayGet sets the stage of a room, and reports whether the client may get it.
func (b *slidingBuilder) mayGet(r *slidingRoom) bool {
	switch r.Membership {
	case rooms.Join:
		r.stage = stageJoined
	case rooms.Invite, rooms.Knock:
		r.stage = stageStripped
	default:
		r.stage = stageLeft
		switch {
		case r.Forgotten:
			return false
		case b.user.removed[r.Room]:
			return true
		case r.sent < 0:
			return false
		}
		// In the merged form, a room that the client has stays in the lists after the user has left it. In the deployed
		// form, it stays until an answer has told the client about the leave.
		return b.run.Merged || r.Changed > r.since
	}
	return true
}

// factsOf returns the properties of a room by which list filters select.
func (b *slidingBuilder) factsOf(r *slidingRoom) (f roomFacts) {
	if r.stage == stageStripped && !r.room.Resident() {
		f = b.user.outside[r.Room]
	} else {
		encryption := r.room.State("m.room.encryption", "")
		// If encryption was enabled after the user left, the user must not learn of it.
		f = roomFacts{known: true, encrypted: encryption != nil && (r.stage != stageLeft || encryption.Pos <= r.Position)}
		if e := r.room.State("m.room.create", ""); e != nil {
			f.roomType = roomTypeOf(e.Content())
		}
	}
	f.room, f.invited, f.dm, f.tags = r.room.ID(), r.Membership == rooms.Invite, r.dm, b.user.tags[r.Room]
	return f
}

// childrenOf returns the rooms that are children of the given spaces, as far as the user is joined to these.
func (b *slidingBuilder) childrenOf(spaces []string) map[id.RoomID]bool {
	children := map[id.RoomID]bool{}
	for i := range b.rooms {
		r := &b.rooms[i]
		if r.stage != stageJoined || !slices.Contains(spaces, string(r.room.ID())) {
			continue
		}
		for child, e := range r.room.StateOfType("m.space.child") {
			if via, ok := canonjson.Get(e.Content(), "via"); ok && len(via) > 0 && via[0] == '[' {
				children[id.RoomID(child)] = true
			}
		}
	}
	return children
}
