package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAbsurdLifetimesAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"audit: {keep: -5d}":                                         `audit.keep: "-5d" is negative`,
		"audit: {keep: 99999999999d}":                                "too long",
		"audit: {keep: 36501d}":                                      "audit.keep: is longer than 36500d, a hundred years",
		"audit: {keep: 5m}":                                          "audit.keep: is 5m, but must be at least 1h, or 0s for ever",
		"audit: {keep_addresses: 1s}":                                "audit.keep_addresses: is 1s, but must be at least 1h",
		"audit: {keep: soon}":                                        `"soon" is not a time span such as 30s, 5m, 12h or 30d`,
		"login: {idle_lifetime: 1h}":                                 "login.idle_lifetime: is 1h, but must be at least 1d",
		"reports: {keep: 1m}":                                        "reports.keep: is 1m, but must be at least 1d",
		"retention: {default: {max_lifetime: 0s}}":                   "retention.default.max_lifetime: is 0: messages would be deleted as they arrive; null means no limit",
		"retention: {default: {max_lifetime: 100000d}}":              "retention.default.max_lifetime: is longer than 36500d",
		"retention: {default: {max_lifetime: -1d}}":                  "is negative",
		"retention: {limits: {max_lifetime: {max: 0s}}}":             "retention.limits.max_lifetime.max: is 0",
		"retention: {private: {min_lifetime: 90000d}}":               "retention.private.min_lifetime: is longer than 36500d",
		"retention: {default: {min_lifetime: 2d, max_lifetime: 1d}}": "retention.default: the minimum is larger than the maximum",
		"retention: {purge_delay: 40000d}":                           "retention.purge_delay: is longer than 36500d",
		"retention: {receipts_keep: 40000d}":                         "retention.receipts_keep: is longer than 36500d",
		"oauth: {idle_lifetime: 5m}":                                 "oauth.idle_lifetime: is 5m, but must be at least 1h",
		"media: {unused_lifetime: 1h}":                               "media.unused_lifetime: is 1h, but must be at least 1d",
		"media: {remote_cache_lifetime: 0s}":                         "media.remote_cache_lifetime: must be positive",
		"backup: {keep: 40000d}":                                     "backup.keep: is longer than 36500d",
		"log: {addresses: some}":                                     `log.addresses: is "some", but must be one of full, network, none`,
	} {
		file := filepath.Join(t.TempDir(), "ebb.yaml")
		if err := os.WriteFile(file, []byte("server_name: example.org\n"+text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(file)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestUsualLifetimesAreAccepted(t *testing.T) {
	for _, text := range []string{
		"audit: {keep: 0s, keep_addresses: 1h}", "login: {idle_lifetime: 90d}", "reports: {keep: 0s}", "retention: {default: {min_lifetime: 0s, max_lifetime: 1s}}",
		"retention: {default: {max_lifetime: null}, limits: {max_lifetime: {min: 0s, max: 36500d}}, purge_delay: 0s, receipts_keep: 0s}", "log: {addresses: none}",
	} {
		file := filepath.Join(t.TempDir(), "ebb.yaml")
		if err := os.WriteFile(file, []byte("server_name: example.org\n"+text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(file); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}
