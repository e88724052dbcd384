package factors

import (
	"bytes"
	"encoding/base32"
	"fmt"
	"image/png"
	"net/url"
	"strings"
	"testing"
	"time"

	qr "github.com/piglig/go-qr"

	"ebb/accounts/gate"
	"ebb/mxerr"
	"ebb/storage"
)

// The values are those of RFC 6238, appendix B, for SHA-1. They have eight digits, of which six are the last six.
// https://www.rfc-editor.org/rfc/rfc6238#appendix-B
func TestCodesOfRFC6238AreFound(t *testing.T) {
	secret := base32.StdEncoding.EncodeToString([]byte("12345678901234567890"))
	for _, c := range []struct {
		at   int64
		code string
	}{{59, "94287082"}, {1111111109, "07081804"}, {1111111111, "14050471"}, {1234567890, "89005924"}, {2000000000, "69279037"}, {20000000000, "65353130"}} {
		step, found, err := findStep(secret, c.code[2:], c.at/totpPeriod, totpExplain)
		if err != nil || !found || step != c.at/totpPeriod {
			t.Errorf("%s: step %d, found %v, %v", c.code, step, found, err)
		}
		if _, found, _ := findStep(secret, c.code[2:], c.at/totpPeriod+totpExplain+1, totpExplain); found {
			t.Errorf("%s is found far from its time", c.code)
		}
	}
}

func TestCodesAreSetUpByACode(t *testing.T) {
	each(t, gate.Optional, func(t *testing.T, l *lab) {
		e, err := l.BeginTOTP(ctx, l.weak())
		if err != nil {
			t.Fatal(err)
		}
		if l.enrolled(l.alice) != 0 {
			t.Error("codes count before they are confirmed")
		}
		u, err := url.Parse(e.URL)
		if err != nil || u.Scheme != "otpauth" || u.Path != "/example.org:@alice:example.org" || u.Query().Get("secret") != e.Secret || u.Query().Get("issuer") != "example.org" {
			t.Errorf("%s: %v", e.URL, err)
		}
		for _, code := range []string{"", "12345", "abcdef", "000000\x00", strings.Repeat("9", 10_000), l.codeAt(e.Secret, noon.Add(time.Hour))} {
			_, err := l.ConfirmTOTP(ctx, l.weak(), e.ID, code)
			refused(t, err, "wrong")
		}
		out, err := l.ConfirmTOTP(ctx, l.weak(), e.ID, " "+l.codeAt(e.Secret, noon)[:3]+" "+l.codeAt(e.Secret, noon)[3:])
		if err != nil || out.Shown != gate.TOTP || len(out.RecoveryCodes) != recoveryCodes {
			t.Errorf("%+v %v", out, err)
		}
		if has := l.enrolled(l.alice); has != gate.TOTP|gate.RecoveryCode {
			t.Errorf("enrolled: %b", has)
		}
		if l.evidence()&gate.TOTP == 0 {
			t.Error("the session does not count as one with a second factor")
		}
		_, err = l.CheckTOTP(ctx, l.alice, "", l.codeAt(e.Secret, noon))
		refused(t, err, "used already")
		if added := l.acts.list[0]; fmt.Sprint(added.Attrs()) != "[user @alice:example.org factor one-time codes]" {
			t.Errorf("recorded: %+v", added)
		}
		if l.acts.count(FactorAdded) != 1 || l.acts.count(CodesMade) != 1 {
			t.Errorf("recorded: %+v", l.acts.list)
		}
	})
}

func TestCodesAreAcceptedByTheClock(t *testing.T) {
	l := newLab(t, "", gate.Optional)
	secret, _ := l.enrolTOTP(l.weak())
	for _, c := range []struct {
		off  time.Duration
		want string // "": accepted
	}{
		{-30 * time.Second, ""}, {0, ""}, {30 * time.Second, ""},
		{-60 * time.Second, "60 seconds old"}, {-90 * time.Second, "90 seconds old"}, {-10 * time.Minute, "600 seconds old"}, {-11 * time.Minute, "is wrong"},
		{60 * time.Second, "is wrong"}, {90 * time.Second, "is wrong"},
	} {
		l.advance(time.Hour) // after all codes so far, and the count of wrong ones
		shown, err := l.CheckTOTP(ctx, l.alice, "", l.codeAt(secret, l.now().Add(c.off)))
		switch {
		case c.want == "" && (err != nil || shown != gate.TOTP):
			t.Errorf("off by %v: %v", c.off, err)
		case c.want != "":
			refused(t, err, c.want)
			if shown != 0 {
				t.Errorf("off by %v: shown %b", c.off, shown)
			}
		}
	}
}

func TestACodeIsAcceptedOnceAndNoOlderOneAfterIt(t *testing.T) {
	each(t, gate.Optional, func(t *testing.T, l *lab) {
		secret, _ := l.enrolTOTP(l.weak())
		l.advance(time.Hour)
		before, now, next := l.codeAt(secret, l.now().Add(-30*time.Second)), l.codeAt(secret, l.now()), l.codeAt(secret, l.now().Add(30*time.Second))
		if _, err := l.CheckTOTP(ctx, l.alice, "", now); err != nil {
			t.Fatal(err)
		}
		for _, code := range []string{now, before} {
			_, err := l.CheckTOTP(ctx, l.alice, "", code)
			refused(t, err, "used already")
		}
		if _, err := l.CheckTOTP(ctx, l.alice, "", next); err != nil {
			t.Errorf("the next code: %v", err)
		}
		_, err := l.CheckTOTP(ctx, l.bob, "", next)
		refused(t, err, "is wrong")
	})
}

func TestOfUsesOfOneCodeAtTheSameTimeOneSucceeds(t *testing.T) {
	each(t, gate.Optional, func(t *testing.T, l *lab) {
		secret, out := l.enrolTOTP(l.weak())
		code := l.codeAt(secret, l.now())
		if n := race(t, func() error { _, err := l.CheckTOTP(ctx, l.alice, "", code); return err }); n != 1 {
			t.Errorf("a one-time code was accepted %d times", n)
		}
		l.advance(time.Hour)
		if n := race(t, func() error { _, err := l.CheckRecoveryCode(ctx, l.alice, "", out.RecoveryCodes[3]); return err }); n != 1 {
			t.Errorf("a recovery code was accepted %d times", n)
		}
	})
}

func TestFiveWrongCodesInFifteenMinutes(t *testing.T) {
	l := newLab(t, "", gate.Optional)
	secret, out := l.enrolTOTP(l.weak())
	for range 5 {
		_, err := l.CheckTOTP(ctx, l.alice, "", "wrong")
		refused(t, err, "is wrong")
	}
	if shown, err := l.CheckTOTP(ctx, l.alice, "", l.codeAt(secret, l.now())); mxerr.Code(err) != mxerr.CodeLimitExceeded || shown != 0 {
		t.Errorf("the right code after five wrong ones: %v", err)
	}
	if _, err := l.CheckRecoveryCode(ctx, l.alice, "", out.RecoveryCodes[0]); err != nil {
		t.Errorf("wrong one-time codes lock out the recovery codes: %v", err)
	}
	for range 5 {
		_, err := l.CheckRecoveryCode(ctx, l.alice, "", "wrong")
		refused(t, err, "is wrong")
	}
	if shown, err := l.CheckRecoveryCode(ctx, l.alice, "", out.RecoveryCodes[1]); mxerr.Code(err) != mxerr.CodeLimitExceeded || shown != 0 {
		t.Errorf("a right recovery code after five wrong ones: %v", err)
	}
	if want := []string{"alice: wrong one-time code", "alice: wrong recovery code"}; len(l.acts.failed) != 10 || l.acts.failed[0] != want[0] || l.acts.failed[9] != want[1] {
		t.Errorf("recorded: %v", l.acts.failed)
	}
	l.advance(15 * time.Minute)
	for range 20 { // right ones do not count
		l.advance(totpPeriod * time.Second)
		if _, err := l.CheckTOTP(ctx, l.alice, "", l.codeAt(secret, l.now())); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTwoWindowsSetUpCodesAtOnce(t *testing.T) {
	each(t, gate.Optional, func(t *testing.T, l *lab) {
		first, err := l.BeginTOTP(ctx, l.weak())
		if err != nil {
			t.Fatal(err)
		}
		second, err := l.BeginTOTP(ctx, l.weak())
		if err != nil || second.Secret == first.Secret {
			t.Fatalf("two enrolments share a secret: %v", err)
		}
		code := l.codeAt(second.Secret, l.now())
		if n := race(t, func() error { _, err := l.ConfirmTOTP(ctx, l.weak(), second.ID, code); return err }); n != 1 {
			t.Errorf("an enrolment was confirmed %d times", n)
		}
		// The other window has not shown a second factor, and the account has one now.
		_, err = l.ConfirmTOTP(ctx, l.weak(), first.ID, l.codeAt(first.Secret, l.now()))
		refused(t, err, "before you add another")
		if _, err = l.ConfirmTOTP(ctx, l.strong(), first.ID, l.codeAt(first.Secret, l.now())); err != nil {
			t.Errorf("with a second factor: %v", err)
		}
		l.advance(time.Hour)
		_, err = l.CheckTOTP(ctx, l.alice, "", l.codeAt(second.Secret, l.now()))
		refused(t, err, "is wrong")
		if _, err = l.CheckTOTP(ctx, l.alice, "", l.codeAt(first.Secret, l.now())); err != nil {
			t.Error(err)
		}
	})
}

func TestAnEnrolmentBelongsToItsUserAndEnds(t *testing.T) {
	l := newLab(t, "", gate.Optional)
	e, err := l.BeginTOTP(ctx, l.weak())
	if err != nil {
		t.Fatal(err)
	}
	bob := Grant{User: l.bob, Shown: gate.Password}
	_, err = l.ConfirmTOTP(ctx, bob, e.ID, l.codeAt(e.Secret, l.now()))
	refused(t, err, "start again")
	_, err = l.FinishRegistration(ctx, l.weak(), e.ID, []byte("{}"))
	refused(t, err, "start again")
	l.advance(totpLifetime)
	_, err = l.ConfirmTOTP(ctx, l.weak(), e.ID, l.codeAt(e.Secret, l.now()))
	refused(t, err, "start again")
}

func TestSecretsAreSealedForTheirUser(t *testing.T) {
	each(t, gate.Optional, func(t *testing.T, l *lab) {
		secret, _ := l.enrolTOTP(l.weak())
		raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
		if err != nil {
			t.Fatal(err)
		}
		var row storage.TOTPRow
		l.read(func(tx *storage.Tx) (err error) { row, _, err = tx.TOTP(l.alice); return err })
		if strings.Contains(row.Secret, secret) || bytes.Contains(decode(row.Secret[1:]), raw) {
			t.Error("the secret is stored in clear")
		}
		// Whoever writes to the database does not give bob the codes of alice.
		l.write(func(tx *storage.Tx) error { return tx.PutTOTP(l.bob, row.Secret, 0) })
		if shown, err := l.CheckTOTP(ctx, l.bob, "", l.codeAt(secret, l.now())); err == nil || shown != 0 {
			t.Error("a sealed secret is that of any user")
		}
		l.write(func(tx *storage.Tx) error { _, err := tx.DeleteTOTP(l.bob); return err })

		l.keys.rotate(t)
		if _, err := l.CheckTOTP(ctx, l.alice, "", l.codeAt(secret, l.now())); err != nil {
			t.Errorf("after the key was rotated: %v", err)
		}
		for range 2 { // the second time, nothing is left to do
			if err := l.Reseal(ctx); err != nil {
				t.Fatal(err)
			}
		}
		l.read(func(tx *storage.Tx) (err error) { row, _, err = tx.TOTP(l.alice); return err })
		if l.keys.Stale(row.Secret) {
			t.Error("the secret is still sealed under the former key")
		}
		l.advance(time.Hour)
		if _, err := l.CheckTOTP(ctx, l.alice, "", l.codeAt(secret, l.now())); err != nil {
			t.Errorf("after it was sealed again: %v", err)
		}
		l.advance(time.Hour)
		keys := l.keys.keys
		l.keys.keys = keys[:1] // the file was lost and made again
		shown, err := l.CheckTOTP(ctx, l.alice, "", l.codeAt(secret, l.now()))
		refused(t, err, "can no longer check")
		if shown != 0 {
			t.Errorf("without the key, shown %b", shown)
		}
		if err := l.Reseal(ctx); err != nil {
			t.Errorf("a lost key keeps the others from being changed: %v", err)
		}
		l.keys.keys = keys
		l.opts.Sealer = nil
		_, err = l.BeginTOTP(ctx, l.strong())
		refused(t, err, "no key")
	})
}

func TestThePictureIsTheURL(t *testing.T) {
	l := newLab(t, "", gate.Optional)
	e, err := l.BeginTOTP(ctx, l.weak())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := e.PNG()
	if err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if read, err := qr.Decode(picture); err != nil || read != e.URL {
		t.Errorf("%q instead of %q: %v", read, e.URL, err)
	}
	if svg, err := e.SVG(); err != nil || !bytes.Contains(svg, []byte("<svg")) || bytes.Contains(svg, []byte("<script")) {
		t.Errorf("%.100s: %v", svg, err)
	}
}

func TestRecoveryCodesWorkOnce(t *testing.T) {
	each(t, gate.Optional, func(t *testing.T, l *lab) {
		_, err := l.NewRecoveryCodes(ctx, l.strong())
		refused(t, err, "second factor first")
		_, out := l.enrolTOTP(l.weak())
		seen := map[string]bool{}
		for _, code := range out.RecoveryCodes {
			if seen[code] || len(code) != codeLength+codeLength/codeGroup-1 {
				t.Errorf("code %q", code)
			}
			seen[code] = true
		}
		typed := strings.NewReplacer("0", "O", "1", "l", "-", " ").Replace(strings.ToUpper(out.RecoveryCodes[0]))
		if shown, err := l.CheckRecoveryCode(ctx, l.alice, "", typed); err != nil || shown != gate.RecoveryCode {
			t.Errorf("%q: %v", typed, err)
		}
		_, err = l.CheckRecoveryCode(ctx, l.alice, "", out.RecoveryCodes[0])
		refused(t, err, "used already")
		_, err = l.CheckRecoveryCode(ctx, l.bob, "", out.RecoveryCodes[1])
		refused(t, err, "wrong")
		if o, err := l.Overview(ctx, l.alice); err != nil || o.RecoveryCodes != recoveryCodes-1 || o.TOTP == nil {
			t.Errorf("%+v %v", o, err)
		}
		_, err = l.NewRecoveryCodes(ctx, l.weak())
		refused(t, err, "second factors")
		fresh, err := l.NewRecoveryCodes(ctx, l.strong())
		if err != nil || len(fresh) != recoveryCodes {
			t.Fatal(err)
		}
		_, err = l.CheckRecoveryCode(ctx, l.alice, "", out.RecoveryCodes[1])
		refused(t, err, "replaced")
		if _, err = l.CheckRecoveryCode(ctx, l.alice, "", fresh[9]); err != nil {
			t.Error(err)
		}
		if _, again := l.enrolTOTP(l.strong()); again.RecoveryCodes != nil {
			t.Errorf("codes were made again: %v", again.RecoveryCodes)
		}
	})
}
