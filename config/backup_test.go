package config

import (
	"slices"
	"testing"
	"time"
)

func TestWarningsOfBackups(t *testing.T) {
	month, year := Duration(30*24*time.Hour), Duration(365*24*time.Hour)
	for name, c := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"no backups":               {func(*Config) {}, nil},
		"backups without a ledger": {func(c *Config) { c.Backup.Recipients = []string{"age1x"} }, []string{"backup.ledger"}},
		"backups that are kept longer than messages": {func(c *Config) {
			c.Backup = Backup{Recipients: []string{"age1x"}, Ledger: "/x", Keep: year}
			c.Retention.Default.MaxLifetime = &month
		}, []string{"backup.keep"}},
		"backups that are kept for ever": {func(c *Config) {
			c.Backup = Backup{Recipients: []string{"age1x"}, Ledger: "/x"}
			c.Retention.Limits.MaxLifetime.Max = &month
		}, []string{"backup.keep"}},
		"backups that are kept as long as messages": {func(c *Config) {
			c.Backup = Backup{Recipients: []string{"age1x"}, Ledger: "/x", Keep: month}
			c.Retention.Default.MaxLifetime = &month
		}, nil},
	} {
		cfg := Default()
		c.change(cfg)
		var got []string
		for _, w := range cfg.Warnings() {
			if w.Key == "backup.ledger" || w.Key == "backup.keep" {
				got = append(got, w.Key)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: warnings about %v, want %v", name, got, c.want)
		}
	}
}

func TestRecipientsOfBackupsArePublicKeys(t *testing.T) {
	cfg := Default()
	for recipient, good := range map[string]bool{"age1x": true, "ssh-ed25519 AAAA": true, "AGE-SECRET-KEY-1X": false, "": false} {
		cfg.Backup.Recipients = []string{recipient}
		if err := cfg.Validate(); (err == nil) != good {
			t.Errorf("the recipient %q: %v", recipient, err)
		}
	}
}
