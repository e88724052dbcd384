package storage

import (
	"ebb/ident"
	"ebb/storage/mxc"
	"ebb/storage/sealing"
)

// DelayedEvent is an event that a local user sends at a later time.
type DelayedEvent struct {
	DelayID     string
	User        ident.UserNID
	UserID      string
	Room        ident.RoomNID
	RoomID      string
	Type        string
	StateKey    *string // nil: not a state event
	Content     string  // JSON; "" once the event is sent or cancelled
	OriginTS    int64   // ms; 0: when it is sent
	StickyMS    *int64  // for how long the event is sticky; nil: it is not
	Delay       int64   // ms
	ScheduledTS int64   // ms; when the delay began
	SendTS      int64   // ms; when to send it next
	Position    Pos     // when it was first scheduled
	FinalisedTS int64   // ms; 0: still scheduled
	EventID     string  // "": not sent
	Error       string  // JSON; "" unless it could not be sent

	Deactivated, Locked, Suspended bool // the user's account
}

const addDelayedEventQuery = `INSERT INTO delayed_events
(delay_id, user_nid, room_nid, type, state_key, content, origin_ts, delay, scheduled_ts, send_ts, position, sticky_ms, body_key)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`

// AddDelayedEvent schedules an event and sets its position.
func (tx *Tx) AddDelayedEvent(d *DelayedEvent) error {
	var key, sticky any
	if d.StateKey != nil {
		key = *d.StateKey
	}
	if d.StickyMS != nil {
		sticky = *d.StickyMS
	}
	d.Position = tx.NextPos()
	content, sealed, err := tx.sealString(sealing.DelayedEvents, d.Room, int64(d.Position), d.Content)
	if err != nil {
		return err
	}
	_, err = tx.exec(addDelayedEventQuery, d.DelayID, int64(d.User), int64(d.Room), d.Type, key, content, d.OriginTS, d.Delay,
		d.ScheduledTS, d.SendTS, int64(d.Position), sticky, sealed)
	if err != nil {
		return err
	}
	return tx.addMediaRefs(DelayedMedia, int64(d.Position), "", mxc.Unescaped(d.Content))
}

const delayedEventColumns = `SELECT d.delay_id, d.user_nid, u.user_id, d.room_nid, r.room_id, d.type, d.state_key, d.content, d.origin_ts,
 d.delay, d.scheduled_ts, d.send_ts, d.position, d.finalised_ts, d.event_id, d.error, d.sticky_ms,
 coalesce(a.deactivated_ts, 0), coalesce(a.locked, 0), coalesce(a.suspended, 0)
FROM delayed_events d JOIN users u ON u.nid = d.user_nid JOIN rooms r ON r.nid = d.room_nid LEFT JOIN accounts a ON a.nid = d.user_nid `

func scanDelayedEvent(r Row) (d DelayedEvent, err error) {
	var deactivated, locked, suspended int64
	err = r.Scan(&d.DelayID, &d.User, &d.UserID, &d.Room, &d.RoomID, &d.Type, &d.StateKey, &d.Content, &d.OriginTS, &d.Delay,
		&d.ScheduledTS, &d.SendTS, &d.Position, &d.FinalisedTS, &d.EventID, &d.Error, &d.StickyMS, &deactivated, &locked, &suspended)
	d.Deactivated, d.Locked, d.Suspended = deactivated != 0, locked != 0, suspended != 0
	if err == nil {
		err = unsealString(r, sealing.DelayedEvents, int64(d.Position), &d.Content)
	}
	return d, err
}

// DelayedEvent returns a delayed event.
func (tx *Tx) DelayedEvent(delayID string) (DelayedEvent, bool, error) {
	return one(tx, scanDelayedEvent, delayedEventColumns+`WHERE d.delay_id = $1`, delayID)
}

const dueEventsQuery = delayedEventColumns + `WHERE d.finalised_ts = 0 AND d.send_ts <= $1 ORDER BY d.send_ts, d.position LIMIT $2`

// DueEvents lists the events that are to be sent by a time (ms), the earliest first. It uses the index
// delayed_events_by_time.
func (tx *Tx) DueEvents(by int64, limit int) ([]DelayedEvent, error) {
	return collect(tx, scanDelayedEvent, dueEventsQuery, by, limit)
}

const nextDueQuery = `SELECT coalesce(min(send_ts), 0) FROM delayed_events WHERE finalised_ts = 0`

// NextDue returns when (ms) the next event is to be sent, 0 if none is scheduled.
func (tx *Tx) NextDue() (int64, error) {
	n, _, err := one(tx, scanNumber[int64], nextDueQuery)
	return n, err
}

const (
	scheduledEventsQuery = delayedEventColumns + `WHERE d.user_nid = $1 AND d.finalised_ts = 0 ORDER BY d.send_ts, d.position LIMIT $2`
	finalisedEventsQuery = delayedEventColumns + `WHERE d.user_nid = $1 AND d.finalised_ts > 0 ORDER BY d.finalised_ts DESC, d.position DESC LIMIT $2`
)

// ScheduledEvents lists a user's delayed events that are still scheduled, the earliest first. It uses the index
// delayed_events_by_user.
func (tx *Tx) ScheduledEvents(user ident.UserNID, limit int) ([]DelayedEvent, error) {
	return collect(tx, scanDelayedEvent, scheduledEventsQuery, int64(user), limit)
}

// FinalisedEvents lists a user's delayed events that were sent or cancelled, the latest first. It uses the index
// delayed_events_by_user.
func (tx *Tx) FinalisedEvents(user ident.UserNID, limit int) ([]DelayedEvent, error) {
	return collect(tx, scanDelayedEvent, finalisedEventsQuery, int64(user), limit)
}

const scheduledCountQuery = `SELECT count(*), coalesce(min(send_ts), 0) FROM delayed_events WHERE user_nid = $1 AND finalised_ts = 0`

// ScheduledCount counts a user's scheduled events, and returns when (ms) the first of them is to be sent.
func (tx *Tx) ScheduledCount(user ident.UserNID) (count, first int64, err error) {
	err = tx.each(func(r Row) error { return r.Scan(&count, &first) }, scheduledCountQuery, int64(user))
	return count, first, err
}

const rescheduleQuery = `UPDATE delayed_events SET scheduled_ts = $2, send_ts = $2 + delay WHERE delay_id = $1 AND finalised_ts = 0`

// RescheduleEvent starts the delay of a scheduled event anew at the time now (ms). It returns false if there is no such
// event.
func (tx *Tx) RescheduleEvent(delayID string, now int64) (bool, error) {
	n, err := tx.exec(rescheduleQuery, delayID, now)
	return n == 1, err
}

const postponeQuery = `UPDATE delayed_events SET send_ts = $3 WHERE delay_id = $1 AND send_ts = $2 AND finalised_ts = 0`

// PostponeEvent changes the time (ms) at which a scheduled event is sent next from one time to another. It does nothing
// if the event is no longer scheduled for the first of them.
func (tx *Tx) PostponeEvent(delayID string, from, to int64) error {
	_, err := tx.exec(postponeQuery, delayID, from, to)
	return err
}

const finaliseQuery = `UPDATE delayed_events SET finalised_ts = $2, event_id = $3, error = $4, content = '', body_key = 0
WHERE delay_id = $1 AND finalised_ts = 0 AND send_ts = CASE WHEN CAST($5 AS BIGINT) = 0 THEN send_ts ELSE CAST($5 AS BIGINT) END`

// FinaliseEvent records what became of a scheduled event, at the time now (ms). The event was sent as eventID, or could
// not be sent because of problem; if both are empty, it was cancelled. FinaliseEvent returns false if the event is not
// scheduled, or if sendTS is not 0 and the event is scheduled for another time.
func (tx *Tx) FinaliseEvent(delayID string, now int64, eventID, problem string, sendTS int64) (bool, error) {
	if err := tx.soil(`SELECT body_key FROM delayed_events WHERE delay_id = $1`, delayID); err != nil {
		return false, err
	}
	n, err := tx.exec(finaliseQuery, delayID, now, eventID, problem, sendTS)
	if err != nil || n == 0 {
		return false, err
	}
	_, err = tx.exec(`DELETE FROM media_refs WHERE kind = 1 AND owner = (SELECT position FROM delayed_events WHERE delay_id = $1)`, delayID)
	return true, err
}

// DeleteDelayedEvents deletes all delayed events of a user.
func (tx *Tx) DeleteDelayedEvents(user ident.UserNID) error {
	return tx.deleteDelayedEvents(`user_nid = $1`, int64(user))
}

// deleteDelayedEvents deletes the delayed events that a condition selects.
func (tx *Tx) deleteDelayedEvents(where string, args ...any) error {
	_, err := tx.exec(`DELETE FROM media_refs WHERE kind = 1 AND owner IN (SELECT position FROM delayed_events WHERE `+where+`)`, args...)
	if err != nil {
		return err
	}
	if err := tx.soil(`SELECT body_key FROM delayed_events WHERE `+where, args...); err != nil {
		return err
	}
	_, err = tx.exec(`DELETE FROM delayed_events WHERE `+where, args...)
	return err
}

const pruneDelayedQuery = `DELETE FROM delayed_events WHERE delay_id IN
(SELECT delay_id FROM delayed_events WHERE finalised_ts > 0 AND finalised_ts < $1 ORDER BY finalised_ts LIMIT $2)`

// PruneDelayedEvents deletes at most limit of the events that were finalised before a time (ms), and returns their
// number.
func (tx *Tx) PruneDelayedEvents(before int64, limit int) (int64, error) {
	return tx.exec(pruneDelayedQuery, before, limit)
}

const trimFinalisedQuery = `DELETE FROM delayed_events WHERE user_nid = $1 AND finalised_ts > 0 AND finalised_ts <= (
    SELECT coalesce(max(finalised_ts), 0) FROM (SELECT finalised_ts FROM delayed_events
    WHERE user_nid = $1 AND finalised_ts > 0 ORDER BY finalised_ts DESC LIMIT 1 OFFSET $2) AS old)`

// TrimFinalisedEvents deletes all but the newest of the events of a user that were finalised. Some more may go if they
// were finalised in the same millisecond.
func (tx *Tx) TrimFinalisedEvents(user ident.UserNID, keep int) error {
	_, err := tx.exec(trimFinalisedQuery, int64(user), keep)
	return err
}
