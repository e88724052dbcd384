package server_test

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/accounts/gate"
	"ebb/config"
	"ebb/ident"
	"ebb/internal/testserver"
	"ebb/storage"
)

// pageLab is a server with web pages, and alice, who has signed in there.
type pageLab struct {
	*testserver.Server
	t *testing.T
}

func newPageLab(t *testing.T, policy gate.Policy) *pageLab {
	t.Helper()
	l := &pageLab{testserver.NewWithPolicy(t, policy, func(c *config.Config) { c.OAuth.Enabled = true }), t}
	l.Register("alice")
	return l
}

// user returns the number of a user.
func (l *pageLab) user(name string) (nid ident.UserNID) {
	l.t.Helper()
	err := l.DB().Read(l.t.Context(), func(tx *storage.Tx) (err error) {
		nid, _, err = tx.LookupUser("@" + name + ":test")
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return nid
}

// web signs a device of a user in by OAuth 2.0.
func (l *pageLab) web(name, device string) *testserver.Client {
	l.t.Helper()
	user := l.user(name)
	at := gate.Attempt{Path: gate.PathCode, User: user, Shown: gate.Password | gate.TOTP}
	in, err := l.Accounts().SignIn(l.t.Context(), at, accounts.NewSession{Device: id.DeviceID(device), DisplayName: "Example"}, func(tx *storage.Tx, _ accounts.SignedIn) error {
		d, _, err := tx.Device(user, device)
		if err != nil {
			return err
		}
		return tx.AddOAuthSession(storage.OAuthSession{Device: d.NID, Client: "client", Scope: "scope", Family: name + device})
	})
	if err != nil {
		l.t.Fatal(err)
	}
	c := l.Anonymous()
	c.User, c.DeviceID, c.Token = string(in.User), device, in.Access
	return c
}

// ask sends a request and returns the 401 response that asks for authentication.
func (l *pageLab) ask(c *testserver.Client, method, path string, body obj) (session, page string, stages []string) {
	l.t.Helper()
	status, _, raw := c.Raw(method, path, body)
	var answer struct {
		Code    string                       `json:"errcode"`
		Session string                       `json:"session"`
		Flows   []map[string][]string        `json:"flows"`
		Params  map[string]map[string]string `json:"params"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil || status != 401 || answer.Code != "" || answer.Session == "" {
		l.t.Fatalf("%s %s: %d %s", method, path, status, raw)
	}
	for _, f := range answer.Flows {
		stages = append(stages, f["stages"]...)
	}
	return answer.Session, answer.Params["m.oauth"]["url"], stages
}

const keysPath = "/v3/keys/device_signing/upload"

// withSession adds the field auth to a copy of a body.
func withSession(body obj, session string) obj {
	out := obj{"auth": obj{"session": session}}
	for name, v := range body {
		out[name] = v
	}
	return out
}

func TestSessionsOfOAuthResetCrossSigningKeysByApproval(t *testing.T) {
	l := newPageLab(t, gate.Policy{})
	c, user := l.web("alice", "PHONE"), l.user("alice")
	first, second := crossSigningKeys(t, c.User), crossSigningKeys(t, c.User)
	c.Do("POST", keysPath, first) // the first keys need no authentication
	session, page, stages := l.ask(c, "POST", keysPath, second)
	if !slices.Equal(stages, []string{"m.oauth", "org.matrix.cross_signing_reset"}) {
		t.Errorf("flows: %v", stages)
	}
	u, err := url.Parse(page)
	if err != nil || u.Query().Get("action") != "org.matrix.cross_signing_reset" || u.Query().Get("session") != session || u.Path != "/_ebb/account" {
		t.Errorf("the page is at %q", page)
	}
	if again, _, _ := l.ask(c, "POST", keysPath, second); again != session {
		t.Error("the repeated request has another session")
	}
	if err := l.Accounts().Decide(t.Context(), user, session, true); err != nil {
		t.Fatal(err)
	}
	l.ask(c, "POST", keysPath, withSession(second, "other"))
	l.ask(c, "POST", keysPath, withSession(crossSigningKeys(t, c.User), session)) // the approval is for other keys
	c.Do("POST", keysPath, withSession(second, session))
	if s, _, _ := l.ask(c, "POST", keysPath, withSession(first, session)); s == session {
		t.Error("an approval is used twice")
	}
}

func TestApprovedResetNeedsNoSessionButTheSameRequest(t *testing.T) {
	l := newPageLab(t, gate.Policy{})
	c, user := l.web("alice", "PHONE"), l.user("alice")
	c.Do("POST", keysPath, crossSigningKeys(t, c.User))
	wanted := crossSigningKeys(t, c.User)
	session, _, _ := l.ask(c, "POST", keysPath, wanted)
	if err := l.Accounts().Decide(t.Context(), user, session, true); err != nil {
		t.Fatal(err)
	}
	other := l.web("alice", "THIEF")
	l.ask(other, "POST", keysPath, withSession(wanted, session)) // the approval is of another device
	c.Do("POST", keysPath, wanted)                               // as matrix-rust-sdk repeats it
	c.Do("POST", keysPath, wanted)                               // the keys are the same, so this changes nothing
}

func TestApprovalsEnd(t *testing.T) {
	l := newPageLab(t, gate.Policy{})
	c, user := l.web("alice", "PHONE"), l.user("alice")
	c.Do("POST", keysPath, crossSigningKeys(t, c.User))
	wanted := crossSigningKeys(t, c.User)
	session, _, _ := l.ask(c, "POST", keysPath, wanted)
	decide := func(user ident.UserNID, session string, want bool) {
		t.Helper()
		if err := l.Accounts().Decide(t.Context(), user, session, true); (err == nil) != want {
			t.Errorf("approval: %v", err)
		}
	}
	l.Register("bob")
	decide(l.user("bob"), session, false)
	decide(user, "unknown", false)
	decide(user, session, true)
	decide(user, session, false) // in another window
	l.Advance(10 * time.Minute)
	next, _, _ := l.ask(c, "POST", keysPath, withSession(wanted, session))
	if next == session {
		t.Error("an expired approval can be approved again")
	}
	decide(user, session, false)
	if err := l.Accounts().Decide(t.Context(), user, next, false); err != nil {
		t.Fatal(err)
	}
	decide(user, next, false)
	last, _, _ := l.ask(c, "POST", keysPath, wanted)
	l.web("alice", "PHONE") // signed in again, maybe by somebody else
	decide(user, last, false)
}

func TestRequestsThatWaitForApprovalAreBoundedPerDevice(t *testing.T) {
	l := newPageLab(t, gate.Policy{})
	c, thief, user := l.web("alice", "PHONE"), l.web("alice", "THIEF"), l.user("alice")
	c.Do("POST", keysPath, crossSigningKeys(t, c.User))
	session, _, _ := l.ask(c, "POST", keysPath, crossSigningKeys(t, c.User))
	for range 15 {
		l.Advance(time.Second)
		l.ask(thief, "POST", keysPath, crossSigningKeys(t, c.User))
	}
	waiting, err := l.Accounts().Approvals(t.Context(), user)
	if err != nil || len(waiting) != 11 || waiting[10].Session != session || waiting[10].DeviceName != "Example" {
		t.Errorf("%d requests wait, %v", len(waiting), err)
	}
}

func TestSessionsOfOAuthHaveNoOtherAuthentication(t *testing.T) {
	l := newPageLab(t, gate.Policy{})
	l.Login("alice")
	c := l.web("alice", "PHONE")
	password := obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": testserver.Password()}
	for _, row := range []struct {
		method, path string
		body         obj
		action       string
	}{
		{"POST", "/v3/account/password", obj{"new_password": "another long password"}, ""},
		{"POST", "/v3/account/deactivate", obj{}, "org.matrix.account_deactivate"},
		{"POST", "/v3/delete_devices", obj{"devices": []string{"PHONE"}}, "org.matrix.devices_list"},
		{"DELETE", "/v3/devices/PHONE", obj{}, "org.matrix.device_delete&device_id=PHONE"},
		{"POST", "/v1/login/get_token", obj{}, ""},
	} {
		for _, auth := range []any{nil, password} {
			row.body["auth"] = auth
			status, _, raw := c.Raw(row.method, row.path, row.body)
			if status != 403 || !strings.Contains(string(raw), "M_FORBIDDEN") || !strings.Contains(string(raw), "/_ebb/account") || !strings.Contains(jsonText(raw, "error"), row.action) {
				t.Errorf("%s %s: %d %s", row.method, row.path, status, raw)
			}
		}
	}
	c.Do("POST", keysPath, crossSigningKeys(t, c.User))
	wanted := crossSigningKeys(t, c.User)
	wanted["auth"] = password
	c.Refused("POST", keysPath, wanted, 401, "M_UNRECOGNIZED")
	can := testserver.Get(c.Do("GET", "/v3/capabilities", nil), "capabilities")
	for _, name := range []string{"m.change_password", "m.3pid_changes", "m.get_login_token"} {
		if testserver.Get(can, name, "enabled") != false {
			t.Errorf("%s is offered", name)
		}
	}
	c.Do("GET", "/v3/account/whoami", nil) // nothing has happened to the account
}

// jsonText returns a string member of a JSON object.
func jsonText(raw []byte, name string) string {
	var o map[string]any
	_ = json.Unmarshal(raw, &o)
	text, _ := o[name].(string)
	return text
}

func TestAccountsForWhichAPasswordIsNotEnoughConfirmOnThePage(t *testing.T) {
	for name, policy := range map[string]gate.Policy{"no password": {}, "second factor": {MFA: gate.Optional}} {
		l := newPageLab(t, policy)
		c, user := l.Login("alice"), l.user("alice")
		_, _, stages := l.ask(c, "POST", "/v3/delete_devices", obj{"devices": []string{"A"}})
		if !slices.Equal(stages, []string{"m.login.password"}) {
			t.Errorf("%s, before: %v", name, stages)
		}
		err := l.DB().Write(t.Context(), func(tx *storage.Tx) error {
			if policy.MFA == gate.Optional {
				_, err := tx.AddPasskey(storage.PasskeyRow{CredentialID: "k", User: user, RPID: "localhost", Name: "Key", PublicKey: "k"})
				return err
			}
			return tx.SetPassword(user, "")
		})
		if err != nil {
			t.Fatal(err)
		}
		body := obj{"devices": []string{c.DeviceID}}
		session, page, stages := l.ask(c, "POST", "/v3/delete_devices", body)
		if !slices.Equal(stages, []string{"m.login.sso"}) || page != "" {
			t.Errorf("%s: %v, %q", name, stages, page)
		}
		if err := l.Accounts().Decide(t.Context(), user, session, true); err != nil {
			t.Fatal(err)
		}
		c.Do("POST", "/v3/delete_devices", withSession(body, session))
		c.Refused("GET", "/v3/account/whoami", nil, 401, "M_UNKNOWN_TOKEN")
	}
}

// Whoever has a device and knew the password may have approved a request that was not sent yet.
func TestApprovalsEndWithThePassword(t *testing.T) {
	l := newPageLab(t, gate.Policy{})
	c, user := l.web("alice", "PHONE"), l.user("alice")
	c.Do("POST", keysPath, crossSigningKeys(t, c.User))
	wanted := crossSigningKeys(t, c.User)
	session, _, _ := l.ask(c, "POST", keysPath, wanted)
	if err := l.Accounts().Decide(t.Context(), user, session, true); err != nil {
		t.Fatal(err)
	}
	if err := l.Accounts().SetPassword(t.Context(), id.UserID(c.User), "another long password", accounts.PasswordChange{}); err != nil {
		t.Fatal(err)
	}
	if next, _, _ := l.ask(c, "POST", keysPath, withSession(wanted, session)); next == session {
		t.Error("the approval is still good")
	}
}

// A session from before the second factor cannot sign in another device. Its user must not be asked to approve that.
func TestUsersAreNotAskedToApproveALoginTokenThatIsRefused(t *testing.T) {
	l := newPageLab(t, gate.Policy{MFA: gate.Optional})
	c, user := l.Login("alice"), l.user("alice")
	l.ask(c, "POST", "/v1/login/get_token", obj{})
	err := l.DB().Write(t.Context(), func(tx *storage.Tx) error {
		_, err := tx.AddPasskey(storage.PasskeyRow{CredentialID: "k", User: user, RPID: "localhost", Name: "Key", PublicKey: "k"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Refused("POST", "/v1/login/get_token", obj{}, 403, "M_FORBIDDEN")
}

func TestWithoutPagesThePasswordConfirms(t *testing.T) {
	s := testserver.NewWithPolicy(t, gate.Policy{MFA: gate.Optional}, func(c *config.Config) { c.OAuth.Enabled = false })
	c := s.Register("alice")
	l := &pageLab{s, t}
	err := l.DB().Write(t.Context(), func(tx *storage.Tx) error {
		_, err := tx.AddPasskey(storage.PasskeyRow{CredentialID: "k", User: l.user("alice"), RPID: "localhost", Name: "Key", PublicKey: "k"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, stages := l.ask(c, "POST", "/v3/delete_devices", obj{"devices": []string{"A"}}); !slices.Equal(stages, []string{"m.login.password"}) {
		t.Errorf("%v", stages)
	}
}
