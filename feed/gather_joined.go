package feed

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/history"
	"ebb/rooms"
	"ebb/storage"
)

// roomQuery says what to gather about a room: what the client already has, and how much it wants. For /sync, query
// makes it from the token and the filter, the same for all rooms.
type roomQuery struct {
	room       *rooms.Room
	since      storage.Pos // the client has the room up to here; 0 if the room is new to it
	token      storage.Pos // the position of the client's token, also for rooms that are new to it
	initial    bool        // there is no token
	limit      int         // the most timeline events
	full       bool        // all state, even what the client has
	lazy       bool        // only the members that the client needs to show the timeline
	stateAfter bool        // the state at the end of the timeline rather than at its start
}

// fresh reports whether the room is new to the client.
func (q *roomQuery) fresh() bool { return q.since == 0 }

// roomNews holds what is new in one room. Joined, left and invited rooms use different fields. The functions that
// gather fill it and write nothing; those that write only read it. Whether an event is visible and has not expired
// depends on the time and is checked once more when the event is written.
type roomNews struct {
	roomQuery
	window        window
	timeline      timeline
	wanted        stateWanted
	state         []*rooms.Event
	summary       summary
	receipts      []storage.SyncReceipt
	ownReceipt    bool // the user has read on: the unread counts are new even if the client wants no receipts
	typing        []typist
	typingChanged bool
	data          []storage.AccountDatum
	sticky        []*rooms.Event // new sticky events that are not in the timeline
	unread        history.Unread
	stripped      []json.RawMessage // the stripped state of an invite or a knock, as whole events
}

// reset prepares n for another room. It keeps the memory allocated for stripped.
func (n *roomNews) reset(q roomQuery) { *n = roomNews{roomQuery: q, stripped: n.stripped[:0]} }

// gatherJoined gathers the news of a joined room. It reports whether there are any.
// Spec: client-server-api#get_matrixclientv3sync, rooms.join
func (b *builder) gatherJoined(ctx context.Context, j *joinedRoom, n *roomNews) (bool, error) {
	if err := b.readAhead(); err != nil || !b.admits(j.room) {
		return false, err
	}
	return b.gatherRoom(ctx, b.query(j.room, j.fresh), n)
}

// query returns the roomQuery of a /sync request. fresh means that the room is new to the client.
func (b *builder) query(room *rooms.Room, fresh bool) roomQuery {
	q := roomQuery{
		room: room, since: b.since.Pos, token: b.since.Pos, initial: b.initial, limit: b.filter.timelineLimit(),
		full: b.FullState, lazy: b.filter.Room.State.LazyLoadMembers, stateAfter: b.StateAfter || b.UnstableStateAfter,
	}
	if fresh {
		q.since = 0
	}
	return q
}

// gatherRoom gathers the news of a joined room that q selects. It reports whether there are any.
func (b *builder) gatherRoom(ctx context.Context, q roomQuery, n *roomNews) (news bool, err error) {
	n.reset(q)
	n.window = b.window(q.room, q.since)
	if n.timeline, err = b.timeline(ctx, q.room, n.window, q.since, b.upTo, q.limit); err != nil {
		return false, err
	}
	if q.fresh() && !q.initial && !n.timeline.fromCreation() {
		n.timeline.limited = true // the client has nothing of the room, so there is a gap before the timeline
	}
	if err := b.planState(ctx, n); err != nil {
		return false, err
	}
	if err := b.gatherSticky(ctx, n); err != nil {
		return false, err
	}
	b.gatherSummary(n)
	if err := b.gatherJoinedState(ctx, n); err != nil {
		return false, err
	}
	if err := b.gatherReceipts(ctx, n); err != nil {
		return false, err
	}
	b.gatherTyping(n)
	if err := b.gatherRoomData(ctx, n); err != nil {
		return false, err
	}
	if !n.any() {
		return false, nil
	}
	b.noteTimeline(n)
	n.unread, err = b.opts.History.Unread(ctx, b.tx, b.UserNID, q.room.NID())
	return true, err
}

// any reports whether anything is new in a joined room.
func (n *roomNews) any() bool {
	return n.fresh() || n.full || n.summary.completed || n.ownReceipt || n.typingChanged || n.timeline.limited ||
		len(n.timeline.events)+len(n.state)+len(n.receipts)+len(n.data)+len(n.sticky) > 0
}

// noteTimeline records what follows from sending a timeline: the client has the member events in it, and the user was
// active if an event is the user's.
func (b *builder) noteTimeline(n *roomNews) {
	if n.lazy {
		b.noteMembers(n.room, n.timeline.events)
	}
	b.noteActivity(n.timeline.events)
}

// noteMembers records that the client gets the member events of a timeline, so that they are not sent again.
func (b *builder) noteMembers(room *rooms.Room, events []*rooms.Event) {
	for _, e := range events {
		if key, isState := stateKey(e); isState && key.Type == memberType {
			b.sentMember(room, id.UserID(key.Key), e.Pos)
		}
	}
}

// noteActivity marks the user as active if the user has just sent one of the events. Presence lasts only while one of
// the user's devices syncs, so it suffices to look at the timelines of /sync, and sending costs nothing.
func (b *builder) noteActivity(events []*rooms.Event) {
	if b.initial {
		return
	}
	for i := len(events) - 1; i >= 0; i-- {
		if sent := time.UnixMilli(events[i].ReceivedTS); events[i].SenderNID == b.UserNID && b.now.Sub(sent) < activeFor {
			b.Service.presence.touch(b.UserNID, sent)
			return
		}
	}
}

// planState decides which state of a joined room to gather. It may cut the timeline.
func (b *builder) planState(ctx context.Context, n *roomNews) error {
	q := &n.wanted
	*q = stateWanted{
		room: n.room, since: n.since, sinceMember: n.since, end: statePoint{pos: b.upTo + 1}, window: n.window,
		lazy: n.lazy, force: n.fresh() || n.full,
	}
	if n.full {
		q.since, q.sinceMember = 0, 0
	}
	if q.lazy && q.since == 0 {
		var err error
		if q.sinceMember, err = b.knownMembers(ctx, &n.roomQuery); err != nil {
			return err
		}
	}
	if n.stateAfter {
		return nil
	}
	return b.settle(ctx, q, &n.timeline)
}

// gatherJoinedState gathers the state of a joined room as planState decided.
func (b *builder) gatherJoinedState(ctx context.Context, n *roomNews) error {
	if n.lazy {
		n.wanted.needed = b.neededMembers(n)
	}
	return b.gatherState(ctx, n)
}

// neededMembers returns the users whose member events a client needs to show the timeline, the sticky events and the
// summary; in a new room and under full_state also the user.
func (b *builder) neededMembers(n *roomNews) []id.UserID {
	var needed []id.UserID
	if n.fresh() || n.full {
		needed = append(needed, b.UserID)
	}
	for _, list := range [][]*rooms.Event{n.timeline.events, n.sticky} {
		for _, ev := range list {
			if !slices.Contains(needed, ev.Sender()) {
				needed = append(needed, ev.Sender())
			}
		}
	}
	return append(needed, n.summary.heroes...)
}

// gatherState gathers the wanted state, as far as the filter admits it.
func (b *builder) gatherState(ctx context.Context, n *roomNews) (err error) {
	f := &b.filter.Room.State
	if !f.room(string(n.room.ID())) {
		return nil
	}
	if n.state, err = b.stateFor(ctx, &n.wanted); err != nil {
		return err
	}
	n.state = slices.DeleteFunc(n.state, func(e *rooms.Event) bool { return !f.event(e.Type(), string(e.Sender()), e.Content()) })
	return nil
}

// gatherReceipts gathers the receipts that changed, or the newest ones of a room that is new to the client.
func (b *builder) gatherReceipts(ctx context.Context, n *roomNews) error {
	if n.room.LastReceipt() <= n.since {
		return nil
	}
	err := b.read(ctx, func(tx *storage.Tx) (err error) {
		if n.receipts, err = tx.ReceiptsSince(n.room.NID(), n.since, b.upTo, b.UserNID, maxReceipts); err != nil || len(n.receipts) < maxReceipts {
			return err
		}
		own, err := tx.OwnReceipts(n.room.NID(), b.UserNID, b.upTo)
		n.receipts = append(n.receipts, own...)
		return err
	})
	if err != nil {
		return err
	}
	n.ownReceipt = slices.ContainsFunc(n.receipts, func(r storage.SyncReceipt) bool { return r.UserNID == b.UserNID })
	if n.receipts, err = b.withoutGoneReceipts(ctx, n.room, n.receipts); err != nil {
		return err
	}
	f := &b.filter.Room.Ephemeral
	if !f.room(string(n.room.ID())) || !f.typ("m.receipt") {
		n.receipts = nil
		return nil
	}
	n.receipts = slices.DeleteFunc(n.receipts, func(r storage.SyncReceipt) bool { return !f.sender(r.User) || b.ignores(id.UserID(r.User)) })
	return nil
}

// gatherTyping gathers the list of users who are typing, if it is new to the client. Users who have left since are not
// typing any more.
func (b *builder) gatherTyping(n *roomNews) {
	f := &b.filter.Room.Ephemeral
	if !f.room(string(n.room.ID())) || !f.typ("m.typing") {
		return
	}
	list, changed := b.typed.rooms[n.room.NID()]
	if n.fresh() && !changed {
		list = b.Service.typing.current(n.room.NID())
		changed = len(list) > 0
	}
	if n.typingChanged = changed || b.typed.rest; n.typingChanged {
		n.typing = slices.DeleteFunc(list, func(w typist) bool {
			return !f.sender(string(w.user)) || !n.room.MayBeJoined(w.user) || b.ignores(w.user)
		})
	}
}

// gatherRoomData gathers the user's account data of a room: what changed, or all of it in a room that is new to the
// client, because the user may have been in it before.
func (b *builder) gatherRoomData(ctx context.Context, n *roomNews) error {
	data := b.own.roomData[n.room.NID()]
	if n.fresh() && !n.initial {
		err := b.read(ctx, func(tx *storage.Tx) (err error) {
			if data, err = tx.RoomAccountData(b.UserNID, n.room.NID(), b.upTo); err != nil {
				return err
			}
			data, err = b.opts.AccountData.WithoutGoneMarkers(ctx, tx, data)
			return err
		})
		if err != nil {
			return err
		}
	}
	n.data = b.admittedData(n.room, data)
	return nil
}

// admittedData returns the account data of a room that the filter admits. It reuses data.
func (b *builder) admittedData(room *rooms.Room, data []storage.AccountDatum) []storage.AccountDatum {
	f := &b.filter.Room.AccountData
	if !f.room(string(room.ID())) || !f.sender(string(b.UserID)) {
		return nil
	}
	return slices.DeleteFunc(data, func(d storage.AccountDatum) bool { return !f.typ(d.Type) })
}
