package main

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

	"ebb/processors"
)

// People sign in at once by OAuth 2.0, each from a network of their own, while others send messages. The server has its
// default rate limits.
const (
	signInPeople   = 1000
	signInAim      = "all < 60 s"
	signInSenders  = 10
	signInPatience = 10 * time.Minute       // of a browser; the aim is much shorter
	signInPause    = 200 * time.Millisecond // between two messages of a sender
	signInQuiet    = 20 * time.Second       // of messages before anybody signs in, so that their p99 is that of a thousand
	signInConfig   = `server_name: localhost
public_url: http://%[1]s
data_dir: .
listen: [{address: "%[1]s", serve: [client, admin, metrics]}]
trusted_proxies: [127.0.0.1/32]
registration: {mode: open}
rate_limits: {enabled: %[2]t}
oauth: {enabled: true}
log: {level: error}
`
	signInCallback = "https://app.example.com/callback"
)

// signIns measures how long it takes until everybody is in, and how much longer sends take meanwhile.
func (b *bench) signIns() error {
	p := &process{dir: filepath.Join(b.dir, "signin"), binary: b.binary}
	if err := p.initialise("localhost"); err != nil {
		return err
	}
	var err error
	if p.addr, err = freeAddress(); err != nil {
		return err
	}
	restart := func(limits bool) error {
		if err := os.WriteFile(p.config(), fmt.Appendf(nil, signInConfig, p.addr, limits), 0o600); err != nil {
			return err
		}
		_, err := p.serve(0)
		return err
	}
	if err := restart(false); err != nil {
		return err
	}
	h, err := newHouse(p, signInSenders, 1)
	if err == nil {
		_, err = p.register("person", signInPeople)
	}
	p.stop()
	if err != nil {
		return err
	}
	if err := restart(true); err != nil {
		return err
	}
	defer p.stop()
	quiet, err := h.pacedSends(func() error { time.Sleep(signInQuiet); return nil })
	if err != nil {
		return err
	}
	before, err := p.used()
	if err != nil {
		return err
	}
	var took []float64
	busy, err := h.pacedSends(func() error {
		return b.profiled(p, "signin", func() (err error) { took, err = p.signInAll(); return err })
	})
	if err != nil {
		return err
	}
	after, err := p.used()
	if err != nil {
		return err
	}
	b.print(figure{fmt.Sprintf("%d people sign in at once: the last is in after", signInPeople), "s", []float64{percentile(took, 1)}, nil, signInAim},
		figure{"one of them, p50", "s", []float64{percentile(took, 0.5)}, nil, ""},
		figure{"one of them, CPU of the server with the messages", "ms", []float64{(after.cpu - before.cpu).Seconds() * 1000 / signInPeople}, nil, ""},
		figure{"a message before that, p50", "ms", []float64{percentile(quiet, 0.5)}, nil, ""},
		figure{"a message meanwhile, p50", "ms", []float64{percentile(busy, 0.5)}, nil, ""},
		figure{"a message before that, p99", "ms", []float64{percentile(quiet, 0.99)}, nil, ""},
		figure{"a message meanwhile, p99", "ms", []float64{percentile(busy, 0.99)}, nil, "twice the line above"})
	return nil
}

// peopleCommand is the argument that makes this program run as the people who sign in. Their browsers have processors
// of their own in reality, so here they have a process that uses only those that the server leaves idle.
const peopleCommand = "be-the-people"

// signInAll signs everybody in at once, and returns how long (s) each took.
func (p *process) signInAll() (took []float64, err error) {
	c, err := p.signInClient()
	if err != nil {
		return nil, err
	}
	err = inProcess(peopleCommand, people{Addr: p.addr, Client: c}, &took, func() error { return nil })
	return took, err
}

// people tells the process of the people what to do.
type people struct {
	Addr   string
	Client *oauth2.Config
}

// signInAll signs everybody in as in says, and writes to out how long (s) each took.
func signInAll(in io.Reader, out io.Writer) error {
	if err := processors.UseIdle(); err != nil {
		return err
	}
	var all people
	if err := json.NewDecoder(in).Decode(&all); err != nil {
		return err
	}
	took := make([]float64, signInPeople)
	var failures atomic.Int64
	var first atomic.Pointer[error]
	start := time.Now()
	_ = parallel(signInPeople, signInPeople, func(i int) error { // errors are counted below
		err := (&person{addr: all.Addr, client: all.Client, number: i}).signIn()
		took[i] = time.Since(start).Seconds()
		if err != nil {
			failures.Add(1)
			first.CompareAndSwap(nil, &err)
		}
		return nil
	})
	if n := failures.Load(); n > 0 {
		return fmt.Errorf("%d people did not get in; the first error: %w", n, *first.Load())
	}
	return json.NewEncoder(out).Encode(took)
}

// signInClient registers a client.
func (p *process) signInClient() (*oauth2.Config, error) {
	var made struct {
		ID string `json:"client_id"`
	}
	body := map[string]any{"client_name": "Bench", "client_uri": "https://app.example.com/", "redirect_uris": []string{signInCallback}}
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	resp, err := http.Post("http://"+p.addr+"/oauth2/register", "application/json", strings.NewReader(string(raw)))
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(resp.Body).Decode(&made); err != nil || made.ID == "" {
		return nil, fmt.Errorf("register a client: %d %w", resp.StatusCode, err)
	}
	return &oauth2.Config{ClientID: made.ID, RedirectURL: signInCallback, Endpoint: oauth2.Endpoint{
		AuthURL: "http://" + p.addr + "/oauth2/authorize", TokenURL: "http://" + p.addr + "/oauth2/token", AuthStyle: oauth2.AuthStyleInParams,
	}}, nil
}

// person is somebody who signs in with a browser.
type person struct {
	addr   string // of the server
	client *oauth2.Config
	number int
	http   *http.Client
}

// RoundTrip implements http.RoundTripper. It names the person's network, as a reverse proxy does.
func (s *person) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Forwarded-For", fmt.Sprintf("10.%d.%d.%d", s.number>>16&255, s.number>>8&255, s.number&255))
	return http.DefaultTransport.RoundTrip(r)
}

// signIn walks through the pages and exchanges the code.
func (s *person) signIn() error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	s.http = &http.Client{Jar: jar, Transport: s, Timeout: signInPatience, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Host != s.addr {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	c := *s.client
	c.Scopes = []string{"urn:matrix:client:api:*", fmt.Sprintf("urn:matrix:client:device:BENCH%d", s.number)}
	verifier := oauth2.GenerateVerifier()
	address := c.AuthCodeURL("state", oauth2.S256ChallengeOption(verifier))
	page, _, err := s.load(address, nil)
	if err != nil {
		return err
	}
	page, _, err = s.load(address, fields(page, url.Values{"user": {fmt.Sprintf("person%d", s.number)}, "password": {"correct horse person"}}))
	if err != nil {
		return err
	}
	_, back, err := s.load(address, fields(page, url.Values{"step": {"allow"}}))
	if err != nil {
		return err
	}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, s.http)
	_, err = c.Exchange(ctx, back.Query().Get("code"), oauth2.VerifierOption(verifier))
	return err
}

var (
	formPattern   = regexp.MustCompile(`(?s)<form method="post".*?</form>`)
	hiddenPattern = regexp.MustCompile(`<input type="hidden" name="([a-z_]+)" value="([^"]*)">`)
)

// fields adds the hidden fields of the first form of a page to what is filled in.
func fields(page string, filled url.Values) url.Values {
	for _, m := range hiddenPattern.FindAllStringSubmatch(formPattern.FindString(page), -1) {
		filled.Set(m[1], html.UnescapeString(m[2]))
	}
	return filled
}

// load gets a page, or sends a form, and follows redirects on this server. It returns the page, or where another server
// is redirected to.
func (s *person) load(address string, form url.Values) (page string, away *url.URL, err error) {
	var resp *http.Response
	if form == nil {
		resp, err = s.http.Get(address)
	} else {
		resp, err = s.http.PostForm(address, form)
	}
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return "", nil, err
	case resp.StatusCode == http.StatusSeeOther:
		away, err = url.Parse(resp.Header.Get("Location"))
		return "", away, err
	case resp.StatusCode != http.StatusOK:
		return "", nil, fmt.Errorf("person %d: %d %.500s", s.number, resp.StatusCode, raw)
	}
	return string(raw), nil, nil
}
