package server_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/accounts/gate"
	"ebb/config"
	"ebb/httpapi"
	"ebb/internal/testserver"
	"ebb/storage"
)

// adminLab is a server on which alice is an administrator, who has a session from before she had a passkey. bob has a
// room with an alias.
type adminLab struct {
	*pageLab
	bob  *testserver.Client
	room string
	old  *testserver.Client
}

func newAdminLab(t *testing.T, policy gate.Policy) *adminLab {
	t.Helper()
	l := &adminLab{pageLab: newPageLab(t, policy)}
	l.bob = l.Register("bob")
	l.room = l.bob.Do("POST", "/v3/createRoom", obj{"preset": "private_chat", "room_alias_name": "bobs"})["room_id"].(string)
	control(t, l.Server, "user admin", obj{"user": "@alice:test", "admin": true})
	l.old = l.Login("alice")
	l.addPasskey("alice")
	return l
}

// addPasskey gives a user a second factor.
func (l *pageLab) addPasskey(name string) {
	l.t.Helper()
	err := l.DB().Write(l.t.Context(), func(tx *storage.Tx) error {
		_, err := tx.AddPasskey(storage.PasskeyRow{CredentialID: name, User: l.user(name), RPID: "localhost", Name: "Key", PublicKey: "k"})
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// program returns a client with a token that was issued to a program of a user.
func (l *pageLab) program(name string) *testserver.Client {
	l.t.Helper()
	raw, err := json.Marshal(control(l.t, l.Server, "token issue", obj{"user": name, "device": "SCRIPT"}))
	if err != nil {
		l.t.Fatal(err)
	}
	c := l.Anonymous()
	c.Token = jsonText(raw, "access_token")
	return c
}

// approve approves what a session has asked for, on the account page of alice.
func (l *adminLab) approve(session string) {
	l.t.Helper()
	if err := l.Accounts().Decide(l.t.Context(), l.user("alice"), session, true); err != nil {
		l.t.Fatal(err)
	}
}

// act is an act of administration.
type act struct {
	method, path string
	body         obj
}

// whois is an act that changes nothing.
var whois = act{"GET", "/v3/admin/whois/@bob:test", nil}

// acts returns all acts of administration: the routes that are for administrators only, and what users may do with
// their own things, but only administrators with those of others.
func (l *adminLab) acts() []act {
	l.t.Helper()
	all := []act{
		whois,
		{"GET", "/_synapse/admin/v1/users/@bob:test/admin", nil},
		{"PUT", "/v3/directory/list/room/" + url.PathEscape(l.room), obj{"visibility": "public"}},
		{"DELETE", "/v3/directory/room/%23bobs:test", nil},
	}
	fill := strings.NewReplacer("{userId}", "@bob:test", "{holdId}", "1")
	for _, r := range l.Routes() {
		if r.Auth != httpapi.Admin {
			continue
		}
		for _, path := range append([]string{r.Path}, r.Aliases...) {
			all = append(all, act{r.Method, fill.Replace(path), obj{}})
		}
	}
	if len(all) < 20 {
		l.t.Fatalf("only %d acts", len(all))
	}
	return all
}

// asks fails the test unless an act is refused until it is approved, and returns the session to approve.
func (l *adminLab) asks(c *testserver.Client, a act) (session string, stages []string) {
	l.t.Helper()
	session, page, stages := l.ask(c, a.method, a.path, a.body)
	if page != "" && !strings.HasSuffix(page, "/_ebb/account?session="+session) {
		l.t.Errorf("%s %s: the page is at %q", a.method, a.path, page)
	}
	return session, stages
}

// allowed reports whether an act is not refused for lack of rights. The parameters may well be.
func (a act) allowed(c *testserver.Client) bool {
	status, _, raw := c.Raw(a.method, a.path, a.body)
	code := jsonText(raw, "errcode")
	return status != http.StatusUnauthorized && code != "M_FORBIDDEN" && code != "M_USER_SUSPENDED"
}

func TestEveryActOfAdministrationNeedsARecentSecondFactor(t *testing.T) {
	l := newAdminLab(t, gate.Policy{MFA: gate.Optional})
	c, thief, program := l.web("alice", "PHONE"), l.web("alice", "THIEF"), l.program("alice")
	acts := l.acts()
	session, _ := l.asks(c, whois)
	for _, a := range acts {
		if again, stages := l.asks(c, a); again != session || !slices.Equal(stages, []string{"m.oauth"}) {
			t.Errorf("%s %s: %v", a.method, a.path, stages)
		}
	}
	if err := l.Accounts().Decide(t.Context(), l.user("bob"), session, true); err == nil {
		t.Error("another user approves it")
	}
	l.approve(session)
	if err := l.Accounts().Decide(t.Context(), l.user("alice"), session, true); err == nil {
		t.Error("an approval is extended in another window")
	}
	l.Advance(15*time.Minute - time.Second)
	for _, a := range acts {
		l.asks(thief, a)
		if !a.allowed(c) {
			t.Errorf("%s %s after it was approved is refused", a.method, a.path)
		}
		if !a.allowed(program) {
			t.Errorf("%s %s by a program is refused", a.method, a.path)
		}
	}
	l.Advance(time.Second)
	if again, _ := l.asks(c, whois); again == session {
		t.Error("an approval that has expired can be given again")
	}
}

func TestSessionsWithoutOAuthAdministrateByApproval(t *testing.T) {
	l := newAdminLab(t, gate.Policy{MFA: gate.Optional})
	session, stages := l.asks(l.old, whois)
	if !slices.Equal(stages, []string{"m.login.sso"}) {
		t.Errorf("the stages are %v", stages)
	}
	l.old.Refused("PUT", "/v1/admin/lock/@bob:test", obj{"locked": true, "auth": obj{
		"type": "m.login.password", "session": session, "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": testserver.Password(),
	}}, 401, "")
	l.approve(session)
	l.old.Do(whois.method, whois.path, nil)
}

func TestAdministratorsWithoutASecondFactorNeedNoApproval(t *testing.T) {
	for name, policy := range map[string]gate.Policy{"none is set up": {MFA: gate.Optional}, "there is time left to set one up": {MFA: gate.Required, Grace: time.Hour}} {
		l := newPageLab(t, policy)
		l.Register("bob")
		c := l.Login("bob")
		control(t, l.Server, "user admin", obj{"user": "@bob:test", "admin": true})
		if status, _, raw := c.Raw("GET", "/v3/admin/whois/@alice:test", nil); status != 200 {
			t.Errorf("%s: %d %s", name, status, raw)
		}
	}
	l := newAdminLab(t, gate.Policy{})
	l.old.Do(whois.method, whois.path, nil)
	l.web("alice", "PHONE").Do(whois.method, whois.path, nil)
}

func TestApprovalOfAdministrationEnds(t *testing.T) {
	alice := id.UserID("@alice:test")
	for name, end := range map[string]func(l *adminLab) error{
		"new password": func(l *adminLab) error {
			return l.Accounts().SetPassword(t.Context(), alice, "another long password", accounts.PasswordChange{})
		},
		"locked in between": func(l *adminLab) error {
			control(t, l.Server, "user lock", obj{"user": alice})
			control(t, l.Server, "user unlock", obj{"user": alice})
			return nil
		},
		"signed in again on the same device": func(l *adminLab) error {
			l.web("alice", "PHONE")
			return nil
		},
		"browsers signed out": func(l *adminLab) error {
			return l.DB().Write(t.Context(), func(tx *storage.Tx) error { return tx.EndBrowsers(l.user("alice"), "") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newAdminLab(t, gate.Policy{MFA: gate.Optional})
			c := l.web("alice", "PHONE")
			session, _ := l.asks(c, whois)
			l.approve(session)
			c.Do(whois.method, whois.path, nil)
			if err := end(l); err != nil {
				t.Fatal(err)
			}
			if whois.allowed(c) {
				t.Error("the approval is still good")
			}
		})
	}
}

func TestSuspendedAdministratorsDoNotAdministrate(t *testing.T) {
	l := newAdminLab(t, gate.Policy{MFA: gate.Optional})
	c, program := l.web("alice", "PHONE"), l.program("alice")
	session, _ := l.asks(c, whois)
	l.approve(session)
	control(t, l.Server, "user suspend", obj{"user": "@alice:test"})
	for _, a := range l.acts() {
		for _, d := range []*testserver.Client{c, program} {
			if a.allowed(d) {
				t.Errorf("%s %s by a suspended administrator", a.method, a.path)
			}
		}
	}
	control(t, l.Server, "user unsuspend", obj{"user": "@alice:test"})
	control(t, l.Server, "user admin", obj{"user": "@alice:test", "admin": false})
	for _, a := range l.acts() {
		if a.allowed(c) {
			t.Errorf("%s %s by a former administrator", a.method, a.path)
		}
	}
}

func TestAdministratorsDoAsUsersWhatUsersMayDo(t *testing.T) {
	l := newAdminLab(t, gate.Policy{MFA: gate.Optional})
	c := l.web("alice", "PHONE")
	room := c.Do("POST", "/v3/createRoom", obj{"preset": "private_chat", "room_alias_name": "own"})["room_id"].(string)
	c.Do("PUT", "/v3/directory/list/room/"+url.PathEscape(room), obj{"visibility": "public"})
	c.Do("DELETE", "/v3/directory/room/%23own:test", nil)
	c.Do("GET", "/v3/admin/whois/@alice:test", nil)
	if c.Do("GET", "/_synapse/admin/v1/users/@alice:test/admin", nil)["admin"] != true {
		t.Error("a client is not told that its user is an administrator")
	}
	if waiting, err := l.Accounts().Approvals(t.Context(), l.user("alice")); err != nil || len(waiting) > 0 {
		t.Errorf("%d requests wait for approval, %v", len(waiting), err)
	}
}

func TestTokensOnTheCommandLineNeedApprovalToo(t *testing.T) {
	l := newAdminLab(t, gate.Policy{MFA: gate.Optional})
	c := l.web("alice", "PHONE")
	h := control(t, l.Server, "hold add", obj{"user": "@bob:test", "reason": "case 7", "review": "2031-01-01"})
	raw, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var hold struct {
		ID int64 `json:"id"`
	}
	if err := json.Unmarshal(raw, &hold); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"hold lift", "hold export"} {
		args, err := json.Marshal(obj{"id": hold.ID, "token": c.Token})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Control(t.Context(), command, args); err == nil || !strings.Contains(err.Error(), "/_ebb/account?session=") {
			t.Errorf("%s: %v", command, err)
		}
	}
	session, _ := l.asks(c, whois)
	l.approve(session)
	control(t, l.Server, "hold lift", obj{"id": hold.ID, "token": c.Token})
}

func TestWithoutPagesAdministratorsWithASecondFactorUseTheCommandLine(t *testing.T) {
	s := testserver.NewWithPolicy(t, gate.Policy{MFA: gate.Optional}, func(c *config.Config) { c.OAuth.Enabled = false })
	l := &pageLab{s, t}
	s.Register("bob")
	c := s.Register("alice")
	control(t, s, "user admin", obj{"user": "@alice:test", "admin": true})
	l.addPasskey("alice")
	c.Refused(whois.method, whois.path, nil, 403, "M_FORBIDDEN")
	l.program("alice").Do(whois.method, whois.path, nil)
}

func TestAdministrationIsAudited(t *testing.T) {
	l := newAdminLab(t, gate.Policy{MFA: gate.Optional})
	c := l.web("alice", "PHONE")
	session, _ := l.asks(c, whois)
	l.asks(c, whois)
	l.approve(session)
	log := strings.Join(auditLog(t, l.Config().DSN()), "\n")
	for text, want := range map[string]int{"administration asked for": 1, "request approved on the account page": 1} {
		if got := strings.Count(log, text); got != want {
			t.Errorf("%q is recorded %d times, want %d: %s", text, got, want, log)
		}
	}
}
