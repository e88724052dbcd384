package config

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"maunium.net/go/mautrix/id"
)

// AppService is an application service as described by its registration file.
// Spec: application-service-api#registration
type AppService struct {
	File            string // path as given in the configuration
	ID              string
	URL             string // without a trailing slash; "" if nothing is sent to the service
	ASToken         string // authenticates requests by the service
	HSToken         string // authenticates requests by this server to the service
	SenderLocalpart string
	Users           []Namespace
	Aliases         []Namespace
	Rooms           []Namespace
	Protocols       []string // third-party networks
	RateLimited     bool     // whether requests of its users, except the sender, are rate-limited
	Ephemeral       bool     // whether the service receives typing, receipts, presence and to-device messages
	OldEphemeral    bool     // whether it receives ephemeral events also under their unstable name (MSC2409)
	Encryption      bool     // whether the service receives changes of devices and counts of one-time keys (MSC3202)
	NoLogin         bool     // whether the service manages devices instead of logging in, which it then cannot do (MSC4190)
}

// Namespace is a set of user IDs, room aliases or room IDs.
type Namespace struct {
	Exclusive bool           // whether only the service may create IDs in the namespace
	Pattern   *regexp.Regexp // anchored at the beginning of the ID
}

// Bounds of registration files.
const (
	maxRegistrations = 200     // number of files
	maxRegistration  = 1 << 20 // size of a file in bytes
	maxNamespaces    = 500     // namespaces of one kind in a file
	maxPattern       = 2000    // length of a regular expression in bytes
	maxProtocols     = 100     // protocols in a file
)

// registrationReader reads the registration files of a configuration.
type registrationReader struct {
	problems
	key     string // key of the current file in the configuration
	file    string
	ids     map[string]string // IDs of the services read so far, with the keys of their files
	tokens  map[string]string
	senders map[string]string
}

// AppServices reads the registration files of all application services. It leaves out files with mistakes. Its messages
// contain no tokens.
func (c *Config) AppServices() ([]AppService, Problems) {
	r := &registrationReader{problems: problems{of: c}, ids: map[string]string{}, tokens: map[string]string{}, senders: map[string]string{}}
	var out []AppService
	for i, path := range c.Appservices {
		r.key = fmt.Sprintf("appservices[%d]", i)
		for _, file := range r.files(path) {
			r.file = file
			before := len(r.list)
			if one := r.read(); len(r.list) == before {
				out = append(out, one)
			}
		}
	}
	if len(out) > maxRegistrations {
		r.add("appservices", "there are %d registration files, but at most %d are allowed", len(out), maxRegistrations)
	}
	return out, r.list
}

// files returns the registration files for a path in the configuration: the file itself or, if the path is a folder,
// the YAML files in it.
func (r *registrationReader) files(path string) []string {
	info, err := os.Stat(r.of.abs(path))
	if err != nil {
		r.add(r.key, "%v%s", err, OwnerOf(err))
		return nil
	}
	if !info.IsDir() {
		return []string{path}
	}
	entries, err := os.ReadDir(r.of.abs(path))
	if err != nil {
		r.add(r.key, "%v%s", err, OwnerOf(err))
	}
	var files []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	return files
}

// mistake records a problem with the current file.
func (r *registrationReader) mistake(format string, args ...any) {
	r.add(r.key, "%s %s", r.file, fmt.Sprintf(format, args...))
}

// registration holds the keys of a registration file. Unknown keys are ignored, because the programs that write these
// files add keys of their own.
type registration struct {
	ID              yaml.Node `yaml:"id"`
	URL             yaml.Node `yaml:"url"`
	ASToken         yaml.Node `yaml:"as_token"`
	HSToken         yaml.Node `yaml:"hs_token"`
	SenderLocalpart yaml.Node `yaml:"sender_localpart"`
	Namespaces      yaml.Node `yaml:"namespaces"`
	Protocols       yaml.Node `yaml:"protocols"`
	RateLimited     yaml.Node `yaml:"rate_limited"`
	Ephemeral       yaml.Node `yaml:"receive_ephemeral"`
	OldEphemeral    yaml.Node `yaml:"de.sorunome.msc2409.push_ephemeral"`
	MSC3202         yaml.Node `yaml:"org.matrix.msc3202"`
	MSC4190         yaml.Node `yaml:"io.element.msc4190"`
}

// read reads the current file.
func (r *registrationReader) read() (out AppService) {
	raw, err := r.load()
	if err != nil {
		r.add(r.key, "%v%s", err, OwnerOf(err))
		return out
	}
	var in registration
	if err := yaml.NewDecoder(bytes.NewReader(raw)).Decode(&in); err != nil {
		r.add(r.key, "%s: %v", r.file, withoutQuotes(err))
		return out
	}
	out = AppService{
		File: r.file, ID: r.text("id", in.ID), ASToken: r.token("as_token", in.ASToken), HSToken: r.token("hs_token", in.HSToken),
		SenderLocalpart: r.text("sender_localpart", in.SenderLocalpart), URL: r.url(in.URL), Protocols: r.protocols(in.Protocols),
		RateLimited: r.flag("rate_limited", in.RateLimited), Encryption: r.flag("org.matrix.msc3202", in.MSC3202),
		NoLogin: r.flag("io.element.msc4190", in.MSC4190),
	}
	stable, old := r.flag("receive_ephemeral", in.Ephemeral), r.flag("de.sorunome.msc2409.push_ephemeral", in.OldEphemeral)
	out.Ephemeral, out.OldEphemeral = stable || old, old
	r.namespaces(in.Namespaces, &out)
	r.checkSender(out.SenderLocalpart)
	r.unique(r.ids, out.ID, "the id %q", out.ID)
	r.unique(r.tokens, out.ASToken, "an as_token")
	r.unique(r.senders, out.SenderLocalpart, "the sender_localpart %q", out.SenderLocalpart)
	return out
}

// load returns the bytes of the current file.
func (r *registrationReader) load() ([]byte, error) {
	raw, err := ReadFile(r.of.abs(r.file))
	if err == nil && len(raw) > maxRegistration {
		err = fmt.Errorf("%s is larger than %d bytes", r.file, maxRegistration)
	}
	return raw, err
}

// unique checks that value does not appear in an earlier file.
func (r *registrationReader) unique(seen map[string]string, value, format string, args ...any) {
	if first, twice := seen[value]; twice && value != "" {
		r.mistake("has %s, already used by %s: every application service needs its own", fmt.Sprintf(format, args...), first)
		return
	}
	seen[value] = r.key + " (" + r.file + ")"
}

// text returns the value of a required string.
func (r *registrationReader) text(name string, n yaml.Node) (out string) {
	if n.IsZero() {
		r.mistake("has no %s", name)
		return ""
	}
	if n.Kind != yaml.ScalarNode || n.Decode(&out) != nil || out == "" || len(out) > maxPattern {
		r.mistake("has %s, but it is not text", name)
	}
	return out
}

// token returns a required access token, which must be a valid header value.
func (r *registrationReader) token(name string, n yaml.Node) string {
	token := r.text(name, n)
	if strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		r.mistake("has %s with characters other than letters, digits and ASCII punctuation", name)
	}
	return token
}

// flag returns the value of an optional boolean.
func (r *registrationReader) flag(name string, n yaml.Node) (on bool) {
	if !n.IsZero() && n.Tag != "!!null" && n.Decode(&on) != nil {
		r.mistake("has %s, but it is neither true nor false", name)
	}
	return on
}

// url returns the address of the service. The key is required, but its value may be null.
func (r *registrationReader) url(n yaml.Node) string {
	if n.IsZero() {
		r.mistake("has no url; write url: null if nothing should be sent to the application service")
		return ""
	}
	var text string
	if n.Tag == "!!null" {
		return ""
	}
	err := n.Decode(&text)
	if err == nil && text == "" {
		return ""
	}
	u, parseErr := url.Parse(text)
	if err != nil || parseErr != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		r.mistake("has url, but it is not an address such as http://127.0.0.1:29318")
		return ""
	}
	return strings.TrimRight(text, "/")
}

func (r *registrationReader) protocols(n yaml.Node) (out []string) {
	if n.IsZero() || n.Tag == "!!null" {
		return nil
	}
	if n.Decode(&out) != nil || slices.Contains(out, "") {
		r.mistake("has protocols that are not a list of names")
	}
	if len(out) > maxProtocols {
		r.mistake("has %d protocols, but at most %d are allowed", len(out), maxProtocols)
	}
	return out
}

// checkSender checks that the sender's user ID is valid.
func (r *registrationReader) checkSender(localpart string) {
	user := id.NewUserID(localpart, r.of.ServerName)
	if strings.ContainsFunc(localpart, func(c rune) bool { return c <= ' ' || c > '~' || c == ':' }) || len(user) > 255 {
		r.mistake("has sender_localpart, but it is not a valid localpart: use a-z, 0-9 and ._=-/+")
	}
}

// namespaces reads the namespaces.
func (r *registrationReader) namespaces(n yaml.Node, out *AppService) {
	var kinds map[string]yaml.Node
	switch {
	case n.IsZero():
		r.mistake("has no namespaces")
		return
	case n.Tag == "!!null":
		return
	case n.Kind != yaml.MappingNode || n.Decode(&kinds) != nil:
		r.mistake("has namespaces, but they are not a group with users, aliases and rooms")
		return
	}
	out.Users, out.Aliases, out.Rooms = r.namespace("users", kinds["users"]), r.namespace("aliases", kinds["aliases"]), r.namespace("rooms", kinds["rooms"])
}

// namespace reads the namespaces of one kind.
func (r *registrationReader) namespace(kind string, n yaml.Node) (out []Namespace) {
	if n.IsZero() || n.Tag == "!!null" {
		return nil
	}
	var list []struct {
		Exclusive yaml.Node `yaml:"exclusive"`
		Regex     yaml.Node `yaml:"regex"`
	}
	if n.Decode(&list) != nil || len(list) > maxNamespaces {
		r.mistake("has namespaces.%s that are not a list of at most %d entries with regex and exclusive", kind, maxNamespaces)
		return nil
	}
	for i, one := range list {
		key := fmt.Sprintf("namespaces.%s[%d]", kind, i)
		text := r.text(key+".regex", one.Regex)
		exclusive := r.flag(key+".exclusive", one.Exclusive)
		pattern, err := regexp.Compile("^(?:" + text + ")")
		if err != nil {
			r.mistake("has %s.regex, but it is not a regular expression of RE2 (look-ahead and back-references are not supported): %v", key, err)
			continue
		}
		out = append(out, Namespace{Exclusive: exclusive, Pattern: pattern})
	}
	return out
}
