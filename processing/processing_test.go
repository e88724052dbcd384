package processing

import (
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/docs"
)

// record returns the record of processing for a configuration as a page.
func record(t *testing.T, change func(*config.Config)) string {
	t.Helper()
	cfg := config.Default()
	change(cfg)
	r, err := New(docs.Storage, "test", cfg)
	if err != nil {
		t.Fatal(err)
	}
	var page strings.Builder
	if err := r.Markdown(&page); err != nil {
		t.Fatal(err)
	}
	return page.String()
}

func TestRecordHasTheValuesOfTheConfiguration(t *testing.T) {
	day := config.Duration(24 * time.Hour)
	page := record(t, func(c *config.Config) {
		c.ServerName, c.Database, c.DatabaseKeys = "example.org", "postgres://ebb:topsecret@db/ebb", "off"
		c.Audit.Addresses, c.Login.IdleLifetime, c.Reports.Keep = 14*day, 60*day, 0
		week := 7 * day
		c.Retention.Default.MaxLifetime = &week
		c.Federation.Enabled, c.Federation.AllowedServers = true, []string{"partner.org"}
		c.Push.Email, c.Push.EventIDOnly = true, true
		c.Email.SMTP.Host, c.Email.SMTP.Password = "mail.example.org", "topsecret"
		c.Auth.Providers = []config.Provider{{ID: "office", Issuer: "https://login.example.org", ClientSecret: "topsecret"}}
		c.Identity.Servers = []string{"id.example.org"}
		c.WellKnown.Contacts = []config.SupportContact{{Role: "m.role.admin", EmailAddress: "privacy@example.org"}}
		c.Audit.Checkpoints.Webhook = "https://user:topsecret@sink.example.org/topsecret"
		c.Log.Addresses = "none"
	})
	for _, want := range []string{
		"the Matrix server example.org", "`audit.keep_addresses` (here: 14d)", "`login.idle_lifetime` (here: 60d)", "`reports.keep` (here: for ever)",
		"| rooms without a policy of their own, unless another row applies | 7d |", "the Matrix servers partner.org", "which only count them", "no content",
		"mail.example.org:587", "https://login.example.org", "id.example.org", "privacy@example.org (m.role.admin)", "Messages are not encrypted in PostgreSQL",
		"### Messages and rooms", "| `events` | **content**", "shortened addresses, or none", "Signed checkpoints of the audit log are sent",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not in the record", want)
		}
	}
	if strings.Contains(page, "topsecret") {
		t.Error("a secret is in the record")
	}
	if strings.Contains(page, "SQLite overwrites") {
		t.Error("the record says SQLite for a PostgreSQL database")
	}
}

func TestRecordOfAServerAloneNamesNoOthers(t *testing.T) {
	page := record(t, func(*config.Config) {})
	for _, not := range []string{"the Matrix servers", "all Matrix servers", "identity provider http", "mail server", "LDAP directory "} {
		if strings.Contains(page, not) {
			t.Errorf("%q is in the record of a server without", not)
		}
	}
	for _, want := range []string{"SQLite overwrites", "- Contact: [an address", "without limit", "Backups are not configured"} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not in the record", want)
		}
	}
}

func TestRecordIsRefusedIfTheListsDiffer(t *testing.T) {
	for what, page := range map[string]string{
		"a table without a purpose":   docs.Storage + "\n| `secrets_of_people` | all | never |\n",
		"a purpose without a table":   strings.Replace(docs.Storage, "`meta`, `ebb.yaml`", "`meta`, `nothing`, `ebb.yaml`", 1),
		"a table with two purposes":   strings.Replace(docs.Storage, "`meta`, `ebb.yaml`", "`meta`, `events`, `ebb.yaml`", 1),
		"a table that is there twice": strings.Replace(docs.Storage, "| `meta` |", "| `meta` | a | b |\n| `meta` |", 1),
		"no purposes":                 strings.Replace(docs.Storage, purposes, "## Something else", 1),
	} {
		if _, err := New(page, "test", config.Default()); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
}

// A setting that a page names must exist; a typing error would leave out its value.
func TestSettingsThatTheStoragePageNamesExist(t *testing.T) {
	cfg := config.Default()
	for _, m := range settingName.FindAllStringSubmatch(docs.Storage, -1) {
		if _, found := cfg.Value(m[1]); !found && !files[m[1]] && !strings.HasPrefix(m[1], "m.") {
			t.Errorf("there is no setting %s", m[1])
		}
	}
}

// files look like settings.
var files = map[string]bool{
	"ebb.yaml": true, "ebb.db": true, "ebb.db.reserve": true, "ebb.db.lock": true, "signing.key": true, "signing.key.old": true, "secrets.key": true,
	"restore.incomplete": true, "control.sock": true, "limits.md": true, "events.json": true, "search_parts.data": true, "accounts.mfa": true,
}
