// Package testserver runs the complete server inside a test, with loopback addresses, an empty folder and a clock that
// only the test advances.
package testserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"ebb/accounts/gate"
	"ebb/config"
	"ebb/fedclient"
	"ebb/httpapi"
	"ebb/server"
	"ebb/storage/storagetest"
	"ebb/telemetry"
)

// Server is a running server.
type Server struct {
	*server.Server
	URL     string
	Dir     string // data_dir
	t       testing.TB
	cfg     *config.Config
	options server.Options
	// mu guards the fields below.
	mu         sync.Mutex
	now        time.Time
	statements []string                       // SQL statements recorded while counts is set
	counts     func(ctx context.Context) bool // whether a statement is recorded; nil: none is
}

// New starts a server with open registration and without rate limits; change may modify its configuration.
func New(t testing.TB, change func(*config.Config)) *Server {
	t.Helper()
	return start(t, change, server.Options{})
}

// NewWithPolicy is like New, with a policy on second factors.
func NewWithPolicy(t testing.TB, policy gate.Policy, change func(*config.Config)) *Server {
	t.Helper()
	return start(t, change, server.Options{MFA: &policy})
}

// NewWithLog is like New, with a log of its own and a policy on second factors.
func NewWithLog(t testing.TB, log *slog.Logger, policy gate.Policy, change func(*config.Config)) *Server {
	t.Helper()
	return start(t, change, server.Options{MFA: &policy, Log: log})
}

// start starts a server that is closed when the test ends.
func start(t testing.TB, change func(*config.Config), o server.Options) *Server {
	t.Helper()
	s := build(t, change, o)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	s.serveClients()
	return s
}

// build creates a server without listeners. The caller must close it.
func build(t testing.TB, change func(*config.Config), o server.Options) *Server {
	t.Helper()
	s := &Server{t: t, Dir: t.TempDir(), now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), cfg: config.Default(), options: o}
	s.options.Now, s.options.OnStatement = s.Now, s.observe
	s.cfg.ServerName, s.cfg.DataDir, s.cfg.Registration.Mode, s.cfg.RateLimits.Enabled = "test", s.Dir, "open", false
	s.cfg.Auth.Password = config.Password{MinLength: 1} // tests use short passwords
	if change != nil {
		change(s.cfg)
	}
	if err := s.cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s.cfg.Listen = nil // the test has its own listeners
	if err := fedclient.CreateKey(s.cfg.KeyFile()); err != nil {
		t.Fatal(err)
	}
	s.open()
	return s
}

// open opens the server's database, for the first time or again.
func (s *Server) open() {
	s.t.Helper()
	var err error
	if s.Server, err = server.New(context.Background(), s.cfg, s.options); err != nil {
		s.t.Fatal(err)
	}
}

// OnPostgres changes a configuration so that the server uses a fresh database on PostgreSQL, with the keys of messages
// in a folder outside data_dir. It skips the test if there is no PostgreSQL server.
func OnPostgres(t testing.TB, cfg *config.Config) {
	t.Helper()
	cfg.Database = storagetest.Postgres(t)
	cfg.DatabaseKeys = storagetest.Keys(t, cfg.Database)
}

// Config returns the server's configuration, which must not be changed.
func (s *Server) Config() *config.Config { return s.cfg }

// Notify delivers push notifications until the returned function is called or the test ends.
func (s *Server) Notify() (stop func()) {
	_, stop = s.background(s.Server.Notify)
	return stop
}

// background calls run on a goroutine. stop, which is also called at the end of the test, ends its context and waits
// for it. ended is closed when run has returned.
func (s *Server) background(run func(context.Context) error) (ended <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var err error
	go func() {
		defer close(done)
		err = run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if <-done; err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(stop)
	return done, stop
}

// Reopen closes the database and opens the server again, as a restart would.
func (s *Server) Reopen() {
	s.t.Helper()
	if err := s.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.Start()
}

// Start opens the server again after Close.
func (s *Server) Start() {
	s.t.Helper()
	s.open()
	s.serveClients()
}

// Name returns the server's name.
func (s *Server) Name() string { return s.cfg.ServerName }

// serveClients opens the listener that Client uses, until the returned function is called or the test ends. The
// connections of requests that wait are parked at once.
func (s *Server) serveClients() (stop func()) {
	s.t.Helper()
	ready := make(chan net.Addr, 1)
	f := httpapi.Front{
		Listeners: []httpapi.Listener{{Address: "127.0.0.1:0", Handler: s.Handler("client", "admin", "metrics")}},
		Log:       slog.New(slog.DiscardHandler), ParkAfter: time.Nanosecond, Ready: func(addresses []net.Addr) { ready <- addresses[0] },
	}
	ended, stop := s.background(f.Run)
	select {
	case address := <-ready:
		s.URL = "http://" + address.String()
	case <-ended:
		stop()
		s.t.FailNow()
	}
	return stop
}

// Now returns the time of the server's clock.
func (s *Server) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// Advance advances the clock.
func (s *Server) Advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

func (s *Server) observe(ctx context.Context, query string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts != nil && s.counts(ctx) {
		s.statements = append(s.statements, query)
	}
}

// Statements returns the SQL statements that the server executes while f runs.
func (s *Server) Statements(f func()) []string {
	return s.record(f, func(context.Context) bool { return true })
}

// Reads returns the SQL statements of reads that the server executes for requests while f runs. Those of background
// jobs are not included.
func (s *Server) Reads(f func()) []string {
	return s.record(f, func(ctx context.Context) bool { return ctx != nil && telemetry.InRequest(ctx) })
}

func (s *Server) record(f func(), counts func(ctx context.Context) bool) []string {
	count := func(counts func(ctx context.Context) bool) []string {
		s.mu.Lock()
		defer s.mu.Unlock()
		was := s.statements
		s.statements, s.counts = nil, counts
		return was
	}
	count(counts)
	f()
	return count(nil)
}

// FilesWith returns the files below data_dir, and in the folder of the keys of messages, that contain text.
func (s *Server) FilesWith(text string) (found []string) {
	s.t.Helper()
	for _, root := range []string{s.Dir, s.cfg.BodyKeys()} {
		if !config.Exists(root) {
			continue
		}
		dir := os.DirFS(root)
		err := fs.WalkDir(dir, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			raw, err := fs.ReadFile(dir, path)
			if bytes.Contains(raw, []byte(text)) {
				found = append(found, path)
			}
			return err
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return found
}

// Client is a logged-in device.
type Client struct {
	s        *Server
	User     string
	DeviceID string
	Token    string
}

// Register creates an account with a logged-in device.
func (s *Server) Register(name string) *Client {
	s.t.Helper()
	c := &Client{s: s}
	c.signIn(c.Do("POST", "/v3/register", map[string]any{"username": name, "password": password, "auth": map[string]any{"type": "m.login.dummy"}}))
	return c
}

// Anonymous returns a client that is not logged in.
func (s *Server) Anonymous() *Client { return &Client{s: s} }

const password = "correct horse battery"

// Login logs in another device of a user.
func (s *Server) Login(user string) *Client {
	s.t.Helper()
	c := &Client{s: s}
	c.signIn(c.Do("POST", "/v3/login", map[string]any{
		"type": "m.login.password", "identifier": map[string]any{"type": "m.id.user", "user": user}, "password": password,
	}))
	return c
}

// Password returns the password of every account.
func Password() string { return password }

func (c *Client) signIn(answer map[string]any) {
	c.User, _ = answer["user_id"].(string)
	c.DeviceID, _ = answer["device_id"].(string)
	c.Token, _ = answer["access_token"].(string)
}

// Raw sends a request. path is relative to /_matrix/client unless it begins with /_ or /. (for other APIs); body is
// nil, []byte, or a value to encode as JSON.
func (c *Client) Raw(method, path string, body any) (status int, header http.Header, answer []byte) {
	c.s.t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		reader = bytes.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			c.s.t.Fatal(err)
		}
		reader = bytes.NewReader(raw)
	}
	if len(path) > 1 && path[1] != '_' && path[1] != '.' {
		path = "/_matrix/client" + path
	}
	req, err := http.NewRequestWithContext(context.Background(), method, c.s.URL+path, reader)
	if err != nil {
		c.s.t.Fatal(err)
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if answer, err = io.ReadAll(resp.Body); err != nil {
		c.s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, answer
}

// Do sends a request and returns the response, which must be a JSON object with status 200.
func (c *Client) Do(method, path string, body any) map[string]any {
	c.s.t.Helper()
	status, _, raw := c.Raw(method, path, body)
	var answer map[string]any
	if err := json.Unmarshal(raw, &answer); err != nil || status != http.StatusOK {
		c.s.t.Fatalf("%s %s: %d %s", method, path, status, raw)
	}
	return answer
}

// Refused sends a request whose response must be an error with the given status and code.
func (c *Client) Refused(method, path string, body any, status int, code string) {
	c.s.t.Helper()
	got, _, raw := c.Raw(method, path, body)
	var e struct {
		Code string `json:"errcode"`
	}
	if err := json.Unmarshal(raw, &e); err != nil || got != status || e.Code != code {
		c.s.t.Fatalf("%s %s: %d %s, want %d %s", method, path, got, raw, status, code)
	}
}

// Hears waits until the client's /sync contains a message.
func (c *Client) Hears(body string) {
	c.s.t.Helper()
	since := ""
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		answer := c.Do("GET", "/v3/sync?timeout=2000&since="+since, nil)
		if strings.Contains(fmt.Sprint(answer["rooms"]), body) {
			return
		}
		since = answer["next_batch"].(string)
	}
	c.s.t.Fatalf("%s never hears %q", c.User, body)
}

// Get returns a nested value of objects and arrays; the elements of path are strings and ints.
func Get(v any, path ...any) any {
	for _, p := range path {
		switch key := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[key]
		case int:
			list, _ := v.([]any)
			if key >= len(list) {
				return nil
			}
			v = list[key]
		}
	}
	return v
}

// Server returns the homeserver of the client's user.
func (c *Client) Server() *Server { return c.s }
