package hashing

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/text/unicode/norm"
)

// maxBcryptCost bounds imported hashes: one of cost 14 takes a second to compare.
const maxBcryptCost = 14

// IsImported reports whether a stored form is a bcrypt hash from another server.
func IsImported(stored string) bool { return strings.HasPrefix(stored, "$2") }

// CheckImported checks a bcrypt hash from another server. The error is meant for the administrator who imports it.
func CheckImported(hash string) error {
	cost, err := bcrypt.Cost([]byte(hash))
	if err != nil || !IsImported(hash) || len(hash) != 60 {
		return errors.New("the hash is not one of bcrypt, such as $2b$12$… with 60 characters")
	}
	if cost > maxBcryptCost {
		return fmt.Errorf("the hash has the cost %d: comparing it would take too long; the most is %d", cost, maxBcryptCost)
	}
	return nil
}

// maxBcryptPassword is how much of a password bcrypt looks at, in bytes.
const maxBcryptPassword = 72

// matchesImported reports whether a password matches a bcrypt hash. Synapse hashes the NFKC form of a password and,
// like most programs, ignores what follows 72 bytes.
func matchesImported(password, hash string) (bool, error) {
	for _, form := range []string{password, norm.NFKC.String(password)} {
		err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(form[:min(len(form), maxBcryptPassword)]))
		if err == nil || !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
			return err == nil, err
		}
		if form == norm.NFKC.String(password) {
			break
		}
	}
	return false, nil
}
