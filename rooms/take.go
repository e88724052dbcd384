package rooms

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// incoming is a verified event of another server on its way into the room, with what was looked up for it.
type incoming struct {
	*pdu.Event
	sender int64 // nid
	target int64 // nid of the user whom a member event is about
	relay  bool  // this server passes it on to the others
	asked  bool  // it was asked for, not sent

	unverified bool // its signature could not be checked: it is undecided
	noAuth     bool // an auth event is not to be had: the same
	followed   bool // a good event follows it: so it is kept, if it is undecided
	elsewhere  bool // it cites an event of another room

	refused error  // a policy server does not want it
	outlier *Event // as it is stored without a place; nil if it is not

	relation     *relation
	threadRoot   storage.Pos
	redacted     *Event             // what an m.room.redaction redacts; nil where that is not stored
	redactedBy   storage.Pos        // the redaction of this event that took effect before it was stored
	awaited      bool               // there are redactions that arrived before this event, and of those
	earlier      []earlierRedaction // the valid ones
	purgedSender id.UserID          // of the event that an m.room.redaction redacts, where it was purged
	late         bool               // events that follow it came before it,
	lateOrder    int64              // the oldest of them at this order

	gaps   map[id.EventID]gap // the state after prev_events that are not stored
	behind []id.EventID       // those of them that are history

	found []stateRef // members that a partial room came to know by it

	// Of an event of the past.
	order   int64        // its place in the timeline
	told    gap          // the state before it, where prev_events are not stored
	base    int64        // a snapshot that does not differ much from that
	missing []id.EventID // prev_events that are not stored
}

// gap is a state that another server told.
type gap map[pdu.StateKey]stateRef

// An event cannot be judged: what it names is nowhere to be had.
var (
	errNoAuthEvent = errors.New("an auth event is not to be had")
	errNoPrevEvent = errors.New("an event before it is not to be had")
)

// take appends an event of another server to the batch: checks 4 to 6. What the rules refuse becomes part of the graph all
// the same, flagged, so that nobody asks for it again; the error then is the *eventauth.Rejection and the batch is good.
func (b *batch) take(ctx context.Context, in *incoming) (verdict, err error) {
	pe := &pendingEvent{Event: &Event{
		Event: in.Event, Room: b.room.nid, SenderNID: in.sender, ReceivedTS: b.svc.Now().UnixMilli(), ThreadRoot: in.threadRoot, built: true, outlier: in.outlier,
	}, relation: in.relation, outgoing: in.relay, late: in.late, awaited: in.awaited}
	if in.Type() == typeDummy {
		pe.Flags |= storage.DummyEvent
	}
	onHead := in.gaps == nil && b.onHead(in.PrevEvents())
	if onHead {
		pe.before = b.room.next.snapshot
		verdict, err = b.judgeOnHead(in)
	}
	if err == nil && !onHead || errors.Is(err, errNeedTx) {
		err = b.room.settled(ctx, func(tx *storage.Tx) (err error) {
			p := newPastReader(b.room, tx, b.events, b.facts())
			verdict, err = b.judgeInPast(p, in, pe, onHead)
			if err != nil {
				return err
			}
			if errors.Is(verdict, errUndecided) && !in.followed {
				return verdict
			}
			return b.follow(ctx, p, in, pe, verdict, onHead)
		})
		if err != nil {
			return verdict, err
		}
		return verdict, b.append(in, pe)
	}
	if err != nil {
		return nil, err
	}
	if err := b.follow(ctx, nil, in, pe, verdict, true); err != nil {
		return verdict, err
	}
	return verdict, b.append(in, pe)
}

// append adds an event that was judged to the batch, and behind it the redactions that it lets be seen.
func (b *batch) append(in *incoming, pe *pendingEvent) error {
	b.events = append(b.events, pe)
	return b.reveal(in, pe)
}

// onHead tells whether an event follows all that the room's newest ones are.
func (b *batch) onHead(prev []id.EventID) bool {
	heads := b.room.next.extremities
	if len(prev) != len(heads) || len(heads) == 0 {
		return false
	}
	for _, x := range heads {
		if !slices.Contains(prev, x.id) {
			return false
		}
	}
	return true
}

// judgeOnHead judges an event that follows the newest ones and cites the auth events that the state before it has: then
// checks 4 to 6 are one. errNeedTx means that it is not so.
func (b *batch) judgeOnHead(in *incoming) (verdict, err error) {
	if in.unverified || in.noAuth || in.elsewhere {
		return nil, errNeedTx
	}
	v := &view{r: b.room}
	cited := in.AuthEvents()
	n := 0
	for _, k := range eventauth.AuthKeys(b.room.version, in.Event) {
		e := v.Get(k.Type, k.Key)
		if v.err != nil {
			return nil, v.err
		}
		if e == nil {
			continue
		}
		if n++; !slices.Contains(cited, e.ID()) {
			return nil, errNeedTx
		}
	}
	if n != len(cited) {
		return nil, errNeedTx
	}
	verdict = eventauth.Check(b.room.version, in.Event, v)
	return verdict, v.err
}

// rejected is a verdict of checks 4 and 5, softFailed of 6 and 7.
type softFailed struct{ error }

func (s softFailed) Unwrap() error { return s.error }

// judgeInPast judges an event by its auth events, the state before it and the current state.
func (b *batch) judgeInPast(p *pastReader, in *incoming, pe *pendingEvent, onHead bool) (verdict, err error) {
	auth, verdict, err := b.authOf(p, in)
	if err != nil {
		return nil, err
	}
	if !onHead {
		if pe.before, err = b.stateBefore(p, in); err != nil {
			return nil, err
		}
	}
	if verdict == nil && len(in.PrevEvents()) == 0 {
		verdict = &eventauth.Rejection{Rule: "1.1", Msg: "only the create event has no prev_events"}
	}
	if verdict == nil { // 4. It passes authorisation rules based on its auth events.
		verdict = eventauth.Check(b.room.version, in.Event, auth)
	}
	if verdict == nil && p.partial {
		if err := b.learn(p, in, pe); err != nil {
			return nil, err
		}
	}
	if verdict == nil { // 5. … based on the state before it.
		before := &pastView{p: p, s: pe.before}
		verdict = eventauth.Check(b.room.version, in.Event, before)
		if before.err != nil {
			return nil, before.err
		}
	}
	if verdict != nil {
		return verdict, nil
	}
	if !onHead && !p.partial { // 6. … based on the current state, else it is soft-failed.
		now := &view{r: b.room}
		if refused := eventauth.Check(b.room.version, in.Event, now); refused != nil {
			verdict = softFailed{refused}
		}
		return verdict, now.err
	}
	return nil, nil
}

// authOf gathers the auth events of an event as a state, and judges the list itself. The verdict is errUndecided for an event that cannot be
// judged yet.
func (b *batch) authOf(p *pastReader, in *incoming) (auth eventauth.StateMap, verdict, err error) {
	switch {
	case in.unverified, in.noAuth:
		return nil, errUndecided, nil
	case in.elsewhere:
		return nil, &eventauth.Rejection{Rule: "2", Msg: "an auth event is of another room"}, nil
	}
	if err := p.load(in.AuthEvents()); err != nil {
		return nil, nil, err
	}
	auth = eventauth.StateMap{}
	events := make([]*pdu.Event, 0, len(in.AuthEvents()))
	var missing error
	var undecided, rejected bool
	for _, eventID := range in.AuthEvents() {
		e, err := p.event(eventID)
		if err != nil {
			return nil, nil, err
		}
		if e == nil {
			missing = fmt.Errorf("%w: %s", errNoAuthEvent, eventID)
			continue
		}
		switch e = e.asAuth(); {
		case e.undecided():
			undecided = true
		case e.Flags&storage.RejectedEvent != 0:
			rejected = true
		}
		events = append(events, e.Event)
		if key, isState := e.StateKey(); isState {
			auth[pdu.StateKey{Type: e.Type(), Key: key}] = e.Event
		}
	}
	switch {
	case rejected: // whatever the others are
		return auth, &eventauth.Rejection{Rule: "2.3", Msg: "an auth event was rejected"}, nil
	case missing != nil:
		return nil, nil, missing
	case undecided:
		return auth, errUndecided, nil
	}
	if refused := eventauth.CheckAuthEvents(in.Event, events); refused != nil {
		verdict = refused
	}
	if b.room.version.RoomIDIsCreateHash {
		create, err := b.room.provisionalState(typeCreate, "")
		if err != nil || create == nil {
			return auth, verdict, err
		}
		auth[pdu.StateKey{Type: typeCreate}] = create.Event
	}
	return auth, verdict, nil
}

// stateBefore is the state before an event: the states after those before it, resolved into one.
func (b *batch) stateBefore(p *pastReader, in *incoming) (*snapshot, error) {
	if s, err := p.bridge(in.PrevEvents()); s != nil || err != nil {
		return s, err
	}
	var points []*snapshot
	for _, prev := range in.PrevEvents() {
		s, err := p.after(prev)
		if err != nil {
			return nil, err
		}
		if told := in.gaps[prev]; s == nil && told != nil {
			if s, err = differing(p, b.room.next.snapshot, told); err != nil {
				return nil, err
			}
		}
		if s == nil {
			return nil, fmt.Errorf("%w: %s", errNoPrevEvent, prev)
		}
		points = append(points, s)
	}
	if len(points) == 0 {
		return &snapshot{}, nil
	}
	return meeting(p, points)
}

// meeting is a snapshot of the state where some, of which there is at least one, meet.
func meeting(p *pastReader, points []*snapshot) (*snapshot, error) {
	points = distinct(points)
	if len(points) == 1 {
		return points[0], nil
	}
	resolved, err := p.resolve(points)
	if err != nil {
		return nil, err
	}
	return differing(p, points[0], resolved)
}

// differing is a snapshot of a state, made of another one and what differs from it.
func differing(p *pastReader, base *snapshot, state map[pdu.StateKey]stateRef) (*snapshot, error) {
	have, err := p.all(base)
	if err != nil {
		return nil, err
	}
	var own []stateRef
	for key, ref := range state {
		if old, ok := have[key]; !ok || old != ref {
			own = append(own, ref)
		}
	}
	for key := range have {
		if _, ok := state[key]; !ok {
			own = append(own, stateRef{key: key})
		}
	}
	slices.SortFunc(own, func(a, b stateRef) int { return compareKeys(a.key, b.key) })
	if base.length >= maxSnapshotChain && len(own) > 0 {
		return fullSnapshot(state), nil
	}
	return base.over(own...), nil
}

// fullSnapshot is a snapshot of a state that is made of no other one.
func fullSnapshot(s state) *snapshot {
	full := &snapshot{}
	for _, ref := range s {
		full.own = append(full.own, ref)
	}
	return full
}

// maxSnapshotChain bounds the snapshots between one of a fork and the last full one.
const maxSnapshotChain = 256

func compareKeys(a, b pdu.StateKey) int {
	if c := strings.Compare(a.Type, b.Type); c != 0 {
		return c
	}
	return strings.Compare(a.Key, b.Key)
}

// follow makes an event that was judged part of the provisional head, as far as it is to be. p is nil where the event
// follows the head.
func (b *batch) follow(ctx context.Context, p *pastReader, in *incoming, pe *pendingEvent, verdict error, onHead bool) error {
	pe.after = pe.before
	key, isState := in.StateKey()
	k := pdu.StateKey{Type: in.Type(), Key: key}
	spurned := verdict == nil && in.refused != nil // 7. It is signed by the room's policy server, else it is soft-failed.
	if spurned && !onHead {
		var err error
		if spurned, err = policed(p, pe.before); err != nil {
			return err
		}
	}
	var soft softFailed
	switch {
	case errors.As(verdict, &soft), spurned:
		pe.Flags |= storage.SoftFailedEvent
	case verdict != nil:
		pe.Flags |= rejectedFlags(verdict)
		pe.relation = nil
	}
	if isState && pe.Flags&storage.RejectedEvent == 0 {
		pe.after = pe.before.over(stateRef{key: k, event: pe.Event})
	}
	for _, prev := range in.PrevEvents() {
		switch {
		case in.gaps[prev] == nil || pe.Flags&storage.RejectedEvent != 0:
		case slices.Contains(in.behind, prev): // the timeline since the join is whole
			pe.missingBehind = append(pe.missingBehind, prev)
		default:
			pe.missing = append(pe.missing, prev)
			pe.Flags |= storage.GapEvent
		}
	}
	if err := b.noteHoles(p, in, pe); err != nil {
		return err
	}
	if err := b.dress(in, pe); err != nil {
		return err
	}
	if pe.Flags&(storage.RejectedEvent|storage.SoftFailedEvent) != 0 {
		pe.outgoing = false
		b.settleHead(pe)
		return nil
	}
	if err := b.applyRedaction(p, in, pe); err != nil {
		return err
	}
	if err := b.moveHead(ctx, p, in, pe, onHead); err != nil {
		return err
	}
	if !pe.Hidden() {
		b.notify(pe)
	}
	return nil
}

// rejectedFlags are the flags of an event that a verdict keeps out of the room's state.
func rejectedFlags(verdict error) storage.EventFlags {
	if errors.Is(verdict, errUndecided) {
		return storage.RejectedEvent | storage.UndecidedEvent
	}
	return storage.RejectedEvent
}

// noteHoles records the missing events that rejected events before an event name: a rejected event has no position in the timeline from
// which they could be fetched. They replace a rejected event that was missing itself. p is nil if the event follows the head.
func (b *batch) noteHoles(p *pastReader, in *incoming, pe *pendingEvent) error {
	if p == nil {
		return nil
	}
	prev := in.PrevEvents()
	if pe.Flags&storage.RejectedEvent != 0 {
		if !in.late {
			return nil
		}
		pe.holesAt = in.lateOrder
		holes, err := p.holes(prev, true)
		pe.missing = holes
		return err
	}
	holes, err := p.holes(prev, false)
	for _, missing := range holes {
		if !slices.Contains(pe.missing, missing) && !slices.Contains(pe.missingBehind, missing) && !b.room.isOver(in.Event, pe.ReceivedTS) {
			pe.missing = append(pe.missing, missing)
			pe.Flags |= storage.GapEvent
		}
	}
	return err
}

// holes lists the missing events that rejected events lead to, walking back from the given events. With direct, the given events count too
// if they are missing.
func (p *pastReader) holes(from []id.EventID, direct bool) (missing []id.EventID, err error) {
	seen := map[id.EventID]bool{}
	type step struct {
		event  id.EventID
		behind bool // a rejected event
	}
	var todo []step
	for _, eventID := range from {
		todo = append(todo, step{eventID, direct})
	}
	for steps := 0; len(todo) > 0 && steps < maxRefusedWalk; steps++ {
		s := todo[0]
		todo = todo[1:]
		if seen[s.event] {
			continue
		}
		seen[s.event] = true
		e, err := p.event(s.event)
		switch {
		case err != nil:
			return nil, err
		case e == nil || !placed(e):
			if s.behind {
				missing = append(missing, s.event)
			}
		case e.Flags&storage.RejectedEvent != 0:
			for _, prev := range e.PrevEvents() {
				todo = append(todo, step{prev, true})
			}
		}
	}
	return missing, nil
}

// dress replaces an event by its redacted form if it is an expired message, is rejected or undecided, or was redacted before it arrived.
func (b *batch) dress(in *incoming, pe *pendingEvent) error {
	r := b.room
	undecided := pe.Flags&storage.UndecidedEvent != 0
	expired := !in.IsState() && r.isOver(in.Event, pe.ReceivedTS)
	rejected := pe.Flags&storage.RejectedEvent != 0 && r.partialState() == nil // else it may yet be accepted
	if !expired && !rejected && !undecided && in.redactedBy == 0 {
		return nil
	}
	pruned, err := in.Redact()
	if err != nil {
		return err
	}
	pe.Event.Event, pe.RedactedBy = pruned, in.redactedBy
	if pe.relation = nil; expired {
		pe.Flags |= storage.SkeletonEvent
	}
	return nil
}

// moveHead makes an accepted event one of the room's newest, and the state where those meet the current one.
func (b *batch) moveHead(ctx context.Context, p *pastReader, in *incoming, pe *pendingEvent, onHead bool) error {
	n := &b.room.next
	x := extremity{id: in.ID(), event: pe.Event, after: pe.after}
	if onHead {
		if key, isState := in.StateKey(); isState {
			k := pdu.StateKey{Type: in.Type(), Key: key}
			b.change(&stateChange{key: k, event: pe.Event, by: pe, member: b.memberChange(in, k)})
			pe.after = b.shorten(pe.after)
			x.after = pe.after
		}
		if err := b.adoptFound(ctx, p, in, pe); err != nil {
			return err
		}
		n.snapshot, n.extremities, n.met = pe.after, []extremity{x}, nil
		b.settleHead(pe)
		return nil
	}
	if in.late { // it lies behind those that follow it, and its state is in theirs
		b.settleHead(pe)
		return nil
	}
	superseded, err := b.superseded(p, in.PrevEvents())
	if err != nil {
		return err
	}
	heads := slices.DeleteFunc(slices.Clone(n.extremities), func(x extremity) bool { return superseded[x.id] })
	n.extremities = append(heads, x)
	if len(n.extremities) > maxExtremities {
		n.extremities = n.extremities[len(n.extremities)-maxExtremities:]
	}
	if err := b.meet(ctx, p, pe); err != nil {
		return err
	}
	b.settleHead(pe)
	return nil
}

const (
	// maxExtremities bounds the forward extremities of a room: beyond it the oldest is no longer one. An event can cite 20.
	maxExtremities = pdu.MaxPrevEvents
	// maxRefusedWalk bounds the walk back over events that were refused, to what they followed.
	maxRefusedWalk = 200
)

// superseded are the prev_events of an event, and what lies before them as far as only refused events lie between.
func (b *batch) superseded(p *pastReader, prev []id.EventID) (map[id.EventID]bool, error) {
	found := map[id.EventID]bool{}
	queue := slices.Clone(prev)
	for steps := 0; len(queue) > 0 && steps < maxRefusedWalk; steps++ {
		eventID := queue[0]
		queue = queue[1:]
		if found[eventID] {
			continue
		}
		found[eventID] = true
		e, err := p.event(eventID)
		if err != nil {
			return nil, err
		}
		if e != nil && e.Flags&(storage.RejectedEvent|storage.SoftFailedEvent) != 0 {
			queue = append(queue, e.PrevEvents()...)
		}
	}
	return found, nil
}

// meet makes the state where the forward extremities meet the room's current state.
func (b *batch) meet(ctx context.Context, p *pastReader, pe *pendingEvent) error {
	n := &b.room.next
	var points []*snapshot
	for i, x := range n.extremities {
		if x.after == nil {
			after, err := p.after(x.id)
			if err != nil {
				return err
			}
			if after == nil {
				return fmt.Errorf("room %s: the forward extremity %s has no state", b.room.id, x.id)
			}
			n.extremities = slices.Clone(n.extremities)
			n.extremities[i].after = after
		}
		points = append(points, n.extremities[i].after)
	}
	points = distinct(points)
	if len(points) == 1 && points[0].same(n.snapshot) || sameStates(points, n.met) {
		return nil
	}
	// What is queued counts: the event itself may be in the state already.
	p.queued[pe.ID()] = pe
	var state map[pdu.StateKey]stateRef
	var err error
	if len(points) == 1 {
		state, err = p.all(points[0])
	} else {
		state, err = p.resolve(points)
	}
	if err != nil {
		return err
	}
	changes, err := b.changesTo(ctx, p, pe, state)
	if err != nil {
		return err
	}
	own := make([]stateRef, 0, len(changes))
	for _, c := range changes {
		b.change(c)
		ref := state[c.key]
		ref.key = c.key
		own = append(own, ref)
	}
	switch {
	case len(points) == 1:
		n.snapshot = points[0]
	case len(own) > 0:
		n.snapshot = b.shorten(n.snapshot.over(own...))
	}
	n.met = points
	return nil
}

// sameStates tells whether some states that meet are those that met last.
func sameStates(points, met []*snapshot) bool {
	if len(points) != len(met) {
		return false
	}
	for _, s := range points {
		if !slices.ContainsFunc(met, s.same) {
			return false
		}
	}
	return true
}

// changesTo lists how a state differs from the provisional one.
func (b *batch) changesTo(ctx context.Context, p *pastReader, pe *pendingEvent, state map[pdu.StateKey]stateRef) ([]*stateChange, error) {
	want, err := p.ids(state)
	if err != nil {
		return nil, err
	}
	have, err := b.provisionalIDs(p)
	if err != nil {
		return nil, err
	}
	var keys []pdu.StateKey
	for key, eventID := range want {
		if have[key] != eventID {
			keys = append(keys, key)
		}
	}
	for key := range have {
		if _, ok := want[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, compareKeys)
	if err := p.loadEntries(state, keys); err != nil {
		return nil, err
	}
	changes := make([]*stateChange, 0, len(keys))
	for _, key := range keys {
		c := &stateChange{key: key, by: pe}
		if ref, ok := state[key]; ok {
			if c.event, err = p.of(ref); err != nil {
				return nil, err
			}
		}
		if c.member, err = b.resolvedMember(ctx, key, c.event); err != nil {
			return nil, err
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// provisionalIDs is the provisional state by event ids.
func (b *batch) provisionalIDs(p *pastReader) (map[pdu.StateKey]id.EventID, error) {
	r := b.room
	refs := map[pdu.StateKey]stateRef{}
	r.mu.RLock()
	for k, e := range r.head.state {
		refs[k] = stateRef{key: k, event: e}
	}
	for user, m := range r.head.members {
		k := pdu.StateKey{Type: typeMember, Key: string(user)}
		refs[k] = stateRef{key: k, pos: m.Pos}
		if e := m.event.Load(); e != nil {
			refs[k] = stateRef{key: k, event: e}
		}
	}
	for k, c := range r.pending.state {
		if refs[k] = (stateRef{key: k, event: c.event}); c.event == nil {
			delete(refs, k)
		}
	}
	r.mu.RUnlock()
	return p.ids(refs)
}

// memberChange is what a member event of another server changes.
func (b *batch) memberChange(in *incoming, k pdu.StateKey) *memberChange {
	if k.Type != typeMember {
		return nil
	}
	user := id.UserID(k.Key)
	return &memberChange{user: user, nid: in.target, from: b.room.provisionalMembership(user), to: membershipIn(in.Content())}
}

// resolvedMember is the change of a membership that state resolution brings about.
func (b *batch) resolvedMember(ctx context.Context, key pdu.StateKey, e *Event) (*memberChange, error) {
	if key.Type != typeMember {
		return nil, nil
	}
	user := id.UserID(key.Key)
	nid, err := b.svc.UserNID(ctx, user)
	if err != nil {
		return nil, err
	}
	c := &memberChange{user: user, nid: nid, from: b.room.provisionalMembership(user)}
	if e != nil {
		c.to = membershipIn(e.Content())
	}
	return c, nil
}

// membershipIn reads the membership of a member event.
func membershipIn(content []byte) Membership {
	raw, _ := canonjson.Get(content, "membership")
	return jsonString(raw)
}
