// Package expiry computes how long a room keeps its messages and whether a message has expired.
//
// It is pure: callers pass the time. Reading and purging use the same effective policy, so that exactly the messages
// that will be purged are hidden. State events never expire, and the room's graph may need the redacted form of a
// message after its content has expired; callers take care of both.
package expiry

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"ebb/canonjson"
)

const (
	maxMillis         = canonjson.MaxInt                      // the longest lifetime that an event can state, in milliseconds
	maxLifetime       = time.Duration(1<<63 - 1)              // the longest time.Duration, 292 years; longer lifetimes are capped
	maxLifetimeMillis = int64(maxLifetime / time.Millisecond) // maxLifetime in milliseconds
)

// Policy says how long messages are kept after they were sent. A nil field means that there is no such limit.
type Policy struct {
	Min *time.Duration // messages are kept at least this long
	Max *time.Duration // messages expire after this time
}

// WithinMin reports whether a message must still be kept at a time; received is when this server received it. Both are
// in milliseconds since 1970.
func (p Policy) WithinMin(received, at int64) bool {
	return p.Min != nil && at < received+p.Min.Milliseconds()
}

// Millis returns a lifetime in milliseconds, as the database stores it; nil for nil.
func Millis(lifetime *time.Duration) *int64 {
	if lifetime == nil {
		return nil
	}
	ms := lifetime.Milliseconds()
	return &ms
}

// FromMillis returns the lifetime of which Millis returns ms.
func FromMillis(ms *int64) *time.Duration {
	if ms == nil {
		return nil
	}
	lifetime := time.Duration(*ms) * time.Millisecond
	return &lifetime
}

// String returns the policy in words, such as "min_lifetime none, max_lifetime 24h0m0s".
func (p Policy) String() string {
	words := func(d *time.Duration) string {
		if d == nil {
			return "none"
		}
		return d.String()
	}
	return "min_lifetime " + words(p.Min) + ", max_lifetime " + words(p.Max)
}

// Bounds are the smallest and the largest permitted value of a lifetime. A nil field means that there is no such bound.
type Bounds struct{ Min, Max *time.Duration }

// Limits are the bounds that the server's configuration sets for min_lifetime and max_lifetime of a room's policy.
type Limits struct{ MinLifetime, MaxLifetime Bounds }

// ParsePolicy reads the content of an m.room.retention event: min_lifetime and max_lifetime in milliseconds, each of
// which may be missing or null. It returns an error if a lifetime is not an integer from 0 to 2^53-1 or if the maximum
// is below the minimum. The error text may be shown to clients.
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
		return nil, fmt.Errorf("%s must be null or an integer from 0 to %d", key, int64(maxMillis))
	}
	lifetime := maxLifetime
	if millis <= maxLifetimeMillis {
		lifetime = time.Duration(millis) * time.Millisecond
	}
	return &lifetime, nil
}

// Effective returns the policy that applies to a room: the administrator's override if there is one, otherwise the
// room's own policy brought within the limits, otherwise the server's default. override and room are nil if there is
// none; callers pass nil for a room whose event ParsePolicy rejects.
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

// clamp returns lifetime brought within the bounds. A nil lifetime becomes the lower bound.
func (b Bounds) clamp(lifetime *time.Duration) *time.Duration {
	switch {
	case b.Min != nil && (lifetime == nil || *lifetime < *b.Min):
		return b.Min
	case b.Max != nil && lifetime != nil && *lifetime > *b.Max:
		return b.Max
	}
	return lifetime
}

// orBound returns the smaller of a max_lifetime and a bound. Nil for either of them means unlimited.
func orBound(lifetime, bound *time.Duration) *time.Duration {
	if bound != nil && (lifetime == nil || *lifetime > *bound) {
		return bound
	}
	return lifetime
}

// ordered raises Max to Min if Max is smaller. Min takes precedence so that a moderator cannot make evidence disappear
// that the server's limits preserve.
func ordered(p Policy) Policy {
	if p.Min != nil && p.Max != nil && *p.Max < *p.Min {
		p.Max = p.Min
	}
	return p
}

// Expired reports whether a message has expired. originTS is its origin_server_ts and receivedTS is when this server
// received it, both in milliseconds since 1970.
func Expired(p Policy, originTS, receivedTS int64, now time.Time) bool {
	c, ok := CutoffOf(p, now)
	return ok && c.Covers(originTS, receivedTS)
}

// Cutoff describes the messages that have expired by some time, in milliseconds since 1970: those that were sent at
// Sent or before and that this server received at Received or before.
type Cutoff struct{ Sent, Received int64 }

// CutoffOf returns the Cutoff of the messages that have expired by now. It returns false if messages never expire.
//
// max_lifetime counts from the origin_server_ts of a message, or from when this server received it if that was earlier,
// so that senders cannot escape expiry by dating messages in the future. min_lifetime counts from when this server
// received it, so that senders cannot make messages disappear early by dating them in the past.
func CutoffOf(p Policy, now time.Time) (Cutoff, bool) {
	if p.Max == nil {
		return Cutoff{}, false
	}
	c := Cutoff{Sent: now.UnixMilli() - p.Max.Milliseconds(), Received: math.MaxInt64}
	if p.Min != nil {
		c.Received = now.UnixMilli() - p.Min.Milliseconds()
	}
	return c, true
}

// Covers reports whether a message has expired.
func (c Cutoff) Covers(originTS, receivedTS int64) bool {
	return min(originTS, receivedTS) <= c.Sent && receivedTS <= c.Received
}
