package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

var now = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

const secret = "0123456789abcdef0123456789abcdef"

func sign(t *testing.T, method jwt.SigningMethod, key any, claims jwt.MapClaims, header ...string) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	for i := 0; i < len(header); i += 2 {
		token.Header[header[i]] = header[i+1]
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// valid returns claims that are accepted, with changes. A nil value removes a claim.
func valid(change jwt.MapClaims) jwt.MapClaims {
	c := jwt.MapClaims{"sub": "alice", "name": "Alice", "iss": "portal", "aud": []string{"mail", "chat"}, "exp": now.Add(time.Hour).Unix(), "iat": now.Unix(), "nbf": now.Unix()}
	for name, value := range change {
		if c[name] = value; value == nil {
			delete(c, name)
		}
	}
	return c
}

func verifier(keys Keys, algorithms ...string) *Verifier {
	return New(Options{Algorithms: algorithms, Keys: keys, Issuer: "portal", Audiences: []string{"chat", "talk"}, Subject: "sub", DisplayName: "name", Now: func() time.Time { return now }})
}

func TestOnlyValidClaimsAreAccepted(t *testing.T) {
	keys, err := Secret(secret, []string{"HS256"})
	if err != nil {
		t.Fatal(err)
	}
	v := verifier(keys, "HS256")
	for name, c := range map[string]struct {
		change jwt.MapClaims
		good   bool
	}{
		"as it is":                       {nil, true},
		"one audience":                   {jwt.MapClaims{"aud": "talk"}, true},
		"no display name":                {jwt.MapClaims{"name": nil}, true},
		"without iat and nbf":            {jwt.MapClaims{"iat": nil, "nbf": nil}, true},
		"expired 90 s ago":               {jwt.MapClaims{"exp": now.Add(-90 * time.Second).Unix()}, true}, // by clocks that differ
		"issued in 90 s":                 {jwt.MapClaims{"iat": now.Add(90 * time.Second).Unix(), "nbf": now.Add(90 * time.Second).Unix()}, true},
		"expired 3 minutes ago":          {jwt.MapClaims{"exp": now.Add(-3 * time.Minute).Unix()}, false},
		"valid in 3 minutes":             {jwt.MapClaims{"nbf": now.Add(3 * time.Minute).Unix()}, false},
		"issued in 3 minutes":            {jwt.MapClaims{"iat": now.Add(3 * time.Minute).Unix()}, false},
		"for ever":                       {jwt.MapClaims{"exp": nil}, false},
		"expiry that is no number":       {jwt.MapClaims{"exp": "tomorrow"}, false},
		"another issuer":                 {jwt.MapClaims{"iss": "portal2"}, false},
		"no issuer":                      {jwt.MapClaims{"iss": nil}, false},
		"another audience":               {jwt.MapClaims{"aud": []string{"mail"}}, false},
		"an audience with a longer name": {jwt.MapClaims{"aud": "chatter"}, false},
		"no audience":                    {jwt.MapClaims{"aud": nil}, false},
		"audience that is a number":      {jwt.MapClaims{"aud": 1}, false},
		"no subject":                     {jwt.MapClaims{"sub": nil}, false},
		"empty subject":                  {jwt.MapClaims{"sub": ""}, false},
		"subject that is a number":       {jwt.MapClaims{"sub": 7}, false},
	} {
		p, err := v.Verify(sign(t, jwt.SigningMethodHS256, []byte(secret), valid(c.change)))
		if (err == nil) != c.good || err == nil && p.Name != "alice" || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v %v", name, p, err)
		}
	}
}

func TestTheAlgorithmIsPinned(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	keys, err := PublicKey(public, []string{"RS256", "PS256"})
	if err != nil {
		t.Fatal(err)
	}
	bare := func(alg string) string { // unsigned
		head, body := `{"alg":"`+alg+`","typ":"JWT"}`, `{"sub":"alice","iss":"portal","aud":"chat","exp":4102444800}`
		return base64.RawURLEncoding.EncodeToString([]byte(head)) + "." + base64.RawURLEncoding.EncodeToString([]byte(body)) + "."
	}
	good := sign(t, jwt.SigningMethodRS256, rsaKey, valid(nil))
	v := verifier(keys, "RS256")
	for name, c := range map[string]struct {
		token string
		good  bool
	}{
		"as configured":                      {good, true},
		"another algorithm of the same key":  {sign(t, jwt.SigningMethodPS256, rsaKey, valid(nil)), false},
		"a longer hash":                      {sign(t, jwt.SigningMethodRS512, rsaKey, valid(nil)), false},
		"none":                               {sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, valid(nil)), false},
		"none, unsigned":                     {bare("none"), false},
		"None":                               {bare("None"), false},
		"RS256, unsigned":                    {bare("RS256"), false},
		"the public key as a secret":         {sign(t, jwt.SigningMethodHS256, public, valid(nil)), false},
		"the bytes of the key as a secret":   {sign(t, jwt.SigningMethodHS256, der, valid(nil)), false},
		"a changed signature":                {good[:len(good)-4] + "AAAA", false},
		"no signature":                       {good[:strings.LastIndexByte(good, '.')+1], false},
		"four parts":                         {good + ".x", false},
		"nothing":                            {"", false},
		"a key of its own (jwk in a header)": {sign(t, jwt.SigningMethodRS256, otherKey(t), valid(nil), "jwk", "{}", "jku", "https://evil.example"), false},
		"megabytes":                          {strings.Repeat("x", 1<<20), false},
	} {
		if _, err := v.Verify(c.token); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	keys, err = Secret(secret, []string{"HS256"})
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"RS256": good, "HS384": sign(t, jwt.SigningMethodHS384, []byte(secret), valid(nil)), "an empty secret": sign(t, jwt.SigningMethodHS256, []byte{}, valid(nil))} {
		if _, err := verifier(keys, "HS256").Verify(token); err == nil {
			t.Errorf("%s is accepted where HS256 is pinned", name)
		}
	}
}

func otherKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeySetsAreUsedByTheirIDs(t *testing.T) {
	one, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	two, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set := func(keys ...jose.JSONWebKey) []byte {
		raw, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	jwk := func(id, use string, key any) jose.JSONWebKey {
		return jose.JSONWebKey{KeyID: id, Use: use, Algorithm: "ES256", Key: key}
	}
	keys, err := KeySet(set(jwk("1", "sig", one.Public()), jwk("2", "enc", two.Public())), []string{"ES256"})
	if err != nil {
		t.Fatal(err)
	}
	v := verifier(keys, "ES256")
	for name, c := range map[string]struct {
		key  *ecdsa.PrivateKey
		kid  string
		good bool
	}{"its ID": {one, "1", true}, "another ID": {one, "3", false}, "a key for encryption": {two, "2", false}, "another key": {two, "1", false}} {
		if _, err := v.Verify(sign(t, jwt.SigningMethodES256, c.key, valid(nil), "kid", c.kid)); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := v.Verify(sign(t, jwt.SigningMethodES256, one, valid(nil))); err != nil {
		t.Errorf("without an ID: %v", err)
	}
	for name, raw := range map[string][]byte{
		"a private key": set(jwk("1", "sig", one)), "a secret": set(jose.JSONWebKey{Key: []byte(secret), Algorithm: "HS256"}),
		"none": set(), "only one for encryption": set(jwk("2", "enc", two.Public())), "no JSON": []byte("x"),
	} {
		if _, err := KeySet(raw, []string{"ES256"}); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestKeysMustFitTheAlgorithm(t *testing.T) {
	encode := func(kind string, key crypto.PublicKey) []byte {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name       string
		file       []byte
		algorithms []string
		good       bool
	}{
		{"Ed25519", encode("PUBLIC KEY", ed), []string{"EdDSA"}, true},
		{"P-384", encode("PUBLIC KEY", p384.Public()), []string{"ES384"}, true},
		{"another curve", encode("PUBLIC KEY", p384.Public()), []string{"ES256"}, false},
		{"RSA wanted", encode("PUBLIC KEY", ed), []string{"RS256"}, false},
		{"one of two", encode("PUBLIC KEY", ed), []string{"EdDSA", "ES256"}, false},
		{"a private key", encode("PRIVATE KEY", ed), []string{"EdDSA"}, false},
		{"no PEM", []byte("hello"), []string{"EdDSA"}, false},
	} {
		if _, err := PublicKey(c.file, c.algorithms); (err == nil) != c.good {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for secret, good := range map[string]bool{strings.Repeat("x", 31): false, strings.Repeat("x", 32): true} {
		if _, err := Secret(secret, []string{"HS256"}); (err == nil) != good {
			t.Errorf("a secret of %d bytes: %v", len(secret), err)
		}
	}
	if _, err := Secret(strings.Repeat("x", 32), []string{"HS256", "HS512"}); err == nil {
		t.Error("a secret that is too short for one of the algorithms")
	}
}

func TestTwoFactorsAreStatedByListedValues(t *testing.T) {
	f := SecondFactor{AMR: []string{"mfa", "hwk"}, ACR: []string{"2"}}
	for _, c := range []struct {
		claims map[string]any
		met    bool
	}{
		{nil, false}, {map[string]any{"amr": []any{"pwd", "otp"}}, false}, {map[string]any{"amr": []any{"pwd", "mfa"}}, true}, {map[string]any{"amr": "mfa"}, false},
		{map[string]any{"amr": []any{1, nil}}, false}, {map[string]any{"acr": "2"}, true}, {map[string]any{"acr": 2.0}, false}, {map[string]any{"acr": "20"}, false},
	} {
		if f.Met(c.claims) != c.met {
			t.Errorf("%v", c.claims)
		}
	}
	if (SecondFactor{}).Met(map[string]any{"acr": "", "amr": []any{""}}) {
		t.Error("nothing is listed")
	}
}
