// Package config defines the configuration: a struct, its defaults, a strict YAML reader, and a validation that reports
// every mistake with its key. The doc tags of the fields are the manual: sample.yaml is generated from them.
package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Config holds all settings of a server.
type Config struct {
	ServerName     string       `yaml:"server_name" doc:"The name in user IDs and room aliases: @user:server_name. It cannot be changed later."`
	PublicURL      string       `yaml:"public_url" doc:"Where clients reach this server, such as https://matrix.example.org. /.well-known/matrix/client gives this address to clients."`
	DataDir        string       `yaml:"data_dir" doc:"Folder of the database, media, signing key and control socket. Relative paths start at the folder of this file."`
	Database       string       `yaml:"database" secret:"true" doc:"sqlite:PATH (relative to data_dir) or postgres://USER:PASSWORD@HOST/NAME (or postgresql://; create that database with LC_COLLATE C)."`
	Listen         []Listener   `yaml:"listen" doc:"Where to accept connections, and which APIs each address serves."`
	ACME           ACME         `yaml:"acme"`
	Registration   Registration `yaml:"registration"`
	Login          Login        `yaml:"login"`
	Email          Email        `yaml:"email"`
	Identity       Identity     `yaml:"identity"`
	RateLimits     RateLimits   `yaml:"rate_limits"`
	Federation     Federation   `yaml:"federation"`
	WellKnown      WellKnown    `yaml:"well_known"`
	Appservices    []string     `yaml:"appservices" doc:"Registration files of application services (bridges and bots), or folders with such files. They are read again on SIGHUP."`
	Media          Media        `yaml:"media"`
	TURN           TURN         `yaml:"turn"`
	Calls          Calls        `yaml:"calls"`
	DelayedEvents  Delays       `yaml:"delayed_events"`
	Push           Push         `yaml:"push"`
	Search         Search       `yaml:"search"`
	Retention      Retention    `yaml:"retention"`
	Rooms          Rooms        `yaml:"rooms"`
	Encryption     Encryption   `yaml:"encryption"`
	Cache          Cache        `yaml:"cache"`
	TrustedProxies []string     `yaml:"trusted_proxies" doc:"Addresses or networks whose X-Forwarded-For header is trusted, such as 127.0.0.1 or 10.0.0.0/8."`
	Log            Log          `yaml:"log"`
	path           string       // the file that it was read from
	source         source       // the lines of its keys
}

// Listener is one address to listen on.
type Listener struct {
	Address string   `yaml:"address" doc:"HOST:PORT"`
	Serve   []string `yaml:"serve" doc:"Any of client, federation, admin, metrics. /health is on every address."`
	TLS     TLS      `yaml:"tls" doc:"Certificate chain and key in PEM; without them the address speaks plain HTTP, for a reverse proxy."`
}

// TLS names a certificate and its private key.
type TLS struct {
	Certificate string   `yaml:"certificate"`
	PrivateKey  string   `yaml:"private_key"`
	ACMEHosts   []string `yaml:"acme_hosts" doc:"Names whose certificates are fetched and renewed by ACME instead (see acme). One address with these names must be reachable from outside on port 443."`
}

// ACME configures how certificates for the names in acme_hosts are obtained.
type ACME struct {
	Directory string `yaml:"directory" doc:"URL of the certificate authority's directory. By listing acme_hosts you agree to the authority's terms."`
	Email     string `yaml:"email" doc:"Email address to which the authority can write about certificates."`
}

// Registration configures who may create an account.
type Registration struct {
	Mode             string   `yaml:"mode" doc:"Who can create an account. closed: only the command line; token: anyone with a registration token; open: anyone."`
	SharedSecret     string   `yaml:"shared_secret" secret:"true" doc:"Enables /_synapse/admin/v1/register, for scripts that have this secret, on addresses that serve admin. ${NAME} reads an environment variable."`
	SharedSecretFile string   `yaml:"shared_secret_file" doc:"A file that has the secret instead."`
	Email            string   `yaml:"email" doc:"Whether new users give an e-mail address, which they verify: off, optional or required. It needs email.smtp."`
	Terms            []Term   `yaml:"terms" doc:"Documents that users must accept to register."`
	Guests           bool     `yaml:"guests" doc:"Whether anyone can get a guest account, without a password. Guests read rooms that are open to everybody, and join rooms that allow guests."`
	GuestLifetime    Duration `yaml:"guest_lifetime" doc:"How long a guest account may be unused before it is deactivated."`
}

// Term is a document that new users must accept.
type Term struct {
	ID      string `yaml:"id"`
	Version string `yaml:"version"`
	Name    string `yaml:"name"`
	URL     string `yaml:"url"`
}

// Login bounds sessions.
type Login struct {
	AccessTokenLifetime Duration `yaml:"access_token_lifetime" doc:"How long an access token is valid, for clients that use refresh tokens."`
}

// Email configures the e-mail that this server sends.
type Email struct {
	SMTP            SMTP     `yaml:"smtp"`
	AllowedDomains  []string `yaml:"allowed_domains" doc:"Domains whose e-mail addresses accounts can have, such as example.org; empty: all."`
	RevealAddresses bool     `yaml:"reveal_addresses" doc:"Whether anybody can find out if an address belongs to an account. Otherwise only the owner of the address gets a message about it."`
}

// Identity names identity servers.
type Identity struct {
	Servers []string `yaml:"servers" doc:"Identity servers, such as vector.im, at which users can bind their e-mail addresses and through which they can invite by address; empty: none."`
}

// SMTP names the server through which e-mail is sent.
type SMTP struct {
	Host         string   `yaml:"host" doc:"The SMTP server, such as mail.example.org. Empty: this server sends no e-mail, and accounts have no e-mail addresses."`
	Port         int      `yaml:"port"`
	TLS          string   `yaml:"tls" doc:"starttls: the SMTP server must offer STARTTLS; implicit: TLS from the start, usually on port 465; none: no encryption, only for an SMTP server on this machine."`
	Username     string   `yaml:"username" doc:"Empty: the SMTP server asks for no password."`
	Password     string   `yaml:"password" secret:"true"`
	PasswordFile string   `yaml:"password_file" doc:"A file that has the password instead."`
	From         string   `yaml:"from" doc:"The sender, such as Example chat <noreply@example.org>."`
	Timeout      Duration `yaml:"timeout" doc:"How long sending one message can take."`
}

// RateLimits bounds the request rates per user, or per network for requests without a session.
type RateLimits struct {
	Enabled       bool   `yaml:"enabled"`
	Connections   int    `yaml:"connections" doc:"Open connections from one network (an IPv4 address or an IPv6 /64), and its running requests. Connections from trusted_proxies are not limited."`
	Sends         Bucket `yaml:"sends" doc:"Events, receipts, typing, account data, push rules, keys and key backup: per second on average, and at once."`
	Reads         Bucket `yaml:"reads" doc:"History, state, members, relations, threads and directories."`
	Logins        Bucket `yaml:"logins" doc:"Wrong passwords for one account from one network; wrong tokens and shared secrets from one network. One network for all accounts, and one account from all networks, can have ten times as many."`
	Registrations Bucket `yaml:"registrations" doc:"New accounts from one network."`
	Emails        Bucket `yaml:"emails" doc:"Messages with a link to verify one e-mail address. One network can cause ten times as many, and all networks together a hundred times."`
	Anonymous     Bucket `yaml:"anonymous" doc:"Requests without an access token from one network: signing in, registering, refreshing tokens, keys of servers. During a registration, clients send a request every 2 s."`
	Invites       Bucket `yaml:"invites" doc:"Invites from one user of another server, and from one other server to one user. All users of a server together can send ten times as many."`
	Joins         Bucket `yaml:"joins" doc:"Joins, invites and new rooms."`
	Uploads       Bucket `yaml:"uploads" doc:"Uploads of media."`
	Claims        Bucket `yaml:"claims" doc:"Claims of one-time keys, by one user or one other server."`
}

// Bucket is a rate.
type Bucket struct {
	PerSecond float64 `yaml:"per_second"`
	Burst     int     `yaml:"burst"`
}

// Calls configures group calls (MatrixRTC), such as those of Element Call.
type Calls struct {
	RTCTransports string `yaml:"rtc_transports" doc:"The servers for the media of group calls, as JSON: [{\"type\": \"livekit\", \"livekit_service_url\": \"https://livekit.example.org\"}]. Clients get them when they are signed in, and from /.well-known/matrix/client. Empty: there are none."`
}

// Transports returns the transports, each a JSON object, or an error if the JSON is not a list of objects with a type.
func (c Calls) Transports() ([]json.RawMessage, error) {
	if c.RTCTransports == "" {
		return nil, nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal([]byte(c.RTCTransports), &list); err != nil {
		return nil, fmt.Errorf("is not a JSON array: %w", err)
	}
	for i, raw := range list {
		var transport struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(raw, &transport); err != nil || transport.Type == "" {
			return nil, fmt.Errorf("entry %d is not a JSON object with a type", i)
		}
	}
	return list, nil
}

// Delays bounds the events that users send at a later time.
type Delays struct {
	MaxDelay   Duration `yaml:"max_delay" doc:"The longest delay of an event that a client sends in advance, such as the one that ends its part in a call (MSC4140)."`
	MaxPerUser int      `yaml:"max_per_user" doc:"How many such events a user can have scheduled. 0: none."`
}

// Federation configures communication with other servers.
type Federation struct {
	Enabled               bool     `yaml:"enabled"`
	TrustedCAFile         string   `yaml:"trusted_ca_file" doc:"Additional certificate authorities to trust, in PEM."`
	AllowPrivateAddresses bool     `yaml:"allow_private_addresses" doc:"Whether to connect to other servers at loopback and private addresses. For tests and closed networks."`
	AllowedServers        []string `yaml:"allowed_servers" doc:"Servers to federate with, such as example.org or *.example.org; empty: all. Ports are ignored."`
	DeniedServers         []string `yaml:"denied_servers" doc:"Servers never to federate with, in the same form."`
	Notaries              []string `yaml:"notaries" doc:"Servers to ask for the signing keys of servers that no longer answer."`
	Presence              bool     `yaml:"presence" doc:"Whether to exchange presence (who is online) with servers that share rooms. Otherwise only users of this server see each other's presence."`
}

// WellKnown configures the documents under /.well-known/matrix.
type WellKnown struct {
	Server      string           `yaml:"server" doc:"HOST:PORT to which federation is delegated; empty: the document is not served."`
	SupportPage string           `yaml:"support_page" doc:"URL of a page with help for users."`
	PolicyKey   string           `yaml:"policy_key" doc:"The ed25519 public key, in unpadded base64, of the policy server that has this server's name; empty: /.well-known/matrix/policy_server is not served."`
	ClientExtra map[string]any   `yaml:"client_extra" doc:"Members to add to /.well-known/matrix/client, for clients that look for more than the specification has."`
	Contacts    []SupportContact `yaml:"contacts" doc:"Contacts for users and administrators: role (m.role.admin or m.role.security), matrix_id, email_address."`
}

// SupportContact is a person or a help desk.
type SupportContact struct {
	Role         string `yaml:"role"`
	MatrixID     string `yaml:"matrix_id"`
	EmailAddress string `yaml:"email_address"`
}

// Media bounds the content repository.
type Media struct {
	MaxUploadSize        Bytes    `yaml:"max_upload_size"`
	AllowUnauthenticated bool     `yaml:"allow_unauthenticated" doc:"Whether the old download paths work without an access token."`
	QuotaPerUser         Bytes    `yaml:"quota_per_user" doc:"How much media one user can upload in total; 0: no limit."`
	MaxPendingUploads    int      `yaml:"max_pending_uploads" doc:"Media IDs that one user can reserve without uploading."`
	PendingUploadExpiry  Duration `yaml:"pending_upload_expiry" doc:"How long a reserved media ID waits for its upload."`
	MaxRemoteSize        Bytes    `yaml:"max_remote_size" doc:"The largest file that is fetched from another server."`
	RemoteCacheSize      Bytes    `yaml:"remote_cache_size" doc:"How much space the cached files of other servers can use; beyond it, the least recently used are deleted."`
	RemoteCacheLifetime  Duration `yaml:"remote_cache_lifetime" doc:"How long a file of another server is kept after its last use."`
	URLPreviews          Previews `yaml:"url_previews"`
}

// Previews configures previews of the web pages to which messages link.
type Previews struct {
	Enabled               bool     `yaml:"enabled" doc:"Whether this server fetches web pages for its users to show previews of them. The pages' hosts see this server's address."`
	AllowedHosts          []string `yaml:"allowed_hosts" doc:"Hosts from which pages and images are fetched, such as example.org or *.example.org; empty: all."`
	DeniedHosts           []string `yaml:"denied_hosts" doc:"Hosts from which nothing is fetched, in the same form."`
	Languages             []string `yaml:"languages" doc:"In which languages pages are asked for, the preferred one first."`
	Lifetime              Duration `yaml:"lifetime" doc:"How long a preview is kept before the page is fetched again. Its image is kept a day longer."`
	MaxImageSize          Bytes    `yaml:"max_image_size" doc:"The largest image that is fetched."`
	CacheSize             Bytes    `yaml:"cache_size" doc:"How much space the images of previews can use; beyond it, the oldest are deleted."`
	AllowPrivateAddresses bool     `yaml:"allow_private_addresses" doc:"Whether pages are fetched from loopback and private addresses. For tests and closed networks: users could read what this server can reach."`
}

// TURN names the servers that relay calls between users who cannot reach each other directly.
type TURN struct {
	URIs             []string `yaml:"uris" doc:"Addresses of TURN servers, such as turn:turn.example.org?transport=udp or turns:turn.example.org; empty: none."`
	SharedSecret     string   `yaml:"shared_secret" secret:"true" doc:"The secret that the TURN servers share with this server (static-auth-secret of coturn). Each user gets a password of their own, made from it."`
	SharedSecretFile string   `yaml:"shared_secret_file" doc:"A file that has the secret instead."`
	Username         string   `yaml:"username" doc:"For TURN servers without a shared secret: every user gets this username and password."`
	Password         string   `yaml:"password" secret:"true"`
	Lifetime         Duration `yaml:"lifetime" doc:"How long clients use the credentials before they ask for new ones."`
}

// Search configures the search for messages.
type Search struct {
	Enabled bool `yaml:"enabled" doc:"Whether users can search for messages in unencrypted rooms. The index takes about half of the size of the texts, and twice the size of Chinese or Japanese ones. If this is false, the index is deleted; if it becomes true again, all messages are indexed anew in the background."`
}

// Push configures the default push rules and how users are notified through push gateways.
type Push struct {
	LegacyMentionRules   bool     `yaml:"legacy_mention_rules" doc:"Whether a message without m.mentions is highlighted if its text has the user's name or @room. Matrix v1.17 removed the push rules for this, but the settings page of Element Web before September 2026 needs them."`
	AllowPrivateGateways bool     `yaml:"allow_private_gateways" doc:"Whether push gateways may have loopback and private addresses, and URLs with http. For a gateway in the server's own network: every user of this server can then make it send requests there."`
	AllEncrypted         bool     `yaml:"all_encrypted" doc:"Whether users are by default notified of every encrypted event in rooms that they have not muted, also where they want mentions only, so that their apps can look for mentions (MSC4028). Apps that do not know this show more unread messages."`
	Email                bool     `yaml:"email" doc:"Whether users can have e-mails about messages that they have not read. It needs email.smtp."`
	EmailDelay           Duration `yaml:"email_delay" doc:"How long a message must have been unread before an e-mail is sent."`
	EmailInterval        Duration `yaml:"email_interval" doc:"The shortest time between two such e-mails to a user."`
	CountRooms           bool     `yaml:"count_rooms" doc:"Whether the badge of an app shows the number of rooms with unread messages instead of the number of unread messages."`
}

// Retention configures how long rooms keep messages.
type Retention struct {
	Default       Lifetimes      `yaml:"default" doc:"For rooms without a policy of their own; null: no limit."`
	Limits        LifetimeLimits `yaml:"limits" doc:"What rooms can choose. A policy outside these limits counts as the nearest allowed one."`
	PurgeInterval Duration       `yaml:"purge_interval" doc:"How often expired messages are deleted from disk. They are hidden as soon as they expire."`
}

// Lifetimes is a retention policy; nil means no bound.
type Lifetimes struct {
	MinLifetime *Duration `yaml:"min_lifetime"`
	MaxLifetime *Duration `yaml:"max_lifetime"`
}

// LifetimeLimits bounds the retention policies of rooms.
type LifetimeLimits struct {
	MinLifetime Range `yaml:"min_lifetime"`
	MaxLifetime Range `yaml:"max_lifetime"`
}

// Range is a range of durations; nil means that an end is open.
type Range struct {
	Min *Duration `yaml:"min"`
	Max *Duration `yaml:"max"`
}

// Rooms has the defaults for new rooms.
type Rooms struct {
	DefaultVersion string `yaml:"default_version"`
}

// Encryption says which rooms are end-to-end encrypted.
type Encryption struct {
	Force           []string `yaml:"force" doc:"Kinds of rooms that are created encrypted, whether or not the client asks for it: public, private, direct."`
	Forbid          []string `yaml:"forbid" doc:"Kinds of rooms in which encryption is refused."`
	RefusePlaintext bool     `yaml:"refuse_plaintext" doc:"Whether to refuse unencrypted messages that users of this server send to encrypted rooms. Bots and bridges without encryption cannot write there then."`
}

// Cache bounds the memory for caches.
type Cache struct {
	Size Bytes `yaml:"size" doc:"One budget for all caches: half of it for rooms, the rest for users, access tokens, devices and responses of other servers (docs/limits.md)."`
}

// Log configures what is written to standard error.
type Log struct {
	Level  string `yaml:"level" doc:"debug, info, warn or error"`
	Format string `yaml:"format" doc:"text or json"`
}

// Default returns the configuration that applies when only the server name is set.
func Default() *Config {
	return &Config{
		ServerName: "localhost", PublicURL: "http://127.0.0.1:8008", DataDir: "data", Database: "sqlite:ebb.db",
		Listen:       []Listener{{Address: "127.0.0.1:8008", Serve: []string{"client", "admin"}}},
		ACME:         ACME{Directory: "https://acme-v02.api.letsencrypt.org/directory"},
		Registration: Registration{Mode: "token", Email: "off", GuestLifetime: Duration(30 * 24 * time.Hour)},
		Login:        Login{AccessTokenLifetime: Duration(time.Hour)},
		Email:        Email{SMTP: SMTP{Port: 587, TLS: "starttls", Timeout: Duration(30 * time.Second)}},
		RateLimits: RateLimits{Enabled: true, Connections: 2000, Sends: Bucket{20, 200}, Reads: Bucket{50, 1000}, Logins: Bucket{0.2, 10},
			Registrations: Bucket{0.2, 50}, Emails: Bucket{0.002, 5}, Anonymous: Bucket{50, 500}, Invites: Bucket{1, 100}, Joins: Bucket{1, 30}, Uploads: Bucket{5, 200}, Claims: Bucket{20, 200}},
		Federation:    Federation{Presence: true},
		DelayedEvents: Delays{MaxDelay: Duration(24 * time.Hour), MaxPerUser: 100},
		Media: Media{MaxUploadSize: 100 << 20, QuotaPerUser: 0, MaxPendingUploads: 20, PendingUploadExpiry: Duration(24 * time.Hour),
			MaxRemoteSize: 100 << 20, RemoteCacheSize: 10 << 30, RemoteCacheLifetime: Duration(30 * 24 * time.Hour),
			URLPreviews: Previews{Languages: []string{"en"}, Lifetime: Duration(24 * time.Hour), MaxImageSize: 10 << 20, CacheSize: 1 << 30}},
		Push:      Push{LegacyMentionRules: true, EmailDelay: Duration(10 * time.Minute), EmailInterval: Duration(12 * time.Hour)},
		TURN:      TURN{Lifetime: Duration(time.Hour)},
		Search:    Search{Enabled: true},
		Retention: Retention{PurgeInterval: Duration(10 * time.Minute)},
		Rooms:     Rooms{DefaultVersion: "12"},
		Cache:     Cache{Size: 256 << 20},
		Log:       Log{Level: "info", Format: "text"},
	}
}

// Read reads a configuration file on top of the defaults. It returns all mistakes that can be found in the file alone;
// the error is for a file that cannot be read at all.
func Read(path string) (*Config, Problems, error) {
	if info, err := os.Stat(path); err == nil && info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket|fs.ModeDevice) != 0 {
		return nil, nil, fmt.Errorf("read the configuration: %s is not a regular file; reading it could wait for ever", path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w%s", err, OwnerOf(err))
	}
	c := Default()
	if c.path, err = filepath.Abs(path); err != nil {
		return nil, nil, err
	}
	found, err := parse(raw, c)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(found) == 1 && found[0].Key == "" && len(c.source.lines) == 0 { // not a mapping of keys at all
		return c, found, nil
	}
	if c.source.lines["server_name"] == 0 {
		found = append(found, c.Problem("server_name", "is missing: the name that stands after the colon in user ids, such as example.org"))
	}
	found = slices.Concat(found, c.readFiles(), c.mistakes(found))
	found.Sort()
	return c, found, nil
}

// Load reads a configuration file on top of the defaults. If the file has mistakes, the error lists all of them.
func Load(path string) (*Config, error) {
	c, found, err := Read(path)
	if err != nil {
		return nil, err
	}
	if len(found) > 0 {
		return nil, fmt.Errorf("%s:\n%w", path, found)
	}
	return c, nil
}

// Parse reads YAML on top of the defaults, without validating the values.
func Parse(raw []byte) (*Config, error) {
	c := Default()
	found, err := parse(raw, c)
	if err != nil {
		return nil, err
	}
	return c, found.Err()
}

// secretFile is a key for a file that holds a secret, and the key that holds the secret itself.
type secretFile struct {
	key    string
	file   string
	secret *string
}

func (c *Config) secretFiles() []secretFile {
	return []secretFile{
		{"registration.shared_secret_file", c.Registration.SharedSecretFile, &c.Registration.SharedSecret},
		{"email.smtp.password_file", c.Email.SMTP.PasswordFile, &c.Email.SMTP.Password},
		{"turn.shared_secret_file", c.TURN.SharedSecretFile, &c.TURN.SharedSecret},
	}
}

// readFiles reads secrets that are stored in separate files.
func (c *Config) readFiles() (found Problems) {
	for _, f := range c.secretFiles() {
		if f.file == "" {
			continue
		}
		if *f.secret != "" {
			found = append(found, c.Problem(f.key, "give the secret or the file, not both"))
			continue
		}
		raw, err := os.ReadFile(c.abs(f.file))
		if err != nil {
			found = append(found, c.Problem(f.key, "%v%s", err, OwnerOf(err)))
		} else if *f.secret = strings.TrimSpace(string(raw)); *f.secret == "" {
			found = append(found, c.Problem(f.key, "%s is empty", f.file))
		}
	}
	return found
}

// abs returns an absolute path; relative paths are relative to the folder of the configuration file.
func (c *Config) abs(path string) string {
	if filepath.IsAbs(path) || c.path == "" {
		return path
	}
	return filepath.Join(filepath.Dir(c.path), path)
}

// Dir returns data_dir as an absolute path.
func (c *Config) Dir() string { return c.abs(c.DataDir) }

// DSN returns the database setting with an absolute path.
func (c *Config) DSN() string {
	path, ok := strings.CutPrefix(c.Database, "sqlite:")
	if !ok || filepath.IsAbs(path) {
		return c.Database
	}
	return "sqlite:" + filepath.Join(c.Dir(), path)
}

// KeyFile returns the path of the server's signing key.
func (c *Config) KeyFile() string { return filepath.Join(c.Dir(), "signing.key") }

// Path returns the file that the configuration was read from, or "" if there is none.
func (c *Config) Path() string { return c.path }

// File returns the absolute form of a path in the configuration.
func (c *Config) File(path string) string { return c.abs(path) }

// Exists reports whether a configuration file exists at path.
func Exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
