package storage

import (
	"math"
	"slices"

	"ebb/ident"
	"ebb/storage/sealing"
)

// Original describes what an event was before it was redacted.
type Original struct {
	Position   Pos
	Room       ident.RoomNID
	Sender     ident.UserNID
	JSON       []byte // not set by DueOriginals
	RedactedTS int64  // ms
	// Readable says whether moderators may read it for retention.redacted after the redaction. Other originals are
	// there only because of a legal hold or min_lifetime.
	Readable bool

	ReceivedTS int64 // of the event, ms; not stored with the original
	IsState    bool  // whether it is a state event; not stored with the original
}

const keepOriginalQuery = `INSERT INTO originals (position, room_nid, sender_nid, json, redacted_ts, readable, body_key)
SELECT position, room_nid, sender_nid, json, CAST($4 AS BIGINT), CAST($5 AS BIGINT), body_key FROM events WHERE id_hash = $1 AND event_id = $2 AND +room_nid = $3
AND redacted_by = 0 AND flags & 8 = 0 ON CONFLICT DO NOTHING`

// keepOriginal stores what the rows of an event hold, before the event is redacted. A row without content (a skeleton)
// has no original.
func (tx *Tx) keepOriginal(eventID string, o *Original) error {
	_, err := tx.exec(keepOriginalQuery, tx.IDHash(eventID), eventID, int64(o.Room), o.RedactedTS, o.Readable)
	return err
}

const addOriginalQuery = `INSERT INTO originals (position, room_nid, sender_nid, json, redacted_ts, readable, body_key) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`

// AddOriginal stores the original of an event that arrived when it was already redacted or had expired.
func (tx *Tx) AddOriginal(o *Original) error {
	text, key, err := string(o.JSON), int64(0), error(nil)
	if tx.db.sealer != nil { // in the same form as in events
		text, key, err = tx.sealString(sealing.Events, o.Room, int64(o.Position), string(sealing.EventText("", o.JSON)))
	}
	if err != nil {
		return err
	}
	if _, err := tx.exec(addOriginalQuery, int64(o.Position), int64(o.Room), int64(o.Sender), text, o.RedactedTS, o.Readable, key); err != nil {
		return err
	}
	return tx.addMediaRefs(MessageMedia, int64(o.Position), "", o.JSON)
}

const originalQuery = `SELECT position, room_nid, sender_nid, redacted_ts, readable, json FROM originals WHERE position = $1`

// OriginalOf returns the original of a redacted event, if it is stored.
func (tx *Tx) OriginalOf(p Pos) (Original, bool, error) {
	return one(tx, scanOriginal, originalQuery, int64(p))
}

// scanOriginal scans the columns position, room_nid, sender_nid, redacted_ts, readable and json.
func scanOriginal(r Row) (o Original, err error) {
	var readable int64
	err = r.Scan(&o.Position, &o.Room, &o.Sender, &o.RedactedTS, &readable, &o.JSON)
	if o.Readable = readable != 0; err == nil && sealing.IsSealed(o.JSON) {
		_, o.JSON, err = openEvent(r, o.Position, o.JSON)
	}
	return o, err
}

// OriginalCursor is where DueOriginals continues. Its zero value is the beginning.
type OriginalCursor struct {
	KeptBy
	Position Pos
}

// After returns the cursor after an original. If past is set, it is after all originals of the same sender in the room.
func (o *Original) After(past bool) OriginalCursor {
	c := OriginalCursor{KeptBy{o.Room, o.Sender}, o.Position}
	if past {
		c.Position = math.MaxInt64
	}
	return c
}

const dueOriginalsQuery = `SELECT o.position, o.room_nid, o.sender_nid, o.redacted_ts, o.readable, COALESCE(e.received_ts, 0), CASE WHEN e.state_key IS NULL THEN 0 ELSE 1 END
FROM originals o LEFT JOIN events e ON e.position = o.position WHERE (o.room_nid, o.sender_nid, o.position) > ($1, $2, $3)
AND (o.readable = 0 OR o.redacted_ts <= $4 OR o.sender_nid IN (SELECT user_nid FROM erased_users)) ORDER BY o.room_nid, o.sender_nid, o.position LIMIT $5`

// DueOriginals lists at most limit originals after a cursor that nothing but a legal hold or min_lifetime keeps: those
// that are not readable, were redacted until the given time (ms), or whose sender was erased. It reads the index
// originals_by_sender.
func (tx *Tx) DueOriginals(after OriginalCursor, redactedUntil int64, limit int) ([]Original, error) {
	return collect(tx, func(r Row) (o Original, err error) {
		var readable, state int64
		err = r.Scan(&o.Position, &o.Room, &o.Sender, &o.RedactedTS, &readable, &o.ReceivedTS, &state)
		o.Readable, o.IsState = readable != 0, state != 0
		return o, err
	}, dueOriginalsQuery, int64(after.Room), int64(after.Sender), int64(after.Position), redactedUntil, limit)
}

// CountOriginals returns the number of stored originals.
func (tx *Tx) CountOriginals() (n int64, err error) {
	n, _, err = one(tx, scanNumber[int64], `SELECT count(*) FROM originals`)
	return n, err
}

// OriginalBytes returns the size of the originals of events, as far as they are stored.
func (tx *Tx) OriginalBytes(positions []Pos) (size int64, err error) {
	for part := range slices.Chunk(positions, maxIn) {
		list, args := In(1, part)
		n, _, err := one(tx, scanNumber[int64], `SELECT COALESCE(sum(length(json)), 0) FROM originals WHERE position IN `+list, args...)
		if err != nil {
			return 0, err
		}
		size += n
	}
	return size, nil
}

// DeleteOriginal deletes the original of an event, and the media to which only that refers.
func (tx *Tx) DeleteOriginal(p Pos) error {
	if err := tx.soil(`SELECT body_key FROM originals WHERE position = $1`, int64(p)); err != nil {
		return err
	}
	if _, err := tx.exec(`DELETE FROM originals WHERE position = $1`, int64(p)); err != nil {
		return err
	}
	return tx.releaseEventMedia(p)
}
