package adminapi

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/accounts/factors"
	"ebb/accounts/gate"
	"ebb/mxerr"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// withFactors gives a desk accounts and second factors.
func withFactors(t *testing.T, mode gate.Mode) *desk {
	t.Helper()
	d := newDesk(t, "")
	clock := func() time.Time { return d.now }
	db := storagetest.Open(t, storage.Config{Now: clock})
	g := gate.New(gate.Options{Policy: gate.Policy{MFA: mode}, Factors: factors.Enrolment{}, Now: clock})
	d.api.Config.PublicURL = "https://chat.example.org/"
	d.api.Accounts = accounts.New(accounts.Options{DB: db, Server: "here", Registration: accounts.Closed, Gate: g, Now: clock})
	var err error
	if d.api.Factors, err = factors.New(factors.Options{DB: db, Gate: g, Server: "here", Passkeys: factors.PasskeyOptions{PublicURL: d.api.Config.PublicURL}, Now: clock}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alice", "bob"} {
		if _, err := d.api.Accounts.Create(t.Context(), accounts.NewAccount{Username: name, Password: "correct horse", Admin: name == "bob"}); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// linkBy runs a command that makes a link, and returns the link and its token.
func (d *desk) linkBy(command, user string) (EnrolLink, string) {
	d.t.Helper()
	raw, err := json.Marshal(UserArgs{User: user})
	if err != nil {
		d.t.Fatal(err)
	}
	made, err := d.api.Run(d.t.Context(), command, raw)
	if err != nil {
		d.t.Fatal(err)
	}
	l := made.(EnrolLink)
	u, err := url.Parse(l.URL)
	if err != nil || !strings.HasPrefix(l.URL, "https://chat.example.org"+factors.LinkPath+"?") {
		d.t.Errorf("%s: %v", l.URL, err)
	}
	return l, u.Query().Get("token")
}

func TestPolicyOfOneAccountNeedsTheWebPages(t *testing.T) {
	d := withFactors(t, gate.Off)
	d.api.Config.OAuth.Enabled = false
	run := func(user, mode string) string {
		t.Helper()
		raw, err := json.Marshal(MFAArgs{User: user, Mode: mode})
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.api.Run(t.Context(), "user mfa", raw)
		if err != nil && mxerr.Code(err) == "" {
			t.Error(err)
		}
		return mxerr.Code(err)
	}
	needed := func() (needed bool) {
		t.Helper()
		_, err := d.api.Accounts.LoginPassword(t.Context(), accounts.Identifier{User: "alice"}, "correct horse", accounts.NewSession{})
		return err != nil
	}
	own := func() string { return page[User](t, d.api, "user list", ListArgs{}).Items[0].MFA }
	if code := run("alice", "required"); code != mxerr.CodeForbidden || needed() {
		t.Errorf("without web pages: %q", code)
	}
	d.api.Config.OAuth.Enabled = true
	if code := run("alice", "required"); code != "" || !needed() || own() != "required" {
		t.Errorf("required: %q", code)
	}
	if code := run("@alice:here", "default"); code != "" || needed() || own() != "" {
		t.Errorf("default: %q", code)
	}
	for args, want := range map[[2]string]string{{"alice", ""}: mxerr.CodeMissingParam, {"alice", "always"}: mxerr.CodeInvalidParam, {"nobody", "off"}: mxerr.CodeNotFound} {
		if code := run(args[0], args[1]); code != want {
			t.Errorf("%v: %q, want %s", args, code, want)
		}
	}
}

func TestLinksAreMadeListedAndRevoked(t *testing.T) {
	d := withFactors(t, gate.Required)
	_, token := d.linkBy("user enrol-link", "alice")
	if l, err := d.api.Factors.OpenLink(t.Context(), token); err != nil || l.User != "@alice:here" {
		t.Errorf("%+v %v", l, err)
	}
	if l, recovery := d.linkBy("admin recover", "@bob:here"); recovery == "" || l.Expires.Sub(d.now) != 24*time.Hour {
		t.Errorf("%+v", l)
	}
	first := page[EnrolLink](t, d.api, "user enrol-list", ListArgs{Limit: 1})
	second := page[EnrolLink](t, d.api, "user enrol-list", ListArgs{Limit: 1, After: first.Next})
	var users []id.UserID
	for _, l := range append(first.Items, second.Items...) {
		if l.URL != "" {
			t.Errorf("the list shows a token: %+v", l)
		}
		users = append(users, l.User)
	}
	if len(users) != 2 || users[0] == users[1] || second.Next != "" {
		t.Errorf("%+v %+v", first, second)
	}
	if _, err := d.api.Run(t.Context(), "user enrol-revoke", json.RawMessage(`{"user":"alice"}`)); err != nil {
		t.Error(err)
	}
	if _, err := d.api.Factors.OpenLink(t.Context(), token); mxerr.Code(err) != mxerr.CodeForbidden {
		t.Errorf("a revoked link: %v", err)
	}
	for command, args := range map[string]string{
		"user enrol-link": `{"user":"nobody"}`, "user enrol-revoke": `{"user":"alice"}`, "admin recover": `{"user":"alice"}`, "user enrol-list": `{"after":"x"}`,
	} {
		if _, err := d.api.Run(t.Context(), command, json.RawMessage(args)); mxerr.Code(err) == "" {
			t.Errorf("%s %s: %v", command, args, err)
		}
	}
}

func TestDeactivationDeletesWhatBelongsToSecondFactors(t *testing.T) {
	d := withFactors(t, gate.Required)
	_, token := d.linkBy("user enrol-link", "alice")
	if _, err := d.api.Run(t.Context(), "user deactivate", json.RawMessage(`{"user":"alice"}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.api.Factors.OpenLink(t.Context(), token); mxerr.Code(err) != mxerr.CodeForbidden {
		t.Errorf("the link of a deactivated account: %v", err)
	}
}

func TestThereAreNoLinksWithoutSecondFactors(t *testing.T) {
	d := withFactors(t, gate.Off)
	_, err := d.api.Run(t.Context(), "user enrol-link", json.RawMessage(`{"user":"alice"}`))
	if mxerr.Code(err) != mxerr.CodeForbidden || !strings.Contains(err.Error(), "does not use second factors") {
		t.Errorf("%v", err)
	}
}
