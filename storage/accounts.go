package storage

import (
	"slices"

	"ebb/ident"
)

// AccountRow is the account of a local user.
type AccountRow struct {
	NID           ident.UserNID // users.nid
	Localpart     string
	Password      string // argon2id in PHC form, or bcrypt if it was imported; "": none; UnusablePassword
	CreatedTS     int64  // ms
	Admin         bool
	DeactivatedTS int64 // ms; 0 if the account is active
	Locked        bool
	Suspended     bool
	Guest         bool   // a guest account, without password
	MFA           string // the policy on second factors for this account; "": that of the server
	MFASinceTS    int64  // ms; when a second factor became required for this account, 0 if it is not
}

// UnusablePassword stands for a password that nobody can use any more, since somebody else may know it. Unlike an
// account without a password, which another service may sign in, its user sets a new one.
const UnusablePassword = "!"

// HasPassword reports whether the user can sign in with a password that this server compares.
func (a AccountRow) HasPassword() bool { return a.Password != "" && a.Password != UnusablePassword }

const accountColumns = `nid, localpart, password, created_ts, admin, deactivated_ts, locked, suspended, guest, mfa, mfa_since_ts`

func scanAccount(r Row) (a AccountRow, err error) {
	err = r.Scan(&a.NID, &a.Localpart, &a.Password, &a.CreatedTS, &a.Admin, &a.DeactivatedTS, &a.Locked, &a.Suspended, &a.Guest, &a.MFA, &a.MFASinceTS)
	return a, err
}

const accountByLocalpartQuery = `SELECT ` + accountColumns + ` FROM accounts WHERE localpart = $1`

// AccountByLocalpart finds an account, which may be deactivated.
func (tx *Tx) AccountByLocalpart(localpart string) (AccountRow, bool, error) {
	return one(tx, scanAccount, accountByLocalpartQuery, localpart)
}

// Account finds the account of a user.
func (tx *Tx) Account(user ident.UserNID) (AccountRow, bool, error) {
	return one(tx, scanAccount, `SELECT `+accountColumns+` FROM accounts WHERE nid = $1`, int64(user))
}

const listAccountsQuery = `SELECT ` + accountColumns + ` FROM accounts WHERE localpart > $1 ORDER BY localpart LIMIT $2`

// ListAccounts returns a page of the accounts: at most limit of those whose localpart is above after, in that order. It
// uses the index of the unique localpart.
func (tx *Tx) ListAccounts(after string, limit int) ([]AccountRow, error) {
	return collect(tx, scanAccount, listAccountsQuery, after, limit)
}

const addAccountQuery = `INSERT INTO accounts (nid, localpart, password, created_ts, admin, guest, search) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (localpart) DO NOTHING`

// AddAccount stores a new account. It returns false if the localpart is in use.
func (tx *Tx) AddAccount(a AccountRow, search string) (bool, error) {
	n, err := tx.exec(addAccountQuery, int64(a.NID), a.Localpart, a.Password, a.CreatedTS, a.Admin, a.Guest, search)
	return n == 1, err
}

// UpgradeGuest makes a guest account an ordinary one with a password.
func (tx *Tx) UpgradeGuest(user ident.UserNID, hash, search string) error {
	_, err := tx.exec(`UPDATE accounts SET guest = 0, password = $2, search = $3 WHERE nid = $1 AND guest = 1`, int64(user), hash, search)
	return err
}

// CountGuests returns the number of active guest accounts. It uses the index accounts_guests.
func (tx *Tx) CountGuests() (int64, error) {
	n, _, err := one(tx, scanNumber[int64], `SELECT count(*) FROM accounts WHERE guest = 1 AND deactivated_ts = 0`)
	return n, err
}

// GuestMember is a guest who is joined to a room.
type GuestMember struct {
	Room   ident.RoomNID
	User   ident.UserNID
	UserID string
}

func scanGuestMember(r Row) (g GuestMember, err error) {
	err = r.Scan(&g.Room, &g.User, &g.UserID)
	return g, err
}

const (
	joinedGuestsQuery = `SELECT m.room_nid, m.user_nid, u.user_id FROM accounts a JOIN memberships m ON m.user_nid = a.nid JOIN users u ON u.nid = a.nid
WHERE a.guest = 1 AND a.deactivated_ts = 0 AND m.membership = 'join' AND (m.room_nid, m.user_nid) > ($1, $2)
ORDER BY m.room_nid, m.user_nid LIMIT $3`
	guestsInRoomQuery = `SELECT m.room_nid, m.user_nid, u.user_id FROM memberships m JOIN accounts a ON a.nid = m.user_nid JOIN users u ON u.nid = a.nid
WHERE m.room_nid = $1 AND m.user_nid > $2 AND a.guest = 1 AND a.deactivated_ts = 0 AND m.membership = 'join' ORDER BY m.user_nid LIMIT $3`
	idleGuestsQuery = `SELECT a.localpart FROM accounts a WHERE a.guest = 1 AND a.deactivated_ts = 0 AND a.created_ts <= $1
AND NOT EXISTS (SELECT 1 FROM devices d WHERE d.user_nid = a.nid AND d.seen_ts > $1) ORDER BY a.nid LIMIT $2`
)

// JoinedGuests returns a page of the memberships of guests, by room and user: at most limit of those after the given
// one. It uses the index accounts_guests.
func (tx *Tx) JoinedGuests(after GuestMember, limit int) ([]GuestMember, error) {
	return collect(tx, scanGuestMember, joinedGuestsQuery, int64(after.Room), int64(after.User), limit)
}

// GuestsIn returns a page of the guests in a room, by number: at most limit of those after the given user. It uses the
// index accounts_guests.
func (tx *Tx) GuestsIn(room ident.RoomNID, after ident.UserNID, limit int) ([]GuestMember, error) {
	return collect(tx, scanGuestMember, guestsInRoomQuery, int64(room), int64(after), limit)
}

// IdleGuests returns the localparts of at most limit guest accounts that were not used since a time in ms.
func (tx *Tx) IdleGuests(since int64, limit int) ([]string, error) {
	return collect(tx, scanString, idleGuestsQuery, since, limit)
}

// SetPassword replaces the password hash of an active account.
func (tx *Tx) SetPassword(user ident.UserNID, hash string) error {
	if _, err := tx.exec(`UPDATE accounts SET password = $2 WHERE nid = $1 AND deactivated_ts = 0`, int64(user), hash); err != nil {
		return err
	}
	return tx.Note(LedgerPassword, int64(user), 0, "")
}

// SetAdmin makes a user an administrator, or no longer one.
func (tx *Tx) SetAdmin(user ident.UserNID, admin bool) error {
	if _, err := tx.exec(`UPDATE accounts SET admin = $2 WHERE nid = $1`, int64(user), admin); err != nil {
		return err
	}
	return tx.noteFlag(LedgerAdmin, int64(user), admin)
}

// SetLocked locks or unlocks an account.
func (tx *Tx) SetLocked(user ident.UserNID, locked bool) error {
	if _, err := tx.exec(`UPDATE accounts SET locked = $2 WHERE nid = $1`, int64(user), locked); err != nil {
		return err
	}
	return tx.noteFlag(LedgerLocked, int64(user), locked)
}

// SetSuspended suspends an account or ends its suspension.
func (tx *Tx) SetSuspended(user ident.UserNID, suspended bool) error {
	if _, err := tx.exec(`UPDATE accounts SET suspended = $2 WHERE nid = $1`, int64(user), suspended); err != nil {
		return err
	}
	return tx.noteFlag(LedgerSuspended, int64(user), suspended)
}

const deactivateQuery = `UPDATE accounts SET password = '', admin = 0, search = '', deactivated_ts = $2, leaving = $3 WHERE nid = $1 AND deactivated_ts = 0`

// Deactivate closes an account for good. It returns false if the account was closed already. LeavingAccounts lists the
// user until HasLeft is called, unless everything about the user is erased: then Erasures does.
func (tx *Tx) Deactivate(user ident.UserNID, erase Erasure) (bool, error) {
	n, err := tx.exec(deactivateQuery, int64(user), tx.now.UnixMilli(), leaving(erase))
	if err != nil || n != 1 {
		return false, err
	}
	return true, tx.noteErasure(user, erase)
}

// leaving returns the value of the column accounts.leaving for a user who leaves all rooms.
func leaving(erase Erasure) int64 {
	if erase == ErasedEverything {
		return 0 // the row of erasures says so
	}
	return int64(erase) + 1
}

// noteErasure queues an entry for the ledger. If everything about the user is erased, it stores that too.
func (tx *Tx) noteErasure(user ident.UserNID, erase Erasure) error {
	if erase == ErasedEverything {
		if _, err := tx.AddErasure(user); err != nil {
			return err
		}
	}
	return tx.Note(LedgerDeactivated, int64(user), int64(erase), "")
}

// EraseClosed erases the user of an account that is closed already. See Deactivate.
func (tx *Tx) EraseClosed(user ident.UserNID, erase Erasure) error {
	if _, err := tx.exec(`UPDATE accounts SET leaving = $2 WHERE nid = $1 AND deactivated_ts > 0`, int64(user), leaving(erase)); err != nil {
		return err
	}
	return tx.noteErasure(user, erase)
}

// LeavingAccount is a deactivated user who has not yet left every room.
type LeavingAccount struct {
	NID   ident.UserNID
	Erase Erasure
}

// LeavingAccounts lists the users whose deactivation is not complete, except those in Erasures.
func (tx *Tx) LeavingAccounts() ([]LeavingAccount, error) {
	return collect(tx, func(r Row) (a LeavingAccount, err error) { err = r.Scan(&a.NID, &a.Erase); return a, err },
		`SELECT nid, leaving - 1 FROM accounts WHERE leaving > 0 ORDER BY nid`)
}

// HasLeft records that a deactivated user has left every room.
func (tx *Tx) HasLeft(user ident.UserNID) error {
	_, err := tx.exec(`UPDATE accounts SET leaving = 0 WHERE nid = $1`, int64(user))
	return err
}

// erasable holds the statements that delete a user's data other than events.
var erasable = slices.Concat(privateData, []string{
	`DELETE FROM profile_fields WHERE user_nid = $1`,
	`DELETE FROM profile_changes WHERE user_nid = $1`,
	`DELETE FROM cross_signing_keys WHERE user_nid = $1`,
	`DELETE FROM key_signatures WHERE target_nid = $1 OR signer_nid = $1`,
	`DELETE FROM key_signature_changes WHERE target_nid = $1 OR signer_nid = $1`,
})

// EraseDataPart deletes at most limit rows of the data of which a user can have much, and returns their number. It is
// called until there are fewer, in writes of their own, before EraseData deletes the rest.
func (tx *Tx) EraseDataPart(user ident.UserNID, limit int) (int, error) {
	n, err := tx.deletePrivatePart(user, limit)
	if err != nil || n >= limit {
		return n, err
	}
	media, err := tx.releaseMedia(takeSomeUserMediaQuery, int64(user), limit-n)
	return n + media, err
}

// EraseData deletes a user's data other than events.
func (tx *Tx) EraseData(user ident.UserNID) error {
	for _, q := range erasable {
		if _, err := tx.exec(q, int64(user)); err != nil {
			return err
		}
	}
	if _, err := tx.releaseMedia(takeUserMediaQuery, int64(user)); err != nil {
		return err
	}
	return tx.eraseReports(user)
}

// RegistrationToken is a token that permits registration.
type RegistrationToken struct {
	Token     string
	Uses      *int64 // number of registrations that it permits; nil means any number
	Completed int64  // number of registrations so far
	ExpiresTS int64  // ms; 0 means never
	CreatedTS int64  // ms
}

const registrationTokenColumns = `token, uses_allowed, completed, expires_ts, created_ts`

func scanRegistrationToken(r Row) (t RegistrationToken, err error) {
	err = r.Scan(&t.Token, &t.Uses, &t.Completed, &t.ExpiresTS, &t.CreatedTS)
	return t, err
}

// RegistrationToken finds a registration token.
func (tx *Tx) RegistrationToken(token string) (RegistrationToken, bool, error) {
	return one(tx, scanRegistrationToken, `SELECT `+registrationTokenColumns+` FROM registration_tokens WHERE token = $1`, token)
}

const registrationTokensQuery = `SELECT ` + registrationTokenColumns + ` FROM registration_tokens
WHERE (created_ts, token) > ($1, $2) ORDER BY created_ts, token LIMIT $3`

// RegistrationTokens returns a page of the registration tokens, oldest first: at most limit of those that come after
// the token after, which was created at afterTS (ms). It uses registration_tokens_by_age.
func (tx *Tx) RegistrationTokens(afterTS int64, after string, limit int) ([]RegistrationToken, error) {
	return collect(tx, scanRegistrationToken, registrationTokensQuery, afterTS, after, limit)
}

const addRegistrationTokenQuery = `INSERT INTO registration_tokens (token, uses_allowed, expires_ts, created_ts) VALUES ($1, $2, $3, $4)
ON CONFLICT (token) DO NOTHING`

// AddRegistrationToken stores a token. It returns false if the token exists already.
func (tx *Tx) AddRegistrationToken(t RegistrationToken) (bool, error) {
	n, err := tx.exec(addRegistrationTokenQuery, t.Token, t.Uses, t.ExpiresTS, t.CreatedTS)
	return n == 1, err
}

const useRegistrationTokenQuery = `UPDATE registration_tokens SET completed = completed + 1
WHERE token = $1 AND (uses_allowed IS NULL OR completed < uses_allowed) AND (expires_ts = 0 OR expires_ts > $2)`

// UseRegistrationToken counts one more registration. It returns false if the token is unknown, used up or expired.
func (tx *Tx) UseRegistrationToken(token string) (bool, error) {
	n, err := tx.exec(useRegistrationTokenQuery, token, tx.now.UnixMilli())
	return n == 1, err
}

// DeleteRegistrationToken revokes a token. It returns false if there is no such token.
func (tx *Tx) DeleteRegistrationToken(token string) (bool, error) {
	n, err := tx.exec(`DELETE FROM registration_tokens WHERE token = $1`, token)
	return n == 1, err
}
