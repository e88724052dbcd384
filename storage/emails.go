package storage

import "ebb/ident"

// EmailRow is an e-mail address of an account.
type EmailRow struct {
	Address     string // canonical
	User        ident.UserNID
	AddedTS     int64 // ms
	ValidatedTS int64 // ms
}

const emailColumns = `address, user_nid, added_ts, validated_ts`

func scanEmail(r Row) (e EmailRow, err error) {
	err = r.Scan(&e.Address, &e.User, &e.AddedTS, &e.ValidatedTS)
	return e, err
}

// Email finds the account that has an address.
func (tx *Tx) Email(address string) (EmailRow, bool, error) {
	return one(tx, scanEmail, `SELECT `+emailColumns+` FROM emails WHERE address = $1`, address)
}

const emailsQuery = `SELECT ` + emailColumns + ` FROM emails WHERE user_nid = $1 ORDER BY added_ts, address LIMIT $2`

// Emails returns at most limit addresses of an account, oldest first.
func (tx *Tx) Emails(user ident.UserNID, limit int) ([]EmailRow, error) {
	return collect(tx, scanEmail, emailsQuery, int64(user), limit)
}

const addEmailQuery = `INSERT INTO emails (` + emailColumns + `) VALUES ($1, $2, $3, $4) ON CONFLICT (address) DO NOTHING`

// AddEmail adds an address to an account. It returns false if an account has it already.
func (tx *Tx) AddEmail(e EmailRow) (bool, error) {
	n, err := tx.exec(addEmailQuery, e.Address, int64(e.User), e.AddedTS, e.ValidatedTS)
	return n == 1, err
}

// DeleteEmail removes an address from an account. It returns false if the account does not have it.
func (tx *Tx) DeleteEmail(user ident.UserNID, address string) (bool, error) {
	e, found, err := tx.Email(address)
	if err != nil || !found || e.User != user {
		return false, err
	}
	if _, err := tx.exec(`DELETE FROM emails WHERE address = $1`, address); err != nil {
		return false, err
	}
	return true, tx.Note(LedgerEmail, int64(user), e.AddedTS, "")
}

// DeleteEmailAgain deletes the address that an entry of the ledger names by when the user added it (ms). With it in a
// restored backup, somebody who can read its mail could reset the password.
func (tx *Tx) DeleteEmailAgain(user ident.UserNID, addedTS int64) error {
	_, err := tx.exec(`DELETE FROM emails WHERE user_nid = $1 AND added_ts = $2`, int64(user), addedTS)
	return err
}

// DeleteEmails removes all addresses of an account, the verifications of these addresses and the records of bindings.
func (tx *Tx) DeleteEmails(user ident.UserNID) error {
	if _, err := tx.exec(`DELETE FROM email_sessions WHERE address IN (SELECT address FROM emails WHERE user_nid = $1)`, int64(user)); err != nil {
		return err
	}
	if _, err := tx.exec(`DELETE FROM identity_bindings WHERE user_nid = $1`, int64(user)); err != nil {
		return err
	}
	_, err := tx.exec(`DELETE FROM emails WHERE user_nid = $1`, int64(user))
	return err
}

// EmailSession is the verification of an address.
type EmailSession struct {
	SID         string
	Purpose     string
	Address     string
	SecretHash  string
	SendAttempt int64
	TokenHash   string
	NextLink    string
	Wrong       int64
	ExpiresTS   int64 // ms
	ValidatedTS int64 // ms; 0 if the link has not been followed
}

const emailSessionColumns = `sid, purpose, address, secret_hash, send_attempt, token_hash, next_link, wrong, expires_ts, validated_ts`

func scanEmailSession(r Row) (s EmailSession, err error) {
	err = r.Scan(&s.SID, &s.Purpose, &s.Address, &s.SecretHash, &s.SendAttempt, &s.TokenHash, &s.NextLink, &s.Wrong, &s.ExpiresTS, &s.ValidatedTS)
	return s, err
}

const (
	emailSessionQuery         = `SELECT ` + emailSessionColumns + ` FROM email_sessions WHERE sid = $1 AND expires_ts > $2`
	emailSessionOfClientQuery = `SELECT ` + emailSessionColumns + ` FROM email_sessions
WHERE address = $1 AND secret_hash = $2 AND purpose = $3 AND expires_ts > $4`
	putEmailSessionQuery = `INSERT INTO email_sessions (` + emailSessionColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`
)

// EmailSession finds a verification that has not expired.
func (tx *Tx) EmailSession(sid string) (EmailSession, bool, error) {
	return one(tx, scanEmailSession, emailSessionQuery, sid, tx.now.UnixMilli())
}

// EmailSessionOfClient finds the verification of an address that a client with the given secret began for a purpose,
// unless it has expired.
func (tx *Tx) EmailSessionOfClient(address, secretHash, purpose string) (EmailSession, bool, error) {
	return one(tx, scanEmailSession, emailSessionOfClientQuery, address, secretHash, purpose, tx.now.UnixMilli())
}

// PutEmailSession stores a verification in place of the one with the same client, and deletes expired ones.
func (tx *Tx) PutEmailSession(s EmailSession) error {
	if err := tx.DeleteExpiredEmailSessions(); err != nil {
		return err
	}
	if _, err := tx.exec(`DELETE FROM email_sessions WHERE address = $1 AND secret_hash = $2 AND purpose = $3`, s.Address, s.SecretHash, s.Purpose); err != nil {
		return err
	}
	_, err := tx.exec(putEmailSessionQuery, s.SID, s.Purpose, s.Address, s.SecretHash, s.SendAttempt, s.TokenHash, s.NextLink, s.Wrong, s.ExpiresTS, s.ValidatedTS)
	return err
}

// DeleteExpiredEmailSessions deletes the verifications that have expired.
func (tx *Tx) DeleteExpiredEmailSessions() error {
	_, err := tx.exec(`DELETE FROM email_sessions WHERE expires_ts <= $1`, tx.now.UnixMilli())
	return err
}

// SetEmailSendAttempt records the client's send_attempt for which the last message was sent.
func (tx *Tx) SetEmailSendAttempt(sid string, attempt int64) error {
	_, err := tx.exec(`UPDATE email_sessions SET send_attempt = $2 WHERE sid = $1`, sid, attempt)
	return err
}

// ValidateEmailSession records that the link of a verification was followed, after which it expires at expiresTS.
func (tx *Tx) ValidateEmailSession(sid string, expiresTS int64) error {
	_, err := tx.exec(`UPDATE email_sessions SET validated_ts = $2, expires_ts = $3 WHERE sid = $1`, sid, tx.now.UnixMilli(), expiresTS)
	return err
}

// CountWrongEmailToken counts a wrong token of a verification.
func (tx *Tx) CountWrongEmailToken(sid string) error {
	_, err := tx.exec(`UPDATE email_sessions SET wrong = wrong + 1 WHERE sid = $1`, sid)
	return err
}

// DeleteEmailSessions deletes the verifications of an address for a purpose.
func (tx *Tx) DeleteEmailSessions(address, purpose string) error {
	_, err := tx.exec(`DELETE FROM email_sessions WHERE address = $1 AND purpose = $2`, address, purpose)
	return err
}

// IdentityBinding is an address that a user has bound to themselves at an identity server.
type IdentityBinding struct{ Medium, Address, IDServer string }

const (
	addIdentityBindingQuery = `INSERT INTO identity_bindings (user_nid, medium, address, id_server) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_nid, medium, address, id_server) DO NOTHING`
	identityBindingsQuery      = `SELECT medium, address, id_server FROM identity_bindings WHERE user_nid = $1 ORDER BY medium, address, id_server LIMIT $2`
	deleteIdentityBindingQuery = `DELETE FROM identity_bindings WHERE user_nid = $1 AND medium = $2 AND address = $3 AND id_server = $4`
)

// AddIdentityBinding records a binding.
func (tx *Tx) AddIdentityBinding(user ident.UserNID, b IdentityBinding) error {
	_, err := tx.exec(addIdentityBindingQuery, int64(user), b.Medium, b.Address, b.IDServer)
	return err
}

// IdentityBindings returns at most limit bindings of a user.
func (tx *Tx) IdentityBindings(user ident.UserNID, limit int) ([]IdentityBinding, error) {
	return collect(tx, func(r Row) (b IdentityBinding, err error) {
		err = r.Scan(&b.Medium, &b.Address, &b.IDServer)
		return b, err
	}, identityBindingsQuery, int64(user), limit)
}

// DeleteIdentityBinding removes the record of a binding.
func (tx *Tx) DeleteIdentityBinding(user ident.UserNID, b IdentityBinding) error {
	_, err := tx.exec(deleteIdentityBindingQuery, int64(user), b.Medium, b.Address, b.IDServer)
	return err
}
