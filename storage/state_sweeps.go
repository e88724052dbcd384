package storage

import (
	"math"

	"ebb/ident"
	"ebb/storage/statechain"
)

// States that nothing needs any more are searched for room by room. The search reads which states the events of a room
// refer to, in several transactions; meanwhile, the committer records what its writes refer to (committer.states).

const (
	markStates = `INSERT INTO state_sweeps (room_nid, marked_ts, begun) SELECT DISTINCT r.nid, CAST($1 AS BIGINT), 0 FROM `
	markedOnce = ` ON CONFLICT (room_nid) DO UPDATE SET marked_ts = excluded.marked_ts, begun = 0 WHERE state_sweeps.begun = 1`

	markRoomQuery     = markStates + `rooms r WHERE r.nid = $2` + markedOnce
	markRoomOfQuery   = markStates + `rooms r JOIN events e ON e.room_nid = r.nid WHERE e.position = $2` + markedOnce
	markUnlessAtQuery = markStates + `rooms r WHERE r.nid = $2 AND r.snapshot <> $3` + markedOnce
)

// markStates records that states of the rooms that a query selects may have become unneeded.
func (tx *Tx) markStates(query string, args ...any) error {
	_, err := tx.exec(query, append([]any{tx.now.UnixMilli()}, args...)...)
	return err
}

// markStatesOf is markStates for the rooms of events that are about to be deleted, unless all of them refer to the
// state of the room's head, as most messages do.
func (tx *Tx) markStatesOf(events []PurgeCandidate) error {
	for i, e := range events {
		if e.Snapshot == 0 || i > 0 && e.Room == events[i-1].Room && e.Snapshot == events[i-1].Snapshot {
			continue
		}
		if err := tx.markStates(markUnlessAtQuery, int64(e.Room), e.Snapshot); err != nil {
			return err
		}
	}
	return nil
}

// refersTo records that a write refers to a state.
func (tx *Tx) refersTo(snapshot int64) { tx.committer.states.Add(snapshot) }

// MarkedRoom is a room in which states may have become unneeded.
type MarkedRoom struct {
	NID   ident.RoomNID
	Since int64 // ms
	Begun bool  // the search has begun
}

// MarkedRooms lists at most limit such rooms after the given one. It uses the primary key.
func (tx *Tx) MarkedRooms(after ident.RoomNID, limit int) ([]MarkedRoom, error) {
	return collect(tx, func(r Row) (m MarkedRoom, err error) {
		var begun int64
		err = r.Scan(&m.NID, &m.Since, &begun)
		m.Begun = begun != 0
		return m, err
	}, `SELECT room_nid, marked_ts, begun FROM state_sweeps WHERE room_nid > $1 ORDER BY room_nid LIMIT $2`, int64(after), limit)
}

// BeginStateSweep begins the search for unneeded states of a room. There is one search at a time.
func (tx *Tx) BeginStateSweep(room ident.RoomNID) error {
	tx.committer.states = &statechain.Watch{}
	_, err := tx.exec(`UPDATE state_sweeps SET begun = 1 WHERE room_nid = $1`, int64(room))
	return err
}

// NeedWatchedStates records that the states are needed to which writes have referred since the search began. It returns
// false if these are not known; the search ends then.
func (tx *Tx) NeedWatchedStates(states statechain.Set) (known bool) {
	w := tx.committer.states
	tx.committer.states = nil
	return w.Need(states)
}

// EndStateSweep records that the unneeded states of a room are deleted, unless there may be others by now.
func (tx *Tx) EndStateSweep(room ident.RoomNID) error {
	tx.committer.states = nil
	_, err := tx.exec(`DELETE FROM state_sweeps WHERE room_nid = $1 AND (begun = 1 OR NOT EXISTS (SELECT 1 FROM rooms WHERE nid = $1))`, int64(room))
	return err
}

// RoomStates lists at most limit states of a room with a number above after, by number. It uses the index
// state_snapshots_by_room.
func (tx *Tx) RoomStates(room ident.RoomNID, after int64, limit int) (statechain.Set, error) {
	return collect(tx, func(r Row) (s statechain.Snapshot, err error) { err = r.Scan(&s.NID, &s.Prev); return s, err },
		`SELECT nid, prev FROM state_snapshots WHERE room_nid = $1 AND nid > $2 ORDER BY nid LIMIT $3`, int64(room), after, limit)
}

// StateRefs is how far the events of a room were searched for the states to which they refer.
type StateRefs struct {
	Order    ident.Order
	Snapshot int64
	More     bool // whether there may be more events
}

// FirstStateRefs is where the search begins.
var FirstStateRefs = StateRefs{Order: math.MinInt64, More: true}

const stateRefsQuery = `SELECT snapshot, max(ord), count(*) FROM (SELECT ord, snapshot FROM events WHERE room_nid = $1 AND (ord, snapshot) > ($2, $3)
ORDER BY ord, snapshot LIMIT $4) AS e GROUP BY snapshot`

// StatesReferredTo returns the states before the next events of a room, at most limit of them, and where the search
// continues. It reads only the index events_by_order.
func (tx *Tx) StatesReferredTo(room ident.RoomNID, from StateRefs, limit int) (states []int64, next StateRefs, err error) {
	next, events := from, 0
	err = tx.each(func(r Row) error {
		var last StateRefs
		var n int
		err := r.Scan(&last.Snapshot, &last.Order, &n)
		states, events = append(states, last.Snapshot), events+n
		if last.Order > next.Order || last.Order == next.Order && last.Snapshot > next.Snapshot {
			next = last
		}
		return err
	}, stateRefsQuery, int64(room), int64(from.Order), from.Snapshot, limit)
	next.More = events == limit
	return states, next, err
}

// DeleteStates deletes at most limit rows of states of rooms, the first state first. It returns the states that are
// left.
func (tx *Tx) DeleteStates(states []int64, limit int) (left []int64, err error) {
	for left = states; len(left) > 0 && limit > 0; {
		n, err := tx.deleteSnapshot(left[0], limit)
		if err != nil {
			return left, err
		}
		if limit -= n; limit > 0 {
			left = left[1:]
		}
	}
	return left, nil
}
