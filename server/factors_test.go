package server_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"ebb/accounts"
	"ebb/accounts/factors"
	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/internal/testserver"
	"ebb/storage"
)

// codeOf returns the present one-time code of a secret.
func codeOf(t *testing.T, s *testserver.Server, secret string) string {
	t.Helper()
	code, err := totp.GenerateCode(secret, s.Now())
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func TestSecondFactorsWorkWithTheServersGateKeysAndAuditLog(t *testing.T) {
	const grace = time.Hour
	s := testserver.NewWithPolicy(t, gate.Policy{MFA: gate.Required, Grace: grace}, nil)
	s.Register("alice")
	var alice ident.UserNID
	stored := func() (sealed, lastAct string) {
		t.Helper()
		err := s.DB().Read(t.Context(), func(tx *storage.Tx) error {
			nid, _, err := tx.LookupUser("@alice:test")
			if err != nil {
				return err
			}
			alice = nid
			row, _, err := tx.TOTP(nid)
			if err != nil {
				return err
			}
			last, _, err := tx.LastAudit()
			sealed, lastAct = row.Secret, last.Kind
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return sealed, lastAct
	}
	stored()
	s.Advance(grace)
	if _, err := s.Control(t.Context(), "user enrol-link", json.RawMessage(`{"user":"alice"}`)); err != nil {
		t.Fatal(err)
	}
	token, _, err := s.Factors().NewLink(t.Context(), ident.Requester{}, "@alice:test")
	if err != nil {
		t.Fatal(err)
	}
	grant := factors.Grant{User: alice, Link: token}
	e, err := s.Factors().BeginTOTP(t.Context(), grant)
	if err != nil {
		t.Fatal(err)
	}
	made, err := s.Factors().ConfirmTOTP(t.Context(), grant, e.ID, codeOf(t, s, e.Secret))
	if err != nil {
		t.Fatal(err)
	}
	before, act := stored()
	if act != string(factors.CodesMade) {
		t.Errorf("the last act in the audit log is %q", act)
	}
	if _, err := s.Control(t.Context(), "keys rotate", nil); err != nil {
		t.Fatal(err)
	}
	s.Reopen()
	if after, _ := stored(); after == before || after == "" {
		t.Error("the secret was not sealed again")
	}
	s.Advance(time.Minute)
	shown, err := s.Factors().CheckTOTP(t.Context(), alice, "", codeOf(t, s, e.Secret))
	if err != nil {
		t.Fatal(err)
	}
	for evidence, passes := range map[gate.Evidence]bool{gate.Password: false, shown: false, gate.Password | shown: true, made.Shown: true} {
		at := gate.Attempt{Path: gate.PathPassword, User: alice, Shown: evidence, Guess: &gate.Guess{}}
		if evidence&gate.Password == 0 {
			at.Path = gate.PathLoginToken
		}
		in, err := s.Accounts().SignIn(t.Context(), at, accounts.NewSession{}, nil)
		if (err == nil && in.Access != "") != passes {
			t.Errorf("evidence %b: %v", evidence, err)
		}
	}
	if _, err := s.Factors().CheckRecoveryCode(t.Context(), alice, "", made.RecoveryCodes[0]); err != nil {
		t.Error(err)
	}
	if _, act := stored(); act != string(factors.CodeUsed) {
		t.Errorf("the last act in the audit log is %q", act)
	}
}
