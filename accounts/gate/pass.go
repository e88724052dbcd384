package gate

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"time"

	"ebb/ident"
	"ebb/storage"
)

// Pass is an attempt that Admit has accepted. It is valid within the write in which it was created.
type Pass struct {
	tx      *storage.Tx
	at      Attempt
	account storage.AccountRow
}

// errNoPass means that code tried to create tokens without Admit, or on a path that creates none.
var errNoPass = errors.New("gate: no tokens without a pass")

// Account returns the account as Admit read it.
func (p Pass) Account() storage.AccountRow { return p.account }

// Attempt returns the attempt that was accepted.
func (p Pass) Attempt() Attempt { return p.at }

// Tokens are the tokens of a session.
type Tokens struct {
	Access    string
	Refresh   string        // "" if the client does not refresh its tokens
	ExpiresIn time.Duration // lifetime of the access token; 0 if it does not expire
}

// TokenOptions determines which tokens a session gets.
type TokenOptions struct {
	Lifetime time.Duration // lifetime of the access token; 0 if it does not expire
	Refresh  bool          // whether the session gets a refresh token
	Family   string        // beginning of the refresh token, by which it is known when it is no longer stored
	Unused   bool          // whether the tokens come from a refresh; the previous ones then remain valid until one of these is used
}

// Tokens creates the tokens of a device. Unless the session is continued, it also records the evidence with which the
// user has logged in.
func (p Pass) Tokens(device ident.DeviceNID, o TokenOptions) (Tokens, error) {
	if !rules[p.at.Path].tokens {
		return Tokens{}, errNoPass
	}
	t := Tokens{Access: Secret("ebb_a_", 32), ExpiresIn: o.Lifetime}
	if o.Refresh {
		t.Refresh = Secret("ebb_r_"+o.Family, 32)
		if err := p.tx.AddRefreshToken(KeyOf(t.Refresh).String(), p.account.NID, device, o.Unused); err != nil {
			return t, err
		}
	}
	if !rules[p.at.Path].continues {
		if err := p.tx.EndSignUp(p.account.NID); err != nil {
			return t, err
		}
		if err := p.tx.SetSession(device, string(p.at.Path), int64(p.at.Shown), p.at.Upstream); err != nil {
			return t, err
		}
	}
	return t, p.tx.AddAccessToken(KeyOf(t.Access).String(), p.account.NID, device, p.expires(o.Lifetime), o.Unused)
}

// LoginToken creates a token with which another client can log in once. The session of that client gets the evidence of
// this attempt.
func (p Pass) LoginToken(lifetime time.Duration) (string, error) {
	if !rules[p.at.Path].handsOver {
		return "", errNoPass
	}
	token := Secret("ebb_l_", 32)
	return token, p.tx.AddLoginToken(KeyOf(token).String(), storage.LoginToken{User: p.account.NID, Evidence: int64(p.at.Shown), Upstream: p.at.Upstream}, p.expires(lifetime))
}

// expires returns the end of a lifetime in ms, or 0 if there is none.
func (p Pass) expires(lifetime time.Duration) int64 {
	if lifetime == 0 {
		return 0
	}
	return p.tx.Now().Add(lifetime).UnixMilli()
}

// Strengthen adds evidence to a session whose user has enrolled or used another factor.
func Strengthen(tx *storage.Tx, device ident.DeviceNID, shown Evidence) error {
	return tx.AddEvidence(device, int64(shown))
}

// Secret returns a random token with n bytes of entropy and a prefix that shows its kind.
func Secret(prefix string, n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return prefix + base64.RawURLEncoding.EncodeToString(b)
}

// TokenKey identifies a token in memory and in the database; the token itself is not stored.
type TokenKey [sha256.Size]byte

// KeyOf returns the key of a token.
func KeyOf(token string) TokenKey { return sha256.Sum256([]byte(token)) }

// String returns the form stored in the database.
func (k TokenKey) String() string { return base64.RawURLEncoding.EncodeToString(k[:]) }
