package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/parking"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// setOutside stores a local user's membership in a room in which this server does not participate. The event e is an
// invite, a knock, or the end of one of them. stripped is the room's stripped state. setOutside returns errResident if
// this server has joined the room meanwhile; in that case the event arrives like any other event of the room.
func (s *Service) setOutside(ctx context.Context, v *pdu.Version, e *pdu.Event, stripped []json.RawMessage) (err error) {
	for range maxRebuilds {
		if err = s.setOutsideOnce(ctx, v, e, stripped); !errors.Is(err, ErrNoRoom) {
			break
		} // otherwise the room was removed at the same time (RemoveLeft), and is entered again
	}
	return err
}

func (s *Service) setOutsideOnce(ctx context.Context, v *pdu.Version, e *pdu.Event, stripped []json.RawMessage) error {
	nid, err := s.enter(ctx, e.RoomID(), v)
	if err != nil {
		return err
	}
	r, err := s.RoomByNID(ctx, nid)
	if err != nil {
		return err
	}
	if r.Resident() {
		return errResident
	}
	key, _ := e.StateKey()
	user := id.UserID(key)
	target, err := s.UserNID(ctx, user)
	if err != nil {
		return err
	}
	sender, err := s.UserNID(ctx, e.Sender())
	if err != nil {
		return err
	}
	text := ""
	if len(stripped) > 0 {
		raw, err := json.Marshal(stripped)
		if err != nil {
			return err
		}
		text = string(raw)
	}
	event := &Event{Event: e, Room: nid, SenderNID: sender, ReceivedTS: s.opts.Now().UnixMilli(), Flags: storage.OutlierEvent}
	membership := pdu.Membership(e.Content())
	return s.touch(ctx, e.RoomID(), func(r *Room) storage.Write {
		return storage.Write{
			Do: func(tx *storage.Tx) error {
				if r.nid != nid {
					return ErrNoRoom
				}
				event.Pos = tx.NextPos()
				row := event.Row()
				if err := tx.InsertEvent(&row); err != nil {
					return err
				}
				if err := tx.SetStrippedState(target, nid, text); err != nil {
					return err
				}
				return tx.SetMembership(storage.MemberRow{User: target, Room: nid, Membership: membership, Position: event.Pos})
			},
			Committed: func() { s.outsideSet(r, event, user, target, membership) },
		}
	})
}

// outsideSet is the Committed hook of setOutside.
func (s *Service) outsideSet(r *Room, e *Event, user id.UserID, nid ident.UserNID, membership Membership) {
	c := &Commit{Room: r, Events: []CommittedEvent{{Event: e}}, Members: []CommittedMember{{
		User: user, NID: nid, Local: true, From: r.Membership(user), To: membership, Pos: e.Pos, Changed: e.Pos,
	}}}
	s.commit(c, headFunc(func(r *Room) {
		m := &Member{User: user, NID: nid, Membership: membership, Pos: e.Pos, Changed: e.Pos}
		m.remember(r, e)
		r.head.setMember(s, m)
		r.head.last = max(r.head.last, e.Pos)
	}))
}

// StrippedState returns the stripped state of a room for a user who is invited or knocks. If this server is not in the
// room, it is the stripped state that another server sent.
func (s *Service) StrippedState(ctx context.Context, user ident.UserNID, room *Room) (events []json.RawMessage, err error) {
	if room.Resident() {
		return room.stripped(""), nil
	}
	err = s.db.ReadInner(ctx, func(tx *storage.Tx) error {
		events, err = s.StrippedStateIn(tx, user, room)
		return err
	})
	return events, err
}

// StrippedStateIn is like StrippedState, but reads through the given transaction.
func (s *Service) StrippedStateIn(tx *storage.Tx, user ident.UserNID, room *Room) (events []json.RawMessage, err error) {
	if room.Resident() {
		return room.stripped(""), nil
	}
	text, err := tx.StrippedState(user, room.nid)
	if err != nil || text == "" {
		return nil, err
	}
	return events, json.Unmarshal([]byte(text), &events)
}

// receiveOutside handles events of a room in which no local user is joined. It ignores all events but those that end a
// local user's invite or knock. Such an event must be sent by the inviter, or by the server that decides on the knock.
// While a local user is joining the room, events are parked until the join is done.
func (s *Service) receiveOutside(ctx context.Context, origin string, roomID id.RoomID, raws []json.RawMessage) (map[id.EventID]error, error) {
	results := map[id.EventID]error{}
	if s.joining.Busy(roomID) {
		raws = s.parking.Park(s.opts.Now(), parking.Key{Origin: origin, Room: roomID}, raws)
		if len(raws) == 0 {
			return results, nil
		}
	}
	r, err := s.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if r.Resident() { // this server joined meanwhile
		return s.Receive(ctx, origin, roomID, raws)
	}
	for _, raw := range raws {
		eventID := idOf(r.version, raw)
		if eventID == "" {
			continue
		}
		err := s.receiveEnd(ctx, r, origin, raw)
		if err != nil && mxerr.Code(err) == "" && !errors.Is(err, errBadEvent) {
			return results, err
		}
		results[eventID] = err
	}
	return results, nil
}

var errBadEvent = errors.New("the event is not valid")

// receiveEnd handles one event for receiveOutside. It verifies only an event that may be relevant, since verifying may
// need requests to other servers.
func (s *Service) receiveEnd(ctx context.Context, r *Room, origin string, raw json.RawMessage) error {
	e, err := pdu.Parse(r.version, raw)
	if err != nil {
		return fmt.Errorf("%w: %w", errBadEvent, err)
	}
	if ends, err := s.endsOutside(r, origin, e); err != nil || !ends {
		return cmp.Or(err, errOutside)
	}
	events, errs := s.verifier.Verify(ctx, r.version, []json.RawMessage{raw})
	if events[0] == nil {
		return fmt.Errorf("%w: %w", errBadEvent, errs[0])
	}
	return s.setOutside(ctx, r.version, events[0], nil)
}

// endsOutside reports whether an event ends a local user's invite or knock. The authorisation rules cannot be
// evaluated. Instead, the event must cite the invite or knock as an auth event, because only servers in the room know
// its ID. An invite may be retracted only by the inviter.
func (s *Service) endsOutside(r *Room, origin string, e *pdu.Event) (bool, error) {
	key, isState := e.StateKey()
	user := id.UserID(key)
	if !isState || e.Type() != typeMember || e.RoomID() != r.id || !s.IsLocal(user) || ident.ServerOf(e.Sender()) != origin {
		return false, nil
	}
	if m := pdu.Membership(e.Content()); m != Leave && m != Ban {
		return false, nil
	}
	m := r.MemberOf(user)
	if m == nil || m.Membership != Invite && m.Membership != Knock {
		return false, nil
	}
	now, err := s.memberEvent(r, m)
	if err != nil || !slices.Contains(e.AuthEvents(), now.ID()) {
		return false, err
	}
	return m.Membership == Knock || now.Sender() == e.Sender(), nil
}
