package web_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"ebb/accounts/gate"
	"ebb/internal/testserver"
)

const accountPage = "/_ebb/account"

// own signs alice in on a page of the account page and returns the browser.
func (l *lab) own(path string) (*browser, reply) {
	l.t.Helper()
	b := l.browser()
	return b, b.signIn(b.get(path))
}

// send sends a form whose answer must be a redirect, and returns the page that follows.
func (b *browser) send(page reply, fields ...string) reply {
	b.l.t.Helper()
	r := b.submit(page, fields...)
	if r.status != http.StatusSeeOther {
		b.l.t.Fatalf("%v: %d %s", fields, r.status, r.body)
	}
	return b.get(r.header.Get("Location"))
}

// has fails the test unless a page contains texts.
func (r reply) has(texts ...string) {
	r.t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.body, text) {
			r.t.Errorf("the page (%d) lacks %q: %s", r.status, text, r.body[strings.Index(r.body, "<main")+1:])
		}
	}
}

// client signs a device of alice in by OAuth 2.0.
func (l *lab) signedInClient() *testserver.Client {
	l.t.Helper()
	c, verifier := l.client(nil), oauth2.GenerateVerifier()
	token, err := c.Exchange(context.Background(), l.code(c, oauth2.S256ChallengeOption(verifier)).Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		l.t.Fatal(err)
	}
	out := l.Anonymous()
	out.User, out.DeviceID, out.Token = "@alice:test", "BROWSERDEVICE", token.AccessToken
	return out
}

func TestEveryActionLeadsToItsPage(t *testing.T) {
	l := newLab(t)
	meta := l.Anonymous().Do("GET", "/v1/auth_metadata", nil)
	if !strings.HasSuffix(meta["account_management_uri"].(string), accountPage) {
		t.Errorf("the account page is at %v", meta["account_management_uri"])
	}
	want := map[string]string{
		"profile": "/profile", "devices_list": "/devices", "sessions_list": "/devices", "device_view": "/device?device_id=D", "session_view": "/device?device_id=D",
		"device_delete": "/device?device_id=D", "session_end": "/device?device_id=D", "account_deactivate": "/delete", "cross_signing_reset": "/approve?session=S",
	}
	b, _ := l.own(accountPage)
	for _, action := range meta["account_management_actions_supported"].([]any) {
		name := action.(string)
		to := want[strings.TrimPrefix(name, "org.matrix.")]
		if r := b.get(accountPage + "?device_id=D&session=S&action=" + name); to == "" || r.header.Get("Location") != accountPage+to {
			t.Errorf("%s leads to %d %s, want %s", name, r.status, r.header.Get("Location"), to)
		}
	}
	for name := range want {
		for _, form := range []string{name, "org.matrix." + name} {
			if r := b.get(accountPage + "?device_id=D&session=S&action=" + form); r.header.Get("Location") != accountPage+want[name] {
				t.Errorf("%s leads to %s", form, r.header.Get("Location"))
			}
		}
	}
	for _, name := range []string{"device_view", "device_delete", "session_end"} {
		if r := b.get(accountPage + "?action=org.matrix." + name); r.header.Get("Location") != accountPage+"/devices" {
			t.Errorf("%s without a device leads to %s", name, r.header.Get("Location"))
		}
	}
	if r := b.get(accountPage + "?action=org.matrix.unknown&device_id=D"); r.status != 200 || !strings.Contains(r.body, "Your account") {
		t.Errorf("an unknown action: %d", r.status)
	}
}

func TestStrangersSignInBeforeTheySeeAnythingOfAnAccount(t *testing.T) {
	l := newLab(t)
	for _, path := range []string{"", "/profile", "/password", "/security", "/devices", "/device?device_id=x", "/approve?session=x", "/delete"} {
		b := l.browser()
		page := b.get(accountPage + path)
		if page.status != 200 || !strings.Contains(page.body, `name="password"`) || strings.Contains(page.body, "alice") {
			t.Errorf("%s: %d %s", path, page.status, page.body)
		}
		in := b.submit(page, "user", "alice", "password", testserver.Password())
		if to := in.header.Get("Location"); to != accountPage+path {
			t.Errorf("%s: after signing in the browser is at %s", path, to)
		}
	}
}

func TestUsersSeeAndSignOutTheirOwnDevicesOnly(t *testing.T) {
	l := newLab(t)
	c, bob := l.signedInClient(), l.Register("bob")
	c.Do("GET", "/v3/account/whoami", nil)
	b, devices := l.own(accountPage + "/devices")
	devices.has("Example &lt;b&gt;App", "127.0.0.1", "Last seen", "BROWSERDEVICE")
	if strings.Contains(devices.body, bob.DeviceID) {
		t.Error("a device of another user is listed")
	}
	theirs, missing := b.get(accountPage+"/device?device_id="+bob.DeviceID), b.get(accountPage+"/device?device_id=NONE")
	if theirs.status != 404 || missing.status != 404 || strings.ReplaceAll(theirs.body, bob.DeviceID, "") == "" {
		t.Errorf("another user's device: %d, no device: %d", theirs.status, missing.status)
	}
	page := b.get(accountPage + "?action=org.matrix.device_delete&device_id=BROWSERDEVICE")
	page = b.get(page.header.Get("Location"))
	page.has("Example &lt;b&gt;App", "example.com")
	if status, _ := l.whoami(c.Token); status != 200 {
		t.Fatalf("opening the page has signed the device out: %d", status)
	}
	_, f := page.form()
	f.Set("step", "sign-out")
	if r := b.post(accountPage+"/device?device_id="+bob.DeviceID, f); r.status != 404 {
		t.Errorf("signing out another user's device: %d", r.status)
	}
	b.send(page, "step", "rename", "name", "My phone").has("The name is saved", "My phone")
	b.send(page, "step", "sign-out").has("The device is signed out")
	if status, _ := l.whoami(c.Token); status != 401 {
		t.Errorf("the device is signed in: %d", status)
	}
	bob.Do("GET", "/v3/account/whoami", nil)
}

func TestSigningOutEverywhereIncludesThisBrowser(t *testing.T) {
	l := newLab(t)
	c := l.Login("alice")
	b, page := l.own(accountPage + "/devices")
	if r := b.submit(page, "step", "sign-out-all"); r.status != 200 || !strings.Contains(r.body, "You are signed out") {
		t.Fatalf("%d %s", r.status, r.body)
	}
	c.Refused("GET", "/v3/account/whoami", nil, 401, "M_UNKNOWN_TOKEN")
	if r := b.get(accountPage); !strings.Contains(r.body, `name="password"`) {
		t.Error("the browser is signed in")
	}
}

func TestDisplayNameIsChangedUnlessTheAccountIsSuspended(t *testing.T) {
	l := newLab(t)
	b, page := l.own(accountPage + "/profile")
	b.send(page, "step", "name", "name", `Alice "A" <b>`).has("The display name is saved", "Alice &#34;A&#34; &lt;b&gt;")
	if got := l.Anonymous().Do("GET", "/v3/profile/@alice:test", nil)["displayname"]; got != `Alice "A" <b>` {
		t.Errorf("the display name is %v", got)
	}
	if r := b.submit(page, "step", "name", "name", strings.Repeat("a", 300)); r.status != 400 || !strings.Contains(r.body, `role="alert"`) {
		t.Errorf("a long name: %d", r.status)
	}
	if _, err := l.Control(t.Context(), "user suspend", json.RawMessage(`{"user":"alice"}`)); err != nil {
		t.Fatal(err)
	}
	if r := b.submit(page, "step", "name", "name", "B"); r.status != 403 || !strings.Contains(r.body, "suspended") {
		t.Errorf("suspended: %d %s", r.status, r.body)
	}
}

func TestChangedPasswordSignsOutDevicesIfTheUserWants(t *testing.T) {
	l := newLab(t)
	c := l.Login("alice")
	b, page := l.own(accountPage + "/password")
	if r := b.submit(page, "step", "password", "password", "another long password", "again", "a different one"); r.status != 400 || !strings.Contains(r.body, "do not match") {
		t.Errorf("different passwords: %d %s", r.status, r.body)
	}
	if r := b.submit(page, "step", "password", "password", "", "again", ""); r.status != 400 {
		t.Errorf("no password: %d", r.status)
	}
	b.send(page, "step", "password", "password", "another long password", "again", "another long password").has("The password is changed")
	c.Do("GET", "/v3/account/whoami", nil)
	if r := b.submit(page, "step", "password", "password", "a third long password", "again", "a third long password", "all", "yes"); r.status != 200 || !strings.Contains(r.body, "The password is changed") {
		t.Errorf("%d %s", r.status, r.body)
	}
	c.Refused("GET", "/v3/account/whoami", nil, 401, "M_UNKNOWN_TOKEN")
	page = b.get(accountPage)
	if r := b.submit(page, "user", "alice", "password", testserver.Password()); r.status != 403 {
		t.Errorf("the old password: %d", r.status)
	}
	if r := b.submit(page, "user", "alice", "password", "a third long password"); r.status != 303 {
		t.Errorf("the new password: %d %s", r.status, r.body)
	}
}

func TestDangerousPagesNeedARecentSignIn(t *testing.T) {
	l := newLab(t)
	b, _ := l.own(accountPage)
	forms := map[string]url.Values{}
	for _, path := range []string{"/password", "/security", "/approve", "/delete"} {
		if page := b.get(accountPage + path); strings.Contains(page.body, `type="password" autocomplete="current-password"`) {
			t.Errorf("%s needs the password just after signing in", path)
		}
		_, forms[path] = b.get(accountPage + "/profile").form()
	}
	l.Advance(10*time.Minute + time.Second)
	for path, f := range forms {
		if page := b.get(accountPage + path); !strings.Contains(page.body, `autocomplete="current-password"`) {
			t.Errorf("%s can be seen: %s", path, page.body)
		}
		for name, value := range map[string]string{"step": strings.TrimPrefix(path, "/"), "password": "another long password", "again": "another long password", "name": "alice"} {
			f.Set(name, value)
		}
		if r := b.post(accountPage+path, f); !strings.Contains(r.body, `autocomplete="current-password"`) {
			t.Errorf("%s can be used: %d %s", path, r.status, r.body)
		}
	}
	for _, path := range []string{"", "/profile", "/devices"} {
		if page := b.get(accountPage + path); page.status != 200 || strings.Contains(page.body, `autocomplete="current-password"`) {
			t.Errorf("%s needs a recent sign-in", path)
		}
	}
	b.send(b.get(accountPage+"/password"), "password", testserver.Password()).has("New password")
}

func TestAccountIsDeletedAfterItsNameWasTyped(t *testing.T) {
	l := newLab(t)
	c := l.Login("alice")
	c.Do("PUT", "/v3/profile/@alice:test/displayname", obj{"displayname": "Alice"})
	b, page := l.own(accountPage + "/delete")
	if r := b.submit(page, "step", "delete", "name", "bob"); r.status != 400 || !strings.Contains(r.body, "not your username") {
		t.Errorf("another name: %d %s", r.status, r.body)
	}
	c.Do("GET", "/v3/account/whoami", nil)
	if r := b.submit(page, "step", "delete", "name", "alice", "erase", "yes"); r.status != 200 || !strings.Contains(r.body, "The account is deleted") {
		t.Fatalf("%d %s", r.status, r.body)
	}
	c.Refused("GET", "/v3/account/whoami", nil, 401, "M_UNKNOWN_TOKEN")
	if name := l.Anonymous().Do("GET", "/v3/profile/@alice:test", nil)["displayname"]; name != nil {
		t.Errorf("the display name is not erased: %v", name)
	}
	in := obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": testserver.Password()}
	l.Anonymous().Refused("POST", "/v3/login", in, 403, "M_FORBIDDEN")
	if r := b.get(accountPage); !strings.Contains(r.body, `name="user"`) {
		t.Error("the browser is signed in")
	}
}

func TestAccountIsDeletedWithEverything(t *testing.T) {
	l := newLab(t)
	alice, bob := l.Login("alice"), l.Register("bob")
	room, _ := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	bob.Do("POST", "/v3/join/"+url.PathEscape(room), obj{})
	alice.Do("PUT", "/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": "larkspur"})
	b, page := l.own(accountPage + "/delete")
	page.has("Delete everything")
	if r := b.submit(page, "step", "delete", "name", "alice", "erase", "everything"); r.status != 200 || !strings.Contains(r.body, "The account is deleted") {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if err := l.Erase(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, raw := bob.Raw("GET", "/v3/rooms/"+url.PathEscape(room)+"/messages?dir=b", nil); strings.Contains(string(raw), "larkspur") || !strings.Contains(string(raw), "m.room.redaction") {
		t.Errorf("the room shows %s", raw)
	}
}

func TestFormsOfTheAccountPageAreBoundToTheirBrowser(t *testing.T) {
	l := newLab(t)
	b, page := l.own(accountPage + "/devices")
	other, theirs := l.own(accountPage + "/devices")
	_, f := page.form()
	_, foreign := theirs.form()
	for name, r := range map[string]reply{
		"no token":                     b.post(accountPage+"/devices", url.Values{"step": {"sign-out-all"}}),
		"the token of another tab":     b.post(accountPage+"/devices", url.Values{"step": {"sign-out-all"}, "csrf": foreign["csrf"]}),
		"another origin":               b.post(accountPage+"/devices", url.Values{"step": {"sign-out-all"}, "csrf": f["csrf"]}, "Origin", "https://evil.example.org"),
		"another site":                 b.post(accountPage+"/devices", url.Values{"step": {"sign-out-all"}, "csrf": f["csrf"]}, "Sec-Fetch-Site", "cross-site"),
		"no cookie":                    l.browser().post(accountPage+"/devices", url.Values{"step": {"sign-out-all"}, "csrf": f["csrf"]}),
		"a step that the page has not": other.post(accountPage+"/profile", url.Values{"step": {"sign-out-all"}, "csrf": foreign["csrf"]}),
	} {
		if strings.Contains(r.body, "You are signed out") || r.status == 303 {
			t.Errorf("%s: %d", name, r.status)
		}
	}
	if r := b.get(accountPage + "/devices"); !strings.Contains(r.body, "Sign out everywhere") {
		t.Error("the browser was signed out")
	}
	b.send(b.get(accountPage), "step", "sign-out").has(`name="password"`)
	if r := b.submit(page, "step", "sign-out-all"); strings.Contains(r.body, "You are signed out") {
		t.Error("a page of a session that has ended works")
	}
}

// masterKey returns a request that sets another master key.
func masterKey(t *testing.T) obj {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key := base64.RawStdEncoding.EncodeToString(public)
	return obj{"master_key": obj{"user_id": "@alice:test", "usage": []string{"master"}, "keys": obj{"ed25519:" + key: key}}}
}

func TestCrossSigningResetIsApprovedOnThePage(t *testing.T) {
	l := newLab(t)
	const path = "/v3/keys/device_signing/upload"
	c := l.signedInClient()
	c.Do("POST", path, masterKey(t))
	wanted := masterKey(t)
	ask := func(body obj) (session, page string) {
		t.Helper()
		status, _, raw := c.Raw("POST", path, body)
		var answer obj
		if err := json.Unmarshal(raw, &answer); err != nil || status != 401 {
			t.Fatalf("%d %s", status, raw)
		}
		return answer["session"].(string), testserver.Get(answer, "params", "m.oauth", "url").(string)
	}
	session, address := ask(wanted)
	b := l.browser()
	page := b.get(b.get(address).header.Get("Location"))
	page = b.signIn(page)
	page.has("Replace your cross-signing keys", "Example &lt;b&gt;App", "BROWSERDEVICE")
	ask(wanted) // opening the page approves nothing
	b.get(accountPage).has("A client is waiting for your approval")
	b.get("/_matrix/client/v3/auth/m.oauth/fallback/web?session=" + session).header.Get("Location")
	second := b.get(accountPage + "/approve") // without the session, as older clients open it
	if r := b.submit(page, "step", "approve"); r.status != 200 || !strings.Contains(r.body, "Approved") || !strings.Contains(r.body, "data-auth-done") {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if r := b.submit(second, "step", "approve"); r.status != 404 {
		t.Errorf("approved in two tabs: %d", r.status)
	}
	c.Do("POST", path, wanted)

	l.Register("bob")
	session, address = ask(masterKey(t))
	thief := l.browser()
	theirs := thief.get(thief.get(address).header.Get("Location"))
	in := thief.submit(theirs, "user", "bob", "password", testserver.Password())
	if r := thief.get(in.header.Get("Location")); r.status != 404 || strings.Contains(r.body, "BROWSERDEVICE") {
		t.Errorf("the request of another user: %d %s", r.status, r.body)
	}
	page = b.get(accountPage + "/approve?session=" + session)
	if r := b.submit(page, "step", "refuse"); r.status != 200 || !strings.Contains(r.body, "Refused") {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := b.submit(page, "step", "approve"); r.status != 404 || !strings.Contains(r.body, "decided already") {
		t.Errorf("approved after it was refused: %d", r.status)
	}
	b.get(accountPage + "/approve").has("No client is waiting")
}

func TestAdministrationIsApprovedOnThePageWithTheSecondFactor(t *testing.T) {
	l := newSecondLab(t, gate.Policy{MFA: gate.Optional})
	c := l.Login("alice")
	if _, err := l.Control(t.Context(), "user admin", json.RawMessage(`{"user":"alice","admin":true}`)); err != nil {
		t.Fatal(err)
	}
	l.Register("bob")
	app := l.enrol("alice")
	const whois = "/v3/admin/whois/@bob:test"
	ask := func() (address string) {
		t.Helper()
		status, _, raw := c.Raw("GET", whois, nil)
		var answer obj
		if err := json.Unmarshal(raw, &answer); err != nil || status != 401 {
			t.Fatalf("%d %s", status, raw)
		}
		return "/_matrix/client/v3/auth/m.login.sso/fallback/web?session=" + answer["session"].(string)
	}
	b := l.browser()
	page := b.get(b.get(ask()).header.Get("Location"))
	page = b.step(page, "password", "user", "alice", "password", testserver.Password())
	page = b.step(page, "code", "code", app.next())
	page.has("Administrate this server", "For 15 minutes", c.DeviceID)
	l.Advance(10*time.Minute + time.Second) // the code was shown too long ago
	page = b.get(b.get(ask()).header.Get("Location"))
	if strings.Contains(page.body, "Administrate") {
		t.Fatal("the page is shown without another code")
	}
	page = b.step(page, "code", "code", app.next())
	ask() // opening the page approves nothing
	if r := b.submit(page, "step", "approve"); r.status != 200 || !strings.Contains(r.body, "Approved") {
		t.Fatalf("%d %s", r.status, r.body)
	}
	c.Do("GET", whois, nil)
	c.Do("GET", whois, nil)
}

func TestFallbackLeadsToTheApprovalOfTheSession(t *testing.T) {
	l := newLab(t)
	b := l.browser()
	for _, stage := range []string{"m.login.sso", "m.oauth", "org.matrix.cross_signing_reset"} {
		if r := b.get("/_matrix/client/v3/auth/" + stage + "/fallback/web?session=a%26b"); r.header.Get("Location") != accountPage+"/approve?session=a%26b" {
			t.Errorf("%s: %d %s", stage, r.status, r.header.Get("Location"))
		}
	}
	if r := b.get("/_matrix/client/r0/auth/m.login.sso/fallback/web?session=a"); r.status != 303 {
		t.Errorf("the older path: %d", r.status)
	}
	for address, want := range map[string]int{"m.login.recaptcha/fallback/web?session=a": 404, "m.login.sso/fallback/web": 400} {
		if r := b.get("/_matrix/client/v3/auth/" + address); r.status != want {
			t.Errorf("%s: %d, want %d", address, r.status, want)
		}
	}
}
