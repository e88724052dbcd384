package storage

import (
	"fmt"

	"ebb/bodykeys"
	"ebb/ident"
	"ebb/storage/sealing"
)

// On PostgreSQL, a deleted row stays in the database's files, in its write-ahead log and on replicas. Therefore what
// users write is encrypted there ("sealed"), under a key for each room and day that is in a folder outside the database
// (package bodykeys). When something is deleted, what is left under its key is encrypted under another one, and the key
// is destroyed (see RetireKeys). On SQLite, which overwrites what it deletes, nothing is sealed.
//
// A sealed text can be told from one that was stored before there were keys (sealing.IsSealed). Row.open opens it,
// after the row was scanned. Each column that has sealed texts is in the list sealedColumns, and its table has a column
// body_key with the number of the key. A statement that deletes or replaces a sealed text calls Tx.soil first.

// keyState says what is done with a key.
type keyState int64

const (
	spareKey    keyState = iota // not assigned to a room yet
	usedKey                     // texts of its room and day are sealed under it
	retiringKey                 // what is sealed under it is being sealed under another key
	doomedKey                   // nothing is sealed under it any more; its file is to be destroyed
)

// unsealString opens a text from a column with JSON if it is sealed.
func unsealString(r Row, in sealing.In, row int64, text *string) error {
	if !sealing.IsSealed(*text) {
		return nil
	}
	plain, err := r.open(in, row, []byte(*text))
	*text = string(plain)
	return err
}

// openEvent opens the text of an event.
func openEvent(r Row, p Pos, sealed []byte) (txnID string, json []byte, err error) {
	text, err := r.open(sealing.Events, int64(p), sealed)
	if err == nil {
		txnID, json, err = sealing.SplitEvent(text)
	}
	if err != nil {
		err = fmt.Errorf("event %d: %w", p, err)
	}
	return txnID, json, err
}

// staysPlain reports whether an event is stored in plain text even if there are keys: queries search the JSON of these
// two types (see isPublicState), which have no text for people.
func staysPlain(typ string) bool {
	return typ == "m.room.join_rules" || typ == "m.room.history_visibility"
}

// keyFor returns the key with which texts of a slot are sealed. It reads or writes the database only for the first text
// of a slot.
func (tx *Tx) keyFor(slot sealing.Slot) (sealing.Key, error) {
	s := tx.db.sealer
	if k, ok := s.Current(slot); ok {
		return k, nil
	}
	n, found, err := one(tx, scanNumber[int64], slotKeyQuery, int64(slot.Room), slot.Day, int64(slot.Kind))
	id := bodykeys.ID(n)
	if err == nil && !found {
		id, err = tx.assignKey(slot)
	}
	if err != nil {
		return sealing.Key{}, err
	}
	k, err := s.Key(id)
	if err == nil {
		s.Use(slot, k)
	}
	return k, err
}

const (
	slotKeyQuery   = `SELECT nid FROM body_keys WHERE room_nid = $1 AND day = $2 AND kind = $3 AND state = 1 ORDER BY nid LIMIT 1`
	assignKeyQuery = `UPDATE body_keys SET room_nid = $2, day = $3, kind = $4, state = 1 WHERE nid = $1 AND state = 0`
	addKeyQuery    = `INSERT INTO body_keys (nid, room_nid, day, kind, state) VALUES ($1, $2, $3, $4, $5)`
)

// assignKey makes a spare key the key of a slot. If there is no spare key, it creates one.
func (tx *Tx) assignKey(slot sealing.Slot) (bodykeys.ID, error) {
	s := tx.db.sealer
	for {
		id, ok := s.NextSpare()
		if !ok {
			break
		}
		n, err := tx.exec(assignKeyQuery, int64(id), int64(slot.Room), slot.Day, int64(slot.Kind))
		if err != nil {
			return 0, err
		}
		if n == 1 { // otherwise it was assigned by a commit whose answer was lost
			s.Taken(id)
			return id, nil
		}
	}
	id, err := s.NewKey()
	if err != nil {
		return 0, full(err)
	}
	_, err = tx.exec(addKeyQuery, int64(id), int64(slot.Room), slot.Day, int64(slot.Kind), int64(usedKey))
	return id, err
}

// soil marks the keys that a query selects as dirty: something that is sealed under them is about to be deleted or
// replaced. It is called in a write, before that happens.
func (tx *Tx) soil(keys string, args ...any) error {
	if tx.db.sealer == nil {
		return nil
	}
	query := fmt.Sprintf(`UPDATE body_keys SET dirty_ts = CAST($%d AS BIGINT) WHERE dirty_ts = 0 AND nid IN (%s)`, len(args)+1, keys)
	_, err := tx.exec(query, append(args[:len(args):len(args)], max(tx.now.UnixMilli(), 1))...)
	return err
}

// sealString seals a text of a room, unless there are no keys or it is empty. It returns what is stored, and the number
// of the key or 0.
func (tx *Tx) sealString(in sealing.In, room ident.RoomNID, row int64, text string) (string, int64, error) {
	return tx.sealKind(in, room, sealing.Bodies, row, text)
}

// sealKind is sealString with keys of some kind. The room is 0 for a text that belongs to none.
func (tx *Tx) sealKind(in sealing.In, room ident.RoomNID, kind sealing.Kind, row int64, text string) (string, int64, error) {
	if tx.db.sealer == nil || text == "" {
		return text, 0, nil
	}
	k, err := tx.keyFor(sealing.Slot{Room: room, Kind: kind, Day: sealing.DayOf(tx.now.UnixMilli())})
	if err != nil {
		return "", 0, err
	}
	return k.SealText(in, row, []byte(text)), int64(k.ID), nil
}

const insertSealedEventQuery = `INSERT INTO events (position, room_nid, ord, id_hash, event_id, type, state_key, sender_nid, origin_ts, received_ts,
snapshot, flags, redacted_by, thread_root, push, device_nid, json, body_key)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)`

// insertSealedEvent does the work of InsertEvent for an event that is sealed.
func (tx *Tx) insertSealedEvent(e *EventRow, stateKey any) error {
	k, err := tx.keyFor(sealing.Slot{Room: e.Room, Day: sealing.DayOf(e.ReceivedTS)})
	if err != nil {
		return err
	}
	text := k.SealText(sealing.Events, int64(e.Position), sealing.EventText(e.TxnID, e.JSON))
	_, err = tx.exec(insertSealedEventQuery, int64(e.Position), int64(e.Room), int64(e.Order), tx.IDHash(e.EventID), e.EventID, e.Type, stateKey, int64(e.Sender),
		e.OriginTS, e.ReceivedTS, e.Snapshot, int64(e.Flags), int64(e.RedactedBy), int64(e.ThreadRoot), e.Push, int64(e.Device), text, int64(k.ID))
	if err != nil {
		return err
	}
	return tx.eventAdded(e)
}

// scanEventText scans the position and the JSON of an event, and returns the JSON.
func scanEventText(r Row) (string, error) {
	var p Pos
	var text []byte
	err := r.Scan(&p, &text)
	if err == nil && sealing.IsSealed(text) {
		_, text, err = openEvent(r, p, text)
	}
	return string(text), err
}

// sealedRow is the row of a sealed event.
type sealedRow struct {
	position   Pos
	room       ident.RoomNID
	receivedTS int64
	txnID      string
}

const (
	eventKeysQuery     = `SELECT body_key FROM events WHERE position IN `
	sealedRowColumns   = `SELECT position, room_nid, received_ts, json FROM events WHERE body_key > 0 AND `
	sealedRowsQuery    = sealedRowColumns + `id_hash = $1 AND event_id = $2 AND room_nid = $3`
	sealedRowQuery     = sealedRowColumns + `position = $1`
	eventKeyQuery      = `SELECT body_key FROM events WHERE position = $1`
	replaceSealedQuery = `UPDATE events SET json = $2, body_key = $3 WHERE position = $1`
)

func scanSealedRow(r Row) (s sealedRow, err error) {
	var text []byte
	if err = r.Scan(&s.position, &s.room, &s.receivedTS, &text); err == nil {
		s.txnID, _, err = openEvent(r, s.position, text)
	}
	return s, err
}

// sealedRows returns the sealed rows of an event (see EventByID). There are none if there are no keys.
func (tx *Tx) sealedRows(room ident.RoomNID, eventID string) ([]sealedRow, error) {
	if tx.db.sealer == nil {
		return nil, nil
	}
	return collect(tx, scanSealedRow, sealedRowsQuery, tx.IDHash(eventID), eventID, int64(room))
}

// sealedRow returns the row of an event, and reports whether it is sealed.
func (tx *Tx) sealedRow(p Pos) (s sealedRow, found bool, err error) {
	if tx.db.sealer == nil {
		return s, false, nil
	}
	return one(tx, scanSealedRow, sealedRowQuery, int64(p))
}

// replaceSealed replaces the text of a sealed event.
func (tx *Tx) replaceSealed(s sealedRow, txnID string, json []byte) error {
	if err := tx.soil(eventKeyQuery, int64(s.position)); err != nil {
		return err
	}
	k, err := tx.keyFor(sealing.Slot{Room: s.room, Day: sealing.DayOf(s.receivedTS)})
	if err != nil {
		return err
	}
	text := k.SealText(sealing.Events, int64(s.position), sealing.EventText(txnID, json))
	_, err = tx.exec(replaceSealedQuery, int64(s.position), text, int64(k.ID))
	return err
}
