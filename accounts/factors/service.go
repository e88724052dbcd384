// Package factors manages the second factors of accounts: one-time codes (TOTP), passkeys (WebAuthn) and recovery
// codes. It sets them up, checks and removes them, and decides who may do so. It has no HTTP routes or pages, and
// creates no sessions: a check returns gate.Evidence, which its caller passes to accounts/gate.
//
// One-time codes, recovery codes, challenges and links can be used once. Each is used up by a statement that changes no
// row the second time, so that one of two simultaneous uses fails. Signatures and codes are verified before that write,
// outside of it.
package factors

import (
	"context"
	"log/slog"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Sealer encrypts secrets with a key that is not in the database. An encrypted (sealed) text can be opened only for the
// row for which it was sealed.
type Sealer interface {
	Seal(row string, plain []byte) (string, error)
	Open(row, sealed string) ([]byte, error)
	Stale(sealed string) bool // whether the text was sealed under a former key
}

// Journal records what happens to the second factors of accounts, for example in the audit log.
type Journal interface {
	// Record records an act within its write.
	Record(ctx context.Context, tx *storage.Tx, a Act) error
	// Failed counts a wrong code.
	Failed(ctx context.Context, user, reason string)
}

// Kind says what happened in an Act.
type Kind string

// The kinds of acts.
const (
	FactorAdded   Kind = "factor added"
	FactorRemoved Kind = "factor removed"
	FactorsReset  Kind = "factors replaced by a link" // the former ones were removed
	CodesMade     Kind = "recovery codes made"
	CodeUsed      Kind = "recovery code used"
	CountWentBack Kind = "sign count of a passkey went back: it may have been cloned"
	LinkMade      Kind = "enrolment link made"
	LinkRevoked   Kind = "enrolment link revoked"
	Recovered     Kind = "administrator recovered on the host" // every administrator must be told
)

// Act describes a change or an unusual use of the second factors of an account.
type Act struct {
	Kind   Kind
	User   ident.UserNID
	UserID string        // set by the package
	Factor gate.Evidence // the kinds of factors concerned; 0: none in particular
	Name   string        // of the passkey
	By     id.UserID     // the administrator who did it; "": the user, or somebody on the host
}

// Attrs returns the act as names and values for a log message. Values that are not set are left out.
func (a Act) Attrs() []any {
	attrs := []any{"user", a.UserID}
	for _, f := range []struct {
		kind gate.Evidence
		name string
	}{{gate.TOTP, "one-time codes"}, {gate.SecurityKey, "passkey"}, {gate.RecoveryCode, "recovery codes"}} {
		if a.Factor&f.kind != 0 {
			attrs = append(attrs, "factor", f.name)
			break
		}
	}
	if a.Name != "" {
		attrs = append(attrs, "name", a.Name)
	}
	if a.By != "" {
		attrs = append(attrs, "by", a.By)
	}
	return attrs
}

// Options are the dependencies and settings of a Service.
type Options struct {
	DB       *storage.DB
	Gate     *gate.Gate
	Sealer   Sealer  // nil: one-time codes cannot be set up
	Journal  Journal // nil: none
	Server   string  // the server's name, as authenticators show it
	Passkeys PasskeyOptions
	Now      func() time.Time
	Log      *slog.Logger
}

// Service sets up, checks and removes the second factors of accounts. It is safe for concurrent use.
type Service struct {
	opts     Options
	passkeys relyingParty
}

// New returns a Service.
func New(o Options) (*Service, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	party, err := newRelyingParty(o.Server, o.Passkeys)
	if err != nil {
		return nil, err
	}
	return &Service{opts: o, passkeys: party}, nil
}

// OffersPasskeys reports whether browsers can use passkeys with this server.
func (s *Service) OffersPasskeys() bool { return s.passkeys.web != nil }

// Enrolment implements gate.Factors.
type Enrolment struct{}

// Enrolled implements gate.Factors. Passkeys count even if they cannot be used at present, because they were made for
// another domain or do not comply with a new policy: an account must not lose its protection by a change of settings.
func (Enrolment) Enrolled(tx *storage.Tx, user ident.UserNID) (gate.Evidence, error) {
	n, err := tx.FactorCounts(user)
	if err != nil {
		return 0, err
	}
	var has gate.Evidence
	for _, f := range []struct {
		count int64
		kind  gate.Evidence
	}{{n.TOTP, gate.TOTP}, {n.Passkeys, gate.SecurityKey}, {n.Verifying, gate.Passkey}} {
		if f.count > 0 {
			has |= f.kind
		}
	}
	if has != 0 && n.RecoveryCodes > 0 {
		has |= gate.RecoveryCode
	}
	return has, nil
}

// Grant describes why somebody may change the second factors of an account.
type Grant struct {
	User   ident.UserNID
	Shown  gate.Evidence   // what the user has presented; the caller decides how recent it must be
	Device ident.DeviceNID // of the session, to which the evidence of a new factor is added; 0: none
	Link   string          // token of an enrolment link; "": none

	// Browser is the cookie of the browser in which the user does it, or "". It stays signed in when a factor is
	// removed or replaced.
	Browser string
}

// Enrolled is the result of setting up a factor.
type Enrolled struct {
	Shown         gate.Evidence // the evidence that setting it up has given
	RecoveryCodes []string      // new ones, if the account had none; they cannot be retrieved again
}

func errNoAccount() error { return mxerr.Forbidden("There is no such account, or it is closed") }

// account returns an account that may have second factors.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED.
func (s *Service) account(tx *storage.Tx, user ident.UserNID) (storage.AccountRow, error) {
	a, found, err := tx.Account(user)
	switch {
	case err != nil:
		return a, err
	case !found || a.DeactivatedTS != 0 || a.Guest:
		return a, errNoAccount()
	case a.Locked:
		return a, mxerr.UserLocked()
	case s.opts.Gate.ModeOf(a) == gate.Off:
		return a, mxerr.Forbidden("This server does not use second factors")
	}
	return a, nil
}

// mayEnrol returns an error if a grant does not permit adding a second factor.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED.
func (s *Service) mayEnrol(tx *storage.Tx, g Grant) error {
	a, err := s.account(tx, g.User)
	if err != nil {
		return err
	}
	if g.Link != "" {
		l, found, err := tx.EnrolLink(hashOf(g.Link))
		if err == nil && (!found || l.User != g.User) {
			err = errNoLink()
		}
		return err
	}
	has, err := Enrolment{}.Enrolled(tx, g.User)
	switch {
	case err != nil || g.Shown.TwoFactors():
		return err
	case has != 0:
		return mxerr.Forbidden("Show one of the second factors that the account has before you add another")
	case !g.Shown.First():
		return mxerr.Forbidden("Enter your password before you set up a second factor")
	}
	needed, err := s.opts.Gate.NeedsSecond(tx, a)
	if err != nil || !needed {
		return err
	}
	signingUp, err := s.signingUp(tx, g.User)
	if err == nil && !signingUp {
		err = mxerr.Forbidden("The time in which you could set up a second factor yourself is over: ask an administrator of this server for a link")
	}
	return err
}

// mayChange returns the account of a grant, or an error if the grant does not permit removing factors.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED.
func (s *Service) mayChange(tx *storage.Tx, g Grant) (storage.AccountRow, error) {
	a, err := s.account(tx, g.User)
	if err == nil && !g.Shown.TwoFactors() {
		err = mxerr.Forbidden("Show one of the second factors of the account first")
	}
	return a, err
}

// enrolled completes an enrolment within its write, after the new factor was stored: it records it, makes recovery
// codes if the account has none, and strengthens the session.
func (s *Service) enrolled(ctx context.Context, tx *storage.Tx, g Grant, shown gate.Evidence, name string) (Enrolled, error) {
	out := Enrolled{Shown: shown}
	if g.Link != "" {
		out.Shown |= gate.AdminLink
	}
	if err := s.record(ctx, tx, Act{Kind: FactorAdded, User: g.User, Factor: shown, Name: name}); err != nil {
		return out, err
	}
	if err := tx.EndSignUp(g.User); err != nil {
		return out, err
	}
	if g.Device != 0 {
		if err := gate.Strengthen(tx, g.Device, shown); err != nil {
			return out, err
		}
	}
	left, err := tx.CountRecoveryCodes(g.User)
	if err != nil || left > 0 {
		return out, err
	}
	out.RecoveryCodes, err = s.makeCodes(ctx, tx, g.User)
	return out, err
}

// endOthers signs out all browsers of a user except that of the grant, and deletes login tokens and codes that have not
// been used. It is called when a factor is removed or replaced: somebody else may have shown it in one of them.
func endOthers(tx *storage.Tx, g Grant) error {
	own := ""
	if g.Browser != "" {
		own = hashOf(g.Browser)
	}
	return tx.DeleteLoginTokensExcept(g.User, own)
}

// removed completes the removal of a factor within its write. If it was the last one, it also deletes the recovery
// codes, or returns an error if the account needs a factor.
//
// Errors: M_FORBIDDEN.
func (s *Service) removed(ctx context.Context, tx *storage.Tx, g Grant, a storage.AccountRow, factor gate.Evidence, name string) error {
	if err := endOthers(tx, g); err != nil {
		return err
	}
	has, err := Enrolment{}.Enrolled(tx, a.NID)
	if err != nil {
		return err
	}
	if has == 0 {
		if s.opts.Gate.ModeOf(a) == gate.Required {
			return mxerr.Forbidden("This is the account's only second factor, and one is required: set up another one first")
		}
		if err := tx.DeleteFactors(a.NID); err != nil {
			return err
		}
	}
	return s.record(ctx, tx, Act{Kind: FactorRemoved, User: a.NID, Factor: factor, Name: name})
}

// record logs an act and records it in the journal.
func (s *Service) record(ctx context.Context, tx *storage.Tx, a Act) error {
	var err error
	if a.UserID, err = tx.UserID(a.User); err != nil {
		return err
	}
	level := slog.LevelInfo
	if a.Kind == Recovered || a.Kind == CountWentBack {
		level = slog.LevelWarn
	}
	s.opts.Log.Log(ctx, level, string(a.Kind), a.Attrs()...)
	if s.opts.Journal == nil {
		return nil
	}
	return s.opts.Journal.Record(ctx, tx, a)
}

// Overview lists the second factors of an account.
type Overview struct {
	TOTP          *TOTP // nil: none
	Passkeys      []Passkey
	RecoveryCodes int  // number of unused ones
	Required      bool // whether the account needs a second factor by the policy
}

// Overview returns the second factors of an account.
func (s *Service) Overview(ctx context.Context, user ident.UserNID) (o Overview, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		a, found, err := tx.Account(user)
		if err != nil || !found {
			return err
		}
		o.Required = s.opts.Gate.ModeOf(a) == gate.Required
		row, found, err := tx.TOTP(user)
		if err != nil {
			return err
		}
		if found {
			o.TOTP = &TOTP{Created: time.UnixMilli(row.CreatedTS), Used: time.UnixMilli(row.UsedTS)}
		}
		rows, err := tx.Passkeys(user, maxPasskeys)
		if err != nil {
			return err
		}
		for _, r := range rows {
			o.Passkeys = append(o.Passkeys, s.passkeys.describe(r))
		}
		left, err := tx.CountRecoveryCodes(user)
		o.RecoveryCodes = int(left)
		return err
	})
	return o, err
}

func hashOf(secret string) string { return gate.KeyOf(secret).String() }
