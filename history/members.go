package history

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// stateAfter returns the state after event e: the entries for which want returns true, in no particular order.
func (v *viewer) stateAfter(tx *storage.Tx, e *rooms.Event, want func(typ, key string) bool) ([]*rooms.Event, error) {
	if e.Order == v.room.LastOrder() {
		return v.currentState(tx, want)
	}
	entries, err := tx.StateOf(e.Snapshot)
	if err != nil {
		return nil, err
	}
	ownKey, isState := e.StateKey()
	isState = isState && !e.Hidden() // a rejected event does not change the state
	var positions []storage.Pos
	for _, s := range entries {
		if want(s.Type, s.Key) && !(isState && s.Type == e.Type() && s.Key == ownKey) {
			positions = append(positions, s.Position)
		}
	}
	out, err := v.loadState(tx, positions)
	if err == nil && isState && want(e.Type(), ownKey) {
		out = append(out, e)
	}
	return out, err
}

// currentState returns the entries of the current state for which want returns true.
func (v *viewer) currentState(tx *storage.Tx, want func(typ, key string) bool) ([]*rooms.Event, error) {
	var out []*rooms.Event
	var missing []storage.Pos
	v.room.EachState(func(k pdu.StateKey, pos, _ storage.Pos, e *rooms.Event) bool {
		switch {
		case !want(k.Type, k.Key):
		case e != nil:
			out = append(out, e)
		default:
			missing = append(missing, pos)
		}
		return true
	})
	more, err := v.loadState(tx, missing)
	return append(out, more...), err
}

func (v *viewer) loadState(tx *storage.Tx, positions []storage.Pos) ([]*rooms.Event, error) {
	rows, err := tx.EventsAt(positions)
	if err != nil {
		return nil, err
	}
	return v.room.LoadEvents(rows)
}

// membersAfter returns the member events of the given users in the state after event e.
func (v *viewer) membersAfter(tx *storage.Tx, e *rooms.Event, users map[string]bool) ([]*rooms.Event, error) {
	if e.Order == v.room.LastOrder() {
		return v.currentMembers(tx, users)
	}
	var out []*rooms.Event
	var wanted []storage.StateKey
	for user := range users {
		if e.IsStateKey(typeMember, user) {
			out = append(out, e)
			continue
		}
		wanted = append(wanted, storage.StateKey{Snapshot: e.Snapshot, Type: typeMember, Key: user})
	}
	found, err := tx.StateKeysOf(wanted)
	if err != nil {
		return nil, err
	}
	more, err := v.loadState(tx, slices.Collect(maps.Values(found)))
	return append(out, more...), err
}

func (v *viewer) currentMembers(tx *storage.Tx, users map[string]bool) ([]*rooms.Event, error) {
	var out []*rooms.Event
	var positions []storage.Pos
	for user := range users {
		m := v.room.MemberOf(id.UserID(user))
		if m == nil {
			continue
		}
		if e := m.Event(); e != nil {
			out = append(out, e)
		} else {
			positions = append(positions, m.Pos)
		}
	}
	more, err := v.loadState(tx, positions)
	return append(out, more...), err
}

// lastSeen returns the event after which the room's state is the newest that the viewer may see. For former members
// that is the event with which they left. It returns nil if the viewer may see the current state: members may, and
// everybody may in a world-readable room.
func (v *viewer) lastSeen(tx *storage.Tx) (*rooms.Event, error) {
	if v.joined {
		return nil, nil
	}
	was, err := v.wasJoined(tx)
	if err != nil || !was {
		return nil, err // mayRead has already found that the room is world readable
	}
	until, err := v.joinedUntil(tx)
	if err != nil {
		return nil, err
	}
	return v.eventAtOrder(tx, until)
}

// eventAtOrder returns the newest event of the timeline whose order is at most order.
func (v *viewer) eventAtOrder(tx *storage.Tx, order ident.Order) (*rooms.Event, error) {
	rows, err := tx.Timeline(v.room.NID(), 0, order, true, 1)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, errNoEvent
	}
	return v.room.LoadEvent(&rows[0])
}

// stateAt is like stateAfter, but a nil event means the current state.
func (v *viewer) stateAt(tx *storage.Tx, e *rooms.Event, want func(typ, key string) bool) ([]*rooms.Event, error) {
	if e == nil {
		return v.currentState(tx, want)
	}
	return v.stateAfter(tx, e, want)
}

// RoomState returns the state of a room: the current one for members, the one from when they left for former members.
// Spec: client-server-api#get_matrixclientv3roomsroomidstate
func (s *Service) RoomState(ctx context.Context, roomID id.RoomID, to ident.Requester) (out []json.RawMessage, err error) {
	err = s.readingAllMembers(ctx, roomID, to, func(tx *storage.Tx, v *viewer) (err error) {
		out, err = v.state(tx)
		return err
	})
	return out, err
}

// state returns the room's state that the viewer may read.
func (v *viewer) state(tx *storage.Tx) ([]json.RawMessage, error) {
	last, err := v.lastSeen(tx)
	if err != nil {
		return nil, err
	}
	state, err := v.stateAt(tx, last, func(string, string) bool { return true })
	if err != nil {
		return nil, err
	}
	sortByPos(state)
	return v.stateForms(tx, state, FormOptions{RoomID: true})
}

func sortByPos(events []*rooms.Event) {
	slices.SortFunc(events, func(a, b *rooms.Event) int { return cmpInt(int64(a.Pos), int64(b.Pos)) })
}

// StateEvent returns one state event of a room. If whole is set, it returns the complete event in the form for clients,
// otherwise only the content.
// Spec: client-server-api#get_matrixclientv3roomsroomidstateeventtypestatekey
func (s *Service) StateEvent(ctx context.Context, roomID id.RoomID, typ, key string, to ident.Requester, whole bool) (out json.RawMessage, err error) {
	read := s.reading
	if typ == typeMember && !s.rooms.KnowsMember(ctx, roomID, id.UserID(key)) {
		read = s.readingAllMembers
	}
	err = read(ctx, roomID, to, func(tx *storage.Tx, v *viewer) error {
		e, err := v.stateEntry(tx, typ, key)
		if err != nil {
			return err
		}
		if e == nil {
			return mxerr.NotFound("The room has no such state event")
		}
		if !whole {
			out = e.Content()
			return nil
		}
		forms, err := v.stateForms(tx, []*rooms.Event{e}, FormOptions{RoomID: true})
		if err == nil {
			out = forms[0]
		}
		return err
	})
	return out, err
}

func (v *viewer) stateEntry(tx *storage.Tx, typ, key string) (*rooms.Event, error) {
	last, err := v.lastSeen(tx)
	if err != nil {
		return nil, err
	}
	if last != nil && last.IsStateKey(typ, key) {
		return last, nil
	}
	var pos storage.Pos
	switch m := v.room.MemberOf(id.UserID(key)); {
	case last != nil:
		if pos, err = tx.StateKeyOf(last.Snapshot, typ, key); err != nil {
			return nil, err
		}
	case typ != typeMember:
		return v.room.State(typ, key), nil
	case m != nil:
		pos = m.Pos
	}
	events, err := v.room.EventsAt(tx, []storage.Pos{pos})
	return events[pos], err
}

// MembersRequest selects members of a room.
type MembersRequest struct {
	At            string // token; "": now
	Membership    string // "": any
	NotMembership string // "": none
}

// wants reports whether a membership is selected by membership or not_membership: if both are set, either is enough.
func (r *MembersRequest) wants(membership string) bool {
	if r.Membership == "" {
		return r.NotMembership == "" || membership != r.NotMembership
	}
	return membership == r.Membership || r.NotMembership != "" && membership != r.NotMembership
}

// GetMembers returns the member events of a room.
// Spec: client-server-api#get_matrixclientv3roomsroomidmembers
func (s *Service) GetMembers(ctx context.Context, roomID id.RoomID, to ident.Requester, req MembersRequest) (out []json.RawMessage, err error) {
	at := everything().upTo
	if req.At != "" {
		if at, err = ParseToken(req.At); err != nil {
			return nil, err
		}
	}
	err = s.readingAllMembers(ctx, roomID, to, func(tx *storage.Tx, v *viewer) error {
		members, err := v.membersAt(tx, at)
		if err != nil {
			return err
		}
		members = slices.DeleteFunc(members, func(e *rooms.Event) bool { return !req.wants(string(membershipOf(e))) })
		sortByPos(members)
		out, err = v.stateForms(tx, members, FormOptions{RoomID: true})
		return err
	})
	return out, err
}

// membersAt returns all member events in the state of the room at the given order of the timeline. If the viewer has
// left the room before, it returns those in the state at that time.
func (v *viewer) membersAt(tx *storage.Tx, order ident.Order) ([]*rooms.Event, error) {
	last, err := v.lastSeen(tx)
	if err != nil {
		return nil, err
	}
	newest := v.room.LastOrder()
	if last != nil {
		newest = last.Order
	}
	if order < newest {
		if last, err = v.eventAtOrder(tx, order); errors.Is(err, errNoEvent) {
			last, err = v.beginning(tx) // before the room's first event
		}
		if err != nil {
			return nil, err
		}
	}
	return v.stateAt(tx, last, func(typ, _ string) bool { return typ == typeMember })
}

// maxBeginning bounds the events read to find those that created a room.
const maxBeginning = 100

// beginning returns the last of the state events with which the creator set up the room. The prev_batch of a timeline
// with all events of the room is before all of these. A client that requests the members at that token wants the
// initial ones.
func (v *viewer) beginning(tx *storage.Tx) (*rooms.Event, error) {
	rows, err := tx.Timeline(v.room.NID(), 0, everything().upTo, false, maxBeginning)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	n := slices.IndexFunc(rows, func(r storage.EventRow) bool { return !r.IsState || r.Sender != rows[0].Sender })
	if n < 0 {
		n = len(rows)
	}
	return v.room.LoadEvent(&rows[max(n-1, 0)])
}

// JoinedMembers returns the joined members of a room with their profiles. Only joined members may request them.
// Spec: client-server-api#get_matrixclientv3roomsroomidjoined_members
func (s *Service) JoinedMembers(ctx context.Context, roomID id.RoomID, to ident.Requester) (joined []byte, err error) {
	err = s.readingAllMembers(ctx, roomID, to, func(tx *storage.Tx, v *viewer) error {
		if !v.joined {
			return errNotReadable
		}
		users := map[string]bool{}
		for _, m := range v.room.Members(rooms.Join) {
			users[string(m.User)] = true
		}
		members, err := v.currentMembers(tx, users)
		if err != nil {
			return err
		}
		sortByPos(members)
		joined = appendProfiles(nil, members)
		return nil
	})
	return joined, err
}

// appendProfiles appends an object of user ID → display_name and avatar_url. A name that is not set becomes an empty
// string, which clients expect; an avatar that is not set is omitted, since an empty string is not a URL.
func appendProfiles(dst []byte, members []*rooms.Event) []byte {
	dst = append(dst, '{')
	for i, e := range members {
		if i > 0 {
			dst = append(dst, ',')
		}
		user, _ := e.StateKey()
		dst = append(canonjson.AppendString(dst, user), ":{"...)
		dst = canonjson.AppendString(append(dst, `"display_name":`...), e.ContentString("displayname"))
		if avatar := e.ContentString("avatar_url"); strings.HasPrefix(avatar, "mxc://") {
			dst = canonjson.AppendString(append(dst, `,"avatar_url":`...), avatar)
		}
		dst = append(dst, '}')
	}
	return append(dst, '}')
}
