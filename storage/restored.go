package storage

import (
	"context"
	"fmt"
	"time"

	"ebb/ident"
)

// A restored database is an earlier state of one that clients and other servers know. If it went on where it was, it
// would allot positions and numbers a second time, and a client whose token has such a position would miss what is
// there now. Therefore MarkRestored leaves a gap of restoreGap positions, which is more than could have been allotted
// since the backup, and records where the gap ends. A token below that is from before the restore.

// restoreGap is the number of positions that MarkRestored skips. It is more than a year of 2,000 positions a second. An
// order in a timeline has room for 2,000 such gaps (graph.OrderStep), and a position remains a JSON integer.
const restoreGap = 1 << 36

// metaRestored is the row of meta with the end of the gap; metaRestoredTS has the time of the restore (ms).
const (
	metaRestored   = "restored"
	metaRestoredTS = "restored_ts"
)

// afterRestore lists the statements that delete what must not be used again after a restore. One-time and fallback
// keys may have been claimed since the backup, and a second use of a key breaks the encryption of both messages.
// Everything that works only once (login tokens, codes, links) may have been used. A connection of sliding sync
// continues from a state that only the client still has.
var afterRestore = []string{
	`DELETE FROM one_time_keys`,
	`DELETE FROM fallback_keys`,
	`DELETE FROM sliding_states`,
	`DELETE FROM sliding_connections`,
	`DELETE FROM login_tokens`,
	`DELETE FROM openid_tokens`,
	`DELETE FROM oauth_codes`,
	`DELETE FROM oauth_device_codes`,
	`DELETE FROM web_sessions`,
	`DELETE FROM factor_challenges`,
	`DELETE FROM enrol_links`,
	`DELETE FROM approvals`,
	`DELETE FROM ledger_queue`,
}

// endSessions lists the statements that end all sessions with a soft logout: clients keep their keys and sign in again.
var endSessions = []string{
	`UPDATE access_tokens SET expires_ts = 1`,
	`DELETE FROM refresh_tokens`,
	`DELETE FROM oauth_sessions`,
}

// MarkRestored prepares a database that was restored from a backup for use. If signOut is set, it also ends all
// sessions.
func (db *DB) MarkRestored(ctx context.Context, signOut bool) error {
	statements := afterRestore
	if signOut {
		statements = append(statements[:len(statements):len(statements)], endSessions...)
	}
	var restored Pos
	err := db.Write(ctx, func(tx *Tx) error {
		for _, q := range statements {
			if _, err := tx.exec(q); err != nil {
				return err
			}
		}
		tx.committer.pos += restoreGap
		restored = tx.NextPos()
		if err := tx.setMetaNumbers(map[string]int64{metaRestored: int64(restored), metaRestoredTS: tx.now.UnixMilli()}); err != nil {
			return err
		}
		// The time that the server was off is no jump of its clock.
		return tx.SetClock(Clock{Seen: tx.now.UnixMilli()})
	})
	if err != nil {
		return fmt.Errorf("prepare the restored database: %w", err)
	}
	db.restored.Store(int64(restored))
	db.restoredTS.Store(db.cfg.Now().UnixMilli())
	return nil
}

// Restored returns the position before which every token was issued before the database was last restored from a
// backup, or 0 if it was never restored.
func (db *DB) Restored() Pos { return Pos(db.restored.Load()) }

// softLogoutAfterRestore is how long after a restore clients with an unknown token are asked to sign in again instead
// of deleting their keys.
const softLogoutAfterRestore = 90 * 24 * time.Hour

// ForgotTokens reports whether a client may have an access token that is unknown only because the database was restored
// from a backup that is older than the token.
func (db *DB) ForgotTokens() bool {
	ts := db.restoredTS.Load()
	return ts != 0 && db.cfg.Now().Sub(time.UnixMilli(ts)) < softLogoutAfterRestore
}

// readRestored reads what MarkRestored has recorded.
func (db *DB) readRestored(c conn) error {
	var restored, ts int64
	for name, into := range map[string]*int64{metaRestored: &restored, metaRestoredTS: &ts} {
		if err := c.query(func(r Row) error { return r.Scan(into) }, `SELECT value FROM meta WHERE name = $1`, name); err != nil {
			return err
		}
	}
	db.restored.Store(restored)
	db.restoredTS.Store(ts)
	return nil
}

// DeviceOwner returns the owner and the ID of a device.
func (tx *Tx) DeviceOwner(device ident.DeviceNID) (user ident.UserNID, deviceID string, found bool, err error) {
	_, found, err = one(tx, func(r Row) (struct{}, error) { return struct{}{}, r.Scan(&user, &deviceID) },
		`SELECT user_nid, device_id FROM devices WHERE nid = $1`, int64(device))
	return user, deviceID, found, err
}
