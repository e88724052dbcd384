package gate

import (
	"context"
	"time"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Mode is the policy on second factors.
type Mode string

// The policies on second factors.
const (
	Off      Mode = "off"      // nobody needs a second factor, even if the account has one
	Optional Mode = "optional" // accounts that have a second factor need it
	Required Mode = "required" // every account needs one
)

// strictness orders modes.
var strictness = map[Mode]int{Off: 0, Optional: 1, Required: 2}

// Policy determines who needs a second factor.
type Policy struct {
	MFA            Mode          // "" means Off
	Administrators Mode          // policy for administrators, if it is stricter than MFA
	Grace          time.Duration // how long accounts without a second factor can still log in after it became required
}

// offers reports whether any account may have a second factor.
func (p Policy) offers() bool {
	return strictness[p.MFA] > 0 || strictness[p.Administrators] > 0
}

// OffersFactors reports whether the policy lets users have second factors. Exceptions for single accounts do not count.
func (g *Gate) OffersFactors() bool { return g.opts.Policy.offers() }

// requiredSince holds the times, in ms, at which a second factor became required. 0 means that it is not required, or
// that the time is not recorded yet.
type requiredSince struct{ all, administrators int64 }

// Load reads the times at which a second factor became required. It records them if the policy has just changed.
func (g *Gate) Load(ctx context.Context, db *storage.DB) error {
	var was, now requiredSince
	err := db.Read(ctx, func(tx *storage.Tx) (err error) {
		was.all, was.administrators, err = tx.SecondFactorRequiredSince()
		return err
	})
	if err != nil {
		return err
	}
	now = requiredSince{since(was.all, g.opts.Policy.MFA, g.opts.Now()), since(was.administrators, g.opts.Policy.Administrators, g.opts.Now())}
	if now != was {
		err = db.Write(ctx, func(tx *storage.Tx) error { return tx.SetSecondFactorRequiredSince(now.all, now.administrators) })
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.since = now
	return err
}

func since(was int64, mode Mode, now time.Time) int64 {
	switch {
	case mode != Required:
		return 0
	case was == 0:
		return now.UnixMilli()
	}
	return was
}

// mode returns the policy for an account, and since when the policy requires a second factor.
func (g *Gate) mode(a storage.AccountRow) (mode Mode, since int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.opts.Policy
	switch {
	case a.MFA != "":
		return Mode(a.MFA), a.MFASinceTS
	case a.Admin && strictness[p.Administrators] > strictness[p.MFA]:
		return p.Administrators, g.since.administrators
	}
	return p.MFA, g.since.all
}

// ModeOf returns the policy for an account.
func (g *Gate) ModeOf(a storage.AccountRow) Mode {
	mode, _ := g.mode(a)
	if mode == "" {
		mode = Off
	}
	return mode
}

// NeedsSecond reports whether logging in to an account needs a second factor.
func (g *Gate) NeedsSecond(tx *storage.Tx, a storage.AccountRow) (bool, error) {
	mode, _ := g.mode(a)
	if strictness[mode] == 0 {
		return false, nil
	}
	if g.requires(a) {
		return true, nil
	}
	has, err := g.Enrolled(tx, a.NID)
	return has != 0, err
}

// requires reports whether an account needs a second factor to log in even if it has none.
func (g *Gate) requires(a storage.AccountRow) bool {
	mode, since := g.mode(a)
	return mode == Required && g.graceIsOver(since)
}

// Enrolled returns the second factors of an account.
func (g *Gate) Enrolled(tx *storage.Tx, user ident.UserNID) (Evidence, error) {
	if g.opts.Factors == nil {
		return 0, nil
	}
	return g.opts.Factors.Enrolled(tx, user)
}

// GraceEnds returns the time after which an account without a second factor can no longer log in. ok is false if the
// account needs none.
func (g *Gate) GraceEnds(a storage.AccountRow) (end time.Time, ok bool) {
	mode, since := g.mode(a)
	return time.UnixMilli(since).Add(g.opts.Policy.Grace), mode == Required
}

func (g *Gate) graceIsOver(since int64) bool {
	return !g.opts.Now().Before(time.UnixMilli(since).Add(g.opts.Policy.Grace))
}

// OffersPassword reports whether anybody can log in with only a password. This is false if everybody needs a second
// factor; exceptions for single accounts do not count, since they would reveal which accounts have one.
func (g *Gate) OffersPassword() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.opts.Policy.MFA != Required || !g.graceIsOver(g.since.all)
}

// Enforces reports whether the configuration or the policy of any account requires a second factor. If not, every
// session is allowed, so none needs to be ended.
func (g *Gate) Enforces(tx *storage.Tx) (bool, error) {
	if g.opts.Policy.MFA == Required || g.opts.Policy.Administrators == Required {
		return true, nil
	}
	return tx.AnyAccountRequiresMFA()
}

// Allows reports whether a session with the given evidence may continue. If the second factor is optional, sessions
// from before it was enrolled may continue.
func (g *Gate) Allows(a storage.AccountRow, shown Evidence) bool {
	mode, since := g.mode(a)
	return mode != Required || shown.TwoFactors() || !g.graceIsOver(since)
}

// SetMode sets the policy for one account; "" means that of the server. When a second factor becomes required, the
// grace period begins.
//
// Errors: M_INVALID_PARAM.
func SetMode(tx *storage.Tx, a storage.AccountRow, mode Mode) error {
	if _, known := strictness[mode]; !known && mode != "" {
		return mxerr.InvalidParam("The policy on second factors must be off, optional or required, not %.32q", string(mode))
	}
	since := int64(0)
	if mode == Required {
		since = tx.Now().UnixMilli()
		if Mode(a.MFA) == Required {
			since = a.MFASinceTS
		}
	}
	return tx.SetAccountMFA(a.NID, string(mode), since)
}
