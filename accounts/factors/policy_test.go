package factors

import (
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// admit passes the gate as alice.
func (l *lab) admit(path gate.Path, shown gate.Evidence) error {
	return l.db.Write(ctx, func(tx *storage.Tx) error {
		_, err := l.gate.Admit(tx, gate.Attempt{Path: path, User: l.alice, Shown: shown, Guess: &gate.Guess{}})
		return err
	})
}

func TestRealFactorsPassTheGateAndAPasswordAloneDoesNot(t *testing.T) {
	each(t, gate.Required, func(t *testing.T, l *lab) {
		k := newKey(t, verifies)
		secret, out := l.enrolTOTP(l.weak())
		l.enrolKey(l.strong(), k)
		l.advance(grace)
		for name, show := range map[string]func() (gate.Evidence, error){
			"one-time code": func() (gate.Evidence, error) { return l.CheckTOTP(ctx, l.alice, "", l.codeAt(secret, l.now())) },
			"recovery code": func() (gate.Evidence, error) { return l.CheckRecoveryCode(ctx, l.alice, "", out.RecoveryCodes[0]) },
			"passkey":       func() (gate.Evidence, error) { return l.check(l.Service, k) },
		} {
			shown, err := show()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := l.admit(gate.PathPassword, gate.Password|shown); err != nil {
				t.Errorf("password and %s: %v", name, err)
			}
			if alone := shown&gate.Passkey != 0; (l.admit(gate.PathLoginToken, shown) == nil) != alone {
				t.Errorf("%s alone: passes should be %v", name, alone)
			}
		}
		for _, path := range []gate.Path{gate.PathPassword, gate.PathLoginToken, gate.PathRefresh, gate.PathRegister, gate.PathHandOver} {
			if err := l.admit(path, gate.Password); err == nil {
				t.Errorf("%s: a password alone passes", path)
			}
		}
	})
}

func TestWhereTheyAreOptionalOnlyEnrolledAccountsNeedThem(t *testing.T) {
	each(t, gate.Optional, func(t *testing.T, l *lab) {
		if err := l.admit(gate.PathPassword, gate.Password); err != nil {
			t.Error(err)
		}
		l.enrolTOTP(l.weak())
		if err := l.admit(gate.PathPassword, gate.Password); err == nil {
			t.Error("a password alone passes")
		}
		if err := l.RemoveTOTP(ctx, l.strong()); err != nil {
			t.Fatal(err)
		}
		if has := l.enrolled(l.alice); has != 0 {
			t.Errorf("left: %b", has)
		}
		if o, err := l.Overview(ctx, l.alice); err != nil || o.RecoveryCodes != 0 {
			t.Errorf("recovery codes outlive the factors: %+v %v", o, err)
		}
		if err := l.admit(gate.PathPassword, gate.Password); err != nil {
			t.Error(err)
		}
	})
}

func TestWhoMayEnrol(t *testing.T) {
	const after, has = true, true
	for _, c := range []struct {
		name  string
		mode  gate.Mode
		over  bool // whether grace is over
		has   bool // whether the account has a factor
		shown gate.Evidence
		want  string // "": allowed
	}{
		{"off", gate.Off, after, false, gate.Password | gate.TOTP, "does not use second factors"},
		{"optional", gate.Optional, after, false, gate.Password, ""},
		{"optional, nothing shown", gate.Optional, after, false, 0, "Enter your password"},
		{"optional, only a mailbox", gate.Optional, after, false, gate.Email, "Enter your password"},
		{"optional, another provider", gate.Optional, after, false, gate.Upstream, ""},
		{"optional, a second one without the first", gate.Optional, after, has, gate.Password, "before you add another"},
		{"optional, a second one with the first", gate.Optional, after, has, gate.Password | gate.TOTP, ""},
		{"optional, a second one with a passkey", gate.Optional, after, has, gate.Passkey, ""},
		{"optional, a second one with a code alone", gate.Optional, after, has, gate.TOTP, "before you add another"},
		{"required, in time", gate.Required, !after, false, gate.Password, ""},
		{"required, too late", gate.Required, after, false, gate.Password, "ask an administrator"},
		{"required, too late, with one", gate.Required, after, has, gate.Password | gate.RecoveryCode, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, "", c.mode)
			if c.has {
				l.enrolTOTP(l.weak())
			}
			if c.over {
				l.advance(grace)
			}
			g := Grant{User: l.alice, Shown: c.shown}
			_, totp := l.BeginTOTP(ctx, g)
			_, passkey := l.BeginRegistration(ctx, g, NewPasskey{})
			for _, err := range []error{totp, passkey} {
				if c.want != "" {
					refused(t, err, c.want)
				} else if err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestClosedAccountsEnrolNothing(t *testing.T) {
	l := newLab(t, "", gate.Optional)
	l.write(func(tx *storage.Tx) error { return tx.SetLocked(l.alice, true) })
	if _, err := l.BeginTOTP(ctx, l.weak()); mxerr.Code(err) != mxerr.CodeUserLocked {
		t.Errorf("locked: %v", err)
	}
	l.write(func(tx *storage.Tx) error { _, err := tx.Deactivate(l.alice, storage.NotErased); return err })
	_, err := l.BeginTOTP(ctx, l.weak())
	refused(t, err, "closed")
	_, err = l.BeginRegistration(ctx, Grant{User: 4711, Shown: gate.Password}, NewPasskey{})
	refused(t, err, "no such account")
}

func TestTheLastFactorStaysWhereOneIsRequired(t *testing.T) {
	each(t, gate.Required, func(t *testing.T, l *lab) {
		l.enrolTOTP(l.weak())
		refused(t, l.RemoveTOTP(ctx, l.weak()), "second factors of the account first")
		refused(t, l.RemoveTOTP(ctx, l.strong()), "only second factor")
		if l.enrolled(l.alice)&gate.TOTP == 0 {
			t.Fatal("it is gone all the same")
		}
		k := newKey(t, 0)
		l.enrolKey(l.strong(), k)
		if err := l.RemoveTOTP(ctx, l.strong()); err != nil {
			t.Error(err)
		}
		if err := l.RemoveTOTP(ctx, l.strong()); mxerr.Code(err) != mxerr.CodeNotFound {
			t.Errorf("again: %v", err)
		}
		refused(t, l.RemovePasskey(ctx, l.strong(), b64(k.id)), "only second factor")
		other := newKey(t, 0)
		l.enrolKey(l.strong(), other)
		if err := l.RemovePasskey(ctx, Grant{User: l.bob, Shown: gate.Passkey}, b64(k.id)); mxerr.Code(err) != mxerr.CodeNotFound {
			t.Errorf("bob removes it: %v", err)
		}
		if err := l.RemovePasskey(ctx, l.strong(), b64(k.id)); err != nil {
			t.Error(err)
		}
		_, err := l.check(l.Service, k)
		refused(t, err, "does not know")
		if l.acts.count(FactorRemoved) != 2 {
			t.Errorf("recorded: %+v", l.acts.list)
		}
	})
}

func TestALinkEnrolsAfterGraceAndReplacesWhatIsLost(t *testing.T) {
	each(t, gate.Required, func(t *testing.T, l *lab) {
		l.advance(grace)
		token, made, err := l.NewLink(ctx, ident.Requester{}, "@alice:example.org")
		if err != nil || made.NID != l.alice || made.Expires.Sub(l.now()) != 24*time.Hour {
			t.Fatalf("%+v %v", made, err)
		}
		if opened, err := l.OpenLink(ctx, token); err != nil || opened != made {
			t.Errorf("%+v %v", opened, err)
		}
		_, out := l.enrolTOTP(Grant{User: l.alice, Link: token})
		if !out.Shown.TwoFactors() || len(out.RecoveryCodes) != recoveryCodes {
			t.Errorf("%+v", out)
		}
		_, err = l.OpenLink(ctx, token)
		refused(t, err, "used already")
		_, err = l.BeginTOTP(ctx, Grant{User: l.alice, Link: token})
		refused(t, err, "used already")

		token, _, err = l.NewLink(ctx, ident.Requester{}, "@alice:example.org") // all is lost
		if err != nil {
			t.Fatal(err)
		}
		_, err = l.BeginTOTP(ctx, Grant{User: l.bob, Link: token})
		refused(t, err, "ask an administrator")
		k := newKey(t, verifies)
		g := Grant{User: l.alice, Link: token}
		c, err := l.BeginRegistration(ctx, g, NewPasskey{})
		if err != nil || l.enrolled(l.alice)&gate.TOTP == 0 {
			t.Fatalf("the old factors go before there is a new one: %v", err)
		}
		answer := k.create(c)
		if n := race(t, func() error { _, err := l.FinishRegistration(ctx, g, c.ID, answer); return err }); n != 1 {
			t.Errorf("a link was used %d times", n)
		}
		if has := l.enrolled(l.alice); has != gate.Passkey|gate.SecurityKey|gate.RecoveryCode {
			t.Errorf("the account has %b", has)
		}
		_, err = l.CheckRecoveryCode(ctx, l.alice, "", out.RecoveryCodes[0])
		refused(t, err, "replaced")
		if l.acts.count(LinkMade) != 2 || l.acts.count(FactorsReset) != 1 {
			t.Errorf("recorded: %+v", l.acts.list)
		}
	})
}

func TestOfTwoEnrolmentsByOneLinkOneSucceeds(t *testing.T) {
	each(t, gate.Required, func(t *testing.T, l *lab) {
		token, _, err := l.NewLink(ctx, ident.Requester{}, "@alice:example.org")
		if err != nil {
			t.Fatal(err)
		}
		g := Grant{User: l.alice, Link: token}
		first, err := l.BeginTOTP(ctx, g)
		if err != nil {
			t.Fatal(err)
		}
		second, err := l.BeginTOTP(ctx, g)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.ConfirmTOTP(ctx, g, second.ID, l.codeAt(second.Secret, l.now())); err != nil {
			t.Error(err)
		}
		_, err = l.ConfirmTOTP(ctx, g, first.ID, l.codeAt(first.Secret, l.now()))
		refused(t, err, "used already")
		if _, err := l.CheckTOTP(ctx, l.alice, "", l.codeAt(second.Secret, l.now().Add(30*time.Second))); err != nil {
			t.Error(err)
		}
	})
}

func TestLinksAreReplacedRevokedListedAndExpire(t *testing.T) {
	each(t, gate.Required, func(t *testing.T, l *lab) {
		admin := ident.Requester{UserNID: l.bob, UserID: "@bob:example.org", IsAdmin: true}
		make := func(by ident.Requester, user id.UserID) string {
			t.Helper()
			token, _, err := l.NewLink(ctx, by, user)
			if err != nil {
				t.Fatal(err)
			}
			return token
		}
		old := make(admin, "@alice:example.org")
		token := make(admin, "@alice:example.org")
		_, err := l.OpenLink(ctx, old)
		refused(t, err, "replaced")
		make(ident.Requester{}, "@bob:example.org")
		page, err := l.Links(ctx, 0, 1)
		if err != nil || len(page) != 1 {
			t.Fatalf("%+v %v", page, err)
		}
		rest, err := l.Links(ctx, page[0].NID, 10)
		if err != nil || len(rest) != 1 || rest[0].User == page[0].User {
			t.Fatalf("%+v %+v %v", page, rest, err)
		}
		if err := l.RevokeLink(ctx, admin.UserID, "@alice:example.org"); err != nil {
			t.Error(err)
		}
		_, err = l.OpenLink(ctx, token)
		refused(t, err, "ask an administrator")
		if err := l.RevokeLink(ctx, admin.UserID, "@alice:example.org"); mxerr.Code(err) != mxerr.CodeNotFound {
			t.Errorf("again: %v", err)
		}
		token = make(admin, "@alice:example.org")
		l.advance(24 * time.Hour)
		_, err = l.BeginTOTP(ctx, Grant{User: l.alice, Link: token})
		refused(t, err, "expired")
		if all, err := l.Links(ctx, 0, 10); err != nil || len(all) != 0 {
			t.Errorf("%+v %v", all, err)
		}
		if _, _, err := l.NewLink(ctx, admin, "@nobody:example.org"); mxerr.Code(err) != mxerr.CodeNotFound {
			t.Errorf("for nobody: %v", err)
		}
		_, _, err = l.NewLink(ctx, ident.Requester{UserNID: l.alice, UserID: "@alice:example.org"}, "@bob:example.org")
		refused(t, err, "Only administrators")
	})
}

func TestAdministratorsRecoverOnTheHostOnly(t *testing.T) {
	each(t, gate.Required, func(t *testing.T, l *lab) {
		_, _, err := l.Recover(ctx, "@alice:example.org")
		refused(t, err, "not an administrator")
		l.write(func(tx *storage.Tx) error { return tx.SetAdmin(l.alice, true) })
		_, _, err = l.NewLink(ctx, ident.Requester{UserNID: l.bob, UserID: "@bob:example.org", IsAdmin: true}, "@alice:example.org")
		refused(t, err, "command line")
		token, _, err := l.Recover(ctx, "@alice:example.org")
		if err != nil || l.acts.count(Recovered) != 1 {
			t.Fatalf("%v %+v", err, l.acts.list)
		}
		l.advance(grace - time.Hour)
		l.advance(-grace + 2*time.Hour)
		if _, out := l.enrolTOTP(Grant{User: l.alice, Link: token}); !out.Shown.TwoFactors() {
			t.Errorf("%+v", out)
		}
	})
}

func TestClosedAccountsKeepNoFactors(t *testing.T) {
	each(t, gate.Optional, func(t *testing.T, l *lab) {
		secret, out := l.enrolTOTP(l.weak())
		k := newKey(t, verifies)
		l.enrolKey(l.strong(), k)
		token, _, err := l.NewLink(ctx, ident.Requester{}, "@alice:example.org")
		if err != nil {
			t.Fatal(err)
		}
		pending, err := l.BeginSignIn(ctx, "192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		l.write(func(tx *storage.Tx) error { return tx.ForgetFactors(l.alice) })
		if l.enrolled(l.alice) != 0 {
			t.Error("factors are left")
		}
		_, err = l.CheckTOTP(ctx, l.alice, "", l.codeAt(secret, l.now()))
		refused(t, err, "is wrong")
		_, err = l.CheckRecoveryCode(ctx, l.alice, "", out.RecoveryCodes[0])
		refused(t, err, "wrong")
		_, _, err = l.FinishSignIn(ctx, pending.ID, k.get(pending))
		refused(t, err, "does not know")
		_, err = l.OpenLink(ctx, token)
		refused(t, err, "ask an administrator")
		l.read(func(tx *storage.Tx) error {
			if _, found, err := tx.PasskeyHandle(l.alice); found || err != nil {
				t.Errorf("the handle is left: %v", err)
			}
			return nil
		})
	})
}
