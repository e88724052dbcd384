package pdu

import (
	"strconv"
	"time"

	"ebb/canonjson"
)

// stickyKey is the unstable name of the top-level key that makes an event sticky. No room version protects it from
// redaction.
// Spec: MSC4354
const stickyKey = "msc4354_sticky"

// MaxSticky is the longest time for which an event is sticky. Longer durations count as this one.
const MaxSticky = time.Hour

// notSticky is the stickyMS of an event that is not sticky.
const notSticky = -1

// Sticky returns the time for which the event is sticky, and false if the event does not state a valid time. The time
// begins when the event was sent or when this server received it, whichever was earlier.
func (e *Event) Sticky() (time.Duration, bool) {
	if e.stickyMS == notSticky {
		return 0, false
	}
	return time.Duration(e.stickyMS) * time.Millisecond, true
}

// stickyDuration reads duration_ms from the value of msc4354_sticky. The result is in milliseconds and at most
// MaxSticky. It is notSticky if the duration is missing or invalid.
func stickyDuration(raw []byte) int32 {
	if raw == nil {
		return notSticky
	}
	value, _ := canonjson.Get(raw, "duration_ms")
	ms, ok := canonjson.Int(value)
	if !ok || ms < 0 {
		return notSticky
	}
	return int32(min(ms, MaxSticky.Milliseconds()))
}

// appendSticky appends a comma and the key msc4354_sticky with a duration in milliseconds.
func appendSticky(dst []byte, ms int64) []byte {
	dst = append(dst, `,"`+stickyKey+`":{"duration_ms":`...)
	return append(strconv.AppendInt(dst, ms, 10), '}')
}
