// Package hashing hashes passwords with argon2id and compares them with stored hashes. Processes does so outside the
// server's own process.
package hashing

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Cost parameters of argon2id, the second set that OWASP recommends. Hashing takes about 24 ms on the reference
// machine.
const (
	hashTime    = 2
	hashMemory  = 19 << 10 // KiB
	hashThreads = 1
	hashLength  = 32 // bytes
	saltLength  = 16 // bytes
)

// Hash returns the stored form of a password.
func Hash(password string) string {
	salt := make([]byte, saltLength)
	_, _ = rand.Read(salt) // never fails (crypto/rand)
	return encode(salt, argon2.IDKey([]byte(password), salt, hashTime, hashMemory, hashThreads, hashLength))
}

// Nobodys returns a stored form that no known password matches. Comparing with it costs the same as with any other.
func Nobodys() string { return encode(make([]byte, saltLength), make([]byte, hashLength)) }

func encode(salt, sum []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, hashMemory, hashTime, hashThreads,
		b64.EncodeToString(salt), b64.EncodeToString(sum))
}

// Matches reports whether a password matches a stored form, which Hash has returned or which was imported.
func Matches(password, stored string) (bool, error) {
	if IsImported(stored) {
		return matchesImported(password, stored)
	}
	p, err := parse(stored)
	if err != nil {
		return false, err
	}
	sum := argon2.IDKey([]byte(password), p.salt, p.time, p.memory, p.threads, uint32(len(p.sum)))
	return subtle.ConstantTimeCompare(sum, p.sum) == 1, nil
}

// parts is a parsed stored form. It includes the cost, which newer versions may change.
type parts struct {
	time, memory uint32
	threads      uint8
	salt, sum    []byte
}

var errForm = errors.New("a stored password has an unknown form")

func parse(stored string) (p parts, err error) {
	fields := strings.Split(stored, "$")
	if len(fields) != 6 || fields[1] != "argon2id" || fields[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, errForm
	}
	if _, err := fmt.Sscanf(fields[3], "m=%d,t=%d,p=%d", &p.memory, &p.time, &p.threads); err != nil {
		return p, errForm
	}
	if p.salt, err = base64.RawStdEncoding.DecodeString(fields[4]); err != nil {
		return p, errForm
	}
	if p.sum, err = base64.RawStdEncoding.DecodeString(fields[5]); err != nil || len(p.sum) < 16 {
		return p, errForm
	}
	return p, nil
}
