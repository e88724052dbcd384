package rooms

import (
	"context"
	"errors"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/rooms/eventauth"
	"ebb/rooms/expiry"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Bounds of what is asked of other servers for one reader.
const (
	maxBackfillPage    = 100 // events that are asked for at a time
	maxBackfillServers = 4   // servers that are asked, one after the other
	maxRungs           = 300 // events of the timeline between which others are put
	maxHoles           = 100 // gaps of a timeline that are looked at
	// maxBackfillEdges bounds the missing events that one question names.
	maxBackfillEdges = pdu.MaxPrevEvents
	// backfillTime bounds one round; a reader waits for it.
	backfillTime = 15 * time.Second
	// historyStep is the distance of two events of the past in the timeline, so that others can be put between them.
	historyStep = 16
)

// Backfill asks other servers for what is missing before the event with the order above, and stores it. It reports whether there
// is nothing more to be had for now: the caller need not ask for the same gap again soon.
// Spec: server-server-api#backfilling-and-retrieving-missing-events
func (s *Service) Backfill(ctx context.Context, r *Room, above int64) (exhausted bool) {
	limited, cancel := context.WithTimeout(ctx, backfillTime)
	defer cancel()
	more, exhausted := s.backfill(limited, r, above)
	return exhausted || !more && ctx.Err() == nil
}

// backfill is Backfill that reports whether the room has more events than before, and whether some of the missing events were
// refused, so that the gap stays.
func (s *Service) backfill(ctx context.Context, r *Room, above int64) (more, refused bool) {
	ctx, letGo := fedclient.HoldAnswers(ctx, false)
	defer letGo()
	in := newIngest(s, r, "")
	release, err := in.hold(ctx, fetching)
	if err != nil {
		return false, false
	}
	defer release()
	r = in.room
	q, err := s.question(ctx, r, above)
	if err != nil {
		s.log.WarnContext(ctx, "what is missing in a room cannot be told", "room", r.id, "err", err)
		return false, false
	}
	if len(q.missing) == 0 { // somebody else was quicker
		return q.above != nil, false
	}
	for _, server := range q.servers {
		n, refused, err := s.backfillFrom(ctx, r, server, q)
		if err != nil {
			s.log.DebugContext(ctx, "earlier events are not to be had", "room", r.id, "server", server, "err", err)
		}
		if n > 0 {
			return true, refused
		}
		if ctx.Err() != nil {
			break
		}
	}
	return false, false
}

// question is what other servers are asked in order to fill a gap.
type question struct {
	missing []id.EventID
	above   *Event // the event before which some of them are
	line    []rung // the timeline from there downwards, as far as others may be put into it
	servers []string
}

// rung is an event of the timeline between which others are put.
type rung struct{ order, depth int64 }

// question finds what is missing at the gap before the event with the order above, and at the gaps below it that belong to it.
func (s *Service) question(ctx context.Context, r *Room, above int64) (q question, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.Timeline(r.nid, 0, above, true, maxRungs)
		if err != nil || len(rows) == 0 || rows[0].Order != above { // the event was purged: the past before it is over
			return err
		}
		if err := q.climbDown(r, rows); err != nil {
			return err
		}
		edges, err := tx.BackwardEdges(r.nid, q.line[len(q.line)-1].order, above, maxBackfillEdges)
		for _, e := range edges {
			q.missing = append(q.missing, id.EventID(e.Missing))
		}
		return err
	})
	if err == nil && q.above != nil {
		q.servers = r.historians(q.above.Sender())
	}
	return q, err
}

// climbDown notes the timeline down to the first event below the hole that arrived live and has everything before it.
func (q *question) climbDown(r *Room, rows []storage.EventRow) (err error) {
	if q.above, err = fromRow(r.version, &rows[0]); err != nil {
		return err
	}
	for i := range rows {
		e, err := fromRow(r.version, &rows[i])
		if err != nil {
			return err
		}
		q.line = append(q.line, rung{e.Order, e.Depth()})
		if i > 0 && !isPast(rows[i]) && e.Flags&storage.GapEvent == 0 {
			return nil
		}
	}
	if len(rows) < maxRungs {
		q.line = append(q.line, rung{}) // the beginning
	}
	return nil
}

// historians lists servers that may know what precedes an event, that of its sender first.
func (r *Room) historians(sender id.UserID) []string {
	first := serverOf(string(sender))
	out := r.others(maxBackfillServers)
	if first == r.svc.Server || !r.HasServer(first) {
		return out
	}
	out = append([]string{first}, slices.DeleteFunc(out, func(server string) bool { return server == first })...)
	return out[:min(len(out), maxBackfillServers)]
}

// backfillFrom asks one server, and returns how many events were stored and whether one of the missing ones was refused. The
// room's fetching is held.
func (s *Service) backfillFrom(ctx context.Context, r *Room, server string, q question) (n int, refused bool, err error) {
	raws, err := s.Remote.Backfill(ctx, server, r.id, q.missing, maxBackfillPage)
	if err != nil {
		return 0, false, err
	}
	in := newIngest(s, r, server)
	in.admit(ctx, raws[:min(len(raws), maxBackfillPage)])
	in.admitUnproven(q.missing...)
	if err := in.refresh(ctx); err != nil {
		return 0, false, err
	}
	in.keepAncestors(q.missing)
	for _, missing := range q.missing {
		if e := in.waiting[missing]; e != nil {
			e.followed = true
		}
	}
	if err := in.fetchAuth(ctx); err != nil {
		return 0, false, err
	}
	if err := in.tellStates(ctx); err != nil {
		return 0, false, err
	}
	n, err = in.placeHistory(ctx, q)
	refused = slices.ContainsFunc(q.missing, func(missing id.EventID) bool { return in.bad[missing] != nil })
	return n, refused, err
}

// placeHistory puts events into a gap of the timeline.
func (in *ingest) placeHistory(ctx context.Context, q question) (int, error) {
	release, err := in.hold(ctx, receiving)
	if err != nil {
		return 0, err
	}
	defer release()
	if err := in.refreshAll(ctx); err != nil {
		return 0, err
	}
	now, err := in.svc.question(ctx, in.room, q.above.Order)
	if err != nil || now.above == nil {
		return 0, err
	}
	return in.placeBelow(ctx, now)
}

// keepAncestors drops what was not asked for: events that the missing ones do not lead to, be it through an event that is not good.
func (in *ingest) keepAncestors(missing []id.EventID) {
	asked, passed := map[id.EventID]*incoming{}, map[*pdu.Event]bool{}
	for todo := slices.Clone(missing); len(todo) > 0; {
		e, bad := in.waiting[todo[0]], in.bad[todo[0]]
		if todo = todo[1:]; bad != nil && !passed[bad] {
			passed[bad] = true
			todo = append(todo, bad.PrevEvents()...)
		}
		if e == nil || asked[e.ID()] != nil {
			continue
		}
		asked[e.ID()] = e
		todo = append(todo, e.PrevEvents()...)
	}
	in.waiting = asked
}

// tellStates gets the state before each of the events that name something which is not stored. Where it is not to be had, the
// event and what follows it is left out.
func (in *ingest) tellStates(ctx context.Context) error {
	for _, e := range in.gapless() {
		told, err := in.stateBefore(ctx, e.ID())
		if err := ctx.Err(); err != nil {
			return err
		}
		if err != nil {
			in.svc.log.DebugContext(ctx, "the state before an event is not to be had", "room", in.room.id, "event", e.ID(), "server", in.origin, "err", err)
			in.done(e.ID(), errNoPrevEvent)
			continue
		}
		e.told = told
	}
	return nil
}

// placeBelow stores events, each after those before it.
func (in *ingest) placeBelow(ctx context.Context, q question) (placed int, err error) {
	ready := in.ready()
	for _, e := range ready {
		e.missing = slices.DeleteFunc(slices.Clone(e.PrevEvents()), in.has)
	}
	if err := q.arrange(ready); err != nil {
		return 0, err
	}
	for len(ready) > 0 {
		n, err := in.lookUp(ctx, ready)
		if err != nil {
			return placed, err
		}
		m, err := in.placePast(ctx, ready[:n])
		if err != nil {
			return placed, err
		}
		placed, ready = placed+m, ready[n:]
	}
	return placed, nil
}

var errNoSpace = errors.New("there is no space left in the timeline")

// arrange gives events their places in the timeline: each below all that are deeper. Where a graph forks its parts are fetched one
// after the other, and an event must not be put above what follows it and is still missing. The events come sorted.
func (q *question) arrange(events []*incoming) error {
	slots := make([][]*incoming, len(q.line)) // below each rung
	lowest := len(q.line) - 2                 // below the last one nothing is put
	for i := len(events) - 1; i >= 0; i-- {
		e := events[i]
		at := 0
		for below := 1; below <= lowest; below++ {
			if q.line[below].depth > e.Depth() {
				at = below
			}
		}
		for at <= lowest && q.space(at) <= int64(len(slots[at])) {
			at++
		}
		if at > lowest {
			return errNoSpace
		}
		slots[at] = append(slots[at], e)
		e.base = q.above.Snapshot
	}
	for at, slot := range slots {
		if len(slot) == 0 {
			continue
		}
		step := max(1, min(historyStep, q.space(at)/int64(4*len(slot))))
		for i, e := range slot {
			e.order = q.line[at].order - step*int64(i+1)
		}
	}
	return nil
}

// space is how many events can be put below a rung.
func (q *question) space(at int) int64 { return q.line[at].order - q.line[at+1].order - 1 }

// placePast stores events of the past in one write. They change nothing of what the room is now.
func (in *ingest) placePast(ctx context.Context, events []*incoming) (int, error) {
	r, err := in.svc.lockRoom(ctx, in.room.id)
	if err != nil {
		return 0, err
	}
	b := newBatch(r, nil)
	err = r.settled(ctx, func(tx *storage.Tx) error {
		p := newPastReader(r, tx, nil, newPastFacts())
		for _, e := range events {
			if err := b.takePast(p, e); err != nil && !errors.Is(err, errNoAuthEvent) && !errors.Is(err, errNoPrevEvent) && !errors.Is(err, errUndecided) {
				return err
			}
		}
		return nil
	})
	if err != nil || len(b.events) == 0 {
		r.writer.Unlock()
		return 0, err
	}
	p := in.svc.db.Enqueue(storage.Write{
		Rooms: []int64{r.nid},
		Do: func(tx *storage.Tx) error {
			for _, e := range b.events {
				if err := b.writeEvent(tx, e); err != nil {
					return err
				}
			}
			return nil
		},
		Committed: func() {
			c := &Commit{Room: r}
			c.add(b.svc, b.events)
			b.svc.commit(c, headFunc(b.applyPast))
		},
	})
	r.next.queued = p
	r.writer.Unlock()
	if err := p.Wait(context.WithoutCancel(ctx)); err != nil {
		return 0, err
	}
	for _, e := range b.events {
		in.known[e.ID()] = e.Event
	}
	return len(b.events), nil
}

// applyPast is applyTo for events of the past, which change nothing but what memory has of the events that they redact.
func (b *batch) applyPast(r *Room) {
	for _, e := range b.events {
		r.head.undecided = r.head.undecided || e.undecided()
		if e.redacts != nil {
			r.replace(e.redacts.target.redactedAs(e.redacts.pruned, e.redacts.by()))
		}
		for _, redaction := range e.revealed {
			r.insert(redaction)
		}
	}
}

// takePast appends an event of the past to the batch: checks 4 and 5, since what is current now says nothing about it.
func (b *batch) takePast(p *pastReader, in *incoming) error {
	auth, verdict, err := b.authOf(p, in)
	if err != nil {
		return err
	}
	if errors.Is(verdict, errUndecided) && !in.followed {
		return verdict
	}
	pe := &pendingEvent{Event: &Event{
		Event: in.Event, Room: b.room.nid, SenderNID: in.sender, ReceivedTS: b.svc.Now().UnixMilli(), ThreadRoot: in.threadRoot, built: true, outlier: in.outlier,
	}, relation: in.relation, late: in.late, past: in.order, head: &snapshot{}, awaited: in.awaited}
	if in.Type() == typeDummy {
		pe.Flags |= storage.DummyEvent
	}
	if pe.before, err = b.pastState(p, in); err != nil {
		return err
	}
	if verdict == nil {
		verdict = eventauth.Check(b.room.version, in.Event, auth)
	}
	if verdict == nil {
		before := &pastView{p: p, s: pe.before}
		if verdict = eventauth.Check(b.room.version, in.Event, before); before.err != nil {
			return before.err
		}
	}
	if pe.after = pe.before; verdict != nil {
		pe.Flags, pe.relation = pe.Flags|rejectedFlags(verdict), nil
	}
	if err := b.dressPast(p, in, pe); err != nil {
		return err
	}
	if key, isState := in.StateKey(); isState && verdict == nil {
		pe.after = pe.before.over(stateRef{key: pdu.StateKey{Type: in.Type(), Key: key}, event: pe.Event})
	}
	p.queued[in.ID()] = pe
	b.events = append(b.events, pe)
	return nil
}

// pastState is the state before an event of the past: as it was told, or as those before it left it.
func (b *batch) pastState(p *pastReader, in *incoming) (*snapshot, error) {
	if in.told == nil {
		return b.stateBefore(p, in)
	}
	base := &snapshot{nid: in.base}
	if in.base != 0 {
		var err error
		if base.length, err = p.tx.SnapshotLength(in.base); err != nil {
			return nil, err
		}
	}
	return differing(p, base, in.told)
}

// dressPast makes of an event what may be kept of it, and lets a redaction take effect. Where time is over for messages, what
// came before is not asked for either.
func (b *batch) dressPast(p *pastReader, in *incoming, pe *pendingEvent) error {
	revealInPlace(in, pe)
	if err := b.dress(in, pe); err != nil {
		return err
	}
	rejected := pe.Flags&storage.RejectedEvent != 0
	if !rejected && len(in.missing) > 0 && !b.room.isOver(in.Event, pe.ReceivedTS) {
		pe.missing = in.missing
		pe.Flags |= storage.GapEvent
	}
	if err := b.noteHoles(p, in, pe); err != nil {
		return err
	}
	if rejected {
		return nil
	}
	return b.applyRedaction(p, in, pe)
}

// isOver reports whether messages from the time of an event have expired, or were purged.
func (r *Room) isOver(e *pdu.Event, receivedTS int64) bool {
	purged := r.PurgedBefore() // 0: nothing was, and a time before 1970 is as good as any other
	return expiry.Expired(r.Retention(), e.OriginServerTS(), receivedTS, r.svc.Now()) || purged != 0 && e.OriginServerTS() < purged
}

// AskTimestampToEvent asks other servers for the event of a room that is closest to a time (ms), and returns the first answer: the
// event and its time. It returns false if no server has an answer.
// Spec: server-server-api#get_matrixfederationv1timestamp_to_eventroomid
func (s *Service) AskTimestampToEvent(ctx context.Context, r *Room, ts int64, backwards bool) (id.EventID, int64, bool) {
	ctx, cancel := context.WithTimeout(ctx, backfillTime)
	defer cancel()
	dir := "f"
	if backwards {
		dir = "b"
	}
	for _, server := range r.others(maxBackfillServers) {
		eventID, at, err := s.Remote.TimestampToEvent(ctx, server, r.id, ts, dir)
		if err == nil && eventID != "" {
			return eventID, at, true
		}
	}
	return "", 0, false
}

// others lists some of the other servers in the room.
func (r *Room) others(limit int) (out []string) {
	for server := range r.EachServer() {
		if server != r.svc.Server && len(out) < limit {
			out = append(out, server)
		}
	}
	return out
}
