package storage

import "ebb/ident"

// TOTPRow is a user's secret for one-time codes.
type TOTPRow struct {
	User      ident.UserNID
	Secret    string // sealed
	LastStep  int64  // of the newest code that was accepted
	CreatedTS int64  // ms
	UsedTS    int64  // ms
}

const totpColumns = `user_nid, secret, last_step, created_ts, used_ts`

func scanTOTP(r Row) (t TOTPRow, err error) {
	err = r.Scan(&t.User, &t.Secret, &t.LastStep, &t.CreatedTS, &t.UsedTS)
	return t, err
}

const (
	totpQuery        = `SELECT ` + totpColumns + ` FROM totp WHERE user_nid = $1`
	totpSecretsQuery = `SELECT ` + totpColumns + ` FROM totp WHERE user_nid > $1 ORDER BY user_nid LIMIT $2`
	putTOTPQuery     = `INSERT INTO totp (` + totpColumns + `) VALUES ($1, $2, $3, $4, $4) ON CONFLICT (user_nid)
DO UPDATE SET secret = excluded.secret, last_step = excluded.last_step, created_ts = excluded.created_ts, used_ts = excluded.used_ts`
	useTOTPQuery = `UPDATE totp SET last_step = $3, used_ts = $4 WHERE user_nid = $1 AND secret = $2 AND last_step < $3`
)

// TOTP returns the secret of a user.
func (tx *Tx) TOTP(user ident.UserNID) (TOTPRow, bool, error) {
	return one(tx, scanTOTP, totpQuery, int64(user))
}

// PutTOTP stores the secret of a user, in place of the former one. step is the time step of the code with which the
// user confirmed the secret.
func (tx *Tx) PutTOTP(user ident.UserNID, secret string, step int64) error {
	if _, err := tx.exec(putTOTPQuery, int64(user), secret, step, tx.now.UnixMilli()); err != nil {
		return err
	}
	return tx.Note(LedgerTOTP, int64(user), 0, "")
}

// UseTOTP records that the code of the given time step was accepted. It returns false if the code of this step or of a
// later one was accepted before, or if the secret was replaced.
func (tx *Tx) UseTOTP(user ident.UserNID, secret string, step int64) (bool, error) {
	n, err := tx.exec(useTOTPQuery, int64(user), secret, step, tx.now.UnixMilli())
	return n == 1, err
}

// TOTPs returns a page of the secrets, ordered by user: at most limit of those after the given user.
func (tx *Tx) TOTPs(after ident.UserNID, limit int) ([]TOTPRow, error) {
	return collect(tx, scanTOTP, totpSecretsQuery, int64(after), limit)
}

// ResealTOTP replaces the sealed form of a secret, unless it has changed.
func (tx *Tx) ResealTOTP(user ident.UserNID, from, to string) error {
	_, err := tx.exec(`UPDATE totp SET secret = $3 WHERE user_nid = $1 AND secret = $2`, int64(user), from, to)
	return err
}

// DeleteTOTP deletes the secret of a user. It returns false if there is none.
func (tx *Tx) DeleteTOTP(user ident.UserNID) (bool, error) {
	n, err := tx.exec(`DELETE FROM totp WHERE user_nid = $1`, int64(user))
	if err == nil && n == 1 {
		err = tx.Note(LedgerTOTP, int64(user), 0, "")
	}
	return n == 1, err
}

// PasskeyRow is a WebAuthn credential.
type PasskeyRow struct {
	CredentialID string // base64url
	User         ident.UserNID
	RPID         string
	Name         string
	PublicKey    string // COSE, base64url
	AAGUID       string
	Transports   string // separated by commas
	Flags        int64
	Discoverable bool
	SignCount    int64
	CreatedTS    int64 // ms
	UsedTS       int64 // ms; 0: never
	RegressedTS  int64 // ms; when SignCount last went back; 0: never
}

const passkeyColumns = `credential_id, user_nid, rp_id, name, public_key, aaguid, transports, flags, discoverable, sign_count, created_ts, used_ts, regressed_ts`

func scanPasskey(r Row) (p PasskeyRow, err error) {
	err = r.Scan(&p.CredentialID, &p.User, &p.RPID, &p.Name, &p.PublicKey, &p.AAGUID, &p.Transports, &p.Flags, &p.Discoverable, &p.SignCount, &p.CreatedTS, &p.UsedTS, &p.RegressedTS)
	return p, err
}

const (
	passkeysQuery = `SELECT ` + passkeyColumns + ` FROM passkeys WHERE user_nid = $1 ORDER BY created_ts, credential_id LIMIT $2`
	passkeyQuery  = `SELECT ` + passkeyColumns + ` FROM passkeys WHERE credential_id = $1`
)

// Passkeys returns at most limit passkeys of a user, oldest first. It uses the index passkeys_by_user.
func (tx *Tx) Passkeys(user ident.UserNID, limit int) ([]PasskeyRow, error) {
	return collect(tx, scanPasskey, passkeysQuery, int64(user), limit)
}

// Passkey finds a passkey by its ID.
func (tx *Tx) Passkey(credentialID string) (PasskeyRow, bool, error) {
	return one(tx, scanPasskey, passkeyQuery, credentialID)
}

const addPasskeyQuery = `INSERT INTO passkeys (` + passkeyColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (credential_id) DO NOTHING`

// AddPasskey stores a new passkey. It returns false if a passkey has that ID already.
func (tx *Tx) AddPasskey(p PasskeyRow) (bool, error) {
	n, err := tx.exec(addPasskeyQuery, p.CredentialID, int64(p.User), p.RPID, p.Name, p.PublicKey, p.AAGUID, p.Transports, p.Flags, p.Discoverable, p.SignCount,
		tx.now.UnixMilli(), p.UsedTS, p.RegressedTS)
	return n == 1, err
}

const usePasskeyQuery = `UPDATE passkeys SET flags = $3, used_ts = $5,
sign_count = CASE WHEN sign_count < $4 THEN $4 ELSE sign_count END,
regressed_ts = CASE WHEN sign_count >= $4 AND (sign_count > 0 OR $4 > 0) THEN $5 ELSE regressed_ts END
WHERE credential_id = $1 AND user_nid = $2`

// UsePasskey records that a passkey was used with a sign count. It returns false if the passkey has been removed.
func (tx *Tx) UsePasskey(user ident.UserNID, credentialID string, flags, signCount int64) (bool, error) {
	n, err := tx.exec(usePasskeyQuery, credentialID, int64(user), flags, signCount, tx.now.UnixMilli())
	return n == 1, err
}

// RenamePasskey renames a passkey. It returns false if the user does not have it.
func (tx *Tx) RenamePasskey(user ident.UserNID, credentialID, name string) (bool, error) {
	n, err := tx.exec(`UPDATE passkeys SET name = $3 WHERE credential_id = $1 AND user_nid = $2`, credentialID, int64(user), name)
	return n == 1, err
}

// DeletePasskey deletes a passkey. It returns false if the user does not have it.
func (tx *Tx) DeletePasskey(user ident.UserNID, credentialID string) (bool, error) {
	n, err := tx.exec(`DELETE FROM passkeys WHERE credential_id = $1 AND user_nid = $2`, credentialID, int64(user))
	if err == nil && n == 1 {
		err = tx.Note(LedgerPasskey, int64(user), 0, credentialID)
	}
	return n == 1, err
}

const otherPasskeysQuery = `SELECT count(*), count(DISTINCT user_nid) FROM passkeys WHERE rp_id <> $1`

// PasskeysOfOthers counts the passkeys that were made for another relying party ID than the given one, and the users
// who have such passkeys.
func (tx *Tx) PasskeysOfOthers(rpID string) (passkeys, users int64, err error) {
	_, _, err = one(tx, func(r Row) (struct{}, error) { return struct{}{}, r.Scan(&passkeys, &users) }, otherPasskeysQuery, rpID)
	return passkeys, users, err
}

// metaRPID is the row of meta that stores the relying party ID of passkeys.
const metaRPID = "passkeys_rp_id"

// PasskeyRPID returns the relying party ID for which passkeys are made, "" before the first passkey.
func (tx *Tx) PasskeyRPID() (string, error) { return tx.metaText(metaRPID) }

// SetPasskeyRPID records the relying party ID for which passkeys are made.
func (tx *Tx) SetPasskeyRPID(rpID string) error { return tx.setMetaText(metaRPID, rpID) }

const (
	passkeyHandleQuery    = `SELECT handle FROM passkey_handles WHERE user_nid = $1`
	addPasskeyHandleQuery = `INSERT INTO passkey_handles (user_nid, handle) VALUES ($1, $2) ON CONFLICT (user_nid) DO NOTHING`
)

// PasskeyHandle returns the handle that identifies a user to authenticators.
func (tx *Tx) PasskeyHandle(user ident.UserNID) (string, bool, error) {
	return one(tx, scanString, passkeyHandleQuery, int64(user))
}

// AddPasskeyHandle stores the handle of a user. It does nothing if the user has one already.
func (tx *Tx) AddPasskeyHandle(user ident.UserNID, handle string) error {
	_, err := tx.exec(addPasskeyHandleQuery, int64(user), handle)
	return err
}

// FactorChallenge is an enrolment or a check of a second factor that has begun and is not complete yet.
type FactorChallenge struct {
	Hash      string
	Kind      string
	User      ident.UserNID // 0: not known yet
	Owner     int64         // hash of the user or network for which challenges are counted
	Data      string
	ExpiresTS int64 // ms
}

const (
	factorChallengeQuery    = `SELECT kind, user_nid, owner, data, expires_ts FROM factor_challenges WHERE hash = $1 AND expires_ts > $2`
	addFactorChallengeQuery = `INSERT INTO factor_challenges (hash, kind, user_nid, owner, data, created_ts, expires_ts) VALUES ($1, $2, $3, $4, $5, $6, $7)`
	// It uses the index factor_challenges_by_owner.
	trimOwnChallengesQuery = `DELETE FROM factor_challenges WHERE hash IN
(SELECT hash FROM factor_challenges WHERE owner = $1 ORDER BY created_ts DESC, hash DESC LIMIT $3 OFFSET $2)`
	// It uses the index factor_challenges_by_user.
	trimStrangersChallengesQuery = `DELETE FROM factor_challenges WHERE hash IN
(SELECT hash FROM factor_challenges WHERE user_nid = 0 ORDER BY created_ts DESC, hash DESC LIMIT $2 OFFSET $1)`
)

// trimmed is the maximum number of challenges deleted when one is added, which keeps the write short.
const trimmed = 100

// AddFactorChallenge stores a challenge and deletes expired ones. It deletes the oldest challenges of the same owner so
// that at most each remain. If the user of the challenge is not known yet, it also deletes the oldest challenges
// without a known user so that at most strangers of these remain.
func (tx *Tx) AddFactorChallenge(c FactorChallenge, each, strangers int) error {
	now := tx.now.UnixMilli()
	if _, err := tx.exec(`DELETE FROM factor_challenges WHERE expires_ts <= $1`, now); err != nil {
		return err
	}
	if _, err := tx.exec(trimOwnChallengesQuery, c.Owner, each-1, trimmed); err != nil {
		return err
	}
	if c.User == 0 {
		if _, err := tx.exec(trimStrangersChallengesQuery, strangers-1, trimmed); err != nil {
			return err
		}
	}
	_, err := tx.exec(addFactorChallengeQuery, c.Hash, c.Kind, int64(c.User), c.Owner, c.Data, now, c.ExpiresTS)
	return err
}

// FactorChallenge finds a challenge that has not expired.
func (tx *Tx) FactorChallenge(hash string) (FactorChallenge, bool, error) {
	return one(tx, func(r Row) (c FactorChallenge, err error) {
		c.Hash = hash
		err = r.Scan(&c.Kind, &c.User, &c.Owner, &c.Data, &c.ExpiresTS)
		return c, err
	}, factorChallengeQuery, hash, tx.now.UnixMilli())
}

// TakeFactorChallenge deletes a challenge that has not expired. It returns false if there is none.
func (tx *Tx) TakeFactorChallenge(hash string) (bool, error) {
	n, err := tx.exec(`DELETE FROM factor_challenges WHERE hash = $1 AND expires_ts > $2`, hash, tx.now.UnixMilli())
	return n == 1, err
}

const addRecoveryCodeQuery = `INSERT INTO recovery_codes (user_nid, hash, created_ts) VALUES ($1, $2, $3)`

// SetRecoveryCodes replaces the recovery codes of a user, given as hashes.
func (tx *Tx) SetRecoveryCodes(user ident.UserNID, hashes []string) error {
	if _, err := tx.exec(`DELETE FROM recovery_codes WHERE user_nid = $1`, int64(user)); err != nil {
		return err
	}
	for _, hash := range hashes {
		if _, err := tx.exec(addRecoveryCodeQuery, int64(user), hash, tx.now.UnixMilli()); err != nil {
			return err
		}
	}
	return tx.Note(LedgerRecovery, int64(user), 0, "")
}

// TakeRecoveryCode deletes a recovery code. It returns false if the user does not have it.
func (tx *Tx) TakeRecoveryCode(user ident.UserNID, hash string) (bool, error) {
	n, err := tx.exec(`DELETE FROM recovery_codes WHERE user_nid = $1 AND hash = $2`, int64(user), hash)
	if err == nil && n == 1 {
		err = tx.Note(LedgerRecovery, int64(user), 0, hash)
	}
	return n == 1, err
}

// CountRecoveryCodes returns the number of a user's unused recovery codes.
func (tx *Tx) CountRecoveryCodes(user ident.UserNID) (int64, error) {
	n, _, err := one(tx, scanNumber[int64], `SELECT count(*) FROM recovery_codes WHERE user_nid = $1`, int64(user))
	return n, err
}

// EnrolLinkRow is a link with which a user can set up a second factor.
type EnrolLinkRow struct {
	User      ident.UserNID
	UserID    string
	MadeBy    string // user ID; "": on the host
	CreatedTS int64  // ms
	ExpiresTS int64  // ms
}

func scanEnrolLink(r Row) (l EnrolLinkRow, err error) {
	err = r.Scan(&l.User, &l.UserID, &l.MadeBy, &l.CreatedTS, &l.ExpiresTS)
	return l, err
}

const (
	enrolLinkColumns   = `l.user_nid, u.user_id, l.made_by, l.created_ts, l.expires_ts`
	enrolLinkQuery     = `SELECT ` + enrolLinkColumns + ` FROM enrol_links l JOIN users u ON u.nid = l.user_nid WHERE l.hash = $1 AND l.expires_ts > $2`
	enrolLinksQuery    = `SELECT ` + enrolLinkColumns + ` FROM enrol_links l JOIN users u ON u.nid = l.user_nid WHERE l.user_nid > $1 AND l.expires_ts > $2 ORDER BY l.user_nid LIMIT $3`
	putEnrolLinkQuery  = `INSERT INTO enrol_links (user_nid, hash, made_by, created_ts, expires_ts) VALUES ($1, $2, $3, $4, $5)`
	takeEnrolLinkQuery = `DELETE FROM enrol_links WHERE user_nid = $1 AND hash = $2 AND expires_ts > $3`
)

// PutEnrolLink stores a link, of which the database has only the hash of the token. It replaces the user's former link.
// It also deletes expired links.
func (tx *Tx) PutEnrolLink(user ident.UserNID, hash, madeBy string, expiresTS int64) error {
	if _, err := tx.exec(`DELETE FROM enrol_links WHERE expires_ts <= $1`, tx.now.UnixMilli()); err != nil {
		return err
	}
	if _, err := tx.exec(`DELETE FROM enrol_links WHERE user_nid = $1`, int64(user)); err != nil {
		return err
	}
	_, err := tx.exec(putEnrolLinkQuery, int64(user), hash, madeBy, tx.now.UnixMilli(), expiresTS)
	return err
}

// EnrolLink finds a link by the hash of its token, unless the link has expired.
func (tx *Tx) EnrolLink(hash string) (EnrolLinkRow, bool, error) {
	return one(tx, scanEnrolLink, enrolLinkQuery, hash, tx.now.UnixMilli())
}

// EnrolLinks returns a page of the links that have not expired, by user: at most limit of those after the given user.
func (tx *Tx) EnrolLinks(after ident.UserNID, limit int) ([]EnrolLinkRow, error) {
	return collect(tx, scanEnrolLink, enrolLinksQuery, int64(after), tx.now.UnixMilli(), limit)
}

// TakeEnrolLink deletes a link that has not expired. It returns false if there is none.
func (tx *Tx) TakeEnrolLink(user ident.UserNID, hash string) (bool, error) {
	n, err := tx.exec(takeEnrolLinkQuery, int64(user), hash, tx.now.UnixMilli())
	return n == 1, err
}

// DeleteEnrolLink deletes the link of a user. It returns false if there is none.
func (tx *Tx) DeleteEnrolLink(user ident.UserNID) (bool, error) {
	n, err := tx.exec(`DELETE FROM enrol_links WHERE user_nid = $1`, int64(user))
	return n == 1, err
}

const endSignUpQuery = `DELETE FROM enrol_links WHERE user_nid = $1 AND made_by = (SELECT user_id FROM users WHERE nid = $1)`

// EndSignUp deletes the link of a user that stands for an account that its user has just created.
func (tx *Tx) EndSignUp(user ident.UserNID) error {
	_, err := tx.exec(endSignUpQuery, int64(user))
	return err
}

// DeleteFactors deletes the second factors and recovery codes of a user. It keeps the user's passkey handle, so that an
// authenticator that gets a new passkey replaces the old one.
func (tx *Tx) DeleteFactors(user ident.UserNID) error {
	if _, err := tx.exec(`DELETE FROM totp WHERE user_nid = $1`, int64(user)); err != nil {
		return err
	}
	if _, err := tx.exec(`DELETE FROM passkeys WHERE user_nid = $1`, int64(user)); err != nil {
		return err
	}
	if _, err := tx.exec(`DELETE FROM recovery_codes WHERE user_nid = $1`, int64(user)); err != nil {
		return err
	}
	return tx.Note(LedgerFactors, int64(user), 0, "")
}

// ForgetFactors deletes everything about the second factors of a user whose account is being closed.
func (tx *Tx) ForgetFactors(user ident.UserNID) error {
	if err := tx.DeleteFactors(user); err != nil {
		return err
	}
	if _, err := tx.exec(`DELETE FROM factor_challenges WHERE user_nid = $1`, int64(user)); err != nil {
		return err
	}
	if _, err := tx.exec(`DELETE FROM passkey_handles WHERE user_nid = $1`, int64(user)); err != nil {
		return err
	}
	_, err := tx.DeleteEnrolLink(user)
	return err
}

const factorsQuery = `SELECT (SELECT count(*) FROM totp WHERE user_nid = $1),
(SELECT count(*) FROM recovery_codes WHERE user_nid = $1),
(SELECT count(*) FROM passkeys WHERE user_nid = $1),
(SELECT count(*) FROM passkeys WHERE user_nid = $1 AND flags & 4 = 4)`

// FactorCounts holds the numbers of a user's second factors.
type FactorCounts struct {
	TOTP, RecoveryCodes, Passkeys int64
	Verifying                     int64 // passkeys whose authenticator has verified the user
}

// FactorCounts counts the second factors of a user.
func (tx *Tx) FactorCounts(user ident.UserNID) (FactorCounts, error) {
	n, _, err := one(tx, func(r Row) (n FactorCounts, err error) {
		err = r.Scan(&n.TOTP, &n.RecoveryCodes, &n.Passkeys, &n.Verifying)
		return n, err
	}, factorsQuery, int64(user))
	return n, err
}
