package storage

import "ebb/ident"

// OAuthClient is a registered OAuth 2.0 client.
type OAuthClient struct {
	ID       string
	Metadata string // JSON
	UsedTS   int64  // ms
}

const oauthClientColumns = `SELECT client_id, metadata, used_ts FROM oauth_clients `

func scanOAuthClient(r Row) (c OAuthClient, err error) {
	err = r.Scan(&c.ID, &c.Metadata, &c.UsedTS)
	return c, err
}

// OAuthClient finds a client by its ID.
func (tx *Tx) OAuthClient(clientID string) (OAuthClient, bool, error) {
	return one(tx, scanOAuthClient, oauthClientColumns+`WHERE client_id = $1`, clientID)
}

// OAuthClientByHash finds the client whose registered metadata has the given hash.
func (tx *Tx) OAuthClientByHash(hash string) (OAuthClient, bool, error) {
	return one(tx, scanOAuthClient, oauthClientColumns+`WHERE hash = $1`, hash)
}

// AddOAuthClient stores a client. It returns false if one with the same hash exists.
func (tx *Tx) AddOAuthClient(c OAuthClient, hash string) (bool, error) {
	n, err := tx.exec(`INSERT INTO oauth_clients (client_id, hash, metadata, used_ts) VALUES ($1, $2, $3, $4) ON CONFLICT (hash) DO NOTHING`,
		c.ID, hash, c.Metadata, c.UsedTS)
	return n == 1, err
}

// OAuthClientUsed records when (ms) a client was last used.
func (tx *Tx) OAuthClientUsed(clientID string, ts int64) error {
	_, err := tx.exec(`UPDATE oauth_clients SET used_ts = $2 WHERE client_id = $1`, clientID, ts)
	return err
}

// CountOAuthClients returns the number of clients.
func (tx *Tx) CountOAuthClients() (int64, error) {
	n, _, err := one(tx, scanNumber[int64], `SELECT count(*) FROM oauth_clients`)
	return n, err
}

const dropOAuthClientsQuery = `DELETE FROM oauth_clients WHERE client_id IN (SELECT c.client_id FROM oauth_clients c WHERE c.used_ts < $1
AND NOT EXISTS (SELECT 1 FROM oauth_sessions s WHERE s.client_id = c.client_id) ORDER BY c.used_ts, c.client_id LIMIT $2)`

// DropOAuthClients deletes at most limit clients that have no sessions and were last used before a time (ms), those
// unused longest first. It returns their number.
func (tx *Tx) DropOAuthClients(before int64, limit int) (int64, error) {
	return tx.exec(dropOAuthClientsQuery, before, limit)
}

// OAuthSession is a session of a device that signed in with OAuth 2.0. All refresh tokens of a session have the same
// family, a random name. The generation increases each time they are replaced.
type OAuthSession struct {
	Device     ident.DeviceNID
	Client     string
	Scope      string
	Family     string // hash of the family's name
	Generation int64
	CreatedTS  int64 // ms
	UsedTS     int64 // ms; when the session was last refreshed
	User       ident.UserNID
	DeviceID   string
}

const oauthSessionColumns = `SELECT s.device_nid, s.client_id, s.scope, s.family, s.generation, s.created_ts, s.used_ts, d.user_nid, d.device_id
FROM oauth_sessions s JOIN devices d ON d.nid = s.device_nid `

func scanOAuthSession(r Row) (s OAuthSession, err error) {
	err = r.Scan(&s.Device, &s.Client, &s.Scope, &s.Family, &s.Generation, &s.CreatedTS, &s.UsedTS, &s.User, &s.DeviceID)
	return s, err
}

// OAuthSession finds the OAuth 2.0 session of a device.
func (tx *Tx) OAuthSession(device ident.DeviceNID) (OAuthSession, bool, error) {
	return one(tx, scanOAuthSession, oauthSessionColumns+`WHERE s.device_nid = $1`, int64(device))
}

// OAuthSessionOf finds the session whose refresh tokens belong to a family, given as a hash.
func (tx *Tx) OAuthSessionOf(family string) (OAuthSession, bool, error) {
	return one(tx, scanOAuthSession, oauthSessionColumns+`WHERE s.family = $1`, family)
}

const addOAuthSessionQuery = `INSERT INTO oauth_sessions (device_nid, client_id, scope, family, generation, created_ts, used_ts) VALUES ($1, $2, $3, $4, $5, $6, $6)`

// AddOAuthSession stores a new session. Its device must not have one yet.
func (tx *Tx) AddOAuthSession(s OAuthSession) error {
	_, err := tx.exec(addOAuthSessionQuery, int64(s.Device), s.Client, s.Scope, s.Family, s.Generation, tx.now.UnixMilli())
	return err
}

// OAuthDeviceClient is the client with which a device was signed in.
type OAuthDeviceClient struct{ DeviceID, Metadata string }

const oauthClientsOfQuery = `SELECT d.device_id, c.metadata FROM devices d JOIN oauth_sessions s ON s.device_nid = d.nid
JOIN oauth_clients c ON c.client_id = s.client_id WHERE d.user_nid = $1 ORDER BY d.device_id LIMIT $2`

// OAuthClientsOf returns the clients with which at most limit devices of a user were signed in.
func (tx *Tx) OAuthClientsOf(user ident.UserNID, limit int) ([]OAuthDeviceClient, error) {
	return collect(tx, func(r Row) (c OAuthDeviceClient, err error) { err = r.Scan(&c.DeviceID, &c.Metadata); return c, err }, oauthClientsOfQuery, int64(user), limit)
}

// OAuthSessionUsed records that a session was refreshed now.
func (tx *Tx) OAuthSessionUsed(device ident.DeviceNID) error {
	_, err := tx.exec(`UPDATE oauth_sessions SET used_ts = $2 WHERE device_nid = $1`, int64(device), tx.now.UnixMilli())
	return err
}

const (
	idleOAuthSessionsQuery = oauthSessionColumns + `WHERE s.used_ts <= $1 ORDER BY s.used_ts LIMIT $2`
	oldOAuthSessionsQuery  = oauthSessionColumns + `WHERE s.created_ts <= $1 ORDER BY s.created_ts LIMIT $2`
)

// IdleOAuthSessions returns at most limit sessions that were last refreshed at or before a time (ms).
func (tx *Tx) IdleOAuthSessions(since int64, limit int) ([]OAuthSession, error) {
	return collect(tx, scanOAuthSession, idleOAuthSessionsQuery, since, limit)
}

// OldOAuthSessions returns at most limit sessions that began at or before a time (ms).
func (tx *Tx) OldOAuthSessions(since int64, limit int) ([]OAuthSession, error) {
	return collect(tx, scanOAuthSession, oldOAuthSessionsQuery, since, limit)
}

// OAuthCode is an authorization code.
type OAuthCode struct {
	Client, RedirectURI, Challenge, Scope, DeviceID string
	Nonce                                           string // of the ID token
	User                                            ident.UserNID
	Evidence                                        int64
	Upstream                                        string // the session of an identity provider from which the user's session began, or ""
	ExpiresTS                                       int64  // ms
	Family                                          string // of the session for which the code was used; "": it was not used
}

const addOAuthCodeQuery = `INSERT INTO oauth_codes (hash, client_id, redirect_uri, challenge, scope, device_id, user_nid, evidence, expires_ts, nonce, upstream)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`

// AddOAuthCode stores an authorization code, of which the database has only the hash.
func (tx *Tx) AddOAuthCode(hash string, c OAuthCode) error {
	_, err := tx.exec(addOAuthCodeQuery, hash, c.Client, c.RedirectURI, c.Challenge, c.Scope, c.DeviceID, int64(c.User), c.Evidence, c.ExpiresTS, c.Nonce, c.Upstream)
	return err
}

const oauthCodeQuery = `SELECT client_id, redirect_uri, challenge, scope, device_id, user_nid, evidence, expires_ts, family, nonce, upstream FROM oauth_codes WHERE hash = $1`

// OAuthCode finds an authorization code by its hash, even if the code was used or has expired.
func (tx *Tx) OAuthCode(hash string) (OAuthCode, bool, error) {
	return one(tx, func(r Row) (c OAuthCode, err error) {
		err = r.Scan(&c.Client, &c.RedirectURI, &c.Challenge, &c.Scope, &c.DeviceID, &c.User, &c.Evidence, &c.ExpiresTS, &c.Family, &c.Nonce, &c.Upstream)
		return c, err
	}, oauthCodeQuery, hash)
}

// UseOAuthCode marks a code as used for the session with the given family. It returns false if the code was used before
// or does not exist.
func (tx *Tx) UseOAuthCode(hash, family string) (bool, error) {
	n, err := tx.exec(`UPDATE oauth_codes SET family = $2 WHERE hash = $1 AND family = ''`, hash, family)
	return n == 1, err
}

const dropOAuthCodesQuery = `DELETE FROM oauth_codes WHERE hash IN (SELECT hash FROM oauth_codes WHERE expires_ts <= $1 ORDER BY expires_ts LIMIT $2)`

// DropOAuthCodes deletes at most limit codes that expired at or before a time (ms).
func (tx *Tx) DropOAuthCodes(by int64, limit int) error {
	_, err := tx.exec(dropOAuthCodesQuery, by, limit)
	return err
}

// The states of a device code.
const (
	DeviceCodePending  = 0
	DeviceCodeApproved = 1
	DeviceCodeDenied   = 2
)

// OAuthDeviceCode is a request for authorization by a device without a browser (RFC 8628): the device polls with a
// device code, while the user enters a user code on another device.
type OAuthDeviceCode struct {
	Client, Scope, DeviceID, Addr string
	ExpiresTS                     int64 // ms
	Pause                         int64 // the shortest time between two polls, in ms
	PolledTS                      int64 // ms; when the device polled last
	State                         int64
	User                          ident.UserNID // who approved
	Evidence                      int64
	Upstream                      string // the session of an identity provider from which that user's session began, or ""
}

const addOAuthDeviceCodeQuery = `INSERT INTO oauth_device_codes (hash, user_code, client_id, scope, device_id, addr, expires_ts, pause)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (user_code) DO NOTHING`

// AddOAuthDeviceCode stores a request. The database has only the hashes of its device code and of its user code.
// AddOAuthDeviceCode returns false if the user code is in use.
func (tx *Tx) AddOAuthDeviceCode(hash, userCode string, c OAuthDeviceCode) (bool, error) {
	n, err := tx.exec(addOAuthDeviceCodeQuery, hash, userCode, c.Client, c.Scope, c.DeviceID, c.Addr, c.ExpiresTS, c.Pause)
	return n == 1, err
}

const oauthDeviceCodeColumns = `SELECT client_id, scope, device_id, addr, expires_ts, pause, polled_ts, state, user_nid, evidence, upstream FROM oauth_device_codes `

func scanOAuthDeviceCode(r Row) (c OAuthDeviceCode, err error) {
	err = r.Scan(&c.Client, &c.Scope, &c.DeviceID, &c.Addr, &c.ExpiresTS, &c.Pause, &c.PolledTS, &c.State, &c.User, &c.Evidence, &c.Upstream)
	return c, err
}

// OAuthDeviceCode finds a request by the hash of its device code.
func (tx *Tx) OAuthDeviceCode(hash string) (OAuthDeviceCode, bool, error) {
	return one(tx, scanOAuthDeviceCode, oauthDeviceCodeColumns+`WHERE hash = $1`, hash)
}

// OAuthDeviceCodeOf finds a request by the hash of its user code.
func (tx *Tx) OAuthDeviceCodeOf(userCode string) (OAuthDeviceCode, bool, error) {
	return one(tx, scanOAuthDeviceCode, oauthDeviceCodeColumns+`WHERE user_code = $1`, userCode)
}

// PollOAuthDeviceCode records that a device has polled now, and how long (ms) it must wait before it polls again.
func (tx *Tx) PollOAuthDeviceCode(hash string, pause int64) error {
	_, err := tx.exec(`UPDATE oauth_device_codes SET polled_ts = $2, pause = $3 WHERE hash = $1`, hash, tx.now.UnixMilli(), pause)
	return err
}

const decideOAuthDeviceCodeQuery = `UPDATE oauth_device_codes SET state = $2, user_nid = $3, evidence = $4, upstream = $5 WHERE user_code = $1 AND state = 0 AND expires_ts > $6`

// DecideOAuthDeviceCode approves or denies the pending request with the given user code. It returns false if the
// request is not pending.
func (tx *Tx) DecideOAuthDeviceCode(userCode string, state int64, by WebSession) (bool, error) {
	n, err := tx.exec(decideOAuthDeviceCodeQuery, userCode, state, int64(by.User), by.Evidence, by.Upstream, tx.now.UnixMilli())
	return n == 1, err
}

// DropOAuthDeviceCode deletes a request by the hash of its device code. It returns false if there is none.
func (tx *Tx) DropOAuthDeviceCode(hash string) (bool, error) {
	n, err := tx.exec(`DELETE FROM oauth_device_codes WHERE hash = $1`, hash)
	return n == 1, err
}

// CountOAuthDeviceCodes returns the number of stored requests.
func (tx *Tx) CountOAuthDeviceCodes() (int64, error) {
	n, _, err := one(tx, scanNumber[int64], `SELECT count(*) FROM oauth_device_codes`)
	return n, err
}

const dropOAuthDeviceCodesQuery = `DELETE FROM oauth_device_codes WHERE hash IN (SELECT hash FROM oauth_device_codes WHERE expires_ts <= $1 ORDER BY expires_ts LIMIT $2)`

// DropOAuthDeviceCodes deletes at most limit device codes that expired at or before a time (ms).
func (tx *Tx) DropOAuthDeviceCodes(by int64, limit int) error {
	_, err := tx.exec(dropOAuthDeviceCodesQuery, by, limit)
	return err
}
