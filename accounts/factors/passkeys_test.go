package factors

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"ebb/accounts/gate"
	"ebb/mxerr"
	"ebb/storage"
)

func TestAPasskeyIsASecondFactor(t *testing.T) {
	each(t, gate.Optional, func(t *testing.T, l *lab) {
		k := newKey(t, verifies)
		c, err := l.BeginRegistration(ctx, l.weak(), NewPasskey{Name: " Blue key "})
		if err != nil {
			t.Fatal(err)
		}
		o := optionsOf(t, c).PublicKey
		if o.RP.ID != "chat.example.org" || o.Attestation != "none" || o.AuthenticatorSelection.UserVerification != "preferred" || o.AuthenticatorSelection.ResidentKey != "preferred" {
			t.Errorf("options: %s", c.Options)
		}
		out, err := l.FinishRegistration(ctx, l.weak(), c.ID, k.create(c))
		if err != nil || out.Shown != gate.Passkey|gate.SecurityKey || len(out.RecoveryCodes) != recoveryCodes {
			t.Fatalf("%+v %v", out, err)
		}
		l.advance(time.Hour)
		if shown, err := l.check(l.Service, k); err != nil || shown != gate.Passkey|gate.SecurityKey {
			t.Errorf("shown %b: %v", shown, err)
		}
		all, err := l.Overview(ctx, l.alice)
		if err != nil || len(all.Passkeys) != 1 {
			t.Fatalf("%+v %v", all, err)
		}
		p := all.Passkeys[0]
		if p.Name != "Blue key" || !p.Created.Equal(noon) || !p.Used.Equal(l.now()) || !p.VerifiesUser || !p.Discoverable || p.UnusableReason != "" {
			t.Errorf("%+v", p)
		}
		k.flags &^= verifies // its user only touched it
		if shown, err := l.check(l.Service, k); err != nil || shown != gate.SecurityKey {
			t.Errorf("without verification, shown %b: %v", shown, err)
		}
		if err := l.RenamePasskey(ctx, l.bob, p.ID, "Mine"); mxerr.Code(err) != mxerr.CodeNotFound {
			t.Errorf("bob renames it: %v", err)
		}
		if err := l.RenamePasskey(ctx, l.alice, p.ID, strings.Repeat("x", 101)); mxerr.Code(err) != mxerr.CodeInvalidParam {
			t.Errorf("a long name: %v", err)
		}
		if err := l.RenamePasskey(ctx, l.alice, p.ID, "Red key"); err != nil {
			t.Error(err)
		}
	})
}

func TestAPasskeySignsInAlone(t *testing.T) {
	each(t, gate.Required, func(t *testing.T, l *lab) {
		c, err := l.BeginRegistration(ctx, l.weak(), NewPasskey{Passwordless: true})
		if err != nil {
			t.Fatal(err)
		}
		if o := optionsOf(t, c).PublicKey.AuthenticatorSelection; o.UserVerification != "required" || o.ResidentKey != "required" {
			t.Errorf("options: %s", c.Options)
		}
		careless := newKey(t, 0)
		_, err = l.FinishRegistration(ctx, l.weak(), c.ID, careless.create(c))
		refused(t, err, "not accepted")
		k := newKey(t, verifies)
		if _, err := l.FinishRegistration(ctx, l.weak(), c.ID, k.create(c)); err != nil {
			t.Fatal(err)
		}
		c, err = l.BeginSignIn(ctx, "192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		if o := optionsOf(t, c).PublicKey; o.UserVerification != "required" || len(o.AllowCredentials) != 0 {
			t.Errorf("options: %s", c.Options)
		}
		user, shown, err := l.FinishSignIn(ctx, c.ID, k.get(c))
		if err != nil || user != l.alice || !shown.TwoFactors() {
			t.Errorf("user %d, shown %b: %v", user, shown, err)
		}
		k.flags &^= verifies
		user, shown, err = l.signIn(k)
		refused(t, err, "not accepted")
		if user != 0 && shown != 0 {
			t.Error("evidence with an error")
		}
	})
}

// The thief of a key without a PIN can give it one.
func TestAKeyWithoutAPINDoesNotSignInAloneUntilItsOwnerHasUsedItWithOne(t *testing.T) {
	each(t, gate.Optional, func(t *testing.T, l *lab) {
		k := newKey(t, 0)
		if out := l.enrolKey(l.weak(), k); out.Shown != gate.SecurityKey {
			t.Errorf("shown %b", out.Shown)
		}
		k.flags |= verifies
		_, _, err := l.signIn(k)
		refused(t, err, "no PIN")
		c, err := l.BeginCheck(ctx, l.alice, 0) // nothing was shown before
		if err != nil {
			t.Fatal(err)
		}
		if shown, err := l.FinishCheck(ctx, l.alice, c.ID, k.get(c)); err != nil || shown.TwoFactors() {
			t.Errorf("shown %b: %v", shown, err)
		}
		_, _, err = l.signIn(k)
		refused(t, err, "no PIN")
		if shown, err := l.check(l.Service, k); err != nil || shown != gate.SecurityKey { // with the password
			t.Errorf("shown %b: %v", shown, err)
		}
		if _, shown, err := l.signIn(k); err != nil || !shown.TwoFactors() {
			t.Errorf("shown %b: %v", shown, err)
		}
	})
}

func TestTwoWindowsUseAPasskeyAtOnce(t *testing.T) {
	each(t, gate.Optional, func(t *testing.T, l *lab) {
		k := newKey(t, verifies)
		l.enrolKey(l.weak(), k)
		first, err := l.BeginSignIn(ctx, "192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		second, err := l.BeginSignIn(ctx, "192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		answer := k.get(second)
		if n := race(t, func() error { _, _, err := l.FinishSignIn(ctx, second.ID, answer); return err }); n != 1 {
			t.Errorf("a challenge was used %d times", n)
		}
		_, _, err = l.FinishSignIn(ctx, first.ID, answer) // of the other window
		refused(t, err, "not accepted")
		if _, _, err := l.FinishSignIn(ctx, first.ID, k.get(first)); err != nil {
			t.Errorf("the first window: %v", err)
		}
		c, err := l.BeginRegistration(ctx, l.strong(), NewPasskey{})
		if err != nil {
			t.Fatal(err)
		}
		made := newKey(t, verifies).create(c)
		if n := race(t, func() error { _, err := l.FinishRegistration(ctx, l.strong(), c.ID, made); return err }); n != 1 {
			t.Errorf("a registration was completed %d times", n)
		}
	})
}

func TestChallengesBelongToTheirUserAndPurposeAndExpire(t *testing.T) {
	l := newLab(t, "", gate.Optional)
	k, other := newKey(t, verifies), newKey(t, verifies)
	l.enrolKey(l.weak(), k)
	l.enrolKey(Grant{User: l.bob, Shown: gate.Password}, other)
	c, err := l.BeginCheck(ctx, l.alice, gate.Password)
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.FinishCheck(ctx, l.bob, c.ID, other.get(c))
	refused(t, err, "start again")
	_, _, err = l.FinishSignIn(ctx, c.ID, k.get(c))
	refused(t, err, "start again")
	_, err = l.FinishCheck(ctx, l.alice, c.ID, other.get(c)) // a passkey of bob
	refused(t, err, "does not know")
	_, err = l.FinishCheck(ctx, l.alice, "ebb_c_unknown", k.get(c))
	refused(t, err, "start again")
	l.advance(passkeyLifetime)
	_, err = l.FinishCheck(ctx, l.alice, c.ID, k.get(c))
	refused(t, err, "start again")
}

func TestChallengesAreBounded(t *testing.T) {
	each(t, gate.Optional, func(t *testing.T, l *lab) {
		k := newKey(t, verifies)
		l.enrolKey(l.weak(), k)
		mine, err := l.BeginSignIn(ctx, "192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		var theirs Ceremony
		for range maxChallengesEach + 5 { // of another network
			l.advance(time.Millisecond)
			c, err := l.BeginSignIn(ctx, "192.0.2.2")
			if err != nil {
				t.Fatal(err)
			}
			if theirs.ID == "" {
				theirs = c
			}
		}
		_, _, err = l.FinishSignIn(ctx, theirs.ID, k.get(theirs))
		refused(t, err, "start again")
		if _, _, err := l.FinishSignIn(ctx, mine.ID, k.get(mine)); err != nil {
			t.Errorf("others push it out: %v", err)
		}
		l.advance(time.Millisecond)
		l.write(func(tx *storage.Tx) error { // in sum
			for i := range 8 {
				c := storage.FactorChallenge{Hash: string(rune('a' + i)), Kind: kindSignIn, Owner: int64(i), Data: "{}", ExpiresTS: l.now().Add(time.Hour).UnixMilli()}
				if err := tx.AddFactorChallenge(c, 20, 5); err != nil {
					return err
				}
			}
			return nil
		})
		l.read(func(tx *storage.Tx) error {
			left := 0
			for i := range 8 {
				if _, found, _ := tx.FactorChallenge(string(rune('a' + i))); found {
					left++
				}
			}
			if left != 5 {
				t.Errorf("%d challenges are left", left)
			}
			return nil
		})
	})
}

func TestASignCountThatGoesBackIsNoticed(t *testing.T) {
	each(t, gate.Optional, func(t *testing.T, l *lab) {
		k := newKey(t, verifies)
		l.enrolKey(l.weak(), k)
		k.count = 50
		if _, err := l.check(l.Service, k); err != nil || l.acts.count(CountWentBack) != 0 {
			t.Fatalf("%v %+v", err, l.acts.list)
		}
		k.count = 10 // a clone
		l.advance(time.Hour)
		if _, err := l.check(l.Service, k); err != nil || l.acts.count(CountWentBack) != 1 {
			t.Errorf("%v %+v", err, l.acts.list)
		}
		o, err := l.Overview(ctx, l.alice)
		if err != nil || !o.Passkeys[0].CountWentBack.Equal(l.now()) {
			t.Errorf("%+v %v", o, err)
		}
		silent := newKey(t, verifies) // does not count
		silent.count = 0
		l.enrolKey(l.strong(), silent)
		for range 2 {
			silent.count-- // so that get leaves it at 0
			if _, err := l.check(l.Service, silent); err != nil || l.acts.count(CountWentBack) != 1 {
				t.Errorf("%v %+v", err, l.acts.list)
			}
		}
	})
}

func TestAnswersOfOtherSitesAreRefused(t *testing.T) {
	l := newLab(t, "", gate.Optional)
	k := newKey(t, verifies)
	l.enrolKey(l.weak(), k)
	k.origin = "https://chat.example.org.evil.example"
	_, err := l.check(l.Service, k)
	refused(t, err, "not accepted")
	k.origin = "http://chat.example.org"
	_, err = l.check(l.Service, k)
	refused(t, err, "not accepted")
	k.origin = "https://chat.example.org"
	c, err := l.BeginCheck(ctx, l.alice, gate.Password)
	if err != nil {
		t.Fatal(err)
	}
	challenge := optionsOf(t, c).PublicKey.Challenge
	for what, answer := range map[string][]byte{
		"a passkey of another domain": k.sign("evil.example", k.clientData("webauthn.get", challenge)),
		"another ceremony":            k.sign("chat.example.org", k.clientData("webauthn.create", challenge)),
		"another challenge":           k.sign("chat.example.org", k.clientData("webauthn.get", b64(make([]byte, 32)))),
	} {
		if _, err := l.FinishCheck(ctx, l.alice, c.ID, answer); mxerr.Code(err) != mxerr.CodeForbidden {
			t.Errorf("%s: %v", what, err)
		}
	}
	forged := newKey(t, verifies)
	forged.id, forged.handle = k.id, k.handle
	before := len(l.acts.failed)
	for range 10 {
		_, err = l.check(l.Service, forged)
		refused(t, err, "not accepted")
	}
	if failed := l.acts.failed[before:]; len(failed) != 10 || failed[0] != "alice: wrong answer of a passkey" {
		t.Errorf("recorded: %v", failed)
	}
	if _, err := l.check(l.Service, k); err != nil {
		t.Errorf("wrong answers lock the owner out: %v", err)
	}
	k.handle = make([]byte, 32)
	_, _, err = l.signIn(k)
	refused(t, err, "not accepted")
	_, err = l.FinishCheck(ctx, l.alice, c.ID, make([]byte, maxResponse+1))
	if mxerr.Code(err) != mxerr.CodeTooLarge {
		t.Errorf("a large answer: %v", err)
	}
	k = newKey(t, verifies)
	k.format = "tpm"
	c, err = l.BeginRegistration(ctx, l.strong(), NewPasskey{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.FinishRegistration(ctx, l.strong(), c.ID, k.create(c))
	refused(t, err, "not accepted")
}

func TestThePolicySaysWhichAuthenticatorsAreAllowed(t *testing.T) {
	const allowed = "cb69481e-8ff7-4039-93ec-0a2729a154a8"
	model := [16]byte{0xcb, 0x69, 0x48, 0x1e, 0x8f, 0xf7, 0x40, 0x39, 0x93, 0xec, 0x0a, 0x27, 0x29, 0xa1, 0x54, 0xa8}
	listed, bound := PasskeyOptions{AAGUIDs: []string{allowed}}, PasskeyOptions{DeviceBound: true}
	for _, c := range []struct {
		name   string
		policy PasskeyOptions
		model  [16]byte
		flags  byte
		want   string // "": allowed
	}{
		{"listed", listed, model, verifies, ""},
		{"not listed", listed, [16]byte{1}, verifies, "does not accept passkeys of this authenticator"},
		{"unnamed", listed, [16]byte{}, verifies, "does not accept passkeys of this authenticator"},
		{"unnamed without a list", PasskeyOptions{}, [16]byte{}, verifies, ""},
		{"on one device", bound, model, verifies, ""},
		{"synchronised", bound, model, verifies | copyable | copied, "stay on one device"},
		{"could be synchronised", bound, model, verifies | copyable, "stay on one device"},
		{"synchronised without a policy", PasskeyOptions{}, model, verifies | copyable | copied, ""},
		{"a copy that cannot be", PasskeyOptions{}, model, verifies | copied, "not accepted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, "", gate.Optional)
			s := l.service(c.policy)
			k := newKey(t, c.flags)
			k.model = c.model
			begun, err := s.BeginRegistration(ctx, l.weak(), NewPasskey{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.FinishRegistration(ctx, l.weak(), begun.ID, k.create(begun))
			if c.want != "" {
				refused(t, err, c.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.check(s, k); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAStricterPolicyHoldsForPasskeysOfBefore(t *testing.T) {
	l := newLab(t, "", gate.Optional)
	k := newKey(t, verifies|copyable)
	l.enrolKey(l.weak(), k)
	strict := l.service(PasskeyOptions{DeviceBound: true})
	_, err := l.check(strict, k)
	refused(t, err, "no passkey that can be used")
	c, err := strict.BeginSignIn(ctx, "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = strict.FinishSignIn(ctx, c.ID, k.get(c))
	refused(t, err, "stay on one device")
	if o, err := strict.Overview(ctx, l.alice); err != nil || !strings.Contains(o.Passkeys[0].UnusableReason, "stay on one device") {
		t.Errorf("%+v %v", o, err)
	}
	if l.enrolled(l.alice)&gate.SecurityKey == 0 {
		t.Error("the account has lost its protection")
	}
}

func TestPasskeysOfAnAccountAreBounded(t *testing.T) {
	l := newLab(t, "", gate.Optional)
	first := newKey(t, verifies)
	l.enrolKey(l.weak(), first)
	c, err := l.BeginRegistration(ctx, l.strong(), NewPasskey{})
	if err != nil {
		t.Fatal(err)
	}
	if o := optionsOf(t, c).PublicKey; len(o.ExcludeCredentials) != 1 || o.ExcludeCredentials[0].ID != b64(first.id) {
		t.Errorf("the authenticator is asked for a second passkey: %s", c.Options)
	}
	again := newKey(t, verifies)
	again.id = first.id
	_, err = l.FinishRegistration(ctx, l.strong(), c.ID, again.create(c))
	refused(t, err, "set up already")
	pending, err := l.BeginRegistration(ctx, l.strong(), NewPasskey{})
	if err != nil {
		t.Fatal(err)
	}
	for range maxPasskeys - 1 {
		l.enrolKey(l.strong(), newKey(t, verifies))
	}
	_, err = l.BeginRegistration(ctx, l.strong(), NewPasskey{})
	refused(t, err, "cannot have more")
	_, err = l.FinishRegistration(ctx, l.strong(), pending.ID, newKey(t, verifies).create(pending))
	refused(t, err, "cannot have more")
}

func TestAnotherDomainIsRefusedWithoutTheFlag(t *testing.T) {
	each(t, gate.Optional, func(t *testing.T, l *lab) {
		parent := l.service(PasskeyOptions{RPID: "example.org"})
		if err := parent.CheckRPID(ctx, false); err != nil {
			t.Errorf("before the first passkey: %v", err)
		}
		k := newKey(t, verifies)
		l.enrolKey(l.weak(), k)
		l.enrolKey(l.strong(), newKey(t, verifies))
		if err := l.CheckRPID(ctx, false); err != nil {
			t.Errorf("the same domain: %v", err)
		}
		for name, s := range map[string]*Service{"parent": parent, "address": l.service(PasskeyOptions{PublicURL: "http://127.0.0.1:8008"})} {
			err := s.CheckRPID(ctx, false)
			if err == nil {
				t.Fatalf("%s: another domain is accepted", name)
			}
			for _, words := range []string{"chat.example.org", "2 passkeys of 1 accounts", "--change-rp-id"} {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("%s: %v does not say %s", name, err, words)
				}
			}
		}
		if err := parent.CheckRPID(ctx, true); err != nil {
			t.Error(err)
		}
		if err := parent.CheckRPID(ctx, false); err != nil {
			t.Errorf("after the change: %v", err)
		}
		_, err := l.check(parent, k)
		refused(t, err, "no passkey that can be used")
		if l.enrolled(l.alice)&gate.SecurityKey == 0 {
			t.Error("the account has lost its protection")
		}
		if err := l.CheckRPID(ctx, true); err != nil {
			t.Error(err)
		}
		if _, err := l.check(l.Service, k); err != nil {
			t.Errorf("after the way back: %v", err)
		}
	})
}

func TestServersOnBareAddressesHaveNoPasskeys(t *testing.T) {
	for address, none := range map[string]bool{
		"https://chat.example.org": false, "https://chat.example.org:8448": false, "http://localhost:8008": false, "http://127.0.0.1:8008": true, "http://[::1]:8008": true,
	} {
		l := newLab(t, "", gate.Optional)
		_, err := l.service(PasskeyOptions{PublicURL: address}).BeginSignIn(ctx, "192.0.2.1")
		if none {
			refused(t, err, "localhost")
		} else if err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := New(Options{Server: "example.org", Passkeys: PasskeyOptions{PublicURL: "https://chat.example.org", RPID: "127.0.0.1"}}); err == nil {
		t.Error("passkeys for a bare address")
	}
}

// fuzzLab has begun ceremonies of both kinds.
func fuzzLab(f *testing.F) (p relyingParty, user person, register, check storage.FactorChallenge, row storage.PasskeyRow, answers [2][]byte) {
	p, err := newRelyingParty("example.org", PasskeyOptions{PublicURL: "https://chat.example.org"})
	if err != nil {
		f.Fatal(err)
	}
	user = person{handle: make([]byte, handleLength), name: "@alice:example.org"}
	challenged := func(kind string, options any, data any) (storage.FactorChallenge, Ceremony) {
		raw, err := json.Marshal(data)
		if err != nil {
			f.Fatal(err)
		}
		shown, err := json.Marshal(options)
		if err != nil {
			f.Fatal(err)
		}
		return storage.FactorChallenge{Kind: kind, User: 1, Data: string(raw)}, Ceremony{Options: shown}
	}
	k := newKey(f, verifies)
	creation, session, err := p.web.BeginRegistration(user, registrationOptions(user, NewPasskey{}, false)...)
	if err != nil {
		f.Fatal(err)
	}
	register, c := challenged(kindRegister, creation, registration{*session, "Key"})
	answers[0] = k.create(c)
	if row, _, err = p.verifyNew(register, user, answers[0]); err != nil {
		f.Fatal(err)
	}
	user.rows = []storage.PasskeyRow{row}
	assertion, session, err := p.web.BeginLogin(user)
	if err != nil {
		f.Fatal(err)
	}
	check, c = challenged(kindSecond, assertion, session)
	answers[1] = k.get(c)
	return p, user, register, check, row, answers
}

// FuzzAnswers sends arbitrary answers of browsers, client data, attestation objects and authenticator data: they must
// cause an error for the user, never a panic or an internal one.
func FuzzAnswers(f *testing.F) {
	p, user, register, check, row, answers := fuzzLab(f)
	f.Add(answers[0], []byte(nil), []byte(nil))
	f.Add(answers[1], []byte(nil), []byte(nil))
	for _, answer := range answers {
		var whole struct {
			Response struct{ ClientDataJSON, AttestationObject, AuthenticatorData string }
		}
		if err := json.Unmarshal(answer, &whole); err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(nil), decode(whole.Response.ClientDataJSON), decode(whole.Response.AttestationObject+whole.Response.AuthenticatorData))
	}
	f.Add([]byte(nil), []byte(`{"type":"webauthn.create","challenge":"","origin":"https://[::1"}`), []byte{0xa3, 0x63, 'f', 'm', 't', 0x9f})
	f.Add([]byte(nil), []byte(`{"tokenBinding":{}}`), []byte{0xbf, 0xbf, 0xbf, 0xbf})
	f.Fuzz(func(t *testing.T, answer, client, object []byte) {
		if answer == nil {
			id := row.CredentialID
			answer, _ = json.Marshal(map[string]any{"id": id, "rawId": id, "type": "public-key", "response": map[string]any{
				"clientDataJSON": encode(client), "attestationObject": encode(object), "authenticatorData": encode(object), "signature": encode(client),
			}})
		}
		if _, _, err := p.verifyNew(register, user, answer); err != nil && mxerr.Code(err) == "" {
			t.Errorf("a registration: %v", err)
		}
		if err := p.fuzzCheck(check, user, row, answer); err != nil && mxerr.Code(err) == "" {
			t.Errorf("a check: %v", err)
		}
	})
}

func (p *relyingParty) fuzzCheck(c storage.FactorChallenge, user person, row storage.PasskeyRow, answer []byte) error {
	parsed, err := parse(answer)
	if err != nil {
		return err
	}
	_, _, err = p.verify(answered{challenge: c, parsed: parsed, row: row, user: user})
	return err
}
