package storage

import "ebb/ident"

// DeletionCounts counts what was deleted from a room.
type DeletionCounts struct {
	Events, Media int64
	SinceTS       int64 // ms; when the first of them was deleted
}

const (
	countDeletedQuery = `INSERT INTO deletion_counts (room_nid, kind, events, media, since_ts) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (room_nid, kind) DO UPDATE SET events = deletion_counts.events + excluded.events, media = deletion_counts.media + excluded.media`
	takeDeletedQuery = `DELETE FROM deletion_counts WHERE room_nid = $1 AND kind = $2 RETURNING events, media, since_ts`
)

// CountDeleted adds to what a deletion that has not ended has deleted from a room.
func (tx *Tx) CountDeleted(room ident.RoomNID, kind string, events, media int64) error {
	_, err := tx.exec(countDeletedQuery, int64(room), kind, events, media, tx.now.UnixMilli())
	return err
}

// TakeDeleted returns what such a deletion has deleted from a room, and sets it to nothing.
func (tx *Tx) TakeDeleted(room ident.RoomNID, kind string) (DeletionCounts, bool, error) {
	return one(tx, func(r Row) (c DeletionCounts, err error) {
		err = r.Scan(&c.Events, &c.Media, &c.SinceTS)
		return c, err
	}, takeDeletedQuery, int64(room), kind)
}

// PendingReceipt is what a receipt will be about, of deletions that have ended.
type PendingReceipt struct {
	NID  int64
	Room ident.RoomNID
	Kind string
	DeletionCounts
	UntilTS int64  // ms; when the last of them was deleted
	About   string // JSON that describes the room
}

const (
	lastDirtyQuery         = `SELECT coalesce(max(dirty_ts), 0) FROM body_keys WHERE room_nid IN (0, $1) AND dirty_ts > 0`
	addPendingReceiptQuery = `INSERT INTO pending_receipts (nid, room_nid, kind, events, media, since_ts, until_ts, about) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`
	dueReceiptsQuery       = `SELECT nid, room_nid, kind, events, media, since_ts, until_ts, about FROM pending_receipts p WHERE NOT EXISTS (
    SELECT 1 FROM body_keys k WHERE k.room_nid IN (0, p.room_nid) AND k.dirty_ts > 0 AND k.dirty_ts <= p.until_ts)
AND NOT EXISTS (SELECT 1 FROM search_blocks b WHERE b.stale > 0 AND b.room_nid = p.room_nid) ORDER BY nid LIMIT $1`
)

// AddPendingReceipt stores what a receipt will be about, in the write that ends the deletion. It sets NID and UntilTS,
// which is not earlier than dirty_ts of any key under which something was deleted so far, even if the clock was set
// back since.
func (tx *Tx) AddPendingReceipt(p *PendingReceipt) error {
	dirty, _, err := one(tx, scanNumber[int64], lastDirtyQuery, int64(p.Room))
	if err != nil {
		return err
	}
	p.NID, p.UntilTS = int64(tx.NextPos()), max(dirty, tx.now.UnixMilli())
	_, err = tx.exec(addPendingReceiptQuery, p.NID, int64(p.Room), p.Kind, p.Events, p.Media, p.SinceTS, p.UntilTS, p.About)
	return err
}

// DueReceipts lists at most limit pending receipts, the oldest first, except those about texts whose keys are still to
// be destroyed (see DB.RetireKeys), or whose words are still in the search index. It uses the indexes body_keys_by_room
// and search_blocks_stale.
func (tx *Tx) DueReceipts(limit int) ([]PendingReceipt, error) {
	return collect(tx, func(r Row) (p PendingReceipt, err error) {
		err = r.Scan(&p.NID, &p.Room, &p.Kind, &p.Events, &p.Media, &p.SinceTS, &p.UntilTS, &p.About)
		return p, err
	}, dueReceiptsQuery, limit)
}

// DropPendingReceipt deletes a pending receipt, in the write that stores the receipt.
func (tx *Tx) DropPendingReceipt(nid int64) error {
	_, err := tx.exec(`DELETE FROM pending_receipts WHERE nid = $1`, nid)
	return err
}

// OpenDeletion names a kind of deletions in a room that have not ended.
type OpenDeletion struct {
	Room ident.RoomNID
	Kind string
}

const openDeletionsQuery = `SELECT room_nid, kind FROM deletion_counts WHERE (room_nid, kind) > ($1, $2) ORDER BY room_nid, kind LIMIT $3`

// OpenDeletions lists at most limit of the kinds of deletions that have not ended, after the given one. It uses the
// primary key.
func (tx *Tx) OpenDeletions(after OpenDeletion, limit int) ([]OpenDeletion, error) {
	return collect(tx, func(r Row) (o OpenDeletion, err error) { err = r.Scan(&o.Room, &o.Kind); return o, err }, openDeletionsQuery, int64(after.Room), after.Kind, limit)
}

// DeletionReceipt is a signed receipt about deletions.
type DeletionReceipt struct {
	Number int64 // from 1
	Room   ident.RoomNID
	TS     int64  // ms
	Digest string // of Note
	Note   string
}

func scanDeletionReceipt(r Row) (d DeletionReceipt, err error) {
	err = r.Scan(&d.Number, &d.Room, &d.TS, &d.Digest, &d.Note)
	return d, err
}

const addReceiptQuery = `INSERT INTO deletion_receipts (number, room_nid, ts, digest, note) VALUES ($1, $2, $3, $4, $5)`

const receiptColumns = `number, room_nid, ts, digest, note`

// LastDeletionReceipt returns the newest receipt.
func (tx *Tx) LastDeletionReceipt() (DeletionReceipt, bool, error) {
	return one(tx, scanDeletionReceipt, `SELECT `+receiptColumns+` FROM deletion_receipts ORDER BY number DESC LIMIT 1`)
}

// AddDeletionReceipt stores a receipt.
func (tx *Tx) AddDeletionReceipt(d DeletionReceipt) error {
	if _, err := tx.exec(addReceiptQuery, d.Number, int64(d.Room), d.TS, d.Digest, d.Note); err != nil {
		return err
	}
	return tx.Note(LedgerReceipt, d.Number, 0, d.Digest)
}

// AddReceiptAgain records that there was a receipt, in a database that was restored from a backup without it, so that
// its number is not used again and the next receipt has its hash. The receipt itself is lost.
func (tx *Tx) AddReceiptAgain(e LedgerEntry) error {
	last, _, err := tx.LastDeletionReceipt()
	if err != nil || e.Ref <= last.Number {
		return err
	}
	_, err = tx.exec(addReceiptQuery, e.Ref, 0, e.TS, e.Name, "")
	return err
}

const deletionReceiptsQuery = `SELECT ` + receiptColumns + ` FROM deletion_receipts WHERE number > $1 AND (room_nid = $2 OR $2 = 0) AND note <> '' ORDER BY number LIMIT $3`

// DeletionReceipts returns at most limit receipts after a number, of one room or, if room is 0, of all.
func (tx *Tx) DeletionReceipts(after int64, room ident.RoomNID, limit int) ([]DeletionReceipt, error) {
	return collect(tx, scanDeletionReceipt, deletionReceiptsQuery, after, int64(room), limit)
}

const forgetReceiptsQuery = `DELETE FROM deletion_receipts WHERE number IN (SELECT number FROM deletion_receipts WHERE ts < $1
AND number < (SELECT max(number) FROM deletion_receipts) ORDER BY number LIMIT $2)`

// ForgetDeletionReceipts deletes at most limit receipts from before a time (ms), but never the newest, on which the
// next one depends. It reports whether there may be more.
func (tx *Tx) ForgetDeletionReceipts(before int64, limit int) (more bool, err error) {
	n, err := tx.exec(forgetReceiptsQuery, before, limit)
	return n == int64(limit), err
}

// DeletionKey is a key that signs receipts about deletions.
type DeletionKey struct {
	NID      int64
	Private  string // encrypted; "": the key was replaced
	Verifier string // the public part
}

const deletionKeysQuery = `SELECT nid, private, verifier FROM deletion_keys ORDER BY nid DESC LIMIT $1`

// DeletionKeys returns at most limit keys, the newest first.
func (tx *Tx) DeletionKeys(limit int) ([]DeletionKey, error) {
	return collect(tx, func(r Row) (k DeletionKey, err error) { err = r.Scan(&k.NID, &k.Private, &k.Verifier); return k, err }, deletionKeysQuery, limit)
}

// ReplaceDeletionKey stores a new key, and deletes the private parts of the others.
func (tx *Tx) ReplaceDeletionKey(private, verifier string) error {
	if _, err := tx.exec(`UPDATE deletion_keys SET private = '', replaced_ts = $1 WHERE replaced_ts = 0`, tx.now.UnixMilli()); err != nil {
		return err
	}
	_, err := tx.exec(`INSERT INTO deletion_keys (nid, private, verifier, created_ts) VALUES ($1, $2, $3, $4)`, int64(tx.NextPos()), private, verifier, tx.now.UnixMilli())
	return err
}
