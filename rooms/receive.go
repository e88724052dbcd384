package rooms

import (
	"context"
	"encoding/json"
	"errors"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/mxerr"
	"ebb/rooms/eventauth"
	"ebb/rooms/parking"
	"ebb/rooms/signatures"
)

// ErrLater means that some events could not be authorised because a server did not answer, or did not return events
// that it must have. The caller may retry later.
var ErrLater = errors.New("another server does not return what is needed to authorise an event")

// Receive handles events of one room that another server sends. The results have an entry for each event with an ID:
// nil if the event was accepted or is stored already, otherwise the reason. A rejected event is stored and stays
// rejected. The results are complete even if the error is ErrLater.
//
// The specification's checks are made as follows. verify makes the first three for all events at once:
//
//  1. It is a valid event, otherwise it is dropped: pdu.Parse.
//  2. It passes signature checks, otherwise it is dropped: signatures.Check.
//  3. It passes hash checks, otherwise it is redacted: signatures.Verifier.
//
// A gathering then requests what is missing for the other checks, which are made in the order of the graph when a
// placing adds an event to a batch (addForeign):
//
//  4. It passes the authorisation rules based on its auth events, otherwise it is rejected: checkAuthEvents.
//  5. It passes them based on the state before it, otherwise it is rejected: checkStateBefore.
//  6. It passes them based on the current state, otherwise it is soft-failed: checkCurrentState.
//  7. It is signed by the room's policy server, if there is one, otherwise it is soft-failed: checkPolicyServer.
//
// Spec: server-server-api#checks-performed-on-receipt-of-a-pdu
func (s *Service) Receive(ctx context.Context, origin string, roomID id.RoomID, raws []json.RawMessage) (map[id.EventID]error, error) {
	r, err := s.RoomForServer(ctx, origin, roomID)
	if errors.Is(err, ErrNoRoom) || errors.Is(err, errOutside) {
		return s.receiveOutside(ctx, origin, roomID, raws)
	}
	if err != nil {
		return nil, err
	}
	if r.toRecheck() {
		if _, err := s.forgetDamage(ctx, r); err != nil {
			return nil, err
		}
	}
	if ok, err := s.admits(ctx, r, origin, raws); err != nil {
		return nil, err
	} else if !ok {
		return s.receiveFromStranger(ctx, r, origin, raws)
	}
	ctx, release := fedclient.HoldAnswers(ctx, false)
	defer release()
	raws = append(s.parking.Take(parking.Key{Origin: origin, Room: roomID}), raws...)
	a := newArrivals(r, origin)
	valid, results := a.verify(ctx, raws)      // checks 1 to 3
	err = a.process(ctx, s.opts.Remote, valid) // checks 4 to 7
	for _, e := range valid {                  // only for the events that were sent
		if result, done := a.results[e.ID()]; done {
			results[e.ID()] = result
		}
	}
	if err == nil && a.lost {
		err = ErrLater
	}
	return results, err
}

// verify performs the first three of the specification's "checks performed on receipt of a PDU", for the events that a
// server sent: format, signatures and hashes. It returns the valid events, and the results of the others.
func (a *arrivals) verify(ctx context.Context, raws []json.RawMessage) (valid []*incoming, results map[id.EventID]error) {
	results = make(map[id.EventID]error, len(raws))
	events, errs := a.svc.verifier.Verify(ctx, a.room.version, raws)
	valid = make([]*incoming, 0, len(events))
	for i, raw := range raws {
		switch e := events[i]; {
		case e == nil:
			if errors.Is(errs[i], signatures.ErrNoKey) {
				a.lost = true
				a.keepUnproven(raw)
			}
			if eventID := idOf(a.room.version, raw); eventID != "" {
				results[eventID] = errs[i]
			}
		case e.RoomID() != a.room.id:
			results[e.ID()] = errUnknownRoomEvent
		default:
			valid = append(valid, &incoming{Event: e})
		}
	}
	return valid, results
}

// process gathers what the given verified events lack, and places the events. If they lack nothing, they do not wait
// for other events to be gathered, so that a slow server blocks nobody else. If remote is nil, no requests are made.
func (a *arrivals) process(ctx context.Context, remote Remote, events []*incoming) error {
	for _, e := range events {
		a.waiting[e.ID()] = e
	}
	complete, err := a.placeComplete(ctx)
	if err == nil && !complete {
		err = a.gatherAndPlace(ctx, remote)
	}
	if err != nil {
		return err
	}
	return a.svc.mergeExtremities(ctx, a.room)
}

// placeComplete places the waiting events and returns true. If something must be requested first, it returns false and
// places none.
func (a *arrivals) placeComplete(ctx context.Context) (complete bool, err error) {
	release, err := a.hold(ctx, receiving)
	if err != nil {
		return false, err
	}
	defer release()
	if err := a.lookUpStored(ctx); err != nil {
		return false, err
	}
	suspects, err := a.historySuspects(ctx)
	if err != nil || len(a.setHistoryAside(suspects)) > 0 {
		return false, err
	}
	if len(a.lackingState()) > 0 || a.lackingAuth() != nil || len(a.copies) > 0 || len(a.waiting) > 0 && a.room.policyServer() != nil {
		return false, nil
	}
	a.svc.decideSoon(a.room)
	return true, newPlacing(a).placeAll(ctx)
}

// gatherAndPlace requests what the waiting events lack, and then places them. Only one caller makes requests for a room
// at a time, so that later callers find what an earlier one has fetched.
func (a *arrivals) gatherAndPlace(ctx context.Context, remote Remote) error {
	releaseFetching, err := a.hold(ctx, fetching)
	if err != nil {
		return err
	}
	defer releaseFetching()
	var ready decidable
	err = inTime(ctx, func(ctx context.Context) (err error) {
		ready, err = newGathering(a, remote).gather(ctx)
		return err
	})
	if err != nil {
		return err
	}
	releaseReceiving, err := a.hold(ctx, receiving)
	if err != nil {
		return err
	}
	defer releaseReceiving()
	if err := a.lookUpAgain(ctx); err != nil {
		return err
	}
	p := newPlacing(a)
	if err := p.decide(ctx, ready); err != nil {
		return err
	}
	return p.placeAll(ctx)
}

// receiving returns the slot of a room that its holder needs to place events. It is an argument for hold. Every slot
// has one holder at a time.
func receiving(r *Room) chan struct{} { return r.receiving }

// fetching returns the slot of a room that its holder needs to request events and states from other servers.
func fetching(r *Room) chan struct{} { return r.fetching }

// hold waits until a slot of a room is free, and takes it; see receiving and fetching. The room stays in memory until
// the slot is released.
func (s *Service) hold(ctx context.Context, room id.RoomID, slot func(*Room) chan struct{}) (r *Room, release func(), err error) {
	for {
		r, err := s.Room(ctx, room)
		if err != nil {
			return nil, nil, err
		}
		select {
		case slot(r) <- struct{}{}:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		if !r.isRetired() {
			return r, func() { <-slot(r) }, nil
		}
		<-slot(r)
	}
}

// hold waits until a slot of the room is free, and takes it.
func (s *storedEvents) hold(ctx context.Context, slot func(*Room) chan struct{}) (release func(), err error) {
	r, release, err := s.svc.hold(ctx, s.room.id, slot)
	if err == nil {
		s.room = r // the old Room may have been evicted
	}
	return release, err
}

func (r *Room) isRetired() bool {
	r.writer.Lock()
	defer r.writer.Unlock()
	return r.next.retired
}

// RoomForServer returns a room in which this server participates. It returns an error if the room's server ACL denies
// the server origin.
func (s *Service) RoomForServer(ctx context.Context, origin string, roomID id.RoomID) (*Room, error) {
	r, err := s.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if !r.Resident() {
		return nil, errOutside
	}
	if !r.AllowsServer(origin) {
		return nil, mxerr.Forbidden("The room's server access control list denies your server")
	}
	return r, nil
}

// requireFullState is like RoomForServer, but also returns an error for a partial-state room.
func (s *Service) requireFullState(ctx context.Context, origin string, roomID id.RoomID) (*Room, error) {
	r, err := s.RoomForServer(ctx, origin, roomID)
	if err == nil && r.Partial() {
		return nil, mxerr.NotFound("This server has just joined the room and does not know its full state yet. Try again later")
	}
	return r, err
}

// IsVerdict reports whether err means that the auth rules reject the event. Any other error means that the event could
// not be processed.
func IsVerdict(err error) bool {
	var rejection *eventauth.Rejection
	return errors.Is(err, errRejectedBefore) || errors.As(err, &rejection)
}

// Refused completes the results of Receive when some events were not processed. Each event that has an ID but no result
// gets cause as its result.
func (s *Service) Refused(ctx context.Context, room id.RoomID, raws []json.RawMessage, results map[id.EventID]error, cause error) map[id.EventID]error {
	if results == nil {
		results = map[id.EventID]error{}
	}
	r, err := s.Room(ctx, room)
	if err != nil { // without the room's version the IDs are unknown
		return results
	}
	for _, raw := range raws {
		if eventID := idOf(r.version, raw); eventID != "" {
			if _, answered := results[eventID]; !answered {
				results[eventID] = cause
			}
		}
	}
	return results
}
