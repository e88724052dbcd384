package storage

import "ebb/ident"

// UpstreamIdentity is the account of a local user at another service that signs the user in.
type UpstreamIdentity struct {
	Issuer    string // of an OpenID Connect provider, or DirectoryIssuer
	Subject   string // by which the issuer knows the user
	User      ident.UserNID
	CreatedTS int64 // ms
}

// DirectoryIssuer is the issuer of identities in the LDAP directory.
const DirectoryIssuer = "ldap"

const upstreamIdentityColumns = `SELECT issuer, subject, user_nid, created_ts FROM upstream_identities `

func scanUpstreamIdentity(r Row) (i UpstreamIdentity, err error) {
	err = r.Scan(&i.Issuer, &i.Subject, &i.User, &i.CreatedTS)
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

const addUpstreamIdentityQuery = `INSERT INTO upstream_identities (issuer, subject, user_nid, created_ts) VALUES ($1, $2, $3, $4) ON CONFLICT (issuer, subject) DO NOTHING`

// AddUpstreamIdentity stores an identity of a user. It returns false if the identity belongs to a user already.
func (tx *Tx) AddUpstreamIdentity(i UpstreamIdentity) (bool, error) {
	n, err := tx.exec(addUpstreamIdentityQuery, i.Issuer, i.Subject, int64(i.User), tx.now.UnixMilli())
	return n == 1, err
}

// DeleteUpstreamIdentity deletes an identity of a user. It returns false if the user has no such identity.
func (tx *Tx) DeleteUpstreamIdentity(i UpstreamIdentity) (bool, error) {
	n, err := tx.exec(`DELETE FROM upstream_identities WHERE issuer = $1 AND subject = $2 AND user_nid = $3`, i.Issuer, i.Subject, int64(i.User))
	return n == 1, err
}

// DeleteUpstreamIdentities deletes all identities of a user.
func (tx *Tx) DeleteUpstreamIdentities(user ident.UserNID) error {
	_, err := tx.exec(`DELETE FROM upstream_identities WHERE user_nid = $1`, int64(user))
	return err
}
