package rooms

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/eventauth"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// softFailed is the verdict of checks 6 and 7 on an event that fails them. Checks 4 and 5 return an
// *eventauth.Rejection or errUndecided instead. The checks are listed at Service.Receive.
type softFailed struct{ error }

func (s softFailed) Unwrap() error { return s.error }

// addForeign performs checks 4 to 7 on an event of another server and adds it to the batch. A rejected event is added
// as well, flagged as rejected, so that it is not fetched again; the reason is returned as verdict, and err is nil. An
// undecided event that no valid event follows is not added, and err is errUndecided.
func (b *batch) addForeign(ctx context.Context, in *incoming) (verdict, err error) {
	pe := b.newPending(in)
	onHead := in.fetchedAfter == nil && b.followsHead(in.PrevEvents())
	inMemory := false
	if onHead {
		pe.before = b.room.next.snapshot
		verdict, err = b.authoriseOnHead(in)
		inMemory = !errors.Is(err, errNeedTx)
	}
	switch {
	case !inMemory:
		err = b.room.settled(ctx, func(tx *storage.Tx) (err error) {
			p := b.reader(tx)
			if verdict, err = b.authorise(p, in, pe, onHead); err != nil {
				return err
			}
			if errors.Is(verdict, errUndecided) && !in.followed {
				return verdict
			}
			return b.applyVerdict(ctx, p, in, pe, verdict, onHead)
		})
	case err == nil:
		err = b.applyVerdict(ctx, nil, in, pe, verdict, true)
	}
	if err != nil {
		return verdict, err
	}
	b.events = append(b.events, pe)
	return verdict, b.reveal(in, pe)
}

// newPending returns an event of another server in the form in which it is added to the batch.
func (b *batch) newPending(in *incoming) *pendingEvent {
	pe := &pendingEvent{Event: &Event{
		Event: in.Event, Room: b.room.nid, SenderNID: in.sender, ReceivedTS: b.svc.opts.Now().UnixMilli(), ThreadRoot: in.threadRoot, Built: true, Outlier: in.outlier,
	}, relation: in.relation, outgoing: in.relay, late: in.late, hasRedactions: in.hasRedactions}
	if in.Type() == typeDummy {
		pe.Flags |= storage.DummyEvent
	}
	if in.precedes {
		pe.Flags |= storage.PrecedingEvent
	}
	return pe
}

// followsHead reports whether prev contains exactly the room's forward extremities.
func (b *batch) followsHead(prev []id.EventID) bool {
	heads := b.room.next.extremities
	if len(prev) != len(heads) || len(heads) == 0 {
		return false
	}
	for _, x := range heads {
		if !slices.Contains(prev, x.ID) {
			return false
		}
	}
	return true
}

// authoriseOnHead performs checks 4 to 7 without the database. This is possible if an event follows the forward
// extremities and cites the auth events of the current state: then checks 4 to 6 are one and the same. For any other
// event it returns errNeedTx.
func (b *batch) authoriseOnHead(in *incoming) (verdict, err error) {
	if in.unverified || in.noAuth || in.elsewhere {
		return nil, errNeedTx
	}
	now := &view{r: b.room}
	cited := in.AuthEvents()
	n := 0
	for _, k := range eventauth.AuthKeys(b.room.version, in.Event) {
		e := now.Get(k.Type, k.Key)
		if now.err != nil {
			return nil, now.err
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
	if verdict = eventauth.Check(b.room.version, in.Event, now); verdict != nil || now.err != nil {
		return verdict, now.err
	}
	return checkPolicyServer(nil, in, nil)
}

// authorise performs checks 4 to 7 on an event for which the database is needed. It also sets pe.before, the state
// before the event, unless the event follows the head, where that state is known.
func (b *batch) authorise(p *graph.Reader, in *incoming, pe *pendingEvent, onHead bool) (verdict, err error) {
	verdict, err = b.checkAuthEvents(p, in) // 4
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
	if verdict == nil && p.Room.Partial {
		if err := b.addCitedMembers(p, in, pe); err != nil {
			return nil, err
		}
	}
	if verdict == nil {
		verdict, err = checkStateBefore(p, in.Event, pe.before) // 5
	}
	if verdict == nil && err == nil && !onHead && !p.Room.Partial {
		verdict, err = b.checkCurrentState(in.Event) // 6
	}
	if verdict == nil && err == nil && onHead {
		return checkPolicyServer(nil, in, nil) // 7
	}
	if verdict == nil && err == nil {
		return checkPolicyServer(p, in, pe.before) // 7
	}
	return verdict, err
}

// checkAuthEvents performs check 4: the auth rules based on the event's auth events. The verdict is errUndecided if
// they cannot be evaluated yet.
func (b *batch) checkAuthEvents(p *graph.Reader, in *incoming) (verdict, err error) {
	auth, verdict, err := b.authStateOf(p, in)
	if verdict == nil && err == nil {
		verdict = eventauth.Check(b.room.version, in.Event, auth)
	}
	return verdict, err
}

// checkStateBefore performs check 5: the auth rules based on the state before the event.
func checkStateBefore(p *graph.Reader, e *pdu.Event, before *graph.Snapshot) (verdict, err error) {
	v := p.View(before)
	verdict = eventauth.Check(e.Version(), e, v)
	if v.Err != nil {
		return nil, v.Err
	}
	return verdict, nil
}

// checkCurrentState performs check 6: the auth rules based on the room's current state.
func (b *batch) checkCurrentState(e *pdu.Event) (verdict, err error) {
	now := &view{r: b.room}
	refused := eventauth.Check(b.room.version, e, now)
	if now.err != nil {
		return nil, now.err
	}
	if refused != nil {
		return softFailed{refused}, nil
	}
	return nil, nil
}

// authStateOf returns the auth events of an event in the form of a state, and a verdict on the list of auth events. The
// verdict errUndecided means that the event cannot be authorised yet.
func (b *batch) authStateOf(p *graph.Reader, in *incoming) (auth eventauth.StateMap, verdict, err error) {
	switch {
	case in.unverified, in.noAuth:
		return nil, errUndecided, nil
	case in.elsewhere:
		return nil, &eventauth.Rejection{Rule: "2", Msg: "an auth event is of another room"}, nil
	}
	if err := p.Load(in.AuthEvents()); err != nil {
		return nil, nil, err
	}
	auth = eventauth.StateMap{}
	events := make([]*pdu.Event, 0, len(in.AuthEvents()))
	var missing error
	var undecided, rejected bool
	for _, eventID := range in.AuthEvents() {
		e, err := p.Event(eventID)
		if err != nil {
			return nil, nil, err
		}
		if e == nil {
			missing = fmt.Errorf("%w: %s", errNoAuthEvent, eventID)
			continue
		}
		switch e = e.AsAuth(); {
		case e.Undecided():
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
		return auth, refused, nil
	}
	if b.room.version.RoomIDIsCreateHash {
		create, err := b.room.provisionalState(typeCreate, "")
		if err != nil || create == nil {
			return auth, nil, err
		}
		auth[pdu.StateKey{Type: typeCreate}] = create.Event
	}
	return auth, nil, nil
}

// stateBefore returns the state before an event. It resolves the states after the event's prev_events into one.
func (b *batch) stateBefore(p *graph.Reader, in *incoming) (*graph.Snapshot, error) {
	if s, err := p.Bridge(in.PrevEvents()); s != nil || err != nil {
		return s, err
	}
	var points []*graph.Snapshot
	for _, prev := range in.PrevEvents() {
		s, err := p.After(prev)
		if err != nil {
			return nil, err
		}
		if fetched := in.fetchedAfter[prev]; s == nil && fetched != nil {
			if s, err = p.SnapshotOf(b.room.next.snapshot, fetched); err != nil {
				return nil, err
			}
		}
		if s == nil {
			return nil, fmt.Errorf("%w: %s", errNoPrevEvent, prev)
		}
		points = append(points, s)
	}
	if len(points) == 0 {
		return &graph.Snapshot{}, nil
	}
	return p.ResolvedSnapshot(points)
}
