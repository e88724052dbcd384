package appservice_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

// request is a request that a bridge received from the server.
type request struct {
	method, path string
	query        url.Values
	header       http.Header
	body         map[string]any
}

// bridge is an application service implemented by the test.
type bridge struct {
	t   testing.TB
	url string

	// mu guards the fields below.
	mu       sync.Mutex
	answer   func(r request) (status int, body string) // nil means that it answers 200 {}
	requests []request
}

const (
	asToken = "as-secret-token"
	hsToken = "hs-secret-token"
)

// newBridge starts an application service that answers every request with {}.
func newBridge(t testing.TB) *bridge {
	b := &bridge{t: t}
	s := httptest.NewServer(b)
	t.Cleanup(s.Close)
	b.url = s.URL
	return b
}

func (b *bridge) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	r := request{method: hr.Method, path: hr.URL.Path, query: hr.URL.Query(), header: hr.Header}
	raw, _ := io.ReadAll(hr.Body)
	_ = json.Unmarshal(raw, &r.body)
	b.mu.Lock()
	b.requests = append(b.requests, r)
	answer := b.answer
	b.mu.Unlock()
	if r.header.Get("Authorization") != "Bearer "+hsToken {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	status, body := http.StatusOK, "{}"
	if answer != nil {
		status, body = answer(r)
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// answers sets the function that answers the requests to the bridge.
func (b *bridge) answers(f func(r request) (status int, body string)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = f
}

// got returns the requests received so far whose path contains text.
func (b *bridge) got(text string) (out []request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.requests {
		if strings.Contains(r.path, text) {
			out = append(out, r)
		}
	}
	return out
}

// eventually waits until f returns true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

// registered returns a change of the configuration that registers the bridge. more is added to the registration file.
func (b *bridge) registered(more string) func(*config.Config) {
	return b.registeredAs("bridge", asToken, "_bridge_", more)
}

func (b *bridge) registeredAs(name, token, prefix, more string) func(*config.Config) {
	file := filepath.Join(b.t.TempDir(), name+".yaml")
	text := fmt.Sprintf(`id: %s
url: %s
as_token: %s
hs_token: %s
sender_localpart: %sbot
de.example.unknown: {of: [no, interest]}
namespaces:
  users: [{exclusive: true, regex: '@%s.*'}]
  aliases: [{exclusive: true, regex: '#%s.*'}]
  rooms: []
%s
`, name, b.url, token, hsToken, prefix, prefix, prefix, more)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return func(c *config.Config) { c.Appservices = append(c.Appservices, file) }
}

// caller makes requests with the access token of an application service.
type caller struct{ *testserver.Client }

func callerOf(s *testserver.Server) caller {
	c := s.Anonymous()
	c.Token = asToken
	return caller{c}
}

// as returns a path for a request that the application service makes as a user, and as a device unless device is empty.
func as(path, user, device string) string {
	q := url.Values{"user_id": {user}}
	if device != "" {
		q.Set("device_id", device)
	}
	if strings.Contains(path, "?") {
		return path + "&" + q.Encode()
	}
	return path + "?" + q.Encode()
}

// registers creates a user of the bridge and returns the user ID.
func (c caller) registers(localpart string) string {
	answer := c.Do("POST", "/v3/register", map[string]any{"type": "m.login.application_service", "username": localpart, "inhibit_login": true})
	return answer["user_id"].(string)
}

// decode decodes JSON.
func decode(t testing.TB, raw []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
}
