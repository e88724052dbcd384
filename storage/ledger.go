package storage

// LedgerEntry records that something was deleted or revoked. Entries are written to a file outside the database, so
// that a restored backup can delete and revoke it again. The entries identify things by their numbers in the database,
// which are the same in every backup of it and are never used twice, so the file contains no names of people or rooms.
type LedgerEntry struct {
	Seq   Pos   // increases from entry to entry
	TS    int64 // ms
	Kind  string
	Ref   int64 // the position of an event, or the number of a room, user or device
	Value int64
	Name  string // identifies what has no number, such as a media ID
}

// Kinds of ledger entries.
const (
	LedgerRedacted    = "redacted"    // Ref: event; Value: the event that redacted it
	LedgerRemoved     = "removed"     // Ref: event, whose content was removed without a redaction
	LedgerPurged      = "purged"      // Ref: room; Name: the rule of the purge
	LedgerRoom        = "room"        // Ref: room, which was removed because no local user is in it
	LedgerDeactivated = "deactivated" // Ref: user; Value: the Erasure
	LedgerPassword    = "password"    // Ref: user, whose password was changed
	LedgerAdmin       = "admin"       // Ref: user; Value: whether the user is an administrator
	LedgerLocked      = "locked"      // Ref: user; Value: whether the account is locked
	LedgerSuspended   = "suspended"   // Ref: user; Value: whether the account is suspended
	LedgerDevice      = "device"      // Ref: device, which was deleted
	LedgerTokens      = "tokens"      // Ref: device, whose tokens were deleted
	LedgerTOTP        = "totp"        // Ref: user, whose secret for one-time codes was deleted or replaced
	LedgerPasskey     = "passkey"     // Ref: user; Name: the deleted passkey
	LedgerRecovery    = "recovery"    // Ref: user; Name: the hash of the used recovery code, "" if all were replaced
	LedgerFactors     = "factors"     // Ref: user, all of whose second factors were deleted
	LedgerIdentity    = "identity"    // Ref: user; Name: the hash of an identity at another service that was removed
	LedgerEmail       = "email"       // Ref: user; Value: when the e-mail address that was removed had been added (ms)
	LedgerMedia       = "media"       // Name: the deleted media ID
	LedgerQuarantine  = "quarantine"  // Name: the server ("": this one) and the ID of media; Value: whether they were withdrawn or that was lifted
	LedgerHold        = "hold"        // Ref: the room or user under a legal hold; Value: the hold; Name: LedgerHoldName
	LedgerLifted      = "hold lifted" // Ref: the hold
	LedgerLifetime    = "lifetime"    // Ref: user; Value: the lifetime of the user's messages (ms), 0: none; Name: the number of the room, 0: all rooms
	LedgerOverride    = "override"    // Ref: room; Name: the administrator's retention policy for it, as JSON; null: none
	LedgerReceipt     = "receipt"     // Ref: the number of a receipt of deletions; Name: its digest
)

const noteQuery = `INSERT INTO ledger_queue (seq, ts, kind, ref, value, name) VALUES ($1, $2, $3, $4, $5, $6)`

// Note queues an entry for the ledger, if Config.Ledger is set.
func (tx *Tx) Note(kind string, ref, value int64, name string) error {
	if !tx.db.cfg.Ledger {
		return nil
	}
	_, err := tx.exec(noteQuery, int64(tx.NextPos()), tx.now.UnixMilli(), kind, ref, value, name)
	select {
	case tx.db.noted <- struct{}{}:
	default:
	}
	return err
}

// noteFlag queues an entry with a value that is true or false.
func (tx *Tx) noteFlag(kind string, ref int64, set bool) error {
	value := int64(0)
	if set {
		value = 1
	}
	return tx.Note(kind, ref, value, "")
}

// Noted returns a channel that receives a value when there may be new entries for the ledger. Their write may not be
// committed yet; see Flush.
func (db *DB) Noted() <-chan struct{} { return db.noted }

const ledgerQueueQuery = `SELECT seq, ts, kind, ref, value, name FROM ledger_queue ORDER BY seq LIMIT $1`

// LedgerQueue returns the oldest entries that have not been removed from the queue.
func (tx *Tx) LedgerQueue(limit int) ([]LedgerEntry, error) {
	return collect(tx, func(r Row) (e LedgerEntry, err error) {
		var seq int64
		err = r.Scan(&seq, &e.TS, &e.Kind, &e.Ref, &e.Value, &e.Name)
		e.Seq = Pos(seq)
		return e, err
	}, ledgerQueueQuery, limit)
}

// LedgerHead identifies the last line of the ledger.
type LedgerHead struct {
	Line int64  `json:"line"` // its number, from 1; 0: none
	MAC  string `json:"mac"`
}

// Names of the rows of meta about the ledger: the number of its last line, with its MAC, and its path.
const (
	metaLedger     = "ledger"
	metaLedgerPath = "ledger_path"
)

const (
	ledgerHeadQuery    = `SELECT value, secret FROM meta WHERE name = $1`
	setLedgerHeadQuery = `INSERT INTO meta (name, value, secret) VALUES ($1, $2, $3) ON CONFLICT (name) DO UPDATE SET value = excluded.value, secret = excluded.secret`
)

// LedgerHead returns the path of the ledger and its last line, as recorded by AdvanceLedger.
func (tx *Tx) LedgerHead() (path string, h LedgerHead, err error) {
	h, _, err = one(tx, func(r Row) (h LedgerHead, err error) { err = r.Scan(&h.Line, &h.MAC); return h, err }, ledgerHeadQuery, metaLedger)
	if err != nil {
		return "", h, err
	}
	path, err = tx.metaText(metaLedgerPath)
	return path, h, err
}

// AdvanceLedger removes the entries up to seq from the queue, and records the path of the ledger that has them and its
// last line.
func (tx *Tx) AdvanceLedger(seq Pos, path string, h LedgerHead) error {
	if _, err := tx.exec(`DELETE FROM ledger_queue WHERE seq <= $1`, int64(seq)); err != nil {
		return err
	}
	if _, err := tx.exec(setLedgerHeadQuery, metaLedger, h.Line, h.MAC); err != nil {
		return err
	}
	return tx.setMetaText(metaLedgerPath, path)
}
