package accounts

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"ebb/accounts/hashing"
	"ebb/accounts/passwords"
	"ebb/mxerr"
	"ebb/storage"
)

// maxPassword is the maximum length of a password in bytes. It is far longer than any passphrase.
const maxPassword = 512

// maxWaiting bounds the requests that wait for a worker, about 16 KiB each. Beyond it, requests are rate-limited. It is
// enough for a company whose employees all sign in at once, and the last of them waits less than the minute after which
// reverse proxies give up.
const maxWaiting = 2000

// hasher hashes a few passwords at a time, in processes of their own, so that many simultaneous logins leave processors
// and memory for everything else.
type hasher struct {
	waiting chan struct{} // a slot for each request that is being hashed or waits
	working chan struct{} // a slot for each worker

	processes *hashing.Processes
}

func newHasher(workers int, processes *hashing.Processes) *hasher {
	return &hasher{waiting: make(chan struct{}, workers+maxWaiting), working: make(chan struct{}, workers), processes: processes}
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
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-h.working }()
	f()
	return nil
}

// hash returns the stored form of a password.
func (h *hasher) hash(ctx context.Context, password string) (stored string, err error) {
	err = h.work(ctx, func() { stored = h.processes.Hash(password) })
	return stored, err
}

// verify reports whether password matches a stored form. An empty or unusable form, as accounts without a password and
// unknown users have it, matches nothing but costs the same as any other.
func (h *hasher) verify(ctx context.Context, password, stored string) (good bool, err error) {
	nobody := stored == "" || stored == storage.UnusablePassword
	if nobody {
		stored = hashing.Nobodys()
	}
	if len(password) > maxPassword {
		password = ""
	}
	var failed error
	err = h.work(ctx, func() { good, failed = h.processes.Matches(password, stored) })
	if err == nil {
		err = failed
	}
	return good && !nobody && password != "" && err == nil, err
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
