package factors

import (
	"context"
	"crypto/rand"
	"strconv"
	"strings"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Recovery codes.
const (
	recoveryCodes = 10
	// codeLetters contains no letters that look alike (Crockford's base32).
	codeLetters = "0123456789abcdefghjkmnpqrstvwxyz"
	codeLength  = 16 // 80 bits: too many to try, so that a fast hash is enough
	codeGroup   = 4
)

// misread replaces letters by those in codeLetters that they look like, and removes separators.
var misread = strings.NewReplacer("o", "0", "i", "1", "l", "1", "-", "", " ", "", "\u00a0", "", "\t", "", "\r", "", "\n", "")

// newCode returns a recovery code such as 7k2m-x0q4-9h3c-bt5z.
func newCode() string {
	b := make([]byte, codeLength)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	var code strings.Builder
	for i, c := range b {
		if i > 0 && i%codeGroup == 0 {
			code.WriteByte('-')
		}
		code.WriteByte(codeLetters[c%byte(len(codeLetters))])
	}
	return code.String()
}

// hashCode returns the stored form of a recovery code.
func hashCode(user ident.UserNID, code string) string {
	return hashOf("recovery code " + strconv.FormatInt(int64(user), 10) + " " + misread.Replace(strings.ToLower(code)))
}

// makeCodes replaces the recovery codes of a user.
func (s *Service) makeCodes(ctx context.Context, tx *storage.Tx, user ident.UserNID) ([]string, error) {
	codes, hashes := make([]string, recoveryCodes), make([]string, recoveryCodes)
	for i := range codes {
		codes[i] = newCode()
		hashes[i] = hashCode(user, codes[i])
	}
	if err := tx.SetRecoveryCodes(user, hashes); err != nil {
		return nil, err
	}
	return codes, s.record(ctx, tx, Act{Kind: CodesMade, User: user, Factor: gate.RecoveryCode})
}

// NewRecoveryCodes replaces the recovery codes of an account and returns the new ones, which cannot be retrieved again.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED.
func (s *Service) NewRecoveryCodes(ctx context.Context, g Grant) (codes []string, err error) {
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if _, err := s.mayChange(tx, g); err != nil {
			return err
		}
		has, err := Enrolment{}.Enrolled(tx, g.User)
		switch {
		case err != nil:
			return err
		case has == 0:
			return mxerr.Forbidden("Set up a second factor first: recovery codes stand in for one that is lost")
		}
		if err := endOthers(tx, g); err != nil {
			return err
		}
		codes, err = s.makeCodes(ctx, tx, g.User)
		return err
	})
	return codes, err
}

// CheckRecoveryCode checks a recovery code, which cannot be used again.
//
// Errors: M_FORBIDDEN, M_LIMIT_EXCEEDED.
func (s *Service) CheckRecoveryCode(ctx context.Context, user ident.UserNID, network, code string) (gate.Evidence, error) {
	return s.guess(ctx, gate.RecoveryCode, user, network, "wrong recovery code", func() (gate.Evidence, error) {
		return gate.RecoveryCode, s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
			taken, err := tx.TakeRecoveryCode(user, hashCode(user, code))
			switch {
			case err != nil:
				return err
			case !taken:
				return mxerr.Forbidden("The recovery code is wrong, was used already or was replaced by newer ones")
			}
			return s.record(ctx, tx, Act{Kind: CodeUsed, User: user, Factor: gate.RecoveryCode})
		})
	})
}
