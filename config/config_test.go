package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write sample.yaml anew")

func TestSampleFileIsCurrentAndEqualsTheDefaults(t *testing.T) {
	if *update {
		if err := os.WriteFile("sample.yaml", []byte(Sample()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile("sample.yaml")
	if err != nil || string(raw) != Sample() {
		t.Fatalf("sample.yaml is stale: go test ./config -update (%v)", err)
	}
	c, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	c.source = source{}
	if !reflect.DeepEqual(c, Default()) {
		t.Fatalf("sample.yaml says\n%+v, the defaults are\n%+v", c, Default())
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestEveryMistakeIsReportedWithItsKey(t *testing.T) {
	c := Default()
	c.ServerName = "not a name"
	c.PublicURL = "ftp://x"
	c.Database = "mysql:"
	c.Listen = []Listener{{Address: "8008", Serve: []string{"everything"}, TLS: TLS{Certificate: "x", ACMEHosts: []string{"localhost"}}}}
	c.ACME.Directory = "http://example.org"
	c.Registration.Mode = "maybe"
	c.Media.MaxUploadSize = 0
	low, high := Duration(time.Hour), Duration(time.Minute)
	c.Retention.Default = Lifetimes{MinLifetime: &low, MaxLifetime: &high}
	c.TrustedProxies = []string{"nowhere"}
	c.Federation.DeniedServers, c.Federation.Notaries = []string{"*.example.org", "a/b"}, []string{"*.example.org"}
	c.Email.SMTP = SMTP{Host: "mail.example.org:25", Port: 0, TLS: "none", Username: "ebb", From: "nobody"}
	c.Registration.Email, c.Email.AllowedDomains = "perhaps", []string{"@example.org"}
	c.TURN = TURN{URIs: []string{"https://turn.example.org"}, Password: "x"}
	c.Media.URLPreviews = Previews{DeniedHosts: []string{"https://example.org"}, Languages: []string{"en\nx"}, MaxImageSize: 2, CacheSize: 1}
	err := c.Validate()
	for _, key := range []string{"server_name", "public_url", "database", "listen[0].address", "listen[0].serve[0]", "listen[0].tls", "listen[0].tls.acme_hosts[0]", "acme.directory", "federation.denied_servers[1]", "federation.notaries[0]",
		"registration.mode", "media.max_upload_size", "retention.default", "trusted_proxies[0]",
		"email.smtp.host", "email.smtp.port", "email.smtp.tls", "email.smtp.password", "email.smtp.from", "email.smtp.timeout",
		"media.url_previews.denied_hosts[0]", "media.url_previews.languages[0]", "media.url_previews.lifetime", "media.url_previews.cache_size",
		"turn.uris[0]", "turn.lifetime", "turn.password", "turn.shared_secret",
		"registration.email", "email.allowed_domains[0]"} {
		if err == nil || !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%s is not named in %v", key, err)
		}
	}
}

func TestPasskeysAreForAName(t *testing.T) {
	for _, c := range []struct {
		url, rpID string
		ok        bool
	}{
		{"https://chat.example.org", "", true}, {"http://127.0.0.1:8008", "", true}, // the latter without passkeys
		{"https://chat.example.org:8448", "chat.example.org", true}, {"https://chat.example.org", "example.org", true}, {"http://localhost:8008", "localhost", true},
		{"https://chat.example.org", "ample.org", false}, {"https://chat.example.org", "other.example", false}, {"https://chat.example.org", "Example.org", false},
		{"http://127.0.0.1:8008", "127.0.0.1", false}, {"https://chat.example.org", "::1", false},
	} {
		cfg := Default()
		cfg.PublicURL, cfg.Auth.Passkeys.RPID = c.url, c.rpID
		if err := cfg.Validate(); (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "auth.passkeys.rp_id") {
			t.Errorf("%s for %s: %v", c.rpID, c.url, err)
		}
	}
	cfg := Default()
	cfg.PublicURL, cfg.Auth.Passkeys.RPID = "http://127.0.0.1:8008", "127.0.0.1"
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "localhost") {
		t.Errorf("the message does not say what to do: %v", err)
	}
	cfg = Default()
	cfg.Auth.Passkeys.AAGUIDs = []string{"cb69481e-8ff7-4039-93ec-0a2729a154a8", "YubiKey"}
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "auth.passkeys.aaguids[1]") {
		t.Errorf("a model without a number: %v", err)
	}
}

func TestUnknownKeysAreRefused(t *testing.T) {
	if _, err := Parse([]byte("server_name: x\nserver_nam: y\n")); err == nil || !strings.Contains(err.Error(), "server_nam") {
		t.Fatal(err)
	}
}

func TestSecretsFromEnvironmentAndFile(t *testing.T) {
	t.Setenv("EBB_TEST_SECRET", "from the environment")
	c, err := Parse([]byte("registration: {shared_secret: \"${EBB_TEST_SECRET}\"}\n# ${NOT_SET} in a comment\n"))
	if err != nil || c.Registration.SharedSecret != "from the environment" {
		t.Fatal(c, err)
	}
	if _, err := Parse([]byte("public_url: ${EBB_TEST_NOT_SET}\n")); err == nil || !strings.Contains(err.Error(), "EBB_TEST_NOT_SET") {
		t.Fatal("a variable that is not set is no error:", err)
	}
	t.Setenv("EBB_TEST_ODD", `a": "b # {c}`)
	t.Setenv("EBB_TEST_BURST", "7")
	c, err = Parse([]byte("registration: {shared_secret: \"${EBB_TEST_ODD}\"}\nrate_limits:\n  sends:\n    burst: ${EBB_TEST_BURST}\n"))
	if err != nil || c.Registration.SharedSecret != `a": "b # {c}` || c.RateLimits.Sends.Burst != 7 {
		t.Fatal(c, err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "s"), []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ebb.yaml"), []byte("server_name: x\nregistration: {shared_secret_file: s}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err = Load(filepath.Join(dir, "ebb.yaml"))
	if err != nil || c.Registration.SharedSecret != "from a file" || c.DSN() != "sqlite:"+filepath.Join(dir, "data", "ebb.db") {
		t.Fatal(c, err)
	}
}

func TestSizesAndTimeSpans(t *testing.T) {
	for text, want := range map[string]Bytes{"0": 0, "500": 500, "64K": 64 << 10, "50MiB": 50 << 20, "2G": 2 << 30, "100MB": 100 << 20, "100 mb": 100 << 20, "7kB": 7 << 10, "1.5GiB": 3 << 29, "1T": 1 << 40, "12B": 12} {
		if got, err := ParseBytes(text); err != nil || got != want {
			t.Errorf("%s: %d %v", text, got, err)
		}
	}
	for text, want := range map[string]time.Duration{"0s": 0, "90s": 90 * time.Second, "1d12h": 36 * time.Hour, "2w": 14 * 24 * time.Hour, "30d": 30 * 24 * time.Hour} {
		got, err := ParseDuration(text)
		if err != nil || time.Duration(got) != want {
			t.Errorf("%s: %v %v", text, got, err)
		}
		if back, err := ParseDuration(got.String()); err != nil || back != got {
			t.Errorf("%s is written as %s", text, got)
		}
	}
	for _, text := range []string{"", "-1s", "x", "1d-1h", "99999999999w", "1"} {
		if _, err := ParseDuration(text); err == nil {
			t.Errorf("%q is taken for a time span", text)
		}
	}
	for _, text := range []string{"", "-1", "x", "99999999999999999999", "9999999999G", "1.5", "1,5G", "M", "5 M B", "5MM", "1e3"} {
		if _, err := ParseBytes(text); err == nil {
			t.Errorf("%q is taken for a size", text)
		}
	}
}

func TestAConfigurationIsNotReadFromAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ebb.yaml")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip("no named pipes here: ", err)
	}
	if _, _, err := Read(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a named pipe: %v", err)
	}
}

// Neither config check nor serve may wait for a pipe that nobody writes to, or read a device without an end.
func TestFilesThatTheConfigurationNamesAreRegularAndSmall(t *testing.T) {
	dir := t.TempDir()
	pipe, large := filepath.Join(dir, "pipe"), filepath.Join(dir, "large")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Skip("no named pipes here: ", err)
	}
	if err := errors.Join(os.WriteFile(large, nil, 0o600), os.Truncate(large, 1<<40)); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{pipe: "not a regular file", "/dev/zero": "not a regular file", dir: "is a folder", large: "bytes"} {
		for key, text := range map[string]string{
			"registration.shared_secret_file": "registration: {shared_secret_file: %q}",
			"federation.trusted_ca_file":      "federation: {trusted_ca_file: %q}",
			"listen[0].tls.certificate":       "listen: [{address: 127.0.0.1:8008, serve: [client], tls: {certificate: %[1]q, private_key: %[1]q}}]",
			"listen[0].tls.private_key":       "listen: [{address: 127.0.0.1:8008, serve: [client], tls: {certificate: %[1]q, private_key: %[1]q}}]",
			"appservices[0]":                  "appservices: [%q]",
		} {
			if file == dir && key == "appservices[0]" {
				continue // a folder of registration files
			}
			path := filepath.Join(dir, "ebb.yaml")
			if err := os.WriteFile(path, fmt.Appendf(nil, "server_name: example.org\n"+text+"\n", file), 0o600); err != nil {
				t.Fatal(err)
			}
			c, found, err := Read(path)
			if err != nil {
				t.Fatal(err)
			}
			mistakes, _ := c.CheckFiles(time.Now())
			if !slices.ContainsFunc(append(found, mistakes...), func(p Problem) bool { return p.Key == key && strings.Contains(p.Text, want) }) {
				t.Errorf("%s: %s has these mistakes, want %q: %v", key, file, want, append(found, mistakes...))
			}
		}
	}
}

func TestOAuthIsOnWhereItsPagesAreProtected(t *testing.T) {
	for text, want := range map[string]bool{
		"": true, "public_url: https://matrix.example.org": true, "public_url: http://localhost:8008/": true,
		"public_url: http://192.0.2.1:8008": false, "public_url: https://example.org/matrix": false,
		"oauth: {enabled: false}": false, "oauth: {device_grant: \"off\"}": true,
	} {
		c, err := Parse([]byte(text))
		if err != nil || c.OAuth.Enabled != want {
			t.Errorf("%s: %v, %v", text, c.OAuth.Enabled, err)
		}
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	c, err := Parse([]byte("public_url: http://192.0.2.1:8008\noauth: {enabled: true}"))
	if err == nil {
		err = c.Validate()
	}
	if err == nil || !strings.Contains(err.Error(), "oauth.enabled") {
		t.Errorf("on without https: %v", err)
	}
}
