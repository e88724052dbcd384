// Package config defines the configuration: a struct, its defaults, a strict YAML reader, and a validation that reports
// every mistake with its key. The doc tags of the fields are the manual; sample.yaml is generated from them.
package config

import (
	"cmp"
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
	ServerName     string       `yaml:"server_name" doc:"The name of the server, which is part of user IDs and room aliases: @user:server_name. It cannot be changed later."`
	PublicURL      string       `yaml:"public_url" doc:"The address at which clients reach this server, such as https://matrix.example.org. It is published in /.well-known/matrix/client."`
	DataDir        string       `yaml:"data_dir" doc:"The folder that holds the database, media, signing key and control socket. A relative path is relative to the folder of this file."`
	Database       string       `yaml:"database" secret:"true" doc:"sqlite:PATH, where PATH is relative to data_dir, or postgres://USER:PASSWORD@HOST/NAME. A PostgreSQL database must be created with LC_COLLATE C."`
	DatabaseKeys   string       `yaml:"database_keys" doc:"On PostgreSQL: the folder with the keys under which messages in the database are encrypted, relative to data_dir. Empty: the folder keys for a new database, and an older one stays as it is. off: messages are not encrypted, and what was deleted stays in PostgreSQL's log and replicas. Keep a copy of the folder, since without it all messages are lost, but never in the same backup as the database (see backup.keys)."`
	Listen         []Listener   `yaml:"listen" doc:"The addresses on which to accept connections, and the APIs that each address serves."`
	ACME           ACME         `yaml:"acme"`
	Registration   Registration `yaml:"registration"`
	Login          Login        `yaml:"login"`
	Auth           Auth         `yaml:"auth"`
	Audit          Audit        `yaml:"audit"`
	Reports        Reports      `yaml:"reports"`
	Notices        Notices      `yaml:"notices"`
	Alerts         Alerts       `yaml:"alerts"`
	Backup         Backup       `yaml:"backup"`
	OAuth          OAuth        `yaml:"oauth"`
	Email          Email        `yaml:"email"`
	Identity       Identity     `yaml:"identity"`
	RateLimits     RateLimits   `yaml:"rate_limits"`
	Federation     Federation   `yaml:"federation"`
	WellKnown      WellKnown    `yaml:"well_known"`
	Appservices    []string     `yaml:"appservices" doc:"Registration files of application services (bridges and bots), or folders with such files. The files are read again on SIGHUP."`
	Media          Media        `yaml:"media"`
	TURN           TURN         `yaml:"turn"`
	Calls          Calls        `yaml:"calls"`
	DelayedEvents  Delays       `yaml:"delayed_events"`
	Push           Push         `yaml:"push"`
	Search         Search       `yaml:"search"`
	UserDirectory  Users        `yaml:"user_directory"`
	Retention      Retention    `yaml:"retention"`
	Holds          Holds        `yaml:"holds"`
	Rooms          Rooms        `yaml:"rooms"`
	Encryption     Encryption   `yaml:"encryption"`
	Cache          Cache        `yaml:"cache"`
	TrustedProxies []string     `yaml:"trusted_proxies" doc:"Addresses or networks whose X-Forwarded-For header is trusted, such as 127.0.0.1 or 10.0.0.0/8."`
	Log            Log          `yaml:"log"`
	path           string       // the file from which it was read
	source         source       // where its values are in the file
}

// Listener is one address to listen on.
type Listener struct {
	Address string   `yaml:"address" doc:"HOST:PORT"`
	Serve   []string `yaml:"serve" doc:"Any of client, federation, admin, metrics. Every address also serves /health."`
	TLS     TLS      `yaml:"tls" doc:"PEM files of the certificate chain and the private key. Without them the address serves plain HTTP, for a reverse proxy."`
}

// TLS names the files of a certificate and its private key.
type TLS struct {
	Certificate string   `yaml:"certificate"`
	PrivateKey  string   `yaml:"private_key"`
	ACMEHosts   []string `yaml:"acme_hosts" doc:"Instead of files: host names for which certificates are fetched and renewed by ACME (see acme). One address with these names must be reachable from the internet on port 443."`
}

// ACME configures how certificates for the names in acme_hosts are obtained.
type ACME struct {
	Directory string `yaml:"directory" doc:"URL of the certificate authority's directory. By listing acme_hosts you agree to the authority's terms."`
	Email     string `yaml:"email" doc:"E-mail address for messages from the certificate authority."`
}

// Registration configures who may create an account.
type Registration struct {
	Mode             string   `yaml:"mode" doc:"Who can create an account. closed: only the command line; token: anyone with a registration token; open: anyone."`
	SharedSecret     string   `yaml:"shared_secret" secret:"true" doc:"The secret with which scripts can create accounts at /_synapse/admin/v1/register, on addresses that serve admin; empty: nobody can. ${NAME} reads an environment variable."`
	SharedSecretFile string   `yaml:"shared_secret_file" doc:"Instead of shared_secret: a file that contains the secret."`
	Email            string   `yaml:"email" doc:"Whether new users have to give and verify an e-mail address: off, optional or required. Needs email.smtp."`
	Terms            []Term   `yaml:"terms" doc:"Documents that users must accept when they register."`
	Guests           bool     `yaml:"guests" doc:"Whether anyone can use a guest account without a password. Guests can read rooms that are open to everybody and join rooms that allow guests."`
	GuestLifetime    Duration `yaml:"guest_lifetime" doc:"How long a guest account may be unused before it is deactivated."`
}

// Term is a document that new users must accept.
type Term struct {
	ID      string `yaml:"id"`
	Version string `yaml:"version"`
	Name    string `yaml:"name"`
	URL     string `yaml:"url"`
}

// Login configures sessions.
type Login struct {
	AccessTokenLifetime Duration `yaml:"access_token_lifetime" doc:"How long an access token is valid, for clients that use refresh tokens."`
	IdleLifetime        Duration `yaml:"idle_lifetime" doc:"How long a device may be unused before it is signed out, however its user has signed in; 0s: for ever. Encrypted messages that only this device can read are then lost. Bridges, programs with a token of ebb token issue, and guests are not affected."`
}

// Auth configures what users must present to sign in.
type Auth struct {
	MFA               string   `yaml:"mfa" doc:"Second factors. off: they are not used; optional: users can set one up, and then need it; required: every user needs one. The web pages ask for it, so optional and required need oauth.enabled."`
	MFAAdministrators string   `yaml:"mfa_administrators" doc:"The same for administrators, where it is stricter than mfa."`
	MFAGrace          Duration `yaml:"mfa_grace" doc:"How long users without a second factor can still sign in after it became required. Then their sessions end."`
	AdminApproval     Duration `yaml:"admin_approval" doc:"How long administrators who need a second factor can administrate with a client after they have approved that on their account page, where they show the factor. Programs with a token of ebb token issue need no approval."`
	Passkeys          Passkeys `yaml:"passkeys"`
	JWT               JWT      `yaml:"jwt"`
	LDAP              LDAP     `yaml:"ldap"`
	Password          Password `yaml:"password"`

	Providers []Provider `yaml:"providers" doc:"OpenID Connect providers, such as Keycloak, by which users can sign in on the web pages; needs oauth.enabled. Each has id (in URLs, such as office), name (for users), issuer (a URL), client_id, and client_secret or client_secret_file. Optional: scopes; the templates localpart, display_name and email; create_accounts; second_factor (amr, acr); request_acr; skip_userinfo; ca_file; icon (an mxc:// URL); brand. docs/admin.md explains them."`
}

// Password says which new passwords are accepted.
type Password struct {
	MinLength    int  `yaml:"min_length" doc:"How many characters a new password must have."`
	RefuseCommon bool `yaml:"refuse_common" doc:"Refuse passwords that everybody tries first, such as Summer2024!, and those that resemble the user name."`
}

// Passkeys says which passkeys are accepted.
type Passkeys struct {
	RPID        string   `yaml:"rp_id" doc:"The domain that passkeys are made for: the host of public_url, which is the default, or a domain above it. Passkeys for another domain stop working, so do not change it. A bare address has no passkeys."`
	AAGUIDs     []string `yaml:"aaguids" doc:"The models of authenticators that are accepted, such as cb69481e-8ff7-4039-93ec-0a2729a154a8; empty: all. Authenticators state their model themselves, without proof."`
	DeviceBound bool     `yaml:"device_bound" doc:"Accept only passkeys that cannot be copied to other devices, such as those on a security key."`
}

// Audit configures the log of sign-ins and of administrators' acts.
type Audit struct {
	Keep        Duration    `yaml:"keep" doc:"How long the records keep who did what; 0: for ever. Afterwards only their hashes are left."`
	Addresses   Duration    `yaml:"keep_addresses" doc:"How long the records keep the networks from which people signed in, and alerts know these networks, and after which time without a request the address and the program of a device are deleted; 0: as long as the records and the devices."`
	Checkpoints Checkpoints `yaml:"checkpoints" doc:"Where signed checkpoints are sent, with which ebb audit verify finds records that were changed. The place should be out of reach for whoever takes over this host."`
}

// Checkpoints says where signed checkpoints of the audit log are sent.
type Checkpoints struct {
	Interval Duration `yaml:"interval" doc:"How often a checkpoint is sent if there are new records. One that cannot be sent is tried again after this time."`
	File     string   `yaml:"file" doc:"A file to which checkpoints are appended, such as one on another host; empty: none."`
	Syslog   string   `yaml:"syslog" doc:"A syslog server: udp://HOST:PORT, tcp://HOST:PORT, or local for that of this host; empty: none."`
	Webhook  string   `yaml:"webhook" secret:"true" doc:"A URL to which checkpoints are posted as JSON; empty: none."`
}

// Reports configures the reports that users send to the administrators.
type Reports struct {
	Keep Duration `yaml:"keep" doc:"How long reports are kept, with their reasons and who made them; 0s: for ever. A report about what is under a legal hold stays until the hold is lifted."`
}

// Notices configures the messages from the server to its users.
type Notices struct {
	Localpart string `yaml:"localpart" doc:"The local part of the user who sends server notices, which nobody can register; empty: no notices are sent to rooms."`
	RoomName  string `yaml:"room_name" doc:"The name of the rooms of server notices, and of the user who sends them."`
}

// Alerts says of what users are alerted, by server notices and by e-mail.
type Alerts struct {
	SignIns    bool `yaml:"sign_ins" doc:"Sign-ins from new devices and networks. Networks are compared by /24 (IPv4) and /48 (IPv6)."`
	Changes    bool `yaml:"changes" doc:"Changed passwords, second factors and e-mail addresses; cross-signing keys that were reset."`
	Suspicious bool `yaml:"suspicious" doc:"Several wrong codes of a second factor; a refresh token that is used again after it was replaced."`
	Email      bool `yaml:"email" doc:"Whether alerts are also sent by e-mail, to all addresses of the account. Needs email.smtp."`
}

// Backup configures ebb backup.
type Backup struct {
	Recipients []string `yaml:"recipients" doc:"To whom backups are encrypted: the public parts of age keys (age1…) or of SSH keys. Keep the private part elsewhere; without it nobody can read the backups."`
	Keep       Duration `yaml:"keep" doc:"ebb backup deletes older backups from its folder, except for the newest; 0s: none. Choose no longer time than messages are kept."`
	Keys       string   `yaml:"keys" doc:"On PostgreSQL with database_keys: the folder to which ebb backup copies the keys of messages. It must be on another disk or host than the backups, so that whoever gets the backups cannot read what was deleted."`
	Ledger     string   `yaml:"ledger" doc:"A file on another disk or host that records what is deleted and revoked. ebb restore then deletes and revokes it again. Empty: a restored server has again what was deleted after the backup."`
}

// OAuth configures signing in by OAuth 2.0.
type OAuth struct {
	Enabled         bool     `yaml:"enabled" doc:"Whether clients can sign in by OAuth 2.0, on web pages of this server at public_url. Clients that support it, such as Element, then use nothing else; passwords still work for the others. The default is true if public_url is an https address, or on this computer, and has no path; otherwise false."`
	Clients         []string `yaml:"clients" doc:"Hosts of the only clients that can be used, such as app.element.io; empty: all clients."`
	DeviceGrant     string   `yaml:"device_grant" doc:"on or off: whether devices without a browser can sign in by a code that the user types on a web page."`
	IdleLifetime    Duration `yaml:"idle_lifetime" doc:"How long a client that has signed in by OAuth 2.0 may be unused before it is signed out; 0s: for ever."`
	SessionLifetime Duration `yaml:"session_lifetime" doc:"After which time a client that has signed in by OAuth 2.0 is signed out even if it is used; 0s: never."`
}

// Email configures the e-mail that this server sends.
type Email struct {
	SMTP            SMTP     `yaml:"smtp"`
	AllowedDomains  []string `yaml:"allowed_domains" doc:"Only e-mail addresses of these domains, such as example.org, can be added to accounts; empty: all domains."`
	RevealAddresses bool     `yaml:"reveal_addresses" doc:"Whether a client is told that an address belongs to an account already. Otherwise only the owner of the address learns it, by e-mail."`
}

// Identity configures the use of identity servers.
type Identity struct {
	Servers []string `yaml:"servers" doc:"Identity servers, such as vector.im, at which users can publish their e-mail addresses and look up those of others to invite them; empty: none."`
}

// SMTP configures the server through which e-mail is sent.
type SMTP struct {
	Host         string   `yaml:"host" doc:"The SMTP server, such as mail.example.org; empty: no e-mail is sent, and accounts cannot have e-mail addresses."`
	Port         int      `yaml:"port"`
	TLS          string   `yaml:"tls" doc:"starttls: the SMTP server must support STARTTLS; implicit: TLS from the start, usually on port 465; none: no encryption, only for an SMTP server on this machine."`
	Username     string   `yaml:"username" doc:"The name with which to log in at the SMTP server; empty: no login."`
	Password     string   `yaml:"password" secret:"true"`
	PasswordFile string   `yaml:"password_file" doc:"Instead of password: a file that contains the password."`
	From         string   `yaml:"from" doc:"The sender of the e-mails, such as Example chat <noreply@example.org>."`
	Timeout      Duration `yaml:"timeout" doc:"How long sending one e-mail may take."`
}

// RateLimits bounds the request rates per user, or per network for unauthenticated requests.
type RateLimits struct {
	Enabled       bool   `yaml:"enabled"`
	Connections   int    `yaml:"connections" doc:"The maximum number of open connections, and of requests in progress, from one network (an IPv4 address or an IPv6 /64). Connections from trusted_proxies are not limited."`
	Sends         Bucket `yaml:"sends" doc:"Sending events, receipts, typing, account data, push rules, keys and key backups, per user. per_second is the average, burst how many are allowed at once."`
	Reads         Bucket `yaml:"reads" doc:"Reading history, state, members, relations, threads and directories, per user."`
	Logins        Bucket `yaml:"logins" doc:"Wrong passwords for one account from one network; wrong tokens and shared secrets from one network. Ten times as many wrong passwords are allowed from one network for all accounts, and from all networks for one account."`
	Registrations Bucket `yaml:"registrations" doc:"New accounts from one network, and OAuth 2.0 clients that are not known yet."`
	Emails        Bucket `yaml:"emails" doc:"E-mails with a verification link to one address. One network can cause ten times as many, and all networks together a hundred times as many."`
	Anonymous     Bucket `yaml:"anonymous" doc:"Requests without an access token from one network: logging in, registering, refreshing tokens, fetching keys of servers. During a registration, clients send a request every 2 s."`
	Invites       Bucket `yaml:"invites" doc:"Invites by one user of another server, and by all users of another server to one user here. All users of a server together can send ten times as many."`
	Joins         Bucket `yaml:"joins" doc:"Joining rooms, sending invites and creating rooms, per user."`
	Uploads       Bucket `yaml:"uploads" doc:"Uploading media, per user."`
	Claims        Bucket `yaml:"claims" doc:"Claiming one-time keys, per user and per server."`
}

// Bucket is a rate.
type Bucket struct {
	PerSecond float64 `yaml:"per_second"`
	Burst     int     `yaml:"burst"`
}

// Calls configures group calls (MatrixRTC), such as those of Element Call.
type Calls struct {
	RTCTransports string `yaml:"rtc_transports" doc:"The servers that carry the media of group calls, as JSON: [{\"type\": \"livekit\", \"livekit_service_url\": \"https://livekit.example.org\"}]. They are published to logged-in clients and in /.well-known/matrix/client; empty: none."`
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

// Delays bounds delayed events.
type Delays struct {
	MaxDelay   Duration `yaml:"max_delay" doc:"The longest delay of a delayed event (MSC4140). With such events, clients in a call make sure that they leave the call when they lose the connection."`
	MaxPerUser int      `yaml:"max_per_user" doc:"How many delayed events a user can have scheduled; 0: delayed events are off."`
}

// Federation configures communication with other servers.
type Federation struct {
	Enabled               bool     `yaml:"enabled"`
	TrustedCAFile         string   `yaml:"trusted_ca_file" doc:"A PEM file with additional certificate authorities to trust."`
	AllowPrivateAddresses bool     `yaml:"allow_private_addresses" doc:"Whether to connect to servers with loopback and private addresses, for tests and closed networks."`
	AllowedServers        []string `yaml:"allowed_servers" doc:"The only servers with which to federate, such as example.org or *.example.org; empty: all. Ports are ignored."`
	DeniedServers         []string `yaml:"denied_servers" doc:"Servers with which not to federate, in the same form."`
	Notaries              []string `yaml:"notaries" doc:"Servers to ask for the signing keys of servers that do not answer any more."`
	Presence              bool     `yaml:"presence" doc:"Whether to exchange presence (who is online) with other servers that share rooms. Otherwise only users of this server see each other's presence."`
}

// WellKnown configures the documents under /.well-known/matrix.
type WellKnown struct {
	Server      string           `yaml:"server" doc:"HOST:PORT that other servers should connect to, published in /.well-known/matrix/server; empty: the document is not served."`
	SupportPage string           `yaml:"support_page" doc:"URL of a page with help for users."`
	PolicyKey   string           `yaml:"policy_key" doc:"The ed25519 public key, in unpadded base64, of the policy server that has this server's name; empty: /.well-known/matrix/policy_server is not served."`
	ClientExtra map[string]any   `yaml:"client_extra" doc:"Members to add to /.well-known/matrix/client, for clients that read members beyond the specification."`
	Contacts    []SupportContact `yaml:"contacts" doc:"Contacts for users and administrators: role (m.role.admin or m.role.security), matrix_id, email_address."`
}

// SupportContact is a person or a help desk that users can contact.
type SupportContact struct {
	Role         string `yaml:"role"`
	MatrixID     string `yaml:"matrix_id"`
	EmailAddress string `yaml:"email_address"`
}

// Media configures the content repository.
type Media struct {
	MaxUploadSize        Bytes    `yaml:"max_upload_size"`
	AllowUnauthenticated bool     `yaml:"allow_unauthenticated" doc:"Whether media can be downloaded from the deprecated paths without an access token."`
	QuotaPerUser         Bytes    `yaml:"quota_per_user" doc:"How much media one user can upload in total; 0: no limit."`
	MaxPendingUploads    int      `yaml:"max_pending_uploads" doc:"How many media IDs one user can have reserved without uploading a file."`
	PendingUploadExpiry  Duration `yaml:"pending_upload_expiry" doc:"How long a media ID stays reserved."`
	MaxRemoteSize        Bytes    `yaml:"max_remote_size" doc:"The largest file that is fetched from another server."`
	RemoteCacheSize      Bytes    `yaml:"remote_cache_size" doc:"How much disk space cached files from other servers may use. Beyond it, the least recently used files are deleted."`
	RemoteCacheLifetime  Duration `yaml:"remote_cache_lifetime" doc:"How long a cached file is kept after its last use."`
	UnusedLifetime       Duration `yaml:"unused_lifetime" doc:"How long an upload is kept to which no message, profile or account data refers; at least 24h. It is then withdrawn, and deleted a day later. Uploads of users of encrypted rooms are kept as long as the messages there. 0: for ever."`
	URLPreviews          Previews `yaml:"url_previews"`
}

// Previews configures previews of linked web pages.
type Previews struct {
	Enabled               bool     `yaml:"enabled" doc:"Whether this server fetches linked web pages, so that clients can show previews. The hosts of the pages see this server's address."`
	AllowedHosts          []string `yaml:"allowed_hosts" doc:"The only hosts from which to fetch pages and images, such as example.org or *.example.org; empty: all."`
	DeniedHosts           []string `yaml:"denied_hosts" doc:"Hosts from which to fetch nothing, in the same form."`
	Languages             []string `yaml:"languages" doc:"The languages in which to request pages, the preferred one first."`
	Lifetime              Duration `yaml:"lifetime" doc:"How long a preview is kept before the page is fetched again. Its image is kept a day longer."`
	MaxImageSize          Bytes    `yaml:"max_image_size" doc:"The largest image that is fetched."`
	CacheSize             Bytes    `yaml:"cache_size" doc:"How much disk space images of previews may use. Beyond it, the oldest images are deleted."`
	AllowPrivateAddresses bool     `yaml:"allow_private_addresses" doc:"Whether to fetch pages from loopback and private addresses, for tests and closed networks. Users can then read every page that this server can reach."`
}

// TURN configures the servers that relay calls between users who cannot reach each other directly.
type TURN struct {
	URIs             []string `yaml:"uris" doc:"Addresses of TURN servers, such as turn:turn.example.org?transport=udp or turns:turn.example.org; empty: none."`
	SharedSecret     string   `yaml:"shared_secret" secret:"true" doc:"The secret that the TURN servers share with this server (static-auth-secret of coturn). Each user gets a password derived from it."`
	SharedSecretFile string   `yaml:"shared_secret_file" doc:"Instead of shared_secret: a file that contains the secret."`
	Username         string   `yaml:"username" doc:"For TURN servers without a shared secret: the username and password for all users."`
	Password         string   `yaml:"password" secret:"true"`
	Lifetime         Duration `yaml:"lifetime" doc:"How long credentials are valid. Clients request new ones in time."`
}

// Search configures the search for messages.
type Search struct {
	Enabled bool `yaml:"enabled" doc:"Whether users can search for messages in unencrypted rooms. The index needs about half as much space as the text of the messages, and twice as much for Chinese and Japanese. If this is false, the index is deleted; if it is true again later, all messages are indexed again in the background."`
}

// Users configures the search for users.
type Users struct {
	SearchAllUsers bool `yaml:"search_all_users" doc:"Whether users can find everybody whom this server knows. Otherwise they find those who share a room with them or are in a public room."`
}

// Push configures the default push rules and how users are notified through push gateways.
type Push struct {
	LegacyMentionRules   bool     `yaml:"legacy_mention_rules" doc:"Whether a message without m.mentions is highlighted if its text has the user's name or @room. Matrix v1.17 removed the push rules for this, but the settings page of Element Web needed them until September 2026."`
	AllowPrivateGateways bool     `yaml:"allow_private_gateways" doc:"Whether push gateways may have loopback and private addresses and http URLs, for a gateway in the server's own network. Every user of this server can then make it send requests into that network."`
	AllEncrypted         bool     `yaml:"all_encrypted" doc:"Whether, by default, every encrypted event in a room that is not muted is pushed to users' apps, which can then look for mentions (MSC4028). This includes rooms in which users want to be notified of mentions only. Apps that do not support this show more unread messages."`
	EventIDOnly          bool     `yaml:"event_id_only" doc:"Whether push gateways get only the IDs of event and room and the unread count, whatever format a pusher has. Apps then fetch the message from this server themselves; those that cannot show a notification without its text. E-mails about unread messages then say only how many there are in which rooms, and of conversations of two people only how many there are."`
	Email                bool     `yaml:"email" doc:"Whether users can get e-mails about unread messages. Needs email.smtp."`
	EmailDelay           Duration `yaml:"email_delay" doc:"How long a message must have been unread before an e-mail is sent."`
	EmailInterval        Duration `yaml:"email_interval" doc:"The shortest time between two of these e-mails to a user."`
	CountRooms           bool     `yaml:"count_rooms" doc:"Whether the badge of an app shows the number of rooms with unread messages instead of the number of unread messages."`
}

// Holds configures legal holds.
type Holds struct {
	Notify string `yaml:"notify" doc:"Whether people who ask for their data to be erased are told that a legal hold keeps some of it: never, or on_request. With never, the answer does not show whether there is a hold: those who add one decide for themselves whom they tell, and a hold that must stay secret is not revealed by accident."`
}

// Retention configures how long rooms keep messages.
type Retention struct {
	Default       Lifetimes      `yaml:"default" doc:"The policy for rooms without a policy of their own; null: no limit."`
	Direct        Lifetimes      `yaml:"direct" doc:"The same for conversations of at most two people in rooms that are not public; if both are null, as for other rooms."`
	Private       Lifetimes      `yaml:"private" doc:"The same for rooms that are not public."`
	Public        Lifetimes      `yaml:"public" doc:"The same for rooms that anybody can join."`
	Encrypted     Lifetimes      `yaml:"encrypted" doc:"The same for encrypted rooms. If a room is of several kinds, the first of public, direct, encrypted and private that is set applies."`
	Limits        LifetimeLimits `yaml:"limits" doc:"The range within which rooms can choose their policy. A value outside it counts as the nearest allowed value."`
	PurgeInterval Duration       `yaml:"purge_interval" doc:"How often expired messages are deleted from disk. They are hidden as soon as they expire."`
	PurgeDelay    Duration       `yaml:"purge_delay" doc:"How long messages stay on disk, hidden, that expired only because a policy was shortened, because the clock jumped ahead, or together with far more messages than usual. Until then the change can be undone. 0: they are deleted at once."`
	ReceiptsKeep  Duration       `yaml:"receipts_keep" doc:"How long signed receipts of purges are kept (see ebb receipts). 0: none are made."`

	Redacted Duration `yaml:"redacted" doc:"How long the original of a redacted message, with its attachments, stays on disk after the redaction. Meanwhile the moderators of its room can read the text, but not the attachments (MSC2815), and each such access is recorded in the audit log. 0: it is deleted at once."`

	LeftRooms      *Duration `yaml:"left_rooms" doc:"How long after the last local user has left a room the server removes everything that it stores about the room. Until then, those who were in it can still read what they could read before. 0s: at once; null: never. Whoever joins the room again later gets it from other servers; a room without users of other servers is gone for good. Rooms to which a local user is invited stay, and so do rooms under a legal hold."`
	ForgottenRooms *Duration `yaml:"forgotten_rooms" doc:"The same for rooms that all local users who were in them have forgotten, as many clients offer after leaving, so that nobody can read them any more. It also counts from when the last one left."`

	SupersededState bool `yaml:"superseded_state" doc:"Whether the content of old room state is deleted too, such as former names, topics and display names, once newer state has replaced it and messages of its age have expired. Only what the rules of rooms need stays, such as who was a member. Clients no longer see these changes in the history of a room."`
}

// Lifetimes is a retention policy; nil means unlimited.
type Lifetimes struct {
	MinLifetime *Duration `yaml:"min_lifetime"`
	MaxLifetime *Duration `yaml:"max_lifetime"`
}

// LifetimeLimits bounds the retention policies of rooms.
type LifetimeLimits struct {
	MinLifetime Range `yaml:"min_lifetime"`
	MaxLifetime Range `yaml:"max_lifetime"`
}

// Range is a range of durations; nil means that there is no bound on that side.
type Range struct {
	Min *Duration `yaml:"min"`
	Max *Duration `yaml:"max"`
}

// Rooms configures the defaults for new rooms.
type Rooms struct {
	DefaultVersion string `yaml:"default_version"`
}

// Encryption configures which rooms are end-to-end encrypted.
type Encryption struct {
	Force           []string `yaml:"force" doc:"Kinds of rooms that are created encrypted, whether or not the client asks for it: public, private, direct."`
	Forbid          []string `yaml:"forbid" doc:"Kinds of rooms in which encryption is refused."`
	RefusePlaintext bool     `yaml:"refuse_plaintext" doc:"Whether to refuse unencrypted messages from users of this server in encrypted rooms. Bots and bridges without encryption can then not send messages there."`
}

// Cache bounds the memory for caches.
type Cache struct {
	Size Bytes `yaml:"size" doc:"Memory for all caches. Half of it is for rooms, the rest for users, access tokens, devices and responses of other servers (docs/limits.md)."`
}

// Log configures the log, which is written to standard error.
type Log struct {
	Level     string `yaml:"level" doc:"debug, info, warn or error"`
	Format    string `yaml:"format" doc:"text or json"`
	Addresses string `yaml:"addresses" doc:"How much of people's addresses is in the log. full: IP addresses and e-mail addresses; network: only the network of an IP address (/24 or /48) and the domain of an e-mail address; none: neither."`
}

// Default returns the configuration that applies when only the server name is set.
func Default() *Config {
	return &Config{
		ServerName: "localhost", PublicURL: "http://127.0.0.1:8008", DataDir: "data", Database: "sqlite:ebb.db",
		Listen:       []Listener{{Address: "127.0.0.1:8008", Serve: []string{"client", "admin"}}},
		ACME:         ACME{Directory: "https://acme-v02.api.letsencrypt.org/directory"},
		Registration: Registration{Mode: "token", Email: "off", GuestLifetime: Duration(30 * 24 * time.Hour)},
		Login:        Login{AccessTokenLifetime: Duration(time.Hour)},
		Auth: Auth{MFA: "off", MFAAdministrators: "off", MFAGrace: Duration(14 * 24 * time.Hour), AdminApproval: Duration(15 * time.Minute), Password: Password{MinLength: 8, RefuseCommon: true}, JWT: JWT{SubjectClaim: "sub"},
			LDAP: LDAP{StartTLS: true, Filter: "(uid={name})", NameAttribute: "uid", DisplayNameAttribute: "cn", EmailAttribute: "mail", Timeout: Duration(5 * time.Second)}},
		Audit:   Audit{Keep: Duration(180 * 24 * time.Hour), Addresses: Duration(90 * 24 * time.Hour), Checkpoints: Checkpoints{Interval: Duration(time.Hour)}},
		Reports: Reports{Keep: Duration(365 * 24 * time.Hour)},
		Notices: Notices{Localpart: "server-notices", RoomName: "Server notices"},
		Alerts:  Alerts{SignIns: true, Changes: true, Suspicious: true, Email: true},
		OAuth:   OAuth{Enabled: true, DeviceGrant: "on"},
		Email:   Email{SMTP: SMTP{Port: 587, TLS: "starttls", Timeout: Duration(30 * time.Second)}},
		RateLimits: RateLimits{Enabled: true, Connections: 2000, Sends: Bucket{20, 200}, Reads: Bucket{50, 1000}, Logins: Bucket{0.2, 10},
			Registrations: Bucket{0.2, 50}, Emails: Bucket{0.002, 5}, Anonymous: Bucket{50, 500}, Invites: Bucket{1, 100}, Joins: Bucket{1, 30}, Uploads: Bucket{5, 200}, Claims: Bucket{20, 200}},
		Federation:    Federation{Presence: true},
		DelayedEvents: Delays{MaxDelay: Duration(24 * time.Hour), MaxPerUser: 100},
		Media: Media{MaxUploadSize: 100 << 20, QuotaPerUser: 0, MaxPendingUploads: 20, PendingUploadExpiry: Duration(24 * time.Hour),
			MaxRemoteSize: 100 << 20, RemoteCacheSize: 10 << 30, RemoteCacheLifetime: Duration(30 * 24 * time.Hour), UnusedLifetime: Duration(24 * time.Hour),
			URLPreviews: Previews{Languages: []string{"en"}, Lifetime: Duration(24 * time.Hour), MaxImageSize: 10 << 20, CacheSize: 1 << 30}},
		Push:      Push{LegacyMentionRules: true, EmailDelay: Duration(10 * time.Minute), EmailInterval: Duration(12 * time.Hour)},
		TURN:      TURN{Lifetime: Duration(time.Hour)},
		Search:    Search{Enabled: true},
		Holds:     Holds{Notify: "never"},
		Retention: Retention{PurgeInterval: Duration(10 * time.Minute), PurgeDelay: Duration(24 * time.Hour), ReceiptsKeep: Duration(365 * 24 * time.Hour)},
		Rooms:     Rooms{DefaultVersion: "12"},
		Cache:     Cache{Size: 256 << 20},
		Log:       Log{Level: "info", Format: "text", Addresses: "full"},
	}
}

// Read reads a configuration file on top of the defaults. It returns all mistakes that can be found by looking at the
// file alone. It returns an error if the file cannot be read at all.
func Read(path string) (*Config, Problems, error) {
	raw, err := ReadFile(path)
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
	if len(found) == 1 && found[0].Key == "" && len(c.source.lines) == 0 { // the file is not a mapping of keys
		return c, found, nil
	}
	if c.source.lines["server_name"] == 0 {
		found = append(found, c.Problem("server_name", "is missing: it is the part of user IDs after the colon, such as example.org"))
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

// secretFile describes a key whose value is the path of a file with a secret: key is the name of that key, file is the
// path, and secret is the setting into which the content of the file is read.
type secretFile struct {
	key    string
	file   string
	secret *string
}

func (c *Config) secretFiles() []secretFile {
	files := []secretFile{
		{"registration.shared_secret_file", c.Registration.SharedSecretFile, &c.Registration.SharedSecret},
		{"email.smtp.password_file", c.Email.SMTP.PasswordFile, &c.Email.SMTP.Password},
		{"turn.shared_secret_file", c.TURN.SharedSecretFile, &c.TURN.SharedSecret},
		{"auth.jwt.secret_file", c.Auth.JWT.SecretFile, &c.Auth.JWT.Secret},
		{"auth.ldap.search_password_file", c.Auth.LDAP.SearchPasswordFile, &c.Auth.LDAP.SearchPassword},
	}
	for i := range c.Auth.Providers {
		one := &c.Auth.Providers[i]
		files = append(files, secretFile{fmt.Sprintf("auth.providers[%d].client_secret_file", i), one.ClientSecretFile, &one.ClientSecret})
	}
	return files
}

// readFiles reads the secrets that are stored in separate files.
func (c *Config) readFiles() (found Problems) {
	for _, f := range c.secretFiles() {
		if f.file == "" {
			continue
		}
		if *f.secret != "" {
			found = append(found, c.Problem(f.key, "give either the secret or the file, not both"))
			continue
		}
		raw, err := ReadFile(c.abs(f.file))
		if err != nil {
			found = append(found, c.Problem(f.key, "%v%s", err, OwnerOf(err)))
		} else if *f.secret = strings.TrimSpace(string(raw)); *f.secret == "" {
			found = append(found, c.Problem(f.key, "%s is empty", f.file))
		}
	}
	return found
}

// abs returns an absolute path. Relative paths are relative to the folder of the configuration file.
func (c *Config) abs(path string) string {
	if filepath.IsAbs(path) || c.path == "" {
		return path
	}
	return filepath.Join(filepath.Dir(c.path), path)
}

// Dir returns data_dir as an absolute path.
func (c *Config) Dir() string { return c.abs(c.DataDir) }

// Values of database_keys that are not folders chosen by the administrator.
const (
	keysOff     = "off"
	defaultKeys = "keys" // the folder if database_keys is empty
)

// BodyKeys returns the folder with the keys of message bodies, or "" if bodies are not to be encrypted.
func (c *Config) BodyKeys() string {
	if c.DatabaseKeys == keysOff || strings.HasPrefix(c.Database, "sqlite:") {
		return ""
	}
	folder := cmp.Or(c.DatabaseKeys, defaultKeys)
	if filepath.IsAbs(folder) {
		return folder
	}
	return filepath.Join(c.Dir(), folder)
}

// OnlyNewBodies reports whether BodyKeys is only for a database that is new, or whose bodies are encrypted already.
func (c *Config) OnlyNewBodies() bool { return c.DatabaseKeys == "" }

// DSN returns the database setting. The path of an SQLite file is made absolute.
func (c *Config) DSN() string {
	path, ok := strings.CutPrefix(c.Database, "sqlite:")
	if !ok || filepath.IsAbs(path) {
		return c.Database
	}
	return "sqlite:" + filepath.Join(c.Dir(), path)
}

// KeyFile returns the path of the server's signing key.
func (c *Config) KeyFile() string { return filepath.Join(c.Dir(), "signing.key") }

// Path returns the file from which the configuration was read, or "" if there is none.
func (c *Config) Path() string { return c.path }

// File returns the absolute form of a path given in the configuration.
func (c *Config) File(path string) string { return c.abs(path) }

// Exists reports whether a configuration file exists at path.
func Exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
