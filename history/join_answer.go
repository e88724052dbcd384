package history

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// maxHeavyReads bounds the number of full states and auth chains that are read for other servers at the same time. Each
// read holds one of the few database connections and, for a large room, all of its members in memory.
const maxHeavyReads = 2

// heavyRead waits until a full state or auth chain may be read for another server. The caller calls release after the
// read.
func (s *Service) heavyRead(ctx context.Context) (release func(), err error) {
	select {
	case s.heavyReads <- struct{}{}:
		return func() { <-s.heavyReads }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// JoinAnswer returns the response to a join: the state before it and the auth chain. Large responses are built one
// after the other.
func (s *Service) JoinAnswer(ctx context.Context, j rooms.AcceptedJoin) (*fedclient.JoinAnswer, error) {
	release, err := s.heavyRead(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	answer := &fedclient.JoinAnswer{
		Origin: s.rooms.Server(), Event: j.Event.JSON(), MembersOmitted: j.OmitMembers, State: []json.RawMessage{}, AuthChain: []json.RawMessage{},
	}
	if err := s.db.Read(ctx, func(tx *storage.Tx) error { return addJoinState(tx, j, answer) }); err != nil {
		return nil, err
	}
	if j.OmitMembers {
		servers := map[string]bool{}
		for _, m := range j.Room.Members(rooms.Join) {
			if m.User != j.Event.Sender() { // only the servers that were in the room before the join
				servers[ident.ServerOf(m.User)] = true
			}
		}
		answer.ServersInRoom = slices.Sorted(maps.Keys(servers))
	}
	return answer, nil
}

// addJoinState adds the state before a join to the response, and the auth chain of that state and of the join.
func addJoinState(tx *storage.Tx, j rooms.AcceptedJoin, answer *fedclient.JoinAnswer) error {
	entries, err := tx.StateOf(j.Event.Snapshot)
	if err != nil {
		return err
	}
	if j.OmitMembers {
		entries = withoutMembers(j.Room, entries, j.Event)
	}
	positions := make([]storage.Pos, len(entries))
	for i, e := range entries {
		positions[i] = e.Position
	}
	rows, err := tx.EventsAt(positions)
	if err != nil {
		return err
	}
	in := make(map[string]bool, len(rows))
	auth := j.Event.AuthEventIDs()
	for i := range rows {
		answer.State = append(answer.State, rows[i].JSON)
		in[rows[i].EventID] = true
		e, err := j.Room.LoadEvent(&rows[i])
		if err != nil {
			return err
		}
		auth = append(auth, e.AuthEventIDs()...)
	}
	chain, err := authChain(tx, j.Room, auth)
	for _, e := range chain {
		if !j.OmitMembers || !in[string(e.ID())] {
			answer.AuthChain = append(answer.AuthChain, e.JSON())
		}
	}
	return err
}

// withoutMembers leaves out the members that the joining server does not need. It keeps the heroes, which name a room
// without a name.
func withoutMembers(r *rooms.Room, entries []storage.StateEntry, join *rooms.Event) []storage.StateEntry {
	needed := map[string]bool{string(join.Sender()): true}
	if r.State("m.room.name", "") == nil && r.State("m.room.canonical_alias", "") == nil {
		for _, m := range r.Members(rooms.Join, rooms.Invite) {
			if len(needed) > 6 { // 5 heroes, the user and one to spare
				break
			}
			needed[string(m.User)] = true
		}
	}
	return slices.DeleteFunc(entries, func(e storage.StateEntry) bool { return e.Type == typeMember && !needed[e.Key] })
}

// maxAuthChain bounds the events of an auth chain: a room of 100,000 members has some 200,000.
const maxAuthChain = 500_000

// authChain reads the given events, the events that authorise them, and so on up to the create event.
func authChain(tx *storage.Tx, r *rooms.Room, from []id.EventID) ([]*rooms.Event, error) {
	seen := map[id.EventID]bool{}
	var out []*rooms.Event
	next := from
	for len(next) > 0 && len(out) < maxAuthChain {
		var ids []string
		for _, eventID := range next {
			if !seen[eventID] {
				seen[eventID] = true
				ids = append(ids, string(eventID))
			}
		}
		rows, err := tx.EventsByID(r.NID(), ids)
		if err != nil {
			return nil, err
		}
		next = nil
		had := map[string]bool{}
		for i := range rows {
			if had[rows[i].EventID] {
				continue
			}
			had[rows[i].EventID] = true
			e, err := r.LoadEvent(&rows[i])
			if err != nil {
				return nil, err
			}
			out, next = append(out, e), append(next, e.AuthEventIDs()...)
		}
	}
	return out, nil
}
