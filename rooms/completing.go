package rooms

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/ident"
	"ebb/keyed"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/storage"
)

const (
	// maxCompleting bounds the servers that are asked for the state of a room at the same time, since each response may
	// be large. completeTime bounds each request, which blocks others.
	maxCompleting = 16
	completeTime  = 5 * time.Minute
	// maxCompletePause is the longest pause between two rounds of requests.
	maxCompletePause = 10 * time.Minute
	// maxCompleters bounds the servers that are asked in one round.
	maxCompleters = 20
)

// completeBackoff is the pause between two rounds if no server returned the state.
var completeBackoff = keyed.Backoff{First: time.Second, Max: maxCompletePause}

// CompleteRooms requests the full state of partial-state rooms until ctx ends, including those joined before this
// server started. Rooms without a local member are skipped.
func (s *Service) CompleteRooms(ctx context.Context) error {
	slots := make(chan struct{}, maxCompleting)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		var rooms []ident.RoomNID
		err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
			rooms, err = tx.PartialRooms()
			return err
		})
		if err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "cannot list the partial-state rooms", "err", err)
		}
		for _, room := range rooms {
			work, mine, ok := s.partials.Begin(ctx, room)
			if !ok {
				continue
			}
			wg.Go(func() {
				if s.completeRoom(work, room, slots); ctx.Err() != nil { // the waiting requests are kept
					s.partials.GiveUp(mine)
					return
				}
				s.partials.Finish(room, mine)
			})
		}
		select {
		case <-s.partials.Fresh():
		case <-ctx.Done():
			return nil
		}
	}
}

// completeRoom requests the full state of one room until it gets it, or until no local user is in the room.
func (s *Service) completeRoom(ctx context.Context, room ident.RoomNID, slots chan struct{}) {
	for failures := int64(0); ; failures++ {
		err := s.completeOnce(ctx, room, slots)
		if err == nil || ctx.Err() != nil {
			return
		}
		pause := completeBackoff.Delay(failures)
		s.log.InfoContext(ctx, "cannot complete a joined room yet", "room", room, "again_in", pause, "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// errNotPartial means that the room has full state, or no local member.
var errNotPartial = errors.New("the room is not partial any more")

// completeOnce asks servers for the full state, one after the other. The first is the one through which the room was
// joined.
func (s *Service) completeOnce(ctx context.Context, room ident.RoomNID, slots chan struct{}) error {
	r, err := s.RoomByNID(ctx, room)
	if err != nil {
		return err
	}
	p := r.partialState()
	if p == nil || !r.Resident() {
		return nil
	}
	servers := slices.Clone(p.servers)
	for _, server := range r.OtherServers() {
		if !slices.Contains(servers, server) {
			servers = append(servers, server)
		}
	}
	servers = servers[:min(len(servers), maxCompleters)]
	var some []completer
	err = errNoServers
	for i, server := range servers {
		c := completer{server: server, trusted: i == 0, slots: slots}
		if err = s.completeThrough(ctx, r, c); err == nil || errors.Is(err, errNotPartial) {
			return nil
		}
		s.log.InfoContext(ctx, "a server did not return the state of a room", "room", r.id, "server", server, "err", err)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errNotAll) {
			some = append(some, c)
		}
	}
	for _, c := range some { // no server returned all of it
		c.lenient = true
		if err = s.completeThrough(ctx, r, c); err == nil || errors.Is(err, errNotPartial) {
			return nil
		}
	}
	return err
}

// completer is a server that is asked for the full state of a room.
type completer struct {
	server  string
	trusted bool // the room was joined through it
	lenient bool // events that it names but does not return are left out of the state

	slots chan struct{} // one is held during the request
}

var errNotAll = fmt.Errorf("%w: not all of the state was given", fedclient.ErrBadAnswer)

// completeThrough requests the state before the join from one server, and authorises the later events again. The server
// through which the room was joined is trusted. The state that any other server returns may differ from the known one
// only in its members.
func (s *Service) completeThrough(ctx context.Context, r *Room, c completer) error {
	ctx, release := fedclient.HoldAnswers(ctx, true)
	defer release()
	p := r.partialState()
	if p == nil {
		return errNotPartial
	}
	join, err := s.eventAt(ctx, r, p.join)
	if err != nil {
		return err
	}
	full, err := s.askBeforeJoin(ctx, r, join, c)
	if err != nil {
		return err
	}
	if !c.trusted {
		if err := s.checkSameState(ctx, r, join, full); err != nil {
			return err
		}
	}
	if err := s.nameMembers(ctx, full); err != nil {
		return err
	}
	for { // retried if an earlier write fails
		if err := s.finishJoin(ctx, r.id, join, full); !errors.Is(err, errStale) {
			return err
		}
	}
}

// askBeforeJoin requests the state before the join from one server.
func (s *Service) askBeforeJoin(ctx context.Context, r *Room, join *Event, c completer) (graph.State, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	f := newFetcher(newStoredEvents(r), s.opts.Remote, c.server)
	before, err := f.stateBeforeJoin(ctx, join)
	if err == nil && f.incomplete && !c.lenient {
		err = errNotAll
	}
	return before, err
}

// rejoinPartial handles a join to a room that this server left while the room had partial state. If the events before
// the join are still stored, which is likely soon after leaving, rejoinPartial adds the join to the room as it is and
// returns true. The writer lock is held.
func (s *Service) rejoinPartial(ctx context.Context, r *Room, join *pdu.Event) (bool, error) {
	if r.partialState() == nil {
		return false, nil
	}
	known, err := s.stored(ctx, r, join.PrevEvents())
	if err != nil {
		return false, err
	}
	for _, prev := range join.PrevEvents() {
		if e := known[prev]; e == nil || !e.InGraph() {
			return false, nil
		}
	}
	in, err := r.lookedUp(ctx, join)
	if err != nil {
		return false, err
	}
	b := newBatch(r, nil)
	verdict, err := b.addForeign(ctx, in)
	if err == nil && verdict != nil {
		err = fmt.Errorf("%w: the room does not allow the join: %w", fedclient.ErrBadAnswer, verdict)
	}
	if err != nil {
		b.abort()
		return false, err
	}
	if err := b.enqueue().Wait(context.WithoutCancel(ctx)); err != nil {
		r.writeFailed(r.next.epoch)
		return false, err
	}
	s.partials.Announce()
	return true, nil
}

// stateBeforeJoin requests the state before the join. If the join has one prev_event, this is the state after that
// event, which every server in the room has. Otherwise it requests the state before the join itself, which the server
// that answered the join has computed.
func (f *fetcher) stateBeforeJoin(ctx context.Context, join *Event) (graph.State, error) {
	if prev := join.PrevEvents(); len(prev) == 1 {
		return f.stateAfter(ctx, prev[0])
	}
	return f.stateBefore(ctx, join.ID())
}

// nameMembers allots numbers to the members of a state. It is called before the room is locked, since this takes time.
func (s *Service) nameMembers(ctx context.Context, full graph.State) error {
	for key := range full {
		if key.Type != typeMember {
			continue
		}
		if _, err := s.UserNID(ctx, id.UserID(key.Key)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) eventAt(ctx context.Context, r *Room, pos storage.Pos) (e *Event, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		events, err := r.EventsAt(tx, []storage.Pos{pos})
		if e = events[pos]; err == nil && e == nil {
			err = fmt.Errorf("the event at %d of room %s is not stored", pos, r.id)
		}
		return err
	})
	return e, err
}

// checkSameState verifies that the given state before the join differs from the known one only in its members.
// Otherwise any server in the room could change the room's rules by returning a false state.
func (s *Service) checkSameState(ctx context.Context, r *Room, join *Event, full graph.State) error {
	return s.db.Read(ctx, func(tx *storage.Tx) error {
		known, err := tx.StateOf(join.Snapshot)
		if err != nil {
			return err
		}
		p := r.reader(tx)
		have := graph.State{}
		for _, e := range known {
			if e.Type != typeMember {
				key := pdu.StateKey{Type: e.Type, Key: e.Key}
				have[key] = graph.Entry{Key: key, Pos: e.Position}
			}
		}
		said := graph.State{}
		for key, ref := range full {
			if key.Type != typeMember {
				said[key] = ref
			}
		}
		haveIDs, err := p.IDs(have)
		if err != nil {
			return err
		}
		saidIDs, err := p.IDs(said)
		if err != nil {
			return err
		}
		if len(haveIDs) != len(saidIDs) {
			return fmt.Errorf("%w: another state than the one that came with the join", fedclient.ErrBadAnswer)
		}
		for key, eventID := range haveIDs {
			if saidIDs[key] != eventID {
				return fmt.Errorf("%w: another %s than the one that came with the join", fedclient.ErrBadAnswer, key.Type)
			}
		}
		return nil
	})
}

// finishJoin ends the partial state of a room. full is the full state before the join.
func (s *Service) finishJoin(ctx context.Context, room id.RoomID, join *Event, full graph.State) error {
	r, err := s.lockRoom(ctx, room)
	if errors.Is(err, ErrNoRoom) {
		return errNotPartial
	}
	if err != nil {
		return err
	}
	defer r.writer.Unlock()
	if p := r.partialState(); p == nil || p.join != join.Pos || !r.Resident() {
		return errNotPartial
	}
	c := newCompletion(r, join)
	err = r.settled(ctx, func(tx *storage.Tx) error { return c.judge(ctx, tx, full) })
	if err != nil {
		return err
	}
	return c.store(ctx)
}
