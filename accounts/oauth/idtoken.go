package oauth

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"ebb/accounts"
	"ebb/accounts/gate"
	"ebb/storage"
)

// Sealer encrypts secrets under a key that is not in the database. A sealed text opens only for the row that it was
// sealed for.
type Sealer interface {
	Seal(row string, plain []byte) (string, error)
	Open(row, sealed string) ([]byte, error)
	Stale(sealed string) bool // whether the text was sealed under a former key
}

const (
	idLifetime  = time.Hour     // of ID tokens; clients read them once, when they get them
	idKeyKept   = 2 * time.Hour // how long a replaced key is published: the lifetime, and clocks that are slow
	rsaBits     = 2048          // RS256 is the only algorithm that all clients know
	maxJWKs     = 20            // published keys; one more after each rotation within idKeyKept
	keyIDLength = 16            // bytes
	rowOfKey    = "oauth key:"  // before the ID, for Sealer
	algorithm   = "RS256"
)

// signer is the current key that signs ID tokens.
type signer struct {
	id  string
	key *rsa.PrivateKey
}

// idClaims are the claims of an ID token.
// See https://openid.net/specs/openid-connect-core-1_0.html#IDToken.
type idClaims struct {
	jwt.RegisteredClaims
	Audience        string `json:"aud"` // the client; not as a list, which matrix-js-sdk 34 refuses
	Nonce           string `json:"nonce,omitempty"`
	AccessTokenHash string `json:"at_hash"`
}

// wantsIDToken reports whether a granted scope asks for an ID token. Matrix does not need one, but matrix-js-sdk before
// version 42 asks for it, and older versions refuse to sign in without it.
func wantsIDToken(scope string) bool { return slices.Contains(strings.Fields(scope), scopeOpenID) }

// idToken returns the ID token for a session that has begun.
func (s *Service) idToken(k *signer, client, nonce string, in accounts.SignedIn) (string, error) {
	now := s.opts.Now()
	hash := sha256.Sum256([]byte(in.Access))
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, idClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: s.opts.Issuer, Subject: string(in.User),
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(idLifetime)),
		},
		Audience: client, Nonce: nonce, AccessTokenHash: base64.RawURLEncoding.EncodeToString(hash[:len(hash)/2]),
	})
	t.Header["kid"] = k.id
	signed, err := t.SignedString(k.key)
	if err != nil {
		return "", fmt.Errorf("sign an ID token: %w", err)
	}
	return signed, nil
}

// errNoSealer means that the server has no key file, under which the keys of ID tokens could be stored.
var errNoSealer = errors.New("oauth: no key for secrets")

// signer returns the current key. The first call makes it. A new one is made if the key of the secrets has changed (ebb
// keys rotate), or if the stored key cannot be read because that key was lost.
func (s *Service) signer(ctx context.Context) (*signer, error) {
	if s.opts.Secrets == nil {
		return nil, errNoSealer
	}
	for range 2 { // a new key is read back, because another request or node may have made one first
		rows, err := s.keyRows(ctx)
		if err != nil {
			return nil, err
		}
		old := ""
		if len(rows) > 0 && rows[0].ReplacedTS == 0 {
			if k := s.openKey(ctx, rows[0]); k != nil {
				return k, nil
			}
			old = rows[0].ID
		}
		_, err, _ = s.making.Do(old, func() (any, error) { return nil, s.makeKey(context.WithoutCancel(ctx), old) })
		if err != nil {
			return nil, err
		}
	}
	return nil, errors.New("oauth: the new key for ID tokens cannot be read")
}

func (s *Service) keyRows(ctx context.Context) (rows []storage.OAuthKey, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.OAuthKeys(maxJWKs)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the keys of ID tokens: %w", err)
	}
	return rows, nil
}

// openKey decrypts a key, unless it must be replaced. The last one is kept in memory.
func (s *Service) openKey(ctx context.Context, row storage.OAuthKey) *signer {
	if s.opts.Secrets.Stale(row.Private) {
		return nil
	}
	if k := s.current.Load(); k != nil && k.id == row.ID {
		return k
	}
	der, err := s.opts.Secrets.Open(rowOfKey+row.ID, row.Private)
	if err == nil {
		var key any
		if key, err = x509.ParsePKCS8PrivateKey(der); err == nil {
			if private, ok := key.(*rsa.PrivateKey); ok {
				k := &signer{row.ID, private}
				s.current.Store(k)
				return k
			}
		}
	}
	s.opts.Log.ErrorContext(ctx, "Cannot read the key that signs ID tokens: a new one is made", "key_id", row.ID, "err", err)
	return nil
}

// makeKey makes a new key, and deletes the private part of the key with the ID old.
func (s *Service) makeKey(ctx context.Context, old string) error {
	key, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	k := storage.OAuthKey{ID: gate.Secret("", keyIDLength), Public: base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&key.PublicKey))}
	if k.Private, err = s.opts.Secrets.Seal(rowOfKey+k.ID, private); err != nil {
		return err
	}
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := tx.RetireOAuthKey(old); err != nil {
			return err
		}
		return tx.AddOAuthKey(k)
	})
	if err != nil {
		return fmt.Errorf("store a key for ID tokens: %w", err)
	}
	return nil
}

// JWK is a public key of the signatures of ID tokens (RFC 7517).
type JWK struct {
	Type      string `json:"kty"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	ID        string `json:"kid"`
	Modulus   string `json:"n"`
	Exponent  string `json:"e"`
}

// Keys returns the public keys with which ID tokens that may still be valid are signed, the current one first.
func (s *Service) Keys(ctx context.Context) ([]JWK, error) {
	if _, err := s.signer(ctx); err != nil {
		return nil, err
	}
	rows, err := s.keyRows(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]JWK, 0, len(rows))
	for _, row := range rows {
		der, err := base64.StdEncoding.DecodeString(row.Public)
		if err != nil {
			return nil, err
		}
		key, err := x509.ParsePKCS1PublicKey(der)
		if err != nil {
			return nil, err
		}
		list = append(list, JWK{"RSA", "sig", algorithm, row.ID,
			base64.RawURLEncoding.EncodeToString(key.N.Bytes()), base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes())})
	}
	return list, nil
}
