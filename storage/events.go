package storage

import (
	"fmt"

	"ebb/ident"
	"ebb/storage/sealing"
)

// EventFlags holds the flags of a stored event.
type EventFlags int64

// The flags.
const (
	OutlierEvent    EventFlags = 1 << iota // stored without a position in the timeline
	RejectedEvent                          // rejected by the authorization rules
	SoftFailedEvent                        // not permitted by the current state on arrival
	SkeletonEvent                          // purged: only what the event graph needs is left
	DummyEvent                             // sent without content to merge forward extremities
	GapEvent                               // some of its predecessors are not stored
	WithheldEvent                          // a redaction that has not been found valid
	UndecidedEvent                         // rejected until a missing key or auth event arrives
	PrecedingEvent                         // precedes the join with which this server entered the room, but arrived as new
	KeptEvent                              // would have been purged, but a legal hold or min_lifetime keeps it

	// GoneEvent holds the flags of messages whose time is over: for readers they do not exist.
	GoneEvent = SkeletonEvent | KeptEvent

	// HiddenEvent holds the flags of events that are not sent to clients.
	HiddenEvent = OutlierEvent | RejectedEvent | SoftFailedEvent | GoneEvent | DummyEvent | WithheldEvent
)

// EventRow is a row of events.
type EventRow struct {
	Position   Pos
	Room       ident.RoomNID
	Order      ident.Order
	EventID    string
	Type       string
	StateKey   string
	IsState    bool
	Sender     ident.UserNID
	OriginTS   int64 // ms
	ReceivedTS int64 // ms
	Snapshot   int64 // the state before the event
	Flags      EventFlags
	RedactedBy Pos
	ThreadRoot Pos
	Push       int64
	Device     ident.DeviceNID
	TxnID      string
	JSON       []byte
}

// eventColumns lists the columns that scanEvent reads from the alias e.
const eventColumns = `e.position, e.room_nid, e.ord, e.event_id, e.type, e.state_key, e.sender_nid, e.origin_ts, e.received_ts, e.snapshot, e.flags, e.redacted_by, e.thread_root, e.push, e.device_nid, e.txn_id, e.json`

func scanEvent(r Row) (e EventRow, err error) {
	var key, txn *string
	var flags int64
	err = r.Scan(&e.Position, &e.Room, &e.Order, &e.EventID, &e.Type, &key, &e.Sender, &e.OriginTS, &e.ReceivedTS,
		&e.Snapshot, &flags, &e.RedactedBy, &e.ThreadRoot, &e.Push, &e.Device, &txn, &e.JSON)
	e.Flags = EventFlags(flags)
	if key != nil {
		e.StateKey, e.IsState = *key, true
	}
	if txn != nil {
		e.TxnID = *txn
	}
	if err == nil && sealing.IsSealed(e.JSON) {
		e.TxnID, e.JSON, err = openEvent(r, e.Position, e.JSON)
	}
	return e, err
}

const insertEventQuery = `INSERT INTO events (position, room_nid, ord, id_hash, event_id, type, state_key, sender_nid, origin_ts, received_ts,
snapshot, flags, redacted_by, thread_root, push, device_nid, txn_id, json)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)`

// InsertEvent adds an event at its position, and records the media to which it refers.
func (tx *Tx) InsertEvent(e *EventRow) error {
	var key, txn any
	if e.IsState {
		key = e.StateKey
	}
	if e.TxnID != "" {
		txn = e.TxnID
	}
	if tx.db.sealer != nil && !staysPlain(e.Type) {
		return tx.insertSealedEvent(e, key)
	}
	_, err := tx.exec(insertEventQuery, int64(e.Position), int64(e.Room), int64(e.Order), tx.IDHash(e.EventID), e.EventID, e.Type, key, int64(e.Sender),
		e.OriginTS, e.ReceivedTS, e.Snapshot, int64(e.Flags), int64(e.RedactedBy), int64(e.ThreadRoot), e.Push, int64(e.Device), txn, string(e.JSON))
	if err != nil {
		return err
	}
	return tx.eventAdded(e)
}

// eventAdded records what depends on an event that was inserted.
func (tx *Tx) eventAdded(e *EventRow) error {
	tx.refersTo(e.Snapshot)
	if e.Order != 0 && e.Order != ident.Order(e.Position)<<16 { // it is history (graph.OrderStep)
		if err := tx.addLateOwnMessage(e.Position, e.Order); err != nil {
			return err
		}
	}
	return tx.addEventMedia(e.Position, e.IsState, e.Flags, e.JSON)
}

// The plus sign hides room_nid from SQLite's choice of an index; otherwise it would scan the room by events_by_order.
const eventByIDQuery = `SELECT ` + eventColumns + ` FROM events e WHERE e.id_hash = $1 AND e.event_id = $2 AND +e.room_nid = $3
ORDER BY e.ord DESC, e.position DESC LIMIT 1`

// EventByID finds an event of a room. An event that was an outlier before it arrived has two rows, because older states
// refer to the older row; so has a redaction that was withheld. EventByID returns the row with the highest order, or
// the newer one if neither has an order. It uses the index events_by_id.
func (tx *Tx) EventByID(room ident.RoomNID, eventID string) (EventRow, bool, error) {
	return one(tx, scanEvent, eventByIDQuery, tx.IDHash(eventID), eventID, int64(room))
}

// EventAt returns the event at a position. It uses the primary key.
func (tx *Tx) EventAt(p Pos) (EventRow, bool, error) {
	return one(tx, scanEvent, `SELECT `+eventColumns+` FROM events e WHERE e.position = $1`, int64(p))
}

// maxIn is the maximum number of values in an IN list. Longer lists are read in parts.
const maxIn = 512

// EventsAt returns the events at these positions, in no particular order. It omits positions that do not exist any
// more.
func (tx *Tx) EventsAt(positions []Pos) ([]EventRow, error) {
	out := make([]EventRow, 0, len(positions))
	for len(positions) > 0 {
		n := min(len(positions), maxIn)
		list, args := In(1, positions[:n])
		rows, err := collect(tx, scanEvent, `SELECT `+eventColumns+` FROM events e WHERE e.position IN `+list, args...)
		if err != nil {
			return nil, err
		}
		out, positions = append(out, rows...), positions[n:]
	}
	return out, nil
}

// The subquery finds the order of the oldest event that is wanted of a room, in the index.
const recentEventsQuery = `SELECT ` + eventColumns + ` FROM rooms r JOIN events e ON e.room_nid = r.nid
AND e.ord >= coalesce((SELECT n.ord FROM events n WHERE n.room_nid = r.nid AND n.ord > 0 ORDER BY n.ord DESC LIMIT 1 OFFSET $1), 1) WHERE r.nid IN `

// RecentEvents returns the newest events of the timelines of rooms, at most limit of each, in no particular order. It
// uses the index events_by_order.
func (tx *Tx) RecentEvents(rooms []ident.RoomNID, limit int) ([]EventRow, error) {
	list, args := In(2, rooms)
	return collect(tx, scanEvent, recentEventsQuery+list, append([]any{limit - 1}, args...)...)
}

// Conditions on the flags of an event. The numbers are part of the text, because only then is the partial index
// events_undecided used.
var (
	isUndecided    = flagsAre(UndecidedEvent, UndecidedEvent)
	isAfterGap     = flagsAre(GapEvent, GapEvent)
	isNoOutlier    = flagsAre(OutlierEvent, 0)
	isOnlyOutlier  = flagsAre(HiddenEvent, OutlierEvent)
	isShown        = flagsAre(HiddenEvent, 0)
	isOnlyRejected = flagsAre(OutlierEvent|RejectedEvent, RejectedEvent)
)

// flagsAre returns an SQL condition on the flags of an event. It is true if, of the flags in mask, those in set are set
// and the others are not.
func flagsAre(mask, set EventFlags) string { return fmt.Sprintf("flags & %d = %d", mask, set) }

var (
	undecidedEventsQuery = `SELECT ` + eventColumns + ` FROM events e WHERE e.room_nid = $1 AND ` + isUndecided + ` ORDER BY e.position LIMIT $2`
	undecidedSizesQuery  = `SELECT position, length(json) FROM events WHERE room_nid = $1 AND ` + isUndecided + ` ORDER BY position DESC`
	undecidedRoomsQuery  = `SELECT DISTINCT room_nid FROM events WHERE ` + isUndecided + ` ORDER BY room_nid`
	undecidedCountsQuery = `SELECT room_nid, count(*) FROM events WHERE ` + isUndecided + ` AND room_nid IN `
)

// UndecidedEvents returns undecided events of a room in order of arrival. It uses the index events_undecided.
func (tx *Tx) UndecidedEvents(room ident.RoomNID, limit int) ([]EventRow, error) {
	return collect(tx, scanEvent, undecidedEventsQuery, int64(room), limit)
}

// UndecidedRooms lists the rooms with undecided events. It uses the index events_undecided.
func (tx *Tx) UndecidedRooms() ([]ident.RoomNID, error) {
	return collect(tx, scanNumber[ident.RoomNID], undecidedRoomsQuery)
}

// UndecidedCounts counts the undecided events of each of the given rooms that has any. It uses the index
// events_undecided.
func (tx *Tx) UndecidedCounts(rooms []ident.RoomNID) (map[ident.RoomNID]int64, error) {
	list, args := In(1, rooms)
	return numbers[ident.RoomNID, int64](tx, undecidedCountsQuery+list+` GROUP BY room_nid`, args...)
}

// TrimUndecided deletes the oldest undecided events of a room so that at most limit events with at most size bytes
// remain. It uses the index events_undecided.
func (tx *Tx) TrimUndecided(room ident.RoomNID, limit, size int) error {
	var drop []Pos
	err := tx.each(func(r Row) error {
		var p Pos
		var n int
		if err := r.Scan(&p, &n); err != nil {
			return err
		}
		limit, size = limit-1, size-n
		if limit < 0 || size < 0 {
			drop = append(drop, p)
		}
		return nil
	}, undecidedSizesQuery, int64(room))
	if err != nil {
		return err
	}
	return tx.PurgeBare(drop)
}

var gapEventsQuery = `SELECT ` + eventColumns + ` FROM events e WHERE e.room_nid = $1 AND e.ord > $2 AND ` + isAfterGap + ` AND ($3 = '' OR e.type = $3) ORDER BY e.ord`

// GapEvents returns the events of a room's timeline that come right after a gap and whose order is above after. It
// returns those of one type, or of all types if typ is "". It scans the timeline by the index events_by_order.
func (tx *Tx) GapEvents(room ident.RoomNID, typ string, after ident.Order) ([]EventRow, error) {
	return collect(tx, scanEvent, gapEventsQuery, int64(room), int64(after), typ)
}

var rejectedEventsQuery = `SELECT ` + eventColumns + ` FROM events e WHERE e.room_nid = $1 AND e.ord = 0 AND e.position > $2 AND ` + isOnlyRejected + `
ORDER BY e.position LIMIT $3`

// RejectedEvents returns the rejected events of a room after a position, except for outliers, in order of arrival. It
// uses the index events_by_order.
func (tx *Tx) RejectedEvents(room ident.RoomNID, after Pos, limit int) ([]EventRow, error) {
	return collect(tx, scanEvent, rejectedEventsQuery, int64(room), int64(after), limit)
}

var receivedSinceQuery = `SELECT ` + eventColumns + ` FROM events e WHERE e.room_nid = $1 AND e.position > $2 AND (e.ord > 0 AND ` + isNoOutlier + ` OR ` + isOnlyRejected + `)
ORDER BY e.position LIMIT $3`

// ReceivedSince returns the events that a room received after a position, accepted and rejected ones, in order of
// arrival. They include history that was backfilled since then. It uses the primary key.
func (tx *Tx) ReceivedSince(room ident.RoomNID, after Pos, limit int) ([]EventRow, error) {
	return collect(tx, scanEvent, receivedSinceQuery, int64(room), int64(after), limit)
}

const rejudgeEventQuery = `UPDATE events SET ord = $2, snapshot = $3, flags = $4 + (flags & $5), push = CASE WHEN CAST($2 AS BIGINT) = 0 THEN 0 ELSE push END WHERE position = $1`

// RejudgeEvent stores the result of judging an event again and the state before it. Order 0 means that the event is
// rejected now and loses its position in the timeline. Whether a redaction is withheld does not change: that may have
// been decided in the same write, see ShowRedaction.
func (tx *Tx) RejudgeEvent(p Pos, eventID string, order ident.Order, snapshot int64, flags EventFlags) error {
	tx.refersTo(snapshot)
	_, err := tx.exec(rejudgeEventQuery, int64(p), int64(order), snapshot, int64(flags&^WithheldEvent), int64(WithheldEvent))
	if err != nil {
		return err
	}
	if err := tx.markStates(markRoomOfQuery, int64(p)); err != nil {
		return err
	}
	if order != 0 {
		if err := tx.addLateOwnMessage(p, order); err != nil {
			return err
		}
		return tx.addEventMediaAgain(p)
	}
	return tx.removeDependents(rejected, p, eventID)
}

const redactEventQuery = `UPDATE events SET json = $4, redacted_by = $5, push = 0 WHERE id_hash = $1 AND event_id = $2 AND +room_nid = $3`

// RedactEvent replaces an event's JSON by its redacted form, in all its rows (see EventByID), and deletes what depended
// on its content. p is the row that EventByID returns. It uses the index events_by_id.
func (tx *Tx) RedactEvent(room ident.RoomNID, p Pos, eventID string, json []byte, by Pos) error {
	return tx.redactEvent(room, p, eventID, json, by, redacted, func() error {
		_, err := tx.releaseMedia(takeRowsMediaQuery, tx.IDHash(eventID), eventID, int64(room))
		return err
	})
}

// RedactKeepingOriginal is RedactEvent for an event whose original is kept, with the media to which that refers. o says
// which event it is (the row that EventByID returns), and how the original is kept.
func (tx *Tx) RedactKeepingOriginal(o *Original, eventID string, json []byte, by Pos) error {
	if err := tx.keepOriginal(eventID, o); err != nil {
		return err
	}
	return tx.redactEvent(o.Room, o.Position, eventID, json, by, redactedKept, func() error { return nil })
}

// redactEvent implements RedactEvent. f is what happens to the event, and release releases its media.
func (tx *Tx) redactEvent(room ident.RoomNID, p Pos, eventID string, json []byte, by Pos, f fate, release func() error) error {
	rows, err := tx.sealedRows(room, eventID)
	if err != nil {
		return err
	}
	if _, err := tx.exec(redactEventQuery, tx.IDHash(eventID), eventID, int64(room), string(json), int64(by)); err != nil {
		return err
	}
	for _, r := range rows {
		if err := tx.replaceSealed(r, r.txnID, json); err != nil {
			return err
		}
	}
	if err := release(); err != nil {
		return err
	}
	if err := tx.Note(LedgerRedacted, int64(p), int64(by), ""); err != nil {
		return err
	}
	return tx.removeDependents(f, p, eventID)
}

// ShowRedaction makes a withheld redaction visible to clients at its position in the timeline.
func (tx *Tx) ShowRedaction(p Pos) error {
	_, err := tx.exec(`UPDATE events SET flags = flags - $2 WHERE position = $1 AND flags & $2 <> 0`, int64(p), int64(WithheldEvent))
	return err
}

// SupersedeEvent is called for the row of a hidden event that has been stored once more at another position. It turns
// the older row into an outlier, and deletes what depended on it. The row remains until the event expires, because
// other rows, such as those of the outbox, refer to its position.
func (tx *Tx) SupersedeEvent(p Pos, eventID string) error {
	if _, err := tx.exec(`UPDATE events SET flags = flags | $2 WHERE position = $1`, int64(p), int64(OutlierEvent)); err != nil {
		return err
	}
	return tx.removeDependents(rejected, p, eventID)
}

const insertEventPushQuery = `INSERT INTO event_push (user_nid, room_nid, position, push) VALUES ($1, $2, $3, $4)`

// InsertEventPush stores the push class of an event for a user whose class differs from that of the other members.
func (tx *Tx) InsertEventPush(user ident.UserNID, room ident.RoomNID, p Pos, class int64) error {
	_, err := tx.exec(insertEventPushQuery, int64(user), int64(room), int64(p), class)
	return err
}

// EventPush returns the push class of an event for a user if InsertEventPush stored one, otherwise 0.
func (tx *Tx) EventPush(user ident.UserNID, room ident.RoomNID, p Pos) (int64, error) {
	n, _, err := one(tx, scanNumber[int64], `SELECT push FROM event_push WHERE user_nid = $1 AND room_nid = $2 AND position = $3`, int64(user), int64(room), int64(p))
	return n, err
}
