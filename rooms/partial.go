package rooms

import (
	"context"
	"net/http"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// A room that is joined through another server is usable at once, with the state that the server returned and without
// most members: it has partial state. Meanwhile
//   - only /sync with lazy-loaded members includes it; requests for all members, or for an unknown member, wait;
//   - events are authorised by the known state, and by unknown members that they cite: see cited_members.go;
//   - each server of the join response counts as if one of its users were joined;
//   - other servers cannot join through this server or request the state from it.
//
// In the background, the full state is requested; then all events since the join are judged again: see completion.
// Spec: server-server-api#put_matrixfederationv2send_joinroomideventid (omit_members); MSC3902

// maxServersInRoom bounds the servers in the response to a join; the largest rooms have some ten thousand.
const maxServersInRoom = 20_000

// partial describes the partial state of a room.
type partial struct {
	join    storage.Pos // the state before this join is not complete
	servers []string    // the servers in the room according to the join response, starting with the one that sent it
}

// partialOf returns the partial state stored in a room's row, or nil if the room has full state.
func partialOf(row *storage.RoomRow) *partial {
	if row.PartialJoin == 0 {
		return nil
	}
	return &partial{join: row.PartialJoin, servers: row.PartialServers}
}

// setPartial sets the partial state, or removes it if p is nil. Each server named in the partial state counts as if one
// of its users were joined.
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

// Partial reports whether this server is in the room without knowing all members.
func (r *Room) Partial() bool { return r.partialState() != nil && r.Resident() }

func (r *Room) partialState() *partial {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.partial
}

// Completed returns the position at which the full list of members became known, or 0 if it was always known. Members
// who became known then have this position as Member.Changed.
func (r *Room) Completed() storage.Pos {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.completed
}

// MayBeJoined reports whether a user may be joined as far as this server knows. In a partial-state room this is true
// for any unknown user of a server that is in the room.
func (r *Room) MayBeJoined(user id.UserID) bool {
	m := r.MemberOf(user)
	if m == nil {
		return r.Partial() && r.HasServer(ident.ServerOf(user))
	}
	return m.Membership == Join
}

// PartialRooms returns the numbers of rooms that are being completed.
func (s *Service) PartialRooms() []ident.RoomNID { return s.partials.List() }

// serversInRoom returns the servers that a join response lists, without invalid ones and without this server. The
// server that sent the response comes first.
func (s *Service) serversInRoom(answering string, answered []string) []string {
	out := []string{answering}
	seen := map[string]bool{answering: true, s.opts.Server: true}
	for _, server := range answered[:min(len(answered), maxServersInRoom)] {
		if !seen[server] && pdu.ValidServerName(server) {
			seen[server] = true
			out = append(out, server)
		}
	}
	return out
}

// maxFullStateWait bounds how long a request waits for the members of a room.
const maxFullStateWait = 5 * time.Minute

// AwaitFullState waits until the room no longer has partial state.
func (s *Service) AwaitFullState(ctx context.Context, room id.RoomID) error {
	timeout := time.NewTimer(maxFullStateWait)
	defer timeout.Stop()
	for {
		r, err := s.Room(ctx, room)
		if err != nil {
			return err
		}
		if !r.Partial() {
			return nil
		}
		ended := s.partials.Ended(r.nid)
		if r, err = s.Room(ctx, room); err != nil || !r.Partial() { // it may have ended just before
			return err
		}
		select {
		case <-ended:
		case <-timeout.C:
			return mxerr.New(http.StatusGatewayTimeout, mxerr.CodeUnknown, "This server has just joined the room and does not know its members yet. Try again later")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// briefWait is how long a join waits for the full state of the room. Most rooms have it by then, and clients never see
// the partial state.
const briefWait = 300 * time.Millisecond

func (s *Service) awaitBriefly(ctx context.Context, room id.RoomID) {
	ctx, cancel := context.WithTimeout(ctx, s.briefWait)
	defer cancel()
	_ = s.AwaitFullState(ctx, room) // if it times out, the room keeps its partial state for now
}

// KnowsMember reports whether this server knows a user's membership in a room. In a partial-state room it may be
// unknown.
func (s *Service) KnowsMember(ctx context.Context, room id.RoomID, user id.UserID) bool {
	r, err := s.Room(ctx, room)
	return err != nil || !r.Partial() || r.MemberOf(user) != nil
}

// awaitMember waits until the room has full state if the membership of user is unknown before that.
func (s *Service) awaitMember(ctx context.Context, room id.RoomID, sender ident.Requester, user id.UserID) error {
	r, err := s.Room(ctx, room)
	if err != nil || r.Membership(sender.UserID) != Join || s.KnowsMember(ctx, room, user) {
		return err
	}
	return s.AwaitFullState(ctx, room)
}
