package expiry_test

import (
	"testing"
	"time"

	"ebb/rooms/expiry"
)

// A policy is changed step by step. Each step is followed by the purge of a message that was sent at a time.
func TestMessagesFromBeforeAPolicyWasShortenedWait(t *testing.T) {
	const wait = day
	at := func(hours int64) int64 { return hours * time.Hour.Milliseconds() }
	p := func(hours int64) expiry.Policy {
		return expiry.Policy{Max: lifetime(time.Duration(at(hours)) * time.Millisecond)}
	}
	type change struct {
		at     int64 // hours
		policy expiry.Policy
	}
	for _, tc := range []struct {
		name    string
		changes []change
		sent    int64
		now     int64
		covers  bool
		waits   bool
	}{
		{"sent under the policy", []change{{0, p(10)}}, 1, 11, true, false},
		{"not expired", []change{{0, p(10)}}, 1, 10, false, false},
		{"sent before the first policy", []change{{5, p(1)}}, 1, 10, false, true},
		{"the first policy has stood for a day", []change{{5, p(1)}}, 1, 29, true, false},
		{"sent before it was shortened", []change{{0, p(100)}, {50, p(1)}}, 40, 60, false, true},
		{"sent after it was shortened", []change{{0, p(100)}, {50, p(1)}}, 51, 60, true, false},
		{"expired by the one before as well", []change{{0, p(30)}, {50, p(1)}}, 20, 60, true, false},
		{"the shorter one has stood for a day", []change{{0, p(100)}, {50, p(1)}}, 40, 74, true, false},
		{"lengthened again", []change{{0, p(100)}, {50, p(1)}, {51, p(100)}}, 40, 60, false, false},
		{"made longer than ever", []change{{0, p(100)}, {50, p(1)}, {51, p(200)}, {52, p(100)}}, 1, 60, false, false},
		{"shortened twice, counted from the second time", []change{{0, p(100)}, {50, p(20)}, {60, p(1)}}, 55, 80, false, true},
		{"shortened twice, sent after both", []change{{0, p(100)}, {50, p(20)}, {60, p(1)}}, 61, 80, true, false},
		{"shortened twice, sent before both", []change{{0, p(100)}, {50, p(20)}, {60, p(1)}}, 49, 80, false, true},
		{"shortened and half taken back", []change{{0, p(100)}, {50, p(1)}, {51, p(5)}}, 40, 74, true, false},
	} {
		var s expiry.Standing
		for i, c := range tc.changes {
			now := time.UnixMilli(at(c.at))
			if i > 0 {
				s = s.Settle(now, wait)
			}
			s = s.Observe(c.policy, i > 0, at(c.at))
		}
		now := time.UnixMilli(at(tc.now))
		rule, ok := s.Settle(now, wait).Rule(now)
		if !ok || rule.Covers(at(tc.sent), at(tc.sent)) != tc.covers || rule.Waits(at(tc.sent), at(tc.sent)) != tc.waits {
			t.Errorf("%s: %v, covered %v, waits %v", tc.name, ok, rule.Covers(at(tc.sent), at(tc.sent)), rule.Waits(at(tc.sent), at(tc.sent)))
		}
		if mark := rule.Watermark(); tc.waits && mark >= at(tc.sent) {
			t.Errorf("%s: the watermark %d is above a message that waits", tc.name, mark)
		}
	}
}

// A policy that is flipped again and again neither grows the record nor lets a message from before go early.
func TestAPolicyThatIsFlippedPurgesNothingEarly(t *testing.T) {
	s := expiry.Standing{}.Observe(expiry.Policy{Max: lifetime(100 * day)}, false, 0).Settle(time.UnixMilli(day.Milliseconds()), day)
	now := 10 * day.Milliseconds()
	for i := range int64(1000) {
		p := expiry.Policy{Max: lifetime(time.Second)}
		if i%2 == 1 {
			p.Max = lifetime(100 * day)
		}
		s = s.Observe(p, true, now+10*i).Settle(time.UnixMilli(now+10*i), day)
		if rule, ok := s.Rule(time.UnixMilli(now + 10*i)); !ok || rule.Covers(now-day.Milliseconds(), now-day.Milliseconds()) {
			t.Fatalf("flip %d: %v", i, rule)
		}
	}
}

func TestDefaultsByKindOfRoom(t *testing.T) {
	all, direct, private, public, encrypted := expiry.Policy{Max: lifetime(day)}, expiry.Policy{Max: lifetime(2 * day)}, expiry.Policy{Max: lifetime(3 * day)}, expiry.Policy{Max: lifetime(4 * day)}, expiry.Policy{Max: lifetime(5 * day)}
	every := expiry.Defaults{Direct: &direct, Private: &private, Public: &public, Encrypted: &encrypted}
	for _, tc := range []struct {
		name     string
		defaults expiry.Defaults
		kind     expiry.Kind
		want     expiry.Policy
	}{
		{"no kinds", expiry.Defaults{}, expiry.Kind{Public: true, Encrypted: true}, all},
		{"public", every, expiry.Kind{Public: true, Encrypted: true, Direct: true}, public},
		{"direct", every, expiry.Kind{Direct: true, Encrypted: true}, direct},
		{"encrypted", every, expiry.Kind{Encrypted: true}, encrypted},
		{"private", every, expiry.Kind{}, private},
		{"a public room is not private", expiry.Defaults{Private: &private}, expiry.Kind{Public: true}, all},
		{"a public room of two is not direct", expiry.Defaults{Direct: &direct}, expiry.Kind{Public: true, Direct: true}, all},
		{"private, since direct has none", expiry.Defaults{Private: &private}, expiry.Kind{Direct: true}, private},
	} {
		if got := tc.defaults.For(tc.kind, all); !got.Equal(tc.want) {
			t.Errorf("%s: %s, want %s", tc.name, show(got.Max), show(tc.want.Max))
		}
	}
}

func TestWhatTakesPrecedenceAboutAMessage(t *testing.T) {
	for _, tc := range []struct {
		facts expiry.Facts
		want  expiry.Fate
		gone  bool
	}{
		{expiry.Facts{}, expiry.Stays, false},
		{expiry.Facts{Expired: true}, expiry.GoesExpired, true},
		{expiry.Facts{Expired: true, Redacted: true}, expiry.GoesRedacted, true},
		{expiry.Facts{Expired: true, Redacted: true, Erased: true}, expiry.GoesErased, true},
		{expiry.Facts{Expired: true, Redacted: true, Erased: true, WithinMin: true}, expiry.StaysWithinMin, false},
		{expiry.Facts{Expired: true, Redacted: true, Erased: true, WithinMin: true, Held: true}, expiry.StaysHeld, false},
		{expiry.Facts{Held: true, Expired: true}, expiry.StaysHeld, false},
	} {
		if got := expiry.FateOf(tc.facts); got != tc.want || got.Gone() != tc.gone {
			t.Errorf("%+v: %v, gone %v", tc.facts, got, got.Gone())
		}
	}
}
