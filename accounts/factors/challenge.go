package factors

import (
	"context"
	"strconv"
	"time"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Kinds of challenges. A challenge cannot be used as one of another kind.
const (
	kindTOTP     = "totp"     // a new secret, until its first code
	kindRegister = "register" // a new passkey
	kindSecond   = "second"   // a passkey as the second factor of a known user
	kindSignIn   = "sign in"  // a passkey of a user who is not known yet
)

// Bounds of challenges.
const (
	maxChallengesEach    = 20     // of one user or network; the oldest is dropped
	maxChallengesUnknown = 10_000 // of users who are not known yet, about 1 KiB each
	passkeyLifetime      = 5 * time.Minute
	totpLifetime         = 15 * time.Minute // to install an app
)

// begin stores a challenge and returns its ID, which is required to complete it. Challenges count by user, or by
// network if the user is not known yet.
func begin(tx *storage.Tx, kind string, user ident.UserNID, network, data string, lifetime time.Duration) (string, error) {
	token := gate.Secret("ebb_c_", 24)
	owner := "factors of network " + network
	if user != 0 {
		owner = "factors of user " + strconv.FormatInt(int64(user), 10)
	}
	return token, tx.AddFactorChallenge(storage.FactorChallenge{
		Hash: hashOf(token), Kind: kind, User: user, Owner: tx.IDHash(owner), Data: data, ExpiresTS: tx.Now().Add(lifetime).UnixMilli(),
	}, maxChallengesEach, maxChallengesUnknown)
}

func errNoChallenge() error {
	return mxerr.Forbidden("This attempt has ended, because it took too long or was completed in another window: start again")
}

// challenge returns a challenge that has neither expired nor been completed.
//
// Errors: M_FORBIDDEN.
func challenge(tx *storage.Tx, id, kind string, user ident.UserNID) (storage.FactorChallenge, error) {
	c, found, err := tx.FactorChallenge(hashOf(id))
	if err == nil && (!found || c.Kind != kind || c.User != user) {
		err = errNoChallenge()
	}
	return c, err
}

// complete uses up a challenge.
//
// Errors: M_FORBIDDEN.
func complete(tx *storage.Tx, c storage.FactorChallenge) error {
	taken, err := tx.TakeFactorChallenge(c.Hash)
	if err == nil && !taken {
		err = errNoChallenge()
	}
	return err
}

func (s *Service) read(ctx context.Context, f func(*storage.Tx) error) error {
	return s.opts.DB.Read(ctx, f)
}
