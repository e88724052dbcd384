package storage

import (
	"ebb/ident"
	"ebb/storage/sealing"
)

// Queries for rooms that are shared with other servers.

// SkipTo makes the stream continue after position p, unless it is already beyond it. It can be called in a write only.
func (tx *Tx) SkipTo(p Pos) { tx.committer.pos = max(tx.committer.pos, int64(p)) }

// EventIDAt is the ID of the event at a position.
type EventIDAt struct {
	Position Pos
	EventID  string
	IsState  bool
	Sent     EventTimes
}

// EventTimes are the times from which the age of an event is counted.
type EventTimes struct{ OriginTS, ReceivedTS int64 } // ms

// EventIDsAt returns the IDs of the events at these positions, in no particular order. It uses the primary key.
func (tx *Tx) EventIDsAt(positions []Pos) ([]EventIDAt, error) {
	out := make([]EventIDAt, 0, len(positions))
	for len(positions) > 0 {
		n := min(len(positions), maxIn)
		list, args := In(1, positions[:n])
		rows, err := collect(tx, func(r Row) (e EventIDAt, err error) {
			err = r.Scan(&e.Position, &e.EventID, &e.IsState, &e.Sent.OriginTS, &e.Sent.ReceivedTS)
			return e, err
		}, `SELECT position, event_id, state_key IS NOT NULL, origin_ts, received_ts FROM events WHERE position IN `+list, args...)
		if err != nil {
			return nil, err
		}
		out, positions = append(out, rows...), positions[n:]
	}
	return out, nil
}

const eventsByIDQuery = `SELECT ` + eventColumns + ` FROM events e WHERE +e.room_nid = $1 AND e.id_hash IN `

// EventsByID finds events of a room, in no particular order. It omits events that are not stored. If an event has
// several rows (see EventByID), it returns all of them. It uses the index events_by_id.
func (tx *Tx) EventsByID(room ident.RoomNID, ids []string) ([]EventRow, error) {
	var out []EventRow
	for len(ids) > 0 {
		n := min(len(ids), maxIn)
		wanted := make(map[string]bool, n)
		hashes := make([]int64, n)
		for i, id := range ids[:n] {
			hashes[i], wanted[id] = tx.IDHash(id), true
		}
		list, args := In(2, hashes)
		rows, err := collect(tx, scanEvent, eventsByIDQuery+list, append([]any{int64(room)}, args...)...)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			if wanted[r.EventID] {
				out = append(out, r)
			}
		}
		ids = ids[n:]
	}
	return out, nil
}

// SetStrippedState stores the stripped state that another server sent with an invite or a knock of a user. An empty
// text deletes it.
func (tx *Tx) SetStrippedState(user ident.UserNID, room ident.RoomNID, json string) error {
	if err := tx.soil(`SELECT body_key FROM stripped_state WHERE user_nid = $1 AND room_nid = $2`, int64(user), int64(room)); err != nil {
		return err
	}
	if json == "" {
		_, err := tx.exec(`DELETE FROM stripped_state WHERE user_nid = $1 AND room_nid = $2`, int64(user), int64(room))
		return err
	}
	text, sealed, err := tx.sealString(sealing.StrippedState, room, int64(user), json)
	if err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO stripped_state (user_nid, room_nid, json, body_key) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_nid, room_nid) DO UPDATE SET json = excluded.json, body_key = excluded.body_key`, int64(user), int64(room), text, sealed)
	return err
}

// StrippedState returns the stripped state that another server sent with an invite or a knock of a user, "" if there is
// none.
func (tx *Tx) StrippedState(user ident.UserNID, room ident.RoomNID) (string, error) {
	s, _, err := one(tx, func(r Row) (s string, err error) {
		if err = r.Scan(&s); err == nil {
			err = unsealString(r, sealing.StrippedState, int64(user), &s)
		}
		return s, err
	}, `SELECT json FROM stripped_state WHERE user_nid = $1 AND room_nid = $2`, int64(user), int64(room))
	return s, err
}

// PendingInvite is an invite that the user has neither accepted nor rejected.
type PendingInvite struct {
	Room    ident.RoomNID
	Inviter string
	Size    int64 // bytes of the event and of the stripped state
}

const pendingInvitesQuery = `SELECT m.room_nid, u.user_id, length(e.json) + coalesce(length(s.json), 0) FROM memberships m
JOIN events e ON e.position = m.position JOIN users u ON u.nid = e.sender_nid
LEFT JOIN stripped_state s ON s.user_nid = m.user_nid AND s.room_nid = m.room_nid WHERE m.user_nid = $1 AND m.membership = 'invite'`

// PendingInvites lists a user's pending invites. It uses the primary keys.
func (tx *Tx) PendingInvites(user ident.UserNID) ([]PendingInvite, error) {
	return collect(tx, func(r Row) (p PendingInvite, err error) {
		err = r.Scan(&p.Room, &p.Inviter, &p.Size)
		return p, err
	}, pendingInvitesQuery, int64(user))
}

// BackwardEdge is a missing event: a stored event names it in prev_events, but it is not stored.
type BackwardEdge struct {
	Missing string
	Order   ident.Order // of the oldest event that refers to it
}

func scanBackwardEdge(r Row) (e BackwardEdge, err error) {
	err = r.Scan(&e.Missing, &e.Order)
	return e, err
}

// AddBackwardEdge records that the event with the given order refers to a predecessor that is not stored.
func (tx *Tx) AddBackwardEdge(room ident.RoomNID, missing string, order ident.Order) error {
	_, err := tx.exec(`INSERT INTO backward_edges (room_nid, missing_id, ord) VALUES ($1, $2, $3)
ON CONFLICT (room_nid, missing_id) DO UPDATE SET ord = CASE WHEN excluded.ord < backward_edges.ord THEN excluded.ord ELSE backward_edges.ord END`,
		int64(room), missing, int64(order))
	return err
}

// DeleteBackwardEdge deletes an edge because its event is stored now or no server has it.
func (tx *Tx) DeleteBackwardEdge(room ident.RoomNID, missing string) error {
	_, err := tx.exec(`DELETE FROM backward_edges WHERE room_nid = $1 AND missing_id = $2`, int64(room), missing)
	return err
}

const backwardEdgesQuery = `SELECT missing_id, ord FROM backward_edges WHERE room_nid = $1 AND ord > $2 AND ord <= $3 ORDER BY ord DESC LIMIT $4`

// BackwardEdges lists the edges at events with an order above after and at most upTo, newest first. It uses the index
// backward_edges_by_order.
func (tx *Tx) BackwardEdges(room ident.RoomNID, after, upTo ident.Order, limit int) ([]BackwardEdge, error) {
	return collect(tx, scanBackwardEdge, backwardEdgesQuery, int64(room), int64(after), int64(upTo), limit)
}

// MissingBefore returns the order of the oldest event that names the given missing event in prev_events. It returns
// false if none does.
func (tx *Tx) MissingBefore(room ident.RoomNID, eventID string) (ident.Order, bool, error) {
	return one(tx, scanNumber[ident.Order], `SELECT ord FROM backward_edges WHERE room_nid = $1 AND missing_id = $2`, int64(room), eventID)
}

// AddPendingRedaction records a redaction that has arrived before the event that it redacts.
func (tx *Tx) AddPendingRedaction(room ident.RoomNID, target string, p Pos) error {
	_, err := tx.exec(`INSERT INTO pending_redactions (room_nid, target_id, position) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, int64(room), target, int64(p))
	return err
}

// PendingRedactions lists the redactions of an event that arrived before the event, oldest first.
func (tx *Tx) PendingRedactions(room ident.RoomNID, target string, limit int) ([]Pos, error) {
	return collect(tx, func(r Row) (p Pos, err error) {
		err = r.Scan(&p)
		return p, err
	}, `SELECT position FROM pending_redactions WHERE room_nid = $1 AND target_id = $2 ORDER BY position LIMIT $3`, int64(room), target, limit)
}

// DeletePendingRedactions deletes the recorded redactions of an event that has arrived.
func (tx *Tx) DeletePendingRedactions(room ident.RoomNID, target string) error {
	_, err := tx.exec(`DELETE FROM pending_redactions WHERE room_nid = $1 AND target_id = $2`, int64(room), target)
	return err
}

const eventAnywhereQuery = `SELECT ` + eventColumns + ` FROM events e WHERE e.id_hash = $1 AND e.event_id = $2
AND EXISTS (SELECT 1 FROM rooms r WHERE r.nid = e.room_nid) ORDER BY e.ord DESC, e.position DESC LIMIT 1`

// EventAnywhere finds an event by its ID alone. In room versions 1 and 2 several rooms may have events with the same
// ID; then it returns one of them.
func (tx *Tx) EventAnywhere(eventID string) (EventRow, bool, error) {
	return one(tx, scanEvent, eventAnywhereQuery, tx.IDHash(eventID), eventID)
}

const roomsOfEventQuery = `SELECT DISTINCT room_nid FROM events e WHERE id_hash = $1 AND event_id = $2
AND EXISTS (SELECT 1 FROM rooms r WHERE r.nid = e.room_nid) ORDER BY room_nid LIMIT $3`

// RoomsOfEvent returns at most limit rooms that have an event with the given ID. It uses the index events_by_id.
func (tx *Tx) RoomsOfEvent(eventID string, limit int) ([]ident.RoomNID, error) {
	return collect(tx, scanNumber[ident.RoomNID], roomsOfEventQuery, tx.IDHash(eventID), eventID, limit)
}
