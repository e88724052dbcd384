package storage

import "ebb/ident"

// SetSession records in which way the session of a device began (path), which factors its user has presented, and from
// which session of an identity provider it began, if any.
func (tx *Tx) SetSession(device ident.DeviceNID, path string, evidence int64, upstream string) error {
	_, err := tx.exec(`UPDATE devices SET path = $2, evidence = $3, upstream = $4 WHERE nid = $1`, int64(device), path, evidence, upstream)
	return err
}

// Upstream returns the session of an identity provider from which the session of a device began, or "".
func (tx *Tx) Upstream(device ident.DeviceNID) (string, error) {
	upstream, _, err := one(tx, scanString, `SELECT upstream FROM devices WHERE nid = $1`, int64(device))
	return upstream, err
}

// AddEvidence adds factors that the user of a device has presented.
func (tx *Tx) AddEvidence(device ident.DeviceNID, evidence int64) error {
	_, err := tx.exec(`UPDATE devices SET evidence = evidence | $2 WHERE nid = $1`, int64(device), evidence)
	return err
}

// Evidence returns the factors that the user of a device has presented.
func (tx *Tx) Evidence(device ident.DeviceNID) (int64, error) {
	e, _, err := one(tx, scanNumber[int64], `SELECT evidence FROM devices WHERE nid = $1`, int64(device))
	return e, err
}

// SetAccountMFA sets the policy of one account on second factors, and the time (ms) since which this policy requires
// one.
func (tx *Tx) SetAccountMFA(user ident.UserNID, mode string, sinceTS int64) error {
	_, err := tx.exec(`UPDATE accounts SET mfa = $2, mfa_since_ts = $3 WHERE nid = $1`, int64(user), mode, sinceTS)
	return err
}

// Names of the rows of meta that store when a second factor became required.
const (
	metaMFASince      = "mfa_required_since"
	metaAdminMFASince = "mfa_required_since_admins"
)

const metaNumberQuery = `SELECT value FROM meta WHERE name = $1`

// SecondFactorRequiredSince returns the times (ms) since which every user must have a second factor, and since which
// every administrator must have one. A time is 0 if none is recorded.
func (tx *Tx) SecondFactorRequiredSince() (all, administrators int64, err error) {
	err = tx.metaNumbers(map[string]*int64{metaMFASince: &all, metaAdminMFASince: &administrators})
	return all, administrators, err
}

// SetSecondFactorRequiredSince sets the times that SecondFactorRequiredSince returns.
func (tx *Tx) SetSecondFactorRequiredSince(all, administrators int64) error {
	return tx.setMetaNumbers(map[string]int64{metaMFASince: all, metaAdminMFASince: administrators})
}

// AnyAccountRequiresMFA reports whether any account has a policy of its own that requires a second factor. It uses the
// index accounts_mfa.
func (tx *Tx) AnyAccountRequiresMFA() (bool, error) {
	_, found, err := one(tx, scanNumber[int64], `SELECT nid FROM accounts WHERE mfa = 'required' ORDER BY nid LIMIT 1`)
	return found, err
}

// SessionRow is a session with the factors that its user has presented.
type SessionRow struct {
	Device   ident.DeviceNID
	Evidence int64
	Account  AccountRow
}

const sessionsQuery = `SELECT d.nid, d.evidence, a.nid, a.localpart, a.admin, a.mfa, a.mfa_since_ts FROM devices d JOIN accounts a ON a.nid = d.user_nid WHERE d.nid > $1
AND EXISTS (SELECT 1 FROM access_tokens t WHERE t.device_nid = d.nid AND (t.expires_ts = 0 OR t.expires_ts > $2)) ORDER BY d.nid LIMIT $3`

// Sessions returns a page of the sessions with an access token that has not expired, by device: at most limit of those
// after a device. Of the accounts it reads only the fields on which the policy on second factors depends.
func (tx *Tx) Sessions(after ident.DeviceNID, limit int) ([]SessionRow, error) {
	return collect(tx, func(r Row) (s SessionRow, err error) {
		a := &s.Account
		err = r.Scan(&s.Device, &s.Evidence, &a.NID, &a.Localpart, &a.Admin, &a.MFA, &a.MFASinceTS)
		return s, err
	}, sessionsQuery, int64(after), tx.now.UnixMilli(), limit)
}

const expireTokensQuery = `UPDATE access_tokens SET expires_ts = $2 WHERE device_nid = $1 AND (expires_ts = 0 OR expires_ts > $2)`

// ExpireTokens ends the access tokens of a device, which signs it out softly: it keeps its keys and can sign in again.
func (tx *Tx) ExpireTokens(device ident.DeviceNID) error {
	_, err := tx.exec(expireTokensQuery, int64(device), tx.now.UnixMilli())
	return err
}

// MachineSession is a session that an administrator has given to a program.
type MachineSession struct {
	Device    ident.DeviceNID
	UserID    string
	DeviceID  string
	CreatedTS int64 // ms
	SeenTS    int64 // ms
	ExpiresTS int64 // ms; 0: never
}

const machineSessionsQuery = `SELECT d.nid, u.user_id, d.device_id, d.created_ts, d.seen_ts,
coalesce((SELECT max(t.expires_ts) FROM access_tokens t WHERE t.device_nid = d.nid), 0)
FROM devices d JOIN users u ON u.nid = d.user_nid WHERE d.path = 'machine' AND d.nid > $1 ORDER BY d.nid LIMIT $2`

// MachineSessions returns a page of the sessions that programs (not people) have, oldest first: at most limit of those
// that come after the given device. It uses the index devices_of_machines.
func (tx *Tx) MachineSessions(after ident.DeviceNID, limit int) ([]MachineSession, error) {
	return collect(tx, func(r Row) (m MachineSession, err error) {
		err = r.Scan(&m.Device, &m.UserID, &m.DeviceID, &m.CreatedTS, &m.SeenTS, &m.ExpiresTS)
		return m, err
	}, machineSessionsQuery, int64(after), limit)
}

// IsMachine reports whether a device is the session of a program.
func (tx *Tx) IsMachine(device ident.DeviceNID) (bool, error) {
	_, found, err := one(tx, scanNumber[int64], `SELECT nid FROM devices WHERE nid = $1 AND path = 'machine'`, int64(device))
	return found, err
}
