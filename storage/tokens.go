package storage

import "ebb/ident"

// TokenRow is an access token with its user and device.
type TokenRow struct {
	NID       int64
	User      ident.UserNID
	UserID    string
	Admin     bool
	Locked    bool
	Suspended bool
	Guest     bool
	Device    ident.DeviceNID
	DeviceID  string
	ExpiresTS int64 // ms; 0 means never
	Unused    bool  // whether it was issued by a refresh and has not been used yet
}

const accessTokenQuery = `SELECT t.nid, t.user_nid, u.user_id, a.admin, a.locked, a.suspended, a.guest, t.device_nid, d.device_id, t.expires_ts, t.unused
FROM access_tokens t JOIN users u ON u.nid = t.user_nid JOIN accounts a ON a.nid = t.user_nid JOIN devices d ON d.nid = t.device_nid
WHERE t.hash = $1 AND a.deactivated_ts = 0`

// AccessToken finds the access token of an active account by its hash.
func (tx *Tx) AccessToken(hash string) (TokenRow, bool, error) {
	return one(tx, func(r Row) (t TokenRow, err error) {
		err = r.Scan(&t.NID, &t.User, &t.UserID, &t.Admin, &t.Locked, &t.Suspended, &t.Guest, &t.Device, &t.DeviceID, &t.ExpiresTS, &t.Unused)
		return t, err
	}, accessTokenQuery, hash)
}

const addAccessTokenQuery = `INSERT INTO access_tokens (nid, hash, user_nid, device_nid, expires_ts, unused) VALUES ($1, $2, $3, $4, $5, $6)`

// AddAccessToken stores the hash of an access token.
func (tx *Tx) AddAccessToken(hash string, user ident.UserNID, device ident.DeviceNID, expiresTS int64, unused bool) error {
	_, err := tx.exec(addAccessTokenQuery, int64(tx.NextPos()), hash, int64(user), int64(device), expiresTS, unused)
	return err
}

const addRefreshTokenQuery = `INSERT INTO refresh_tokens (nid, hash, user_nid, device_nid, unused) VALUES ($1, $2, $3, $4, $5)`

// AddRefreshToken stores the hash of a refresh token.
func (tx *Tx) AddRefreshToken(hash string, user ident.UserNID, device ident.DeviceNID, unused bool) error {
	_, err := tx.exec(addRefreshTokenQuery, int64(tx.NextPos()), hash, int64(user), int64(device), unused)
	return err
}

// RefreshTokenRow is a refresh token.
type RefreshTokenRow struct {
	NID      int64
	User     ident.UserNID
	Device   ident.DeviceNID
	Unused   bool
	Evidence int64  // the factors that the user has presented to sign in
	Path     string // on which the session began
}

const refreshTokenQuery = `SELECT t.nid, t.user_nid, t.device_nid, t.unused, d.evidence, d.path FROM refresh_tokens t JOIN devices d ON d.nid = t.device_nid WHERE t.hash = $1`

// RefreshToken finds a refresh token by its hash.
func (tx *Tx) RefreshToken(hash string) (RefreshTokenRow, bool, error) {
	return one(tx, func(r Row) (t RefreshTokenRow, err error) {
		err = r.Scan(&t.NID, &t.User, &t.Device, &t.Unused, &t.Evidence, &t.Path)
		return t, err
	}, refreshTokenQuery, hash)
}

// RetireTokens is called when a device first uses the tokens that it got by a refresh. It deletes the older tokens of
// the device. In an OAuth 2.0 session, it also begins the next generation of refresh tokens.
func (tx *Tx) RetireTokens(device ident.DeviceNID) error {
	for _, q := range []string{
		`DELETE FROM access_tokens WHERE device_nid = $1 AND unused = 0`,
		`DELETE FROM refresh_tokens WHERE device_nid = $1 AND unused = 0`,
		`UPDATE access_tokens SET unused = 0 WHERE device_nid = $1`,
		`UPDATE refresh_tokens SET unused = 0 WHERE device_nid = $1`,
		`UPDATE oauth_sessions SET generation = generation + 1 WHERE device_nid = $1`,
	} {
		if _, err := tx.exec(q, int64(device)); err != nil {
			return err
		}
	}
	return nil
}

// DropUnusedTokens deletes the tokens that a refresh issued and that have not been used.
func (tx *Tx) DropUnusedTokens(device ident.DeviceNID) error {
	if _, err := tx.exec(`DELETE FROM access_tokens WHERE device_nid = $1 AND unused = 1`, int64(device)); err != nil {
		return err
	}
	_, err := tx.exec(`DELETE FROM refresh_tokens WHERE device_nid = $1 AND unused = 1`, int64(device))
	return err
}

// DeleteDeviceTokens deletes all tokens of a device, its OAuth 2.0 session, and its requests that wait for approval.
func (tx *Tx) DeleteDeviceTokens(device ident.DeviceNID) error {
	for _, q := range []string{
		`DELETE FROM access_tokens WHERE device_nid = $1`,
		`DELETE FROM refresh_tokens WHERE device_nid = $1`,
		`DELETE FROM oauth_sessions WHERE device_nid = $1`,
		`DELETE FROM approvals WHERE device_nid = $1`,
	} {
		if _, err := tx.exec(q, int64(device)); err != nil {
			return err
		}
	}
	return tx.Note(LedgerTokens, int64(device), 0, "")
}

const addLoginTokenQuery = `INSERT INTO login_tokens (hash, user_nid, evidence, expires_ts, upstream) VALUES ($1, $2, $3, $4, $5)`

// AddLoginToken stores a single-use login token by its hash. It also deletes expired login tokens.
func (tx *Tx) AddLoginToken(hash string, t LoginToken, expiresTS int64) error {
	if _, err := tx.exec(`DELETE FROM login_tokens WHERE expires_ts <= $1`, tx.now.UnixMilli()); err != nil {
		return err
	}
	_, err := tx.exec(addLoginTokenQuery, hash, int64(t.User), t.Evidence, expiresTS, t.Upstream)
	return err
}

// LoginToken is a single-use login token.
type LoginToken struct {
	User     ident.UserNID
	Evidence int64  // the factors that the user who requested it had presented
	Upstream string // the session of an identity provider from which that user's session began, or ""
}

// TakeLoginToken deletes a login token and returns it. It returns false if the token is unknown or expired.
func (tx *Tx) TakeLoginToken(hash string) (t LoginToken, found bool, err error) {
	t, found, err = one(tx, func(r Row) (t LoginToken, err error) {
		err = r.Scan(&t.User, &t.Evidence, &t.Upstream)
		return t, err
	}, `SELECT user_nid, evidence, upstream FROM login_tokens WHERE hash = $1 AND expires_ts > $2`, hash, tx.now.UnixMilli())
	if err != nil || !found {
		return LoginToken{}, false, err
	}
	_, err = tx.exec(`DELETE FROM login_tokens WHERE hash = $1`, hash)
	return t, true, err
}

const (
	addOpenIDTokenQuery  = `INSERT INTO openid_tokens (hash, user_nid, expires_ts) VALUES ($1, $2, $3)`
	openIDTokenUserQuery = `SELECT user_nid FROM openid_tokens WHERE hash = $1 AND expires_ts > $2`
	// It uses the index openid_tokens_by_user.
	trimOpenIDTokensQuery = `DELETE FROM openid_tokens WHERE user_nid = $1 AND hash NOT IN
(SELECT hash FROM openid_tokens WHERE user_nid = $1 ORDER BY expires_ts DESC LIMIT $2)`
)

// AddOpenIDToken stores the hash of an OpenID token. It also deletes expired tokens, and all but the newest tokens of
// the user.
func (tx *Tx) AddOpenIDToken(hash string, user ident.UserNID, expires int64, keep int) error {
	if _, err := tx.exec(`DELETE FROM openid_tokens WHERE expires_ts <= $1`, tx.now.UnixMilli()); err != nil {
		return err
	}
	if _, err := tx.exec(trimOpenIDTokensQuery, int64(user), keep-1); err != nil {
		return err
	}
	_, err := tx.exec(addOpenIDTokenQuery, hash, int64(user), expires)
	return err
}

// OpenIDTokenUser returns the user of an OpenID token, unless it has expired at now (ms).
func (tx *Tx) OpenIDTokenUser(hash string, now int64) (user ident.UserNID, found bool, err error) {
	return one(tx, scanNumber[ident.UserNID], openIDTokenUserQuery, hash, now)
}

// DeleteOpenIDTokens deletes a user's OpenID tokens.
func (tx *Tx) DeleteOpenIDTokens(user ident.UserNID) error {
	_, err := tx.exec(`DELETE FROM openid_tokens WHERE user_nid = $1`, int64(user))
	return err
}

// DeleteLoginTokens deletes everything with which another device could be signed in without a password: a user's login
// tokens, authorization codes, approved device codes and sessions in browsers.
func (tx *Tx) DeleteLoginTokens(user ident.UserNID) error {
	return tx.DeleteLoginTokensExcept(user, "")
}

// DeleteLoginTokensExcept is like DeleteLoginTokens, but keeps the session in one browser, given by the hash of its
// cookie.
func (tx *Tx) DeleteLoginTokensExcept(user ident.UserNID, browser string) error {
	if _, err := tx.exec(`DELETE FROM login_tokens WHERE user_nid = $1`, int64(user)); err != nil {
		return err
	}
	return tx.EndBrowsers(user, browser)
}

// EndBrowsers deletes a user's sessions in browsers, except the one of the given hash, and the codes and the requests
// of clients that were approved in any of them and have not been used.
func (tx *Tx) EndBrowsers(user ident.UserNID, except string) error {
	for _, q := range []string{
		`DELETE FROM oauth_codes WHERE user_nid = $1`,
		`DELETE FROM oauth_device_codes WHERE user_nid = $1`,
		`DELETE FROM approvals WHERE user_nid = $1 AND approved_ts > 0`,
	} {
		if _, err := tx.exec(q, int64(user)); err != nil {
			return err
		}
	}
	_, err := tx.exec(`DELETE FROM web_sessions WHERE user_nid = $1 AND hash <> $2`, int64(user), except)
	return err
}
