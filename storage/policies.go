package storage

import "ebb/ident"

// RoomPolicy records the retention policy of a room. Times are in milliseconds; nil means no limit.
type RoomPolicy struct {
	Room                 ident.RoomNID
	Min, Max             *int64
	Since                int64 // when the policy was shortened
	BeforeMin, BeforeMax *int64
}

const roomPolicyQuery = `SELECT room_nid, min_ms, max_ms, since_ts, before_min, before_max FROM room_policies WHERE room_nid = $1`

// RoomPolicy returns what is recorded about the retention policy of a room. It uses the primary key.
func (tx *Tx) RoomPolicy(room ident.RoomNID) (RoomPolicy, bool, error) {
	return one(tx, func(r Row) (p RoomPolicy, err error) {
		err = r.Scan(&p.Room, &p.Min, &p.Max, &p.Since, &p.BeforeMin, &p.BeforeMax)
		return p, err
	}, roomPolicyQuery, int64(room))
}

const setRoomPolicyQuery = `INSERT INTO room_policies (room_nid, min_ms, max_ms, since_ts, before_min, before_max) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (room_nid) DO UPDATE SET min_ms = excluded.min_ms, max_ms = excluded.max_ms, since_ts = excluded.since_ts,
before_min = excluded.before_min, before_max = excluded.before_max`

// SetRoomPolicy records the retention policy of a room.
func (tx *Tx) SetRoomPolicy(p RoomPolicy) error {
	_, err := tx.exec(setRoomPolicyQuery, int64(p.Room), p.Min, p.Max, p.Since, p.BeforeMin, p.BeforeMax)
	return err
}

// DeleteRoomPolicy deletes the record of a room in which messages no longer expire.
func (tx *Tx) DeleteRoomPolicy(room ident.RoomNID) error {
	_, err := tx.exec(`DELETE FROM room_policies WHERE room_nid = $1`, int64(room))
	return err
}

// OverrideSetAt returns when the administrator last set or cleared the retention policy of a room (ms); 0 if never.
func (tx *Tx) OverrideSetAt(room ident.RoomNID) (int64, error) {
	at, _, err := one(tx, scanNumber[int64], `SELECT override_ts FROM rooms WHERE nid = $1`, int64(room))
	return at, err
}

const (
	addPurgedQuery     = `INSERT INTO purge_days (day, events) VALUES ($1, $2) ON CONFLICT (day) DO UPDATE SET events = purge_days.events + excluded.events`
	forgetPurgedDays   = `DELETE FROM purge_days WHERE day < $1`
	busiestPurgesQuery = `SELECT count(*), coalesce(max(events), 0) FROM purge_days WHERE day < $1`
)

// AddPurged adds to the number of messages that were purged on a day (days since 1970), and forgets days before keep.
func (tx *Tx) AddPurged(day, events, keep int64) error {
	if _, err := tx.exec(addPurgedQuery, day, events); err != nil {
		return err
	}
	_, err := tx.exec(forgetPurgedDays, keep)
	return err
}

// UsualPurges returns on how many days before the given one messages were purged, and how many on the busiest of them.
func (tx *Tx) UsualPurges(day int64) (days, most int64, err error) {
	_, _, err = one(tx, func(r Row) (struct{}, error) { return struct{}{}, r.Scan(&days, &most) }, busiestPurgesQuery, day)
	return days, most, err
}

// PurgedOn returns how many messages were purged on a day.
func (tx *Tx) PurgedOn(day int64) (int64, error) {
	n, _, err := one(tx, scanNumber[int64], `SELECT events FROM purge_days WHERE day = $1`, day)
	return n, err
}

// PurgeState holds what the purge records about itself besides the clock.
type PurgeState struct {
	Config      int64 // a hash of the retention settings of the configuration
	ConfigSince int64 // ms; since when they are as they are
	Tripped     int64 // ms; when an unusual number of messages stopped the purge; 0: it is not stopped
}

// Names of the rows of meta that store a PurgeState.
const (
	metaConfig      = "retention_config"
	metaConfigSince = "retention_config_since"
	metaTripped     = "purge_tripped"
)

// PurgeState returns what the purge has recorded.
func (tx *Tx) PurgeState() (s PurgeState, err error) {
	err = tx.metaNumbers(map[string]*int64{metaConfig: &s.Config, metaConfigSince: &s.ConfigSince, metaTripped: &s.Tripped})
	return s, err
}

// SetPurgeState records the state of the purge.
func (tx *Tx) SetPurgeState(s PurgeState) error {
	return tx.setMetaNumbers(map[string]int64{metaConfig: s.Config, metaConfigSince: s.ConfigSince, metaTripped: s.Tripped})
}

const expiredQuery = `SELECT ` + eventColumns + ` FROM events e WHERE e.room_nid = $1 AND e.ord > $2 AND e.state_key IS NULL
AND e.flags & $5 = 0 AND (e.origin_ts <= $3 OR e.received_ts <= $3) AND e.received_ts <= $4 ORDER BY e.ord LIMIT $6`

// Expired returns the messages of a room that a cutoff covers, in the order of the timeline after the given one. It
// uses the index events_by_order.
func (tx *Tx) Expired(room ident.RoomNID, after ident.Order, c Cutoff, limit int) ([]EventRow, error) {
	return collect(tx, scanEvent, expiredQuery, int64(room), int64(after), c.Sent, c.Received, int64(GoneEvent), limit)
}
