package processing

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"ebb/config"
)

// recipients lists to whom a server with this configuration sends data about people.
func recipients(cfg *config.Config) []Recipient {
	list := []Recipient{{"members of the same rooms", "messages, files, profiles, membership, receipts, presence and typing"}}
	add := func(is bool, who, what string) {
		if is {
			list = append(list, Recipient{who, what})
		}
	}
	list = append(list, servers(cfg)...)
	content := "who has written what in which room, in so far as the user's app asks for it"
	if cfg.Push.EventIDOnly {
		content = "the IDs of event and room and the unread count, no content"
	}
	add(true, "push gateways that users' apps name, and through them Apple, Google and others", content)
	digest := "alerts, links and codes"
	if cfg.Push.Email {
		digest += "; e-mails about unread messages, which quote them"
		if cfg.Push.EventIDOnly {
			digest = strings.Replace(digest, "which quote them", "which only count them", 1)
		}
	}
	add(cfg.Email.SMTP.Host != "", "the mail server "+net.JoinHostPort(cfg.Email.SMTP.Host, strconv.Itoa(cfg.Email.SMTP.Port))+" and those of the recipients", "e-mail addresses; "+digest)
	list = append(list, identities(cfg)...)
	services, _ := cfg.AppServices() // config check reports mistakes
	for _, s := range services {
		where := hostOf(s.URL)
		if where == "" {
			where = "nothing is sent to it"
		}
		add(true, fmt.Sprintf("the application service %s (%s)", s.ID, where), "events of the rooms and users in its namespaces, and of rooms that its users are in")
	}
	add(len(cfg.TURN.URIs) > 0, "TURN servers: "+strings.Join(cfg.TURN.URIs, ", "), "IP addresses of callers, sent by their clients; a name with each set of credentials")
	add(cfg.Calls.RTCTransports != "", "the servers of group calls (calls.rtc_transports)", "who takes part in a call, sent by clients; OpenID tokens")
	add(cfg.Media.URLPreviews.Enabled, "web sites that messages link to", "the address of the link, from this server's address; not who asks")
	add(cfg.Audit.Checkpoints.Syslog+cfg.Audit.Checkpoints.Webhook+cfg.Audit.Checkpoints.File != "", "the sinks of audit.checkpoints", "hashes only")
	add(len(cfg.Backup.Recipients) > 0, "the holders of the keys in backup.recipients", "backups: everything that is stored")
	return append(list, Recipient{"the administrators of this server and its host", "everything that is stored and not encrypted end to end"})
}

// servers describes other Matrix servers as recipients.
func servers(cfg *config.Config) []Recipient {
	if !cfg.Federation.Enabled {
		return nil
	}
	which := "all Matrix servers whose users share a room"
	if len(cfg.Federation.AllowedServers) > 0 {
		which = "the Matrix servers " + strings.Join(cfg.Federation.AllowedServers, ", ") + ", if their users share a room"
	}
	what := "messages and state of these rooms, profiles, receipts, typing, public keys and names of devices"
	if cfg.Federation.Presence {
		what += ", presence"
	}
	return []Recipient{{which, what + ". They can be in any country, and keep what they get as they like"}}
}

// identities describes the services that know users too.
func identities(cfg *config.Config) (list []Recipient) {
	for _, p := range cfg.Auth.Providers {
		list = append(list, Recipient{"the identity provider " + p.Issuer, "that somebody signs in here, and when"})
	}
	if cfg.Auth.LDAP.URL != "" {
		list = append(list, Recipient{"the LDAP directory " + hostOf(cfg.Auth.LDAP.URL), "names and passwords of those who sign in, which it checks"})
	}
	if len(cfg.Identity.Servers) > 0 {
		list = append(list, Recipient{"identity servers: " + strings.Join(cfg.Identity.Servers, ", "), "e-mail addresses that users publish or look up there"})
	}
	return list
}

// hostOf returns the host of a URL, which may have secrets elsewhere.
func hostOf(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return u.Host
}

// measures lists how the data are protected under this configuration.
func measures(cfg *config.Config) []string {
	list := []string{
		"Messages can be encrypted end to end by the clients; the server does not have the keys.",
		"Passwords are stored as argon2id hashes; tokens, codes and links as SHA-256 hashes; seeds and signing keys encrypted under a key outside the database (secrets.key).",
		"Every media file is encrypted under a key of its own, which is destroyed when the file is deleted.",
		"Expired and deleted messages are hidden at once, deleted from disk by a purge, and each purge is attested by a signed receipt.",
		"Only the server's user can read the files of data_dir.",
		"Everything that administrators do, and every sign-in, is in an audit log with a chain of hashes.",
		"The requests of strangers, users and servers are limited in number, size and memory.",
	}
	add := func(is bool, yes, no string) {
		text := no
		if is {
			text = yes
		}
		if text != "" {
			list = append(list, text)
		}
	}
	add(strings.HasPrefix(cfg.Database, "sqlite:"), "SQLite overwrites what is deleted (secure_delete), and a purge empties its log.", "")
	encrypted := "Messages are encrypted in PostgreSQL under keys outside the database, which are destroyed when the messages are deleted (database_keys)."
	if cfg.OnlyNewBodies() {
		encrypted += " [This is so for databases that were created with this version or later, or have been encrypted since; ebb doctor says whether it is so here.]"
	}
	add(cfg.BodyKeys() != "", encrypted, "")
	add(!strings.HasPrefix(cfg.Database, "sqlite:") && cfg.BodyKeys() == "", "Messages are not encrypted in PostgreSQL: what is deleted stays in its files until the next VACUUM, and in its log and replicas as long as PostgreSQL keeps these.", "")
	list = append(list, "Second factors: "+cfg.Auth.MFA+"; for administrators: "+stricter(cfg.Auth.MFA, cfg.Auth.MFAAdministrators)+".")
	add(cfg.Audit.Checkpoints.Syslog+cfg.Audit.Checkpoints.Webhook+cfg.Audit.Checkpoints.File != "", "Signed checkpoints of the audit log are sent outside the host.", "Checkpoints of the audit log are not sent anywhere.")
	add(len(cfg.Backup.Recipients) > 0, "Backups are encrypted to keys that are not on the server, and older ones are deleted after "+keep(cfg.Backup.Keep)+".", "Backups are not configured (backup.recipients).")
	add(cfg.Backup.Ledger != "", "What was deleted after a backup is deleted again when it is restored (backup.ledger).", "Without backup.ledger, a restored backup has again what was deleted after it.")
	add(cfg.Log.Addresses == "full", "The log on standard error has IP and e-mail addresses; its lifetime is that of the system's journal.", "The log on standard error has shortened addresses, or none (log.addresses); its lifetime is that of the system's journal.")
	return list
}

func keep(d config.Duration) string {
	if d == 0 {
		return "no time: they are kept until somebody deletes them"
	}
	return d.String()
}

// stricter returns the stricter of two policies on second factors.
func stricter(a, b string) string {
	rank := map[string]int{"off": 0, "optional": 1, "required": 2}
	if rank[b] > rank[a] {
		return b
	}
	return a
}
