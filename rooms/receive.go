package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/mxerr"
	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"
	"ebb/rooms/stateres"
	"ebb/storage"
)

// Bounds of the work that events of one transaction may cause; docs/limits.md lists them.
const (
	maxMissingRounds = 128      // requests for missing events
	maxMissingPage   = 100      // events that one of them asks for
	usualMissingPage = 20       // what other servers give at most; with less there is no more
	maxKnownBefore   = 60       // stored events that one of them names besides the extremities; servers look at a hundred or so
	maxMissingEvents = 10_000   // events that all of them may bring
	maxMissingBytes  = 32 << 20 // and their size: they are kept in memory until the first of them is in place
	maxAuthFetches   = 20       // auth chains that are asked for
	maxGaps          = 10       // states that are asked for
	maxGapEvents     = 2000     // events of such a state that are asked for one by one
	maxForeignState  = 300_000
	// takeChunk is how many events become one write.
	takeChunk = 50
	// manyExtremities is from where on a dummy event merges forward extremities.
	manyExtremities = 10
)

// ErrLater: not every event could be judged, since a server did not answer what had to be asked, or did not give what it has to. It may be
// tried again: a server that is itself still catching up has it then.
var ErrLater = errors.New("a server that has to be asked about an event does not tell what is needed")

// Receive takes in events that another server sends, all of one room. The answer has an entry for every event that has an
// id: nil where it was taken, or was there already, else why not. An event that the rules refuse is remembered, and stays
// refused. With ErrLater the answer is whole all the same.
// Spec: server-server-api#checks-performed-on-receipt-of-a-pdu
func (s *Service) Receive(ctx context.Context, origin string, roomID id.RoomID, raws []json.RawMessage) (map[id.EventID]error, error) {
	r, err := s.RoomForServer(ctx, origin, roomID)
	if mxerr.Code(err) == mxerr.CodeNotFound {
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
	raws = append(s.gate.take(parkKey{origin, roomID}), raws...)
	results := make(map[id.EventID]error, len(raws))
	events, errs := s.verify(ctx, r.version, raws) // 1 to 3
	in := newIngest(s, r, origin)
	good := make([]*incoming, 0, len(events))
	later := false
	for i, raw := range raws {
		switch e := events[i]; {
		case e == nil:
			if errors.Is(errs[i], errNoKey) {
				later = true
				in.noteUnproven(raw)
			}
			if eventID := idOf(r.version, raw); eventID != "" {
				results[eventID] = errs[i]
			}
		case e.RoomID() != roomID:
			results[e.ID()] = errUnknownRoomEvent
		default:
			good = append(good, &incoming{Event: e})
		}
	}
	err = in.take(ctx, good)
	for _, e := range good { // and not of what was asked for besides
		if result, done := in.results[e.ID()]; done {
			results[e.ID()] = result
		}
	}
	if err == nil && (later || in.lost) {
		err = ErrLater
	}
	return results, err
}

// RoomForServer returns a room in which this server takes part and whose server ACL lets another server in.
func (s *Service) RoomForServer(ctx context.Context, origin string, roomID id.RoomID) (*Room, error) {
	r, err := s.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if !r.Resident() {
		return nil, errOutside()
	}
	if !r.AllowsServer(origin) {
		return nil, mxerr.Forbidden("The room's access control list keeps your server out")
	}
	return r, nil
}

// whole is like RoomForServer but refuses partial-state rooms.
func (s *Service) whole(ctx context.Context, origin string, roomID id.RoomID) (*Room, error) {
	r, err := s.RoomForServer(ctx, origin, roomID)
	if err == nil && r.Partial() {
		return nil, mxerr.NotFound("This server has joined the room a short time ago and does not know all of it yet")
	}
	return r, err
}

// ingest is the way of some events of one server into one room.
type ingest struct {
	ctx     context.Context
	svc     *Service
	room    *Room
	origin  string
	alone   bool // no other server is asked for anything
	results map[id.EventID]error
	waiting map[id.EventID]*incoming // verified, not yet taken
	known   map[id.EventID]*Event    // stored
	absent  map[id.EventID]bool      // not stored when it was looked for
	past    *ancestry                // what precedes this server's join; nil until it is needed

	unproven  map[id.EventID]*incoming  // given, with a signature that cannot be checked
	again     map[id.EventID]*incoming  // verified copies of events that are stored as undecided
	fresh     map[id.EventID]*incoming  // undecided events that can be judged now
	refill    []*Event                  // those of them that are history
	elsewhere map[id.EventID]bool       // cited events that are of another room
	unhad     map[id.EventID]bool       // auth events that no server gave
	bad       map[id.EventID]*pdu.Event // given, and not good: only their place in the graph is looked at

	spoilt       bool // one of the missing events was not good: what follows it is not taken by its state alone
	lost         bool // an event could not be judged
	fetched      int  // missing events
	fetchedBytes int
	authFetches  int
	gaps         int

	withheldState bool // of the state that was asked for last the server did not give all that it named
}

func newIngest(s *Service, r *Room, origin string) *ingest {
	return &ingest{
		svc: s, room: r, origin: origin, results: map[id.EventID]error{}, waiting: map[id.EventID]*incoming{},
		known: map[id.EventID]*Event{}, absent: map[id.EventID]bool{},
		unproven: map[id.EventID]*incoming{}, again: map[id.EventID]*incoming{}, fresh: map[id.EventID]*incoming{},
		elsewhere: map[id.EventID]bool{}, unhad: map[id.EventID]bool{}, bad: map[id.EventID]*pdu.Event{},
	}
}

// take takes events that passed the first three checks. Those that name nothing but what is stored need not wait while for others
// the network is asked: a server that answers slowly keeps nobody else out.
func (in *ingest) take(ctx context.Context, events []*incoming) error {
	for _, e := range events {
		in.waiting[e.ID()] = e
	}
	complete, err := in.takeComplete(ctx)
	if err == nil && !complete {
		err = in.takeFetching(ctx)
	}
	if err != nil {
		return err
	}
	return in.svc.mergeExtremities(ctx, in.room)
}

// takeComplete takes the waiting events, one caller's after the other's, unless something must be asked for first.
func (in *ingest) takeComplete(ctx context.Context) (bool, error) {
	release, err := in.hold(ctx, receiving)
	if err != nil {
		return false, err
	}
	defer release()
	if err := in.refresh(ctx); err != nil {
		return false, err
	}
	if decided, err := in.setHistoryAside(ctx, false); err != nil || !decided {
		return false, err
	}
	if len(in.gapless()) > 0 || in.lacksAuth() != nil || len(in.again) > 0 || len(in.waiting) > 0 && in.room.policyServer() != nil {
		return false, nil
	}
	in.svc.decideSoon(in.room)
	return true, in.placeAll(ctx)
}

// takeFetching takes the waiting events once what they lack was asked for. Callers ask one after the other: what the first
// fetches the next ones have.
func (in *ingest) takeFetching(ctx context.Context) error {
	release, err := in.hold(ctx, fetching)
	if err != nil {
		return err
	}
	defer release()
	if err := inTime(ctx, in.fetch); err != nil {
		return err
	}
	releaseToo, err := in.hold(ctx, receiving)
	if err != nil {
		return err
	}
	defer releaseToo()
	if err := in.refreshAll(ctx); err != nil {
		return err
	}
	if err := in.decide(ctx); err != nil {
		return err
	}
	return in.placeAll(ctx)
}

// fetchTime bounds what one caller makes the others wait who also need the network. What has not come by then is missing.
const fetchTime = time.Minute

// inTime calls ask with a context that ends after fetchTime. Running out of that time is not an error; the end of ctx is.
func inTime(ctx context.Context, ask func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	err := ask(limited)
	if err != nil && limited.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (in *ingest) fetch(ctx context.Context) error {
	if err := in.refreshAll(ctx); err != nil {
		return err
	}
	if _, err := in.setHistoryAside(ctx, true); err != nil {
		return err
	}
	if len(in.lacking()) > 0 {
		if err := in.fetchMissing(ctx); err != nil {
			return err
		}
	}
	if err := in.bridgeGaps(ctx); err != nil {
		return err
	}
	if err := in.fetchAuth(ctx); err != nil {
		return err
	}
	if err := in.bridgeGaps(ctx); err != nil { // after what was found to cite nothing that is to be had
		return err
	}
	in.askPolicyServer(ctx)
	return in.reconsider(ctx, false)
}

// The slots of a room, for hold.
func receiving(r *Room) chan struct{} { return r.receiving }
func fetching(r *Room) chan struct{}  { return r.fetching }

// hold takes a slot of the room. As long as it is held the room stays in memory.
func (in *ingest) hold(ctx context.Context, slot func(*Room) chan struct{}) (release func(), err error) {
	for {
		r, err := in.svc.Room(ctx, in.room.id)
		if err != nil {
			return nil, err
		}
		select {
		case slot(r) <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !r.isRetired() {
			in.room = r
			return func() { <-slot(r) }, nil
		}
		<-slot(r)
	}
}

func (r *Room) isRetired() bool {
	r.writer.Lock()
	defer r.writer.Unlock()
	return r.next.retired
}

// refreshAll is refresh that takes nothing for granted: others may have stored since what was missing.
func (in *ingest) refreshAll(ctx context.Context) error {
	in.known, in.absent = nil, nil
	if err := in.refresh(ctx); err != nil {
		return err
	}
	for _, e := range in.waiting {
		for prev := range e.gaps {
			if known := in.known[prev]; known != nil && placed(known) {
				delete(e.gaps, prev)
			}
		}
		if len(e.gaps) == 0 {
			e.gaps = nil
		}
	}
	return nil
}

// refresh looks up what of the waiting events, and of those that they name, is stored. What is there already is done.
func (in *ingest) refresh(ctx context.Context) error {
	in.admitUnproven()
	var ids []id.EventID
	for eventID, e := range in.waiting {
		ids = append(append(append(ids, eventID), e.PrevEvents()...), e.AuthEvents()...)
	}
	if in.known == nil {
		in.known, in.absent = map[id.EventID]*Event{}, map[id.EventID]bool{}
	}
	if err := in.findStored(ctx, ids); err != nil {
		return err
	}
	for eventID := range in.waiting {
		e := in.known[eventID]
		switch {
		case e == nil:
		case !placed(e):
			if w := in.waiting[eventID]; w.unverified && outlierOf(e) != nil { // its signature was good when it was stored
				w.Event, w.unverified = e.Event, false
			}
		case e.undecided() && !in.waiting[eventID].unverified:
			in.again[eventID] = in.waiting[eventID]
			delete(in.waiting, eventID)
		default:
			in.done(eventID, refusal(e))
			received.WithLabelValues("known").Inc()
		}
	}
	return nil
}

// findStored looks up which events are stored, unless that was done before.
func (in *ingest) findStored(ctx context.Context, ids []id.EventID) error {
	var unknown []id.EventID
	for _, eventID := range ids {
		if in.known[eventID] == nil && !in.absent[eventID] {
			in.absent[eventID] = true
			unknown = append(unknown, eventID)
		}
	}
	found, err := in.svc.stored(ctx, in.room, unknown)
	for eventID, e := range found {
		in.known[eventID] = e
	}
	return err
}

// placed tells of a stored event that it is part of the graph, refused or not, and not only known by name.
func placed(e *Event) bool { return e.Flags&storage.OutlierEvent == 0 }

// refusal is what an event gets that was refused before.
func refusal(e *Event) error {
	switch {
	case e.undecided():
		return errUndecided
	case e.Flags&storage.RejectedEvent != 0:
		return errRejectedBefore
	}
	return nil
}

var errRejectedBefore = errors.New("the event was rejected before")

// IsVerdict tells of what became of an event that the room's rules refuse it: that is no failure to take it in.
func IsVerdict(err error) bool {
	var rejection *eventauth.Rejection
	return errors.Is(err, errRejectedBefore) || errors.As(err, &rejection)
}

// done ends an event's way. That something which it names is nowhere to be had is not told to the sender: it may come yet, and
// the event with it.
func (in *ingest) done(eventID id.EventID, err error) {
	e := in.waiting[eventID]
	delete(in.waiting, eventID)
	if e != nil && e.unverified { // nobody waits for the answer
		return
	}
	if errors.Is(err, errNoPrevEvent) || errors.Is(err, errNoAuthEvent) || errors.Is(err, errUndecided) {
		in.lost, err = true, nil
	}
	in.results[eventID] = err
}

// has tells whether an event is part of the stored graph, or about to be.
func (in *ingest) has(eventID id.EventID) bool {
	if in.waiting[eventID] != nil {
		return true
	}
	e := in.known[eventID]
	return e != nil && placed(e)
}

// lacking lists the waiting events that name missing ones since the join.
func (in *ingest) lacking() (ids []id.EventID) {
	for eventID, e := range in.waiting {
		if slices.ContainsFunc(e.PrevEvents(), func(prev id.EventID) bool { return !in.has(prev) && !in.behind(prev) }) {
			ids = append(ids, eventID)
		}
	}
	slices.Sort(ids)
	return ids
}

// knownBefore lists what waiting events name that is stored, so that nobody goes back beyond it: the extremities alone do not
// tell of an event on which something was built since.
func (in *ingest) knownBefore(events []id.EventID) (known []id.EventID) {
	for _, eventID := range events {
		for _, prev := range in.waiting[eventID].PrevEvents() {
			if in.waiting[prev] == nil && in.has(prev) && len(known) < maxKnownBefore && !slices.Contains(known, prev) {
				known = append(known, prev)
			}
		}
	}
	return known
}

// fetchMissing asks the sender for what lies between what is stored and what it sent.
// Spec: server-server-api#retrieving-events
func (in *ingest) fetchMissing(ctx context.Context) error {
	if in.remote() == nil {
		return nil
	}
	extremities := in.room.extremityIDs()
	for range maxMissingRounds {
		latest := in.lacking()
		if len(latest) == 0 || in.fetched >= maxMissingEvents || in.fetchedBytes >= maxMissingBytes {
			return nil
		}
		latest = latest[:min(len(latest), pdu.MaxPrevEvents)]
		earliest := append(in.knownBefore(latest), extremities...)
		raws, err := in.svc.Remote.GetMissingEvents(ctx, in.origin, in.room.id, earliest, latest, maxMissingPage, in.room.MinDepth())
		if err != nil {
			in.svc.log.DebugContext(ctx, "missing events are not to be had", "room", in.room.id, "server", in.origin, "err", err)
			return ctx.Err()
		}
		raws = raws[:min(len(raws), maxMissingPage)]
		admitted := in.admit(ctx, raws)
		if err := in.refresh(ctx); err != nil { // which takes those out again that are known
			return err
		}
		if _, err := in.setHistoryAside(ctx, true); err != nil {
			return err
		}
		fresh := slices.ContainsFunc(admitted, func(eventID id.EventID) bool { return in.waiting[eventID] != nil })
		in.fetched += len(raws)
		for _, raw := range raws {
			in.fetchedBytes += len(raw)
		}
		if !fresh || len(raws) < usualMissingPage {
			return nil
		}
	}
	return nil
}

// admit verifies fetched events and adds the valid ones to the waiting events. It returns them, and those that may join them.
func (in *ingest) admit(ctx context.Context, raws []json.RawMessage) (added []id.EventID) {
	events, errs := in.svc.verify(ctx, in.room.version, raws)
	for i, e := range events {
		switch {
		case e == nil && errors.Is(errs[i], errNoKey):
			if e := in.noteUnproven(raws[i]); e != nil {
				added = append(added, e.ID())
			}
		case e == nil:
			in.spoilt = true
			if bad, err := pdu.Parse(in.room.version, raws[i]); err == nil {
				in.bad[bad.ID()] = bad
			}
			in.svc.log.DebugContext(ctx, "a missing event is not good", "room", in.room.id, "server", in.origin, "err", errs[i])
		case e.RoomID() == in.room.id && in.waiting[e.ID()] == nil:
			in.waiting[e.ID()] = &incoming{Event: e, asked: true}
			added = append(added, e.ID())
		}
	}
	return added
}

// fetchAuth fetches the auth chains of waiting events that cite events neither stored nor waiting. Events whose auth events cannot be
// fetched are undecided.
func (in *ingest) fetchAuth(ctx context.Context) error {
	if in.remote() == nil {
		return nil
	}
	in.nameFollowed()
	for {
		lacks := in.lacksAuth()
		if lacks == nil {
			return nil
		}
		if err := in.obtainAuth(ctx, lacks); err != nil {
			return err
		}
		if len(in.unhadAuth(lacks)) > 0 {
			in.keepUndecided(lacks)
		}
	}
}

// lacksAuth finds a waiting event that cannot be judged for want of an auth event.
func (in *ingest) lacksAuth() *incoming {
	var ids []id.EventID
	for eventID := range in.waiting {
		ids = append(ids, eventID)
	}
	slices.Sort(ids)
	for _, eventID := range ids {
		if e := in.waiting[eventID]; !e.unverified && !e.noAuth && len(in.unhadAuth(e)) > 0 {
			return e
		}
	}
	return nil
}

// unhadAuth lists the auth events of an event that are neither stored nor waiting. It lists none if another auth event was rejected, since
// the event is then rejected too.
func (in *ingest) unhadAuth(e *incoming) (ids []id.EventID) {
	for _, a := range e.AuthEvents() {
		known := in.known[a]
		switch {
		case in.elsewhere[a], known != nil && errors.Is(refusal(known.asAuth()), errRejectedBefore):
			return nil
		case known == nil && in.waiting[a] == nil:
			ids = append(ids, a)
		}
	}
	return ids
}

// obtainAuth asks for the auth chain of an event, the origin first, and for what that lacks one by one.
func (in *ingest) obtainAuth(ctx context.Context, e *incoming) error {
	for _, a := range in.unhadAuth(e) {
		if elsewhere, err := in.isElsewhere(ctx, a); elsewhere || err != nil {
			return err
		}
	}
	for _, server := range in.authServers(e.Sender()) {
		lacks := slices.DeleteFunc(in.unhadAuth(e), func(a id.EventID) bool { return in.unhad[a] })
		if len(lacks) == 0 || in.authFetches >= maxAuthFetches {
			break
		}
		in.authFetches++
		raws, err := in.svc.Remote.EventAuth(ctx, server, in.room.id, e.ID())
		if err != nil {
			in.svc.log.DebugContext(ctx, "an auth chain could not be fetched", "room", in.room.id, "event", e.ID(), "server", server, "err", err)
		}
		if err := in.keepAuth(ctx, raws); err != nil {
			return err
		}
		if err := in.keepAuth(ctx, in.fetchEach(ctx, server, in.unhadAuth(e))); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	for _, a := range in.unhadAuth(e) {
		in.unhad[a] = true
	}
	return nil
}

// keepAuth is keepOutliers for what was asked for because an event cites it.
func (in *ingest) keepAuth(ctx context.Context, raws []json.RawMessage) error {
	in.noteElsewhere(ctx, raws)
	return in.keepOutliers(ctx, raws)
}

func unknownOf(known map[id.EventID]*Event, ids []id.EventID) (unknown []id.EventID) {
	for _, eventID := range ids {
		if known[eventID] == nil {
			unknown = append(unknown, eventID)
		}
	}
	return unknown
}

// fetchEach asks for events one by one; those that are not to be had are left out.
func (in *ingest) fetchEach(ctx context.Context, server string, ids []id.EventID) (raws []json.RawMessage) {
	for _, eventID := range ids {
		raw, err := in.svc.Remote.GetEvent(ctx, server, eventID)
		if ctx.Err() != nil {
			return raws
		}
		if err == nil {
			raws = append(raws, raw)
		}
	}
	return raws
}

// keepOutliers verifies events, judges them by their auth events and stores them without a place.
func (in *ingest) keepOutliers(ctx context.Context, raws []json.RawMessage) error {
	if len(raws) == 0 {
		return nil
	}
	raws = raws[:min(len(raws), maxForeignState)]
	events, _ := in.svc.verify(ctx, in.room.version, raws)
	events = slices.DeleteFunc(events, func(e *pdu.Event) bool { return e == nil || e.RoomID() != in.room.id })
	var ids []id.EventID
	for _, e := range events {
		ids = append(append(ids, e.ID()), e.AuthEvents()...)
	}
	found, err := in.svc.stored(ctx, in.room, ids)
	if err != nil {
		return err
	}
	for eventID, e := range found {
		in.known[eventID] = e
	}
	if create := in.room.State(typeCreate, ""); create != nil {
		in.known[create.ID()] = create
	}
	kept := authorised(in.room.version, events, in.known, in.elsewhere)
	if err := in.svc.storeOutliers(ctx, in.room.nid, kept); err != nil {
		return err
	}
	for _, e := range kept {
		in.known[e.ID()] = e
	}
	return nil
}

// placeAll takes the waiting events in an order in which each comes after those before it.
func (in *ingest) placeAll(ctx context.Context) error {
	in.nameFollowed()
	for len(in.waiting) > 0 {
		ready := in.ready()
		if len(ready) == 0 {
			in.unblock()
			continue
		}
		for part := range slices.Chunk(ready, takeChunk) {
			if err := in.place(ctx, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// unblock refuses events of which none can be taken: they follow what is not to be had, or wait for each other in a circle, as
// ids of old room versions and wrong auth events make it possible.
func (in *ingest) unblock() {
	if len(in.gapless()) > 0 {
		in.dropFollowers()
		return
	}
	for eventID := range in.waiting {
		in.done(eventID, errors.New("the event comes before itself"))
	}
}

// ready lists the waiting events that have everything before them, and what allows them, stored or in the list before them.
// Of those that could be next the least deep is.
func (in *ingest) ready() (out []*incoming) {
	open := map[id.EventID]int{} // events that must come first
	followers := map[id.EventID][]*incoming{}
	var next []*incoming // sorted, the first last
	enter := func(e *incoming) {
		at, _ := slices.BinarySearchFunc(next, e, func(a, b *incoming) int { return -byDepth(a, b) })
		next = slices.Insert(next, at, e)
	}
	for _, e := range in.waiting {
		first, possible := in.before(e)
		if !possible {
			continue
		}
		for _, b := range first {
			followers[b] = append(followers[b], e)
		}
		if open[e.ID()] = len(first); len(first) == 0 {
			enter(e)
		}
	}
	for len(next) > 0 {
		e := next[len(next)-1]
		next = next[:len(next)-1]
		out = append(out, e)
		for _, f := range followers[e.ID()] {
			if open[f.ID()]--; open[f.ID()] == 0 {
				enter(f)
			}
		}
	}
	return out
}

func byDepth(a, b *incoming) int {
	return cmp.Or(cmp.Compare(a.Depth(), b.Depth()), cmp.Compare(a.OriginServerTS(), b.OriginServerTS()), cmp.Compare(a.ID(), b.ID()))
}

// before lists the waiting events that must be taken before one; false where it names something that is not to be had.
func (in *ingest) before(e *incoming) (first []id.EventID, possible bool) {
	wait := func(eventID id.EventID) {
		if !slices.Contains(first, eventID) {
			first = append(first, eventID)
		}
	}
	for _, a := range e.AuthEvents() {
		if in.waiting[a] != nil && a != e.ID() {
			wait(a)
		}
	}
	for _, prev := range e.PrevEvents() {
		switch {
		case in.known[prev] != nil && placed(in.known[prev]), e.gaps[prev] != nil, e.told != nil, in.waiting[prev] == nil && in.bridged(e, prev):
		case in.waiting[prev] != nil:
			wait(prev)
		default:
			return nil, false
		}
	}
	return first, true
}

// bridgeGaps gets the state before every event that names something which is nowhere to be had from the sender.
func (in *ingest) bridgeGaps(ctx context.Context) error {
	dropped := false
	for _, e := range in.gapless() {
		ok, err := in.bridgeGap(ctx, e)
		if err != nil {
			return err
		}
		dropped = dropped || !ok
	}
	if dropped {
		in.dropFollowers()
	}
	return nil
}

// lacksState reports whether the state after a prev_event is neither stored nor about to be.
func (in *ingest) lacksState(e *incoming, prev id.EventID) bool {
	return !in.has(prev) && e.gaps[prev] == nil && !in.bridged(e, prev)
}

// gapless lists the waiting events that name missing ones after which the state is not known yet, the least deep first.
func (in *ingest) gapless() (out []*incoming) {
	for _, e := range in.waiting {
		if slices.ContainsFunc(e.PrevEvents(), func(prev id.EventID) bool { return in.lacksState(e, prev) }) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, byDepth)
	return out
}

// bridgeGap makes an event ready that names something which is nowhere to be had; false where that is not to be.
func (in *ingest) bridgeGap(ctx context.Context, e *incoming) (ok bool, err error) {
	for _, prev := range e.PrevEvents() {
		if !in.lacksState(e, prev) {
			continue
		}
		var state gap
		err := in.withheld(e, prev)
		if err == nil {
			if state, err = in.stateAfter(ctx, prev); err != nil && ctx.Err() == nil { // servers do not give what they rejected
				state, err = in.stateBefore(ctx, e.ID())
			}
		}
		if err != nil {
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			in.svc.log.InfoContext(ctx, "the state after an event is not to be had", "room", in.room.id, "event", prev, "err", err)
			in.done(e.ID(), errNoPrevEvent)
			received.WithLabelValues("refused").Inc()
			return false, nil
		}
		// Others that name the same event need not ask again.
		for _, other := range in.waiting {
			if slices.Contains(other.PrevEvents(), prev) {
				if other.gaps == nil {
					other.gaps = map[id.EventID]gap{}
				}
				if other.gaps[prev] = state; in.behind(prev) {
					other.behind = append(other.behind, prev)
				}
			}
		}
	}
	return true, nil
}

// dropFollowers refuses what waits for events that were refused for want of their state.
func (in *ingest) dropFollowers() {
	followers := map[id.EventID][]id.EventID{}
	var lost []id.EventID
	for eventID, e := range in.waiting {
		for _, prev := range e.PrevEvents() {
			followers[prev] = append(followers[prev], eventID)
			if in.lacksState(e, prev) {
				lost = append(lost, eventID)
			}
		}
	}
	for len(lost) > 0 {
		eventID := lost[0]
		lost = lost[1:]
		if in.waiting[eventID] == nil {
			continue
		}
		in.done(eventID, errNoPrevEvent)
		received.WithLabelValues("refused").Inc()
		lost = append(lost, followers[eventID]...)
	}
}

var (
	errSpoilt   = errors.New("a missing event is not good")
	errWithheld = errors.New("the server does not say what came before the event that it sent")
)

// withheld returns an error if the state after a missing prev_event must not be fetched. A server that sends an event but withholds its
// predecessors could make the event the room's only forward extremity and then dictate the room's state. Predecessors from before the join
// are not withheld: this server does not ask for them.
func (in *ingest) withheld(e *incoming, prev id.EventID) error {
	switch {
	case in.behind(prev):
		return nil
	case in.spoilt:
		return errSpoilt
	case !e.asked && e.Depth() > in.room.MinDepth()+1:
		return errWithheld
	}
	return nil
}

var errTooManyGaps = errors.New("too many gaps in one transaction")

// stateAfter asks the sender for the state after an event that is not to be had as such.
func (in *ingest) stateAfter(ctx context.Context, eventID id.EventID) (gap, error) {
	state, chain, err := in.stateIDs(ctx, eventID)
	if err != nil {
		return nil, err
	}
	return in.toldState(ctx, eventID, append(state, eventID), chain)
}

// stateBefore asks the sender for the state before an event.
func (in *ingest) stateBefore(ctx context.Context, eventID id.EventID) (gap, error) {
	state, chain, err := in.stateIDs(ctx, eventID)
	if err != nil {
		return nil, err
	}
	return in.toldState(ctx, eventID, state, chain)
}

// stateIDs names the state before an event, and its auth chain.
func (in *ingest) stateIDs(ctx context.Context, eventID id.EventID) (state, chain []id.EventID, err error) {
	if in.gaps++; in.gaps > maxGaps {
		return nil, nil, errTooManyGaps
	}
	if in.remote() == nil {
		return nil, nil, errors.New("federation is off")
	}
	return in.svc.Remote.StateIDs(ctx, in.origin, in.room.id, eventID)
}

// toldState makes a state of the events that another server named as one, and of their auth chain.
func (in *ingest) toldState(ctx context.Context, at id.EventID, state, chain []id.EventID) (gap, error) {
	if len(state) > maxForeignState || len(chain) > maxForeignState {
		return nil, errors.New("the state is too large")
	}
	if err := in.fetchState(ctx, at, append(slices.Clone(chain), state...)); err != nil {
		return nil, err
	}
	out := gap{}
	for _, entry := range state {
		e := in.known[entry]
		if e == nil {
			continue
		}
		if e = e.asAuth(); e.Flags&storage.RejectedEvent != 0 {
			continue
		}
		if key, isState := e.StateKey(); isState {
			k := pdu.StateKey{Type: e.Type(), Key: key}
			out[k] = stateRef{key: k, pos: e.Pos}
		}
	}
	if _, ok := out[pdu.StateKey{Type: typeCreate}]; !ok {
		return nil, errors.New("the state has no create event")
	}
	return out, nil
}

// fetchState stores, without a place, what of a state is not stored yet.
func (in *ingest) fetchState(ctx context.Context, at id.EventID, ids []id.EventID) error {
	found, err := in.svc.stored(ctx, in.room, unknownOf(in.known, ids))
	if err != nil {
		return err
	}
	for eventID, e := range found {
		in.known[eventID] = e
	}
	missing := unknownOf(in.known, ids)
	var raws []json.RawMessage
	defer func() { in.withheldState = in.notAmong(missing, raws) }()
	switch {
	case len(missing) == 0:
		return nil
	case len(missing) <= 20: // 20: cheaper than a whole state
		raws = in.fetchEach(ctx, in.origin, missing)
	default:
		state, chain, err := in.svc.Remote.State(ctx, in.origin, in.room.id, at, in.oneOf(missing))
		if err != nil {
			raws = in.fetchEach(ctx, in.origin, missing[:min(len(missing), maxGapEvents)])
			break
		}
		raws = append(chain, state...)
		if slices.Contains(missing, at) {
			raws = append(raws, in.fetchEach(ctx, in.origin, []id.EventID{at})...)
		}
	}
	return in.keepOutliers(ctx, raws)
}

// oneOf returns a function that reports whether an event has one of some IDs, once for each of them: what is in the state is in the
// auth chain of an answer too.
func (in *ingest) oneOf(ids []id.EventID) func(json.RawMessage) bool {
	wanted := make(map[id.EventID]bool, len(ids))
	for _, eventID := range ids {
		wanted[eventID] = true
	}
	return func(raw json.RawMessage) bool {
		eventID := idOf(in.room.version, raw)
		defer delete(wanted, eventID)
		return wanted[eventID]
	}
}

// notAmong tells whether an answer leaves out some of the events that it is to have.
func (in *ingest) notAmong(wanted []id.EventID, raws []json.RawMessage) bool {
	given := make(map[id.EventID]bool, len(raws))
	for _, raw := range raws {
		given[idOf(in.room.version, raw)] = true
	}
	return slices.ContainsFunc(wanted, func(eventID id.EventID) bool { return !given[eventID] })
}

// place stores events in one write.
func (in *ingest) place(ctx context.Context, events []*incoming) error {
	rest := events
	for len(rest) > 0 {
		n, err := in.lookUp(ctx, rest)
		if err != nil {
			return err
		}
		if err := in.placeTogether(ctx, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// placeTogether stores events in one write. Where that is not possible they are stored one by one: an event that cannot be
// judged, as one that would need too large a resolution, must not keep others out.
func (in *ingest) placeTogether(ctx context.Context, events []*incoming) error {
	err := in.tryTogether(ctx, events)
	if err == nil || ctx.Err() != nil || errors.Is(err, storage.ErrFull) || errors.Is(err, storage.ErrClosed) {
		return err
	}
	if len(events) == 1 {
		level := slog.LevelError
		if errors.Is(err, stateres.ErrTooLarge) { // which others have made it
			level = slog.LevelInfo
		}
		in.svc.log.Log(ctx, level, "an event cannot be authorised", "room", in.room.id, "event", events[0].ID(), "err", err)
		received.WithLabelValues("refused").Inc()
		in.done(events[0].ID(), errUnjudged)
		in.lost = in.lost || !errors.Is(err, stateres.ErrTooLarge) // which it will be the next time too
		return nil
	}
	for _, e := range events {
		if err := in.placeTogether(ctx, []*incoming{e}); err != nil {
			return err
		}
	}
	return nil
}

var errUnjudged = errors.New("the event cannot be judged here")

func (in *ingest) tryTogether(ctx context.Context, events []*incoming) error {
	verdicts := make([]error, len(events))
	var taken []*Event
	err := in.svc.change(ctx, in.room.id, func(b *batch) (err error) {
		taken = taken[:0]
		in.room = b.room
		for i, e := range events {
			if verdicts[i], err = b.take(ctx, e); errors.Is(err, errNoAuthEvent) || errors.Is(err, errNoPrevEvent) || errors.Is(err, errUndecided) {
				verdicts[i] = err
				continue
			}
			if err != nil {
				return err
			}
		}
		for _, e := range b.events {
			taken = append(taken, e.Event)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, e := range taken {
		in.known[e.ID()] = e
	}
	for i, e := range events {
		in.finish(e.ID(), verdicts[i])
	}
	return nil
}

// finish notes what became of an event. A soft failure is none to the sender: the event is part of the graph.
func (in *ingest) finish(eventID id.EventID, verdict error) {
	var soft softFailed
	var rejection *eventauth.Rejection
	result := "refused"
	switch {
	case errors.Is(verdict, errUndecided):
		result = "undecided"
	case verdict == nil:
		result = "accepted"
	case errors.As(verdict, &soft):
		result, verdict = "soft_failed", nil
	case errors.As(verdict, &rejection):
		result = "rejected"
	}
	received.WithLabelValues(result).Inc()
	in.done(eventID, verdict)
}

// lookUp finds what the first of the events need that does not depend on the room's head, and says how many of them can be
// stored together: an event that relates to one that is not stored yet waits for it, and so does one that a redaction before it names.
func (in *ingest) lookUp(ctx context.Context, events []*incoming) (int, error) {
	s := in.svc
	listed, redacted := map[id.EventID]bool{}, map[id.EventID]bool{}
	for n, e := range events {
		e.relation = relationOf(e.Content())
		if known := in.known[e.ID()]; known != nil {
			e.outlier = outlierOf(known)
		}
		e.elsewhere = slices.ContainsFunc(e.AuthEvents(), func(a id.EventID) bool { return in.elsewhere[a] })
		if e.relation != nil && listed[e.relation.parent] || listed[e.Redacts()] || redacted[e.ID()] {
			return n, nil
		}
		listed[e.ID()], redacted[e.Redacts()] = true, true
		var err error
		if e.sender, err = s.UserNID(ctx, e.Sender()); err != nil {
			return 0, err
		}
		if key, isState := e.StateKey(); isState && e.Type() == typeMember {
			if e.target, err = s.UserNID(ctx, id.UserID(key)); err != nil {
				return 0, err
			}
		}
		if err := in.lookUpOthers(ctx, e); err != nil {
			return 0, err
		}
	}
	return len(events), nil
}

// lookUpOthers finds the events that one relates to, redacts, or is redacted by.
func (in *ingest) lookUpOthers(ctx context.Context, e *incoming) error {
	if e.relation != nil {
		parent, err := in.room.FindEvent(ctx, e.relation.parent)
		if err != nil {
			return err
		}
		if parent != nil && !parent.Hidden() {
			e.threadRoot = parent.ThreadRoot
			if e.relation.relType == relThread && relationOf(parent.Content()) == nil {
				e.threadRoot = parent.Pos
			}
		}
	}
	if e.Type() == typeRedaction && e.Redacts() != "" {
		var err error
		if e.redacted, e.purgedSender, err = in.room.lookUpTarget(ctx, e.Redacts()); err != nil {
			return err
		}
	}
	return in.lookUpEarlier(ctx, e)
}

// lookUpEarlier finds what came before an event although it follows it: its children, and redactions of it.
func (in *ingest) lookUpEarlier(ctx context.Context, e *incoming) error {
	return in.svc.db.ReadInner(ctx, func(tx *storage.Tx) error {
		var err error
		if e.lateOrder, e.late, err = tx.MissingBefore(in.room.nid, string(e.ID())); err != nil {
			return err
		}
		return in.lookUpEarlierRedactions(tx, e)
	})
}

// extremityIDs are the room's forward extremities.
func (r *Room) extremityIDs() []id.EventID {
	r.mu.RLock()
	defer r.mu.RUnlock()
	ids := make([]id.EventID, len(r.head.extremities))
	for i, x := range r.head.extremities {
		ids[i] = x.id
	}
	return ids
}

// mergeExtremities lets a user of this server send an event that says nothing, where the room's graph has grown many ends:
// every event costs a resolution of all their states until one cites them.
func (s *Service) mergeExtremities(ctx context.Context, r *Room) error {
	if len(r.extremityIDs()) < manyExtremities {
		return nil
	}
	for _, m := range r.Members(Join) {
		if !s.IsLocal(m.User) || r.Levels().UserLevel(m.User) < r.Levels().EventLevel(typeDummy, false) {
			continue
		}
		err := s.change(ctx, r.id, func(b *batch) error {
			_, err := b.add(proto{typ: typeDummy, sender: Sender{NID: m.NID, ID: m.User}, content: []byte(`{}`)})
			if mxerr.Code(err) == mxerr.CodeForbidden { // who could a moment ago
				return nil
			}
			return err
		})
		if errors.Is(err, errPolicy) { // they stay as they are
			return nil
		}
		return err
	}
	return nil
}

// Refused answers for events of a room none of which was looked at: each that has an id gets the error.
func (s *Service) Refused(ctx context.Context, room id.RoomID, raws []json.RawMessage, results map[id.EventID]error, cause error) map[id.EventID]error {
	if results == nil {
		results = map[id.EventID]error{}
	}
	r, err := s.Room(ctx, room)
	if err != nil { // of a room that is not known, no id can be told
		return results
	}
	for _, raw := range raws {
		if eventID := idOf(r.version, raw); eventID != "" {
			if _, told := results[eventID]; !told {
				results[eventID] = cause
			}
		}
	}
	return results
}
