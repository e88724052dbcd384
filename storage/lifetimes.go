package storage

import (
	"slices"

	"ebb/ident"
)

// passing lists the tables whose rows expire, each with its key and with how long (ms) a row is kept afterwards. Rows
// are also deleted when they are used or when others are added; DropExpired deletes those for which neither happens.
var passing = []struct {
	table, key string
	kept       int64
}{
	{"approvals", "session", 0},
	{"email_sessions", "sid", 0},
	{"enrol_links", "user_nid", 0},
	{"factor_challenges", "hash", 0},
	{"login_tokens", "hash", 0},
	{"oauth_codes", "hash", oauthCodesKept},
	{"oauth_device_codes", "hash", oauthCodesKept},
	{"openid_tokens", "hash", 0},
	{"upstream_used", "hash", 0},
	{"web_sessions", "hash", 0},
}

// oauthCodesKept is an hour, in which the second use of a code is noticed.
const oauthCodesKept = 3600_000

// DropExpired deletes rows that expired before a time (ms): at most limit of each table. It reports whether there may
// be more.
func (tx *Tx) DropExpired(beforeTS int64, limit int) (more bool, err error) {
	for _, t := range passing {
		n, err := tx.exec(`DELETE FROM `+t.table+` WHERE `+t.key+` IN (SELECT `+t.key+` FROM `+t.table+` WHERE expires_ts <= $1 ORDER BY expires_ts LIMIT $2)`, beforeTS-t.kept, limit)
		if err != nil {
			return false, err
		}
		more = more || n == int64(limit)
	}
	return more, nil
}

// It uses the primary key: reports are numbered in the order of their times.
const oldReportsQuery = `SELECT nid FROM reports WHERE ts < $1 AND NOT ` + isHeldReport + ` ORDER BY nid LIMIT $2`

// DropReports deletes at most limit reports that were made before a time (ms), and returns their number. Those that a
// legal hold covers stay.
func (tx *Tx) DropReports(beforeTS int64, limit int) (int, error) {
	old, err := collect(tx, scanNumber[int64], oldReportsQuery, beforeTS, limit)
	if err != nil {
		return 0, err
	}
	return len(old), tx.deleteReports(old)
}

const idleSessionsQuery = `SELECT d.user_nid, d.nid, d.device_id FROM devices d JOIN accounts a ON a.nid = d.user_nid
WHERE d.seen_ts < $1 AND a.guest = 0 AND d.path <> 'machine' AND d.path <> 'appservice'
AND EXISTS (SELECT 1 FROM access_tokens t WHERE t.device_nid = d.nid) ORDER BY d.nid LIMIT $2`

// IdleSessions returns at most limit devices that were last seen before a time (ms), except for those of guests,
// programs and users of application services. It reads the whole table, which is as long as there are devices.
func (tx *Tx) IdleSessions(beforeTS int64, limit int) ([]OAuthSession, error) {
	return collect(tx, func(r Row) (s OAuthSession, err error) { err = r.Scan(&s.User, &s.Device, &s.DeviceID); return s, err }, idleSessionsQuery, beforeTS, limit)
}

// manyPrivate holds the statements that delete at most $2 rows of the private data of which a user can have much: 16
// MiB of account data, two million sessions in key backups, and receipts in any number of threads.
var manyPrivate = []string{
	`DELETE FROM account_data WHERE (user_nid, room_nid, type) IN (SELECT user_nid, room_nid, type FROM account_data WHERE user_nid = $1 LIMIT $2)`,
	`DELETE FROM backup_keys WHERE (user_nid, version, room_id, session_id) IN
(SELECT user_nid, version, room_id, session_id FROM backup_keys WHERE user_nid = $1 LIMIT $2)`,
	`DELETE FROM receipts WHERE (room_nid, user_nid, type, thread) IN
(SELECT room_nid, user_nid, type, thread FROM receipts WHERE user_nid = $1 AND type = 'm.read.private' LIMIT $2)`,
}

// deletePrivatePart deletes at most limit rows of a user's private data, and returns their number.
func (tx *Tx) deletePrivatePart(user ident.UserNID, limit int) (n int, err error) {
	for _, q := range manyPrivate {
		gone, err := tx.exec(q, int64(user), limit-n)
		if n += int(gone); err != nil || n >= limit {
			return n, err
		}
	}
	return n, nil
}

// privateData holds the statements that delete what only a user, or the user's clients, could read or needed.
var privateData = []string{
	`DELETE FROM account_data WHERE user_nid = $1`,
	`DELETE FROM filters WHERE user_nid = $1`,
	`DELETE FROM push_rules WHERE user_nid = $1`,
	`DELETE FROM thread_subscriptions WHERE user_nid = $1`,
	`DELETE FROM message_lifetimes WHERE user_nid = $1`,
	`DELETE FROM receipts WHERE user_nid = $1 AND type = 'm.read.private'`,
	`DELETE FROM backup_versions WHERE user_nid = $1`,
}

const (
	closedAccountsQuery = `SELECT a.nid FROM accounts a WHERE a.deactivated_ts > 0 AND a.emptied = 0 AND a.leaving = 0
AND NOT EXISTS (SELECT 1 FROM legal_holds h WHERE h.user_nid = a.nid AND h.lifted_ts = 0) ORDER BY a.nid LIMIT $1`
	emptiedQuery = `UPDATE accounts SET emptied = 1 WHERE nid = $1 AND deactivated_ts > 0`
)

// emptiedPart is how many rows of an account EmptyClosedAccounts deletes.
const emptiedPart = 500

// EmptyClosedAccounts deletes what only their users could read of at most limit closed accounts, and returns their
// number. An account with much data is not complete after one call. Accounts of users under a legal hold wait until it
// is lifted. It uses the index accounts_to_empty.
func (tx *Tx) EmptyClosedAccounts(limit int) (int, error) {
	closed, err := collect(tx, scanNumber[ident.UserNID], closedAccountsQuery, limit)
	if err != nil {
		return 0, err
	}
	for _, user := range closed {
		if n, err := tx.deletePrivatePart(user, emptiedPart); err != nil || n == emptiedPart {
			return len(closed), err
		}
		for _, q := range slices.Concat(privateData, []string{emptiedQuery}) {
			if _, err := tx.exec(q, int64(user)); err != nil {
				return 0, err
			}
		}
	}
	return len(closed), nil
}
