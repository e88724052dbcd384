package web

import (
	"context"
	"crypto/hmac"
	"encoding/base64"
	"net/http"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/httpapi"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/notices"
	"ebb/storage"
)

// Bounds of the sessions of browsers.
const (
	sessionLifetime = 30 * time.Minute // how long a user stays signed in to the pages; longer after more was shown
	pendingLifetime = 15 * time.Minute // how long a user may take to show a second factor or to set one up
	formLifetime    = 24 * time.Hour   // of the cookie to which forms are bound while nobody is signed in
	maxBrowsers     = 50               // sessions of one user, and as many that lack a second factor
)

// need describes what a page requires before it is shown.
type need struct {
	Lead   string // shown on the page for signing in: what the user is about to do
	User   string // suggested user name
	SignUp bool   // begin with the form for a new account, where users may create one

	// Recent is how recently the user must have shown a second factor, or the password if the account has no second
	// factor. 0 means that it does not matter.
	Recent time.Duration
}

// session is the session of a browser.
type session struct {
	storage.WebSession
	UserID  id.UserID
	Factors gate.Evidence // the second factors that the account needs
	cookie  string
}

// Shown returns what the user has shown in this session.
func (s session) Shown() gate.Evidence { return gate.Evidence(s.Evidence) }

// lack says why a browser is not shown a page yet.
type lack int

const (
	lacksNothing lack = iota
	lacksUser         // nobody is signed in
	lacksSecond       // the account needs a second factor, which the user has not shown
	lacksFactor       // the account needs a second factor and has none
	offersFactor      // the same, but the user may set one up another time
	lacksRecent       // the user must show again who they are
)

// standing is a session with what the policy on second factors says about it.
type standing struct {
	session
	network  string        // the client's
	found    bool          // whether there is a session
	needed   bool          // whether the account needs a second factor now
	required bool          // whether the policy requires one, perhaps after a grace period
	ends     time.Time     // the end of that grace period
	enrolled gate.Evidence // the second factors that the account has
}

// standing reads the session of a browser.
func (p *Pages) standing(r *httpapi.Request) (st standing, err error) {
	st.network = r.Network()
	if st.cookie = p.cookieOf(r, sessionCookie); st.cookie == "" {
		return st, nil
	}
	err = p.opts.DB.Read(r.Context(), func(tx *storage.Tx) error {
		if st.WebSession, st.found, err = tx.AnyWebSession(gate.KeyOf(st.cookie).String()); err != nil || !st.found {
			return err
		}
		return p.policy(tx, &st)
	})
	st.UserID = p.opts.Accounts.UserID(st.Localpart)
	return st, err
}

// policy reads what the policy on second factors says about an account.
func (p *Pages) policy(tx *storage.Tx, st *standing) error {
	a, _, err := tx.Account(st.User)
	if err != nil {
		return err
	}
	if st.needed, err = p.opts.Gate.NeedsSecond(tx, a); err != nil {
		return err
	}
	st.ends, st.required = p.opts.Gate.GraceEnds(a)
	if p.opts.Gate.ModeOf(a) == gate.Off {
		return nil
	}
	st.enrolled, err = p.opts.Gate.Enrolled(tx, st.User)
	st.Factors = st.enrolled
	return err
}

// lacks returns what a session lacks to meet the given needs of a page.
func (st standing) lacks(n need, now time.Time) lack {
	two := st.Shown().TwoFactors()
	switch {
	case !st.found || st.Pending && !st.needed: // the policy has changed in the meantime
		return lacksUser
	case st.needed && !two && st.enrolled == 0:
		return lacksFactor
	case st.needed && !two:
		return lacksSecond
	case st.required && !two && st.enrolled == 0 && !st.Later:
		return offersFactor
	case n.Recent > 0 && now.Sub(time.UnixMilli(st.lastShown())) > n.Recent:
		return lacksRecent
	}
	return lacksNothing
}

// lastShown returns when (ms) the user last showed the strongest evidence that the account has.
func (st standing) lastShown() int64 {
	if st.enrolled != 0 {
		return st.SecondTS
	}
	return st.FirstTS
}

// signedIn returns the session of a browser if it meets the needs of a page. Otherwise answer is the response: a page
// on which the user signs in, shows a second factor or sets one up, or a redirect after that was done. Both the GET and
// the POST handler of an address must call it first.
func (p *Pages) signedIn(r *httpapi.Request, n need) (s session, answer any, err error) {
	st, err := p.standing(r)
	if err != nil {
		return s, nil, err
	}
	missing := st.lacks(n, p.opts.Now())
	if missing == lacksUser {
		st.found = false
	}
	if r.Method == http.MethodPost {
		if answer, err := p.signInStep(r, n, st, missing); err != nil || answer != nil {
			return s, answer, err
		}
	}
	if missing == lacksNothing {
		return st.session, nil, nil
	}
	answer, err = p.ask(r, n, st, missing, nil, nil)
	return s, answer, err
}

// proof is evidence that was checked.
type proof struct {
	user     ident.UserNID
	shown    gate.Evidence
	password string // the stored form of the password that was compared; "" if none was

	// For the statement of an identity provider: its session (see gate.Attempt), and when the user presented the
	// factors there, which may be long ago or unknown (zero).
	upstream string
	at       time.Time
}

// prove records the evidence that a user has given: it begins the session of the browser, or adds to it. It is the only
// place where sessions of browsers begin. The cookie changes each time, so that a cookie that somebody else has set or
// seen before gains nothing.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED.
func (p *Pages) prove(ctx context.Context, st standing, shown proof) ([]*http.Cookie, error) {
	cookie := gate.Secret("", 32)
	err := p.opts.DB.Write(ctx, func(tx *storage.Tx) error { return p.proveIn(tx, st, cookie, shown) })
	return []*http.Cookie{p.cookie(sessionCookie, cookie, sessionLifetime), p.cookie(formCookie, "", 0)}, err
}

// proveIn does the work of prove within the given write. The session gets a new cookie. When the user is signed in
// completely, an alert says so if the network is new.
func (p *Pages) proveIn(tx *storage.Tx, st standing, cookie string, shown proof) error {
	a, found, err := tx.Account(shown.user)
	switch {
	case err != nil:
		return err
	case !found || a.DeactivatedTS != 0 || shown.password != "" && a.Password != shown.password: // changed in the meantime
		return mxerr.Forbidden("%s", english["error.changed"])
	case a.Locked:
		return mxerr.UserLocked()
	}
	old := gate.KeyOf(st.cookie).String()
	s, found, err := tx.AnyWebSession(old)
	if err != nil {
		return err
	}
	if found && s.User != a.NID {
		if err := tx.DropWebSession(old); err != nil {
			return err
		}
		found = false
	}
	if !found {
		s = storage.WebSession{User: a.NID}
	}
	needed, err := p.opts.Gate.NeedsSecond(tx, a)
	if err != nil {
		return err
	}
	complete := found && !s.Pending
	now := tx.Now()
	if shown.upstream == "" {
		shown.at = now
	}
	if s = add(s, shown, needed, now); !complete && !s.Pending {
		if err := p.opts.Notices.SignedIn(tx, notices.SignIn{User: a.NID, Network: st.network}); err != nil {
			return err
		}
	}
	if !found {
		return tx.AddWebSession(gate.KeyOf(cookie).String(), s, maxBrowsers)
	}
	_, err = tx.MoveWebSession(old, gate.KeyOf(cookie).String(), s)
	return err
}

// add returns a session with more evidence.
func add(s storage.WebSession, shown proof, needed bool, now time.Time) storage.WebSession {
	if shown.shown.First() {
		s.FirstTS = max(s.FirstTS, shown.at.UnixMilli())
	}
	if shown.shown.Second() {
		s.SecondTS = max(s.SecondTS, shown.at.UnixMilli())
	}
	if shown.upstream != "" {
		s.Upstream = shown.upstream
	}
	s.Evidence |= int64(shown.shown)
	s.Pending = needed && !gate.Evidence(s.Evidence).TwoFactors()
	lifetime := sessionLifetime
	if s.Pending {
		lifetime = pendingLifetime
	}
	s.ExpiresTS = now.Add(lifetime).UnixMilli()
	return s
}

// signOut ends the session of the browser and shows the page at the same address again.
func (p *Pages) signOut(r *httpapi.Request, s session) (any, error) {
	err := p.opts.DB.Write(r.Context(), func(tx *storage.Tx) error { return tx.DropWebSession(gate.KeyOf(s.cookie).String()) })
	if err != nil {
		return nil, err
	}
	return redirect(home(r), p.cookie(sessionCookie, "", 0))
}

// bind returns a value in a form that only the holder of a cookie can send back.
func (p *Pages) bind(cookie, value string) string {
	return value + "." + base64.RawURLEncoding.EncodeToString(p.mac(cookie+"\x00"+value))
}

// bound returns a value that bind has bound to a cookie, or "".
func (p *Pages) bound(cookie, text string) string {
	i := strings.LastIndexByte(text, '.')
	if i < 0 || !hmac.Equal([]byte(p.bind(cookie, text[:i])), []byte(text)) {
		return ""
	}
	return text[:i]
}
