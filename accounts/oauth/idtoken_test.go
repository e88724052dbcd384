package oauth

import (
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"ebb/secrets"
	"ebb/storage"
)

const openIDScope = "openid " + goodScope

// withSecrets gives the server a key file.
func withSecrets(t *testing.T) (*secrets.Ring, func(*Options)) {
	t.Helper()
	ring, err := secrets.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return ring, func(o *Options) { o.Secrets = ring }
}

// openID signs in with a scope that asks for an ID token.
func (l *lab) openID(nonce string) Grant {
	l.t.Helper()
	r, _, err := l.Authorize(ctx, request("client_id", l.client, "scope", openIDScope, "nonce", nonce))
	if err != nil {
		l.t.Fatal(err)
	}
	to, err := l.Approve(ctx, r, l.browser)
	if err != nil {
		l.t.Fatal(err)
	}
	g, err := l.exchange(parse(l.t, to).Get("code"))
	if err != nil {
		l.t.Fatal(err)
	}
	return g
}

// read checks an ID token as a client does, with the published keys.
func (l *lab) read(token string) (*idClaims, error) {
	l.t.Helper()
	keys, err := l.Keys(ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	claims := &idClaims{}
	_, err = jwt.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		for _, k := range keys {
			if k.ID != t.Header["kid"] {
				continue
			}
			n, err1 := base64.RawURLEncoding.DecodeString(k.Modulus)
			e, err2 := base64.RawURLEncoding.DecodeString(k.Exponent)
			return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, errors.Join(err1, err2)
		}
		return nil, errors.New("the key is not published")
	}, jwt.WithTimeFunc(l.now), jwt.WithIssuer(l.opts.Issuer), jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired())
	return claims, err
}

func TestIDTokenNamesUserClientAndNonce(t *testing.T) {
	_, option := withSecrets(t)
	each(t, func(t *testing.T, l *lab) {
		g := l.openID("the nonce")
		c, err := l.read(g.IDToken)
		if err != nil || c.Subject != "@alice:here" || c.Audience != l.client || c.Nonce != "the nonce" || !c.ExpiresAt.Time.Equal(l.now().Add(idLifetime)) || g.Scope != openIDScope {
			t.Errorf("%+v, %q, %v", c, g.Scope, err)
		}
		l.advance(idLifetime + time.Minute)
		if _, err := l.read(g.IDToken); !errors.Is(err, jwt.ErrTokenExpired) {
			t.Errorf("after its lifetime: %v", err)
		}
		if plain := l.signIn(); plain.IDToken != "" {
			t.Error("a client that did not ask for an ID token gets one")
		}
		if _, _, err := l.Authorize(ctx, request("client_id", l.client, "nonce", strings.Repeat("n", maxNonce+1))); codeOf(err) != errRequest {
			t.Errorf("a long nonce: %v", err)
		}
	}, option)
}

func TestDeviceGrantGivesAnIDToken(t *testing.T) {
	_, option := withSecrets(t)
	each(t, func(t *testing.T, l *lab) {
		l.client = l.register(obj{"grant_types": []string{GrantDevice}, "client_name": "Television"})
		d, err := l.StartDevice(ctx, l.client, openIDScope, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.DecideDevice(ctx, d.UserCode, l.browser, "home", true); err != nil {
			t.Fatal(err)
		}
		g, err := l.polls(d, firstPause)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := l.read(g.IDToken); err != nil || c.Nonce != "" {
			t.Errorf("%+v, %v", c, err)
		}
	}, option)
}

func TestIDTokensOutliveTheRotationOfTheirKey(t *testing.T) {
	ring, option := withSecrets(t)
	each(t, func(t *testing.T, l *lab) {
		old := l.openID("")
		if err := ring.Rotate(); err != nil {
			t.Fatal(err)
		}
		fresh := l.openID("")
		if kid(t, old.IDToken) == kid(t, fresh.IDToken) {
			t.Error("the key that signs is the same after a rotation")
		}
		for _, token := range []string{old.IDToken, fresh.IDToken, l.openID("").IDToken} {
			if _, err := l.read(token); err != nil {
				t.Error(err)
			}
		}
		if keys, err := l.Keys(ctx); err != nil || len(keys) != 2 || keys[0].ID != kid(t, fresh.IDToken) {
			t.Errorf("%+v, %v", keys, err)
		}
		l.privateParts(1)
		l.advance(idKeyKept)
		if err := l.Tidy(ctx); err != nil {
			t.Fatal(err)
		}
		if keys, err := l.Keys(ctx); err != nil || len(keys) != 1 || keys[0].ID != kid(t, fresh.IDToken) {
			t.Errorf("when no token of the old key is valid: %+v, %v", keys, err)
		}
	}, option)
}

// privateParts checks how many private keys are stored, none of them in clear text.
func (l *lab) privateParts(want int) {
	l.t.Helper()
	n := 0
	l.write(func(tx *storage.Tx) error {
		rows, err := tx.OAuthKeys(maxJWKs)
		for _, row := range rows {
			if row.Private != "" {
				n++
			}
			if raw, err := base64.StdEncoding.DecodeString(row.Private); err == nil && len(raw) > 0 {
				l.t.Error("a private key is not encrypted")
			}
		}
		return err
	})
	if n != want {
		l.t.Errorf("%d private keys are stored, not %d", n, want)
	}
}

func kid(t *testing.T, token string) string {
	t.Helper()
	parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Header["kid"].(string)
}

func TestNewKeySignsIDTokensAfterTheKeyFileWasLost(t *testing.T) {
	_, option := withSecrets(t)
	each(t, func(t *testing.T, l *lab) {
		l.openID("")
		ring, _ := withSecrets(t)
		l.opts.Secrets = ring
		if _, err := l.read(l.openID("").IDToken); err != nil {
			t.Error(err)
		}
		l.privateParts(1)
	}, option)
}

func TestFirstSignInsAtOnceShareOneKey(t *testing.T) {
	_, option := withSecrets(t)
	each(t, func(t *testing.T, l *lab) {
		grants, errs := at2(func() (Grant, error) { return l.openID(""), nil })
		if errs[0] != nil || errs[1] != nil || kid(t, grants[0].IDToken) != kid(t, grants[1].IDToken) {
			t.Errorf("%v", errs)
		}
		l.privateParts(1)
	}, option)
}
