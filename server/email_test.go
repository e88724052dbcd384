package server_test

import (
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"ebb/config"
	"ebb/internal/mailsink"
	"ebb/internal/testserver"
)

// postal is a server that sends e-mail, together with the sink that receives it.
type postal struct {
	*testserver.Server
	t    *testing.T
	sink *mailsink.Sink
}

func newPostal(t *testing.T, change func(*config.Config)) postal {
	t.Helper()
	return newPostalTo(t, mailsink.New(t, mailsink.Options{}), change)
}

func newPostalTo(t *testing.T, sink *mailsink.Sink, change func(*config.Config)) postal {
	t.Helper()
	s := testserver.New(t, func(c *config.Config) {
		c.Email.SMTP.Host, c.Email.SMTP.Port, c.Email.SMTP.TLS, c.Email.SMTP.From = sink.Host, sink.Port, "none", "Test <ebb@example.org>"
		if change != nil {
			change(c)
		}
	})
	return postal{s, t, sink}
}

const clientSecret = "a.client=SECRET_-1"

// link requests a verification e-mail and returns the session ID. operation is register, account/3pid or
// account/password.
func (p postal) link(operation, address string, attempt int) (sid string) {
	p.t.Helper()
	answer := p.Anonymous().Do("POST", "/v3/"+operation+"/email/requestToken", obj{"client_secret": clientSecret, "email": address, "send_attempt": attempt})
	sid, _ = answer["sid"].(string)
	if sid == "" {
		p.t.Fatalf("the answer is %v", answer)
	}
	return sid
}

var linkForm = regexp.MustCompile(`http://127\.0\.0\.1:8008(/_matrix/client/unstable/ebb/\S+)`)

// follow opens the link in an e-mail, as the owner of the address does.
func (p postal) follow(m mailsink.Message) {
	p.t.Helper()
	found := linkForm.FindStringSubmatch(m.Text)
	if found == nil {
		p.t.Fatalf("no link in %s", m.Text)
	}
	status, _, page := p.Anonymous().Raw("GET", found[1], nil)
	if status != 200 || !strings.Contains(string(page), m.To) || !strings.Contains(string(page), "<button>") {
		p.t.Fatalf("the page behind the link: %d %s", status, page)
	}
	path, query, _ := strings.Cut(found[1], "?")
	if status, _, page := p.Anonymous().Raw("POST", path, []byte(query)); status != 200 || !strings.Contains(string(page), "is confirmed") {
		p.t.Fatalf("confirm: %d %s", status, page)
	}
}

// add adds a verified address to an account.
func (p postal) add(user *testserver.Client, address string) {
	p.t.Helper()
	sid := p.link("account/3pid", address, 1)
	p.follow(p.sink.Next())
	user.Do("POST", "/v3/account/3pid/add", obj{"sid": sid, "client_secret": clientSecret, "auth": passwordOf(user)})
}

func passwordOf(user *testserver.Client) obj {
	return obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": user.User}, "password": testserver.Password()}
}

// byEmail returns the authentication stage for a verified session.
func byEmail(sid string) obj {
	return obj{"type": "m.login.email.identity", "threepid_creds": obj{"sid": sid, "client_secret": clientSecret}}
}

func loginByEmail(address, password string) obj {
	return obj{"type": "m.login.password", "identifier": obj{"type": "m.id.thirdparty", "medium": "email", "address": address}, "password": password}
}

func TestAddressIsAddedAfterItsOwnerFollowsTheLink(t *testing.T) {
	p := newPostal(t, nil)
	alice := p.Register("alice")
	if can := get(alice.Do("GET", "/v3/capabilities", nil), "capabilities", "m.3pid_changes", "enabled"); can != true {
		t.Errorf("m.3pid_changes is %v", can)
	}
	sid := p.link("account/3pid", "Alice@Example.org", 1)
	creds := obj{"sid": sid, "client_secret": clientSecret, "auth": passwordOf(alice)}
	alice.Refused("POST", "/v3/account/3pid/add", creds, 400, "M_THREEPID_AUTH_FAILED")
	p.follow(p.sink.Next())
	alice.Refused("POST", "/v3/account/3pid/add", obj{"sid": sid, "client_secret": "another", "auth": passwordOf(alice)}, 400, "M_THREEPID_AUTH_FAILED")
	alice.Refused("POST", "/v3/account/3pid/add", obj{"sid": sid, "client_secret": clientSecret}, 401, "")
	alice.Do("POST", "/v3/account/3pid/add", creds)
	list := alice.Do("GET", "/v3/account/3pid", nil)
	if get(list, "threepids", 0, "address") != "alice@example.org" || get(list, "threepids", 0, "medium") != "email" || get(list, "threepids", 0, "validated_at") != float64(p.Now().UnixMilli()) {
		t.Errorf("the addresses are %v", list)
	}
	alice.Refused("POST", "/v3/account/3pid/add", creds, 400, "M_THREEPID_AUTH_FAILED") // the session was used

	in := p.Anonymous().Do("POST", "/v3/login", loginByEmail("ALICE@example.org", testserver.Password()))
	if in["user_id"] != alice.User {
		t.Errorf("signed in as %v", in)
	}
	p.Anonymous().Refused("POST", "/v3/login", loginByEmail("alice@example.org", "wrong"), 403, "M_FORBIDDEN")
	p.Anonymous().Refused("POST", "/v3/login", loginByEmail("nobody@example.org", testserver.Password()), 403, "M_FORBIDDEN")

	bob := p.Register("bob")
	bob.Do("POST", "/v3/account/3pid/delete", obj{"medium": "email", "address": "alice@example.org"}) // the address is not bob's
	p.Anonymous().Do("POST", "/v3/login", loginByEmail("alice@example.org", testserver.Password()))
	if out := alice.Do("POST", "/v3/account/3pid/delete", obj{"medium": "email", "address": "Alice@example.org"}); out["id_server_unbind_result"] != "no-support" {
		t.Errorf("delete: %v", out)
	}
	p.Anonymous().Refused("POST", "/v3/login", loginByEmail("alice@example.org", testserver.Password()), 403, "M_FORBIDDEN")
	if list := alice.Do("GET", "/v3/account/3pid", nil); len(list["threepids"].([]any)) != 0 {
		t.Errorf("the addresses are %v", list)
	}
}

func TestTheDeprecatedOperationToAddAnAddressNeedsThePasswordToo(t *testing.T) {
	p := newPostal(t, nil)
	alice := p.Register("alice")
	sid := p.link("account/3pid", "alice@example.org", 1)
	creds := obj{"sid": sid, "client_secret": clientSecret, "id_server": "id.example.org", "id_access_token": "x"}
	alice.Refused("POST", "/v3/account/3pid", obj{"three_pid_creds": creds}, 403, "M_THREEPID_AUTH_FAILED")
	p.follow(p.sink.Next())
	alice.Refused("POST", "/v3/account/3pid", obj{"three_pid_creds": creds}, 401, "")
	alice.Do("POST", "/v3/account/3pid", obj{"three_pid_creds": creds, "auth": passwordOf(alice)})
	if list := alice.Do("GET", "/v3/account/3pid", nil); get(list, "threepids", 0, "address") != "alice@example.org" {
		t.Errorf("the addresses are %v", list)
	}
}

func TestForgottenPasswordIsResetByEmail(t *testing.T) {
	p := newPostal(t, nil)
	alice := p.Register("alice")
	second := p.Login("alice")
	p.add(alice, "alice@example.org")
	anyone := p.Anonymous()
	body := obj{"new_password": "a new password"}
	status, _, raw := anyone.Raw("POST", "/v3/account/password", body)
	challenge := decode(t, raw)
	if status != 401 || get(challenge, "flows", 0, "stages", 0) != "m.login.email.identity" || len(challenge["flows"].([]any)) != 1 {
		t.Fatalf("%d %s", status, raw)
	}
	sid := p.link("account/password", "alice@example.org", 1)
	auth := byEmail(sid)
	auth["session"] = challenge["session"]
	body["auth"] = auth
	anyone.Refused("POST", "/v3/account/password", body, 401, "M_SESSION_NOT_VALIDATED")
	p.follow(p.sink.Next())
	anyone.Refused("POST", "/v3/account/password", obj{"new_password": "", "auth": auth}, 400, "M_WEAK_PASSWORD")
	anyone.Do("POST", "/v3/account/password", body)
	anyone.Refused("POST", "/v3/login", loginByEmail("alice@example.org", testserver.Password()), 403, "M_FORBIDDEN")
	anyone.Do("POST", "/v3/login", loginByEmail("alice@example.org", "a new password"))
	for _, old := range []*testserver.Client{alice, second} {
		old.Refused("GET", "/v3/account/whoami", nil, 401, "M_UNKNOWN_TOKEN")
	}
	body["new_password"] = "another one"
	anyone.Refused("POST", "/v3/account/password", body, 401, "M_THREEPID_AUTH_FAILED") // the session was used
}

func TestPasswordResetKeepsTheDevicesIfAsked(t *testing.T) {
	p := newPostal(t, nil)
	alice := p.Register("alice")
	p.add(alice, "alice@example.org")
	sid := p.link("account/password", "alice@example.org", 1)
	p.follow(p.sink.Next())
	p.Anonymous().Do("POST", "/v3/account/password", obj{"new_password": "a new password", "logout_devices": false, "auth": byEmail(sid)})
	alice.Do("GET", "/v3/account/whoami", nil)
}

func TestVerificationIsForOnePurposeOnly(t *testing.T) {
	p := newPostal(t, func(c *config.Config) { c.Registration.Email = "required" })
	sid := p.link("register", "alice@example.org", 1)
	p.follow(p.sink.Next())
	body := obj{"username": "alice", "password": testserver.Password(), "auth": byEmail(sid)}
	status, _, raw := p.Anonymous().Raw("POST", "/v3/register", body)
	if status != 401 {
		t.Fatalf("register: %d %s", status, raw)
	}
	body["auth"] = obj{"type": "m.login.dummy", "session": decode(t, raw)["session"]}
	made := p.Anonymous().Do("POST", "/v3/register", body)
	alice := p.Login(made["user_id"].(string))
	if list := alice.Do("GET", "/v3/account/3pid", nil); get(list, "threepids", 0, "address") != "alice@example.org" {
		t.Errorf("the addresses are %v", list)
	}

	sid = p.link("account/3pid", "other@example.org", 1)
	p.follow(p.sink.Next())
	p.Anonymous().Refused("POST", "/v3/account/password", obj{"new_password": "taken over", "auth": byEmail(sid)}, 401, "M_THREEPID_AUTH_FAILED")
	p.Anonymous().Refused("POST", "/v3/register", obj{"username": "bob", "password": "x", "auth": byEmail(sid)}, 401, "M_THREEPID_AUTH_FAILED")
	sid = p.link("account/password", "alice@example.org", 1)
	p.follow(p.sink.Next())
	alice.Refused("POST", "/v3/account/3pid/add", obj{"sid": sid, "client_secret": clientSecret, "auth": passwordOf(alice)}, 400, "M_THREEPID_AUTH_FAILED")
}

func TestRegistrationAsksForAnAddressAsConfigured(t *testing.T) {
	flows := func(p postal) (list []string) {
		_, _, raw := p.Anonymous().Raw("POST", "/v3/register", obj{})
		for _, f := range decode(t, raw)["flows"].([]any) {
			var stages []string
			for _, stage := range f.(obj)["stages"].([]any) {
				stages = append(stages, stage.(string))
			}
			list = append(list, strings.Join(stages, " "))
		}
		return list
	}
	for use, want := range map[string]string{
		"off": "m.login.dummy", "optional": "m.login.dummy, m.login.dummy m.login.email.identity", "required": "m.login.dummy m.login.email.identity",
	} {
		p := newPostal(t, func(c *config.Config) { c.Registration.Email = use })
		if got := strings.Join(flows(p), ", "); got != want {
			t.Errorf("%s: the flows are %s", use, got)
		}
	}
	p := newPostal(t, func(c *config.Config) {
		c.Registration.Email, c.Email.AllowedDomains = "optional", []string{"example.org"}
	})
	ask := obj{"client_secret": clientSecret, "email": "alice@example.com", "send_attempt": 1}
	p.Anonymous().Refused("POST", "/v3/register/email/requestToken", ask, 403, "M_THREEPID_DENIED")
	p.Anonymous().Refused("POST", "/v3/account/3pid/email/requestToken", ask, 403, "M_THREEPID_DENIED")
	p.Register("bob") // bob has no address
	off := newPostal(t, nil)
	off.Anonymous().Refused("POST", "/v3/register/email/requestToken", ask, 403, "M_THREEPID_DENIED")
	if p.sink.Count()+off.sink.Count() != 0 {
		t.Error("a message was sent")
	}
}

func TestTwoRegistrationsCannotUseOneAddress(t *testing.T) {
	p := newPostal(t, func(c *config.Config) { c.Registration.Email = "required" })
	register := func(name, secret, sid string) (int, obj) {
		body := obj{"username": name, "password": "x", "auth": obj{"type": "m.login.email.identity", "threepid_creds": obj{"sid": sid, "client_secret": secret}}}
		_, _, raw := p.Anonymous().Raw("POST", "/v3/register", body)
		body["auth"] = obj{"type": "m.login.dummy", "session": decode(t, raw)["session"]}
		status, _, raw := p.Anonymous().Raw("POST", "/v3/register", body)
		return status, decode(t, raw)
	}
	var sids []string
	for _, secret := range []string{"one", "two"} {
		answer := p.Anonymous().Do("POST", "/v3/register/email/requestToken", obj{"client_secret": secret, "email": "a@example.org", "send_attempt": 1})
		sids = append(sids, answer["sid"].(string))
		p.follow(p.sink.Next())
	}
	if status, answer := register("alice", "one", sids[0]); status != 200 {
		t.Fatalf("%d %v", status, answer)
	}
	if status, answer := register("bob", "two", sids[1]); status != 401 {
		t.Errorf("a second account: %d %v", status, answer)
	}
}

func TestNobodyFindsOutWhichAddressesHaveAccounts(t *testing.T) {
	p := newPostal(t, func(c *config.Config) { c.Registration.Email = "optional" })
	alice := p.Register("alice")
	p.add(alice, "alice@example.org")
	for _, c := range []struct{ operation, address, says string }{
		{"register", "alice@example.org", "already belongs to the account " + alice.User},
		{"account/3pid", "alice@example.org", "already belongs to the account " + alice.User},
		{"account/password", "nobody@example.org", "no account there has it"},
	} {
		sid := p.link(c.operation, c.address, 1)
		m := p.sink.Next()
		if m.To != c.address || !strings.Contains(m.Text, c.says) || linkForm.MatchString(m.Text) {
			t.Errorf("%s: the message is %s", c.operation, m.Text)
		}
		p.Anonymous().Refused("POST", "/v3/account/password", obj{"new_password": "x", "auth": byEmail(sid)}, 401, map[bool]string{true: "M_SESSION_NOT_VALIDATED", false: "M_THREEPID_AUTH_FAILED"}[c.operation == "account/password"])
		if again := p.link(c.operation, c.address, 1); again != sid || p.sink.Count() != 0 {
			t.Errorf("%s: a repeated request got another session or message", c.operation)
		}
	}
	open := newPostal(t, func(c *config.Config) { c.Registration.Email, c.Email.RevealAddresses = "optional", true })
	bob := open.Register("bob")
	open.add(bob, "bob@example.org")
	ask := obj{"client_secret": clientSecret, "email": "bob@example.org", "send_attempt": 1}
	open.Anonymous().Refused("POST", "/v3/register/email/requestToken", ask, 400, "M_THREEPID_IN_USE")
	open.Anonymous().Refused("POST", "/v3/account/3pid/email/requestToken", ask, 400, "M_THREEPID_IN_USE")
	ask["email"] = "nobody@example.org"
	open.Anonymous().Refused("POST", "/v3/account/password/email/requestToken", ask, 400, "M_THREEPID_NOT_FOUND")
}

func TestVerificationMailIsSentOncePerAttempt(t *testing.T) {
	p := newPostal(t, nil)
	sid := p.link("account/3pid", "alice@example.org", 1)
	first := p.sink.Next()
	if p.link("account/3pid", "alice@example.org", 1) != sid || p.link("account/3pid", "ALICE@example.org", 0) != sid || p.sink.Count() != 0 {
		t.Error("a repeated request sent a message or began another session")
	}
	if p.link("account/3pid", "alice@example.org", 2) != sid {
		t.Error("a second attempt began another session")
	}
	second := p.sink.Next()
	if status, _, _ := p.Anonymous().Raw("GET", linkForm.FindStringSubmatch(first.Text)[1], nil); status != 404 {
		t.Errorf("the older link: %d", status)
	}
	p.follow(second)
	p.link("account/3pid", "alice@example.org", 3)
	if p.sink.Count() != 0 {
		t.Error("a verified address got another message")
	}
}

func TestLinksExpireAndCannotBeGuessed(t *testing.T) {
	p := newPostal(t, nil)
	alice := p.Register("alice")
	sid := p.link("account/3pid", "alice@example.org", 1)
	link := linkForm.FindStringSubmatch(p.sink.Next().Text)[1]
	path, query, _ := strings.Cut(link, "?")
	for range 5 {
		if status, _, _ := p.Anonymous().Raw("POST", path, []byte("sid="+sid+"&token=guess")); status != 404 {
			t.Fatalf("a guess: %d", status)
		}
	}
	if status, _, _ := p.Anonymous().Raw("POST", path, []byte(query)); status != 404 {
		t.Errorf("after five guesses: %d", status)
	}
	p.link("account/3pid", "alice@example.org", 2)
	m := p.sink.Next()
	p.Advance(time.Hour)
	if status, _, _ := p.Anonymous().Raw("GET", linkForm.FindStringSubmatch(m.Text)[1], nil); status != 404 {
		t.Errorf("after an hour: %d", status)
	}
	sid = p.link("account/3pid", "alice@example.org", 3)
	p.follow(p.sink.Next())
	p.Advance(time.Hour)
	alice.Refused("POST", "/v3/account/3pid/add", obj{"sid": sid, "client_secret": clientSecret, "auth": passwordOf(alice)}, 400, "M_THREEPID_AUTH_FAILED")
}

func TestNextLinkIsShownWithItsHost(t *testing.T) {
	p := newPostal(t, nil)
	ask := obj{"client_secret": clientSecret, "email": "alice@example.org", "send_attempt": 1, "next_link": `https://app.example.org/"><b>#/x?a=b&c=d`}
	p.Anonymous().Do("POST", "/v3/account/3pid/email/requestToken", ask)
	link := linkForm.FindStringSubmatch(p.sink.Next().Text)[1]
	path, query, _ := strings.Cut(link, "?")
	status, header, page := p.Anonymous().Raw("POST", path, []byte(query))
	if status != 200 || !strings.Contains(string(page), `href="https://app.example.org/%22%3e%3cb%3e#/x?a=b&amp;c=d">app.example.org</a>`) || header.Get("Content-Security-Policy") == "" {
		t.Errorf("%d %v %s", status, header, page)
	}
	for _, bad := range []string{"javascript:alert(1)", "//example.org", "data:text/html,x", "https://", "https://user@example.org/", "https://example.org/" + strings.Repeat("x", 2000)} {
		ask["next_link"] = bad
		p.Anonymous().Refused("POST", "/v3/account/3pid/email/requestToken", ask, 400, "M_INVALID_PARAM")
	}
}

func TestBadRequestsForALinkAreRefused(t *testing.T) {
	p := newPostal(t, nil)
	good := obj{"client_secret": clientSecret, "email": "alice@example.org", "send_attempt": 1}
	for name, bad := range map[string]struct {
		value any
		code  string
	}{
		"client_secret": {nil, "M_MISSING_PARAM"}, "client_secret ": {"a b", "M_INVALID_PARAM"}, "client_secret  ": {strings.Repeat("a", 256), "M_INVALID_PARAM"},
		"email": {nil, "M_MISSING_PARAM"}, "email ": {"alice", "M_INVALID_PARAM"}, "email  ": {"a@example.org\r\nBcc: b@example.org", "M_INVALID_PARAM"},
		"send_attempt": {nil, "M_MISSING_PARAM"}, "send_attempt ": {"1", "M_BAD_JSON"},
	} {
		body := obj{}
		for k, v := range good {
			body[k] = v
		}
		body[strings.TrimSpace(name)] = bad.value
		p.Anonymous().Refused("POST", "/v3/account/password/email/requestToken", body, 400, bad.code)
	}
	if p.sink.Count() != 0 {
		t.Error("a message was sent")
	}
	p.Anonymous().Refused("POST", "/v3/account/password", obj{"new_password": "x", "auth": obj{"type": "m.login.email.identity"}}, 400, "M_MISSING_PARAM")
	p.Anonymous().Refused("POST", "/v3/account/password", obj{"new_password": "x", "auth": obj{"type": "m.login.password"}}, 401, "M_UNRECOGNIZED")
	p.Anonymous().Refused("POST", "/v3/account/password", obj{"new_password": "x", "auth": obj{"type": "m.login.email.identity", "threepid_creds": 7}}, 400, "M_BAD_JSON")
}

func TestPhoneNumbersAreRefused(t *testing.T) {
	p := newPostal(t, func(c *config.Config) { c.Registration.Email = "optional" })
	alice := p.Register("alice")
	body := obj{"client_secret": "s", "send_attempt": 1, "country": "GB", "phone_number": "1"}
	for _, operation := range []string{"register", "account/password", "account/3pid"} {
		alice.Refused("POST", "/v3/"+operation+"/msisdn/requestToken", body, 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
		alice.Refused("POST", "/v3/"+operation+"/msisdn/requestToken", obj{"client_secret": "s"}, 400, "M_MISSING_PARAM")
	}
	alice.Refused("POST", "/v3/account/3pid/delete", obj{"medium": "msisdn", "address": "1"}, 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
	alice.Refused("POST", "/v3/account/3pid/delete", obj{"medium": "pigeon", "address": "1"}, 400, "M_INVALID_PARAM")
	p.Anonymous().Refused("POST", "/v3/login", obj{"type": "m.login.password", "password": "x", "identifier": obj{"type": "m.id.phone", "country": "GB", "phone": "1"}}, 403, "M_FORBIDDEN")
}

func TestServerWithoutSMTPRefusesAddresses(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	body := obj{"client_secret": "s", "send_attempt": 1, "email": "a@example.org"}
	for _, operation := range []string{"register", "account/password", "account/3pid"} {
		alice.Refused("POST", "/v3/"+operation+"/email/requestToken", body, 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
	}
	alice.Refused("POST", "/v3/account/3pid/add", obj{"sid": "x", "client_secret": "x"}, 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
	s.Anonymous().Refused("POST", "/v3/account/password", obj{"new_password": "x"}, 401, "M_MISSING_TOKEN")
}

func TestNobodyIsFloodedWithMail(t *testing.T) {
	p := newPostal(t, func(c *config.Config) {
		c.RateLimits.Enabled, c.RateLimits.Emails = true, config.Bucket{PerSecond: 0.001, Burst: 2}
	})
	ask := func(address, secret string) int {
		status, _, _ := p.Anonymous().Raw("POST", "/v3/account/3pid/email/requestToken", obj{"client_secret": secret, "email": address, "send_attempt": 1})
		return status
	}
	for i, want := range []int{200, 200, 429} {
		if got := ask("alice@example.org", string(rune('a'+i))); got != want {
			t.Errorf("message %d to one address: %d", i+1, got)
		}
	}
	sent := 2
	for i := range 30 {
		if ask("user"+string(rune('a'+i))+"@example.org", "s") == 200 {
			sent++
		}
	}
	if sent != 20 || p.sink.Count() != 20 {
		t.Errorf("one network caused %d messages, of which %d arrived; want 20", sent, p.sink.Count())
	}
}

func TestRejectedVerificationMailCanBeRequestedAgain(t *testing.T) {
	code := 550
	sink := mailsink.New(t, mailsink.Options{Refuse: func(string) error {
		if code == 0 {
			return nil
		}
		return &smtp.SMTPError{Code: code, Message: "no"}
	}})
	p := newPostalTo(t, sink, nil)
	ask := obj{"client_secret": clientSecret, "email": "alice@example.org", "send_attempt": 1}
	p.Anonymous().Refused("POST", "/v3/account/3pid/email/requestToken", ask, 400, "M_INVALID_PARAM")
	code = 451
	p.Anonymous().Refused("POST", "/v3/account/3pid/email/requestToken", ask, 502, "M_UNKNOWN")
	code = 0
	p.Anonymous().Do("POST", "/v3/account/3pid/email/requestToken", ask)
	p.follow(p.sink.Next())
}

func TestDeactivationForgetsTheAddresses(t *testing.T) {
	p := newPostal(t, nil)
	alice := p.Register("alice")
	p.add(alice, "alice@example.org")
	alice.Do("POST", "/v3/account/deactivate", obj{"auth": passwordOf(alice)})
	p.link("account/password", "alice@example.org", 1)
	if m := p.sink.Next(); linkForm.MatchString(m.Text) {
		t.Errorf("the closed account can be recovered: %s", m.Text)
	}
	bob := p.Register("bob")
	p.add(bob, "alice@example.org")
	if in := p.Anonymous().Do("POST", "/v3/login", loginByEmail("alice@example.org", testserver.Password())); in["user_id"] != bob.User {
		t.Errorf("signed in as %v", in)
	}
}

func TestSecretsOfVerificationsAreNotStored(t *testing.T) {
	p := newPostal(t, nil)
	p.link("account/3pid", "alice@example.org", 1)
	link, err := url.Parse(linkForm.FindStringSubmatch(p.sink.Next().Text)[1])
	if err != nil {
		t.Fatal(err)
	}
	if found := p.FilesWith("alice@example.org"); len(found) == 0 {
		t.Error("the address is not found in the database: this test cannot fail")
	}
	for _, secret := range []string{link.Query().Get("token"), clientSecret} {
		if found := p.FilesWith(secret); secret == "" || len(found) != 0 {
			t.Errorf("%s is in %v", secret, found)
		}
	}
}
