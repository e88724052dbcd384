package storage

import (
	"fmt"
	"maps"
	"slices"

	"ebb/ident"
)

// PurgeCandidate holds the properties of an event that decide whether it is purged.
type PurgeCandidate struct {
	Room     ident.RoomNID
	Position Pos
	Order    ident.Order
	EventID  string
	Sender   ident.UserNID
	Snapshot int64 // the state before the event
	IsState  bool
	Redacted bool // by another event
	Flags    EventFlags
	EventTimes
}

// Cutoff describes expired messages (see expiry.Cutoff): those sent or received at Sent or before, in milliseconds
// since 1970, that were received at Received or before.
type Cutoff struct{ Sent, Received int64 }

const (
	candidatesFrom       = `SELECT room_nid, position, ord, event_id, sender_nid, snapshot, state_key IS NOT NULL, redacted_by <> 0, origin_ts, received_ts, flags FROM events `
	purgeCandidatesQuery = candidatesFrom + `WHERE room_nid = $1 AND ord > $2 ORDER BY ord LIMIT $3`
	candidatesAtQuery    = candidatesFrom + `WHERE position IN `
	unplacedQuery        = candidatesFrom + `WHERE room_nid = $1 AND position > $2 AND ord = 0 AND state_key IS NULL ORDER BY position LIMIT $3`
	outliersQuery        = candidatesFrom + `WHERE room_nid = $1 AND position > $2 AND ord = 0 ORDER BY position LIMIT $3`
)

// PurgeCandidates lists events of a room's timeline after an order. It uses the index events_by_order.
func (tx *Tx) PurgeCandidates(room ident.RoomNID, after ident.Order, limit int) ([]PurgeCandidate, error) {
	return collect(tx, scanCandidate, purgeCandidatesQuery, int64(room), int64(after), limit)
}

// Unplaced lists events of a room after a position that have no order: messages that were rejected, and if state is set
// also state, most of it from before this server joined. It uses the indexes events_unplaced and events_outliers.
func (tx *Tx) Unplaced(room ident.RoomNID, after Pos, state bool, limit int) ([]PurgeCandidate, error) {
	if state {
		return collect(tx, scanCandidate, outliersQuery, int64(room), int64(after), limit)
	}
	return collect(tx, scanCandidate, unplacedQuery, int64(room), int64(after), limit)
}

func scanCandidate(r Row) (c PurgeCandidate, err error) {
	var flags int64
	err = r.Scan(&c.Room, &c.Position, &c.Order, &c.EventID, &c.Sender, &c.Snapshot, &c.IsState, &c.Redacted, &c.OriginTS, &c.ReceivedTS, &flags)
	c.Flags = EventFlags(flags)
	return c, err
}

// PurgeEvent deletes a message event and its dependents.
func (tx *Tx) PurgeEvent(p Pos, eventID string) error {
	if err := tx.removeOwnDependents(purged, p, eventID); err != nil {
		return err
	}
	return tx.PurgeBare([]Pos{p})
}

// PurgeEvents deletes events and their dependents. with is the result of WithDependents for these events. If remember
// is set, the IDs of the events are remembered, so that they do not come back.
func (tx *Tx) PurgeEvents(events []PurgeCandidate, with map[Pos]bool, remember bool) error {
	for _, e := range events {
		if !with[e.Position] {
			continue
		}
		if err := tx.removeOwnDependents(purged, e.Position, e.EventID); err != nil {
			return fmt.Errorf("purge %s: %w", e.EventID, err)
		}
	}
	return tx.deleteBare(events, remember)
}

// PurgeBare deletes message events. Rows that depend on them must be of the kinds that are deleted for many events at
// once; for other events see PurgeEvents.
func (tx *Tx) PurgeBare(positions []Pos) error {
	for part := range slices.Chunk(positions, maxIn) {
		events, err := tx.candidatesAt(part)
		if err == nil {
			err = tx.deleteBare(events, true)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// candidatesAt returns the events at the given positions, of which there are at most maxIn, in no particular order. It
// uses the primary key.
func (tx *Tx) candidatesAt(positions []Pos) ([]PurgeCandidate, error) {
	list, args := In(1, positions)
	return collect(tx, scanCandidate, candidatesAtQuery+list, args...)
}

func (tx *Tx) deleteBare(events []PurgeCandidate, remember bool) error {
	for part := range slices.Chunk(events, maxIn) {
		positions := positionsOf(part)
		if err := tx.addGaps(positions); err != nil {
			return err
		}
		if err := tx.markStatesOf(part); err != nil {
			return err
		}
		if err := tx.removeCommonDependents(purged, part); err != nil {
			return err
		}
		if remember {
			if err := tx.rememberPurged(part); err != nil {
				return err
			}
		}
		list, args := In(1, positions)
		if err := tx.soil(eventKeysQuery+list, args...); err != nil {
			return err
		}
		if _, err := tx.exec(`DELETE FROM events WHERE position IN `+list, args...); err != nil {
			return err
		}
	}
	return nil
}

const skeletonQuery = `UPDATE events SET json = $2, flags = $3, push = 0, thread_root = 0, device_nid = 0, txn_id = NULL WHERE position = $1`

// SkeletonizeEvent reduces an event that the event graph still needs to its redacted form, which no client sees.
func (tx *Tx) SkeletonizeEvent(p Pos, eventID string, flags EventFlags, redactedForm []byte) error {
	if err := tx.removeDependents(purged, p, eventID); err != nil {
		return err
	}
	r, sealed, err := tx.sealedRow(p)
	if err != nil {
		return err
	}
	if _, err := tx.exec(skeletonQuery, int64(p), string(redactedForm), int64(flags&^KeptEvent|SkeletonEvent)); err != nil || !sealed {
		return err
	}
	return tx.replaceSealed(r, "", redactedForm)
}

// SetPurgedBefore raises the time (ms) before which a room's message events have been purged.
func (tx *Tx) SetPurgedBefore(room ident.RoomNID, ts int64) error {
	_, err := tx.exec(`UPDATE rooms SET purged_before = $2 WHERE nid = $1 AND purged_before < $2`, int64(room), ts)
	return err
}

const setOverrideQuery = `UPDATE rooms SET overridden = $2, override_min = $3, override_max = $4, override_ts = $5 WHERE nid = $1`

// SetRetentionOverride sets the retention policy that an administrator has chosen for a room. All times are in ms. If
// overridden is false, it removes that policy.
func (tx *Tx) SetRetentionOverride(room ident.RoomNID, overridden bool, minMillis, maxMillis *int64, now int64) error {
	_, err := tx.exec(setOverrideQuery, int64(room), overridden, minMillis, maxMillis, now)
	return err
}

// EventRef names an event of a room.
type EventRef struct {
	Room    ident.RoomNID
	EventID string
}

// EventAge holds what decides whether an event has expired.
type EventAge struct {
	EventRef
	EventTimes
	IsState bool
	Flags   EventFlags
}

const eventAgesQuery = `SELECT room_nid, event_id, origin_ts, received_ts, state_key IS NOT NULL, flags FROM events WHERE id_hash IN `

// EventAges finds events, in no particular order. It omits events that are not stored. It uses the index events_by_id.
func (tx *Tx) EventAges(refs []EventRef) (out []EventAge, err error) {
	for part := range slices.Chunk(refs, maxIn) {
		wanted, hashes := make(map[EventRef]bool, len(part)), make([]int64, len(part))
		for i, ref := range part {
			wanted[ref], hashes[i] = true, tx.IDHash(ref.EventID)
		}
		list, args := In(1, hashes)
		rows, err := collect(tx, func(r Row) (a EventAge, err error) {
			var flags int64
			err = r.Scan(&a.Room, &a.EventID, &a.OriginTS, &a.ReceivedTS, &a.IsState, &flags)
			a.Flags = EventFlags(flags)
			return a, err
		}, eventAgesQuery+list, args...)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			if wanted[row.EventRef] {
				out = append(out, row)
			}
		}
	}
	return out, nil
}

// MediaRefsOf returns the media to which events refer, once for each event and media. It uses the primary key.
func (tx *Tx) MediaRefsOf(positions []Pos) (out []MediaName, err error) {
	for part := range slices.Chunk(positions, maxIn) {
		list, args := In(1, part)
		names, err := collect(tx, scanMediaName, `SELECT server, media_id FROM media_refs WHERE kind IN (0, 2) AND owner IN `+list, args...)
		if err != nil {
			return nil, err
		}
		out = append(out, names...)
	}
	return out, nil
}

// MediaUse describes a stored file.
type MediaUse struct {
	MediaName
	Size int64
	Refs int64 // number of stored texts that refer to it
}

const mediaUsesQuery = `SELECT '', m.media_id, m.size, (SELECT count(*) FROM media_refs r WHERE r.media_id = m.media_id AND r.server = '')
FROM media m WHERE m.blob <> '' AND m.expires_ts = 0 AND m.media_id IN %[1]s AND NOT EXISTS (SELECT 1 FROM media_quarantine q WHERE q.server = '' AND q.media_id = m.media_id) AND NOT EXISTS (SELECT 1 FROM legal_holds h WHERE h.user_nid <> 0 AND h.user_nid = m.user_nid AND h.lifted_ts = 0)
UNION ALL SELECT m.server, m.media_id, m.size, (SELECT count(*) FROM media_refs r WHERE r.media_id = m.media_id AND r.server = m.server)
FROM remote_media m WHERE m.media_id IN %[1]s AND NOT EXISTS (SELECT 1 FROM media_quarantine q WHERE q.server = m.server AND q.media_id = m.media_id)`

// MediaUses describes those of the given media that are stored here and go with their last message. It uses the primary
// keys and the index media_refs_by_media.
func (tx *Tx) MediaUses(of map[MediaName]int64) (out []MediaUse, err error) {
	ids := map[string]bool{}
	for m := range of {
		ids[m.ID] = true
	}
	for part := range slices.Chunk(slices.Sorted(maps.Keys(ids)), maxIn) {
		list, args := In(1, part)
		err := tx.each(func(r Row) error {
			var u MediaUse
			err := r.Scan(&u.Server, &u.ID, &u.Size, &u.Refs)
			if _, wanted := of[u.MediaName]; wanted {
				out = append(out, u)
			}
			return err
		}, fmt.Sprintf(mediaUsesQuery, list), args...)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

const supersededQuery = `SELECT e.position FROM events e WHERE e.type <> $1 AND NOT EXISTS (
    SELECT 1 FROM current_state c JOIN events n ON n.position = c.position
    WHERE c.room_nid = e.room_nid AND c.type = e.type AND c.state_key = e.state_key AND n.event_id = e.event_id)
AND e.position IN `

// Superseded reports which of the given state events, other than those of the type except, are not part of the current
// state of their room. It uses the primary keys.
func (tx *Tx) Superseded(positions []Pos, except string) (map[Pos]bool, error) {
	out := make(map[Pos]bool, len(positions))
	for part := range slices.Chunk(positions, maxIn) {
		list, args := In(2, part)
		found, err := collect(tx, scanNumber[Pos], supersededQuery+list, append([]any{except}, args...)...)
		if err != nil {
			return nil, err
		}
		for _, p := range found {
			out[p] = true
		}
	}
	return out, nil
}
