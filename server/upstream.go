package server

import (
	"cmp"
	"fmt"
	"time"

	"ebb/accounts"
	"ebb/accounts/jwt"
	"ebb/accounts/ldap"
	"ebb/accounts/upstream"
	"ebb/config"
)

// upstreamOptions builds what signs users in by other services. The mistakes are those in the files that the
// configuration names.
func upstreamOptions(cfg *config.Config, o Options) (u accounts.UpstreamOptions, mistakes config.Problems) {
	if len(cfg.Auth.JWT.Algorithms) > 0 {
		v, err := jwtVerifier(cfg, o.Now)
		if err != nil {
			mistakes = append(mistakes, cfg.Problem("auth.jwt", "%v", err))
		}
		second := cfg.Auth.JWT.SecondFactor
		u.JWT, u.JWTCreate, u.JWTStrong = v, cfg.Auth.JWT.CreateAccounts, len(second.AMR)+len(second.ACR) > 0
	}
	if cfg.Auth.LDAP.Enabled() {
		d, err := ldapDirectory(cfg)
		if err != nil {
			mistakes = append(mistakes, cfg.Problem("auth.ldap", "%v", err))
		}
		u.LDAP, u.LDAPCreate = d, cfg.Auth.LDAP.CreateAccounts
	}
	u.Providers = map[string]string{}
	for _, p := range cfg.Auth.Providers {
		u.Providers[p.Issuer] = cmp.Or(u.Providers[p.Issuer], p.Name)
	}
	return u, mistakes
}

// newUpstream returns what signs users in by OpenID Connect providers. It sends no requests.
func newUpstream(cfg *config.Config, o upstream.Options) (s *upstream.Service, mistakes config.Problems) {
	for i, c := range cfg.Auth.Providers {
		roots, err := c.Authorities(cfg)
		if err != nil {
			mistakes = append(mistakes, cfg.Problem(fmt.Sprintf("auth.providers[%d].ca_file", i), "%v", err))
		}
		one := upstream.Settings{
			ID: c.ID, Name: c.Name, Icon: c.Icon, Brand: c.Brand, Issuer: c.Issuer, ClientID: c.ClientID, Secret: c.ClientSecret, Scopes: c.Scopes,
			Localpart: c.Localpart, DisplayName: cmp.Or(c.DisplayName, "{{.name}}"), Email: cmp.Or(c.Email, "{{.email}}"), Create: c.CreateAccounts,
			SkipUserinfo: c.SkipUserinfo, RequestACR: c.RequestACR, SecondFactor: jwt.SecondFactor(c.SecondFactor), Roots: roots,
		}
		if _, err := upstream.New(upstream.Options{Providers: []upstream.Settings{one}}); err != nil {
			mistakes = append(mistakes, cfg.Problem(fmt.Sprintf("auth.providers[%d]", i), "%v", err))
			continue
		}
		o.Providers = append(o.Providers, one)
	}
	o.PublicURL = cfg.PublicURL
	s, err := upstream.New(o)
	if err != nil {
		mistakes = append(mistakes, cfg.Problem("auth.providers", "%v", err))
	}
	return s, mistakes
}

// ldapDirectory returns the LDAP directory that checks passwords.
func ldapDirectory(cfg *config.Config) (*ldap.Directory, error) {
	c := cfg.Auth.LDAP
	roots, err := cfg.LDAPAuthorities()
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	return ldap.New(ldap.Options{
		URL: c.URL, StartTLS: c.StartTLS, Roots: roots, UserDN: c.UserDN, Base: c.Base, Filter: c.Filter, SearchDN: c.SearchDN, SearchPassword: c.SearchPassword,
		Name: c.NameAttribute, DisplayName: c.DisplayNameAttribute, Email: c.EmailAttribute, Timeout: time.Duration(c.Timeout),
	})
}

// jwtVerifier returns what verifies the JSON Web Tokens of another program.
func jwtVerifier(cfg *config.Config, now func() time.Time) (*jwt.Verifier, error) {
	c := cfg.Auth.JWT
	keys, err := jwtKeys(cfg)
	if err != nil {
		return nil, err
	}
	return jwt.New(jwt.Options{
		Algorithms: c.Algorithms, Keys: keys, Issuer: c.Issuer, Audiences: c.Audiences, Subject: c.SubjectClaim, DisplayName: c.DisplayNameClaim,
		SecondFactor: jwt.SecondFactor(c.SecondFactor), Now: now,
	}), nil
}

func jwtKeys(cfg *config.Config) (jwt.Keys, error) {
	c := cfg.Auth.JWT
	if c.Secret != "" {
		keys, err := jwt.Secret(c.Secret, c.Algorithms)
		if err != nil {
			err = fmt.Errorf("the secret %w", err)
		}
		return keys, err
	}
	name, parse := c.PublicKeyFile, jwt.PublicKey
	if c.JWKSFile != "" {
		name, parse = c.JWKSFile, jwt.KeySet
	}
	raw, err := config.ReadFile(cfg.File(name))
	if err != nil {
		return jwt.Keys{}, fmt.Errorf("%w%s", err, config.OwnerOf(err))
	}
	keys, err := parse(raw, c.Algorithms)
	if err != nil {
		err = fmt.Errorf("%s %w", name, err)
	}
	return keys, err
}
