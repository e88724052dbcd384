package factors

import (
	"context"
	"crypto/subtle"
	"encoding/base32"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
	"github.com/pquerna/otp/totp"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// The parameters of one-time codes. Some authenticator apps support no others.
const (
	totpPeriod  = 30 // seconds
	totpSecret  = 20 // bytes, as RFC 4226 recommends for SHA-1
	totpDigits  = otp.DigitsSix
	totpWindow  = 1  // steps before and after the current one whose codes are accepted
	totpExplain = 20 // steps before and after it whose codes are recognised, to report a wrong clock
)

// TOTP describes an account's one-time codes.
type TOTP struct {
	Created, Used time.Time
}

// TOTPEnrolment is a new secret that has not been confirmed by a code yet.
type TOTPEnrolment struct {
	ID     string // for ConfirmTOTP; the caller binds it to a session
	Secret string // base32, to be typed
	URL    string // otpauth://, to be scanned
}

func errNoSealer() error {
	return mxerr.Forbidden("One-time codes cannot be set up: this server has no key with which it could store their secrets safely")
}

// BeginTOTP makes a new secret. It takes effect when ConfirmTOTP receives a code for it; until then, the account keeps
// its former secret, if it has one.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED.
func (s *Service) BeginTOTP(ctx context.Context, g Grant) (e TOTPEnrolment, err error) {
	if s.opts.Sealer == nil {
		return e, errNoSealer()
	}
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := s.mayEnrol(tx, g); err != nil {
			return err
		}
		user, err := tx.UserID(g.User)
		if err != nil {
			return err
		}
		if e, err = s.totpFor(user, nil); err != nil {
			return err
		}
		sealed, err := s.seal(g.User, e.Secret)
		if err != nil {
			return err
		}
		e.ID, err = begin(tx, kindTOTP, g.User, "", sealed, totpLifetime)
		return err
	})
	return e, err
}

// totpFor returns the form in which authenticator apps get a secret. If there is none, it makes one.
func (s *Service) totpFor(user string, secret []byte) (TOTPEnrolment, error) {
	key, err := totp.Generate(totp.GenerateOpts{Issuer: s.opts.Server, AccountName: user, Period: totpPeriod, SecretSize: totpSecret, Secret: secret, Digits: totpDigits})
	if err != nil {
		return TOTPEnrolment{}, fmt.Errorf("make a secret for one-time codes: %w", err)
	}
	return TOTPEnrolment{Secret: key.Secret(), URL: key.URL()}, nil
}

// PendingTOTP returns a secret that BeginTOTP has made and that is not confirmed yet, so that it can be shown again
// after a wrong code.
//
// Errors: M_FORBIDDEN.
func (s *Service) PendingTOTP(ctx context.Context, user ident.UserNID, id string) (e TOTPEnrolment, err error) {
	err = s.read(ctx, func(tx *storage.Tx) error {
		c, err := challenge(tx, id, kindTOTP, user)
		if err != nil {
			return err
		}
		secret, err := s.open(user, c.Data)
		if err != nil {
			return err
		}
		raw, err := noPadding.DecodeString(secret)
		if err != nil {
			return err
		}
		name, err := tx.UserID(user)
		if err != nil {
			return err
		}
		e, err = s.totpFor(name, raw)
		e.ID = id
		return err
	})
	return e, err
}

// ConfirmTOTP puts a new secret into use, if code is a current code of it.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED.
func (s *Service) ConfirmTOTP(ctx context.Context, g Grant, id, code string) (out Enrolled, err error) {
	var c storage.FactorChallenge
	err = s.read(ctx, func(tx *storage.Tx) (err error) {
		c, err = challenge(tx, id, kindTOTP, g.User)
		return err
	})
	if err != nil {
		return out, err
	}
	step, err := s.stepOf(ctx, g.User, c.Data, code, 0)
	if err != nil {
		return out, err
	}
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := complete(tx, c); err != nil {
			return err
		}
		if err := s.enrol(ctx, tx, g); err != nil {
			return err
		}
		if _, replaces, err := tx.TOTP(g.User); err != nil {
			return err
		} else if replaces {
			if err := endOthers(tx, g); err != nil {
				return err
			}
		}
		if err := tx.PutTOTP(g.User, c.Data, step); err != nil {
			return err
		}
		out, err = s.enrolled(ctx, tx, g, gate.TOTP, "")
		return err
	})
	return out, err
}

// CheckTOTP checks a one-time code. It accepts each code once, and no code older than one it has accepted.
//
// Errors: M_FORBIDDEN, M_LIMIT_EXCEEDED.
func (s *Service) CheckTOTP(ctx context.Context, user ident.UserNID, network, code string) (gate.Evidence, error) {
	return s.guess(ctx, gate.TOTP, user, network, "wrong one-time code", func() (gate.Evidence, error) {
		var row storage.TOTPRow
		err := s.read(ctx, func(tx *storage.Tx) (err error) {
			var found bool
			row, found, err = tx.TOTP(user)
			if err == nil && !found {
				err = errWrongCode()
			}
			return err
		})
		if err != nil {
			return 0, err
		}
		step, err := s.stepOf(ctx, user, row.Secret, code, row.LastStep)
		if err != nil {
			return 0, err
		}
		return gate.TOTP, s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
			used, err := tx.UseTOTP(user, row.Secret, step)
			if err == nil && !used {
				err = errUsedCode()
			}
			return err
		})
	})
}

// guess counts an attempt at a code of an account, TOTP or RecoveryCode, and calls check. If the code is right, the
// attempt is not counted after all; if it is wrong, a failed sign-in is recorded with the given reason.
//
// Errors: M_LIMIT_EXCEEDED, and those of check.
func (s *Service) guess(ctx context.Context, kind gate.Evidence, user ident.UserNID, network, reason string, check func() (gate.Evidence, error)) (gate.Evidence, error) {
	try, err := s.opts.Gate.GuessCode(kind, user, network)
	if err != nil {
		return 0, err
	}
	shown, err := check()
	if err != nil {
		shown = 0
	}
	if mxerr.Code(err) != mxerr.CodeForbidden {
		try.Right()
		return shown, err
	}
	if failed := s.failed(ctx, user, reason); failed != nil {
		return 0, failed
	}
	return 0, err
}

// failed logs a wrong code, and records it in the journal.
func (s *Service) failed(ctx context.Context, user ident.UserNID, reason string) error {
	return s.read(ctx, func(tx *storage.Tx) error {
		a, found, err := tx.Account(user)
		if err != nil || !found {
			return err
		}
		s.opts.Log.InfoContext(ctx, "sign-in failed", "user", a.Localpart, "reason", reason)
		if s.opts.Journal != nil {
			s.opts.Journal.Failed(ctx, a.Localpart, reason)
		}
		return nil
	})
}

func errWrongCode() error {
	return mxerr.Forbidden("The code is wrong. If it stays wrong, check that the clock of the device that shows it is right")
}

func errUsedCode() error {
	return mxerr.Forbidden("This code, or a newer one, was used already: wait for the next one")
}

// RemoveTOTP removes one-time codes from an account.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED, M_NOT_FOUND.
func (s *Service) RemoveTOTP(ctx context.Context, g Grant) error {
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		a, err := s.mayChange(tx, g)
		if err != nil {
			return err
		}
		there, err := tx.DeleteTOTP(g.User)
		switch {
		case err != nil:
			return err
		case !there:
			return mxerr.NotFound("The account has no one-time codes")
		}
		return s.removed(ctx, tx, g, a, gate.TOTP, "")
	})
}

// stepOf returns the time step to which a code belongs, given the sealed secret. It returns an error unless the step is
// later than last, the last one whose code was accepted.
//
// Errors: M_FORBIDDEN.
func (s *Service) stepOf(ctx context.Context, user ident.UserNID, sealed, code string, last int64) (int64, error) {
	secret, err := s.open(user, sealed)
	if err != nil {
		return 0, err
	}
	code = strings.Map(func(r rune) rune {
		if r == ' ' || r == '-' || r == '\u00a0' {
			return -1
		}
		return r
	}, code)
	now := s.opts.Now().Unix() / totpPeriod
	step, found, err := findStep(secret, code, now, totpExplain)
	switch {
	case err != nil:
		return 0, err
	case !found:
		return 0, errWrongCode()
	case step < now-totpWindow || step > now+totpWindow:
		return 0, s.clockIsOff(ctx, user, time.Duration(step-now)*totpPeriod*time.Second)
	case step <= last:
		return 0, errUsedCode()
	}
	return step, nil
}

// clockIsOff returns the error for a code of another time. Only for a past code does the text say so: an attacker who
// has guessed a future code must not learn that, since they could wait and use it.
func (s *Service) clockIsOff(ctx context.Context, user ident.UserNID, by time.Duration) error {
	s.opts.Log.WarnContext(ctx, "a one-time code is of another time: the clock of this server or of the user's device is wrong", "user_nid", int64(user), "code_is_ahead_by", by)
	if by > 0 {
		return errWrongCode()
	}
	return mxerr.Forbidden("The code is %d seconds old: check that the clock of the device that shows it is right", int(-by.Seconds()))
}

// findStep returns the step nearest to now, at most reach steps away, that has the given code. It always computes the
// codes of all these steps, so that its duration reveals nothing.
func findStep(secret, code string, now, reach int64) (step int64, found bool, err error) {
	for distance := reach; distance >= 0; distance-- {
		for _, at := range []int64{now + distance, now - distance} {
			if at < 0 {
				continue
			}
			want, err := hotp.GenerateCodeCustom(secret, uint64(at), hotp.ValidateOpts{Digits: totpDigits, Algorithm: otp.AlgorithmSHA1})
			if err != nil {
				return 0, false, fmt.Errorf("compute a one-time code: %w", err)
			}
			if subtle.ConstantTimeCompare([]byte(want), []byte(code)) == 1 {
				step, found = at, true
			}
		}
	}
	return step, found, nil
}

// rowOfTOTP returns the row name with which the secret of a user is sealed (see secrets.Ring.Seal).
func rowOfTOTP(user ident.UserNID) string { return "totp:" + strconv.FormatInt(int64(user), 10) }

// noPadding is the encoding of secrets in authenticator apps.
var noPadding = base32.StdEncoding.WithPadding(base32.NoPadding)

// seal returns the stored form of a secret that is given in base32.
func (s *Service) seal(user ident.UserNID, secret string) (string, error) {
	raw, err := noPadding.DecodeString(secret)
	if err != nil {
		return "", err
	}
	sealed, err := s.opts.Sealer.Seal(rowOfTOTP(user), raw)
	if err != nil {
		return "", fmt.Errorf("seal the secret of one-time codes: %w", err)
	}
	return sealed, nil
}

// open returns a secret from its stored form, as base32.
func (s *Service) open(user ident.UserNID, sealed string) (string, error) {
	if s.opts.Sealer == nil {
		return "", errNoSealer()
	}
	raw, err := s.opts.Sealer.Open(rowOfTOTP(user), sealed)
	if err != nil {
		s.opts.Log.Error("Cannot read the secret of a user's one-time codes: restore the key file, or make an enrolment link for the user", "user_nid", int64(user), "err", err)
		return "", mxerr.Forbidden("This server can no longer check your one-time codes: use another second factor, or ask an administrator for a link").Because(err)
	}
	return noPadding.EncodeToString(raw), nil
}

// resealBatch is the number of secrets that Reseal processes in one write, which keeps writes short.
const resealBatch = 100

// Reseal seals secrets again if they were sealed under a former key. It logs and leaves those that cannot be opened,
// because their key was lost: their users need another factor or a link.
func (s *Service) Reseal(ctx context.Context) error {
	for after := ident.UserNID(0); ; {
		var rows []storage.TOTPRow
		err := s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
			if rows, err = tx.TOTPs(after, resealBatch); err != nil {
				return err
			}
			for _, row := range rows {
				if err := s.reseal(tx, row); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(rows) < resealBatch {
			return err
		}
		after = rows[len(rows)-1].User
	}
}

func (s *Service) reseal(tx *storage.Tx, row storage.TOTPRow) error {
	if !s.opts.Sealer.Stale(row.Secret) {
		return nil
	}
	secret, err := s.open(row.User, row.Secret)
	if err != nil {
		return nil //nolint:nilerr // open has logged it
	}
	sealed, err := s.seal(row.User, secret)
	if err != nil {
		return err
	}
	return tx.ResealTOTP(row.User, row.Secret, sealed)
}
