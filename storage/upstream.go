package storage

import (
	"crypto/sha256"
	"encoding/base64"

	"ebb/ident"
)

// UpstreamIdentity is the account of a local user at another service that signs the user in.
type UpstreamIdentity struct {
	Issuer    string // of an OpenID Connect provider, or DirectoryIssuer
	Subject   string // by which the issuer knows the user
	Label     string // the user's name there, as the issuer stated it when the identity was linked; may be ""
	User      ident.UserNID
	CreatedTS int64 // ms
}

// DirectoryIssuer is the issuer of identities in the LDAP directory.
const DirectoryIssuer = "ldap"

const upstreamIdentityColumns = `SELECT issuer, subject, label, user_nid, created_ts FROM upstream_identities `

func scanUpstreamIdentity(r Row) (i UpstreamIdentity, err error) {
	err = r.Scan(&i.Issuer, &i.Subject, &i.Label, &i.User, &i.CreatedTS)
	return i, err
}

// UpstreamIdentity finds the local user of an identity.
func (tx *Tx) UpstreamIdentity(issuer, subject string) (UpstreamIdentity, bool, error) {
	return one(tx, scanUpstreamIdentity, upstreamIdentityColumns+`WHERE issuer = $1 AND subject = $2`, issuer, subject)
}

const upstreamIdentitiesQuery = upstreamIdentityColumns + `WHERE user_nid = $1 ORDER BY issuer, subject LIMIT $2`

// UpstreamIdentities returns at most limit identities of a user, in the order of their issuers. It uses the index
// upstream_identities_by_user.
func (tx *Tx) UpstreamIdentities(user ident.UserNID, limit int) ([]UpstreamIdentity, error) {
	return collect(tx, scanUpstreamIdentity, upstreamIdentitiesQuery, int64(user), limit)
}

const upstreamSubjectQuery = `SELECT subject FROM upstream_identities WHERE user_nid = $1 AND issuer = $2 ORDER BY subject LIMIT 1`

// UpstreamSubject returns the subject by which an issuer knows a user.
func (tx *Tx) UpstreamSubject(user ident.UserNID, issuer string) (subject string, found bool, err error) {
	return one(tx, scanString, upstreamSubjectQuery, int64(user), issuer)
}

const addUpstreamIdentityQuery = `INSERT INTO upstream_identities (issuer, subject, label, user_nid, created_ts) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (issuer, subject) DO NOTHING`

// AddUpstreamIdentity stores an identity of a user. It returns false if the identity belongs to a user already.
func (tx *Tx) AddUpstreamIdentity(i UpstreamIdentity) (bool, error) {
	n, err := tx.exec(addUpstreamIdentityQuery, i.Issuer, i.Subject, i.Label, int64(i.User), tx.now.UnixMilli())
	return n == 1, err
}

// DeleteUpstreamIdentity deletes an identity of a user. It returns false if the user has no such identity.
func (tx *Tx) DeleteUpstreamIdentity(i UpstreamIdentity) (bool, error) {
	n, err := tx.exec(`DELETE FROM upstream_identities WHERE issuer = $1 AND subject = $2 AND user_nid = $3`, i.Issuer, i.Subject, int64(i.User))
	if err == nil && n == 1 {
		err = tx.Note(LedgerIdentity, int64(i.User), 0, i.hash())
	}
	return n == 1, err
}

// hash identifies an identity in the ledger, which is outside the database.
func (i UpstreamIdentity) hash() string {
	sum := sha256.Sum256([]byte(i.Issuer + "\x00" + i.Subject))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// DeleteIdentityAgain deletes the identity of a user that an entry of the ledger names.
func (tx *Tx) DeleteIdentityAgain(user ident.UserNID, hash string) error {
	all, err := tx.UpstreamIdentities(user, maxRemoved)
	for _, i := range all {
		if err == nil && i.hash() == hash {
			_, err = tx.DeleteUpstreamIdentity(i)
		}
	}
	return err
}

// DeleteUpstreamIdentities deletes all identities of a user.
func (tx *Tx) DeleteUpstreamIdentities(user ident.UserNID) error {
	_, err := tx.exec(`DELETE FROM upstream_identities WHERE user_nid = $1`, int64(user))
	return err
}

const upstreamSessionsQuery = `SELECT d.nid, d.user_nid, d.device_id, d.upstream FROM devices d `

func scanUpstreamDevice(r Row) (s OAuthSession, err error) {
	err = r.Scan(&s.Device, &s.User, &s.DeviceID, &s.Family)
	return s, err
}

// UpstreamSessions returns at most limit sessions of devices that began from a session of an identity provider. It uses
// the index devices_by_upstream.
func (tx *Tx) UpstreamSessions(upstream string, limit int) ([]OAuthSession, error) {
	return collect(tx, scanUpstreamDevice, upstreamSessionsQuery+`WHERE d.upstream = $1 AND d.upstream <> '' ORDER BY d.nid LIMIT $2`, upstream, limit)
}

// UpstreamSessionsOf returns at most limit sessions of a user's devices that began from some session of an identity
// provider, each with that session as its Family.
func (tx *Tx) UpstreamSessionsOf(user ident.UserNID, limit int) ([]OAuthSession, error) {
	return collect(tx, scanUpstreamDevice, upstreamSessionsQuery+`WHERE d.user_nid = $1 AND d.upstream <> '' ORDER BY d.nid LIMIT $2`, int64(user), limit)
}

// DropUpstream deletes the sessions of browsers that began from a session of an identity provider, and everything with
// which devices could still be signed in from them.
func (tx *Tx) DropUpstream(upstream string) error {
	for _, q := range []string{
		`DELETE FROM web_sessions WHERE upstream = $1 AND upstream <> ''`,
		`DELETE FROM oauth_codes WHERE upstream = $1 AND upstream <> ''`,
		`DELETE FROM oauth_device_codes WHERE upstream = $1 AND upstream <> ''`,
		`DELETE FROM login_tokens WHERE upstream = $1 AND upstream <> ''`,
	} {
		if _, err := tx.exec(q, upstream); err != nil {
			return err
		}
	}
	return nil
}

// DropUpstreamOf is DropUpstream for all sessions of one user from sessions of identity providers.
func (tx *Tx) DropUpstreamOf(user ident.UserNID) error {
	for _, q := range []string{
		`DELETE FROM web_sessions WHERE user_nid = $1 AND upstream <> ''`,
		`DELETE FROM oauth_codes WHERE user_nid = $1 AND upstream <> ''`,
		`DELETE FROM oauth_device_codes WHERE user_nid = $1 AND upstream <> ''`,
		`DELETE FROM login_tokens WHERE user_nid = $1 AND upstream <> ''`,
	} {
		if _, err := tx.exec(q, int64(user)); err != nil {
			return err
		}
	}
	return nil
}

const dropUpstreamUsedQuery = `DELETE FROM upstream_used WHERE hash IN (SELECT hash FROM upstream_used WHERE expires_ts <= $1 ORDER BY expires_ts LIMIT 1000)`

// UseUpstream records that something that a provider has sent was used, which must not be accepted again before it
// expires (ms). It returns false if it was used before. It also deletes what has expired.
func (tx *Tx) UseUpstream(hash string, expiresTS int64) (bool, error) {
	if _, err := tx.exec(dropUpstreamUsedQuery, tx.now.UnixMilli()); err != nil {
		return false, err
	}
	n, err := tx.exec(`INSERT INTO upstream_used (hash, expires_ts) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING`, hash, expiresTS)
	return n == 1, err
}
