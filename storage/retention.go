package storage

import "slices"

// PurgeCandidate is an event as the purge sees it.
type PurgeCandidate struct {
	Position Pos
	Order    int64
	EventID  string
	IsState  bool
	SentAt   int64 // ms; the earlier of origin_server_ts and arrival
	Flags    EventFlags
}

const purgeCandidatesQuery = `SELECT position, ord, event_id, state_key IS NOT NULL, CASE WHEN origin_ts < received_ts THEN origin_ts ELSE received_ts END, flags
FROM events WHERE room_nid = $1 AND ord > $2 ORDER BY ord LIMIT $3`

// PurgeCandidates walks a room's timeline from after an order. It rides events_by_order.
func (tx *Tx) PurgeCandidates(room, after int64, limit int) ([]PurgeCandidate, error) {
	return collect(tx, func(r Row) (c PurgeCandidate, err error) {
		var flags int64
		err = r.Scan(&c.Position, &c.Order, &c.EventID, &c.IsState, &c.SentAt, &flags)
		c.Flags = EventFlags(flags)
		return c, err
	}, purgeCandidatesQuery, room, after, limit)
}

// The fourth step is one more than a thread is looked for upwards.
const orphanRepliesQuery = `UPDATE events SET thread_root = 0 WHERE thread_root = $3 AND position IN (
    WITH RECURSIVE tree (position, depth) AS (
        SELECT position, 1 FROM relations WHERE parent_hash = $1 AND parent_id = $2 AND rel_type = 'm.thread'
        UNION
        SELECT r.position, t.depth + 1 FROM tree t JOIN events e ON e.position = t.position
        JOIN relations r ON r.parent_hash = e.id_hash AND r.parent_id = e.event_id WHERE t.depth < 4)
    SELECT position FROM tree)`

// PurgeEvent deletes a message event with all that points at it: relations, its thread, push rows.
func (tx *Tx) PurgeEvent(p Pos, eventID string) error {
	if err := tx.unlinkEvent(p, eventID); err != nil {
		return err
	}
	return tx.PurgeBare([]Pos{p})
}

// PurgeBare deletes message events on which nothing hangs, as Entangled tells.
func (tx *Tx) PurgeBare(positions []Pos) error {
	for part := range slices.Chunk(positions, maxIn) {
		list, args := In(1, part)
		remembered, _ := In(2, part)
		if _, err := tx.exec(rememberPurgedQuery+remembered+` ON CONFLICT DO NOTHING`, append([]any{tx.Now().UnixMilli()}, args...)...); err != nil {
			return err
		}
		if _, err := tx.exec(`DELETE FROM events WHERE position IN `+list, args...); err != nil {
			return err
		}
	}
	return nil
}

// What was redacted needs no second redaction.
const rememberPurgedQuery = `INSERT INTO purged_events (room_nid, id_hash, sender_nid, purged_ts)
SELECT room_nid, id_hash, sender_nid, CAST($1 AS BIGINT) FROM events WHERE redacted_by = 0 AND position IN `

// PurgedSender finds out who sent an event of a room that was purged, as far as it is remembered. It rides the primary key.
func (tx *Tx) PurgedSender(room int64, eventID string) (user string, found bool, err error) {
	return one(tx, scanString, `SELECT u.user_id FROM purged_events p JOIN users u ON u.nid = p.sender_nid WHERE p.room_nid = $1 AND p.id_hash = $2`,
		room, tx.IDHash(eventID))
}

const forgetPurgedQuery = `DELETE FROM purged_events WHERE (room_nid, id_hash) IN (
    SELECT room_nid, id_hash FROM purged_events WHERE purged_ts < $1 ORDER BY purged_ts LIMIT $2)`

// ForgetPurged forgets who sent some of the events that were purged before a time (ms), and reports whether there are more.
// It rides purged_events_by_time.
func (tx *Tx) ForgetPurged(before int64, limit int) (more bool, err error) {
	n, err := tx.exec(forgetPurgedQuery, before, limit)
	return n == int64(limit), err
}

// Entangled finds those of the events on which something hangs: a relation in either direction, a thread, a push row. Most
// messages have nothing, and a few lists find that out cheaper than four statements for each.
func (tx *Tx) Entangled(batch []PurgeCandidate) (map[Pos]bool, error) {
	found := map[Pos]bool{}
	for part := range slices.Chunk(batch, maxIn) {
		positions, hashes := make([]Pos, len(part)), make([]int64, len(part))
		byHash := map[int64][]Pos{}
		for i, c := range part {
			positions[i], hashes[i] = c.Position, tx.IDHash(c.EventID)
			byHash[hashes[i]] = append(byHash[hashes[i]], c.Position)
		}
		list, args := In(1, positions)
		for _, q := range []string{
			`SELECT position FROM relations WHERE position IN ` + list,
			`SELECT root FROM threads WHERE root IN ` + list,
			`SELECT position FROM event_push WHERE position IN ` + list,
		} {
			rows, err := collect(tx, scanInt64, q, args...)
			if err != nil {
				return nil, err
			}
			for _, p := range rows {
				found[Pos(p)] = true
			}
		}
		list, args = In(1, hashes)
		parents, err := collect(tx, scanInt64, `SELECT DISTINCT parent_hash FROM relations WHERE parent_hash IN `+list, args...)
		if err != nil {
			return nil, err
		}
		for _, h := range parents {
			for _, p := range byHash[h] { // the hash alone may be another event's: then the careful way was taken for nothing
				found[p] = true
			}
		}
	}
	return found, nil
}

// unlinkEvent removes what hangs on an event that goes. What was in its thread is in the main timeline from now on.
func (tx *Tx) unlinkEvent(p Pos, eventID string) error {
	if _, err := tx.exec(orphanRepliesQuery, tx.IDHash(eventID), eventID, int64(p)); err != nil {
		return err
	}
	if err := tx.DeleteRelation(p); err != nil {
		return err
	}
	for _, q := range []string{
		`DELETE FROM threads WHERE root = $1`,
		`DELETE FROM event_push WHERE position = $1`,
	} {
		if _, err := tx.exec(q, int64(p)); err != nil {
			return err
		}
	}
	return nil
}

const skeletonQuery = `UPDATE events SET json = $2, flags = $3, push = 0, thread_root = 0, device_nid = 0, txn_id = NULL WHERE position = $1`

// SkeletonizeEvent leaves of an event that the graph still needs only its redacted form, which no client sees.
func (tx *Tx) SkeletonizeEvent(p Pos, eventID string, flags EventFlags, redacted []byte) error {
	if err := tx.unlinkEvent(p, eventID); err != nil {
		return err
	}
	_, err := tx.exec(skeletonQuery, int64(p), string(redacted), int64(flags|SkeletonEvent))
	return err
}

// SetPurgedBefore raises the time (ms) before which a room's message events are gone for good.
func (tx *Tx) SetPurgedBefore(room, ts int64) error {
	_, err := tx.exec(`UPDATE rooms SET purged_before = $2 WHERE nid = $1 AND purged_before < $2`, room, ts)
	return err
}

const setOverrideQuery = `UPDATE rooms SET overridden = $2, override_min = $3, override_max = $4 WHERE nid = $1`

// SetRetentionOverride sets the administrator's policy for a room, in ms; overridden 0 takes it away.
func (tx *Tx) SetRetentionOverride(room int64, overridden bool, minMillis, maxMillis *int64) error {
	n := 0
	if overridden {
		n = 1
	}
	_, err := tx.exec(setOverrideQuery, room, n, minMillis, maxMillis)
	return err
}

const roomsWithPolicyQuery = `SELECT nid FROM rooms WHERE overridden = 1
UNION SELECT room_nid FROM current_state WHERE type IN ('m.room.retention', 'org.matrix.msc1763.retention') AND state_key = ''`

// RoomsWithPolicy lists the rooms that have a retention policy of their own.
func (tx *Tx) RoomsWithPolicy() ([]int64, error) { return collect(tx, scanInt64, roomsWithPolicyQuery) }

// AllRooms lists every room.
func (tx *Tx) AllRooms() ([]int64, error) {
	return collect(tx, scanInt64, `SELECT nid FROM rooms ORDER BY nid`)
}
