package pdu

import (
	"strconv"
	"time"

	"ebb/canonjson"
)

// stickyKey is the top-level member that makes an event sticky, under its unstable name. No room version protects it
// from redaction.
// Spec: MSC4354
const stickyKey = "msc4354_sticky"

// MaxSticky is the longest time for which an event is sticky. Longer durations count as this one.
const MaxSticky = time.Hour

// notSticky is the stickyMS of an event that is not sticky.
const notSticky = -1

// Sticky returns for how long the event is sticky, beginning when it was sent or when this server received it,
// whichever was earlier. It returns false if the event has no valid duration.
func (e *Event) Sticky() (time.Duration, bool) {
	if e.stickyMS == notSticky {
		return 0, false
	}
	return time.Duration(e.stickyMS) * time.Millisecond, true
}

// stickyDuration reads the member msc4354_sticky: its duration_ms in milliseconds, at most MaxSticky; notSticky if it
// is missing or not a valid duration.
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

// appendSticky appends the member msc4354_sticky with a duration in milliseconds, after a comma.
func appendSticky(dst []byte, ms int64) []byte {
	dst = append(dst, `,"`+stickyKey+`":{"duration_ms":`...)
	return append(strconv.AppendInt(dst, ms, 10), '}')
}
