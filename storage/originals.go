package storage

import (
	"ebb/ident"
	"ebb/storage/sealing"
)

// Original is what an event was before it was redacted.
type Original struct {
	Position   Pos
	Room       ident.RoomNID
	Sender     ident.UserNID
	JSON       []byte
	RedactedTS int64 // ms
}

const keepOriginalQuery = `INSERT INTO originals (position, room_nid, sender_nid, json, redacted_ts, body_key)
SELECT position, room_nid, sender_nid, json, CAST($4 AS BIGINT), body_key FROM events WHERE id_hash = $1 AND event_id = $2 AND +room_nid = $3 AND redacted_by = 0
AND flags & 8 = 0 ON CONFLICT DO NOTHING`

// keepOriginal stores what the rows of an event hold, before the event is redacted. A row without content (a skeleton)
// has no original.
func (tx *Tx) keepOriginal(room ident.RoomNID, eventID string) error {
	_, err := tx.exec(keepOriginalQuery, tx.IDHash(eventID), eventID, int64(room), tx.Now().UnixMilli())
	return err
}

// AddOriginal stores the original of an event that arrived when it was already redacted or had expired.
func (tx *Tx) AddOriginal(o Original) error {
	text, key, err := string(o.JSON), int64(0), error(nil)
	if tx.db.sealer != nil { // in the same form as in events
		text, key, err = tx.sealString(sealing.Events, o.Room, int64(o.Position), string(sealing.EventText("", o.JSON)))
	}
	if err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO originals (position, room_nid, sender_nid, json, redacted_ts, body_key) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
		int64(o.Position), int64(o.Room), int64(o.Sender), text, o.RedactedTS, key)
	if err != nil {
		return err
	}
	return tx.addMediaRefs(MessageMedia, int64(o.Position), "", o.JSON)
}

const originalsByQuery = `SELECT DISTINCT room_nid, sender_nid FROM originals WHERE (room_nid, sender_nid) > ($1, $2) ORDER BY room_nid, sender_nid LIMIT $3`

// Originals lists the rooms, and the senders in each, of whose redacted events originals are stored: at most limit that
// come after the given one. It uses the index originals_by_sender.
func (tx *Tx) Originals(after KeptBy, limit int) ([]KeptBy, error) {
	return collect(tx, scanKeptBy, originalsByQuery, int64(after.Room), int64(after.Sender), limit)
}

const someOriginalsQuery = `SELECT position FROM originals WHERE room_nid = $1 AND sender_nid = $2 ORDER BY position LIMIT $3`

// DeleteOriginals deletes at most limit originals of the events of a sender in a room, and the media to which only they
// refer. It returns how many it has deleted.
func (tx *Tx) DeleteOriginals(of KeptBy, limit int) (int, error) {
	positions, err := collect(tx, scanNumber[Pos], someOriginalsQuery, int64(of.Room), int64(of.Sender), limit)
	for _, p := range positions {
		if err == nil {
			err = tx.deleteOriginal(p)
		}
	}
	return len(positions), err
}

func (tx *Tx) deleteOriginal(p Pos) error {
	if err := tx.soil(`SELECT body_key FROM originals WHERE position = $1`, int64(p)); err != nil {
		return err
	}
	if _, err := tx.exec(`DELETE FROM originals WHERE position = $1`, int64(p)); err != nil {
		return err
	}
	return tx.releaseEventMedia(p)
}
