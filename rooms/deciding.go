package rooms

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/storage"
)

const (
	// undecidedEvery is how often missing keys and auth events are requested again.
	undecidedEvery = 10 * time.Minute
	// undecidedRest is the pause between two attempts to decide the undecided events of a room to which new events
	// arrive. It is as long as fedclient waits before it requests a server's keys again.
	undecidedRest = 30 * time.Second
	// maxToDecide bounds the rooms that are queued for such an attempt.
	maxToDecide = 1000
	// decisionShare limits attempts to one part in decisionShare of a room's time. Each attempt authorises everything
	// since the undecided event again, under the room's lock, and other servers control when keys become available.
	decisionShare = 20
)

// decide authorises undecided events, and then everything that follows them. Undecided events that are history are
// deleted instead; they are fetched again later.
func (p *placing) decide(ctx context.Context, ready decidable) error {
	if len(ready.historical) > 0 {
		if err := p.forgetHistory(ctx, ready.historical); err != nil {
			return err
		}
	}
	if len(ready.arrived) == 0 {
		return nil
	}
	if !p.room.mayDecide(p.svc.opts.Now()) {
		p.answerCopies(decidable{})
		return nil
	}
	start := p.svc.opts.Now()
	defer func() {
		now := p.svc.opts.Now()
		p.room.restDeciding(now.Add(decisionShare * now.Sub(start)))
	}()
	list := slices.SortedFunc(maps.Values(ready.arrived), byDepth)
	for rest := list; len(rest) > 0; {
		n, err := p.lookUp(ctx, rest)
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	verdicts, err := p.svc.authoriseAgain(ctx, p.room.id, ready.arrived)
	if err != nil && !errors.Is(err, errNotStored) {
		return err
	}
	if err == nil {
		for _, e := range list {
			p.record(e.ID(), verdicts[e.ID()])
		}
	}
	return p.lookUpAgain(ctx)
}

// authoriseAgain authorises the undecided events of a room for which there is a complete copy in copies, and then
// everything that follows them.
func (s *Service) authoriseAgain(ctx context.Context, room id.RoomID, copies map[id.EventID]*incoming) (verdicts map[id.EventID]error, err error) {
	for {
		verdicts, err = s.authoriseAgainOnce(ctx, room, copies)
		if !errors.Is(err, errStale) { // an earlier write failed
			return verdicts, err
		}
	}
}

func (s *Service) authoriseAgainOnce(ctx context.Context, room id.RoomID, copies map[id.EventID]*incoming) (map[id.EventID]error, error) {
	r, err := s.lockRoom(ctx, room)
	if err != nil {
		return nil, err
	}
	defer r.writer.Unlock()
	c := newDecision(r, copies)
	if err := r.settled(ctx, func(tx *storage.Tx) error { return c.judgeFresh(ctx, tx) }); err != nil {
		return nil, err
	}
	return c.decided, c.store(ctx)
}

// forgetHistory deletes undecided events that are history, and records that they are missing.
func (p *placing) forgetHistory(ctx context.Context, events []*Event) error {
	left := false
	return p.svc.touch(ctx, p.room.id, func(r *Room) storage.Write {
		return storage.Write{
			Do: func(tx *storage.Tx) error {
				for _, e := range events {
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

// forgetPast deletes an event of the history if it is still undecided. It records a gap before the next newer event, so
// that the deleted one can be fetched again.
func forgetPast(tx *storage.Tx, r *Room, e *Event) error {
	row, found, err := tx.EventAt(e.Pos)
	if err != nil || !found || row.Flags&storage.UndecidedEvent == 0 {
		return err
	}
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

// decideSoon has DecideEvents look at a room soon, if the room has undecided events.
func (s *Service) decideSoon(r *Room) {
	if !r.attemptDecision(s.opts.Now()) {
		return
	}
	select {
	case s.toDecide <- r.nid:
	default: // the next event or round tries again
	}
}

// DecideEvents authorises undecided events until ctx ends. Soon after an event arrives in a room, it tries with what is
// stored; regularly, it also requests the keys and auth events that are needed. Besides, it checks soft-failed sticky
// events again, when it starts and when the state of their room changes.
func (s *Service) DecideEvents(ctx context.Context) error {
	tick := time.NewTicker(undecidedEvery)
	defer tick.Stop()
	err := s.readmitAll(ctx)
	for {
		if err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "cannot authorise waiting events", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case nid := <-s.toDecide:
			err = s.decideIn(ctx, nid, false)
		case nid := <-s.toReadmit:
			err = s.readmit(ctx, nid)
		case <-tick.C:
			err = errors.Join(s.decideAll(ctx), s.readmitAll(ctx))
		}
	}
}

// decideAll authorises the undecided events of all rooms, as far as that is possible now.
func (s *Service) decideAll(ctx context.Context) error {
	var rooms []ident.RoomNID
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

// decideIn authorises the undecided events of a room as far as possible. If ask is true, it requests missing auth
// events. While it requests keys, it holds none of the room's slots.
func (s *Service) decideIn(ctx context.Context, nid ident.RoomNID, ask bool) error {
	r, err := s.RoomByNID(ctx, nid)
	if err != nil || !r.Resident() || !r.maybeDecidable() {
		return err
	}
	var provable []*Event
	err = inTime(ctx, func(ctx context.Context) (err error) {
		provable, err = s.provable(ctx, r, nil)
		return err
	})
	if err != nil || len(provable) == 0 || ctx.Err() != nil {
		return err
	}
	a := newArrivals(r, "")
	releaseFetching, err := a.hold(ctx, fetching)
	if err != nil {
		return err
	}
	defer releaseFetching()
	var ready decidable
	err = inTime(ctx, func(ctx context.Context) (err error) {
		ready, err = newGathering(a, s.opts.Remote).chooseDecidable(ctx, provable, ask)
		return err
	})
	if err != nil || ready.none() {
		return err
	}
	releaseReceiving, err := a.hold(ctx, receiving)
	if err != nil {
		return err
	}
	defer releaseReceiving()
	return newPlacing(a).decide(ctx, ready)
}

// attemptDecision reports whether undecided events of the room should be tried now: the room has some, and the last
// attempt was at least undecidedRest ago. If so, it records the attempt.
func (r *Room) attemptDecision(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.head.undecided || now.Before(r.attempted.Add(undecidedRest)) {
		return false
	}
	r.attempted = now
	return true
}

// mayDecide reports whether the room may spend time on authorising undecided events again; see decisionShare.
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
