package feed

import (
	"cmp"
	"context"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// maxFirstReceipts bounds the receipts of others that a client gets when it first asks for receipts of a room that it
// has.
const maxFirstReceipts = 100

// slidingNews holds what is new in one room in addition to its roomNews.
type slidingNews struct {
	expanded bool           // the timeline begins before the news, since the client now wants more events than it has
	live     int            // the number of events that have just happened
	stubs    []pdu.StateKey // entries of the state that were deleted
	name     *rooms.Event   // the event of the name, if that is new to the client
	avatar   *rooms.Event   // the same for the avatar
	unnamed  bool           // the name was deleted
	faceless bool           // the avatar was deleted
	heroes   []*rooms.Event // member events
	named    bool           // the room has a name, and so no heroes
	dm       bool           // the client must be sent whether the room is a direct chat
	left     *departure     // set if the user has left
	narrowed bool           // some state that the client has but no longer wants has changed
}

// writeSlidingRooms gathers and appends the rooms that the client wants, one after the other.
func (b *slidingBuilder) writeSlidingRooms(ctx context.Context) error {
	b.out = append(b.out, `"rooms":{`...)
	body := len(b.out)
	for i := range b.rooms {
		r := &b.rooms[i]
		if r.want != nil && r.stage == stageJoined && r.room.Partial() && r.want.allMembers() {
			r.want = nil // until all members are known
		}
		if r.want == nil || !b.mayHaveNews(r) {
			continue
		}
		if err := b.readSlidingAhead(i); err != nil {
			return err
		}
		if err := b.writeSlidingRoom(ctx, b.workOn(r)); err != nil {
			return err
		}
	}
	if len(b.out) > body {
		b.out = b.out[:len(b.out)-1]
		b.some = true
	}
	b.out = append(b.out, `},`...)
	return nil
}

// mayHaveNews reports whether a room may have anything new that the client wants. It decides by what is in memory,
// without reading the database.
func (b *slidingBuilder) mayHaveNews(r *slidingRoom) bool {
	if r.sent < 0 {
		return true
	}
	before := &b.change.rooms[r.sent]
	if before.stage != r.stage || r.Changed > r.since {
		return true
	}
	if r.stage != stageJoined {
		return false
	}
	return r.JoinedPos > r.since || max(r.room.Last(), r.room.Completed()) > r.since || r.want.limit > int(before.limit) || r.dm != before.dm ||
		!before.receipts && b.run.extensions.Receipts.covers(r) || !b.knows(before.set, r.want)
}

// workOn returns the roomWork of a room. It creates one if the room has none yet.
func (b *slidingBuilder) workOn(r *slidingRoom) *roomWork {
	if r.work != nil {
		return r.work
	}
	r.work = &roomWork{slidingRoom: r, next: sentRoom{room: r.Room}}
	if r.sent >= 0 {
		r.work.next = b.change.rooms[r.sent]
	}
	return r.work
}

// writeSlidingRoom gathers and appends a room if there is anything new in it. It sets r.next, which is what the client
// has of the room after the answer.
func (b *slidingBuilder) writeSlidingRoom(ctx context.Context, r *roomWork) error {
	before := r.next
	r.fresh = r.sent < 0 || before.stage != r.stage
	r.next.stage, r.next.since = r.stage, 0
	switch r.stage {
	case stageJoined:
		r.fresh = r.fresh || r.JoinedPos > r.since
		return b.slidingJoined(ctx, r, before)
	case stageStripped:
		return b.slidingStripped(ctx, r)
	case stageLeft:
	}
	// A room that the client has as one that the user is not in is sent again as a whole: what is new in it, such as a
	// ban after a kick, says nothing of the room.
	r.fresh = r.sent < 0 || before.stage != stageJoined
	return b.slidingLeft(ctx, r, before)
}

// slidingJoined gathers and appends a room that the user is in. before is what the client had of it before the answer.
func (b *slidingBuilder) slidingJoined(ctx context.Context, r *roomWork, before sentRoom) error {
	if r.fresh {
		r.since = 0
		before = sentRoom{room: r.Room}
		r.next = before
	}
	n := &b.scratch.news
	x := slidingNews{expanded: !r.fresh && r.want.limit > int(before.limit), dm: r.dm != before.dm || r.fresh && r.dm}
	r.next.dm = r.dm
	again := r.fresh || x.expanded // the client gets events of which it may lack receipts
	if !again {
		if err := b.slidingReceipts(ctx, r, false, nil); err != nil {
			return err
		}
	}
	wider := r.fresh || !b.knows(before.set, r.want)
	if !r.fresh && !x.expanded && !x.dm && !wider && max(r.room.Last(), r.room.Completed(), r.Changed) <= r.since {
		return nil // only receipts that were not asked for before
	}
	n.reset(roomQuery{room: r.room, since: r.since, token: b.since.Pos, initial: r.fresh, limit: r.want.limit, lazy: r.want.lazy(), stateAfter: true})
	n.window = b.window(r.room, r.since)
	if err := b.slidingTimeline(ctx, r, n, &x); err != nil {
		return err
	}
	if again {
		if err := b.slidingReceipts(ctx, r, true, n.timeline.events); err != nil {
			return err
		}
	}
	b.gatherSummary(n)
	n.wanted = stateWanted{room: n.room, since: n.since, sinceMember: n.since, end: statePoint{pos: b.upTo + 1}, window: n.window, lazy: n.lazy, force: r.fresh}
	if err := b.requiredState(ctx, r, n, &x, wider); err != nil {
		return err
	}
	if err := b.slidingProfile(ctx, n, &x); err != nil {
		return err
	}
	r.next.limit = max(before.limit, uint8(r.want.limit))
	switch {
	case n.timeline.limited && !x.expanded, r.want.limit == 0 && !(n.window.whole && len(n.window.events) == 0):
		r.next.limit = uint8(r.want.limit) // what came before is not connected with it
	case (r.fresh || x.expanded) && !n.timeline.limited:
		r.next.limit = maxTimelineLimit // the client has all events, so a larger limit would bring no more
	}
	r.next.set = b.nextSet(before.set, r, &x)
	if !b.slidingNews(r, n, &x) {
		return nil
	}
	b.noteTimeline(n)
	b.noteSticky(n.timeline.events)
	var err error
	if !b.run.Merged {
		if n.unread, err = b.opts.History.Unread(ctx, b.tx, b.UserNID, r.Room); err != nil {
			return err
		}
	}
	return b.writeSliding(ctx, r, n, &x)
}

// slidingNews reports whether anything is new in a joined room.
func (b *slidingBuilder) slidingNews(r *roomWork, n *roomNews, x *slidingNews) bool {
	counts := n.summary.changed && (n.window.whole && n.changedMembers() || n.summary.completed)
	return r.fresh || x.dm || counts || r.ownReceipt && !b.run.Merged || n.timeline.limited || x.unnamed || x.faceless ||
		x.name != nil || x.avatar != nil || len(n.timeline.events)+len(n.state)+len(x.stubs) > 0
}

// slidingTimeline gathers the timeline of a joined room: what is new, or the newest events if the client has fewer than
// it wants.
func (b *slidingBuilder) slidingTimeline(ctx context.Context, r *roomWork, n *roomNews, x *slidingNews) (err error) {
	since := r.since
	if x.expanded {
		since = 0
	}
	if r.want.limit == 0 {
		n.timeline = timeline{last: b.upTo, view: b.opts.History.View(r.room, b.Requester)}
		n.timeline.begin()
		return nil
	}
	if n.timeline, err = b.timeline(ctx, r.room, b.window(r.room, since), since, b.upTo, r.want.limit); err != nil {
		return err
	}
	if x.expanded && len(n.timeline.events) > 0 && n.timeline.events[0].Pos > r.since && !n.timeline.limited {
		x.expanded = false
	}
	for _, e := range slices.Backward(n.timeline.events) {
		if b.initial || e.Pos <= b.since.Pos {
			break
		}
		x.live++
	}
	return nil
}

// slidingReceipts gathers the receipts of a joined room that are new to the client. If again is set, they include those
// at the given events, some of which may be new to it, and all of the user's own.
// Spec: MSC3960
func (b *slidingBuilder) slidingReceipts(ctx context.Context, r *roomWork, again bool, events []*rooms.Event) error {
	last, wanted := r.room.LastReceipt(), b.run.extensions.Receipts.covers(r.slidingRoom)
	again = again && wanted
	since, limit := r.since, maxReceipts
	switch {
	case again:
		since = cmp.Or(r.since, b.upTo)
		for _, e := range events {
			since = min(since, e.Pos) // receipts are newer than their events
		}
	case wanted && !r.next.receipts:
		since, limit = 0, maxFirstReceipts
	}
	r.next.receipts = wanted || r.next.receipts && last <= r.since
	if last == 0 || last <= since && !again || !wanted && (b.run.Merged || r.fresh) {
		return nil
	}
	err := b.read(ctx, func(tx *storage.Tx) (err error) {
		if r.receipts, err = tx.ReceiptsSince(r.Room, since, b.upTo, b.UserNID, limit); err != nil || len(r.receipts) < limit && !again {
			return err
		}
		own, err := tx.OwnReceipts(r.Room, b.UserNID, b.upTo)
		r.receipts = append(r.receipts, own...)
		return err
	})
	if err != nil {
		return err
	}
	if again {
		r.receipts = b.receiptsAt(events, r)
	}
	r.ownReceipt = slices.ContainsFunc(r.receipts, func(c storage.SyncReceipt) bool { return c.UserNID == b.UserNID && c.Position > r.since })
	if r.receipts, err = b.withoutGoneReceipts(ctx, r.room, r.receipts); err != nil {
		return err
	}
	r.receipts = slices.DeleteFunc(uniqueReceipts(r.receipts), func(c storage.SyncReceipt) bool { return b.ignores(id.UserID(c.User)) })
	return nil
}

// receiptsAt returns those receipts of a room that are at the given events, that have been set since the client had the
// room, or that are the user's own.
func (b *slidingBuilder) receiptsAt(events []*rooms.Event, r *roomWork) []storage.SyncReceipt {
	shown := make(map[string]bool, len(events))
	for _, e := range events {
		shown[string(e.ID())] = true
	}
	return slices.DeleteFunc(r.receipts, func(c storage.SyncReceipt) bool {
		return c.UserNID != b.UserNID && !shown[c.EventID] && (r.fresh || c.Position <= r.since)
	})
}

// slidingStripped gathers and appends a room that the user is invited to or knocks on.
func (b *slidingBuilder) slidingStripped(ctx context.Context, r *roomWork) error {
	n := &b.scratch.news
	some, err := b.gatherStripped(ctx, r.RoomMembership, n)
	if err != nil || !some {
		return err
	}
	x := slidingNews{dm: r.dm}
	r.fresh, r.next.dm = true, r.dm
	return b.writeSliding(ctx, r, n, &x)
}

// slidingLeft gathers and appends a room that the user has left or was removed from, with what happened until then.
func (b *slidingBuilder) slidingLeft(ctx context.Context, r *roomWork, before sentRoom) error {
	if r.fresh {
		r.since = 0
	}
	b.departs = true
	token := b.since.Pos
	b.since.Pos = r.since // the client may have the room up to an earlier position
	defer func() { b.since.Pos = token }()
	d, err := b.departure(ctx, r.room, r.Position)
	if err != nil || d.newest() == nil {
		return err
	}
	r.fresh = r.fresh || d.leave == nil || d.joined > r.since
	n, dm := &b.scratch.news, r.dm != before.dm
	r.next.dm = r.dm
	if b.run.Merged && before.stage == stageStripped && d.leave == nil {
		// The user was never in the room, so that the end of the invite or knock has the form of the invite.
		n.reset(roomQuery{room: r.room})
		n.stripped = append(n.stripped, d.newest().JSON())
		return b.writeSliding(ctx, r, n, &slidingNews{dm: dm})
	}
	q := roomQuery{room: r.room, since: r.since, token: r.since, initial: r.fresh, limit: r.want.limit, lazy: r.want.lazy(), stateAfter: true}
	if r.fresh {
		q.since = 0
	}
	n.reset(q)
	n.wanted = stateWanted{room: n.room, since: n.since, sinceMember: n.since, lazy: n.lazy, force: r.fresh, left: d, window: b.window(r.room, n.since)}
	if err := b.lastTimeline(ctx, n, d); err != nil {
		return err
	}
	x := slidingNews{left: d, dm: dm}
	for _, e := range slices.Backward(n.timeline.events) {
		if b.initial || e.Pos <= token {
			break
		}
		x.live++
	}
	if err := b.requiredState(ctx, r, n, &x, r.fresh); err != nil {
		return err
	}
	if err := b.leftProfile(ctx, n, &x); err != nil {
		return err
	}
	b.noteTimeline(n)
	return b.writeSliding(ctx, r, n, &x)
}

// leftProfile finds the name and the avatar that a room had when the user left it, if the room is new to the client.
func (b *slidingBuilder) leftProfile(ctx context.Context, n *roomNews, x *slidingNews) error {
	if !n.fresh() || x.left.leave == nil {
		return nil
	}
	for _, of := range []struct {
		typ, member string
		to          **rooms.Event
	}{{"m.room.name", "name", &x.name}, {"m.room.avatar", "url", &x.avatar}} {
		g := requiredGatherer{stateGatherer: stateGatherer{b: b.builder, q: &n.wanted, have: map[pdu.StateKey]bool{}}}
		if err := g.addKey(ctx, pdu.StateKey{Type: of.typ}); err != nil {
			return err
		}
		if err := g.load(ctx); err != nil {
			return err
		}
		if len(g.events) > 0 && contentText(g.events[0], of.member) != "" {
			*of.to = g.events[0]
		}
	}
	return nil
}

// slidingProfile finds the name, the avatar and the heroes of a joined room, if they may be new to the client.
func (b *slidingBuilder) slidingProfile(ctx context.Context, n *roomNews, x *slidingNews) error {
	gone := n.room.Resolved(n.since)
	find := func(typ, member string) (e *rooms.Event, deleted bool) {
		e = n.room.State(typ, "")
		resolved := slices.Contains(gone, pdu.StateKey{Type: typ})
		switch {
		case e == nil:
			return nil, !n.fresh() && (resolved || slices.Contains(x.stubs, pdu.StateKey{Type: typ}))
		case contentText(e, member) == "":
			return nil, !n.fresh() && (e.Pos > n.since || resolved)
		case n.fresh() || e.Pos > n.since || resolved:
			return e, false
		}
		return nil, false
	}
	x.name, x.unnamed = find("m.room.name", "name")
	x.avatar, x.faceless = find("m.room.avatar", "url")
	if name := n.room.State("m.room.name", ""); name != nil && contentText(name, "name") != "" {
		x.named = true
		return nil
	}
	if !n.summary.changed && !x.unnamed {
		return nil
	}
	return b.heroEvents(ctx, n, x)
}

// heroEvents finds the member events of a room's heroes.
func (b *slidingBuilder) heroEvents(ctx context.Context, n *roomNews, x *slidingNews) error {
	g := stateGatherer{b: b.builder, q: &n.wanted, have: map[pdu.StateKey]bool{}}
	for _, user := range heroes(n.room, b.UserID) {
		m := n.room.MemberOf(user)
		if m == nil {
			continue
		}
		if e := m.Event(); e != nil {
			g.events = append(g.events, e)
		} else {
			g.absent = append(g.absent, m.Pos)
		}
	}
	if err := g.load(ctx); err != nil {
		return err
	}
	slices.SortFunc(g.events, func(a, b *rooms.Event) int { return cmp.Compare(a.Pos, b.Pos) })
	x.heroes = g.events
	return nil
}

// contentText returns the string with the given key in an event's content, or "" if it is missing or no string.
func contentText(e *rooms.Event, member string) string {
	raw, _ := canonjson.Get(e.Content(), member)
	text, _ := canonjson.Unquote(raw)
	return text
}

// noteRooms puts into the new state of the connection what the client has of each room after the answer. For a room
// outside its ranges that has changed, the state records up to where the client has it.
func (b *slidingBuilder) noteRooms() {
	data := b.run.extensions.AccountData.on()
	for i := range b.rooms {
		r := &b.rooms[i]
		var next sentRoom
		switch {
		case r.work != nil:
			next = r.work.next
		case r.sent < 0:
			continue
		default:
			next = b.change.rooms[r.sent]
		}
		if r.want == nil && next.since == 0 && (r.Changed > b.since.Pos || r.stage == stageJoined && r.room.Last() > b.since.Pos) {
			next.since = b.since.Pos
		}
		if next.stage != stageJoined {
			next.limit, next.set = 0, b.change.setOf(nil)
		}
		next.data = next.data && data
		if r.sent < 0 {
			b.change.add(next)
		} else {
			b.change.set(int(r.sent), next)
		}
	}
}
