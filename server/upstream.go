package server

import (
	"fmt"
	"os"
	"time"

	"ebb/accounts"
	"ebb/accounts/jwt"
	"ebb/accounts/ldap"
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
	return u, mistakes
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
	raw, err := os.ReadFile(cfg.File(name))
	if err != nil {
		return jwt.Keys{}, fmt.Errorf("%w%s", err, config.OwnerOf(err))
	}
	keys, err := parse(raw, c.Algorithms)
	if err != nil {
		err = fmt.Errorf("%s %w", name, err)
	}
	return keys, err
}
