package accounts

import (
	"testing"
	"time"

	"ebb/accounts/gate"
	"ebb/mxerr"
)

func TestProgramsHaveTokensWithoutAPassword(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, c *clock) {
		s.gate = gate.New(gate.Options{Policy: gate.Policy{MFA: gate.Required}, Now: c.now})
		bot, err := s.Create(t.Context(), NewAccount{Username: "bot", NoPassword: true})
		if err != nil {
			t.Fatal(err)
		}
		first, err := s.IssueToken(t.Context(), bot.User, "BUILD", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		mustSession(t, s, first.Access)
		second, err := s.IssueToken(t.Context(), bot.User, "BUILD", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Authenticate(t.Context(), first.Access, "", "")
		refused(t, "a token that was replaced", err, mxerr.CodeUnknownToken)
		if _, err := s.IssueToken(t.Context(), bot.User, "FOREVER", 0); err != nil {
			t.Fatal(err)
		}
		list, err := s.ListMachines(t.Context(), 0, 10)
		if err != nil || len(list) != 2 || list[0].User != bot.User || list[0].Device != "BUILD" || !list[0].Expires.Equal(c.now().Add(time.Hour)) || !list[1].Expires.IsZero() {
			t.Fatalf("%+v, %v", list, err)
		}
		if rest, err := s.ListMachines(t.Context(), list[0].Key(), 10); err != nil || len(rest) != 1 || rest[0].Device != "FOREVER" {
			t.Errorf("the next page: %+v, %v", rest, err)
		}
		if err := s.RevokeMachine(t.Context(), bot.User, "BUILD"); err != nil {
			t.Fatal(err)
		}
		_, err = s.Authenticate(t.Context(), second.Access, "", "")
		refused(t, "a revoked token", err, mxerr.CodeUnknownToken)
		refused(t, "revoked twice", s.RevokeMachine(t.Context(), bot.User, "BUILD"), mxerr.CodeNotFound)
		_, err = s.IssueToken(t.Context(), "@nobody:here", "BUILD", 0)
		refused(t, "nobody", err, mxerr.CodeNotFound)
		_, err = s.IssueToken(t.Context(), bot.User, "", 0)
		refused(t, "without a device", err, mxerr.CodeMissingParam)
	})
}

func TestTokensOfProgramsLeaveTheDevicesOfPeopleAlone(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, c *clock) {
		alice := mustCreate(t, s, "alice")
		_, err := s.IssueToken(t.Context(), alice.User, alice.Device, 0)
		refused(t, "a device of a person", err, mxerr.CodeInvalidParam)
		refused(t, "revoked like that of a program", s.RevokeMachine(t.Context(), alice.User, alice.Device), mxerr.CodeNotFound)
		mustSession(t, s, alice.Access)
		out, err := s.IssueToken(t.Context(), alice.User, "SCRIPT", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		c.advance(time.Minute)
		_, err = s.Authenticate(t.Context(), out.Access, "", "")
		refused(t, "an expired token", err, mxerr.CodeUnknownToken)
		if err := login(t, s, "bot", "", home); err == nil {
			t.Error("an account without password is signed in to")
		}
	})
}
