package accounts

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ebb/mxerr"
)

// challenged is the body of a 401 response with flows.
type challenged struct {
	code, session string
	flows         [][]string
	completed     []string
	status        int
}

func readChallenge(t *testing.T, err error) challenged {
	t.Helper()
	var e *mxerr.Error
	if !errors.As(err, &e) {
		t.Fatalf("no challenge: %v", err)
	}
	out := challenged{code: e.Code, status: e.Status}
	out.session, _ = e.Extra["session"].(string)
	out.completed, _ = e.Extra["completed"].([]string)
	flows, _ := e.Extra["flows"].([]map[string][]string)
	for _, f := range flows {
		out.flows = append(out.flows, f["stages"])
	}
	return out
}

func body(t *testing.T, text string) map[string]json.RawMessage {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func passwordAuth(user, password, session string) string {
	raw, _ := json.Marshal(map[string]any{"type": "m.login.password", "session": session, "password": password,
		"identifier": map[string]string{"type": "m.id.user", "user": user}})
	return string(raw)
}

func TestConfirmationRequiresTheUsersOwnPassword(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, _ *clock) {
		alice := mustSession(t, s, mustCreate(t, s, "alice").Access)
		if _, err := s.Create(t.Context(), NewAccount{Username: "bob", Password: "bob's"}); err != nil {
			t.Fatal(err)
		}
		ask := func(auth string) error {
			b := `{"devices":["A"]}`
			if auth != "" {
				b = `{"devices":["A"],"auth":` + auth + `}`
			}
			return s.Confirm(t.Context(), Asked{Operation: "deleteDevices", Requester: alice, Body: body(t, b)})
		}
		first := readChallenge(t, ask(""))
		if first.status != 401 || first.code != "" || first.session == "" || len(first.flows) != 1 || !slices.Equal(first.flows[0], []string{"m.login.password"}) {
			t.Errorf("at first: %+v", first)
		}
		wrong := readChallenge(t, ask(passwordAuth("alice", "wrong", first.session)))
		if wrong.status != 401 || wrong.code != mxerr.CodeForbidden || wrong.session != first.session || len(wrong.flows) != 1 {
			t.Errorf("wrong password: %+v", wrong)
		}
		if c := readChallenge(t, ask(passwordAuth("bob", "bob's", first.session))); c.status != 403 || c.code != mxerr.CodeForbidden {
			t.Errorf("another user's password: %+v", c)
		}
		if c := readChallenge(t, ask(`{"type":"m.login.dummy","session":"`+first.session+`"}`)); c.status != 401 || c.code == "" {
			t.Errorf("a stage that is not offered: %+v", c)
		}
		if c := readChallenge(t, ask(`{"session":"`+first.session+`"}`)); c.status != 401 || c.code != "" || c.session != first.session {
			t.Errorf("without type: %+v", c)
		}
		for _, bad := range []string{`[]`, `"x"`, `{"type":1}`, `{"identifier":[]}`} {
			refused(t, bad, ask(bad), mxerr.CodeBadJSON)
		}
		refused(t, "by phone", ask(`{"type":"m.login.password","identifier":{"type":"m.id.phone"},"password":"x"}`), mxerr.CodeForbidden)
		if err := ask(passwordAuth("@alice:here", goodPassword, first.session)); err != nil {
			t.Errorf("the password: %v", err)
		}
		if err := ask(passwordAuth("alice", goodPassword, "")); err != nil {
			t.Errorf("at once, without session: %v", err)
		}
		if err := ask(`{"type":"m.login.password","user":"alice","password":"` + goodPassword + `"}`); err != nil {
			t.Errorf("the older form: %v", err)
		}
		// The session was used up by the confirmation, so it cannot confirm anything else.
		if c := readChallenge(t, ask(`{"session":"`+first.session+`"}`)); c.session == first.session || len(c.completed) != 0 {
			t.Errorf("after its use: %+v", c)
		}
	})
}

func TestChallengesAreBoundToOneRequestOfOneUser(t *testing.T) {
	now := time.UnixMilli(0)
	c := newChallenges(func() time.Time { return now })
	digest := func(text string) (b binding) {
		b.body, _ = bodyDigest(body(t, text))
		return b
	}
	bound := digest(`{"a":1,"auth":{"password":"x"}}`)
	bound.operation, bound.user, bound.device = "deleteDevice X", 1, 2
	ch := c.find("", bound, "@a:here")
	if again := c.find(ch.id, bound, "@a:here"); again.id != ch.id {
		t.Error("the same request gets another challenge")
	}
	same := digest(` { "auth" : null , "a" : 1 } `)
	same.operation, same.user, same.device = bound.operation, 1, 2
	if again := c.find(ch.id, same, "@a:here"); again.id != ch.id {
		t.Error("white space and auth make another request")
	}
	c.complete(ch.id, "stage", proof{})
	for name, change := range map[string]func(*binding){
		"operation": func(b *binding) { b.operation = "deleteDevice Y" },
		"user":      func(b *binding) { b.user = 9 },
		"device":    func(b *binding) { b.device = 9 },
		"body":      func(b *binding) { b.body = digest(`{"a":2}`).body },
	} {
		other := bound
		change(&other)
		if got := c.find(ch.id, other, "@a:here"); got.id == ch.id || len(got.completed) != 0 {
			t.Errorf("another %s goes on with the challenge", name)
		}
	}
	empty := binding{operation: "x", body: emptyBody}
	probe := c.find("", empty, "@a:here")
	full := binding{operation: "x", body: bound.body}
	if got := c.find(probe.id, full, "@a:here"); got.id != probe.id {
		t.Error("a request that was first asked without parameters cannot go on")
	}
	if got := c.find(probe.id, binding{operation: "x", body: digest(`{"a":3}`).body}, "@a:here"); got.id == probe.id {
		t.Error("its parameters can be changed afterwards")
	}
	now = now.Add(challengeLifetime)
	if got := c.find(ch.id, bound, "@a:here"); got.id == ch.id {
		t.Error("a challenge never expires")
	}
}

func TestOneNetworkDisplacesOnlyItsOwnChallenges(t *testing.T) {
	c := newChallenges(func() time.Time { return time.UnixMilli(0) })
	other := c.find("", binding{operation: "register"}, "198.51.100.1")
	for range maxChallenges + 10 {
		c.find("", binding{operation: "register"}, "192.0.2.1")
	}
	if again := c.find(other.id, binding{operation: "register"}, "198.51.100.1"); again.id != other.id {
		t.Error("the session of somebody elsewhere is gone")
	}
	if c.sources["192.0.2.1"] != maxChallengesEach || len(c.byID) != maxChallengesEach+1 {
		t.Errorf("%d challenges of the network, %d in sum", c.sources["192.0.2.1"], len(c.byID))
	}
}

func TestChallengesAreBoundedAndHoldNoPassword(t *testing.T) {
	c := newChallenges(func() time.Time { return time.UnixMilli(0) })
	first := c.find("", binding{operation: "x"}, "192.0.2.1")
	c.complete(first.id, stageToken, proof{token: "tok", usable: func(int64) bool { return true }})
	for i := range maxChallenges + 10 {
		c.find("", binding{operation: "x"}, fmt.Sprint(i%(maxChallenges/maxChallengesEach+1)))
	}
	if len(c.byID) != maxChallenges || c.oldest.Len() != maxChallenges || len(c.pending) != 0 {
		t.Errorf("%d challenges, %d pending tokens", len(c.byID), len(c.pending))
	}
	// Only a digest of the request without auth is stored.
	with, _ := bodyDigest(body(t, `{"a":1,"auth":{"password":"secret"}}`))
	without, _ := bodyDigest(body(t, `{"a":1}`))
	if with != without {
		t.Error("the digest depends on the password")
	}
}

func TestRegistrationByMode(t *testing.T) {
	terms := []Term{{ID: "privacy", Version: "2", Name: "Privacy", URL: "https://example.org/p"}}
	for _, mode := range []Mode{Closed, WithToken, Open} {
		t.Run(string(mode), func(t *testing.T) {
			each(t, Options{Registration: mode, Terms: terms}, func(t *testing.T, s *Service, _ *clock) {
				_, err := s.Admit(t.Context(), body(t, `{}`), "192.0.2.1")
				if mode == Closed {
					refused(t, "closed", err, mxerr.CodeForbidden)
					return
				}
				c := readChallenge(t, err)
				want := map[Mode]string{WithToken: "m.login.registration_token", Open: "m.login.dummy"}[mode]
				if c.status != 401 || len(c.flows) != 1 || !slices.Equal(c.flows[0], []string{want, "m.login.terms"}) {
					t.Fatalf("%+v", c)
				}
				_, err = s.Admit(t.Context(), body(t, `{"auth":{"type":"m.login.terms","session":"`+c.session+`"}}`), "192.0.2.1")
				if c = readChallenge(t, err); c.code != "" || !slices.Equal(c.completed, []string{"m.login.terms"}) {
					t.Fatalf("after the terms: %+v", c)
				}
				if _, err := s.CreateToken(t.Context(), RegistrationToken{Token: "tok"}); err != nil {
					t.Fatal(err)
				}
				a, err := s.Admit(t.Context(), body(t, `{"auth":{"type":"`+want+`","token":"tok","session":"`+c.session+`"}}`), "192.0.2.1")
				if err != nil || (mode == WithToken) != (a.Token == "tok") {
					t.Fatalf("%+v, %v", a, err)
				}
				// Another name can be tried until the account is created.
				if _, err := s.Admit(t.Context(), body(t, `{"auth":{"session":"`+c.session+`"}}`), "192.0.2.1"); err != nil {
					t.Error(err)
				}
				a.Done(SignedIn{})
				if _, err := s.Admit(t.Context(), body(t, `{"auth":{"session":"`+c.session+`"}}`), "192.0.2.1"); err == nil {
					t.Error("one admission made two accounts")
				}
			})
		})
	}
}

func TestRegistrationTokensAreNeverOverspent(t *testing.T) {
	each(t, Options{Registration: WithToken, HashWorkers: 4}, func(t *testing.T, s *Service, _ *clock) {
		three := int64(3)
		if _, err := s.CreateToken(t.Context(), RegistrationToken{Token: "three", Uses: &three}); err != nil {
			t.Fatal(err)
		}
		var made atomic.Int64
		var wg sync.WaitGroup
		for range 12 {
			wg.Go(func() {
				a, err := s.Admit(t.Context(), body(t, `{"auth":{"type":"m.login.registration_token","token":"three"}}`), "192.0.2.1")
				if err != nil {
					return
				}
				if _, err := s.Create(t.Context(), NewAccount{Password: goodPassword, Token: a.Token}); err == nil {
					made.Add(1)
				}
				a.Done(SignedIn{})
			})
		}
		wg.Wait()
		if made.Load() != 3 {
			t.Errorf("%d accounts with three uses", made.Load())
		}
		// The write itself checks the limit again, independently of the challenge.
		_, err := s.Create(t.Context(), NewAccount{Username: "late", Password: goodPassword, Token: "three"})
		refused(t, "a fourth", err, mxerr.CodeForbidden)
		if err := s.Available(t.Context(), "late"); err != nil {
			t.Errorf("the refused account left something: %v", err)
		}
		list, err := s.ListTokens(t.Context(), RegistrationToken{}, 10)
		if err != nil || len(list) != 1 || list[0].Completed != 3 || list[0].Pending != 0 || *list[0].Uses != 3 {
			t.Errorf("%+v, %v", list, err)
		}
	})
}

func TestPendingRegistrationsHoldTheirTokenUntilTheyExpire(t *testing.T) {
	each(t, Options{Registration: WithToken, Terms: []Term{{ID: "t", Name: "T", URL: "u"}}}, func(t *testing.T, s *Service, c *clock) {
		one := int64(1)
		if _, err := s.CreateToken(t.Context(), RegistrationToken{Token: "one", Uses: &one, Expires: c.now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		give := `{"auth":{"type":"m.login.registration_token","token":"one","session":"`
		_, err := s.Admit(t.Context(), body(t, give+`"}}`), "192.0.2.1")
		first := readChallenge(t, err)
		if first.code != "" || len(first.completed) != 1 {
			t.Fatalf("%+v", first)
		}
		_, err = s.Admit(t.Context(), body(t, give+`"}}`), "192.0.2.1")
		if second := readChallenge(t, err); second.code != mxerr.CodeForbidden || len(second.completed) != 0 {
			t.Errorf("the token was given twice: %+v", second)
		}
		if usable, err := s.TokenUsable(t.Context(), "one", "192.0.2.1"); usable || err != nil {
			t.Errorf("usable while pending, %v", err)
		}
		// Using the same session again does not count as another use.
		_, err = s.Admit(t.Context(), body(t, give+first.session+`"}}`), "192.0.2.1")
		if again := readChallenge(t, err); again.code != "" || again.session != first.session {
			t.Errorf("%+v", again)
		}
		c.advance(challengeLifetime)
		if usable, err := s.TokenUsable(t.Context(), "one", "192.0.2.1"); !usable || err != nil {
			t.Errorf("not usable after the other gave up, %v", err)
		}
		c.advance(time.Hour)
		if usable, err := s.TokenUsable(t.Context(), "one", "192.0.2.1"); usable || err != nil {
			t.Errorf("usable after its end, %v", err)
		}
		_, err = s.Create(t.Context(), NewAccount{Password: goodPassword, Token: "one"})
		refused(t, "an account with an expired token", err, mxerr.CodeForbidden)
		if err := s.RevokeToken(t.Context(), "one"); err != nil {
			t.Error(err)
		}
		refused(t, "revoked twice", s.RevokeToken(t.Context(), "one"), mxerr.CodeNotFound)
		for _, bad := range []string{"with space", "ü", strings.Repeat("x", 65)} {
			_, err := s.CreateToken(t.Context(), RegistrationToken{Token: bad})
			refused(t, bad, err, mxerr.CodeInvalidParam)
		}
		chosen, err := s.CreateToken(t.Context(), RegistrationToken{})
		if err != nil || len(chosen.Token) != 16 {
			t.Errorf("%+v, %v", chosen, err)
		}
		_, err = s.CreateToken(t.Context(), chosen)
		refused(t, "the same text", err, mxerr.CodeInvalidParam)
	})
}
