package storage

import (
	"fmt"

	"ebb/ident"
)

// EventFlags say what is special about a stored event.
type EventFlags int64

// The flags.
const (
	OutlierEvent    EventFlags = 1 << iota // known, but without a place in the timeline
	RejectedEvent                          // refused by the authorisation rules
	SoftFailedEvent                        // refused by the state at its arrival
	SkeletonEvent                          // purged: only what the graph needs is left
	DummyEvent                             // says nothing: it merges forward extremities
	GapEvent                               // what comes right before it is not stored
	WithheldEvent                          // a redaction that was not validated, or not yet
	UndecidedEvent                         // rejected until the key or the auth event that it lacks arrives

	// HiddenEvent is what no client gets.
	HiddenEvent = OutlierEvent | RejectedEvent | SoftFailedEvent | SkeletonEvent | DummyEvent | WithheldEvent
)

// EventRow is one row of events.
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
	Snapshot   int64 // state before the event
	Flags      EventFlags
	RedactedBy Pos
	ThreadRoot Pos
	Push       int64
	Device     ident.DeviceNID
	TxnID      string
	JSON       []byte
}

// eventColumns are the columns that scanEvent reads, of the alias e.
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
	return e, err
}

const insertEventQuery = `INSERT INTO events (position, room_nid, ord, id_hash, event_id, type, state_key, sender_nid, origin_ts, received_ts,
snapshot, flags, redacted_by, thread_root, push, device_nid, txn_id, json)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)`

// InsertEvent adds an event at its position.
func (tx *Tx) InsertEvent(e *EventRow) error {
	var key, txn any
	if e.IsState {
		key = e.StateKey
	}
	if e.TxnID != "" {
		txn = e.TxnID
	}
	_, err := tx.exec(insertEventQuery, int64(e.Position), int64(e.Room), int64(e.Order), tx.IDHash(e.EventID), e.EventID, e.Type, key, int64(e.Sender),
		e.OriginTS, e.ReceivedTS, e.Snapshot, int64(e.Flags), int64(e.RedactedBy), int64(e.ThreadRoot), e.Push, int64(e.Device), txn, string(e.JSON))
	return err
}

// The plus keeps the room out of the choice of an index: SQLite would walk the room by events_by_order.
const eventByIDQuery = `SELECT ` + eventColumns + ` FROM events e WHERE e.id_hash = $1 AND e.event_id = $2 AND +e.room_nid = $3
ORDER BY e.ord DESC, e.position DESC LIMIT 1`

// EventByID finds an event of a room. One that was known without a place before it arrived has two rows, since states of
// then name the older, and so has a redaction that was withheld: the one with the highest order counts, or the newer one
// where none has a place. It rides events_by_id.
func (tx *Tx) EventByID(room ident.RoomNID, eventID string) (EventRow, bool, error) {
	return one(tx, scanEvent, eventByIDQuery, tx.IDHash(eventID), eventID, int64(room))
}

// EventAt finds the event at a position. It rides the primary key.
func (tx *Tx) EventAt(p Pos) (EventRow, bool, error) {
	return one(tx, scanEvent, `SELECT `+eventColumns+` FROM events e WHERE e.position = $1`, int64(p))
}

// maxIn is how many values one IN list takes; longer lists are read in parts.
const maxIn = 512

// EventsAt finds the events at these positions, in no particular order; those that are gone are left out.
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

const recentEventsQuery = `SELECT ` + eventColumns + ` FROM events e WHERE e.room_nid = $1 AND e.ord > 0 ORDER BY e.ord DESC LIMIT $2`

// RecentEvents reads the newest events of a room's timeline, newest first. It rides events_by_order.
func (tx *Tx) RecentEvents(room ident.RoomNID, limit int) ([]EventRow, error) {
	return collect(tx, scanEvent, recentEventsQuery, int64(room), limit)
}

// Conditions on the flags of an event, with their numbers spelled out: the partial index events_undecided is used only then.
var (
	isUndecided    = flagsAre(UndecidedEvent, UndecidedEvent)
	isAfterGap     = flagsAre(GapEvent, GapEvent)
	isNoOutlier    = flagsAre(OutlierEvent, 0)
	isOnlyRejected = flagsAre(OutlierEvent|RejectedEvent, RejectedEvent)
)

// flagsAre returns the SQL condition that, of some flags of an event, those in set are set and the others are not.
func flagsAre(of, set EventFlags) string { return fmt.Sprintf("flags & %d = %d", of, set) }

var (
	undecidedEventsQuery = `SELECT ` + eventColumns + ` FROM events e WHERE e.room_nid = $1 AND ` + isUndecided + ` ORDER BY e.position LIMIT $2`
	undecidedSizesQuery  = `SELECT position, length(json) FROM events WHERE room_nid = $1 AND ` + isUndecided + ` ORDER BY position DESC`
	undecidedRoomsQuery  = `SELECT DISTINCT room_nid FROM events WHERE ` + isUndecided + ` ORDER BY room_nid`
	undecidedCountsQuery = `SELECT room_nid, count(*) FROM events WHERE ` + isUndecided + ` AND room_nid IN `
)

// UndecidedEvents reads the undecided events of a room, in the order of arrival. It rides events_undecided.
func (tx *Tx) UndecidedEvents(room ident.RoomNID, limit int) ([]EventRow, error) {
	return collect(tx, scanEvent, undecidedEventsQuery, int64(room), limit)
}

// UndecidedRooms lists the rooms that have undecided events. It rides events_undecided.
func (tx *Tx) UndecidedRooms() ([]ident.RoomNID, error) {
	return collect(tx, scanNumber[ident.RoomNID], undecidedRoomsQuery)
}

// UndecidedCounts counts the undecided events of each of the rooms that has any. It rides events_undecided.
func (tx *Tx) UndecidedCounts(rooms []ident.RoomNID) (map[ident.RoomNID]int64, error) {
	list, args := In(1, rooms)
	return numbers[ident.RoomNID, int64](tx, undecidedCountsQuery+list+` GROUP BY room_nid`, args...)
}

// TrimUndecided removes the oldest undecided events of a room beyond a number and a number of bytes. It rides events_undecided.
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

// GapEvents reads the events of a room's timeline above an order before which something is missing, of one type or of all (""). It walks
// the timeline by events_by_order.
func (tx *Tx) GapEvents(room ident.RoomNID, typ string, after ident.Order) ([]EventRow, error) {
	return collect(tx, scanEvent, gapEventsQuery, int64(room), int64(after), typ)
}

var rejectedEventsQuery = `SELECT ` + eventColumns + ` FROM events e WHERE e.room_nid = $1 AND e.ord = 0 AND e.position > $2 AND ` + isOnlyRejected + `
ORDER BY e.position LIMIT $3`

// RejectedEvents reads the rejected events of a room after a position that are no outliers, in the order of arrival. It rides
// events_by_order.
func (tx *Tx) RejectedEvents(room ident.RoomNID, after Pos, limit int) ([]EventRow, error) {
	return collect(tx, scanEvent, rejectedEventsQuery, int64(room), int64(after), limit)
}

var takenInQuery = `SELECT ` + eventColumns + ` FROM events e WHERE e.room_nid = $1 AND e.position > $2 AND (e.ord > 0 AND ` + isNoOutlier + ` OR ` + isOnlyRejected + `)
ORDER BY e.position LIMIT $3`

// TakenIn reads what a room took in after a position, refused or not, in the order of arrival; what it has got of the past since then is
// among it. It rides the primary key.
func (tx *Tx) TakenIn(room ident.RoomNID, after Pos, limit int) ([]EventRow, error) {
	return collect(tx, scanEvent, takenInQuery, int64(room), int64(after), limit)
}

const rejudgeEventQuery = `UPDATE events SET ord = $2, snapshot = $3, flags = $4, push = CASE WHEN CAST($2 AS BIGINT) = 0 THEN 0 ELSE push END WHERE position = $1`

// RejudgeEvent stores another verdict on an event, and another state before it. An event that is rejected now, which order 0 says, loses
// its position in the timeline.
func (tx *Tx) RejudgeEvent(p Pos, eventID string, order ident.Order, snapshot int64, flags EventFlags) error {
	_, err := tx.exec(rejudgeEventQuery, int64(p), int64(order), snapshot, int64(flags))
	if err != nil || order != 0 {
		return err
	}
	return tx.removeDependents(rejected, p, eventID)
}

const redactEventQuery = `UPDATE events SET json = $4, redacted_by = $5, push = 0 WHERE id_hash = $1 AND event_id = $2 AND +room_nid = $3`

// RedactEvent replaces an event's JSON by its redacted form, in every row that it has (see EventByID), and removes what depended on its
// content. p is the row that EventByID finds. It rides events_by_id.
func (tx *Tx) RedactEvent(room ident.RoomNID, p Pos, eventID string, json []byte, by Pos) error {
	if _, err := tx.exec(redactEventQuery, tx.IDHash(eventID), eventID, int64(room), string(json), int64(by)); err != nil {
		return err
	}
	return tx.removeDependents(redacted, p, eventID)
}

// ShowRedaction lets clients see a redaction that was withheld, in its place.
func (tx *Tx) ShowRedaction(p Pos) error {
	_, err := tx.exec(`UPDATE events SET flags = flags - $2 WHERE position = $1 AND flags & $2 <> 0`, int64(p), int64(WithheldEvent))
	return err
}

// SupersedeRedaction makes a withheld redaction that arrives again an outlier. Its row stays where it is for what names its
// position, as the outbox does, and until it expires.
func (tx *Tx) SupersedeRedaction(p Pos) error {
	_, err := tx.exec(`UPDATE events SET flags = flags | $2 WHERE position = $1`, int64(p), int64(OutlierEvent))
	return err
}

const insertEventPushQuery = `INSERT INTO event_push (user_nid, room_nid, position, push) VALUES ($1, $2, $3, $4)`

// InsertEventPush notes what an event is to a user who is singled out.
func (tx *Tx) InsertEventPush(user ident.UserNID, room ident.RoomNID, p Pos, class int64) error {
	_, err := tx.exec(insertEventPushQuery, int64(user), int64(room), int64(p), class)
	return err
}

// EventPush is what an event is to a user who is singled out; 0 for others.
func (tx *Tx) EventPush(user ident.UserNID, room ident.RoomNID, p Pos) (int64, error) {
	n, _, err := one(tx, scanNumber[int64], `SELECT push FROM event_push WHERE user_nid = $1 AND room_nid = $2 AND position = $3`, int64(user), int64(room), int64(p))
	return n, err
}
