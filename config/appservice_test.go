package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// inFolder writes files to a folder, and returns a configuration whose appservices are the named ones.
func inFolder(t *testing.T, files map[string]string, named ...string) *Config {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := Default()
	c.path, c.Appservices = filepath.Join(dir, "ebb.yaml"), named
	return c
}

const goodService = `id: irc
url: http://127.0.0.1:9999/
as_token: hunter2as
hs_token: hunter2hs
sender_localpart: irc
rate_limited: false
de.sorunome.msc2409.push_ephemeral: true
org.matrix.msc3202: true
com.example.unknown: [1]
protocols: [irc]
namespaces:
  users: [{regex: '@irc_.*', exclusive: true, group_id: '+x:y'}]
  rooms: null
`

func TestRegistrationsMayHaveUnknownMembers(t *testing.T) {
	c := inFolder(t, map[string]string{"bridges/irc.yaml": goodService, "bridges/readme.txt": "not yaml: ["}, "bridges")
	services, mistakes := c.AppServices()
	if len(mistakes) > 0 || len(services) != 1 {
		t.Fatalf("%v, %v", services, mistakes)
	}
	s := services[0]
	if s.ID != "irc" || s.URL != "http://127.0.0.1:9999" || !s.Ephemeral || !s.Encryption || s.NoLogin || len(s.Users) != 1 || !s.Users[0].Exclusive ||
		!s.Users[0].Pattern.MatchString("@irc_x:test") || s.Users[0].Pattern.MatchString("x@irc_x:test") || len(s.Protocols) != 1 {
		t.Errorf("%+v", s)
	}
}

func TestMistakesInRegistrationsAreReportedWithFileAndKey(t *testing.T) {
	with := func(old, replacement string) string { return strings.Replace(goodService, old, replacement, 1) }
	for text, want := range map[string]string{
		with("id: irc\n", ""):                                    "a.yaml has no id",
		with("id: irc\n", "id: [1]\n"):                           "a.yaml has id, but it is not text",
		with("url: http://127.0.0.1:9999/\n", ""):                "a.yaml has no url",
		with("http://127.0.0.1:9999/", "ftp://x"):                "a.yaml has url, but it is not an address",
		with("hunter2as", "'hunter2 as'"):                        "a.yaml has as_token with characters",
		with("hunter2hs", "''"):                                  "a.yaml has hs_token, but it is not text",
		with("sender_localpart: irc", "sender_localpart: 'a:b'"): "a.yaml has sender_localpart, but it is not",
		with("rate_limited: false", "rate_limited: maybe"):       "a.yaml has rate_limited, but it is neither",
		with("'@irc_.*'", "'@irc_(?!x).*'"):                      "a.yaml has namespaces.users[0].regex, but it is not a regular expression",
		with("exclusive: true", "exclusive: 7"):                  "a.yaml has namespaces.users[0].exclusive, but it is neither",
		with("rooms: null", "rooms: {}"):                         "a.yaml has namespaces.rooms that are not a list",
		with("protocols: [irc]", "protocols: {a: b}"):            "a.yaml has protocols that are not a list",
		strings.Repeat("# ", maxRegistration):                    "larger than",
	} {
		services, mistakes := inFolder(t, map[string]string{"a.yaml": text}, "a.yaml").AppServices()
		if len(services) != 0 || !strings.Contains(mistakes.Error(), "appservices[0]: ") || !strings.Contains(mistakes.Error(), want) {
			t.Errorf("%q is not said, but %v", want, mistakes)
		}
		if strings.Contains(mistakes.Error(), "hunter2") {
			t.Errorf("a token is in %v", mistakes)
		}
	}
	_, mistakes := inFolder(t, map[string]string{"a.yaml": goodService, "b.yaml": strings.NewReplacer("id: irc", "id: b", "hunter2as", "b").Replace(goodService)}, "a.yaml", "b.yaml").AppServices()
	if want := `appservices[1]: b.yaml has the sender_localpart "irc", already used by appservices[0] (a.yaml)`; !strings.Contains(mistakes.Error(), want) {
		t.Errorf("%q is not said, but %v", want, mistakes)
	}
}
