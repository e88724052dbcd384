package rooms

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// A room that is joined through another server is there at once, with the state that the server told and without most of its
// members: it is *partial*. Meanwhile
//   - lazy /sync shows it, other /sync waits for the whole; so does what asks for all members, or for one who is not known;
//   - events are judged by what is known, and where that lacks a member, by the auth events that they cite: see learn;
//   - the servers that are said to be in the room count as if a user of theirs were joined;
//   - nobody is let in through this server, and no other one gets its state from here.
//
// In the background the whole state is asked for; then every event since the join is judged anew: see completion.
// Spec: server-server-api#put_matrixfederationv2send_joinroomideventid (omit_members); MSC3902

// maxToldServers bounds the servers that another one says are in a room; the largest rooms have some ten thousand.
const maxToldServers = 20_000

// partial is what a room knows of its partial state.
type partial struct {
	join    storage.Pos // the join before which the state is not whole
	servers []string    // that are in the room, as the one told through which it was joined, which stands first
}

// partialOf is the partial state in a room's row, nil where it is whole.
func partialOf(row *storage.RoomRow) *partial {
	if row.PartialJoin == 0 {
		return nil
	}
	return &partial{join: row.PartialJoin, servers: row.PartialServers}
}

// setPartial makes the told servers count as servers of the room, or no longer.
func (h *head) setPartial(p *partial) {
	if h.partial != nil {
		for _, server := range h.partial.servers {
			h.dropServer(server)
		}
	}
	if h.partial = p; p != nil {
		for _, server := range p.servers {
			h.servers[server]++
		}
	}
}

// Partial tells whether this server takes part in the room without knowing all of its members.
func (r *Room) Partial() bool { return r.partialState() != nil && r.Resident() }

func (r *Room) partialState() *partial {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.partial
}

// Completed is the position from which on all members of the room are known; 0: they always were. Members who became known then
// have it as Changed.
func (r *Room) Completed() storage.Pos {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.completed
}

// MayBeJoined tells whether a user is joined as far as this server knows: where the members are not known, everybody of a server
// that is in the room may be.
func (r *Room) MayBeJoined(user id.UserID) bool {
	m := r.MemberOf(user)
	if m == nil {
		return r.Partial() && r.HasServer(serverOf(string(user)))
	}
	return m.Membership == Join
}

// MayBeMet tells whether a user of another server may be in a room of which not all members are known yet.
func (s *Service) MayBeMet(ctx context.Context, user id.UserID) (bool, error) {
	for _, room := range s.partials.list() {
		r, err := s.RoomByNID(ctx, room)
		if err != nil {
			return false, err
		}
		if r.Partial() && r.MayBeJoined(user) {
			return true, nil
		}
	}
	return false, nil
}

// toldServers are the servers of an answer to a join, without this one and what is no server name; the answering one is the first.
func (s *Service) toldServers(answering string, told []string) []string {
	out := []string{answering}
	seen := map[string]bool{answering: true, s.opts.Server: true}
	for _, server := range told[:min(len(told), maxToldServers)] {
		if !seen[server] && pdu.ValidServerName(server) {
			seen[server] = true
			out = append(out, server)
		}
	}
	return out
}

// maxWholeWait bounds how long a request waits for the members of a room.
const maxWholeWait = 5 * time.Minute

// AwaitWhole waits until all members of a room are known.
func (s *Service) AwaitWhole(ctx context.Context, room id.RoomID) error {
	timeout := time.NewTimer(maxWholeWait)
	defer timeout.Stop()
	for {
		r, err := s.Room(ctx, room)
		if err != nil {
			return err
		}
		if !r.Partial() {
			return nil
		}
		ended := s.partials.ended(r.nid)
		if r, err = s.Room(ctx, room); err != nil || !r.Partial() { // it may have ended just before
			return err
		}
		select {
		case <-ended:
		case <-timeout.C:
			return mxerr.New(http.StatusGatewayTimeout, mxerr.CodeUnknown, "This server has just joined the room and does not know its members yet; try again later")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// briefWait is for how long a join waits for the members of the room: most rooms are whole by then, and nobody notices that they were
// not for a moment.
const briefWait = 300 * time.Millisecond

func (s *Service) awaitBriefly(ctx context.Context, room id.RoomID) {
	ctx, cancel := context.WithTimeout(ctx, s.briefWait)
	defer cancel()
	_ = s.AwaitWhole(ctx, room) // what is not whole by then is not yet
}

// KnowsMember reports whether the membership of a user in a room is known, which in a partial-state room it may not be.
func (s *Service) KnowsMember(ctx context.Context, room id.RoomID, user id.UserID) bool {
	r, err := s.Room(ctx, room)
	return err != nil || !r.Partial() || r.MemberOf(user) != nil
}

// awaitMember is AwaitWhole for who is in a room and wants something of a user of whom it is not known what they are in it.
func (s *Service) awaitMember(ctx context.Context, room id.RoomID, sender ident.Requester, user id.UserID) error {
	r, err := s.Room(ctx, room)
	if err != nil || r.Membership(sender.UserID) != Join || s.KnowsMember(ctx, room, user) {
		return err
	}
	return s.AwaitWhole(ctx, room)
}

// partialRooms knows the rooms whose state is being asked for, and who waits for it.
type partialRooms struct {
	fresh chan struct{} // a slot of one: there may be rooms that nobody works on

	// mu guards the rest; a leaf.
	mu    sync.Mutex
	rooms map[ident.RoomNID]*partialRoom
}

type partialRoom struct {
	ended  chan struct{}      // closed when the state is whole, or nobody of this server is there any more
	cancel context.CancelFunc // ends the work; nil: nobody works on it
}

func (p *partialRooms) init() {
	p.fresh, p.rooms = make(chan struct{}, 1), map[ident.RoomNID]*partialRoom{}
}

func (p *partialRooms) of(room ident.RoomNID) *partialRoom {
	if p.rooms[room] == nil {
		p.rooms[room] = &partialRoom{ended: make(chan struct{})}
	}
	return p.rooms[room]
}

func (p *partialRooms) list() []ident.RoomNID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.rooms))
}

func (p *partialRooms) ended(room ident.RoomNID) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.of(room).ended
}

// begin is for who wants to work on a room; false where somebody does.
func (p *partialRooms) begin(ctx context.Context, room ident.RoomNID) (context.Context, *partialRoom, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.of(room)
	if r.cancel != nil {
		return nil, nil, false
	}
	ctx, r.cancel = context.WithCancel(ctx)
	partialGauge.Inc()
	return ctx, r, true
}

// giveUp is for who worked on a room and could not go on.
func (p *partialRooms) giveUp(r *partialRoom) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.stop()
}

// stop ends the work, if somebody works. The mutex is held.
func (r *partialRoom) stop() {
	if r.cancel != nil {
		r.cancel()
		r.cancel = nil
		partialGauge.Dec()
	}
}

// finish is for who worked on a room and has nothing more to do.
func (p *partialRooms) finish(room ident.RoomNID, r *partialRoom) {
	p.mu.Lock()
	mine := p.rooms[room] == r
	p.mu.Unlock()
	if mine {
		p.end(room)
	}
}

// end ends the work on a room, and the waiting for it.
func (p *partialRooms) end(room ident.RoomNID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rooms[room]
	if r == nil {
		return
	}
	delete(p.rooms, room)
	close(r.ended)
	r.stop()
}

// announce says that there is a room to work on.
func (p *partialRooms) announce() {
	select {
	case p.fresh <- struct{}{}:
	default:
	}
}

// fillMembers puts into each of some states the members that only others of them have: of a partial state the absence of a member
// says nothing.
func fillMembers(states []state) []state {
	out := slices.Clone(states)
	for i := range out {
		var more state
		for j, other := range states {
			if i == j {
				continue
			}
			for key, ref := range other {
				if _, known := out[i][key]; known || key.Type != typeMember {
					continue
				}
				if _, known := more[key]; known {
					continue
				}
				if more == nil {
					more = state{}
				}
				more[key] = ref
			}
		}
		if len(more) > 0 {
			for key, ref := range out[i] {
				more[key] = ref
			}
			out[i] = more
		}
	}
	return out
}
