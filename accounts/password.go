package accounts

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"ebb/accounts/passwords"
	"ebb/mxerr"
	"ebb/processors"
	"ebb/storage"
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

// maxPassword is the maximum length of a password in bytes. It is far longer than any passphrase.
const maxPassword = 512

// maxWaiting bounds the requests that wait for a worker, about 16 KiB each. Beyond it, requests are rate-limited. It is
// enough for a company whose employees all sign in at once, and the last of them waits less than the minute after which
// reverse proxies give up.
const maxWaiting = 2000

// hasher hashes a few passwords at a time, so that many simultaneous logins leave processors and memory for everything
// else.
type hasher struct {
	waiting chan struct{} // a slot for each request that is being hashed or waits
	working chan struct{} // a slot for each worker
	dummy   string        // hash to compare with if there is no password, at the same cost

	raise func(more int) (release func()) // processors.Raise
}

func newHasher(workers int) *hasher {
	h := &hasher{waiting: make(chan struct{}, workers+maxWaiting), working: make(chan struct{}, workers), raise: processors.Raise}
	h.dummy = encodeHash(make([]byte, saltLength), make([]byte, hashLength))
	return h
}

// work runs f on a worker.
//
// Errors: M_LIMIT_EXCEEDED.
func (h *hasher) work(ctx context.Context, f func()) error {
	select {
	case h.waiting <- struct{}{}:
		defer func() { <-h.waiting }()
	default:
		return mxerr.LimitExceeded(5 * time.Second)
	}
	select {
	case h.working <- struct{}{}:
	default:
		defer h.raise(cap(h.working) + 1)() // one for each worker, and one for a commit
		select {
		case h.working <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer func() { <-h.working }()
	f()
	return nil
}

// hash returns the stored form of a password.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, saltLength)
	_, _ = rand.Read(salt) // never fails (crypto/rand)
	var sum []byte
	err := h.work(ctx, func() {
		sum = argon2.IDKey([]byte(password), salt, hashTime, hashMemory, hashThreads, hashLength)
	})
	return encodeHash(salt, sum), err
}

func encodeHash(salt, sum []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, hashMemory, hashTime, hashThreads,
		b64.EncodeToString(salt), b64.EncodeToString(sum))
}

// verify reports whether password matches a stored form. An empty or unusable form, as accounts without a password and
// unknown users have it, matches nothing but costs the same as any other.
func (h *hasher) verify(ctx context.Context, password, stored string) (bool, error) {
	nobody := stored == "" || stored == storage.UnusablePassword
	if nobody {
		stored = h.dummy
	}
	if len(password) > maxPassword {
		password = ""
	}
	if isImported(stored) {
		return h.verifyImported(ctx, password, stored)
	}
	p, err := parseHash(stored)
	if err != nil {
		return false, err
	}
	var sum []byte
	err = h.work(ctx, func() {
		sum = argon2.IDKey([]byte(password), p.salt, p.time, p.memory, p.threads, uint32(len(p.sum)))
	})
	same := subtle.ConstantTimeCompare(sum, p.sum) == 1
	return same && !nobody && password != "" && err == nil, err
}

// verifyImported reports whether a password matches a hash from another server.
func (h *hasher) verifyImported(ctx context.Context, password, stored string) (good bool, err error) {
	var failed error
	err = h.work(ctx, func() { good, failed = matchesImported(password, stored) })
	if err == nil {
		err = failed
	}
	return good && password != "" && err == nil, err
}

// hashParts is a parsed stored form. It includes the cost, which newer versions may change.
type hashParts struct {
	time, memory uint32
	threads      uint8
	salt, sum    []byte
}

var errHashForm = errors.New("a stored password has an unknown form")

func parseHash(stored string) (p hashParts, err error) {
	parts := strings.Split(stored, "$")
	if len(parts) != 6 || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, errHashForm
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.time, &p.threads); err != nil {
		return p, errHashForm
	}
	if p.salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil {
		return p, errHashForm
	}
	if p.sum, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(p.sum) < 16 {
		return p, errHashForm
	}
	return p, nil
}

// CheckPassword returns an error for text that cannot be a password, or that the server's rules do not allow. The name
// of its user, a user ID or a localpart, may be "". Passwords that are set already are not checked again.
//
// Errors: M_WEAK_PASSWORD, M_INVALID_PARAM.
func (s *Service) CheckPassword(password, user string) error {
	if err := checkPasswordText(password); err != nil {
		return err
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(user, "@"), ":")
	if why := s.opts.Passwords.Check(password, name, s.opts.Server); why != "" {
		return mxerr.New(400, mxerr.CodeWeakPassword, "%s", why)
	}
	return nil
}

// PasswordRules returns the server's rules for passwords.
func (s *Service) PasswordRules() passwords.Policy { return s.opts.Passwords }

// checkPasswordText returns an error for text that cannot be a password.
func checkPasswordText(password string) error {
	switch {
	case password == "":
		return mxerr.New(400, mxerr.CodeWeakPassword, "The password must not be empty")
	case len(password) > maxPassword:
		return mxerr.InvalidParam("The password must not be longer than %d bytes", maxPassword)
	case !utf8.ValidString(password) || strings.ContainsRune(password, 0):
		return mxerr.InvalidParam("The password must be valid UTF-8")
	}
	return nil
}
