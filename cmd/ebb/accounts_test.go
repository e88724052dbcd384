package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// The JSON printed with --json, on which scripts depend.
type (
	userShape struct {
		User        string    `json:"user"`
		Created     time.Time `json:"created"`
		Admin       bool      `json:"admin"`
		Deactivated bool      `json:"deactivated"`
		Locked      bool      `json:"locked"`
		Suspended   bool      `json:"suspended"`
		Guest       bool      `json:"guest"`
	}
	tokenShape struct {
		Token     string     `json:"token"`
		Uses      *int64     `json:"uses"`
		Completed int64      `json:"completed"`
		Pending   int64      `json:"pending"`
		Expires   *time.Time `json:"expires"`
	}
	lifetimesShape struct {
		Min *int64 `json:"min_lifetime_ms"`
		Max *int64 `json:"max_lifetime_ms"`
	}
	roomShape struct {
		Room       string          `json:"room"`
		Version    string          `json:"version"`
		Name       string          `json:"name"`
		Alias      string          `json:"alias"`
		Joined     int             `json:"joined"`
		Encrypted  bool            `json:"encrypted"`
		Public     bool            `json:"public"`
		Created    time.Time       `json:"created"`
		Retention  lifetimesShape  `json:"retention"`
		Override   *lifetimesShape `json:"override"`
		PurgedUpTo *time.Time      `json:"purged_up_to"`
	}
	purgeShape struct {
		Rooms   int   `json:"rooms"`
		Events  int   `json:"events"`
		Took    int64 `json:"took_ms"`
		Waiting int   `json:"waiting"`
	}
)

func TestAccountsAreCreatedListedAndDeactivated(t *testing.T) {
	eachWay(t, func(t *testing.T, s site) {
		cfg := "--config=" + s.config
		list := func() (all []userShape) { return parsed[[]userShape](t, must(t, "", "user", "list", "--json", cfg)) }
		if all := list(); all == nil || len(all) != 0 {
			t.Errorf("a new server has the accounts %v, and not an empty list", all)
		}
		if out := must(t, "my first secret\n", "user", "add", "alice", "--password-stdin", cfg); out != "@alice:test\n" {
			t.Errorf("user add printed %q", out)
		}
		must(t, "another secret", "user", "add", "--admin", "--password-stdin", cfg, "@bob:test")
		refusedWith(t, 3, "already in use", "another secret\n", "user", "add", "alice", "--password-stdin", cfg)
		refusedWith(t, 3, "user", "another secret\n", "user", "add", "@eve:elsewhere.org", "--password-stdin", cfg)
		refusedWith(t, 3, "password", "\n", "user", "add", "carol", "--password-stdin", cfg)

		must(t, "", "user", "admin", "@alice:test", cfg)
		must(t, "", "user", "admin", "--remove", "bob", cfg)
		must(t, "", "user", "lock", "alice", cfg)
		must(t, "", "user", "suspend", "@alice:test", cfg)
		if a := list()[0]; !a.Locked || !a.Suspended {
			t.Errorf("after user lock and user suspend the account is %+v", a)
		}
		must(t, "", "user", "unlock", "alice", cfg)
		must(t, "", "user", "unsuspend", "alice", cfg)
		must(t, "", "user", "mfa", "alice", "required", cfg)
		must(t, "", "user", "mfa", "@alice:test", "default", cfg)
		refusedWith(t, 2, "one of", "", "user", "mfa", "alice", cfg)
		refusedWith(t, 3, "this server", "", "user", "lock", "@eve:elsewhere.org", cfg)
		must(t, "", "user", "deactivate", "--erase", "bob", cfg)
		refusedWith(t, 3, "deactivated", "", "user", "deactivate", "bob", cfg)
		refusedWith(t, 3, "deactivated", "new secret\n", "user", "passwd", "--password-stdin", "bob", cfg)

		all := list()
		if len(all) != 2 || all[0].User != "@alice:test" || !all[0].Admin || all[0].Deactivated || all[0].Locked || all[0].Suspended || all[1].User != "@bob:test" || !all[1].Deactivated {
			t.Errorf("the accounts are %+v", all)
		}
		if age := time.Since(all[0].Created); age < 0 || age > patience {
			t.Errorf("alice was made %v ago", age)
		}
		text := must(t, "", "user", "list", cfg)
		if lines := strings.Split(text, "\n"); !strings.Contains(lines[0], "admin") || !strings.Contains(lines[1], "deactivated") {
			t.Errorf("the accounts are printed as\n%s", text)
		}
	})
}

// client sends requests to a running server.
type client struct {
	t     *testing.T
	base  string
	token string
}

func (c *client) do(method, path string, body any) (int, map[string]any) {
	c.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.base+"/_matrix/client/v3"+path, bytes.NewReader(raw))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer := map[string]any{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, answer
}

// login logs a user in; the status says whether the password was correct.
func (s site) login(t *testing.T, user, password string) (*client, int) {
	t.Helper()
	c := &client{t: t, base: "http://" + s.address}
	status, answer := c.do("POST", "/login", map[string]any{
		"type": "m.login.password", "identifier": map[string]any{"type": "m.id.user", "user": user}, "password": password,
	})
	c.token, _ = answer["access_token"].(string)
	return c, status
}

func TestAccountOfAnotherServerIsRefused(t *testing.T) {
	s := newSite(t, 0)
	refusedWith(t, exitRefused, "only be created on this server", "correct horse\n", "user", "add", "--password-stdin", "@alice:elsewhere.org", "--config", s.config)
	must(t, "correct horse\n", "user", "add", "--password-stdin", "@alice:test", "--config", s.config)
}

func TestPasswordsAreSetAndDevicesLoggedOut(t *testing.T) {
	s := newSite(t, 0)
	must(t, "my first secret\n", "user", "add", "alice", "--password-stdin", "--config", s.config)
	// The server is not running; once it is started, it accepts only the new password.
	must(t, "my second secret\n", "user", "passwd", "alice", "--password-stdin", "--config", s.config)
	s.serve(t)
	if _, status := s.login(t, "alice", "my first secret"); status != http.StatusForbidden {
		t.Errorf("the old password signs in: %d", status)
	}
	alice, status := s.login(t, "alice", "my second secret")
	if status != http.StatusOK {
		t.Fatalf("the new password does not sign in: %d", status)
	}
	// While the server runs, devices stay logged in unless the command asks to log them out.
	must(t, "my third secret\r\n", "user", "passwd", "@alice:test", "--password-stdin", "--config", s.config)
	if status, _ := alice.do("GET", "/account/whoami", nil); status != http.StatusOK {
		t.Errorf("the device was signed out: %d", status)
	}
	must(t, "my fourth secret\n", "user", "passwd", "--sign-out", "--password-stdin", "alice", "--config", s.config)
	if status, answer := alice.do("GET", "/account/whoami", nil); status != http.StatusUnauthorized || answer["errcode"] != "M_UNKNOWN_TOKEN" {
		t.Errorf("the device is still signed in: %d %v", status, answer)
	}
	if _, status := s.login(t, "alice", "my fourth secret"); status != http.StatusOK {
		t.Errorf("the newest password does not sign in: %d", status)
	}
	refusedWith(t, 3, "password", "\n", "user", "passwd", "--password-stdin", "alice", "--config", s.config)
	refusedWith(t, 3, "", "secret\n", "user", "passwd", "--password-stdin", "nobody", "--config", s.config)
}

func TestDeactivationLogsOutOfTheRunningServer(t *testing.T) {
	s := newSite(t, 0)
	s.serve(t)
	must(t, "some secret\n", "user", "add", "alice", "--password-stdin", "--config", s.config)
	alice, _ := s.login(t, "alice", "some secret")
	must(t, "", "user", "deactivate", "alice", "--config", s.config)
	if status, _ := alice.do("GET", "/account/whoami", nil); status != http.StatusUnauthorized {
		t.Errorf("a deactivated user is signed in: %d", status)
	}
}

func TestRegistrationTokensAreCreatedListedAndRevoked(t *testing.T) {
	eachWay(t, func(t *testing.T, s site) {
		cfg := "--config=" + s.config
		list := func() []tokenShape { return parsed[[]tokenShape](t, must(t, "", "token", "list", "--json", cfg)) }
		if all := list(); all == nil || len(all) != 0 {
			t.Errorf("a new server has the tokens %v, and not an empty list", all)
		}
		chosen := strings.TrimSpace(must(t, "", "token", "create", cfg))
		made := parsed[tokenShape](t, must(t, "", "token", "create", "--token", "welcome", "--uses", "5", "--expires", "1d12h", "--json", cfg))
		if made.Token != "welcome" || made.Uses == nil || *made.Uses != 5 || made.Expires == nil {
			t.Fatalf("made %+v", made)
		}
		if left := time.Until(*made.Expires); left > 36*time.Hour || left < 36*time.Hour-patience {
			t.Errorf("it is good for %v", left)
		}
		must(t, "", "token", "create", "--token", "forever", "--reusable", cfg)
		refusedWith(t, 3, "welcome", "", "token", "create", "--token", "welcome", cfg)

		byName := map[string]tokenShape{}
		for _, token := range list() {
			byName[token.Token] = token
		}
		once, forever := byName[chosen], byName["forever"]
		if len(byName) != 3 || once.Uses == nil || *once.Uses != 1 || once.Expires != nil || forever.Token == "" || forever.Uses != nil {
			t.Errorf("the tokens are %+v", byName)
		}
		if text := must(t, "", "token", "list", cfg); !strings.Contains(text, "used 0 of any number, for ever") || !strings.Contains(text, "used 0 of 5, until") {
			t.Errorf("the tokens are printed as\n%s", text)
		}
		must(t, "", "token", "revoke", "welcome", cfg)
		refusedWith(t, 3, "no such", "", "token", "revoke", "welcome", cfg)
		if all := list(); len(all) != 2 {
			t.Errorf("after a revocation there are %+v", all)
		}
	})
}

// terminal opens a pseudo-terminal. Text written to keyboard is read from tty.
func terminal(t *testing.T) (keyboard, tty *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("SKIP password prompt: no pseudo terminal here: %v", err)
	}
	t.Cleanup(func() { keyboard.Close() })
	var unlocked, number int32
	for request, value := range map[uintptr]*int32{syscall.TIOCSPTLCK: &unlocked, syscall.TIOCGPTN: &number} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, keyboard.Fd(), request, uintptr(unsafe.Pointer(value))); errno != 0 {
			t.Fatal(errno)
		}
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("SKIP password prompt: no pseudo terminal here: %v", err)
	}
	t.Cleanup(func() { tty.Close() })
	return keyboard, tty
}

// typist answers each prompt of a command with its next line.
type typist struct {
	t        *testing.T
	keyboard *os.File
	lines    []string
	printed  bytes.Buffer
}

func (p *typist) Write(text []byte) (int, error) {
	if bytes.HasSuffix(text, []byte(": ")) && len(p.lines) > 0 {
		if _, err := p.keyboard.WriteString(p.lines[0] + "\n"); err != nil {
			p.t.Error(err)
		}
		p.lines = p.lines[1:]
	}
	return p.printed.Write(text)
}

func TestPasswordsArePromptedForTwice(t *testing.T) {
	s := newSite(t, 0)
	for _, c := range []struct {
		lines []string
		code  int
		text  string
	}{
		{[]string{"typed secret", "typed secret"}, 0, "Again: "},
		{[]string{"typed secret", "other secret"}, exitUsage, "differ"},
	} {
		keyboard, tty := terminal(t)
		p := &typist{t: t, keyboard: keyboard, lines: c.lines}
		code := run(t.Context(), []string{"user", "add", fmt.Sprintf("user%d", c.code), "--config", s.config}, tty, io.Discard, p)
		if printed := p.printed.String(); code != c.code || !strings.Contains(printed, c.text) || strings.Contains(printed, "secret") {
			t.Errorf("typing %q ended with %d and printed %q", c.lines, code, printed)
		}
	}
	s.serve(t)
	if _, status := s.login(t, "user0", "typed secret"); status != http.StatusOK {
		t.Errorf("the typed password does not sign in: %d", status)
	}
}
