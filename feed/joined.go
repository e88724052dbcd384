package feed

import (
	"slices"
	"strconv"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/history"
	"ebb/rooms"
	"ebb/storage"
)

// joinedEntry is the entry of one joined room in the making.
type joinedEntry struct {
	*joinedRoom
	window   window
	since    storage.Pos // the timeline begins after it
	timeline timeline
	state    stateWanted
	summary  bool // the summary is told
	heroes   []id.UserID
}

// writeJoined appends the entry of a joined room if anything in it is new.
// Spec: client-server-api#get_matrixclientv3sync, rooms.join
func (b *builder) writeJoined(j *joinedRoom) error {
	data, err := b.roomData(j)
	if err != nil {
		return err
	}
	if !b.admits(j.room) {
		return nil
	}
	mark := len(b.out)
	e := &joinedEntry{joinedRoom: j, since: b.since.Pos}
	if j.fresh {
		e.since = 0
	}
	e.window = b.window(j.room, e.since)
	if e.timeline, err = b.timeline(j.room, e.window, e.since, b.upTo); err != nil {
		return err
	}
	if j.fresh && !b.initial && !e.timeline.fromCreation() {
		e.timeline.limited = true // there is a gap between what the client had of the room, nothing, and its timeline
	}
	if err := b.planState(e); err != nil {
		return err
	}
	b.key(string(j.room.ID()))
	b.out = append(b.out, '{')
	news := j.fresh || b.FullState || len(e.timeline.events) > 0
	for _, write := range []func(*joinedEntry) (bool, error){b.writeSummary, b.writeJoinedState, b.writeEphemeral} {
		some, err := write(e)
		if err != nil {
			return err
		}
		news = news || some
	}
	news = b.writeRoomData(j.room, data) || news
	if !news && !e.timeline.limited {
		b.out = b.out[:mark]
		return nil
	}
	if err := b.writeTimeline(j.room, &e.timeline); err != nil {
		return err
	}
	if err := b.writeUnread(j.room); err != nil {
		return err
	}
	b.out[len(b.out)-1] = '}'
	b.out = append(b.out, ',')
	return nil
}

// writeTimeline appends the timeline of a room.
func (b *builder) writeTimeline(room *rooms.Room, t *timeline) error {
	b.out = append(b.out, `"timeline":{"events":[`...)
	if err := b.writeEvents(room, t); err != nil {
		return err
	}
	if b.lazy() {
		b.noteMembers(room, t.events)
	}
	b.noteActivity(t.events)
	b.out = append(b.out, `],"limited":`...)
	b.out = strconv.AppendBool(b.out, t.limited)
	b.out = append(b.out, `,"prev_batch":"`...)
	b.out = append(b.out, history.TimelineToken(t.prev)...)
	b.out = append(b.out, `"},`...)
	return nil
}

// noteMembers: a member event in the timeline need not be given again.
func (b *builder) noteMembers(room *rooms.Room, events []*rooms.Event) {
	for _, e := range events {
		if key, isState := stateKey(e); isState && key.Type == memberType {
			b.sentMember(room, id.UserID(key.Key), e.Pos)
		}
	}
}

// noteActivity: who has just sent something is here. A user's presence lasts only while a device of theirs syncs, so it is
// seen early enough there, and sends need not tell.
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

func (b *builder) lazy() bool { return b.filter.Room.State.LazyLoadMembers }

// changedMembers tells whether any membership of the room may have changed since the token.
func (e *joinedEntry) changedMembers() bool {
	return !e.window.whole || slices.ContainsFunc(e.window.events, func(ev *rooms.Event) bool { return ev.Type() == memberType })
}

// writeSummary appends the room's summary; it is told when a membership has changed. That the members are known now is news by itself.
func (b *builder) writeSummary(e *joinedEntry) (bool, error) {
	b.out = append(b.out, `"summary":{`...)
	completed := e.room.Completed() > e.since
	if e.summary = e.fresh || b.FullState || completed || e.changedMembers(); e.summary {
		if !named(e.room) {
			e.heroes = heroes(e.room, b.UserID)
			b.out = append(b.out, `"m.heroes":`...)
			b.out = appendStrings(b.out, e.heroes)
			b.out = append(b.out, ',')
		}
		b.out = append(b.out, `"m.invited_member_count":`...)
		b.out = strconv.AppendInt(b.out, int64(e.room.Count(rooms.Invite)), 10)
		b.out = append(b.out, `,"m.joined_member_count":`...)
		b.out = strconv.AppendInt(b.out, int64(e.room.Count(rooms.Join)), 10)
	}
	b.out = append(b.out, `},`...)
	return completed, nil
}

// named tells whether a room has a name of its own, for which no heroes are needed.
func named(room *rooms.Room) bool {
	for typ, key := range map[string]string{"m.room.name": "name", "m.room.canonical_alias": "alias"} {
		if e := room.State(typ, ""); e != nil {
			if raw, ok := canonjson.Get(e.Content(), key); ok && len(raw) > len(`""`) && raw[0] == '"' {
				return true
			}
		}
	}
	return false
}

// maxHeroes is how many members name a room without a name.
const maxHeroes = 5

// heroes are the members by whom a room without a name is called: those who are in it or invited, or else those who were.
func heroes(room *rooms.Room, self id.UserID) []id.UserID {
	for _, of := range [][]rooms.Membership{{rooms.Join, rooms.Invite}, {rooms.Leave, rooms.Ban}} {
		members := slices.DeleteFunc(room.Members(of...), func(m *rooms.Member) bool { return m.User == self })
		if len(members) == 0 {
			continue
		}
		slices.SortFunc(members, func(a, b *rooms.Member) int { return int(a.Pos - b.Pos) })
		names := make([]id.UserID, 0, maxHeroes)
		for _, m := range members[:min(maxHeroes, len(members))] {
			names = append(names, m.User)
		}
		return names
	}
	return []id.UserID{}
}

// planState decides which state of a joined room is given.
func (b *builder) planState(e *joinedEntry) error {
	q := &e.state
	*q = stateWanted{
		room: e.room, since: e.since, sinceMember: e.since, end: &statePoint{pos: b.upTo + 1}, window: e.window,
		lazy: b.lazy(), force: e.fresh || b.FullState,
	}
	if b.FullState {
		q.since, q.sinceMember = 0, 0
	}
	if q.lazy && q.since == 0 {
		var err error
		if q.sinceMember, err = b.knownMembers(e.room); err != nil {
			return err
		}
	}
	if b.wantsStateAfter() {
		return nil
	}
	return b.settle(q, &e.timeline)
}

// writeJoinedState appends the state sections of a joined room.
func (b *builder) writeJoinedState(e *joinedEntry) (bool, error) {
	if e.state.lazy {
		e.state.needed = b.neededMembers(e)
	}
	return b.writeStates(&e.state)
}

// neededMembers are those without whom the timeline and the summary cannot be shown; under full state also oneself.
func (b *builder) neededMembers(e *joinedEntry) []id.UserID {
	var needed []id.UserID
	if e.fresh || b.FullState {
		needed = append(needed, b.UserID)
	}
	for _, ev := range e.timeline.events {
		if !slices.Contains(needed, ev.Sender()) {
			needed = append(needed, ev.Sender())
		}
	}
	return append(needed, e.heroes...)
}

func (b *builder) wantsStateAfter() bool { return b.StateAfter || b.UnstableStateAfter }

// writeStates appends state, or state_after under the name that the client asked for. It reports whether there was any.
func (b *builder) writeStates(q *stateWanted) (bool, error) {
	var events []*rooms.Event
	f := &b.filter.Room.State
	if f.room(string(q.room.ID())) {
		var err error
		if events, err = b.stateFor(q); err != nil {
			return false, err
		}
		events = slices.DeleteFunc(events, func(e *rooms.Event) bool { return !f.event(e.Type(), string(e.Sender()), e.Content()) })
	}
	b.key(b.stateName())
	b.out = append(b.out, `{"events":[`...)
	if err := b.writeState(q.room, events); err != nil {
		return false, err
	}
	b.out = append(b.out, `]},`...)
	return len(events) > 0, nil
}

// stateName is the member of the answer in which state is given. There is only one, also for clients that ask by both
// names: readers that know them as one member refuse an answer with both.
func (b *builder) stateName() string {
	switch {
	case b.StateAfter:
		return "state_after"
	case b.UnstableStateAfter:
		return "org.matrix.msc4222.state_after"
	}
	return "state"
}

// writeEphemeral appends receipts and typing.
func (b *builder) writeEphemeral(e *joinedEntry) (bool, error) {
	b.out = append(b.out, `"ephemeral":{"events":[`...)
	mark := len(b.out)
	f := &b.filter.Room.Ephemeral
	admitted := f.room(string(e.room.ID()))
	own, err := b.writeReceipts(e, admitted && f.typ("m.receipt"))
	if err != nil {
		return false, err
	}
	if admitted && f.typ("m.typing") {
		b.writeTyping(e)
	}
	some := own || len(b.out) > mark
	b.out = append(b.out, `]},`...)
	return some, nil
}

// writeReceipts appends the receipts that changed; a room that is new to the client gets the newest ones of all. It tells
// whether one of them is the user's own: then the unread counts are news, receipts wanted or not.
func (b *builder) writeReceipts(e *joinedEntry, wanted bool) (own bool, err error) {
	since := b.since.Pos
	if e.fresh {
		since = 0
	}
	if e.room.LastReceipt() <= since {
		return false, nil
	}
	var receipts []storage.SyncReceipt
	err = b.read(func(tx *storage.Tx) (err error) {
		if receipts, err = tx.ReceiptsSince(e.Room, since, b.upTo, b.UserNID, maxReceipts); err != nil || len(receipts) < maxReceipts {
			return err
		}
		own, err := tx.OwnReceipts(e.Room, b.UserNID, b.upTo)
		receipts = append(receipts, own...)
		return err
	})
	if err != nil {
		return false, err
	}
	own = slices.ContainsFunc(receipts, func(r storage.SyncReceipt) bool { return r.UserNID == b.UserNID })
	f := &b.filter.Room.Ephemeral
	receipts = slices.DeleteFunc(receipts, func(r storage.SyncReceipt) bool { return !f.sender(r.User) || b.ignores(id.UserID(r.User)) })
	if wanted && len(receipts) > 0 {
		b.out = appendReceipts(b.list(), uniqueReceipts(receipts))
	}
	return own, nil
}

// uniqueReceipts drops what stands twice in the list.
func uniqueReceipts(receipts []storage.SyncReceipt) []storage.SyncReceipt {
	seen := make(map[storage.Pos]bool, len(receipts))
	return slices.DeleteFunc(receipts, func(r storage.SyncReceipt) bool {
		twice := seen[r.Position]
		seen[r.Position] = true
		return twice
	})
}

// writeTyping appends who types, if that is new to the client. Somebody who has left meanwhile types no more.
func (b *builder) writeTyping(e *joinedEntry) {
	list, changed := b.typed.rooms[e.Room]
	if e.fresh && !changed {
		list = b.Service.typing.current(e.Room)
		changed = len(list) > 0
	}
	if !changed && !b.typed.rest {
		return
	}
	f := &b.filter.Room.Ephemeral
	b.out = appendTyping(b.list(), list, func(w typist) bool {
		return f.sender(string(w.user)) && e.room.MayBeJoined(w.user) && !b.ignores(w.user)
	})
}

// roomData is the user's account data of a room that changed; all of it where the room is new to the client, who may have
// been in it before and set some.
func (b *builder) roomData(j *joinedRoom) (data []storage.AccountDatum, err error) {
	if !j.fresh || b.initial {
		return b.own.roomData[j.Room], nil
	}
	err = b.read(func(tx *storage.Tx) (err error) {
		data, err = tx.RoomAccountData(b.UserNID, j.Room, b.upTo)
		return err
	})
	return data, err
}

// writeRoomData appends the user's account data of a room.
func (b *builder) writeRoomData(room *rooms.Room, data []storage.AccountDatum) bool {
	b.out = append(b.out, `"account_data":{"events":[`...)
	mark := len(b.out)
	f := &b.filter.Room.AccountData
	for _, d := range data {
		if f.room(string(room.ID())) && f.typ(d.Type) && f.sender(string(b.UserID)) {
			b.out = appendDatum(b.list(), d)
		}
	}
	some := len(b.out) > mark
	b.out = append(b.out, `]},`...)
	return some
}

// writeUnread appends the unread counts. Without unread_thread_notifications the threads count as the room.
func (b *builder) writeUnread(room *rooms.Room) error {
	u, err := b.opts.History.Unread(b.ctx, b.tx, b.UserNID, room.NID())
	if err != nil {
		return err
	}
	main := u.Main
	byThread := b.filter.Room.Timeline.UnreadThreadNotifications
	if !byThread {
		for _, c := range u.Threads {
			main.Notify += c.Notify
			main.Highlight += c.Highlight
		}
	}
	b.out = append(b.out, `"unread_notifications":`...)
	b.out = appendCount(b.out, main)
	b.out = append(b.out, ',')
	if byThread {
		b.writeThreads(u.Threads)
	}
	return nil
}

// writeThreads appends the counts of threads that have any; where none has, the member is absent.
func (b *builder) writeThreads(threads map[id.EventID]history.UnreadCount) {
	separator := `"unread_thread_notifications":{`
	for root, c := range threads {
		if c == (history.UnreadCount{}) {
			continue
		}
		b.out = append(b.out, separator...)
		separator = ","
		b.key(string(root))
		b.out = appendCount(b.out, c)
	}
	if separator == "," {
		b.out = append(b.out, `},`...)
	}
}

func appendCount(dst []byte, c history.UnreadCount) []byte {
	dst = append(dst, `{"highlight_count":`...)
	dst = strconv.AppendInt(dst, c.Highlight, 10)
	dst = append(dst, `,"notification_count":`...)
	dst = strconv.AppendInt(dst, c.Notify, 10)
	return append(dst, '}')
}
