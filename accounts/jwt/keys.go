package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

// Keys are the keys with which tokens are verified: either a secret or public keys.
type Keys struct {
	secret []byte
	public []publicKey
}

// publicKey is a public key of an issuer.
type publicKey struct {
	id        string // "" if it has none
	algorithm string // the only algorithm that it is for; "" if it does not say
	key       crypto.PublicKey
}

// minRSA is the minimum length of an RSA key in bits.
// Spec: RFC 7518, 3.3
const minRSA = 2048

// Secret returns Keys that consist of a secret. The secret must be at least as long as the output of the longest hash
// that the given algorithms use.
// Spec: RFC 7518, 3.2
func Secret(text string, algorithms []string) (Keys, error) {
	least := 0
	for _, name := range algorithms {
		least = max(least, map[string]int{"HS256": 32, "HS384": 48, "HS512": 64}[name])
	}
	if len(text) < least {
		return Keys{}, fmt.Errorf("has %d bytes, but must have at least %d for %s", len(text), least, strings.Join(algorithms, ", "))
	}
	return Keys{secret: []byte(text)}, nil
}

// PublicKey returns the public key that a PEM file contains, by itself or in a certificate. The key must fit each of
// the given algorithms.
func PublicKey(file []byte, algorithms []string) (Keys, error) {
	block, _ := pem.Decode(file)
	if block == nil {
		return Keys{}, errors.New("is not a PEM file")
	}
	var key crypto.PublicKey
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var c *x509.Certificate
		if c, err = x509.ParseCertificate(block.Bytes); err == nil {
			key = c.PublicKey
		}
	default:
		err = fmt.Errorf("has a %s, not a public key or a certificate", strings.ToLower(block.Type))
	}
	if err != nil {
		return Keys{}, err
	}
	for _, name := range algorithms {
		if err := fits(key, name); err != nil {
			return Keys{}, err
		}
	}
	return Keys{public: []publicKey{{key: key}}}, nil
}

// KeySet returns the public keys in a JSON Web Key Set. Each of the given algorithms must have a key in it.
func KeySet(file []byte, algorithms []string) (Keys, error) {
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(file, &set); err != nil {
		return Keys{}, fmt.Errorf("is not a JSON Web Key Set: %w", err)
	}
	var k Keys
	for _, one := range set.Keys {
		switch {
		case !one.IsPublic():
			return Keys{}, fmt.Errorf("has the secret or private key %q: keep only public keys in it", one.KeyID)
		case one.Use == "" || one.Use == "sig":
			k.public = append(k.public, publicKey{id: one.KeyID, algorithm: one.Algorithm, key: one.Key})
		}
	}
	for _, name := range algorithms {
		if len(k.find(name, "")) == 0 {
			return Keys{}, fmt.Errorf("has no key for %s", name)
		}
	}
	return k, nil
}

// fits returns an error unless a public key can be used with an algorithm.
func fits(key crypto.PublicKey, algorithm string) error {
	ok := false
	switch k := key.(type) {
	case *rsa.PublicKey:
		if ok = strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS"); ok && k.N.BitLen() < minRSA {
			return fmt.Errorf("has an RSA key of %d bits, but it must have at least %d", k.N.BitLen(), minRSA)
		}
	case *ecdsa.PublicKey:
		ok = map[string]int{"ES256": 256, "ES384": 384, "ES512": 521}[algorithm] == k.Curve.Params().BitSize
	case ed25519.PublicKey:
		ok = algorithm == "EdDSA"
	}
	if !ok {
		return fmt.Errorf("has a key that cannot be used with %s", algorithm)
	}
	return nil
}

// find returns the public keys for an algorithm. If id is not "", only keys with that ID, or without one, are returned.
func (k Keys) find(algorithm, id string) (found []jwt.VerificationKey) {
	for _, p := range k.public {
		if (p.algorithm == "" || p.algorithm == algorithm) && (id == "" || p.id == "" || p.id == id) && fits(p.key, algorithm) == nil {
			found = append(found, p.key)
		}
	}
	return found
}

// maxKeys bounds the public keys that are tried for one token.
const maxKeys = 8

// of returns the keys with which the signature of a token may be verified.
func (k Keys) of(t *jwt.Token) (any, error) {
	if strings.HasPrefix(t.Method.Alg(), "HS") {
		if k.secret == nil {
			return nil, errors.New("there is no secret")
		}
		return k.secret, nil
	}
	id, _ := t.Header["kid"].(string)
	found := k.find(t.Method.Alg(), id)
	if len(found) == 0 {
		return nil, fmt.Errorf("there is no key %.64q for %s", id, t.Method.Alg())
	}
	return jwt.VerificationKeySet{Keys: found[:min(len(found), maxKeys)]}, nil
}
