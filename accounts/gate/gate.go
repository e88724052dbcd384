// Package gate decides who gets access tokens. It is the only package that creates them: a path on which somebody signs
// in, registers or continues a session passes Admit, which knows the account, the way in, the evidence that was shown
// and the policy on second factors, and returns the Pass that makes the tokens. A path without a rule gets none.
//
// A caller that compares a secret (a password, a code, a token) first asks for a Guess, which is limited by account and
// network. It then calls Admit within the write that creates the session, so that what Admit reads cannot change before
// the tokens exist. The package compares no secrets itself.
package gate

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"ebb/ident"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/storage"
)

// Path is a way to obtain tokens. Every path has a rule in rules.
type Path string

// The paths.
const (
	PathPassword     Path = "password"           // POST /login with m.login.password
	PathLoginToken   Path = "login_token"        // POST /login with m.login.token
	PathAppService   Path = "appservice"         // POST /login and /register by an application service
	PathRefresh      Path = "refresh"            // POST /refresh
	PathRegister     Path = "register"           // POST /register, and a guest who becomes a user
	PathGuest        Path = "guest"              // POST /register?kind=guest
	PathSharedSecret Path = "shared_secret"      // registration with the shared secret
	PathMachine      Path = "machine"            // ebb token issue
	PathHandOver     Path = "create_login_token" // POST /login/get_token: a token with which another client signs in
	PathReset        Path = "reset"              // a new password by e-mail; it makes no session
)

// Evidence is a set of what somebody has shown to prove who they are.
type Evidence uint32

// The kinds of evidence. Their values are stored with sessions, so they never change.
const (
	Password      Evidence = 1 << iota
	Passkey                // WebAuthn with user verification: something that one has, and a PIN or a finger
	SecurityKey            // WebAuthn without user verification
	TOTP                   // a one-time code
	RecoveryCode           // one of the codes that were printed at enrolment
	Upstream               // another identity provider says who it is
	UpstreamMFA            // another identity provider says that it has checked two factors (acr, amr)
	AdminLink              // an administrator's single-use link
	Email                  // a link that was sent to an address of the account
	Administrator          // an administrator acts on the server's host
	AppService             // the token of an application service
	Invitation             // a registration token or the shared secret
)

// The parts that evidence plays.
const (
	first  = Password | Upstream | AdminLink                    // says who somebody is
	second = SecurityKey | TOTP | RecoveryCode                  // confirms it
	alone  = Passkey | UpstreamMFA | Administrator | AppService // is as good as two factors
)

// TwoFactors reports whether the evidence is enough for an account with a second factor.
func (e Evidence) TwoFactors() bool { return e&alone != 0 || e&first != 0 && e&second != 0 }

// rule is what a path needs.
type rule struct {
	evidence  Evidence // at least one of these must have been shown
	inherits  bool     // the evidence is that of an earlier session, which may be none
	counted   bool     // somebody can guess: a Guess must be shown
	tokens    bool     // whether the Pass makes tokens of a session
	continues bool     // the session goes on: what its user has shown is recorded already
}

// rules has all paths. To add a path, add it here; server.TestEveryPathNeedsASecondFactor then asks for its row.
var rules = map[Path]rule{
	PathPassword:     {evidence: Password, counted: true, tokens: true},
	PathLoginToken:   {inherits: true, counted: true, tokens: true},
	PathAppService:   {evidence: AppService, tokens: true},
	PathRefresh:      {inherits: true, tokens: true, continues: true},
	PathRegister:     {evidence: Password, tokens: true},
	PathGuest:        {inherits: true, tokens: true},
	PathSharedSecret: {evidence: Invitation, tokens: true},
	PathMachine:      {evidence: Administrator, tokens: true},
	PathHandOver:     {inherits: true},
	PathReset:        {evidence: Email},
}

// needsSecond reports whether the policy on second factors applies to a path: to all but the reset of a password, which
// makes no session.
func (p Path) needsSecond() bool { return p != PathReset }

// Paths returns all paths, sorted.
func Paths() (all []Path) {
	for p := range rules {
		all = append(all, p)
	}
	slices.Sort(all)
	return all
}

// ErrWrongPassword returns the error for everything that is wrong with a name and a password, so that neither names nor
// second factors can be found out.
func (g *Gate) ErrWrongPassword() *mxerr.Error {
	if g.opts.Policy.offers() {
		return mxerr.Forbidden("Wrong username or password. If the account has a second factor, sign in on this server's web page instead")
	}
	return mxerr.Forbidden("Wrong username or password")
}

// ErrUnread returns the error for a password that is refused unread.
func ErrUnread() *mxerr.Error {
	return mxerr.Forbidden("This server requires a second factor and does not accept a password alone: sign in on its web page")
}

// Attempt is what somebody shows at the gate.
type Attempt struct {
	Path    Path
	User    ident.UserNID
	Shown   Evidence
	Network string // the client's; "" for an administrator or an application service
	Guess   *Guess // where somebody could guess: what was counted
}

// Factors says which second factors accounts have.
type Factors interface {
	// Enrolled returns the second factors of an account, 0 if it has none.
	Enrolled(tx *storage.Tx, user ident.UserNID) (Evidence, error)
}

// Options are the dependencies and settings of a Gate.
type Options struct {
	Policy  Policy
	Factors Factors // nil: no account has a second factor
	Budgets Budgets
	Now     func() time.Time
}

// Gate implements the package. It is safe for concurrent use.
type Gate struct {
	opts Options

	codes *keyed.Map[ident.UserNID, []time.Time] // when one-time codes were tried

	// mu guards since; a leaf lock.
	mu    sync.Mutex
	since requiredSince // see Load
}

// New returns a Gate. Until Load is called, a second factor that the policy requires is required without grace.
func New(o Options) *Gate {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Gate{opts: o, codes: keyed.NewMap[ident.UserNID, []time.Time](maxCodeAccounts)}
}

// Admit decides, within the write that creates a session or a token, whether an attempt succeeds.
//
// Errors: M_FORBIDDEN; M_USER_LOCKED; M_USER_DEACTIVATED for an application service; M_UNKNOWN_TOKEN for a refresh.
func (g *Gate) Admit(tx *storage.Tx, at Attempt) (Pass, error) {
	r, known := rules[at.Path]
	switch {
	case !known:
		return Pass{}, mxerr.Forbidden("This way to sign in is not offered")
	case r.counted && at.Guess == nil, !r.inherits && at.Shown&r.evidence == 0:
		return Pass{}, g.refusal(at.Path)
	}
	a, found, err := tx.Account(at.User)
	if err != nil {
		return Pass{}, err
	}
	switch {
	case found && a.DeactivatedTS != 0 && at.Path == PathAppService:
		return Pass{}, mxerr.New(http.StatusForbidden, mxerr.CodeUserDeactivated, "This account has been deactivated")
	case !found || a.DeactivatedTS != 0:
		return Pass{}, g.refusal(at.Path)
	case a.Locked:
		return Pass{}, mxerr.UserLocked()
	}
	if at.Path.needsSecond() && !at.Shown.TwoFactors() {
		if needed, err := g.NeedsSecond(tx, a); err != nil {
			return Pass{}, err
		} else if needed {
			return Pass{}, g.lacksSecond(at.Path)
		}
	}
	return Pass{tx: tx, at: at, account: a}, nil
}

// refusal returns the error for an account that does not exist or was deactivated, or for missing evidence.
func (g *Gate) refusal(path Path) *mxerr.Error {
	switch path {
	case PathPassword:
		return g.ErrWrongPassword()
	case PathRefresh:
		return mxerr.UnknownToken(false)
	}
	return mxerr.Forbidden("Nobody can sign in to this account this way")
}

// lacksSecond returns the error for a missing second factor. A session that lacks one is signed out softly.
func (g *Gate) lacksSecond(path Path) *mxerr.Error {
	switch path {
	case PathPassword:
		return g.ErrWrongPassword()
	case PathRefresh:
		return mxerr.UnknownToken(true)
	}
	return mxerr.Forbidden("Signing in to this account needs a second factor: sign in on this server's web page")
}
