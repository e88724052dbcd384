// Package expiry says how long a room keeps its messages, and whether a message's time is over.
//
// It is pure: policies, limits and times go in. There is one effective policy for everything, for reading as for
// purging, so that what is hidden is what will be purged. State events never expire; that, and that the graph may need
// a skeleton of an event longer, is for the caller to know.
package expiry

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"ebb/canonjson"
)

// The limits of a lifetime on the wire.
const (
	maxMillis   = 1<<53 - 1                      // the largest integer of canonical JSON
	maxLifetime = time.Duration(1<<63 - 1)       // 292 years: what time.Duration can hold; longer ones count as this
	maxWhole    = maxLifetime / time.Millisecond // the same in milliseconds
)

// Policy is how long messages are kept, counted from when they were sent. Nil means that there is no such bound.
type Policy struct {
	Min *time.Duration // kept at least so long
	Max *time.Duration // gone after so long
}

// Bounds are the least and the greatest value that a lifetime may have; nil means no bound.
type Bounds struct{ Min, Max *time.Duration }

// Limits are what the server allows rooms to ask for.
type Limits struct{ MinLifetime, MaxLifetime Bounds }

// ParsePolicy reads the content of an m.room.retention event: min_lifetime and max_lifetime in milliseconds, each of
// which may be missing or null. It refuses lifetimes that are not integers in 0 to 2^53-1 and a maximum below the
// minimum; the error is fit to be told to a client.
func ParsePolicy(content json.RawMessage) (Policy, error) {
	var p Policy
	err := canonjson.Each(content, func(key string, raw []byte) (err error) {
		switch key {
		case "min_lifetime":
			p.Min, err = parseLifetime(key, raw)
		case "max_lifetime":
			p.Max, err = parseLifetime(key, raw)
		}
		return err
	})
	if err != nil {
		return Policy{}, err
	}
	if p.Min != nil && p.Max != nil && *p.Max < *p.Min {
		return Policy{}, errors.New("max_lifetime is below min_lifetime")
	}
	return p, nil
}

func parseLifetime(key string, raw []byte) (*time.Duration, error) {
	if string(raw) == "null" {
		return nil, nil
	}
	millis, ok := canonjson.Int(raw)
	if !ok || millis < 0 || millis > maxMillis {
		return nil, fmt.Errorf("%s is not null or an integer from 0 to %d", key, int64(maxMillis))
	}
	lifetime := maxLifetime
	if millis <= int64(maxWhole) {
		lifetime = time.Duration(millis) * time.Millisecond
	}
	return &lifetime, nil
}

// Effective returns the policy that a room has: the operator's override as it stands; or else the policy that the room
// asks for, brought within the limits; or else the server's default. override and room are nil where there is none; a
// room's event that ParsePolicy refuses counts as none.
func Effective(override, room *Policy, limits Limits, def Policy) Policy {
	switch {
	case override != nil:
		return ordered(*override)
	case room != nil:
		p := ordered(Policy{Min: limits.MinLifetime.clamp(room.Min), Max: limits.MaxLifetime.clamp(room.Max)})
		p.Max = orBound(p.Max, limits.MaxLifetime.Max)
		return p
	}
	return ordered(def)
}

// clamp brings a lifetime within the bounds. A room that gives none gets the least allowed.
func (b Bounds) clamp(lifetime *time.Duration) *time.Duration {
	switch {
	case b.Min != nil && (lifetime == nil || *lifetime < *b.Min):
		return b.Min
	case b.Max != nil && lifetime != nil && *lifetime > *b.Max:
		return b.Max
	}
	return lifetime
}

// orBound returns the bound where max_lifetime, of which none means for ever, goes beyond it.
func orBound(lifetime, bound *time.Duration) *time.Duration {
	if bound != nil && (lifetime == nil || *lifetime > *bound) {
		return bound
	}
	return lifetime
}

// ordered raises Max to Min: the promise to keep is older than the wish to forget, so that a moderator cannot make
// evidence vanish that the server's limits keep.
func ordered(p Policy) Policy {
	if p.Min != nil && p.Max != nil && *p.Max < *p.Min {
		p.Max = p.Min
	}
	return p
}

// sentAt is the time that a message's life is counted from: when it says it was sent, but not later than this server
// received it, or else a sender could date messages into the future to escape expiry. One dated into the past expires
// early: its sender could as well not have sent it.
func sentAt(originTS, receivedTS int64) int64 { return min(originTS, receivedTS) }

// Expired tells whether a message is to be seen no more. originTS and receivedTS are its origin_server_ts and when this
// server received it, in milliseconds since 1970.
func Expired(p Policy, originTS, receivedTS int64, now time.Time) bool {
	cutoff, ok := Cutoff(p, now)
	return ok && sentAt(originTS, receivedTS) <= cutoff
}

// ExpiresAt returns when a message expires, in milliseconds since 1970; false if it never does.
func ExpiresAt(p Policy, originTS, receivedTS int64) (int64, bool) {
	if p.Max == nil {
		return 0, false
	}
	return sentAt(originTS, receivedTS) + p.Max.Milliseconds(), true
}

// Cutoff returns the time in milliseconds since 1970 such that exactly the messages are expired whose origin_server_ts
// or time of receipt is not after it; false if nothing expires.
func Cutoff(p Policy, now time.Time) (int64, bool) {
	if p.Max == nil {
		return 0, false
	}
	return now.UnixMilli() - p.Max.Milliseconds(), true
}
