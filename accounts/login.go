package accounts

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/accounts/hashing"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/notices"
	"ebb/storage"
)

// NewSession describes the device on which a user logs in.
type NewSession struct {
	Network     string      // the client's network, for Budgets
	Device      id.DeviceID // "" for a new device
	DisplayName string      // name of a new device
	Refresh     bool        // whether the client supports refreshing its access token

	// Lifetime is how long the access token is valid. 0 means Options.AccessTokenLifetime for a client that refreshes,
	// and for ever for others.
	Lifetime time.Duration
	Family   string // see gate.TokenOptions
}

// Tokens are the tokens of a session.
type Tokens = gate.Tokens

// SignedIn is the result of logging in or registering.
type SignedIn struct {
	User   id.UserID
	Device id.DeviceID // "" if no session was created
	Tokens
}

// errWrongPassword returns the same error for a wrong password and for accounts that do not exist, were deactivated or
// have no password, so that names cannot be guessed.
func errWrongPassword() error { return mxerr.Forbidden("Wrong username or password") }

// LoginPassword logs in with a password. The identifier who names the user by a localpart or a user ID. If everybody
// needs a second factor, the password is not compared. For an account that needs one, the response does not depend on
// the password.
//
// Errors: M_FORBIDDEN, M_LIMIT_EXCEEDED, M_USER_LOCKED, M_MISSING_PARAM, M_INVALID_PARAM; 502 M_CONNECTION_FAILED if
// the LDAP directory cannot be asked.
func (s *Service) LoginPassword(ctx context.Context, who Identifier, password string, n NewSession) (SignedIn, error) {
	if !s.gate.OffersPassword() {
		s.failed(ctx, "", "password without a second factor")
		return SignedIn{}, gate.ErrUnread()
	}
	checked, target, err := s.accountOf(ctx, who)
	if err != nil {
		return SignedIn{}, err
	}
	try, err := s.guessFrom(ctx, checked, target, n.Network)
	if err != nil {
		return SignedIn{}, err
	}
	more, err := s.needsSecond(ctx, checked)
	if err != nil {
		return SignedIn{}, err
	}
	if checked, err = s.checkPassword(ctx, checked, password, try, more); err != nil {
		if mxerr.Code(err) == mxerr.CodeForbidden {
			err = s.gate.ErrWrongPassword()
		}
		return SignedIn{}, err
	}
	fresh, err := s.rehash(ctx, checked, password)
	if err != nil {
		return SignedIn{}, err
	}
	return s.signIn(ctx, n, func(w *write) (gate.Attempt, error) {
		a, _, err := w.Account(checked.NID)
		if err == nil && a.Password != checked.Password { // changed in the meantime
			err = s.gate.ErrWrongPassword()
		}
		if err == nil && fresh != "" {
			err = w.SetPassword(checked.NID, fresh)
		}
		return gate.Attempt{Path: gate.PathPassword, User: checked.NID, Shown: gate.Password, Network: n.Network, Guess: try}, err
	})
}

// rehash returns a hash of this server's own kind for an account that has one from another server, and "" for others.
func (s *Service) rehash(ctx context.Context, a storage.AccountRow, password string) (string, error) {
	if !hashing.IsImported(a.Password) {
		return "", nil
	}
	return s.hasher.hash(ctx, password)
}

// VerifyPassword checks a password for a web page, which asks for a second factor afterwards if the account needs one.
// user is a localpart, a user ID or an e-mail address of the account. VerifyPassword creates no session.
//
// Errors: M_FORBIDDEN, M_LIMIT_EXCEEDED; 502 M_CONNECTION_FAILED if the LDAP directory cannot be asked.
func (s *Service) VerifyPassword(ctx context.Context, user, password, network string) (storage.AccountRow, error) {
	find := s.accountOfName
	if s.HasEmail() && strings.Index(user, "@") > 0 {
		find = s.accountOfEmail
	}
	a, target, err := find(ctx, user)
	if err != nil {
		return storage.AccountRow{}, err
	}
	try, err := s.guessFrom(ctx, a, target, network)
	if err != nil {
		return storage.AccountRow{}, err
	}
	if a, err = s.checkPassword(ctx, a, password, try, false); err != nil {
		return storage.AccountRow{}, err
	}
	fresh, err := s.rehash(ctx, a, password)
	if err != nil || fresh == "" {
		return a, err
	}
	was := a.Password
	a.Password = fresh
	return a, s.write(ctx, func(w *write) error {
		now, _, err := w.Account(a.NID)
		if err != nil || now.Password != was { // changed in the meantime
			return err
		}
		return w.SetPassword(a.NID, fresh)
	})
}

// OffersPassword reports whether anybody can log in with only a password.
func (s *Service) OffersPassword() bool { return s.gate.OffersPassword() }

// needsSecond reports whether logging in to an account needs a second factor.
func (s *Service) needsSecond(ctx context.Context, a storage.AccountRow) (needed bool, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		needed, err = s.gate.NeedsSecond(tx, a)
		return err
	})
	return needed, err
}

// LoginToken logs in with a token from CreateLoginToken, which cannot be used again. The new session gets the evidence
// of the session that created the token.
//
// Errors: M_FORBIDDEN, M_LIMIT_EXCEEDED, M_USER_LOCKED.
func (s *Service) LoginToken(ctx context.Context, token string, n NewSession) (SignedIn, error) {
	try, err := s.gate.GuessToken(gate.LoginTokens, n.Network)
	if err != nil {
		return SignedIn{}, err
	}
	in, err := s.signIn(ctx, n, func(w *write) (gate.Attempt, error) {
		t, found, err := w.TakeLoginToken(keyOf(token).String())
		if err == nil && !found {
			s.failed(ctx, "", "unknown login token")
			err = mxerr.Forbidden("The login token is unknown or has expired")
		}
		return gate.Attempt{Path: gate.PathLoginToken, User: t.User, Shown: gate.Evidence(t.Evidence), Upstream: t.Upstream, Network: n.Network, Guess: try}, err
	})
	if mxerr.Code(err) != mxerr.CodeForbidden {
		try.Right()
	}
	return in, err
}

// checkPassword checks the password of an account, and returns the account, which the first sign-in of a user of the
// LDAP directory creates. The attempt counts only if the password is wrong. If more is set, the account also needs a
// second factor: a correct password is then treated like a wrong one, at the same cost.
//
// Errors: M_FORBIDDEN, M_LIMIT_EXCEEDED; 502 M_CONNECTION_FAILED if the directory cannot be asked.
func (s *Service) checkPassword(ctx context.Context, named storage.AccountRow, password string, try *gate.Guess, more bool) (storage.AccountRow, error) {
	a, good, err := s.comparePassword(ctx, named, password)
	switch {
	case err != nil: // nothing was compared
		try.Right()
		return storage.AccountRow{}, fmt.Errorf("check password of %s: %w", named.Localpart, err)
	case more:
		s.failed(ctx, a.Localpart, "password without a second factor")
		return storage.AccountRow{}, errWrongPassword()
	case !good || a.DeactivatedTS != 0:
		s.failed(ctx, a.Localpart, whyRefused(a))
		return storage.AccountRow{}, errWrongPassword()
	}
	try.Right()
	return a, nil
}

// failed logs a failed attempt to log in, and records it in the audit log. The client does not get the reason. A name
// that no account has is left out, since it may be a password that was typed in the wrong field.
func (s *Service) failed(ctx context.Context, name, reason string) {
	if reason == noSuchUser {
		name = ""
	}
	s.opts.Audit.Failed(ctx, name, reason)
	s.opts.Log.InfoContext(ctx, "sign-in failed", "user", name, "reason", reason)
}

// noSuchUser is the reason if there is no such account.
const noSuchUser = "no such user"

// whyRefused returns the reason why a password was rejected, for the log.
func whyRefused(a storage.AccountRow) string {
	switch {
	case a.NID == 0:
		return noSuchUser
	case a.DeactivatedTS != 0:
		return "deactivated account"
	case !a.HasPassword():
		return "account without password"
	}
	return "wrong password"
}

// accountToSignIn returns the account that a client names. It looks for the exact localpart first, since historical
// ones may contain capitals. For an unknown name it returns an account without a password.
func (s *Service) accountToSignIn(ctx context.Context, user string) (a storage.AccountRow, err error) {
	localpart, ours := s.localpartOf(user)
	if !ours || len(localpart) > maxUserID {
		return a, nil
	}
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		for _, name := range []string{localpart, foldName(localpart)} {
			var found bool
			if a, found, err = tx.AccountByLocalpart(name); err != nil || found {
				return err
			}
		}
		a.Localpart = foldName(localpart) // guesses at unknown accounts count too
		return nil
	})
	if err != nil {
		err = fmt.Errorf("read account: %w", err)
	}
	return a, err
}

// accountOfName is accountToSignIn for guesses at the password. They count for target, the name of the account.
func (s *Service) accountOfName(ctx context.Context, user string) (a storage.AccountRow, target string, err error) {
	a, err = s.accountToSignIn(ctx, user)
	return a, a.Localpart, err
}

// SignIn creates a session for a user whose evidence another package has checked, on a path of that package. If also is
// not nil, it is called in the same write after the session has been created, so that it can mark the evidence as used.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED, M_INVALID_PARAM, and those of also.
func (s *Service) SignIn(ctx context.Context, at gate.Attempt, n NewSession, also func(tx *storage.Tx, in SignedIn) error) (SignedIn, error) {
	if n.Network == "" {
		n.Network = at.Network
	}
	return s.signIn(ctx, n, func(*write) (gate.Attempt, error) { return at, nil }, also)
}

// signIn creates the session for every kind of login to an existing account. It calls shown within its write, which
// returns the attempt on which the gate decides.
func (s *Service) signIn(ctx context.Context, n NewSession, shown func(*write) (gate.Attempt, error), also ...func(*storage.Tx, SignedIn) error) (SignedIn, error) {
	if err := n.check(); err != nil {
		return SignedIn{}, err
	}
	var out SignedIn
	err := s.write(ctx, func(w *write) error {
		at, err := shown(w)
		if err != nil {
			return err
		}
		if out, err = s.admit(w, at, n); err != nil {
			return err
		}
		for _, f := range also {
			if f == nil {
				continue
			}
			if err := f(w.Tx, out); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return SignedIn{}, err
	}
	return out, nil
}

// admit asks the gate whether the attempt may succeed, and starts the session if so.
func (s *Service) admit(w *write, at gate.Attempt, n NewSession) (SignedIn, error) {
	pass, err := s.gate.Admit(w.Tx, at)
	if err != nil {
		return SignedIn{}, err
	}
	return s.startSession(w, pass, n)
}

func (n NewSession) check() error {
	if err := checkText("device_id", string(n.Device), maxName); err != nil {
		return err
	}
	return checkText("initial_device_display_name", n.DisplayName, maxName)
}

// startSession creates new tokens for a device. The old tokens of an existing device become invalid.
func (s *Service) startSession(w *write, pass gate.Pass, n NewSession) (SignedIn, error) {
	if n.Device == "" {
		n.Device = id.DeviceID(letters(upperAlphabet, 10))
	}
	a := pass.Account()
	nid, isNew, err := s.device(w, a.NID, n)
	if err != nil {
		return SignedIn{}, err
	}
	if err := s.opts.Notices.SignedIn(w.Tx, notices.SignIn{
		User: a.NID, Device: nid, DeviceID: string(n.Device), Name: n.DisplayName, New: isNew, Quiet: quiet[pass.Attempt().Path] || a.Guest, Network: n.Network,
	}); err != nil {
		return SignedIn{}, err
	}
	tokens, err := pass.Tokens(nid, s.tokenOptions(n))
	w.note("signed in", "user", s.UserID(a.Localpart), "device", n.Device, "path", pass.Attempt().Path)
	return SignedIn{User: s.UserID(a.Localpart), Device: n.Device, Tokens: tokens}, err
}

// quiet has the paths of which users are not alerted: they have just registered, or an application service or an
// administrator has done it.
var quiet = map[gate.Path]bool{
	gate.PathRegister: true, gate.PathGuest: true, gate.PathSharedSecret: true, gate.PathAppService: true, gate.PathMachine: true,
}

// tokenOptions returns which tokens a session gets. Without refresh tokens, access tokens do not expire.
func (s *Service) tokenOptions(n NewSession) gate.TokenOptions {
	o := gate.TokenOptions{Refresh: n.Refresh, Lifetime: n.Lifetime, Family: n.Family}
	if n.Refresh && n.Lifetime == 0 {
		o.Lifetime = s.opts.AccessTokenLifetime
	}
	return o
}

// device finds or creates the device of a new session, and reports whether it is new.
func (s *Service) device(w *write, user ident.UserNID, n NewSession) (nid ident.DeviceNID, isNew bool, err error) {
	d, known, err := w.Device(user, string(n.Device))
	if err != nil {
		return 0, false, err
	}
	if known {
		w.after(func() { s.sessions.dropDevice(user, d.NID) })
		return d.NID, false, w.DeleteDeviceTokens(d.NID)
	}
	nid, err = s.newDevice(w, user, n)
	return nid, true, err
}

// newDevice creates a device. If the user has too many, those that have been unused longest are deleted.
func (s *Service) newDevice(w *write, user ident.UserNID, n NewSession) (ident.DeviceNID, error) {
	if err := refuseKeyName(w.Tx, user, n.Device); err != nil {
		return 0, err
	}
	var name *string
	if n.DisplayName != "" {
		name = &n.DisplayName
	}
	nid, err := w.AddDevice(user, string(n.Device), name)
	if err != nil {
		return 0, err
	}
	if err := s.dropIdleDevices(w, user); err != nil {
		return 0, err
	}
	return nid, w.devicesChanged(user, string(n.Device))
}

// refuseKeyName returns an error if a device ID is the public part of one of the user's cross-signing keys.
// Spec: client-server-api#post_matrixclientv3login device_id
func refuseKeyName(tx *storage.Tx, user ident.UserNID, device id.DeviceID) error {
	stored, err := tx.CrossSigningKeys(user)
	if err != nil {
		return err
	}
	for _, raw := range stored {
		var key struct {
			Keys map[id.KeyID]string `json:"keys"`
		}
		if err := json.Unmarshal([]byte(raw), &key); err != nil {
			return fmt.Errorf("read cross-signing key: %w", err)
		}
		for _, public := range key.Keys {
			if public == string(device) {
				return mxerr.Forbidden("This device ID is the name of one of your cross-signing keys; choose another one")
			}
		}
	}
	return nil
}

// Refresh creates new tokens for the device of a refresh token. The old ones remain valid until one of the new ones is
// used, so that a client that did not get the response can repeat the request.
//
// Errors: M_UNKNOWN_TOKEN, M_USER_LOCKED.
func (s *Service) Refresh(ctx context.Context, refreshToken string) (Tokens, error) {
	return s.Renew(ctx, gate.PathRefresh, refreshToken, func(_ *storage.Tx, t storage.RefreshTokenRow) (gate.TokenOptions, error) {
		if p := gate.Path(t.Path); p == gate.PathCode || p == gate.PathDevice { // bound to a client ID, which this request does not have
			return gate.TokenOptions{}, mxerr.UnknownToken(false)
		}
		return gate.TokenOptions{Lifetime: s.opts.AccessTokenLifetime}, nil
	})
}

// Renew is Refresh on any path. options is called within the write, and decides which tokens the session gets, or
// returns an error if this refresh token cannot be used on this path.
//
// Errors: M_UNKNOWN_TOKEN, M_USER_LOCKED, and those of options.
func (s *Service) Renew(ctx context.Context, path gate.Path, refreshToken string, options func(*storage.Tx, storage.RefreshTokenRow) (gate.TokenOptions, error)) (out Tokens, err error) {
	err = s.write(ctx, func(w *write) error {
		t, found, err := w.RefreshToken(keyOf(refreshToken).String())
		if err != nil {
			return err
		}
		if !found {
			s.failed(ctx, "", "unknown refresh token")
			return mxerr.UnknownToken(s.opts.DB.ForgotTokens())
		}
		pass, err := s.gate.Admit(w.Tx, gate.Attempt{Path: path, User: t.User, Shown: gate.Evidence(t.Evidence)})
		if err != nil {
			return err
		}
		if t.Unused { // the first use of the new token
			w.after(func() { s.sessions.dropDevice(t.User, t.Device) })
			err = w.RetireTokens(t.Device)
		} else {
			err = w.DropUnusedTokens(t.Device)
		}
		if err != nil {
			return err
		}
		o, err := options(w.Tx, t)
		if err != nil {
			return err
		}
		o.Refresh, o.Unused = true, true
		out, err = pass.Tokens(t.Device, o)
		return err
	})
	if err != nil {
		return Tokens{}, err
	}
	return out, nil
}

// loginTokenLifetime is how long a login token is valid.
// Spec: client-server-api#post_matrixclientv1loginget_token
const loginTokenLifetime = 2 * time.Minute

// CreateLoginToken creates a token with which a user can log in on one more device. The new session gets the evidence
// of this session.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED.
func (s *Service) CreateLoginToken(ctx context.Context, who ident.Requester) (token string, lifetime time.Duration, err error) {
	err = s.write(ctx, func(w *write) error {
		pass, err := s.admitHandOver(w.Tx, who)
		if err != nil {
			return err
		}
		w.note("login token made", "user", who.UserID)
		token, err = pass.LoginToken(loginTokenLifetime)
		return err
	})
	return token, loginTokenLifetime, err
}

// MayCreateLoginToken returns an error if CreateLoginToken would refuse this session, so that its user is not asked to
// confirm a request that fails.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED.
func (s *Service) MayCreateLoginToken(ctx context.Context, who ident.Requester) error {
	return s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		_, err := s.admitHandOver(tx, who)
		return err
	})
}

// admitHandOver asks the gate whether a session may create a login token.
func (s *Service) admitHandOver(tx *storage.Tx, who ident.Requester) (gate.Pass, error) {
	shown, err := tx.Evidence(who.DeviceNID)
	if err != nil {
		return gate.Pass{}, err
	}
	upstream, err := tx.Upstream(who.DeviceNID)
	if err != nil {
		return gate.Pass{}, err
	}
	return s.gate.Admit(tx, gate.Attempt{Path: gate.PathHandOver, User: who.UserNID, Shown: gate.Evidence(shown), Upstream: upstream})
}
