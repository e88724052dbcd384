package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// An event is undecided while the key that signed it, or one of its auth events, cannot be had. That is never final: a signature is no part
// of an event's id, so anybody can send a good event with a signature that nobody can check.
//
// An undecided event is dropped, unless one whose signature is good follows it: then its redacted form becomes part of the graph, flagged as
// rejected and undecided. So it changes no state, is no forward extremity and is given to nobody, and what follows it is judged by the rules.
// An event that cites an undecided one is undecided too. Once a copy with a good signature, the key or the missing auth event arrives, it is
// judged, and so is again what follows it; see decision.

const (
	// maxUndecided bounds the undecided events of a room, and maxUndecidedBytes their size. The oldest go first; what follows them stays.
	maxUndecided      = 100
	maxUndecidedBytes = 1 << 20
	// maxAuthServers bounds the servers that are asked for the auth events of one event, the origin among them.
	maxAuthServers = 4
	// undecidedEvery is how often keys and auth events are asked for that could not be had.
	undecidedEvery = 10 * time.Minute
	// undecidedRest is how long a room to which events come rests between two attempts to decide with what has arrived: as long as
	// fedclient does not ask a server again for its keys.
	undecidedRest = 30 * time.Second
	// maxToDecide bounds the rooms that wait for such an attempt.
	maxToDecide = 1000
	// decisionShare limits attempts to one part in so many of a room's time: each attempt judges everything since the undecided event
	// again, under the room's lock, and other servers choose when keys appear.
	decisionShare = 20
)

// errUndecided: the event is not to be judged yet.
var errUndecided = errors.New("a key or an auth event could not be fetched yet")

func (e *Event) undecided() bool { return e.Flags&storage.UndecidedEvent != 0 }

// noteUnproven keeps the redacted form of an event whose signature cannot be checked, in case a valid event follows it.
func (in *ingest) noteUnproven(raw json.RawMessage) *incoming {
	e, err := pdu.Parse(in.room.version, raw)
	if err != nil || e.RoomID() != in.room.id {
		return nil
	}
	if e, err = e.Redact(); err != nil {
		return nil
	}
	kept := &incoming{Event: e, unverified: true, asked: true}
	in.unproven[e.ID()] = kept
	return kept
}

// admitUnproven adds to the waiting events those unproven events that a waiting or stored event follows.
func (in *ingest) admitUnproven(followed ...id.EventID) {
	if len(in.unproven) == 0 {
		return
	}
	for _, e := range in.waiting {
		followed = append(followed, e.PrevEvents()...)
	}
	for len(followed) > 0 {
		eventID := followed[len(followed)-1]
		followed = followed[:len(followed)-1]
		e := in.unproven[eventID]
		if e == nil {
			continue
		}
		if delete(in.unproven, eventID); in.waiting[eventID] == nil {
			in.waiting[eventID] = e
			followed = append(followed, e.PrevEvents()...)
		}
	}
}

// nameFollowed marks the waiting events that others follow: each of those is good, or followed by a good one.
func (in *ingest) nameFollowed() {
	for _, e := range in.waiting {
		for _, prev := range e.PrevEvents() {
			if before := in.waiting[prev]; before != nil && before != e {
				before.followed = true
			}
		}
	}
}

// keepUndecided marks an event as undecided for want of an auth event. It is dropped if nothing follows it.
func (in *ingest) keepUndecided(e *incoming) {
	if e.noAuth = true; !e.followed {
		in.done(e.ID(), errNoAuthEvent)
		received.WithLabelValues("undecided").Inc()
	}
}

// isElsewhere reports whether a cited event is known to be of another room.
func (in *ingest) isElsewhere(ctx context.Context, eventID id.EventID) (found bool, err error) {
	if in.elsewhere[eventID] {
		return true, nil
	}
	err = in.svc.db.Read(ctx, func(tx *storage.Tx) error {
		row, stored, err := tx.EventAnywhere(string(eventID))
		found = stored && row.Room != in.room.nid
		return err
	})
	if found {
		in.elsewhere[eventID] = true
	}
	return found, err
}

// noteElsewhere remembers the cited events of an answer that are of another room. Where servers choose ids, only a good signature says so.
func (in *ingest) noteElsewhere(ctx context.Context, raws []json.RawMessage) {
	v := in.room.version
	for _, raw := range raws {
		if room, ok := canonjson.Get(raw, "room_id"); !ok || jsonString(room) == string(in.room.id) {
			continue
		}
		e, err := pdu.Parse(v, raw)
		if err != nil || e.RoomID() == in.room.id {
			continue
		}
		if v.EventIDFormat == pdu.EventIDFromServer {
			if events, _ := in.svc.verify(ctx, v, []json.RawMessage{raw}); events[0] == nil {
				continue
			}
		}
		in.elsewhere[e.ID()] = true
	}
}

// reconsider finds the undecided events of the room that can be judged now, and adds them to those that are to be decided. With ask, auth
// events that are missing are asked for once more.
func (in *ingest) reconsider(ctx context.Context, ask bool) error {
	defer in.leaveUndecided()
	if !in.room.hasUndecided() || in.room.Partial() || in.alone { // a partial room is judged again when it is completed
		return nil
	}
	stored, err := in.svc.undecided(ctx, in.room)
	if err != nil {
		return err
	}
	var events []*pdu.Event
	for _, e := range stored {
		if in.again[e.ID()] == nil {
			events = append(events, e.Event)
		}
	}
	keys := in.svc.keysOf(ctx, events)
	for _, e := range stored {
		if in.again[e.ID()] == nil && checkSignatures(e.Event, keys) != nil {
			continue
		}
		judgeable, err := in.judgeable(ctx, e, ask)
		switch {
		case err != nil:
			return err
		case !judgeable:
		case e.Order != 0:
			in.refill = append(in.refill, e)
		default:
			in.fresh[e.ID()] = in.freshCopy(ctx, e)
		}
	}
	return ctx.Err()
}

// leaveUndecided sets the answer for copies of undecided events that still cannot be authorised.
func (in *ingest) leaveUndecided() {
	for eventID := range in.again {
		if in.fresh[eventID] == nil {
			in.results[eventID], in.lost = nil, true
		}
	}
}

// undecided reads the undecided events of a room, in the order of arrival.
func (s *Service) undecided(ctx context.Context, r *Room) (events []*Event, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.UndecidedEvents(r.nid, maxUndecided)
		for i := range rows {
			e, err := fromRow(r.version, &rows[i])
			if err != nil {
				return err
			}
			events = append(events, e)
		}
		return err
	})
	return events, err
}

// judgeable reports whether all auth events of an undecided event are decided, or about to be.
func (in *ingest) judgeable(ctx context.Context, e *Event, ask bool) (bool, error) {
	if err := in.findStored(ctx, e.AuthEvents()); err != nil {
		return false, err
	}
	if ask && len(unknownOf(in.known, e.AuthEvents())) > 0 {
		if err := in.obtainAuth(ctx, &incoming{Event: e.Event}); err != nil {
			return false, err
		}
	}
	for _, a := range e.AuthEvents() {
		known := in.known[a]
		if known == nil && !in.elsewhere[a] || known != nil && known.asAuth().undecided() && in.fresh[a] == nil {
			return false, nil
		}
	}
	return true, nil
}

// freshCopy asks for the whole text of an event of which the redacted form is stored, whose signature is good. That form is used if nobody
// has the text.
func (in *ingest) freshCopy(ctx context.Context, e *Event) *incoming {
	if again := in.again[e.ID()]; again != nil {
		return again
	}
	for _, server := range in.authServers(e.Sender()) {
		raw, err := in.svc.Remote.GetEvent(ctx, server, e.ID())
		if err != nil {
			continue
		}
		if events, _ := in.svc.verify(ctx, in.room.version, []json.RawMessage{raw}); events[0] != nil && events[0].ID() == e.ID() {
			return &incoming{Event: events[0]}
		}
	}
	return &incoming{Event: e.Event}
}

// authServers lists the servers that are asked for what an event needs: the origin, that of the sender, some others in the room.
func (in *ingest) authServers(sender id.UserID) []string {
	if in.remote() == nil {
		return nil
	}
	others := slices.DeleteFunc(in.room.historians(sender), func(server string) bool { return server == in.origin })
	if in.origin != "" {
		others = append([]string{in.origin}, others...)
	}
	return others[:min(len(others), maxAuthServers)]
}

// decide judges the undecided events that can be judged now, and again everything that follows them. History is forgotten instead: it is
// fetched again. The room's receiving slot is held.
func (in *ingest) decide(ctx context.Context) error {
	if len(in.refill) > 0 {
		if err := in.forgetHistory(ctx); err != nil {
			return err
		}
	}
	if len(in.fresh) == 0 {
		return nil
	}
	if !in.room.mayDecide(in.svc.Now()) {
		clear(in.fresh)
		in.leaveUndecided()
		return nil
	}
	start := in.svc.Now()
	defer func() {
		now := in.svc.Now()
		in.room.restDeciding(now.Add(decisionShare * now.Sub(start)))
	}()
	list := slices.SortedFunc(maps.Values(in.fresh), byDepth)
	for rest := list; len(rest) > 0; {
		n, err := in.lookUp(ctx, rest)
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	for {
		verdicts, err := in.svc.decide(ctx, in.room.id, in.fresh)
		switch {
		case errors.Is(err, errStale): // a write before it has failed
			continue
		case errors.Is(err, errGone):
			return in.refreshAll(ctx)
		}
		if err != nil {
			return err
		}
		for _, e := range list {
			in.finish(e.ID(), verdicts[e.ID()])
		}
		return in.refreshAll(ctx)
	}
}

// forgetHistory removes undecided events of the history, and notes that they are missing.
func (in *ingest) forgetHistory(ctx context.Context) error {
	left := false
	return in.svc.touch(ctx, in.room.id, func(r *Room) storage.Write {
		return storage.Write{
			Do: func(tx *storage.Tx) error {
				for _, e := range in.refill {
					if err := forgetPast(tx, r, e); err != nil {
						return err
					}
				}
				undecided, err := tx.UndecidedEvents(r.nid, 1)
				left = len(undecided) > 0
				return err
			},
			Committed: func() { r.amend(func(r *Room) { r.head.undecided = left }) },
		}
	})
}

// forgetPast removes an undecided event of the history. The event above it in the timeline has it missing.
func forgetPast(tx *storage.Tx, r *Room, e *Event) error {
	if err := tx.PurgeBare([]storage.Pos{e.Pos}); err != nil {
		return err
	}
	rows, err := tx.Timeline(r.nid, e.Order, math.MaxInt64, false, maxUndecided+1)
	if err != nil {
		return err
	}
	above := slices.IndexFunc(rows, func(row storage.EventRow) bool { return row.Flags&storage.UndecidedEvent == 0 })
	if above < 0 {
		return nil
	}
	return tx.AddBackwardEdge(r.nid, string(e.ID()), rows[above].Order)
}

// decide judges undecided events of a room, of which these are whole copies, and again what follows them.
func (s *Service) decide(ctx context.Context, room id.RoomID, fresh map[id.EventID]*incoming) (map[id.EventID]error, error) {
	r, err := s.lockRoom(ctx, room)
	if err != nil {
		return nil, err
	}
	defer r.writer.Unlock()
	c := newDecision(r, fresh)
	if err := r.settled(ctx, func(tx *storage.Tx) error { return c.judgeFresh(ctx, tx) }); err != nil {
		return nil, err
	}
	return c.decided, c.store(ctx)
}

// decideSoon makes DecideEvents look at a room to which events come, if it has undecided ones.
func (s *Service) decideSoon(r *Room) {
	if !r.attemptDecision(s.Now()) {
		return
	}
	select {
	case s.toDecide <- r.nid:
	default: // the next event tries again, and so does the next round
	}
}

// DecideEvents judges undecided events, until ctx ends: with what has arrived soon after an event comes to their room, and after asking
// for the keys and auth events that they need now and then.
func (s *Service) DecideEvents(ctx context.Context) error {
	tick := time.NewTicker(undecidedEvery)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case nid := <-s.toDecide:
			err = s.decideIn(ctx, nid, false)
		case <-tick.C:
			err = s.decideAll(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "undecided events cannot be authorised", "err", err)
		}
	}
}

// decideAll judges the undecided events of all rooms, as far as that is possible now.
func (s *Service) decideAll(ctx context.Context) error {
	var rooms []int64
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		rooms, err = tx.UndecidedRooms()
		return err
	})
	for _, nid := range rooms {
		err = errors.Join(err, s.decideIn(ctx, nid, true))
		if ctx.Err() != nil {
			break
		}
	}
	return err
}

// decideIn judges the undecided events of a room, as far as that is possible now. With ask, the keys and auth events that they need are
// asked for; the room's fetching slot is held meanwhile.
func (s *Service) decideIn(ctx context.Context, nid int64, ask bool) error {
	r, err := s.RoomByNID(ctx, nid)
	if err != nil || !r.Resident() {
		return err
	}
	if !ask {
		ready, err := s.hasKeys(ctx, r)
		if err != nil || !ready {
			return err
		}
	}
	in := newIngest(s, r, "")
	release, err := in.hold(ctx, fetching)
	if err != nil {
		return err
	}
	defer release()
	if err := inTime(ctx, func(ctx context.Context) error { return in.reconsider(ctx, ask) }); err != nil || len(in.fresh)+len(in.refill) == 0 {
		return err
	}
	releaseToo, err := in.hold(ctx, receiving)
	if err != nil {
		return err
	}
	defer releaseToo()
	return in.decide(ctx)
}

// hasKeys reports whether the key of an undecided event of a room is there, so that it may be judged. Nobody waits for the room's slots
// while servers are asked for keys.
func (s *Service) hasKeys(ctx context.Context, r *Room) (bool, error) {
	stored, err := s.undecided(ctx, r)
	if err != nil {
		return false, err
	}
	events := make([]*pdu.Event, len(stored))
	for i, e := range stored {
		events[i] = e.Event
	}
	keys := s.keysOf(ctx, events)
	return slices.ContainsFunc(events, func(e *pdu.Event) bool { return checkSignatures(e, keys) == nil }), ctx.Err()
}

// attemptDecision reports whether the room has undecided events and nobody has tried to decide them for undecidedRest, and counts as an
// attempt.
func (r *Room) attemptDecision(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.head.undecided || now.Before(r.attempted.Add(undecidedRest)) {
		return false
	}
	r.attempted = now
	return true
}

// mayDecide reports whether the last decision in the room is long enough ago; see decisionShare.
func (r *Room) mayDecide(now time.Time) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return !now.Before(r.decideAfter)
}

func (r *Room) restDeciding(until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.decideAfter = until
}
