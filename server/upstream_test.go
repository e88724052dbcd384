package server_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/server"
)

func TestCheckFindsMistakesInTheFilesOfOtherServices(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for want, change := range map[string]func(*config.Config){
		"auth.jwt: the secret has 5 bytes": func(c *config.Config) { c.Auth.JWT = config.JWT{Algorithms: []string{"HS256"}, Secret: "short"} },
		"auth.jwt: open ": func(c *config.Config) {
			c.Auth.JWT = config.JWT{Algorithms: []string{"RS256"}, PublicKeyFile: filepath.Join(dir, "missing")}
		},
		"is not a PEM file": func(c *config.Config) {
			c.Auth.JWT = config.JWT{Algorithms: []string{"RS256"}, PublicKeyFile: file("key.pem", "no key")}
		},
		"is not a JSON Web Key Set": func(c *config.Config) {
			c.Auth.JWT = config.JWT{Algorithms: []string{"RS256"}, JWKSFile: file("keys.json", "[]")}
		},
		"auth.ldap: ca_file: ": func(c *config.Config) {
			c.Auth.LDAP.URL, c.Auth.LDAP.CAFile = "ldaps://ldap.example.org", file("ca.pem", "no certificate")
		},
		"auth.providers[0]: localpart": func(c *config.Config) {
			c.Auth.Providers = []config.Provider{{ID: "office", Name: "Office", Issuer: "https://id.example.org", ClientID: "ebb", Localpart: "{{.name"}}
		},
		"auth.providers[0].ca_file": func(c *config.Config) {
			c.Auth.Providers = []config.Provider{{ID: "office", Name: "Office", Issuer: "https://id.example.org", ClientID: "ebb", CAFile: filepath.Join(dir, "missing")}}
		},
		"auth.ldap: the filter": func(c *config.Config) {
			c.Auth.LDAP.URL, c.Auth.LDAP.Filter = "ldaps://ldap.example.org", "(&(uid={name})"
		},
	} {
		cfg := config.Default()
		cfg.DataDir, cfg.Listen = filepath.Join(dir, "data"), nil
		change(cfg)
		mistakes, _ := server.Check(t.Context(), cfg, server.Options{Now: func() time.Time { return time.Unix(0, 0) }})
		if !strings.Contains(mistakes.Error(), want) {
			t.Errorf("%v, want %s", mistakes, want)
		}
	}
}
