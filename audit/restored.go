package audit

import (
	"context"
	"fmt"
	"time"

	"ebb/storage"
)

// A database that was restored from a backup lacks the newest records, although sinks may have checkpoints of them. So
// that a Verifier can tell this from a log that somebody has cut off, the restore adds a record of its own, and every
// checkpoint from then on names it. Whoever controls only the database could add such a record too. Therefore the
// server signs it only if the restore has encrypted its number and hash with the key that is kept in a file.

// KindRestored is the kind of the record of a restore from a backup.
const KindRestored = "restored from a backup"

// restoredRow is the row name under which the reference to the record of a restore is encrypted (see
// secrets.Ring.Seal).
const restoredRow = "audit:restored"

// Restored records that the database was restored from a backup that was made at the given time.
func (l *Log) Restored(ctx context.Context, created time.Time) error {
	return l.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := l.Add(ctx, tx, KindRestored, "backup", created.UTC().Format(time.RFC3339)); err != nil {
			return err
		}
		record, _, err := tx.LastAudit()
		if err != nil {
			return err
		}
		return l.storeRestore(tx, RecordRef{record.Seq, record.Hash})
	})
}

func (l *Log) storeRestore(tx *storage.Tx, record RecordRef) error {
	sealed, err := l.opts.Secrets.Seal(restoredRow, []byte(record.line()))
	if err != nil {
		return err
	}
	return tx.SetAuditRestored(sealed)
}

// lastRestore returns the record of the last restore, or a zero RecordRef if there was none.
func (l *Log) lastRestore(ctx context.Context) (record RecordRef, err error) {
	sealed := ""
	err = l.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		sealed, err = tx.AuditRestored()
		return err
	})
	if err != nil || sealed == "" {
		return record, err
	}
	text, err := l.opts.Secrets.Open(restoredRow, sealed)
	if err != nil {
		l.opts.Log.Warn("Cannot read which record of the audit log is of the last restore; checkpoints do not name it", "err", err)
		return record, nil
	}
	record = parseRestore(string(text))
	if l.opts.Secrets.Stale(sealed) {
		err = l.opts.DB.Write(ctx, func(tx *storage.Tx) error { return l.storeRestore(tx, record) })
	}
	return record, err
}

// line returns the line of a checkpoint that names the record of a restore, or "" for a zero RecordRef.
func (r RecordRef) line() string {
	if r == (RecordRef{}) {
		return ""
	}
	return fmt.Sprintf("restored %d %s\n", r.Seq, r.Hash)
}

// parseRestore is the reverse of line. It returns a zero RecordRef for any other text.
func parseRestore(text string) (r RecordRef) {
	if n, err := fmt.Sscanf(text, "restored %d %s", &r.Seq, &r.Hash); n != 2 || err != nil {
		return RecordRef{}
	}
	return r
}
