// Package gate decides who gets access tokens, and is the only package that creates them. Every path on which a user
// logs in, registers or continues a session goes through Admit. Admit is given the account, the path, the evidence that
// was presented and the policy on second factors, and returns the Pass that creates the tokens. A path that has no rule
// gets no tokens.
//
// A caller that compares a secret (a password, a code, a token) first asks for a Guess, which is limited by account and
// network. It then calls Admit within the write that creates the session, so that the data that Admit reads cannot
// change before the tokens exist. The package compares no secrets itself.
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

// The paths to tokens.
const (
	PathPassword     Path = "password"           // POST /login with m.login.password
	PathLoginToken   Path = "login_token"        // POST /login with m.login.token
	PathAppService   Path = "appservice"         // POST /login and /register by an application service
	PathRefresh      Path = "refresh"            // POST /refresh
	PathRegister     Path = "register"           // POST /register, including guests who become users
	PathGuest        Path = "guest"              // POST /register?kind=guest
	PathSharedSecret Path = "shared_secret"      // registration with the shared secret
	PathMachine      Path = "machine"            // ebb token issue
	PathHandOver     Path = "create_login_token" // POST /login/get_token, which creates a token with which another client logs in
	PathCode         Path = "authorization_code" // an authorization code (OAuth 2.0)
	PathDevice       Path = "device_code"        // a device code that the user has approved (OAuth 2.0)
	PathOAuthRefresh Path = "oauth_refresh"      // a refresh token (OAuth 2.0)
	PathSSO          Path = "sso"                // a user who has signed in on the web pages, which creates a login token for a client without OAuth 2.0
	PathJWT          Path = "jwt"                // POST /login with org.matrix.login.jwt
	PathReset        Path = "reset"              // a new password set by e-mail, which creates no session
)

// Evidence is a set of proofs of identity that a user has presented.
type Evidence uint32

// The kinds of evidence. Their values are stored with sessions, so they never change.
const (
	Password      Evidence = 1 << iota
	Passkey                // WebAuthn with user verification: a device, and a PIN or a fingerprint
	SecurityKey            // WebAuthn without user verification
	TOTP                   // a one-time code
	RecoveryCode           // one of the codes printed at enrolment
	Upstream               // the statement of another identity provider
	UpstreamMFA            // the statement of another identity provider that it has checked two factors (acr, amr)
	AdminLink              // an administrator's single-use link
	Email                  // a link that was sent to an e-mail address of the account
	Administrator          // an administrator who acts on the server's host
	AppService             // the token of an application service
	Invitation             // a registration token or the shared secret
)

// How evidence is combined.
const (
	first  = Password | Upstream | AdminLink                    // a first factor
	second = SecurityKey | TOTP | RecoveryCode                  // a second factor
	alone  = Passkey | UpstreamMFA | Administrator | AppService // as good as two factors
)

// TwoFactors reports whether the evidence is sufficient for an account that needs a second factor.
func (e Evidence) TwoFactors() bool { return e&alone != 0 || e&first != 0 && e&second != 0 }

// First reports whether the evidence contains at least one factor that identifies a user.
func (e Evidence) First() bool { return e&(first|alone) != 0 }

// Second reports whether the evidence contains a second factor, or evidence that includes one.
func (e Evidence) Second() bool { return e&(second|alone) != 0 }

// rule lists the requirements of a path.
type rule struct {
	evidence  Evidence // at least one of these must have been presented
	inherits  bool     // the evidence is that of an earlier session, which may have none
	counted   bool     // the path allows guessing, so a Guess is required
	tokens    bool     // whether the Pass creates the tokens of a session
	continues bool     // the session is continued, and its evidence has been recorded already
	handsOver bool     // whether the Pass creates a login token
}

// rules has a rule for every path. When you add a path, server.TestEveryPathNeedsASecondFactor asks for a case of it.
var rules = map[Path]rule{
	PathPassword:     {evidence: Password, counted: true, tokens: true},
	PathLoginToken:   {inherits: true, counted: true, tokens: true},
	PathAppService:   {evidence: AppService, tokens: true},
	PathRefresh:      {inherits: true, tokens: true, continues: true},
	PathRegister:     {evidence: Password, tokens: true},
	PathGuest:        {inherits: true, tokens: true},
	PathSharedSecret: {evidence: Invitation, tokens: true},
	PathMachine:      {evidence: Administrator, tokens: true},
	PathHandOver:     {inherits: true, handsOver: true},
	PathCode:         {evidence: first | alone&^(Administrator|AppService), tokens: true}, // 256 bits: nobody guesses one
	PathDevice:       {evidence: first | alone&^(Administrator|AppService), tokens: true},
	PathOAuthRefresh: {inherits: true, tokens: true, continues: true},
	PathSSO:          {evidence: first | alone&^(Administrator|AppService), handsOver: true},
	PathJWT:          {evidence: Upstream | UpstreamMFA, counted: true, tokens: true},
	PathReset:        {evidence: Email},
}

// needsSecond reports whether the policy on second factors applies to a path. It applies to all paths except the reset
// of a password, which creates no session.
func (p Path) needsSecond() bool { return p != PathReset }

// Paths returns all paths, sorted.
func Paths() (all []Path) {
	for p := range rules {
		all = append(all, p)
	}
	slices.Sort(all)
	return all
}

// ErrWrongPassword returns the error for every problem with a name and a password, so that it reveals neither names nor
// second factors.
func (g *Gate) ErrWrongPassword() *mxerr.Error {
	if g.opts.Policy.offers() {
		return mxerr.Forbidden("Wrong username or password. If the account has a second factor, sign in on this server's web page instead")
	}
	return mxerr.Forbidden("Wrong username or password")
}

// ErrUnread returns the error for a password that is refused without being compared.
func ErrUnread() *mxerr.Error {
	return mxerr.Forbidden("This server requires a second factor and does not accept a password alone: sign in on its web page")
}

// Attempt describes an attempt to get tokens.
type Attempt struct {
	Path    Path
	User    ident.UserNID
	Shown   Evidence
	Network string // the client's network; "" for an administrator or an application service
	Guess   *Guess // the counted guess, if the path allows guessing

	// Upstream identifies the session of an identity provider from which the user's session begins; "" if there is
	// none. When the provider ends its session, those of this server end too.
	Upstream string
}

// Factors stores the second factors of accounts.
type Factors interface {
	// Enrolled returns the second factors of an account, or 0 if it has none.
	Enrolled(tx *storage.Tx, user ident.UserNID) (Evidence, error)
}

// Options holds the dependencies and settings of a Gate.
type Options struct {
	Policy  Policy
	Factors Factors // nil if no account has a second factor
	Budgets Budgets
	Now     func() time.Time
}

// Gate decides who gets access tokens. It is safe for concurrent use.
type Gate struct {
	opts Options

	codes *keyed.Map[codesOf, []time.Time] // times of recent attempts

	// mu guards since; a leaf lock.
	mu    sync.Mutex
	since requiredSince // read by Load
}

// New returns a Gate. Until Load is called, there is no grace period for a second factor that the policy requires.
func New(o Options) *Gate {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Gate{opts: o, codes: keyed.NewMap[codesOf, []time.Time](maxCodeAccounts)}
}

// Admit decides whether an attempt succeeds. It is called within the write that creates the session or token.
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

// AdmitsNew returns the error with which Admit will refuse an attempt to log in to an account that is about to be
// created, so that its password need not be hashed before that.
//
// Errors: M_FORBIDDEN.
func (g *Gate) AdmitsNew(at Attempt, admin bool) error {
	if at.Path.needsSecond() && !at.Shown.TwoFactors() && g.requires(storage.AccountRow{Admin: admin}) {
		return g.lacksSecond(at.Path)
	}
	return nil
}

// refusal returns the error for an account that does not exist or was deactivated, or for missing evidence.
func (g *Gate) refusal(path Path) *mxerr.Error {
	switch path {
	case PathPassword:
		return g.ErrWrongPassword()
	case PathRefresh, PathOAuthRefresh:
		return mxerr.UnknownToken(false)
	}
	return mxerr.Forbidden("Nobody can sign in to this account this way")
}

// lacksSecond returns the error for a missing second factor. A session that lacks one gets a soft logout.
func (g *Gate) lacksSecond(path Path) *mxerr.Error {
	switch path {
	case PathPassword:
		return g.ErrWrongPassword()
	case PathRefresh, PathOAuthRefresh:
		return mxerr.UnknownToken(true)
	}
	return mxerr.Forbidden("Signing in to this account needs a second factor: sign in on this server's web page")
}
