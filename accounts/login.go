package accounts

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// NewSession describes the device that a user signs in on.
type NewSession struct {
	Network     string      // the client's network, for Budgets
	Device      id.DeviceID // "": a new device
	DisplayName string      // of a new device
	Refresh     bool        // the client supports refreshing its access token
}

// Tokens are the tokens of a session.
type Tokens struct {
	Access    string
	Refresh   string        // "" if the client does not refresh
	ExpiresIn time.Duration // of the access token; 0: never
}

// SignedIn is the result of signing in or registering.
type SignedIn struct {
	User   id.UserID
	Device id.DeviceID // "" if nobody was signed in
	Tokens
}

// errWrongPassword returns the same error for a wrong password and for accounts that do not exist, were deactivated or
// have no password, so that names cannot be guessed.
func errWrongPassword() error { return mxerr.Forbidden("Wrong username or password") }

// LoginPassword signs in with a password. The user of who is a localpart or a user ID.
//
// Errors: M_FORBIDDEN, M_LIMIT_EXCEEDED, M_USER_LOCKED, M_MISSING_PARAM, M_INVALID_PARAM.
func (s *Service) LoginPassword(ctx context.Context, who Identifier, password string, n NewSession) (SignedIn, error) {
	checked, err := s.accountOf(ctx, who)
	if err != nil {
		return SignedIn{}, err
	}
	try, err := s.guessFrom(ctx, checked, n.Network)
	if err != nil {
		return SignedIn{}, err
	}
	if err := s.checkPassword(ctx, checked, password, try); err != nil {
		return SignedIn{}, err
	}
	return s.signIn(ctx, n, func(w *write) (ident.UserNID, error) {
		a, _, err := w.Account(checked.NID)
		if err == nil && a.Password != checked.Password { // changed in the meantime
			err = errWrongPassword()
		}
		return checked.NID, err
	})
}

// LoginToken signs in with a token of CreateLoginToken, which cannot be used again.
//
// Errors: M_FORBIDDEN, M_LIMIT_EXCEEDED, M_USER_LOCKED.
func (s *Service) LoginToken(ctx context.Context, token string, n NewSession) (SignedIn, error) {
	try, err := s.guessToken("login token", n.Network)
	if err != nil {
		return SignedIn{}, err
	}
	in, err := s.signIn(ctx, n, func(w *write) (ident.UserNID, error) {
		nid, found, err := w.TakeLoginToken(keyOf(token).String())
		if err == nil && !found {
			s.failed(ctx, "", "unknown login token")
			err = mxerr.Forbidden("The login token is unknown or has expired")
		}
		return nid, err
	})
	if mxerr.Code(err) != mxerr.CodeForbidden {
		try.takeBack()
	}
	return in, err
}

// checkPassword checks the password of an account. The attempt counts only if the password is wrong.
//
// Errors: M_FORBIDDEN, M_LIMIT_EXCEEDED.
func (s *Service) checkPassword(ctx context.Context, a storage.AccountRow, password string, try attempt) error {
	good, err := s.hasher.verify(ctx, password, a.Password)
	switch {
	case err != nil: // nothing was compared
		try.takeBack()
		return fmt.Errorf("check password of %s: %w", a.Localpart, err)
	case !good || a.DeactivatedTS != 0:
		s.failed(ctx, a.Localpart, whyRefused(a))
		return errWrongPassword()
	}
	try.takeBack()
	return nil
}

// failed logs a failed attempt to sign in. The client does not get the reason.
func (s *Service) failed(ctx context.Context, name, reason string) {
	s.opts.Log.InfoContext(ctx, "sign-in failed", "user", name, "reason", reason)
}

// whyRefused returns the reason why a password was rejected.
func whyRefused(a storage.AccountRow) string {
	switch {
	case a.NID == 0:
		return "no such user"
	case a.DeactivatedTS != 0:
		return "deactivated account"
	case a.Password == "":
		return "account without password"
	}
	return "wrong password"
}

// accountToSignIn finds the account that a client names: first by the exact localpart, since historical ones may have
// capitals. For an unknown name it returns an account without password.
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

// signIn creates the session for every kind of sign-in. who returns the user to sign in.
func (s *Service) signIn(ctx context.Context, n NewSession, who func(*write) (ident.UserNID, error)) (SignedIn, error) {
	if err := n.check(); err != nil {
		return SignedIn{}, err
	}
	var out SignedIn
	err := s.write(ctx, func(w *write) error {
		nid, err := who(w)
		if err != nil {
			return err
		}
		a, found, err := w.Account(nid)
		if err != nil {
			return err
		}
		if !found || a.DeactivatedTS != 0 {
			return errWrongPassword()
		}
		if a.Locked {
			return mxerr.UserLocked()
		}
		out, err = s.startSession(w, a, n)
		return err
	})
	if err != nil {
		return SignedIn{}, err
	}
	return out, nil
}

func (n NewSession) check() error {
	if err := checkText("device_id", string(n.Device), maxName); err != nil {
		return err
	}
	return checkText("initial_device_display_name", n.DisplayName, maxName)
}

// startSession issues new tokens for a device; an existing device loses its old ones.
func (s *Service) startSession(w *write, a storage.AccountRow, n NewSession) (SignedIn, error) {
	if n.Device == "" {
		n.Device = id.DeviceID(letters(upperAlphabet, 10))
	}
	nid, err := s.device(w, a.NID, n)
	if err != nil {
		return SignedIn{}, err
	}
	tokens, err := s.issueTokens(w, a.NID, nid, n.Refresh, false)
	w.note("signed in", "user", s.UserID(a.Localpart), "device", n.Device)
	return SignedIn{User: s.UserID(a.Localpart), Device: n.Device, Tokens: tokens}, err
}

// device finds or creates the device of a new session.
func (s *Service) device(w *write, user ident.UserNID, n NewSession) (ident.DeviceNID, error) {
	d, known, err := w.Device(user, string(n.Device))
	if err != nil {
		return 0, err
	}
	if known {
		w.after(func() { s.sessions.dropDevice(user, d.NID) })
		return d.NID, w.DeleteDeviceTokens(d.NID)
	}
	return s.newDevice(w, user, n)
}

// newDevice creates a device. A user with too many loses those that have been unused longest.
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

// issueTokens creates tokens for a device. With unused, they come from a refresh, and the previous ones remain valid.
func (s *Service) issueTokens(w *write, user ident.UserNID, device ident.DeviceNID, refresh, unused bool) (Tokens, error) {
	t := Tokens{Access: secret("ebb_a_", 32)}
	expires := int64(0)
	if refresh {
		t.Refresh = secret("ebb_r_", 32)
		t.ExpiresIn = s.opts.AccessTokenLifetime
		expires = s.opts.Now().Add(t.ExpiresIn).UnixMilli()
		if err := w.AddRefreshToken(keyOf(t.Refresh).String(), user, device, unused); err != nil {
			return t, err
		}
	}
	return t, w.AddAccessToken(keyOf(t.Access).String(), user, device, expires, unused)
}

// Refresh issues new tokens for the device of a refresh token. The old ones remain valid until one of the new ones is
// used, so that a client that did not get the response can ask again.
//
// Errors: M_UNKNOWN_TOKEN, M_USER_LOCKED.
func (s *Service) Refresh(ctx context.Context, refreshToken string) (Tokens, error) {
	var out Tokens
	err := s.write(ctx, func(w *write) error {
		t, found, err := w.RefreshToken(keyOf(refreshToken).String())
		if err != nil {
			return err
		}
		if !found {
			s.failed(ctx, "", "unknown refresh token")
			return mxerr.UnknownToken(false)
		}
		if a, _, err := w.Account(t.User); err != nil {
			return err
		} else if a.Locked {
			return mxerr.UserLocked()
		}
		if t.Unused { // its first use
			w.after(func() { s.sessions.dropDevice(t.User, t.Device) })
			err = w.RetireTokens(t.Device)
		} else {
			err = w.DropUnusedTokens(t.Device)
		}
		if err != nil {
			return err
		}
		out, err = s.issueTokens(w, t.User, t.Device, true, true)
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

// CreateLoginToken creates a token that signs in one further device of a user.
func (s *Service) CreateLoginToken(ctx context.Context, user ident.UserNID) (string, time.Duration, error) {
	token := secret("ebb_l_", 32)
	err := s.write(ctx, func(w *write) error {
		name, err := w.UserID(user)
		if err != nil {
			return err
		}
		w.note("login token made", "user", name)
		return w.AddLoginToken(keyOf(token).String(), user, s.opts.Now().Add(loginTokenLifetime).UnixMilli())
	})
	return token, loginTokenLifetime, err
}
