package config

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// SecondFactor says which statements of an identity provider mean that the user has presented two factors.
type SecondFactor struct {
	AMR []string `yaml:"amr" doc:"Values of the claim amr (what the user has presented), such as mfa, one of which means that the user has presented two factors."`
	ACR []string `yaml:"acr" doc:"Values of the claim acr (the level of assurance) that mean the same. If a user has not presented two factors there, the policy auth.mfa applies here."`
}

// JWT configures signing in with a JSON Web Token of another program.
type JWT struct {
	Algorithms       []string     `yaml:"algorithms" doc:"Clients can sign in with a JSON Web Token (org.matrix.login.jwt) that is signed with one of these algorithms, such as RS256 or HS256; empty: they cannot."`
	Secret           string       `yaml:"secret" secret:"true" doc:"The key of tokens that are signed with HS256, HS384 or HS512."`
	SecretFile       string       `yaml:"secret_file" doc:"Instead of secret: a file that contains the key."`
	PublicKeyFile    string       `yaml:"public_key_file" doc:"A PEM file with the public key, or a certificate, of whoever signs the tokens."`
	JWKSFile         string       `yaml:"jwks_file" doc:"Instead of public_key_file: a JSON Web Key Set with several public keys."`
	Issuer           string       `yaml:"issuer" doc:"The value that the claim iss must have; empty: it is not checked."`
	Audiences        []string     `yaml:"audiences" doc:"The claim aud must have one of these values. Without them, tokens that were issued for another program are accepted too, so they are required with public keys."`
	SubjectClaim     string       `yaml:"subject_claim" doc:"The claim with the user name, which becomes the localpart of the user ID."`
	DisplayNameClaim string       `yaml:"display_name_claim" doc:"The claim with the display name of new accounts; empty: the user name."`
	CreateAccounts   bool         `yaml:"create_accounts" doc:"Whether the first sign-in of a user creates the account."`
	SecondFactor     SecondFactor `yaml:"second_factor"`
}

// LDAP configures signing in with the password of an LDAP directory.
type LDAP struct {
	URL                  string   `yaml:"url" doc:"The LDAP server, such as ldaps://ldap.example.org; empty: none. The directory checks the passwords of its users. An account that has a password here keeps it, and the directory is not asked."`
	StartTLS             bool     `yaml:"start_tls" doc:"Whether a connection to an ldap:// URL is encrypted with StartTLS. Only a server on this machine can be used without."`
	CAFile               string   `yaml:"ca_file" doc:"A PEM file with the certificate authority of the LDAP server; empty: those of the system."`
	UserDN               string   `yaml:"user_dn" doc:"The name of a user's entry, such as uid={name},ou=people,dc=example,dc=org, if all entries are at one place. Otherwise set base, and entries are searched."`
	Base                 string   `yaml:"base" doc:"The entry below which users are searched, such as ou=people,dc=example,dc=org."`
	Filter               string   `yaml:"filter" doc:"The filter that finds the entry of a user, such as (&(objectClass=person)(uid={name})). It also restricts who can sign in. With user_dn, the entry must match it too."`
	SearchDN             string   `yaml:"search_dn" doc:"The name with which to bind before a search; empty: anonymously."`
	SearchPassword       string   `yaml:"search_password" secret:"true"`
	SearchPasswordFile   string   `yaml:"search_password_file" doc:"Instead of search_password: a file that contains the password."`
	NameAttribute        string   `yaml:"name_attribute" doc:"The attribute with the user name, which becomes the localpart of the user ID."`
	DisplayNameAttribute string   `yaml:"display_name_attribute" doc:"The attribute with the display name of new accounts; empty: the user name."`
	EmailAttribute       string   `yaml:"email_attribute" doc:"The attribute with the e-mail address of new accounts, which is not verified again; empty: none."`
	CreateAccounts       bool     `yaml:"create_accounts" doc:"Whether the first sign-in of a user of the directory creates the account."`
	Timeout              Duration `yaml:"timeout" doc:"How long checking one password may take."`
}

// Enabled reports whether there is a directory.
func (l LDAP) Enabled() bool { return l.URL != "" }

// JWTAlgorithms lists the signature algorithms of JSON Web Tokens that can be configured. The first letters of their
// names say what key they need.
var JWTAlgorithms = []string{"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

func (j JWT) validate(p *problems) {
	const key = "auth.jwt"
	if len(j.Algorithms) == 0 {
		set := j.Secret+j.SecretFile+j.PublicKeyFile+j.JWKSFile != ""
		p.check(!set, key+".algorithms", "is empty, although there is a key: name the algorithms of the tokens, such as RS256")
		return
	}
	symmetric, asymmetric := false, false
	for i, name := range j.Algorithms {
		at := fmt.Sprintf("%s.algorithms[%d]", key, i)
		p.oneOf(at, name, JWTAlgorithms...)
		p.check(!slices.Contains(j.Algorithms[:i], name), at, "%q is listed twice", name)
		if strings.HasPrefix(name, "HS") {
			symmetric = true
		} else {
			asymmetric = true
		}
	}
	files := 0
	for _, set := range []bool{j.Secret != "", j.PublicKeyFile != "", j.JWKSFile != ""} {
		if set {
			files++
		}
	}
	switch {
	case symmetric && asymmetric:
		p.add(key+".algorithms", "mixes algorithms with a secret (HS256, HS384, HS512) and with public keys: a public key could be used as a secret")
	case files != 1:
		p.add(key, "needs exactly one of secret or secret_file, public_key_file, and jwks_file")
	case symmetric && j.Secret == "":
		p.add(key+".secret", "is missing: %s needs a secret", strings.Join(j.Algorithms, ", "))
	case asymmetric && j.Secret != "":
		p.add(key+".secret", "is for HS256, HS384 and HS512: %s needs public_key_file or jwks_file", strings.Join(j.Algorithms, ", "))
	}
	p.check(!asymmetric || len(j.Audiences) > 0, key+".audiences", "is missing: otherwise tokens that were issued for any other program would be accepted")
	p.check(j.SubjectClaim != "", key+".subject_claim", "is empty")
	j.SecondFactor.validate(p, key+".second_factor")
	for i, audience := range j.Audiences {
		p.check(audience != "", fmt.Sprintf("%s.audiences[%d]", key, i), "is empty")
	}
}

func (f SecondFactor) validate(p *problems, key string) {
	for name, list := range map[string][]string{"amr": f.AMR, "acr": f.ACR} {
		for i, value := range list {
			p.check(value != "", fmt.Sprintf("%s.%s[%d]", key, name, i), "is empty")
		}
	}
	// These name single factors, whatever the provider means by them.
	for i, value := range f.AMR {
		p.check(value != "pwd", fmt.Sprintf("%s.amr[%d]", key, i), "%q means that the user has given a password, which is one factor", value)
	}
}

func (l LDAP) validate(p *problems) {
	const key = "auth.ldap"
	if !l.Enabled() {
		p.check(l.UserDN+l.Base+l.SearchDN == "", key+".url", "is empty, although other keys of auth.ldap are set: name the LDAP server")
		return
	}
	p.url(key+".url", l.URL, "ldaps", "ldap")
	if u, err := url.Parse(l.URL); err == nil {
		p.check(u.Path == "" && u.RawQuery == "" && u.Fragment == "", key+".url", "%q must be only the address of the server: set base and filter with the keys of these names", l.URL)
		p.check(u.Scheme != "ldap" || l.StartTLS || loopback(u.Hostname()), key+".start_tls", "must be true: passwords would be sent to %s unencrypted", u.Host)
	}
	const place = "{name}"
	p.check((l.UserDN == "") != (l.Base == ""), key+".base", "give either user_dn or base")
	p.check(l.UserDN == "" || strings.Contains(l.UserDN, place), key+".user_dn", "must contain %s, which stands for the user name", place)
	p.check(strings.Contains(l.Filter, place) && strings.HasPrefix(l.Filter, "(") && strings.HasSuffix(l.Filter, ")"), key+".filter", "must be a filter such as (uid=%s)", place)
	p.check((l.SearchDN == "") == (l.SearchPassword == ""), key+".search_password", "needs both search_dn and search_password, or neither")
	p.check(l.UserDN == "" || l.SearchDN == "", key+".search_dn", "is not used with user_dn")
	p.check(l.NameAttribute != "", key+".name_attribute", "is empty")
	p.check(l.Timeout > 0 && l.Timeout <= Duration(time.Minute), key+".timeout", "must be positive and at most 1m")
}

// LDAPAuthorities returns the certificate authorities that are trusted for the LDAP server, or nil for those of the
// system.
func (c *Config) LDAPAuthorities() (*x509.CertPool, error) {
	return c.onlyAuthorities(c.Auth.LDAP.CAFile)
}

// onlyAuthorities returns the certificate authorities in a file, or nil if file is "".
func (c *Config) onlyAuthorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	raw, err := ReadFile(c.abs(file))
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, OwnerOf(err))
	}
	pool := x509.NewCertPool()
	if block, _ := pem.Decode(raw); block == nil || !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("%s has no PEM certificate", file)
	}
	return pool, nil
}

// warnOfUpstream adds the dangerous settings for signing in by other services.
func (c *Config) warnOfUpstream(w *problems) {
	j := c.Auth.JWT
	if len(j.Algorithms) > 0 && len(j.Audiences) == 0 {
		w.add("auth.jwt.audiences", "is empty: every token that is signed with the secret is accepted, whatever it was issued for")
	}
}

// Provider configures an OpenID Connect provider.
type Provider struct {
	ID               string       `yaml:"id"`
	Name             string       `yaml:"name"`
	Icon             string       `yaml:"icon"`
	Brand            string       `yaml:"brand"`
	Issuer           string       `yaml:"issuer"`
	ClientID         string       `yaml:"client_id"`
	ClientSecret     string       `yaml:"client_secret" secret:"true"`
	ClientSecretFile string       `yaml:"client_secret_file"`
	Scopes           []string     `yaml:"scopes"`
	Localpart        string       `yaml:"localpart"`
	DisplayName      string       `yaml:"display_name"`
	Email            string       `yaml:"email"`
	CreateAccounts   bool         `yaml:"create_accounts"`
	SkipUserinfo     bool         `yaml:"skip_userinfo"`
	RequestACR       []string     `yaml:"request_acr"`
	SecondFactor     SecondFactor `yaml:"second_factor"`
	CAFile           string       `yaml:"ca_file"`
}

// Authorities returns the certificate authorities that are trusted for a provider, or nil for those of the system.
func (p Provider) Authorities(c *Config) (*x509.CertPool, error) { return c.onlyAuthorities(p.CAFile) }

// providerID matches the IDs of providers, which are parts of URLs.
var providerID = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)

// validateProviders checks the OpenID Connect providers.
func (c *Config) validateProviders(p *problems) {
	p.check(len(c.Auth.Providers) == 0 || c.OAuth.Enabled, "auth.providers", "needs oauth.enabled: users sign in by providers on the web pages")
	for i, one := range c.Auth.Providers {
		key := fmt.Sprintf("auth.providers[%d]", i)
		p.check(providerID.MatchString(one.ID) && one.ID != "new", key+".id", "%q must consist of a-z, 0-9, _ and -, such as office", one.ID)
		p.check(one.Name != "" && len(one.Name) <= 60, key+".name", "must have 1 to 60 characters: users see it")
		p.check(one.ClientID != "", key+".client_id", "is missing")
		p.url(key+".issuer", one.Issuer, "https", "http")
		if u, err := url.Parse(one.Issuer); err == nil {
			p.check(u.Scheme != "http" || loopback(u.Hostname()), key+".issuer", "must be an https URL: anybody on the network could sign in as any user")
			p.check(u.RawQuery == "" && u.Fragment == "", key+".issuer", "must have neither a query nor a fragment")
		}
		for j, other := range c.Auth.Providers[:i] {
			p.check(one.ID != other.ID, key+".id", "%q is also that of auth.providers[%d]", one.ID, j)
			p.check(one.Issuer != other.Issuer, key+".issuer", "is also that of auth.providers[%d]: users are known by the issuer", j)
		}
		p.check(len(one.Scopes) == 0 || slices.Contains(one.Scopes, "openid"), key+".scopes", "must contain openid")
		p.check(one.Icon == "" || strings.HasPrefix(one.Icon, "mxc://"), key+".icon", "%q is not an mxc:// URL", one.Icon)
		one.SecondFactor.validate(p, key+".second_factor")
	}
}
