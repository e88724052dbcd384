package keyed_test

import (
	"slices"
	"testing"
	"time"

	"ebb/keyed"
)

func TestBackoffGrowsToItsMax(t *testing.T) {
	cases := []struct {
		b    keyed.Backoff
		want []time.Duration
	}{
		{keyed.Backoff{First: time.Second, Max: 5 * time.Second}, []time.Duration{1, 2, 4, 5, 5}},
		{keyed.Backoff{First: 2 * time.Second, Max: time.Hour, Factor: 4}, []time.Duration{2, 8, 32, 128, 512, 2048, 3600}},
		{keyed.Backoff{First: 10 * time.Second, Max: 5 * time.Second}, []time.Duration{5, 5}},
	}
	for _, c := range cases {
		var got []time.Duration
		for i := range c.want {
			got = append(got, c.b.Delay(int64(i))/time.Second)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, want %v", c.b, got, c.want)
		}
		if c.b.Delay(1<<62) != c.b.Max {
			t.Error("after many failures:", c.b.Delay(1<<62))
		}
	}
}

func TestRetryIsDueAgainLaterEachTime(t *testing.T) {
	var r keyed.Retry
	now, b := time.Unix(1000, 0), keyed.Backoff{First: time.Minute, Max: time.Hour}
	if !r.Due(now) {
		t.Error("the first try has to wait")
	}
	for _, wait := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
		r.Failed(now, b)
		if r.Due(now.Add(wait-1)) || !r.Due(now.Add(wait)) {
			t.Errorf("due at %v, want %v later than %v", r.At, wait, now)
		}
		now = now.Add(wait)
	}
	r.Succeeded(now, time.Second)
	if r.Due(now) || !r.Due(now.Add(time.Second)) || r.Failures != 0 {
		t.Errorf("after a success: %+v", r)
	}
}

func TestJitterSpreadsByAQuarter(t *testing.T) {
	distinct := map[time.Duration]bool{}
	for n := range uint64(1000) {
		d := keyed.Jitter(8*time.Second, n)
		if d < 7*time.Second || d > 9*time.Second {
			t.Fatalf("%v of 8s", d)
		}
		distinct[d] = true
	}
	if len(distinct) < 500 {
		t.Errorf("%d distinct delays of 1,000", len(distinct))
	}
}
