package accounts

import (
	"context"
	"testing"
	"time"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

func TestSessionsWithoutASecondFactorEndSoftlyWhenGraceEnds(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, c *clock) {
		s.gate = gate.New(gate.Options{Policy: gate.Policy{MFA: gate.Required, Grace: time.Hour}, Now: c.now})
		if err := s.gate.Load(t.Context(), s.opts.DB); err != nil {
			t.Fatal(err)
		}
		weak := mustCreate(t, s, "alice")
		in, err := s.LoginPassword(t.Context(), Identifier{User: "alice"}, goodPassword, NewSession{Refresh: true})
		if err != nil {
			t.Fatal(err)
		}
		strong, err := s.LoginPassword(t.Context(), Identifier{User: "alice"}, goodPassword, NewSession{})
		if err != nil {
			t.Fatal(err)
		}
		who := mustSession(t, s, strong.Access)
		if err := s.write(t.Context(), func(w *write) error { return gate.Strengthen(w.Tx, who.DeviceNID, gate.TOTP) }); err != nil {
			t.Fatal(err)
		}
		end := func(want string) {
			t.Helper()
			if err := s.endWeakSessions(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err := s.Authenticate(t.Context(), weak.Access, "", "")
			if mxerr.Code(err) != want {
				t.Errorf("the session without a second factor: %v", err)
			}
			mustSession(t, s, strong.Access)
		}
		end("")
		c.advance(time.Hour)
		end(mxerr.CodeUnknownToken)
		_, err = s.Authenticate(t.Context(), weak.Access, "", "")
		if !soft(err) {
			t.Errorf("the access token: %v", err)
		}
		_, err = s.Refresh(t.Context(), in.Refresh)
		if !soft(err) {
			t.Errorf("the refresh token: %v", err)
		}
		devices, err := s.Devices(t.Context(), who.UserNID)
		if err != nil || len(devices) != 3 {
			t.Errorf("%d devices, %v", len(devices), err)
		}
	})
}

func TestSessionsEndWhenOneAccountMustHaveASecondFactor(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, c *clock) {
		s.gate = gate.New(gate.Options{Policy: gate.Policy{MFA: gate.Optional, Grace: time.Hour}, Now: c.now})
		alice, bob := mustCreate(t, s, "alice"), mustCreate(t, s, "bob")
		set := func(mode gate.Mode) {
			t.Helper()
			if err := s.SetMFA(t.Context(), ident.Requester{}, "@alice:here", mode); err != nil {
				t.Fatal(err)
			}
		}
		end := func(want string) {
			t.Helper()
			if err := s.endWeakSessions(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Authenticate(t.Context(), alice.Access, "", ""); mxerr.Code(err) != want || want != "" && !soft(err) {
				t.Errorf("alice's session: %v", err)
			}
			mustSession(t, s, bob.Access)
		}
		set(gate.Required)
		c.advance(time.Hour - time.Second)
		end("")
		set(gate.Required) // the grace period does not begin again
		c.advance(time.Second)
		set("")
		end("")
		set(gate.Required) // now it does
		end("")
		c.advance(time.Hour)
		end(mxerr.CodeUnknownToken)
		refused(t, "an unknown policy", s.SetMFA(t.Context(), ident.Requester{}, "@alice:here", "always"), mxerr.CodeInvalidParam)
		refused(t, "an unknown user", s.SetMFA(t.Context(), ident.Requester{}, "@nobody:here", gate.Off), mxerr.CodeNotFound)
	})
}

// oneFactor is a Factors in which every account has a second factor.
type oneFactor struct{}

func (oneFactor) Enrolled(*storage.Tx, ident.UserNID) (gate.Evidence, error) { return gate.TOTP, nil }

func TestAnAccountWithASecondFactorGetsOneAnswerForEveryPassword(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, c *clock) {
		limit := newQuota(4)
		s.gate = gate.New(gate.Options{Policy: gate.Policy{MFA: gate.Optional}, Factors: oneFactor{}, Budgets: gate.Budgets{Guesses: limit}, Now: c.now})
		if _, err := s.Create(t.Context(), NewAccount{Username: "alice", Password: goodPassword}); err != nil {
			t.Fatal(err)
		}
		answers := map[string]bool{}
		for _, password := range []string{goodPassword, "wrong", goodPassword, "wrong"} {
			err := login(t, s, "alice", password, home)
			refused(t, password, err, mxerr.CodeForbidden)
			answers[err.Error()] = true
		}
		err := login(t, s, "nobody", "wrong", home)
		refused(t, "another account", err, mxerr.CodeForbidden)
		if answers[err.Error()] = true; len(answers) != 1 {
			t.Errorf("different answers: %v", answers)
		}
		refused(t, "a fifth attempt", login(t, s, "alice", goodPassword, home), mxerr.CodeLimitExceeded) // correct attempts counted too
	})
}

func TestARegistrationThatTheGateWillRefuseIsRefusedBeforeItsPasswordIsHashed(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, c *clock) {
		s.gate = gate.New(gate.Options{Policy: gate.Policy{MFA: gate.Required}, Now: c.now})
		s.hasher = newHasher(0, nil) // nobody hashes
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := s.Create(ctx, NewAccount{Username: "alice", Password: goodPassword, SignIn: &NewSession{}, Network: "192.0.2.1"})
		if mxerr.Code(err) != mxerr.CodeForbidden {
			t.Errorf("the registration: %v", err)
		}
	})
}
