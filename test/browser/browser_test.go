//go:build browser

package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebb/internal/mailsink"
	"ebb/internal/oidctest"
	"ebb/test/process"
)

// scriptTimeout is the timeout of pages.mjs, which takes three minutes beside other work.
const scriptTimeout = 10 * time.Minute

// picturesVariable is the environment variable with a folder for pictures of all pages.
const picturesVariable = "EBB_TEST_PICTURES"

// configuration needs the port of the SMTP server and the issuer of the provider.
const configuration = `registration: {mode: open}
rate_limits: {enabled: false}
oauth: {enabled: true}
email: {smtp: {host: 127.0.0.1, port: %d, tls: none, from: "Ebb <ebb@example.org>"}}
auth:
  mfa: required
  providers: [{id: office, name: Office, issuer: %q, client_id: browser, client_secret: secret, localpart: "{{.preferred_username}}", create_accounts: true}]
`

// helper serves to the script what it cannot get from the pages: e-mails that have arrived, and links that the
// administrator makes. It also makes users administrators.
func helper(t *testing.T, binary process.Binary, s *process.Server, sink *mailsink.Sink) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /mail", func(w http.ResponseWriter, _ *http.Request) {
		if sink.Count() == 0 {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		_ = json.NewEncoder(w).Encode(sink.Next()) // the script notices
	})
	mux.HandleFunc("GET /link", func(w http.ResponseWriter, r *http.Request) {
		out, err := binary.Run(r.Context(), "user", "enrol-link", "--json", "--config", s.Config, r.FormValue("user"))
		if err != nil {
			http.Error(w, out, http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, out)
	})
	mux.HandleFunc("GET /admin", func(w http.ResponseWriter, r *http.Request) {
		if out, err := binary.Run(r.Context(), "user", "admin", "--config", s.Config, r.FormValue("user")); err != nil {
			http.Error(w, out, http.StatusInternalServerError)
		}
	})
	h := httptest.NewServer(mux)
	t.Cleanup(h.Close)
	return h.URL
}

// TestPagesInChromium signs users up and in on the pages, with passkeys, one-time codes, recovery codes and an identity
// provider; loses devices and passwords; and uses the account page and the pages behind links in e-mails.
func TestPagesInChromium(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("apt-get install chromium")
	}
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sink, provider := mailsink.New(t, mailsink.Options{}), oidctest.NewFake(t, "browser")
	s := process.Start(t, binary, process.Options{Localhost: true, Config: fmt.Sprintf(configuration, sink.Port, provider.Issuer)})
	ctx, cancel := context.WithTimeout(t.Context(), scriptTimeout)
	defer cancel()
	words := []string{"pages.mjs", s.URL, helper(t, binary, s, sink), chromium}
	if folder := os.Getenv(picturesVariable); folder != "" {
		words = append(words, folder)
	}
	cmd := exec.CommandContext(ctx, "node", words...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		t.Log(line)
	}
	if err != nil {
		t.Error(err)
	}
}
