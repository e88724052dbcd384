package config

import (
	"strings"
	"testing"
	"time"
)

// mistakesOf returns the mistakes in a configuration that otherwise has none.
func mistakesOf(change func(*Config)) string {
	c := Default()
	change(c)
	if err := c.Validate(); err != nil {
		return err.Error()
	}
	return ""
}

func TestMistakesInJSONWebTokens(t *testing.T) {
	for want, j := range map[string]JWT{
		"":                             {},
		"auth.jwt.algorithms":          {Secret: "x"},
		"auth.jwt.algorithms[0]":       {Algorithms: []string{"none"}, Secret: "x"},
		"auth.jwt.algorithms[1]":       {Algorithms: []string{"HS256", "HS256"}, Secret: "x"},
		"auth.jwt.algorithms: mixes":   {Algorithms: []string{"HS256", "RS256"}, Secret: "x"},
		"auth.jwt: needs exactly":      {Algorithms: []string{"RS256"}, PublicKeyFile: "a", JWKSFile: "b"},
		"auth.jwt: needs exactly one":  {Algorithms: []string{"HS256"}},
		"auth.jwt.secret: is missing":  {Algorithms: []string{"HS256"}, PublicKeyFile: "a"},
		"auth.jwt.secret: is for HS":   {Algorithms: []string{"RS256"}, Secret: "a"},
		"auth.jwt.audiences":           {Algorithms: []string{"RS256"}, PublicKeyFile: "a"},
		"auth.jwt.second_factor.amr":   {Algorithms: []string{"HS256"}, Secret: "a", SecondFactor: SecondFactor{AMR: []string{"pwd"}}},
		"auth.jwt.second_factor.acr[1": {Algorithms: []string{"HS256"}, Secret: "a", SecondFactor: SecondFactor{ACR: []string{"2", ""}}},
		"auth.jwt.audiences[0]":        {Algorithms: []string{"HS256"}, Secret: "a", Audiences: []string{""}},
	} {
		j.SubjectClaim = "sub"
		got := mistakesOf(func(c *Config) { c.Auth.JWT = j })
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%+v: %s, want %s", j, got, want)
		}
	}
	if got := mistakesOf(func(c *Config) { c.Auth.JWT.Algorithms, c.Auth.JWT.Secret = []string{"HS256"}, "a" }); got != "" {
		t.Error(got)
	}
}

func TestMistakesInLDAP(t *testing.T) {
	good := Default().Auth.LDAP
	good.URL, good.Base = "ldaps://ldap.example.org", "dc=example"
	for _, c := range []struct {
		want   string
		change func(*LDAP)
	}{
		{"", func(*LDAP) {}},
		{"", func(l *LDAP) { l.URL = "ldap://ldap.example.org:389" }},
		{"", func(l *LDAP) { l.URL, l.StartTLS = "ldap://127.0.0.1", false }},
		{"", func(l *LDAP) { l.Base, l.UserDN = "", "uid={name},dc=example" }},
		{"auth.ldap.url", func(l *LDAP) { l.URL = "" }},
		{"auth.ldap.url", func(l *LDAP) { l.URL = "https://ldap.example.org" }},
		{"auth.ldap.url", func(l *LDAP) { l.URL = "ldaps://ldap.example.org/dc=example" }},
		{"auth.ldap.url", func(l *LDAP) { l.URL = "ldaps://cn=a:secret@ldap.example.org" }},
		{"auth.ldap.start_tls", func(l *LDAP) { l.URL, l.StartTLS = "ldap://ldap.example.org", false }},
		{"auth.ldap.base", func(l *LDAP) { l.Base = "" }},
		{"auth.ldap.base", func(l *LDAP) { l.UserDN = "uid={name},dc=example" }},
		{"auth.ldap.user_dn", func(l *LDAP) { l.Base, l.UserDN = "", "uid=alice,dc=example" }},
		{"auth.ldap.filter", func(l *LDAP) { l.Filter = "(uid=alice)" }},
		{"auth.ldap.filter", func(l *LDAP) { l.Filter = "uid={name}" }},
		{"auth.ldap.search_password", func(l *LDAP) { l.SearchDN = "cn=a" }},
		{"auth.ldap.name_attribute", func(l *LDAP) { l.NameAttribute = "" }},
		{"auth.ldap.timeout", func(l *LDAP) { l.Timeout = 0 }},
		{"auth.ldap.timeout", func(l *LDAP) { l.Timeout = Duration(time.Hour) }},
	} {
		l := good
		c.change(&l)
		got := mistakesOf(func(cfg *Config) { cfg.Auth.LDAP = l })
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q, want %q", l, got, c.want)
		}
	}
}

func TestMistakesInProviders(t *testing.T) {
	good := Provider{ID: "office", Name: "Office", Issuer: "https://id.example.org", ClientID: "ebb"}
	for _, c := range []struct {
		want   string
		change func(*Config)
	}{
		{"", func(*Config) {}},
		{"", func(c *Config) { c.Auth.Providers[0].Issuer = "http://127.0.0.1:9000" }},
		{"auth.providers: needs", func(c *Config) { c.OAuth.Enabled = false }},
		{"auth.providers[0].id", func(c *Config) { c.Auth.Providers[0].ID = "Office 1" }},
		{"auth.providers[0].id", func(c *Config) { c.Auth.Providers[0].ID = "" }},
		{"auth.providers[0].name", func(c *Config) { c.Auth.Providers[0].Name = "" }},
		{"auth.providers[0].client_id", func(c *Config) { c.Auth.Providers[0].ClientID = "" }},
		{"auth.providers[0].issuer", func(c *Config) { c.Auth.Providers[0].Issuer = "" }},
		{"auth.providers[0].issuer", func(c *Config) { c.Auth.Providers[0].Issuer = "http://id.example.org" }},
		{"auth.providers[0].issuer", func(c *Config) { c.Auth.Providers[0].Issuer = "https://id.example.org?x=1" }},
		{"auth.providers[0].scopes", func(c *Config) { c.Auth.Providers[0].Scopes = []string{"profile"} }},
		{"auth.providers[0].icon", func(c *Config) { c.Auth.Providers[0].Icon = "https://example.org/icon.png" }},
		{"auth.providers[0].second_factor.amr[0]", func(c *Config) { c.Auth.Providers[0].SecondFactor.AMR = []string{"pwd"} }},
		{"auth.providers[1].id", func(c *Config) {
			c.Auth.Providers = append(c.Auth.Providers, good)
			c.Auth.Providers[1].Issuer = "https://other.example.org"
		}},
		{"auth.providers[1].issuer", func(c *Config) {
			c.Auth.Providers = append(c.Auth.Providers, good)
			c.Auth.Providers[1].ID = "branch"
		}},
	} {
		got := mistakesOf(func(cfg *Config) {
			cfg.OAuth.Enabled, cfg.Auth.Providers = true, []Provider{good}
			c.change(cfg)
		})
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
