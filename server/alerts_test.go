package server_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"ebb/accounts/factors"
	"ebb/accounts/gate"
	"ebb/config"
	"ebb/internal/testserver"
)

// notices delivers the server notices, and returns those of a user, who joins the room, which is "" if there is none.
func notices(t *testing.T, user *testserver.Client) (bodies []string, room string) {
	t.Helper()
	if err := user.Server().DeliverNotices(t.Context()); err != nil {
		t.Fatal(err)
	}
	sync := user.Do("GET", "/v3/sync", nil)
	invites, _ := get(sync, "rooms", "invite").(map[string]any)
	for invited := range invites {
		user.Do("POST", "/v3/rooms/"+url.PathEscape(invited)+"/join", nil)
	}
	sync = user.Do("GET", "/v3/sync", nil)
	joined, _ := get(sync, "rooms", "join").(map[string]any)
	for id, r := range joined {
		if !strings.Contains(fmt.Sprint(get(r, "account_data", "events")), "m.server_notice") {
			continue
		}
		room = id
		page := user.Do("GET", "/v3/rooms/"+url.PathEscape(id)+"/messages?dir=f&limit=100", nil)
		for _, e := range page["chunk"].([]any) {
			if get(e, "content", "msgtype") == "m.server_notice" && get(e, "content", "server_notice_type") != nil && get(e, "sender") == "@server-notices:test" {
				bodies = append(bodies, get(e, "content", "body").(string))
			}
		}
	}
	return bodies, room
}

var (
	disavowalForm = regexp.MustCompile(`http://127\.0\.0\.1:8008(/_ebb/account/notme\?token=[\w-]+)`)
	csrfForm      = regexp.MustCompile(`name="csrf" value="([\w-]+)"`)
)

// disavow opens the link in a notice like a browser, and confirms it.
func disavow(t *testing.T, s *testserver.Server, notice string) (page string) {
	t.Helper()
	link := disavowalForm.FindStringSubmatch(notice)
	if link == nil {
		t.Fatalf("no link in %q", notice)
	}
	jar, _ := cookiejar.New(nil)
	browser := &http.Client{Jar: jar}
	read := func(resp *http.Response, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%d %s %v", resp.StatusCode, raw, err)
		}
		return string(raw)
	}
	form := read(browser.Get(s.URL + link[1]))
	csrf := csrfForm.FindStringSubmatch(form)
	if csrf == nil {
		t.Fatalf("the page has no form: %s", form)
	}
	return form + read(browser.PostForm(s.URL+link[1], url.Values{"csrf": {csrf[1]}}))
}

func TestASignInFromANewDeviceCanBeDisavowed(t *testing.T) {
	p := newPostal(t, nil)
	alice := p.Register("alice")
	p.add(alice, "alice@example.org")
	if bodies, room := notices(t, alice); len(bodies) != 1 || !strings.Contains(bodies[0], "an e-mail address was added") || room == "" {
		t.Fatalf("after an address was added: %q", bodies)
	}
	p.Advance(time.Minute)
	thief := p.Login("alice")
	later := p.Login("alice")
	stolen := p.link("account/3pid", "thief@example.net", 1)
	p.follow(p.sink.Next())
	thief.Do("POST", "/v3/account/3pid/add", obj{"sid": stolen, "client_secret": clientSecret, "auth": passwordOf(thief)})
	bodies, _ := notices(t, alice)
	if len(bodies) != 4 || !strings.Contains(bodies[1], thief.DeviceID) || !strings.Contains(bodies[1], "new") {
		t.Fatalf("after a sign-in: %q", bodies)
	}
	if m := p.sink.Next(); m.To != "alice@example.org" || !strings.Contains(m.Text, thief.DeviceID) {
		t.Errorf("the e-mail is %+v", m)
	}

	path := disavowalForm.FindStringSubmatch(bodies[1])[1]
	if status, _, page := p.Anonymous().Raw("GET", path, nil); status != 200 || !strings.Contains(string(page), "@alice:test") || !strings.Contains(string(page), "This was not me") {
		t.Fatalf("the page: %d %s", status, page)
	}
	if status, _, _ := p.Anonymous().Raw("POST", path, []byte("csrf=x")); status != 403 {
		t.Errorf("a form of another website: %d", status)
	}
	thief.Do("GET", "/v3/account/whoami", nil) // a GET changes nothing
	if page := disavow(t, p.Server, bodies[1]); !strings.Contains(page, "by e-mail") {
		t.Errorf("the page does not say how to set a new password: %s", page)
	}
	for _, c := range []*testserver.Client{thief, later} {
		c.Refused("GET", "/v3/account/whoami", nil, 401, "M_UNKNOWN_TOKEN")
	}
	alice.Do("GET", "/v3/account/whoami", nil)
	login := obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": testserver.Password()}
	p.Anonymous().Refused("POST", "/v3/login", login, 403, "M_FORBIDDEN")
	if list := alice.Do("GET", "/v3/account/3pid", nil); get(list, "threepids", 0, "address") != "alice@example.org" || get(list, "threepids", 1) != nil {
		t.Errorf("the addresses are %v", list)
	}
	if status, _, _ := p.Anonymous().Raw("GET", path, nil); status != 404 {
		t.Errorf("the link works again: %d", status)
	}
	p.reset("alice@example.org", "a much better password")
	login["password"] = "a much better password"
	p.Anonymous().Do("POST", "/v3/login", login)
}

// reset sets a new password by e-mail.
func (p postal) reset(address, password string) {
	p.t.Helper()
	for range 10 { // other e-mails come first
		p.link("account/password", address, 1)
		m := p.sink.Next()
		if !linkForm.MatchString(m.Text) {
			continue
		}
		p.follow(m)
		p.Anonymous().Do("POST", "/v3/account/password", obj{"new_password": password, "auth": byEmail(p.link("account/password", address, 1))})
		return
	}
	p.t.Fatal("no e-mail with a link")
}

func TestALinkExpires(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	s.Login("alice")
	bodies, _ := notices(t, alice)
	path := disavowalForm.FindStringSubmatch(bodies[0])[1]
	s.Advance(7*24*time.Hour + time.Second)
	for _, bad := range []string{path, path + "x", "/_ebb/account/notme"} {
		if status, _, page := s.Anonymous().Raw("GET", bad, nil); status != 404 || !strings.Contains(string(page), "expired") {
			t.Errorf("GET %s: %d %s", bad, status, page)
		}
	}
}

func TestAlertsCannotBeMuted(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) { c.Encryption.Force = []string{"private", "direct"} })
	alice := s.Register("alice")
	block := obj{"default_action": "block"}
	alice.Do("PUT", "/v3/user/@alice:test/account_data/m.invite_permission_config", block)
	alice.Do("PUT", "/v3/user/@alice:test/account_data/m.ignored_user_list", obj{"ignored_users": obj{"@server-notices:test": obj{}}})
	s.Login("alice")
	bodies, room := notices(t, alice)
	if len(bodies) != 1 || room == "" {
		t.Fatalf("%q", bodies)
	}
	if status, _, _ := alice.Raw("GET", "/v3/rooms/"+url.PathEscape(room)+"/state/m.room.encryption", nil); status != 404 {
		t.Errorf("the room is encrypted: %d", status)
	}
	alice.Refused("PUT", "/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": "x"}, 403, "M_FORBIDDEN")
	alice.Do("POST", "/v3/rooms/"+url.PathEscape(room)+"/leave", nil)
	if err := s.DeliverNotices(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Login("alice")
	if err := s.DeliverNotices(t.Context()); err != nil {
		t.Fatal(err)
	}
	alice.Refused("POST", "/v3/rooms/"+url.PathEscape(room)+"/leave", nil, 403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM")
	for _, name := range []string{"server-notices", "Server-Notices"} {
		alice.Refused("POST", "/v3/register", obj{"username": name, "password": testserver.Password(), "auth": obj{"type": "m.login.dummy"}}, 400, "M_EXCLUSIVE")
		alice.Refused("GET", "/v3/register/available?username="+name, nil, 400, "M_EXCLUSIVE")
	}
	alice.Refused("POST", "/v3/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "server-notices"}, "password": ""}, 403, "M_FORBIDDEN")
}

func TestChangesOfAnAccountAlertItsUser(t *testing.T) {
	s := testserver.NewWithPolicy(t, gate.Policy{MFA: gate.Optional}, nil)
	alice := s.Register("alice")
	last := func() string {
		t.Helper()
		bodies, _ := notices(t, alice)
		if len(bodies) == 0 {
			t.Fatal("no notice")
		}
		return bodies[len(bodies)-1]
	}
	keys := func(seed rune) obj { return masterKeyOf(alice.User, string(seed)) }
	alice.Do("POST", "/v3/keys/device_signing/upload", keys('A'))
	if bodies, _ := notices(t, alice); len(bodies) != 0 {
		t.Errorf("the first keys: %q", bodies)
	}
	second := keys('B')
	second["auth"] = passwordOf(alice)
	alice.Do("POST", "/v3/keys/device_signing/upload", second)
	if got := last(); !strings.Contains(got, "identity was reset") || !strings.Contains(got, alice.DeviceID) {
		t.Errorf("a reset of cross-signing: %q", got)
	}
	alice.Do("POST", "/v3/account/password", obj{"new_password": testserver.Password() + "2", "auth": passwordOf(alice)})
	if got := last(); !strings.Contains(got, "password of your account was changed") {
		t.Errorf("a changed password: %q", got)
	}
	nid := (&pageLab{s, t}).user("alice")
	grant := factors.Grant{User: nid, Shown: gate.Password}
	e, err := s.Factors().BeginTOTP(t.Context(), grant)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := notices(t, alice)
	if _, err := s.Factors().ConfirmTOTP(t.Context(), grant, e.ID, codeOf(t, s, e.Secret)); err != nil {
		t.Fatal(err)
	}
	added, _ := notices(t, alice)
	if len(added) != len(before)+1 || !strings.Contains(added[len(before)], "one-time codes") {
		t.Errorf("a second factor: %q", added[len(before):])
	}
	for code, wrong := 0, 0; wrong < 5; code++ { // one of them may be right by chance
		if _, err := s.Factors().CheckTOTP(t.Context(), nid, "", fmt.Sprintf("%06d", code)); err != nil {
			wrong++
		}
	}
	if got := last(); !strings.Contains(got, "several wrong codes") {
		t.Errorf("wrong codes: %q", got)
	}
	if page := disavow(t, s, last()); !strings.Contains(page, "administrator of this server") {
		t.Errorf("the page does not say who can help: %s", page)
	}
}

// masterKeyOf returns a master key of a user.
func masterKeyOf(user, seed string) obj {
	public := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat(seed, 32)))
	return obj{"master_key": obj{"user_id": user, "usage": []string{"master"}, "keys": obj{"ed25519:" + public: public}}}
}

func TestAdministratorsSendNoticesAndAreToldOfARecovery(t *testing.T) {
	s := testserver.NewWithPolicy(t, gate.Policy{MFA: gate.Optional}, nil)
	alice, bob := s.Register("alice"), s.Register("bob")
	run := func(name, args string) {
		t.Helper()
		if _, err := s.Control(t.Context(), name, json.RawMessage(args)); err != nil {
			t.Fatal(err)
		}
	}
	run("notice send", `{"all":true,"text":"Maintenance tonight"}`)
	for _, c := range []*testserver.Client{alice, bob} {
		if bodies, _ := notices(t, c); len(bodies) != 1 || bodies[0] != "Maintenance tonight" {
			t.Errorf("%s: %q", c.User, bodies)
		}
	}
	if _, err := s.Control(t.Context(), "notice send", json.RawMessage(`{"text":"x"}`)); err == nil {
		t.Error("a notice to nobody was sent")
	}
	for _, user := range []string{"alice", "bob"} {
		run("user admin", `{"user":"`+user+`","admin":true}`)
	}
	run("admin recover", `{"user":"alice"}`)
	bodies, _ := notices(t, bob)
	if last := bodies[len(bodies)-1]; len(bodies) != 2 || !strings.Contains(last, "@alice:test") || !strings.Contains(last, "recovered on the host") {
		t.Errorf("the other administrator: %q", bodies)
	}
}

func TestAlertsCanBeSwitchedOff(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) { c.Alerts.SignIns = false })
	alice := s.Register("alice")
	s.Login("alice")
	if bodies, room := notices(t, alice); room != "" || len(bodies) != 0 {
		t.Errorf("%q", bodies)
	}
	alice.Do("POST", "/v3/account/password", obj{"new_password": testserver.Password() + "2", "auth": passwordOf(alice)})
	if bodies, _ := notices(t, alice); len(bodies) != 1 {
		t.Errorf("%q", bodies)
	}
}
