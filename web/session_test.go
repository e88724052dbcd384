package web

import (
	"testing"
	"time"

	"ebb/accounts/gate"
	"ebb/storage"
)

func TestWhatABrowserLacks(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(minutes int) int64 { return now.Add(-time.Duration(minutes) * time.Minute).UnixMilli() }
	with := func(shown gate.Evidence, change func(*standing)) standing {
		st := standing{found: true}
		st.Evidence = int64(shown)
		change(&st)
		return st
	}
	const soon = 10 * time.Minute
	password := func(st *standing) { st.FirstTS = at(5) }
	for name, c := range map[string]struct {
		st   standing
		need need
		want lack
	}{
		"nobody":                                 {standing{}, need{}, lacksUser},
		"the password":                           {with(gate.Password, password), need{}, lacksNothing},
		"the password, recently":                 {with(gate.Password, password), need{Recent: soon}, lacksNothing},
		"the password, long ago":                 {with(gate.Password, func(st *standing) { st.FirstTS = at(11) }), need{Recent: soon}, lacksRecent},
		"a session from before times were kept":  {with(gate.Password, func(*standing) {}), need{Recent: soon}, lacksRecent},
		"no second factor":                       {with(gate.Password, func(st *standing) { st.Pending, st.needed, st.enrolled = true, true, gate.TOTP }), need{}, lacksSecond},
		"a factor set up in the meantime":        {with(gate.Password, func(st *standing) { st.needed, st.enrolled = true, gate.TOTP }), need{}, lacksSecond},
		"a policy relaxed in the meantime":       {with(gate.Password, func(st *standing) { st.Pending = true }), need{}, lacksUser},
		"both factors":                           {with(gate.Password|gate.TOTP, func(st *standing) { st.needed, st.enrolled = true, gate.TOTP }), need{}, lacksNothing},
		"the factor long ago, the password just": {with(gate.Password|gate.TOTP, func(st *standing) { st.needed, st.enrolled, st.FirstTS, st.SecondTS = true, gate.TOTP, at(0), at(11) }), need{Recent: soon}, lacksRecent},
		"the factor recently":                    {with(gate.Password|gate.TOTP, func(st *standing) { st.needed, st.enrolled, st.FirstTS, st.SecondTS = true, gate.TOTP, at(20), at(5) }), need{Recent: soon}, lacksNothing},
		"a passkey alone":                        {with(gate.SecurityKey|gate.Passkey, func(st *standing) { st.needed, st.enrolled, st.SecondTS = true, gate.SecurityKey, at(5) }), need{Recent: soon}, lacksNothing},
		"required, within the grace period":      {with(gate.Password, func(st *standing) { st.required = true }), need{}, offersFactor},
		"the same, put off":                      {with(gate.Password, func(st *standing) { st.required, st.Later = true, true }), need{}, lacksNothing},
		"required, after the grace period":       {with(gate.Password, func(st *standing) { st.required, st.needed, st.Later = true, true, true }), need{}, lacksFactor},
		"required, and shown to somebody else":   {with(gate.UpstreamMFA, func(st *standing) { st.required, st.needed = true, true }), need{}, lacksNothing},
	} {
		if got := c.st.lacks(c.need, now); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestEvidenceAddsUpAndRenewsItsTime(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	s := add(storage.WebSession{}, proof{shown: gate.Password, at: now}, true, now)
	if !s.Pending || s.FirstTS != now.UnixMilli() || s.SecondTS != 0 || s.ExpiresTS != now.Add(pendingLifetime).UnixMilli() {
		t.Errorf("after the password: %+v", s)
	}
	later := now.Add(time.Minute)
	s = add(s, proof{shown: gate.TOTP, at: later}, true, later)
	if s.Pending || s.FirstTS != now.UnixMilli() || s.SecondTS != later.UnixMilli() || s.ExpiresTS != later.Add(sessionLifetime).UnixMilli() {
		t.Errorf("after the code: %+v", s)
	}
	if s = add(storage.WebSession{}, proof{shown: gate.Passkey, at: now}, true, now); s.Pending || s.FirstTS != now.UnixMilli() || s.SecondTS != now.UnixMilli() {
		t.Errorf("after a passkey: %+v", s)
	}
	long := now.Add(-time.Hour)
	if s = add(storage.WebSession{}, proof{shown: gate.Upstream, upstream: "x", at: long}, false, now); s.FirstTS != long.UnixMilli() || s.Upstream != "x" {
		t.Errorf("after a provider at which the user signed in long ago: %+v", s)
	}
	if s = add(storage.WebSession{}, proof{shown: gate.Upstream | gate.UpstreamMFA, upstream: "x"}, true, now); s.FirstTS != 0 || s.SecondTS != 0 || s.Pending {
		t.Errorf("after a provider that does not say when: %+v", s)
	}
}

func TestBoundValuesBelongToOneCookie(t *testing.T) {
	p := &Pages{key: []byte("key")}
	if v := p.bound("a", p.bind("a", "x.y")); v != "x.y" {
		t.Errorf("%q", v)
	}
	for _, text := range []string{"", "x", "x.", ".", p.bind("b", "x"), p.bind("a", "x") + "A", "y" + p.bind("a", "x")} {
		if v := p.bound("a", text); v != "" {
			t.Errorf("%q: %q", text, v)
		}
	}
}

func TestProblemsAreSentences(t *testing.T) {
	for message, want := range map[string]string{"": "", "Wrong username or password": "Wrong username or password.", "Try again.": "Try again.", "Really?": "Really?"} {
		if got := sentence(message); got != want {
			t.Errorf("%q is shown as %q", message, got)
		}
	}
}
