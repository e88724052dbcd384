package feed

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"maunium.net/go/mautrix/event"

	"ebb/canonjson"
	"ebb/storage"
	"ebb/storage/shares"
)

// slidingFilter is the filter under which rooms are gathered for sliding sync. The client says by required_state and
// extensions what it wants.
const slidingFilter = `{"room":{"state":{"lazy_load_members":true}}}`

// slidingRun is a sliding sync request that is being answered.
type slidingRun struct {
	*slidingQuery
	filter  *cachedFilter
	session *session
	conn    *slidingConn
	turn    int64
	online  event.Presence // the presence that the request sets
	since   slidingPos     // the request's pos; zero in a first request
	base    []byte         // the encoded slidingState that belongs to since
	rooms   int            // the number of the user's rooms
	// confirmed is the position up to which the client has confirmed its to-device messages.
	confirmed storage.Pos
}

// initial reports whether the request begins a connection.
func (r *slidingRun) initial() bool { return r.since.conn == 0 }

// PollSliding begins a request for what is new in the rooms that the client asks for. The answer is a json.RawMessage,
// an object that the caller may keep.
// Spec: MSC4186
func (s *Service) PollSliding(ctx context.Context, q *SlidingRequest) (*Poll, error) {
	r, err := s.beginSliding(ctx, q)
	if err != nil {
		return nil, err
	}
	if err := s.acknowledgeSliding(ctx, r); err != nil {
		return nil, err
	}
	if err := s.touchSliding(ctx, r.conn); err != nil {
		return nil, err
	}
	timeout := r.Timeout
	if r.initial() {
		timeout = 0
	}
	p := s.newDevicePoll(&r.Requester, r.online, timeout, r.extensions.Profiles.on())
	p.build = func(ctx context.Context, final bool) (any, error) {
		answer, err := s.timedSliding(ctx, r, final)
		if errors.Is(err, errSuperseded) {
			return r.unchanged(), nil // nobody reads it
		}
		return orNothing(answer, err)
	}
	return p, nil
}

// beginSliding parses a request and finds its connection.
func (s *Service) beginSliding(ctx context.Context, q *SlidingRequest) (*slidingRun, error) {
	query, err := s.slidingQuery(q)
	if err != nil {
		return nil, err
	}
	r := &slidingRun{slidingQuery: query, online: event.PresenceOnline}
	if query.SetPresence != "" {
		if r.online, err = parsePresence(query.SetPresence); err != nil {
			return nil, err
		}
	}
	r.session = s.sessions.of(r.UserNID, r.DeviceNID, s.opts.Now())
	if r.filter, err = s.filterOf(ctx, r.Requester, slidingFilter); err != nil {
		return nil, err
	}
	if err := s.openSliding(ctx, r); err != nil {
		return nil, err
	}
	return r, s.setText(query, r.conn)
}

// timedSliding calls buildSliding and measures how long it takes.
func (s *Service) timedSliding(ctx context.Context, r *slidingRun, final bool) (json.RawMessage, error) {
	start := time.Now() // not the injected clock: real time is measured
	defer func() { syncBuild.Observe(time.Since(start).Seconds()) }()
	return s.buildSliding(ctx, r, final)
}

// slidingBuilder makes one answer of sliding sync. It embeds the builder of a /sync answer for what both have in
// common; the request of that builder has the position of the client's pos as its token, and slidingFilter as its
// filter.
type slidingBuilder struct {
	*builder
	run           *slidingRun
	change        slidingChange
	user          *slidingUser
	rooms         []slidingRoom // the rooms that the client may get
	counts        []int         // the number of rooms in each list
	lists         string        // see listCounts
	known         []knownSet
	nothingWanted combinedWant
	scratch       *slidingScratch
	look          slidingLook // what the server found when it last looked for news
	departs       bool        // the answer has rooms that are in no list any more
	next          slidingPos  // pos of the answer

	// For the extensions:
	keys      string      // the counts of one-time and fallback keys: JSON keys and values
	delivered storage.Pos // see slidingLook
	toDevice  storage.Pos // next_batch of to_device
	threads   ThreadSubscriptions

	moreFields bool     // the client wants profile fields that it did not want before
	hadFields  []string // those that it wanted before

	stickyShown []storage.Pos // sticky events in the timelines
	stickySent  bool          // the answer has sticky events in the extension
}

// buildSliding makes an answer. If there is nothing new, it returns nil, so that the request waits; if final is set, it
// returns an answer without news instead.
func (s *Service) buildSliding(ctx context.Context, r *slidingRun, final bool) (json.RawMessage, error) {
	own, inRooms := r.session.sub.News()
	if upTo := s.opts.DB.Announced(); s.slidingIdle(r) {
		if !final {
			return nil, nil
		}
		if !r.stuck() {
			r.since.Pos = upTo
		}
		return r.unchanged(), nil
	}
	x := s.sliding.scratch.Get().(*slidingScratch)
	b := x.builder(s, r)
	defer b.release()
	r.conn.mu.Lock()
	b.look = r.conn.look
	r.conn.mu.Unlock()
	if len(r.base) > 0 {
		if err := x.state.decode(r.base); err != nil {
			return nil, err
		}
		b.change.slidingState = x.state
	}
	answer, err := b.build(ctx, own, final)
	if err == nil {
		b.noteLook(own, inRooms)
	}
	return slices.Clone(answer), err
}

// slidingScratch holds memory that is reused from one answer to the next.
type slidingScratch struct {
	sliding slidingBuilder
	common  builder
	request request
	state   slidingState
	out     []byte // the answer, of which the caller gets a copy
	rooms   []slidingRoom
	sorted  []*slidingRoom
	known   []knownSet
	news    roomNews
}

// builder returns the builder in the scratch, for the answer to a request.
func (x *slidingScratch) builder(s *Service, r *slidingRun) *slidingBuilder {
	x.request = request{
		SyncRequest: SyncRequest{Requester: r.Requester}, filter: r.filter, since: r.since.Token, initial: r.initial(), session: r.session,
	}
	x.common = builder{Service: s, request: &x.request, now: s.opts.Now(), partial: true, out: x.out[:0]}
	x.sliding = slidingBuilder{builder: &x.common, run: r, scratch: x, next: r.since, rooms: x.rooms[:0], known: x.known[:0]}
	return &x.sliding
}

// release puts the scratch back into the pool. It clears all pointers first, so that the scratch keeps no rooms in
// memory.
func (b *slidingBuilder) release() {
	x, pool := b.scratch, &b.Service.sliding.scratch
	clear(b.rooms)
	clear(x.sorted)
	clear(b.known)
	x.rooms, x.sorted, x.known, x.news = b.rooms[:0], x.sorted[:0], b.known[:0], roomNews{}
	if cap(b.out) <= maxScratch {
		x.out = b.out[:0]
	}
	x.sliding, x.common, x.request = slidingBuilder{}, builder{}, request{}
	pool.Put(x)
}

// slidingIdle reports whether nothing that concerns the client has happened since the server last looked.
func (s *Service) slidingIdle(r *slidingRun) bool {
	if r.initial() {
		return false
	}
	own, inRooms := r.session.sub.News()
	r.conn.mu.Lock()
	defer r.conn.mu.Unlock()
	l := &r.conn.look
	return l.serial == r.since.serial && l.rooms == inRooms && l.covers(r.session, r.wants, r.since.Pos, own) &&
		!(r.extensions.Typing.on() && s.typing.changedSince(r.since.Token, s.epoch)) &&
		!(r.extensions.Profiles.on() && s.profiles.changedSince(r.since.Pos))
}

// build makes the answer. own is the count of the device's own news (wake.Sub.News) that was read before upTo.
func (b *slidingBuilder) build(ctx context.Context, own uint64, final bool) (json.RawMessage, error) {
	if err := b.makePlan(ctx); err != nil {
		return nil, err
	}
	b.run.rooms = len(b.plan.all)
	var err error
	if b.ignored, err = b.opts.AccountData.Ignores(ctx, nil, b.UserNID); err != nil {
		return nil, err
	}
	if b.counts, err = b.listRooms(ctx); err != nil {
		return nil, err
	}
	if b.manyWantedCold() {
		// Large answers count against the user's share of database reads, like other large reads.
		err = b.opts.DB.Read(shares.Requested(ctx, string(b.UserID)), func(tx *storage.Tx) error {
			b.tx = tx
			defer func() { b.tx = nil }()
			return b.write(ctx, own)
		})
	} else {
		err = b.write(ctx, own)
	}
	if err != nil {
		return nil, err
	}
	return b.finish(ctx, final)
}

// write gathers and appends the whole answer except for the lists and pos, which finish appends.
func (b *slidingBuilder) write(ctx context.Context, own uint64) error {
	b.out = append(b.out, '{')
	if err := b.ownSliding(ctx, own); err != nil {
		return err
	}
	if err := b.writeSlidingRooms(ctx); err != nil {
		return err
	}
	if err := b.writeExtensions(ctx); err != nil {
		return err
	}
	b.noteRooms()
	return nil
}

// finish stores the new state of the connection, and appends the lists and pos to the answer. If the answer has no
// news, it returns nil, so that the request waits, unless final is set.
func (b *slidingBuilder) finish(ctx context.Context, final bool) (json.RawMessage, error) {
	next := b.run.since
	next.Pos, next.Epoch, next.Typing, next.Active = b.upTo, b.epoch, b.builder.next.Typing, b.builder.next.Active
	switch {
	case b.initial || b.some && b.change.changed:
		var err error
		if next.conn, next.serial, err = b.saveSliding(ctx, b.run, b.change.result()); err != nil {
			return nil, err
		}
	case b.some:
	case b.change.changed:
		// Only rooms outside the client's ranges have changed. The client keeps its position, and the next answer with
		// news stores what the client lacks.
		next = b.run.since
	default:
		b.run.since = next // the client lacks nothing up to here
	}
	if b.next = next; !b.some && !final {
		return nil, nil
	}
	b.count(b.some)
	if len(b.sent) <= maxSentMembers/2 { // more than half of the table would only displace one another
		b.session.noteSent(b.sessions.seed, b.sent, b.upTo)
	}
	b.out = appendPos(append(b.out, b.listCounts()...), b.run.Body.TxnID, next)
	return b.out, nil
}

// appendPos appends txn_id and pos, and closes the object of the answer.
func appendPos(dst []byte, txnID string, pos slidingPos) []byte {
	if txnID != "" {
		dst = append(dst, `"txn_id":`...)
		dst = append(canonjson.AppendString(dst, txnID), ',')
	}
	dst = append(dst, `"pos":"`...)
	dst = pos.append(dst)
	return append(dst, `"}`...)
}

// unchanged returns an answer without news, for a client that keeps its position.
func (r *slidingRun) unchanged() json.RawMessage {
	r.conn.mu.Lock()
	l := r.conn.look
	r.conn.mu.Unlock()
	out := append(make([]byte, 0, 512), `{"rooms":{},`...)
	out = r.extensions.appendIdle(out, &l)
	out = append(out, l.lists...)
	return appendPos(out, r.Body.TxnID, r.since)
}

// noteLook records in the connection what the server has just looked for, so that it need not look again before
// something changes. It does nothing if a newer request uses the connection.
func (b *slidingBuilder) noteLook(own, inRooms uint64) {
	c := b.run.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.run.turn != c.turn {
		return
	}
	c.look = slidingLook{
		session: b.session, wants: b.run.wants, serial: b.next.serial, from: b.request.since.Pos, upTo: b.upTo, own: own, rooms: inRooms,
		found: b.some, stuck: !b.some && b.change.changed, messages: len(b.own.toDevice) > 0 || b.stickySent, delivered: b.delivered, toDevice: b.toDevice, counts: b.keys, lists: b.listCounts(),
	}
	if b.departs {
		c.look.session = nil // so that the lists are counted again
	}
}

// stuck reports whether something has changed that the client has not been sent, because it concerns rooms outside the
// ranges of its lists. The position in the client's pos must then stay where it is.
func (r *slidingRun) stuck() bool {
	r.conn.mu.Lock()
	defer r.conn.mu.Unlock()
	return r.conn.look.stuck
}

// listCounts returns the key "lists" of the answer with its value and a comma. The value has the number of rooms in
// each list.
func (b *slidingBuilder) listCounts() string {
	if len(b.counts) == 0 || b.lists != "" {
		return b.lists
	}
	var own [128]byte
	dst := append(own[:0], `"lists":{`...)
	for i, n := range b.counts {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = canonjson.AppendString(dst, b.run.lists[i].name)
		dst = append(dst, `:{"count":`...)
		dst = strconv.AppendInt(dst, int64(n), 10)
		dst = append(dst, '}')
	}
	if dst = append(dst, `},`...); string(dst) == b.look.lists {
		b.lists = b.look.lists // the same text as before needs no new memory
	} else {
		b.lists = string(dst)
	}
	return b.lists
}
