package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// read writes text to a file and reads it as a configuration.
func read(t *testing.T, text string) (*Config, Problems, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ebb.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Read(path)
}

func TestAllMistakesAreReportedTogetherWithKeyAndLine(t *testing.T) {
	_, found, err := read(t, `server_nam: example.org
listen:
  - adddress: 127.0.0.1:8008
    serve: client
  - address: ":8448"
    serve: [federation, federtion]
  - address: 127.0.0.1:8448
    serve: [metrics]
maxUploadSize: 1G
media:
  max_upload_size: lots
  max_pending_uploads: "20"
retention: 30d
rate_limits:
  sends: {per_second: fast, burst: 1.5}
  enabled: "yes"
registration:
  mode: token
  mode: open
log: {level: loud, format: ~}
public_url:
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"server_name: is missing",
		"line 1: server_nam: is not a known key; did you mean server_name?",
		"line 3: listen[0].adddress: is not a known key; did you mean listen[0].address?",
		"line 4: listen[0].serve: must be a list",
		`line 6: listen[1].serve[1]: is "federtion", but must be one of`,
		"line 7: listen[2].address: 127.0.0.1:8448 overlaps with listen[1]",
		"line 9: maxUploadSize: is not a known key; did you mean media.max_upload_size?",
		`line 11: media.max_upload_size: "lots" is not a size`,
		`line 12: media.max_pending_uploads: "20" is not a whole number: remove the quotation marks`,
		"line 13: retention: must be a group of keys: default, direct, private, public, encrypted, limits, purge_interval, purge_delay, receipts_keep, redacted, left_rooms, forgotten_rooms, superseded_state",
		`line 15: rate_limits.sends.per_second: "fast" is not a number`,
		`line 15: rate_limits.sends.burst: "1.5" is not a whole number`,
		"line 16: rate_limits.enabled",
		"line 19: registration.mode: appears twice, first on line 18",
		`line 20: log.level: is "loud", but must be one of debug`,
		"line 20: log.format: has no value",
		"line 21: public_url: has no value",
	} {
		if !strings.Contains(found.Error()+"\n", want) {
			t.Errorf("%q is not said in\n%v", want, found)
		}
	}
	last := 0
	for _, p := range found {
		if p.Line < last {
			t.Errorf("line %d comes after line %d", p.Line, last)
		}
		last = p.Line
	}
}

func TestMessagesContainNoPassword(t *testing.T) {
	const secret = "hunter2xyz"
	t.Setenv("EBB_TEST_PASSWORD", secret)
	for _, text := range []string{
		"database: postgres://ebb:hunter2xyz@host:port/db",
		"database: postgres://ebb:hunter2xyz/x#y@host/db",
		"database: mysql://ebb:hunter2xyz@host/db",
		"database: user=ebb password=hunter2xyz",
		"database: [hunter2xyz]",
		"database: {hunter2xyz: 1}",
		"public_url: https://ebb:hunter2xyz@example.org",
		"public_url: ftp://ebb:hunter2xyz@example.org",
		"acme: {directory: 'http://ebb:hunter2xyz@example.org'}",
		"registration: hunter2xyz",
		"registration: {shared_secret: [hunter2xyz]}",
		"registration: {shared_secret: *hunter2xyz}",
		"registration: {shared_secret: \"\\q hunter2xyz\"}",
		"registration: {mode: \"${EBB_TEST_PASSWORD}\"}",
		"cache: {size: \"${EBB_TEST_PASSWORD}\"}",
		"rate_limits: {enabled: ${EBB_TEST_PASSWORD}}",
		"log: {level: \"a${EBB_TEST_PASSWORD}b\"}",
	} {
		_, found, err := read(t, "server_name: test\n"+text+"\n")
		if err == nil {
			err = found.Err()
		}
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestPostgreSQLAddressesAndUnusualValuesAreParsed(t *testing.T) {
	t.Setenv("EBB_TEST_PASSWORD", "hunter2xyz")
	_, found, err := read(t, `
x: &bounds {per_second: 3, burst: 9}
`)
	if err != nil || len(found) != 2 {
		t.Fatalf("%v %v", found, err)
	}
	c, found, err := read(t, `
server_name: test
database: postgresql://ebb:${EBB_TEST_PASSWORD}@/ebb?host=/run/postgresql
rate_limits:
  sends: &bounds {per_second: 3, burst: 9}
  reads: *bounds
  joins: {<<: *bounds, burst: 4}
media: {max_upload_size: 100MB, quota_per_user: 1.5GiB}
federation: {presence: no}
retention: {default: {max_lifetime: 30d, min_lifetime: null}, limits: }
rooms: {default_version: 11}
appservices:
`)
	if err != nil || len(found) > 0 {
		t.Fatalf("%v %v", found, err)
	}
	if c.Database != "postgresql://ebb:hunter2xyz@/ebb?host=/run/postgresql" || c.DSN() != c.Database || c.Media.MaxUploadSize != 100<<20 || c.Media.QuotaPerUser != 3<<29 ||
		c.RateLimits.Sends != (Bucket{3, 9}) || c.RateLimits.Reads != c.RateLimits.Sends || c.RateLimits.Joins != (Bucket{3, 4}) || c.Federation.Presence ||
		c.Retention.Default.MinLifetime != nil || time.Duration(*c.Retention.Default.MaxLifetime) != 30*24*time.Hour || c.Rooms.DefaultVersion != "11" {
		t.Errorf("%+v", c)
	}
}

func TestEveryConfiguredFileIsChecked(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("ebb.yaml", `server_name: test
data_dir: .
database: sqlite:folder
listen: [{address: "127.0.0.1:0", serve: [client], tls: {certificate: none.pem, private_key: key.pem}},
  {address: "127.0.0.1:0", serve: [client], tls: {certificate: key.pem, private_key: key.pem}}]
registration: {shared_secret_file: empty}
federation: {trusted_ca_file: key.pem}
appservices: [none.yaml, bridge.yaml, good.yaml, twin.yaml, broken.yaml]
`)
	put("key.pem", "hunter2xyz")
	put("empty", "\n")
	put("bridge.yaml", "id: bridge\nas_token: hunter2xyz\n")
	good := "id: good\nurl: null\nas_token: hunter2xyz1\nhs_token: hunter2xyz2\nsender_localpart: bot\nnamespaces: {users: []}\n"
	put("good.yaml", good)
	put("twin.yaml", good)
	put("broken.yaml", "as_token: *hunter2xyz\n")
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	c, found, err := Read(filepath.Join(dir, "ebb.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	mistakes, _ := c.CheckFiles(time.Now())
	text := append(found, mistakes...).Error()
	for _, want := range []string{
		"line 6: registration.shared_secret_file: empty is empty", "line 3: database: ", "line 4: listen[0].tls.certificate: ", "line 5: listen[1].tls: ",
		"line 7: federation.trusted_ca_file: ", "line 8: appservices[0]: ", "appservices[1]: bridge.yaml has no hs_token", "appservices[1]: bridge.yaml has no namespaces",
		`appservices[3]: twin.yaml has the id "good"`, "appservices[3]: twin.yaml has an as_token, already used by appservices[2] (good.yaml)", "appservices[4]: broken.yaml: ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not said in\n%s", want, text)
		}
	}
	if strings.Contains(text, "hunter2xyz") || strings.Contains(text, ": good.yaml") {
		t.Errorf("too much is said in\n%s", text)
	}
}

func TestDangerousSettingsCauseWarnings(t *testing.T) {
	c, found, err := read(t, `server_name: localhost
public_url: http://matrix.example.org
registration: {mode: open, shared_secret: short}
rate_limits: {enabled: false}
federation: {enabled: true, allow_private_addresses: true}
media: {allow_unauthenticated: true}
trusted_proxies: [0.0.0.0/0]
listen: [{address: "0.0.0.0:8008", serve: [client, admin, metrics]}]
`)
	plain, _, err2 := read(t, "server_name: test\nlisten: [{address: ':8008', serve: [client]}]\n")
	if err2 != nil || len(plain.Warnings()) != 1 || plain.Warnings()[0].Key != "listen[0].tls" {
		t.Errorf("without a certificate: %v %v", plain.Warnings(), err2)
	}
	if err != nil || len(found) > 0 {
		t.Fatal(found, err)
	}
	warned := map[string]int{}
	for _, w := range c.Warnings() {
		warned[w.Key] = w.Line
	}
	for key, line := range map[string]int{
		"public_url": 2, "registration.mode": 3, "registration.shared_secret": 3, "rate_limits.enabled": 4, "federation.enabled": 5, "federation.allow_private_addresses": 5,
		"server_name": 1, "media.allow_unauthenticated": 6, "trusted_proxies[0]": 7, "listen[0].serve": 8,
	} {
		if warned[key] != line {
			t.Errorf("%s is warned of in line %d, want %d", key, warned[key], line)
		}
	}
	if w := Default().Warnings(); len(w) > 0 {
		t.Errorf("the defaults are warned of: %v", w)
	}
}

func TestDifferencesReturnsTheChangedKeys(t *testing.T) {
	a, b := Default(), Default()
	week := Duration(7 * 24 * time.Hour)
	b.Log.Level, b.Cache.Size, b.Retention.Default.MaxLifetime, b.Listen[0].Serve = "debug", 64<<20, &week, []string{"client"}
	reload, restart := Differences(a, b)
	if strings.Join(reload, " ") != "log.level" || strings.Join(restart, " ") != "listen retention.default.max_lifetime cache.size" {
		t.Errorf("%q %q", reload, restart)
	}
}
