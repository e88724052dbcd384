// Package probe runs a program that asks a server for every operation of the client-server API, against the real binary
// with everything switched on. The program is not part of Ebb: EBB_TEST_PROBE is its command line, to which the URL is
// added.
package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"ebb/internal/mailsink"
	"ebb/test/process"
)

// The examples of the specification name users of matrix.org, one of them with a password. On the server that is probed
// they exist. Another example names example.org as an identity server.
const (
	serverName  = "matrix.org"
	otherName   = "example.org"
	exampleUser = "cheeky_monkey"
	password    = "ilovebananas"
	exampleType = "org.example.probe" // of account data
	exampleData = `{"example":true}`
	exampleRule = "org.example.rule" // a push rule
	// leastSuccesses is how many operations must succeed, not only be answered. Most of the others need what the
	// program does not have: a password, the token of an application service, a picture.
	leastSuccesses = 130
	probeTimeout   = 5 * time.Minute
)

// fullConfig switches on what is off by default. Its arguments are the SMTP port and the file of the application
// service.
const fullConfig = `registration: {mode: open, guests: true, email: optional}
auth:
  password: {refuse_common: false}
  providers: [{id: x, name: Example, issuer: "https://id.example.org", client_id: ebb, client_secret: "of the client"}]
rate_limits: {enabled: false}
oauth: {enabled: true}
federation: {enabled: true, allow_private_addresses: true}
identity: {servers: [matrix.org, example.org]}
email: {smtp: {host: 127.0.0.1, port: %d, tls: none, from: "Ebb <ebb@example.org>"}}
push: {email: true}
turn: {uris: ["turn:turn.example.org"], shared_secret: "of the relay"}
calls: {rtc_transports: '[{"type": "livekit", "livekit_service_url": "https://calls.example.org"}]'}
media: {allow_unauthenticated: true, url_previews: {enabled: true, allow_private_addresses: true}}
user_directory: {search_all_users: true}
well_known:
  server: "matrix.example.org:443"
  support_page: https://example.org/help
  policy_key: 6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-s
  contacts: [{role: m.role.admin, email_address: admin@example.org}]
appservices: [%s]
`

// registration is of the application service, a bridge to the network that the examples ask about. Its argument is the
// URL of the service.
const registration = `id: irc
url: %s
as_token: token-of-the-service
hs_token: token-of-the-server
sender_localpart: ircbot
protocols: [irc]
namespaces: {users: [{exclusive: true, regex: '@irc_.*'}], aliases: [], rooms: []}
`

func TestEveryOperationIsAnswered(t *testing.T) {
	command := strings.Fields(os.Getenv("EBB_TEST_PROBE"))
	if len(command) == 0 {
		t.Skip("EBB_TEST_PROBE is not set")
	}
	dir := t.TempDir()
	binary, err := process.Build(dir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "irc.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, registration, bridge(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	sink := mailsink.New(t, mailsink.Options{})
	s := process.Start(t, binary, process.Options{
		Name: serverName, Config: fmt.Sprintf(fullConfig, sink.Port, file), Wrapper: examples(t),
	})
	addUser(t, binary, s)

	ctx, cancel := context.WithTimeout(t.Context(), probeTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, command[0], append(command[1:], helping(t, binary, s))...).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("%s: %v", os.Getenv("EBB_TEST_PROBE"), err)
	}
	found := regexp.MustCompile(`(\d+) with 2xx`).FindSubmatch(out)
	if found == nil {
		t.Fatal("the program does not say how many operations succeeded")
	}
	if n, _ := strconv.Atoi(string(found[1])); n < leastSuccesses {
		t.Errorf("%d operations succeeded, want at least %d", n, leastSuccesses)
	}
}

// addUser registers the user whom the examples name.
func addUser(t *testing.T, binary process.Binary, s *process.Server) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary.Path(), "user", "add", "--password-stdin", exampleUser, "--config", s.Config)
	cmd.Stdin = strings.NewReader(password + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ebb user add: %v\n%s", err, out)
	}
}

// bridge starts an application service that knows its protocol and nobody there. It returns its URL.
func bridge(t *testing.T) string {
	t.Helper()
	const protocol = `{"user_fields":["nickname"],"location_fields":["channel"],"icon":"mxc://matrix.org/irc","field_types":{` +
		`"nickname":{"regexp":"[^\\s#]+","placeholder":"name"},"channel":{"regexp":"#[^\\s]+","placeholder":"#channel"}},"instances":[]}`
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := "{}"
		switch path := strings.TrimPrefix(r.URL.Path, "/_matrix/app/v1/thirdparty/"); {
		case path == "protocol/irc":
			answer = protocol
		case strings.HasPrefix(path, "user"), strings.HasPrefix(path, "location"):
			answer = "[]"
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answer) // the server may have disconnected
	}))
	t.Cleanup(service.Close)
	return service.URL
}

// answers are the responses of the web page and the identity server that the examples name, by path.
var answers = map[string]string{
	"/":                                 "<title>Matrix</title>",
	"/_matrix/identity/v2/hash_details": `{"lookup_pepper":"pepper","algorithms":["sha256"]}`,
	"/_matrix/identity/v2/lookup":       `{"mappings":{}}`,
	"/_matrix/identity/v2/3pid/bind":    `{"medium":"email","address":"example@example.org"}`,
	"/_matrix/identity/v2/3pid/unbind":  `{}`,
	"/_matrix/identity/v2/store-invite": `{"token":"token","display_name":"c...@m...","public_keys":[{"public_key":"key","key_validity_url":"https://matrix.org/valid"}]}`,
}

// examples serves https://matrix.org and https://example.org. It returns a command by which the server finds them: it
// has a hosts file of its own, and trusts their certificate.
func examples(t *testing.T) []string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP: only root can serve matrix.org on this machine")
	}
	const address = "127.0.0.43"
	listen := net.ListenConfig{}
	l, err := listen.Listen(t.Context(), "tcp", address+":443")
	if err != nil {
		t.Fatal(err)
	}
	ca := process.NewAuthority(t)
	pages := &httptest.Server{Listener: l, TLS: &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, serverName, otherName)}, MinVersion: tls.VersionTLS12},
		Config: &http.Server{ReadHeaderTimeout: probeTimeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer, known := answers[r.URL.Path]
			if !known {
				w.WriteHeader(http.StatusNotFound)
			}
			_, _ = io.WriteString(w, answer) // the server may have disconnected
		})}}
	pages.StartTLS()
	t.Cleanup(pages.Close)
	t.Setenv("SSL_CERT_FILE", ca.File)
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, fmt.Appendf(nil, "127.0.0.1 localhost\n%s %s %s\n", address, serverName, otherName), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, hosts}
}

// helping starts a proxy in front of the server that does what must have happened before the program asks: it makes the
// first user an administrator, who has account data and a push rule, also account data in each new room. It returns the
// URL of the proxy.
func helping(t *testing.T, binary process.Binary, s *process.Server) string {
	t.Helper()
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	var user struct {
		ID    string `json:"user_id"`
		Token string `json:"access_token"`
	}
	put := func(ctx context.Context, path, body string) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPut, s.URL+"/_matrix/client/v3"+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+user.Token)
		response, err := http.DefaultClient.Do(r)
		if err == nil {
			err = response.Body.Close()
		}
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("PUT %s: %s", path, response.Status)
		}
		return err
	}
	registered := func(ctx context.Context, answer []byte) error {
		if user.Token != "" {
			return nil
		}
		if err := json.Unmarshal(answer, &user); err != nil {
			return err
		}
		if out, err := binary.Run(ctx, "user", "admin", user.ID, "--config", s.Config); err != nil {
			return fmt.Errorf("ebb user admin: %w\n%s", err, out)
		}
		return errors.Join(put(ctx, "/user/"+user.ID+"/account_data/"+exampleType, exampleData), put(ctx, "/pushrules/global/override/"+exampleRule, `{"actions":[]}`))
	}
	created := func(ctx context.Context, answer []byte) error {
		var room struct {
			ID string `json:"room_id"`
		}
		if err := json.Unmarshal(answer, &room); err != nil {
			return err
		}
		return put(ctx, "/user/"+user.ID+"/rooms/"+url.PathEscape(room.ID)+"/account_data/"+exampleType, exampleData)
	}
	after := map[string]func(context.Context, []byte) error{"/_matrix/client/v3/register": registered, "/_matrix/client/v3/createRoom": created}
	front := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: func(r *http.Response) error {
			help := after[r.Request.URL.Path]
			if help == nil || r.StatusCode != http.StatusOK {
				return nil
			}
			answer, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			r.Body = io.NopCloser(bytes.NewReader(answer))
			return help(r.Request.Context(), answer)
		},
	})
	t.Cleanup(front.Close)
	return front.URL
}
