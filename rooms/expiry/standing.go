package expiry

import (
	"fmt"
	"strings"
	"time"
)

// Standing records since when a room's policy has applied. Readers obey a policy at once. A purge cannot be undone, so
// messages from before a policy was shortened are purged only when it has stood for a while, or when they have expired
// by the policy before it as well.
type Standing struct {
	Policy Policy
	Since  int64  // ms; when it was shortened to Policy
	Before Policy // the policy that still applies to the purge of messages from before Since
}

// Observe returns the Standing of a room whose policy was found to be p now. changed is the time (ms) of the last
// change that may have affected the policy. If there is no record of the room, known is false.
func (s Standing) Observe(p Policy, known bool, changed int64) Standing {
	switch {
	case !known:
		return Standing{Policy: p, Since: changed}
	case s.Policy.Equal(p):
		return s
	case !shorter(p, s.Policy) || !shorter(p, s.Before): // nothing is purged that would not have been before
		s.Policy = p
		if !shorter(p, s.Before) {
			s.Before = p
		}
		return s
	}
	return Standing{Policy: p, Since: max(changed, s.Since), Before: s.Before}
}

// Settle returns the Standing after a policy has stood for the given time, if it has.
func (s Standing) Settle(now time.Time, wait time.Duration) Standing {
	if now.UnixMilli()-s.Since >= wait.Milliseconds() {
		s.Before = s.Policy
	}
	return s
}

// Equal reports whether two records are the same.
func (s Standing) Equal(o Standing) bool {
	return s.Policy.Equal(o.Policy) && s.Before.Equal(o.Before) && s.Since == o.Since
}

// Equal reports whether two policies are the same.
func (p Policy) Equal(o Policy) bool { return equal(p.Min, o.Min) && equal(p.Max, o.Max) }

func equal(a, b *time.Duration) bool { return a == b || a != nil && b != nil && *a == *b }

// shorter reports whether a message can expire by a before it expires by b.
func shorter(a, b Policy) bool {
	if a.Max == nil {
		return false
	}
	return b.Max == nil || *a.Max < *b.Max || b.Min != nil && (a.Min == nil || *a.Min < *b.Min)
}

// PurgeRule says which messages of a room a purge removes.
type PurgeRule struct {
	policy Policy
	now    Cutoff
	before *Cutoff // what has expired by the policy before; nil: nothing has
	since  int64
}

// Rule returns the PurgeRule for a purge of what has expired by a time. It returns false if nothing expires.
func (s Standing) Rule(by time.Time) (r PurgeRule, ok bool) {
	if r.now, ok = CutoffOf(s.Policy, by); !ok {
		return r, false
	}
	if c, expires := CutoffOf(s.Before, by); expires {
		r.before = &c
	}
	r.policy, r.since = s.Policy, s.Since
	return r, true
}

// Covers reports whether a purge removes a message.
func (r PurgeRule) Covers(originTS, receivedTS int64) bool {
	return r.now.Covers(originTS, receivedTS) && (receivedTS >= r.since || r.before != nil && r.before.Covers(originTS, receivedTS))
}

// WithinMin reports whether the min_lifetime of a message is not over.
func (r PurgeRule) WithinMin(receivedTS int64) bool { return receivedTS > r.now.Received }

// Reaches reports whether a purge may remove messages that were sent at a time (ms) or later.
func (r PurgeRule) Reaches(ts int64) bool { return ts <= r.now.Sent }

// Watermark returns the time (ms) such that the purge removes all messages that were sent until then. It returns 0 if
// messages wait.
func (r PurgeRule) Watermark() int64 {
	if r.before == nil {
		return 0
	}
	return min(r.now.Sent, r.before.Sent)
}

// Waits reports whether a message has expired but is not removed yet, because the policy has not stood long enough.
func (r PurgeRule) Waits(originTS, receivedTS int64) bool {
	return r.now.Covers(originTS, receivedTS) && !r.Covers(originTS, receivedTS)
}

// ExpiredAt returns the time (ms) at which a message expired: not before it was received.
func (r PurgeRule) ExpiredAt(originTS, receivedTS int64) int64 {
	at := max(min(originTS, receivedTS)+r.policy.Max.Milliseconds(), receivedTS)
	if r.policy.Min != nil {
		at = max(at, receivedTS+r.policy.Min.Milliseconds())
	}
	return at
}

// String returns the times of the rule as a text that ParsePurgeRule parses.
func (r PurgeRule) String() string {
	text := fmt.Sprintf("%d %d %d", r.now.Sent, r.now.Received, r.since)
	if r.before != nil {
		text += fmt.Sprintf(" %d %d", r.before.Sent, r.before.Received)
	}
	return text
}

// ParsePurgeRule parses the text of a rule. The result covers the same messages, but its ExpiredAt only returns when a
// message was sent or received.
func ParsePurgeRule(text string) (r PurgeRule, err error) {
	r.policy.Max = new(time.Duration)
	if strings.Count(text, " ") == 2 {
		_, err = fmt.Sscan(text, &r.now.Sent, &r.now.Received, &r.since)
		return r, err
	}
	r.before = new(Cutoff)
	_, err = fmt.Sscan(text, &r.now.Sent, &r.now.Received, &r.since, &r.before.Sent, &r.before.Received)
	return r, err
}
