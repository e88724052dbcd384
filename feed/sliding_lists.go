package feed

import (
	"cmp"
	"context"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// roomListFilter selects the rooms of a list. A zero part selects all.
type roomListFilter struct {
	dm, encrypted, invited       *bool
	types, notTypes              []string // "" for rooms without a type
	tags, notTags, spaces        []string
	hasTypes, hasTags, hasSpaces bool
}

// roomFacts is what a filter asks of a room.
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

// slidingRoom is a room that the client may get.
type slidingRoom struct {
	rooms.RoomMembership
	room     *rooms.Room
	stage    stage
	sent     int         // index in the connection's state; -1: the client does not have the room
	since    storage.Pos // the client has the room up to here; 0 if it does not have it
	activity storage.Pos // what the lists are sorted by
	facts    roomFacts
	lists    []string // names of the lists in whose ranges it is
	wanted   bool     // in a range, or subscribed to
	limit    int
	required []*requiredState

	fresh      bool     // the client gets the room as a new one
	hold       bool     // the client has the room, or will
	next       sentRoom // what the client has of it with the answer
	receipts   []storage.SyncReceipt
	ownReceipt bool // the user has read on: the unread counts are new
}

// want adds what a list or a subscription wants of the room.
func (r *slidingRoom) want(c *roomConfig) {
	r.wanted, r.limit = true, max(r.limit, c.limit)
	if !slices.ContainsFunc(r.required, func(p *requiredState) bool { return p.text == c.required.text }) {
		r.required = append(r.required, c.required)
	}
}

// selects reports whether the client wants a state event, apart from members by lazy loading.
func (r *slidingRoom) selects(typ, key string) bool {
	return slices.ContainsFunc(r.required, func(p *requiredState) bool { return p.selects(typ, key) })
}

// lazy reports whether the client wants the members that it needs to show the timeline.
func (r *slidingRoom) lazy() bool {
	return slices.ContainsFunc(r.required, func(p *requiredState) bool { return p.lazy })
}

// allMembers reports whether the client wants every member.
func (r *slidingRoom) allMembers() bool {
	return slices.ContainsFunc(r.required, func(p *requiredState) bool { return selectsAll(p, memberType) })
}

// selectsAll reports whether a selection may have all state events of a type.
func selectsAll(p *requiredState, typ string) bool {
	return !(p.byName && typ == memberType) && slices.ContainsFunc(p.include, func(e stateElement) bool {
		return e.Key == nil && (e.Type == nil || *e.Type == typ)
	})
}

// listRooms finds the rooms that the client may get, and which it gets by its lists and subscriptions. It returns the
// number of rooms in each list.
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
			r.want(&c)
		}
		b.factsOf(r)
	}
	if len(b.run.lists) == 0 {
		return nil, nil
	}
	sorted := make([]*slidingRoom, len(b.rooms))
	for i := range b.rooms {
		sorted[i] = &b.rooms[i]
	}
	slices.SortFunc(sorted, func(x, y *slidingRoom) int {
		return cmp.Or(cmp.Compare(y.activity, x.activity), cmp.Compare(y.Room, x.Room))
	})
	counts = make([]int, len(b.run.lists))
	for i := range b.run.lists {
		counts[i] = b.fillList(&b.run.lists[i], sorted)
	}
	return counts, nil
}

// fillList adds a list to the rooms in its ranges, and returns the number of rooms in the list.
func (b *slidingBuilder) fillList(l *slidingList, sorted []*slidingRoom) (count int) {
	var children map[id.RoomID]bool
	if l.filters.hasSpaces {
		children = b.childrenOf(l.filters.spaces)
	}
	for _, r := range sorted {
		if !l.filters.admits(&r.facts, children) {
			continue
		}
		if l.all || slices.ContainsFunc(l.ranges, func(x indexRange) bool { return int64(count) >= x.from && int64(count) <= x.to }) {
			r.want(&l.roomConfig)
			r.lists = append(r.lists, l.name)
		}
		count++
	}
	return count
}

// candidates finds the rooms that the client may get: those that the user is joined or invited to or knocks on, those
// that the user was removed from, and those left that the client has.
func (b *slidingBuilder) candidates(ctx context.Context) error {
	var err error
	if b.user, err = b.slidingUser(ctx, b.UserNID); err != nil {
		return err
	}
	b.rooms = make([]slidingRoom, 0, len(b.plan.all))
	nids := make([]ident.RoomNID, 0, len(b.plan.all))
	sent := b.change.slidingState.rooms
	at := 0
	for _, m := range b.plan.all {
		for at < len(sent) && sent[at].room < m.Room {
			at++
		}
		r := slidingRoom{RoomMembership: m, sent: -1, activity: m.Changed}
		if at < len(sent) && sent[at].room == m.Room {
			r.sent, r.since = at, cmp.Or(sent[at].since, b.since.Pos)
		}
		if b.mayGet(&r) {
			b.rooms, nids = append(b.rooms, r), append(nids, m.Room)
		}
	}
	list, err := b.opts.Rooms.RoomsByNID(ctx, nids)
	if err != nil {
		return err
	}
	kept := b.rooms[:0]
	for i, room := range list {
		r := b.rooms[i]
		r.room = room
		switch r.stage {
		case stageJoined:
			r.activity = storage.Pos(room.LastOrder() / orderStep)
		case stageStripped:
			own := room.State(memberType, string(b.UserID))
			if own == nil {
				continue
			}
			if hidden, err := b.hidesInvite(ctx, &r.RoomMembership, own.Sender()); err != nil {
				return err
			} else if hidden {
				continue
			}
		case stageLeft:
		}
		kept = append(kept, r)
	}
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
		// In the merged form a room that the client has stays in the lists; in the deployed form it is there until the
		// client has been told that the user left.
		return b.run.Merged || r.Changed > r.since
	}
	return true
}

// factsOf sets what filters ask of a room.
func (b *slidingBuilder) factsOf(r *slidingRoom) {
	if r.stage == stageStripped && !r.room.Resident() {
		r.facts = b.user.outside[r.Room]
	} else {
		r.facts = roomFacts{known: true, encrypted: r.room.Encrypted()}
		if e := r.room.State("m.room.encryption", ""); e != nil && r.stage == stageLeft {
			r.facts.encrypted = e.Pos <= r.Position // what came after the user left is not theirs to know
		}
		if e := r.room.State("m.room.create", ""); e != nil {
			r.facts.roomType = roomTypeOf(e.Content())
		}
	}
	r.facts.room = r.room.ID()
	r.facts.invited = r.Membership == rooms.Invite
	_, r.facts.dm = b.user.direct[r.room.ID()]
	r.facts.tags = b.user.tags[r.Room]
}

// childrenOf returns the rooms in spaces that the user is joined to.
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
