package expiry_test

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"ebb/rooms/expiry"
)

func lifetime(d time.Duration) *time.Duration { return &d }

const day = 24 * time.Hour

func show(d *time.Duration) string {
	if d == nil {
		return "none"
	}
	return d.String()
}

func sameAs(p expiry.Policy, low, high *time.Duration) bool {
	return show(p.Min) == show(low) && show(p.Max) == show(high)
}

func TestPolicyIsReadFromContent(t *testing.T) {
	longest := time.Duration(1<<63 - 1)
	for _, tc := range []struct {
		content   string
		low, high *time.Duration
	}{
		{`{}`, nil, nil},
		{`{"max_lifetime":null,"min_lifetime":null}`, nil, nil},
		{`{"max_lifetime":86400000}`, nil, lifetime(day)},
		{`{"min_lifetime":1000,"max_lifetime":1000,"x":"y"}`, lifetime(time.Second), lifetime(time.Second)},
		{`{"max_lifetime":0}`, nil, lifetime(0)},
		{`{"max_lifetime":9007199254740991}`, nil, lifetime(longest)},
		{`{"max_lifetime":9223372036854}`, nil, lifetime(9223372036854 * time.Millisecond)},
		{`{"max_lifetime":9223372036855}`, nil, lifetime(longest)},
	} {
		p, err := expiry.ParsePolicy(json.RawMessage(tc.content))
		if err != nil || !sameAs(p, tc.low, tc.high) {
			t.Errorf("%s: %s to %s, %v", tc.content, show(p.Min), show(p.Max), err)
		}
	}
}

func TestPolicyOfTheWrongShapeIsRefused(t *testing.T) {
	for _, content := range []string{
		`{"max_lifetime":-1}`, `{"max_lifetime":9007199254740992}`, `{"max_lifetime":1.5}`, `{"max_lifetime":"1"}`,
		`{"min_lifetime":true}`, `{"min_lifetime":[]}`, `{"min_lifetime":1e3}`, `{"min_lifetime":2,"max_lifetime":1}`,
		`[]`, `"x"`, ``, `{`,
	} {
		if p, err := expiry.ParsePolicy(json.RawMessage(content)); err == nil {
			t.Errorf("%s is read as %s to %s", content, show(p.Min), show(p.Max))
		}
	}
}

func TestEffectivePolicy(t *testing.T) {
	limits := expiry.Limits{
		MinLifetime: expiry.Bounds{Min: lifetime(time.Hour), Max: lifetime(2 * day)},
		MaxLifetime: expiry.Bounds{Min: lifetime(day), Max: lifetime(30 * day)},
	}
	cap30 := expiry.Limits{MaxLifetime: expiry.Bounds{Max: lifetime(30 * day)}}
	keep7 := expiry.Limits{MinLifetime: expiry.Bounds{Min: lifetime(7 * day)}}
	none := expiry.Limits{}
	for _, tc := range []struct {
		name           string
		override, room *expiry.Policy
		limits         expiry.Limits
		def            expiry.Policy
		low, high      *time.Duration
	}{
		{name: "nothing is set", limits: none},
		{name: "the default", limits: limits, def: expiry.Policy{Max: lifetime(90 * day)}, high: lifetime(90 * day)},
		{name: "the room before the default", room: &expiry.Policy{Max: lifetime(time.Second)}, limits: none, def: expiry.Policy{Max: lifetime(day)}, high: lifetime(time.Second)},
		{name: "a room's policy without values is one", room: &expiry.Policy{}, limits: none, def: expiry.Policy{Max: lifetime(day)}},
		{name: "too short is raised", room: &expiry.Policy{Max: lifetime(time.Second)}, limits: limits, low: lifetime(time.Hour), high: lifetime(day)},
		{name: "too long is lowered", room: &expiry.Policy{Min: lifetime(5 * day), Max: lifetime(90 * day)}, limits: limits, low: lifetime(2 * day), high: lifetime(30 * day)},
		{name: "what is allowed stays", room: &expiry.Policy{Min: lifetime(day), Max: lifetime(7 * day)}, limits: limits, low: lifetime(day), high: lifetime(7 * day)},
		{name: "no value is the least allowed", room: &expiry.Policy{}, limits: limits, low: lifetime(time.Hour), high: lifetime(day)},
		{name: "for ever is too long", room: &expiry.Policy{}, limits: cap30, high: lifetime(30 * day)},
		{name: "kept as long as the server promises", room: &expiry.Policy{Max: lifetime(time.Second)}, limits: keep7, low: lifetime(7 * day), high: lifetime(7 * day)},
		{name: "the override before all", override: &expiry.Policy{Max: lifetime(time.Second)}, room: &expiry.Policy{Max: lifetime(7 * day)}, limits: limits, high: lifetime(time.Second)},
		{name: "an override without values keeps for ever", override: &expiry.Policy{}, room: &expiry.Policy{Max: lifetime(day)}, limits: limits},
		{name: "an override is put in order", override: &expiry.Policy{Min: lifetime(day), Max: lifetime(time.Second)}, low: lifetime(day), high: lifetime(day)},
	} {
		if p := expiry.Effective(tc.override, tc.room, tc.limits, tc.def); !sameAs(p, tc.low, tc.high) {
			t.Errorf("%s: %s to %s, want %s to %s", tc.name, show(p.Min), show(p.Max), show(tc.low), show(tc.high))
		}
	}
}

// TestEffectivePolicyKeepsItsPromises tries random rooms under limits that do not contradict each other.
func TestEffectivePolicyKeepsItsPromises(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	some := func(from, to int) *time.Duration {
		if rng.IntN(3) == 0 {
			return nil
		}
		return lifetime(time.Duration(from+rng.IntN(to-from)) * time.Second)
	}
	for range 10_000 {
		limits := expiry.Limits{
			MinLifetime: expiry.Bounds{Min: some(0, 10), Max: some(10, 20)},
			MaxLifetime: expiry.Bounds{Min: some(0, 30), Max: some(30, 60)},
		}
		room := expiry.Policy{Min: some(0, 40), Max: some(40, 90)}
		p := expiry.Effective(nil, &room, limits, expiry.Policy{})
		for name, broken := range map[string]bool{
			"min below its floor":   limits.MinLifetime.Min != nil && (p.Min == nil || *p.Min < *limits.MinLifetime.Min),
			"max below its floor":   limits.MaxLifetime.Min != nil && p.Max != nil && *p.Max < *limits.MaxLifetime.Min,
			"max above its ceiling": limits.MaxLifetime.Max != nil && (p.Max == nil || *p.Max > *limits.MaxLifetime.Max),
			"max below min":         p.Min != nil && p.Max != nil && *p.Max < *p.Min && limits.MaxLifetime.Max == nil,
		} {
			if broken {
				t.Fatalf("%s: room %s to %s becomes %s to %s", name, show(room.Min), show(room.Max), show(p.Min), show(p.Max))
			}
		}
	}
}

func TestMessagesExpireByTheClock(t *testing.T) {
	policy := expiry.Policy{Max: lifetime(10 * time.Second)}
	both := expiry.Policy{Min: lifetime(5 * time.Second), Max: lifetime(10 * time.Second)}
	for _, tc := range []struct {
		name           string
		policy         expiry.Policy
		sent, received int64
		now            int64
		want           bool
	}{
		{"not yet", policy, 1000, 1000, 10_999, false},
		{"now", policy, 1000, 1000, 11_000, true},
		{"long ago", policy, 1000, 1000, 1 << 50, true},
		{"never", expiry.Policy{Min: lifetime(time.Second)}, 1000, 1000, 1 << 50, false},
		{"at once", expiry.Policy{Max: lifetime(0)}, 1000, 1000, 1000, true},
		{"dated into the future", policy, 1 << 53, 1000, 11_000, true},
		{"dated into the past", policy, -1 << 63, 1000, 1001, true},
		{"dated into the past, but kept from when it came", both, 0, 50_000, 54_999, false},
		{"until that is over", both, 0, 50_000, 55_000, true},
		{"dated into the future with both", both, 1 << 53, 1000, 11_000, true},
		{"came late", policy, 1000, 50_000, 50_001, true},
	} {
		now := time.UnixMilli(tc.now)
		if got := expiry.Expired(tc.policy, tc.sent, tc.received, now); got != tc.want {
			t.Errorf("%s: Expired = %v", tc.name, got)
		}
		if cutoff, ok := expiry.CutoffOf(tc.policy, now); (ok && cutoff.Covers(tc.sent, tc.received)) != tc.want {
			t.Errorf("%s: the cutoff is %+v, %v", tc.name, cutoff, ok)
		}
	}
}
