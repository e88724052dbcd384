package storage

import (
	"maps"
	"slices"
)

// Clock holds what the database records about the server's clock, in milliseconds since 1970.
type Clock struct {
	Seen       int64 // the latest recorded time, or else the arrival of the newest event; 0 if there is neither
	JumpedFrom int64 // the last time before the clock jumped forward
	JumpedTo   int64 // the first time after the jump; 0 if there was none
}

// Names of the rows of meta that store a Clock.
const (
	metaSeen       = "clock_seen"
	metaJumpedFrom = "clock_jumped_from"
	metaJumpedTo   = "clock_jumped_to"
)

const (
	setMetaNumberQuery = `INSERT INTO meta (name, value, secret) VALUES ($1, $2, '') ON CONFLICT (name) DO UPDATE SET value = excluded.value`
	newestEventQuery   = `SELECT received_ts FROM events ORDER BY position DESC LIMIT 1`
)

// metaNumbers reads the numbers that meta stores under the given names. It leaves those without a row as they are.
func (tx *Tx) metaNumbers(to map[string]*int64) error {
	list, args := In(1, slices.Sorted(maps.Keys(to)))
	return tx.each(func(r Row) error {
		var name string
		var value int64
		if err := r.Scan(&name, &value); err != nil {
			return err
		}
		*to[name] = value
		return nil
	}, `SELECT name, value FROM meta WHERE name IN `+list, args...)
}

// Clock returns what the database records about the server's clock. If it records no time yet, Seen is the arrival of
// the newest event.
func (tx *Tx) Clock() (c Clock, err error) {
	err = tx.metaNumbers(map[string]*int64{metaSeen: &c.Seen, metaJumpedFrom: &c.JumpedFrom, metaJumpedTo: &c.JumpedTo})
	if err == nil && c.Seen == 0 {
		c.Seen, _, err = one(tx, scanNumber[int64], newestEventQuery)
	}
	return c, err
}

// SetClock replaces what the database records about the server's clock.
func (tx *Tx) SetClock(c Clock) error {
	return tx.setMetaNumbers(map[string]int64{metaSeen: c.Seen, metaJumpedFrom: c.JumpedFrom, metaJumpedTo: c.JumpedTo})
}

func (tx *Tx) setMetaNumbers(values map[string]int64) error {
	for name, value := range values {
		if _, err := tx.exec(setMetaNumberQuery, name, value); err != nil {
			return err
		}
	}
	return nil
}
