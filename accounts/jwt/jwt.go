// Package jwt verifies JSON Web Tokens with which users log in (org.matrix.login.jwt). It only determines which user a
// token names; package accounts finds or creates the account, and accounts/gate decides whether it gets a session.
//
// The algorithms are pinned by the configuration, and the type of the key must fit the algorithm, so that a token can
// neither be unsigned nor use a public key as a secret.
package jwt

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// clockSkew is how far the clocks of the issuer and of this server may differ.
	clockSkew = 2 * time.Minute
	// maxToken is the maximum size of a token in bytes. Tokens of identity providers have a few thousand.
	maxToken = 16 << 10
)

// ErrInvalid means that a token is not acceptable. The error that wraps it says why.
var ErrInvalid = errors.New("the token is not valid")

// Options are the settings of a Verifier.
type Options struct {
	Algorithms   []string // the accepted algorithms
	Keys         Keys
	Issuer       string   // "" to accept every issuer
	Audiences    []string // the token must have one of them; empty to accept every audience
	Subject      string   // the claim with the user name
	DisplayName  string   // the claim with the display name, or ""
	SecondFactor SecondFactor
	Now          func() time.Time
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	opts   Options
	parser *jwt.Parser
}

// New returns a Verifier.
func New(o Options) *Verifier {
	if o.Now == nil {
		o.Now = time.Now
	}
	checks := []jwt.ParserOption{
		jwt.WithValidMethods(o.Algorithms), jwt.WithExpirationRequired(), jwt.WithLeeway(clockSkew), jwt.WithTimeFunc(o.Now), jwt.WithIssuedAt(), jwt.WithStrictDecoding(),
	}
	if o.Issuer != "" {
		checks = append(checks, jwt.WithIssuer(o.Issuer))
	}
	return &Verifier{opts: o, parser: jwt.NewParser(checks...)}
}

// Person is the user whom a token names.
type Person struct {
	Name        string // the user name
	DisplayName string // "" if the token has none
	TwoFactors  bool   // whether the issuer states that the user has presented two factors
}

// Verify verifies a token. The errors wrap ErrInvalid.
func (v *Verifier) Verify(token string) (Person, error) {
	if len(token) > maxToken {
		return Person{}, fmt.Errorf("%w: it is too long", ErrInvalid)
	}
	claims := jwt.MapClaims{}
	if _, err := v.parser.ParseWithClaims(token, claims, v.opts.Keys.of); err != nil {
		return Person{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	audiences, err := claims.GetAudience()
	if err != nil || len(v.opts.Audiences) > 0 && !slices.ContainsFunc(audiences, func(a string) bool { return slices.Contains(v.opts.Audiences, a) }) {
		return Person{}, fmt.Errorf("%w: it was issued for another audience", ErrInvalid)
	}
	p := Person{TwoFactors: v.opts.SecondFactor.Met(claims)}
	p.Name, _ = claims[v.opts.Subject].(string)
	if p.Name == "" {
		return Person{}, fmt.Errorf("%w: the claim %q is not a user name", ErrInvalid, v.opts.Subject)
	}
	if v.opts.DisplayName != "" {
		p.DisplayName, _ = claims[v.opts.DisplayName].(string)
	}
	return p, nil
}

// SecondFactor lists the values of claims that mean that a user has presented two factors.
type SecondFactor struct{ AMR, ACR []string }

// Met reports whether the claims of a token state that the user has presented two factors.
func (f SecondFactor) Met(claims map[string]any) bool {
	if acr, ok := claims["acr"].(string); ok && slices.Contains(f.ACR, acr) {
		return true
	}
	methods, _ := claims["amr"].([]any)
	return slices.ContainsFunc(methods, func(m any) bool {
		method, ok := m.(string)
		return ok && slices.Contains(f.AMR, method)
	})
}
