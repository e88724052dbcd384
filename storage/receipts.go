package storage

import "ebb/ident"

// ReceiptRow is a user's read receipt in a room.
type ReceiptRow struct {
	Room    ident.RoomNID
	User    ident.UserNID
	Type    string      // m.read or m.read.private
	Thread  string      // "" for unthreaded, "main", or the event ID of the thread's root
	EventID string      // "" if the event was purged
	Order   ident.Order // of the event in the timeline
	TS      int64       // ms
}

const setReceiptQuery = `INSERT INTO receipts (room_nid, user_nid, type, thread, event_id, ord, ts, position) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (room_nid, user_nid, type, thread) DO UPDATE SET event_id = excluded.event_id, ord = excluded.ord, ts = excluded.ts, position = excluded.position
WHERE excluded.ord > receipts.ord`

// SetReceipt moves a receipt forward. It returns false and changes nothing if the receipt would not move forward.
func (tx *Tx) SetReceipt(r ReceiptRow, p Pos) (bool, error) {
	n, err := tx.exec(setReceiptQuery, int64(r.Room), int64(r.User), r.Type, r.Thread, r.EventID, int64(r.Order), r.TS, int64(p))
	return n == 1, err
}

// LastReceipts returns the position of the newest receipt of each room that has one. It uses the index
// receipts_by_position.
func (tx *Tx) LastReceipts(rooms []ident.RoomNID) (map[ident.RoomNID]int64, error) {
	list, args := In(1, rooms)
	return numbers[ident.RoomNID, int64](tx, `SELECT room_nid, max(position) FROM receipts WHERE room_nid IN `+list+` GROUP BY room_nid`, args...)
}

const (
	clearReceiptsQuery        = `UPDATE receipts SET event_id = '', ts = 0 WHERE room_nid = $1 AND event_id <> '' AND event_id IN `
	removeThreadReceiptsQuery = `DELETE FROM receipts WHERE room_nid = $1 AND thread <> '' AND thread <> 'main' AND thread IN `
)

// clearReceipts removes the IDs of the given events from receipts, and when they were read. A receipt still says up to
// where its user has read, since otherwise the events that come after would become unread. Receipts in threads that
// begin with one of the events are deleted, because the thread ends with its root. It uses the primary key.
func (tx *Tx) clearReceipts(room ident.RoomNID, events []PurgeCandidate) error {
	list, args := inEventIDs(room, events, "", "")
	for _, query := range []string{clearReceiptsQuery, removeThreadReceiptsQuery} {
		if _, err := tx.exec(query+list, args...); err != nil {
			return err
		}
	}
	return nil
}

// inEventIDs returns a list for a query whose first argument is a room: the IDs of events, between two texts.
func inEventIDs(room ident.RoomNID, events []PurgeCandidate, before, after string) (list string, args []any) {
	ids := make([]string, len(events))
	for i, e := range events {
		ids[i] = before + e.EventID + after
	}
	list, args = In(2, ids)
	return list, append([]any{int64(room)}, args...)
}
