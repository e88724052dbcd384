package history

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/storage"
)

// ServerPeriod is a period during which a server was in a room.
type ServerPeriod struct {
	Server   string
	From, To storage.Pos // To is 0 if the server is still in the room
}

// ServersSince returns the other servers that are in a room, or were in it at some time after the given position. A
// server with several users may have several periods.
func (s *Service) ServersSince(ctx context.Context, room ident.RoomNID, after storage.Pos) (out []ServerPeriod, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		members, err := tx.MembersSince(room, after)
		if err != nil {
			return err
		}
		first := map[string]storage.Pos{}
		for _, m := range members {
			server := ident.ServerOf(m.User)
			if server == s.rooms.Server() {
				continue
			}
			if m.Membership == rooms.Join {
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
				out = append(out, ServerPeriod{Server: server, From: from, To: m.Position})
			}
		}
		row, _, err := tx.RoomByNID(room)
		for _, server := range row.PartialServers {
			first[server] = min(cmp.Or(first[server], row.PartialJoin), row.PartialJoin)
		}
		for server, p := range first {
			out = append(out, ServerPeriod{Server: server, From: p})
		}
		return err
	})
	return out, err
}

// joinedUntil is called for a user who is not joined to a room. It reports whether the user was joined until the newest
// member event (was), and returns a position at which the user was joined (from).
func joinedUntil(tx *storage.Tx, m storage.MemberSince) (from storage.Pos, was bool, err error) {
	out, found, err := tx.EventAt(m.Position)
	if err != nil || !found || out.Snapshot == 0 {
		return 0, false, err
	}
	if from, err = tx.StateKeyOf(out.Snapshot, typeMember, m.User); err != nil || from == 0 {
		return 0, false, err
	}
	before, found, err := tx.EventAt(from)
	content, _ := canonjson.Get(before.JSON, "content")
	membership, _ := canonjson.Get(content, "membership")
	return from, found && canonjson.String(membership) == rooms.Join, err
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
	r, err := s.rooms.RoomByNID(ctx, row.Room)
	if err != nil || row.Flags&storage.KeptEvent == 0 && !expiry.Expired(r.Retention(), row.OriginTS, row.ReceivedTS, s.now()) {
		return out, err
	}
	e, err := r.LoadEvent(row)
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

// maxStickyPage bounds the sticky events that are sent at a time to a server that has missed them. That server must
// request the state before each of these events, and an Ebb server makes at most ten such requests for one transaction.
const maxStickyPage = 10

// NewestEvents returns the positions of events that are to be sent to a server that has come into a room or has missed
// many of its events. These are first the events of local users after the given position that are still sticky, a few
// with each call, and then the room's forward extremities. more reports whether NewestEvents must be called again.
// Spec: MSC4354, federation behaviour
func (s *Service) NewestEvents(ctx context.Context, server string, room ident.RoomNID, after storage.Pos) (events []storage.Pos, more bool, err error) {
	r, err := s.rooms.RoomByNID(ctx, room)
	if errors.Is(err, rooms.ErrNoRoom) {
		return nil, false, nil
	}
	if err != nil || !r.Resident() {
		return nil, false, err
	}
	if s.HasLocalSticky(room) && r.HasServer(server) {
		err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
			events, err = tx.LocalSticky(room, after, s.now().UnixMilli(), maxStickyPage)
			return err
		})
		if err != nil || len(events) > 0 {
			return events, true, err
		}
	}
	return r.ForwardExtremities(), false, nil
}

// HasLocalSticky reports whether a room may have events of local users that are sticky.
func (s *Service) HasLocalSticky(room ident.RoomNID) bool {
	return s.rooms.Sticky().Local(room, s.now().UnixMilli())
}
