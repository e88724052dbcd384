package web_test

import (
	"errors"
	"html"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebb/accounts/gate"
	"ebb/internal/testserver"
	"ebb/storage"
)

const securityPage = accountPage + "/security"

// press sends the form that has a button, and follows a redirect.
func (b *browser) press(page reply, button string, fields ...string) reply {
	b.l.t.Helper()
	for _, found := range forms.FindAllStringSubmatch(page.body, -1) {
		if !strings.Contains(found[2], `name="step" value="`+button+`"`) {
			continue
		}
		f := url.Values{"step": {button}}
		for _, m := range hidden.FindAllStringSubmatch(found[2], -1) {
			f.Set(m[1], html.UnescapeString(m[2]))
		}
		for i := 0; i < len(fields); i += 2 {
			f.Set(fields[i], fields[i+1])
		}
		return b.follow(b.post(html.UnescapeString(found[1]), f))
	}
	b.l.t.Fatalf("no button %s: %d %s", button, page.status, page.body)
	return reply{}
}

func TestFactorsAreAddedAndRemovedOnTheAccountPage(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Optional})
	b, page := l.own(securityPage)
	page.has("Your account has no second factor", "Set up a second factor")
	app := b.setUp(b.step(b.get(securityPage+"/add"), "totp"))
	page = b.get(securityPage) // the code was a second factor
	page.has("Authenticator app", "10 codes are left")
	b.get(accountPage).has("A second factor protects the account")

	page = b.press(page, "recovery")
	fresh := codeText.FindAllStringSubmatch(page.body, -1)
	if len(fresh) != 10 || strings.Contains(page.body, app.recovery[0]) {
		t.Fatalf("new recovery codes: %d %s", page.status, page.body)
	}
	if page = b.get(securityPage); codeText.MatchString(page.body) {
		t.Error("recovery codes are shown again")
	}
	b.press(page, "remove-codes").has("The second factor is removed", "Your account has no second factor")

	other := l.browser()
	if page := other.step(other.get(securityPage), "password", "user", "alice", "password", testserver.Password()); page.status != 200 || page.shows("code") {
		t.Errorf("the removed factor is asked for: %d", page.status)
	}
}

func TestOnlyFactorCannotBeRemovedWhereOneIsRequired(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Required, Grace: time.Hour})
	app := l.enrol("alice")
	b := l.browser()
	page := b.step(b.get(securityPage), "password", "user", "alice", "password", testserver.Password())
	page = b.step(page, "code", "code", app.next())
	page.has("This server requires a second factor")
	if r := b.press(page, "remove-codes"); r.status != 403 || !strings.Contains(r.body, "only second factor") {
		t.Errorf("%d %s", r.status, r.body)
	}
	b.get(securityPage).has("Authenticator app")
}

func TestChangingFactorsNeedsARecentCode(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Optional})
	app := l.enrol("alice")
	b := l.browser()
	page := b.step(b.get(securityPage), "password", "user", "alice", "password", testserver.Password())
	page = b.step(page, "code", "code", app.next())
	l.Advance(11 * time.Minute)
	if r := b.press(page, "remove-codes"); !r.shows("code") {
		t.Errorf("removed without a recent code: %d %s", r.status, r.body)
	}
	to, f := page.form()
	f.Set("sign", "totp")
	if r := b.post(strings.Replace(to, securityPage, securityPage+"/add", 1), f); strings.Contains(r.body, `class="secret"`) {
		t.Error("a factor can be added without a recent code")
	}
	page = b.get(securityPage)
	if r := b.step(page, "code", "code", app.next()); !strings.Contains(r.body, "Authenticator app") {
		t.Errorf("after a code: %d %s", r.status, r.body)
	}
}

func TestSecretsInTwoTabsAreSeparate(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Optional})
	b, _ := l.own(securityPage)
	first, second := b.step(b.get(securityPage+"/add"), "totp"), b.step(b.get(securityPage+"/add"), "totp")
	a := authenticator{l: l, secret: strings.ReplaceAll(secretText.FindStringSubmatch(first.body)[1], " ", "")}
	if r := b.step(second, "totp-confirm", "code", a.code(0)); r.status != 403 || !strings.Contains(r.body, `class="secret"`) {
		t.Errorf("the code of another tab: %d", r.status)
	}
	if r := b.step(first, "totp-confirm", "code", a.code(0)); len(codeText.FindAllString(r.body, -1)) != 10 {
		t.Errorf("the code of the same tab: %d %s", r.status, r.body)
	}
	if r := b.step(second, "totp-confirm", "code", a.next()); strings.Contains(r.body, "Save your recovery codes") {
		t.Error("a form of the session before the change works")
	}
	stranger := l.browser()
	if r := stranger.get(securityPage + "/add"); !r.shows("password") {
		t.Errorf("a stranger: %d", r.status)
	}
}

// passkey adds a passkey that nobody can use to an account.
func (l *lab) passkey(user, id, name string) {
	l.t.Helper()
	if err := l.Close(); err != nil {
		l.t.Fatal(err)
	}
	db, err := storage.Open(l.t.Context(), storage.Config{DSN: "sqlite:" + filepath.Join(l.Dir, "ebb.db"), Now: l.Now})
	if err != nil {
		l.t.Fatal(err)
	}
	err = db.Write(l.t.Context(), func(tx *storage.Tx) error {
		nid, _, err := tx.LookupUser("@" + user + ":test")
		if err != nil {
			return err
		}
		_, err = tx.AddPasskey(storage.PasskeyRow{CredentialID: id, User: nid, RPID: "localhost", Name: name, PublicKey: "k"})
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		l.t.Fatal(err)
	}
	l.Start()
}

func TestPasskeysAreListedRenamedAndRemoved(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Optional})
	app := l.enrol("alice")
	l.Register("bob")
	l.passkey("alice", "YWxpY2U", "alice's <key>")
	l.passkey("bob", "Ym9i", "bob's key")
	b := l.browser()
	page := b.step(b.get(securityPage), "password", "user", "alice", "password", testserver.Password())
	page = b.step(page, "code", "code", app.next())
	page.has("alice&#39;s &lt;key&gt;", "Never")
	if strings.Contains(page.body, "bob") {
		t.Error("the passkey of another user is shown")
	}
	if r := b.press(page, "remove-passkey", "id", "Ym9i"); r.status != 404 {
		t.Errorf("removing another user's passkey: %d", r.status)
	}
	if r := b.press(page, "rename", "id", "Ym9i", "name", "Mine"); r.status != 404 {
		t.Errorf("renaming another user's passkey: %d", r.status)
	}
	page = b.press(page, "rename", "name", "Red key")
	page.has("The name is saved", "Red key")
	page = b.press(page, "remove-passkey")
	if strings.Contains(page.body, "Red key") {
		t.Error("the passkey is not removed")
	}
}

func TestSecurityPageSaysIfFactorsAreOff(t *testing.T) {
	l := newLab(t)
	b, page := l.own(securityPage)
	page.has("does not use second factors")
	if r := b.step(b.get(securityPage+"/add"), "totp"); r.status != 403 || strings.Contains(r.body, `class="secret"`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	b.get(accountPage).has("Not used on this server")
}
