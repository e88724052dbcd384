package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/rooms/expiry"
	"ebb/storage"
)

// recipients returns the servers that an event is sent to: the other servers in the room, and that of the user a member
// event is about. It is called right after the event is added to the room.
func (r *Room) recipients(e *Event) []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	about := ""
	if key, isState := e.StateKey(); isState && e.Type() == typeMember {
		about = ident.ServerOf(key)
	}
	origin := ident.ServerOf(e.Sender())
	out := make([]string, 0, len(r.head.servers))
	for server := range r.head.servers {
		if server != r.svc.opts.Server && server != origin && server != about {
			out = append(out, server)
		}
	}
	invited := about != "" && r.head.servers[about] == 0 && e.ContentString("membership") == Invite // sent by /invite
	if about != "" && about != r.svc.opts.Server && about != origin && !invited {
		out = append(out, about)
	}
	return out
}

// Stay is a period during which a server was in a room.
type Stay struct {
	Server   string
	From, To storage.Pos // To is 0 if it still is
}

// ServersSince returns the other servers that are in a room or were at some time after a position. A server with
// several users has several stays.
func (s *Service) ServersSince(ctx context.Context, room ident.RoomNID, after storage.Pos) (out []Stay, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		stays, err := tx.Stays(room, after)
		if err != nil {
			return err
		}
		first := map[string]storage.Pos{}
		for _, m := range stays {
			server := ident.ServerOf(m.User)
			if server == s.opts.Server {
				continue
			}
			if m.Membership == Join {
				if p, there := first[server]; !there || m.JoinedPos < p {
					first[server] = m.JoinedPos
				}
				continue
			}
			from, was, err := joinedUntil(tx, m)
			if err != nil {
				return err
			}
			if was {
				out = append(out, Stay{Server: server, From: from, To: m.Position})
			}
		}
		row, _, err := tx.RoomByNID(room)
		for _, server := range row.PartialServers {
			first[server] = min(cmp.Or(first[server], row.PartialJoin), row.PartialJoin)
		}
		for server, p := range first {
			out = append(out, Stay{Server: server, From: p})
		}
		return err
	})
	return out, err
}

// joinedUntil reports whether a user who left a room was joined until then, and returns a position at which the user
// was joined at the latest.
func joinedUntil(tx *storage.Tx, m storage.Stay) (from storage.Pos, was bool, err error) {
	out, found, err := tx.EventAt(m.Position)
	if err != nil || !found || out.Snapshot == 0 {
		return 0, false, err
	}
	if from, err = tx.StateKeyOf(out.Snapshot, typeMember, m.User); err != nil || from == 0 {
		return 0, false, err
	}
	before, found, err := tx.EventAt(from)
	content, _ := canonjson.Get(before.JSON, "content")
	return from, found && membershipIn(content) == Join, err
}

// OutgoingEvent is an event as it is sent to other servers.
type OutgoingEvent struct {
	Pos  storage.Pos
	Room ident.RoomNID
	JSON json.RawMessage
	// Expired is set for an expired message: JSON is only its skeleton, which a server needs only if it gets later
	// events of the room.
	Expired bool
}

// OutgoingEvents returns the events at the given positions as they are sent to other servers, in that order. Redacted
// events are in their redacted form, and expired messages are skeletons. Purged events are left out.
func (s *Service) OutgoingEvents(ctx context.Context, positions []storage.Pos) (out []OutgoingEvent, err error) {
	if len(positions) == 0 {
		return nil, nil
	}
	var rows []storage.EventRow
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		rows, err = tx.EventsAt(positions)
		return err
	})
	if err != nil {
		return nil, err
	}
	byPos := make(map[storage.Pos]*storage.EventRow, len(rows))
	for i := range rows {
		byPos[rows[i].Position] = &rows[i]
	}
	for _, pos := range positions {
		row := byPos[pos]
		if row == nil {
			continue
		}
		e, err := s.outgoing(ctx, row)
		if err != nil { // one unreadable event must not block the others
			s.log.ErrorContext(ctx, "cannot read an event to send to other servers", "event", row.EventID, "err", err)
			continue
		}
		out = append(out, e)
	}
	return out, ctx.Err()
}

func (s *Service) outgoing(ctx context.Context, row *storage.EventRow) (OutgoingEvent, error) {
	out := OutgoingEvent{Pos: row.Position, Room: row.Room, JSON: row.JSON}
	if row.IsState {
		return out, nil
	}
	r, err := s.RoomByNID(ctx, row.Room)
	if err != nil || !expiry.Expired(r.Retention(), row.OriginTS, row.ReceivedTS, s.opts.Now()) {
		return out, err
	}
	e, err := fromRow(r.version, row)
	if err != nil {
		return out, err
	}
	pruned, err := e.Redact()
	if err != nil {
		return out, err
	}
	out.JSON = pruned.JSON()
	out.Expired = row.Type != typeRedaction // another server may still show the target of a redaction
	return out, nil
}

// NewestEvents returns the positions of a room's forward extremities, for a server that has missed many events.
func (s *Service) NewestEvents(ctx context.Context, room ident.RoomNID) ([]storage.Pos, error) {
	r, err := s.RoomByNID(ctx, room)
	if errors.Is(err, ErrNoRoom) {
		return nil, nil
	}
	if err != nil || !r.Resident() {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	positions := make([]storage.Pos, len(r.head.extremities))
	for i, x := range r.head.extremities {
		positions[i] = x.position()
	}
	return positions, nil
}

// SharedServers returns the other servers that share a room with a local user.
func (s *Service) SharedServers(ctx context.Context, user ident.UserNID) ([]string, error) {
	list, err := s.Memberships(ctx, user)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{s.opts.Server: true}
	var out []string
	for _, m := range list {
		if m.Membership != Join {
			continue
		}
		r, err := s.RoomByNID(ctx, m.Room)
		if err != nil {
			return nil, err
		}
		for server := range r.EachServer() {
			if !seen[server] {
				seen[server] = true
				out = append(out, server)
			}
		}
	}
	return out, nil
}

// NewlyShared returns the other servers in a room that share no other room with a local user.
func (s *Service) NewlyShared(ctx context.Context, user ident.UserNID, room ident.RoomNID) ([]string, error) {
	var here []string
	elsewhere := map[string]bool{}
	err := s.EachJoined(ctx, user, func(r *Room) {
		if r.nid == room {
			here = r.OtherServers()
			return
		}
		for name := range r.EachServer() {
			elsewhere[name] = true
		}
	})
	if errors.Is(err, ErrNoRoom) { // it was purged meanwhile
		err = nil
	}
	return slices.DeleteFunc(here, func(name string) bool { return elsewhere[name] }), err
}

// LocalSharers returns the local users who share a room with the given user, including that user if local. It looks up
// the local members of each room, so that the number of remote members does not matter.
func (s *Service) LocalSharers(ctx context.Context, user ident.UserNID) ([]ident.UserNID, error) {
	sharers := map[ident.UserNID]bool{}
	err := s.EachJoined(ctx, user, func(r *Room) {
		for member := range r.EachLocal() {
			sharers[member.NID] = true
		}
	})
	return slices.Sorted(maps.Keys(sharers)), err
}

// WakeSharers finds, within a write, the local users who share a room with the given local user, including that user.
// It returns a function that wakes their syncs once the write is committed. For rooms in memory it reads no member
// list, since they know their local members after all earlier writes. Users must be woken right after the commit: a
// sync that is woken later or not at all would miss the change.
func (s *Service) WakeSharers(tx *storage.Tx, user ident.UserNID) (committed func(), err error) {
	memberships, err := tx.UserMemberships(user)
	if err != nil {
		return nil, err
	}
	awake := []*Room{}
	others := []ident.UserNID{user}
	for _, m := range memberships {
		if m.Membership != Join {
			continue
		}
		if r := s.cache.byNID(m.Room); r != nil {
			awake = append(awake, r)
			continue
		}
		members, err := tx.JoinedMembers(m.Room)
		if err != nil {
			return nil, err
		}
		others = append(others, members...)
	}
	return func() {
		s.opts.Hub.Users(others...)
		for _, r := range awake {
			s.opts.Hub.EachOf(r.LocalMembers())
		}
	}, nil
}

// EachJoined calls f for each room that a local or remote user is joined to.
func (s *Service) EachJoined(ctx context.Context, user ident.UserNID, f func(*Room)) error {
	var rows []storage.MemberRow
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.UserMemberships(user)
		return err
	})
	if err != nil {
		return err
	}
	for _, m := range rows {
		if m.Membership != Join {
			continue
		}
		r, err := s.RoomByNID(ctx, m.Room)
		if err != nil {
			return err
		}
		f(r)
	}
	return nil
}
