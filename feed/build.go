package feed

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
	"ebb/storage/shares"
)

// builder makes one answer to a /sync request. The answer has the changes after the request's token, up to the position
// upTo.
type builder struct {
	*Service
	*request
	tx   *storage.Tx // one for the whole answer if that is large, else nil
	now  time.Time
	upTo storage.Pos
	next Token // the answer's next_batch

	plan   roomPlan
	typed  typingView
	own    ownNews
	shared sharing
	sticky map[ident.RoomNID][]storage.EventRow // sticky events that are new to the client, oldest first
	ahead  ahead

	// partial: the answer includes partial-state rooms, which only clients with lazy loading get.
	partial bool

	ignored map[id.UserID]struct{}
	sent    []memberKey // member events in the answer
	news    *roomNews   // of the room that is gathered and written at the moment
	out     []byte
	some    bool // the answer has news, so that the client need not wait
}

// roomPlan holds the user's rooms, and which of them may be part of the answer.
type roomPlan struct {
	all     []rooms.RoomMembership
	loaded  []*rooms.Room // those of all in which the user is joined
	joined  []joinedRoom  // those that may have news
	invited []rooms.RoomMembership
	knocked []rooms.RoomMembership
	left    []rooms.RoomMembership
}

// joinedRoom is a room in which the user is joined.
type joinedRoom struct {
	rooms.RoomMembership
	room  *rooms.Room
	fresh bool // joined after the token: the client has nothing of it
}

// build makes an answer. If there is nothing new, it returns nil, so that the request waits; if final is set, it
// returns an answer without news instead.
func (s *Service) build(ctx context.Context, r *request, final bool) (json.RawMessage, error) {
	b := &builder{Service: s, request: r, now: s.opts.Now(), partial: r.filter.Room.State.LazyLoadMembers}
	// The counts of news are read twice. The session stores those from before the position was read: the position
	// covers at least the news that they count. Those from after it decide whether there is anything to look up,
	// because the position may also cover news that came in between.
	own, inRooms := r.session.sub.News()
	if b.upTo = s.opts.DB.Announced(); b.idle(r.session.sub.News()) {
		if !final {
			return nil, nil
		}
		r.count(false)
		return b.nothing(), nil
	}
	answer, err := b.build(ctx, own, final)
	if err == nil {
		r.session.seenRooms(b.upTo, inRooms)
	}
	return answer, err
}

func (b *builder) build(ctx context.Context, news uint64, final bool) (answer json.RawMessage, err error) {
	if err := b.makePlan(ctx); err != nil {
		return nil, err
	}
	if err := b.dropLeft(ctx); err != nil {
		return nil, err
	}
	if b.ignored, err = b.opts.AccountData.Ignores(ctx, nil, b.UserNID); err != nil {
		return nil, err
	}
	if !b.large() && !b.manyCold() {
		own := b.scratch.Get().(*scratch)
		defer b.scratch.Put(own)
		b.out, b.news = own.out[:0], &own.news
		answer, err := b.answer(ctx, news, final)
		if cap(b.out) <= maxScratch {
			own.out = b.out
		}
		own.news = roomNews{} // so that it keeps no room in memory
		return slices.Clone(answer), err
	}
	b.news = new(roomNews)
	b.out = make([]byte, 0, min(maxFirstBuffer, roomBuffer*len(b.plan.joined)))
	// One transaction for many rooms is cheaper than one for each. Such answers count against the user's share of
	// database reads, like other large reads.
	err = b.opts.DB.Read(shares.Requested(ctx, string(b.UserID)), func(tx *storage.Tx) (err error) {
		b.tx = tx
		answer, err = b.answer(ctx, news, final)
		return err
	})
	return answer, err
}

// idle reports whether nothing that concerns the user has happened since the token, by positions and counts alone.
func (b *builder) idle(own, inRooms uint64) bool {
	t := b.since
	return !b.initial && !b.FullState && (t.Pos == b.upTo || b.session.quietRooms(t.Pos, inRooms)) && t.ToDevice == t.Pos && t.Sticky == t.Pos && t.Epoch == b.epoch &&
		b.session.quiet(t.Pos, own) && !b.profilesChanged() && !b.Service.typing.changedSince(t, b.epoch) && b.Service.presence.newest() == t.Presence
}

// nothing returns an answer without news: it has only the key counts and a token at a newer position.
func (b *builder) nothing() json.RawMessage {
	next := b.since
	next.Pos, next.ToDevice, next.Sticky = b.upTo, b.upTo, b.upTo
	b.out = append(make([]byte, 0, 256), '{')
	b.writeCounts()
	b.out = append(b.out, `"next_batch":"`...)
	b.out = next.append(b.out)
	return append(b.out, `"}`...)
}

// scratch holds buffers that are reused from one answer to the next.
type scratch struct {
	out  []byte // the answer, of which the caller gets a copy
	news roomNews
}

// maxScratch bounds the buffer of a scratch that is kept for the next answer.
const maxScratch = 256 << 10

// roomBuffer is the approximate size of a room in a first answer under lazy loading; maxFirstBuffer bounds the
// estimate.
const (
	roomBuffer     = 12 << 10
	maxFirstBuffer = 8 << 20
)

// large reports whether the answer will probably have all rooms.
func (b *builder) large() bool { return b.initial || b.FullState }

// read runs f in b.tx, the transaction for the whole answer, if there is one, and otherwise in a new transaction.
func (b *builder) read(ctx context.Context, f func(tx *storage.Tx) error) error {
	if b.tx != nil {
		return f(b.tx)
	}
	return b.opts.DB.Read(ctx, f)
}

// makePlan sets the position up to which the answer goes, and selects the rooms that may have news.
func (b *builder) makePlan(ctx context.Context) error {
	memberships, err := b.memberships(ctx)
	if err != nil {
		return err
	}
	b.next = Token{Pos: b.upTo, Epoch: b.epoch, Chain: b.since.Chain}
	b.typed = b.Service.typing.view(b.since, b.epoch, b.initial)
	b.next.Typing = b.typed.serial
	b.plan.all = memberships
	if err := b.planJoined(ctx); err != nil {
		return err
	}
	for _, m := range memberships {
		news := b.initial || m.Changed > b.since.Pos
		switch m.Membership {
		case rooms.Join: // planJoined
		case rooms.Invite:
			if news || b.FullState {
				b.plan.invited = append(b.plan.invited, m)
			}
		case rooms.Knock:
			if news || b.FullState {
				b.plan.knocked = append(b.plan.knocked, m)
			}
		default:
			if news && !(b.initial && m.Forgotten) {
				b.plan.left = append(b.plan.left, m)
			}
		}
	}
	return nil
}

// dropLeft removes from the plan of an initial sync, unless the filter has include_leave, the rooms that the user left.
// Those from which the user was kicked or banned stay.
// Deviation: the specification omits these, too.
func (b *builder) dropLeft(ctx context.Context) error {
	if !b.initial || b.filter.Room.IncludeLeave || len(b.plan.left) == 0 {
		return nil
	}
	var removed map[ident.RoomNID]bool
	err := b.read(ctx, func(tx *storage.Tx) (err error) {
		removed, err = removals(tx, b.UserNID)
		return err
	})
	b.plan.left = slices.DeleteFunc(b.plan.left, func(m rooms.RoomMembership) bool {
		return m.Membership != rooms.Ban && !removed[m.Room]
	})
	return err
}

// memberships sets upTo to the newest position and returns the user's memberships at it. If a membership is newer than
// upTo, it tries again: that membership and its events would otherwise belong to different answers.
func (b *builder) memberships(ctx context.Context) ([]rooms.RoomMembership, error) {
	for {
		b.upTo = b.opts.DB.Announced()
		list, err := b.opts.Rooms.Memberships(ctx, b.UserNID)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(list, func(m rooms.RoomMembership) bool { return m.Changed > b.upTo }) {
			return list, nil
		}
		// A membership changed in between. Each further iteration needs another change.
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// planJoined selects from the rooms in which the user is joined.
func (b *builder) planJoined(ctx context.Context) error {
	nids := make([]ident.RoomNID, 0, len(b.plan.all))
	for i := range b.plan.all {
		if m := &b.plan.all[i]; m.Membership == rooms.Join {
			nids = append(nids, m.Room)
		}
	}
	var err error
	if b.plan.loaded, err = b.opts.Rooms.RoomsByNID(ctx, nids); err != nil {
		return err
	}
	list := b.plan.loaded
	for i := range b.plan.all {
		if m := &b.plan.all[i]; m.Membership == rooms.Join {
			b.planRoom(m, list[0])
			list = list[1:]
		}
	}
	return nil
}

func (b *builder) planRoom(m *rooms.RoomMembership, room *rooms.Room) {
	if b.withheld(room) {
		return
	}
	if b.typed.active[m.Room] {
		b.next.Active = true
	}
	_, typing := b.typed.rooms[m.Room]
	fresh := b.isFresh(m, room)
	if fresh || b.FullState || room.Last() > b.since.Pos || typing || b.typed.rest {
		b.plan.joined = append(b.plan.joined, joinedRoom{RoomMembership: *m, room: room, fresh: fresh})
	}
}

// isFresh reports whether a room in which the user is joined is new to the client, which then has nothing of it.
func (b *builder) isFresh(m *rooms.RoomMembership, room *rooms.Room) bool {
	since := m.JoinedPos
	if !b.partial {
		since = max(since, room.Completed())
	}
	return b.initial || since > b.since.Pos
}

// withheld reports whether the room is left out of the answer. That is so until all its members are known, unless the
// client loads members lazily.
func (b *builder) withheld(room *rooms.Room) bool {
	return !b.partial && (room.Partial() || room.Completed() > b.upTo)
}

// planData adds the rooms in which only the user's account data changed.
func (b *builder) planData(ctx context.Context) error {
	for nid := range b.own.roomData {
		if err := b.planAlso(ctx, nid); err != nil {
			return err
		}
	}
	return nil
}

// planAlso adds the given room to plan.joined, the joined rooms that may have news, if the user is joined to it and it
// is not there yet.
func (b *builder) planAlso(ctx context.Context, nid ident.RoomNID) error {
	if slices.ContainsFunc(b.plan.joined, func(j joinedRoom) bool { return j.Room == nid }) {
		return nil
	}
	i := slices.IndexFunc(b.plan.all, func(m rooms.RoomMembership) bool { return m.Room == nid && m.Membership == rooms.Join })
	if i < 0 {
		return nil
	}
	room, err := b.opts.Rooms.RoomByNID(ctx, nid)
	if err == nil && !b.withheld(room) {
		b.plan.joined = append(b.plan.joined, joinedRoom{RoomMembership: b.plan.all[i], room: room})
	}
	return err
}

// anyRoom reports whether f is true of one of the rooms in which the user is joined. A room that cannot be read is
// logged and does not count.
func (b *builder) anyRoom(ctx context.Context, f func(*rooms.Room) bool) bool {
	return slices.ContainsFunc(b.plan.all, func(m rooms.RoomMembership) bool {
		if m.Membership != rooms.Join {
			return false
		}
		room, err := b.opts.Rooms.RoomByNID(ctx, m.Room)
		if err != nil {
			b.opts.Log.WarnContext(ctx, "Cannot load a room of a user", "room", m.Room, "error", err)
			return false
		}
		return f(room)
	})
}

// answer gathers and writes the answer. Like build, it returns nil if there is nothing new.
func (b *builder) answer(ctx context.Context, news uint64, final bool) (json.RawMessage, error) {
	if err := b.ownNews(ctx, news); err != nil {
		return nil, err
	}
	if err := b.planData(ctx); err != nil {
		return nil, err
	}
	if err := b.stickyNews(ctx); err != nil {
		return nil, err
	}
	if err := b.sharingNews(ctx); err != nil {
		return nil, err
	}
	b.out = append(b.out, '{')
	if err := b.writeRooms(ctx); err != nil {
		return nil, err
	}
	b.writePresence(b.presenceNews(ctx))
	if err := b.profileNews(ctx); err != nil {
		return nil, err
	}
	b.writeOwn()
	if !b.some && !final {
		return nil, nil
	}
	b.count(b.some)
	b.session.noteSent(b.sessions.seed, b.sent, b.upTo)
	b.out = append(b.out, `"next_batch":"`...)
	b.out = b.next.append(b.out)
	return append(b.out, `"}`...), nil
}

// admits reports whether the filter admits a room.
func (b *builder) admits(room *rooms.Room) bool { return b.filter.Room.room(string(room.ID())) }
