package audit

import (
	"context"
	"slices"
	"strings"
	"testing"

	"ebb/storage"
	"ebb/storage/storagetest"
)

// backup is a copy of an audit log.
type backup struct {
	rows             []storage.AuditRow
	sealed, verifier string
}

func (l *lab) backup() (b backup) {
	l.t.Helper()
	b.rows, _ = l.rows()
	l.must(l.db.Read(ctx, func(tx *storage.Tx) (err error) { b.sealed, b.verifier, err = tx.AuditKey(); return err }))
	return b
}

// restore returns a log on a fresh database with the content of a backup, and with the key file and the sinks of l.
func (l *lab) restore(b backup) *lab {
	l.t.Helper()
	r := &lab{t: l.t, dsn: storagetest.SQLite(l.t)}
	r.ms.Store(l.ms.Load())
	o := l.opts
	r.db = storagetest.Open(l.t, storage.Config{DSN: r.dsn, Now: o.Now})
	o.DB = r.db
	r.Log = New(o)
	l.must(r.db.Write(ctx, func(tx *storage.Tx) error {
		for _, a := range b.rows {
			if err := tx.AddAudit(a); err != nil {
				return err
			}
		}
		return tx.SetAuditKey(b.sealed, b.verifier)
	}))
	return r
}

func TestOnlyARestoreByTheServerExplainsMissingRecords(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *lab) {
		var sink []byte
		l.opts.Sinks = []Sink{{"test", func(_ context.Context, line []byte) error { sink = append(append(sink, line...), '\n'); return nil }}}
		l.record(2)
		l.must(l.Checkpoint(ctx)) // adds record 3
		old := l.backup()
		l.record(3)
		l.must(l.Checkpoint(ctx)) // of record 6
		before := slices.Clone(sink)
		check := func(name string, l *lab, want string) []Restore {
			t.Helper()
			list, err := ReadCheckpoints(sink, old.verifier)
			l.must(err)
			v, err := NewVerifier(list)
			rows, _ := l.rows()
			for i := 0; err == nil && i < len(rows); i++ {
				err = v.Row(rows[i])
			}
			if err == nil {
				_, err = v.End()
			}
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
			return v.Restores
		}
		check("as it was", l, "")

		cutOff := l.restore(old)
		check("cut off", cutOff, "row 4 is missing")
		cutOff.must(cutOff.Record(ctx, KindRestored)) // by somebody who holds only the database
		cutOff.record(4)
		cutOff.must(cutOff.Checkpoint(ctx))
		check("cut off, with a record that looks like that of a restore", cutOff, "row 6: its checkpoint has another hash")

		sink = slices.Clone(before)
		restored := l.restore(old)
		restored.must(restored.Restored(ctx, l.opts.Now()))
		check("before the first checkpoint", restored, "Row 4 says that the database was restored from a backup")
		restored.must(restored.Checkpoint(ctx))
		check("restored", restored, "")
		restored.must(l.opts.Secrets.Rotate())
		restored.record(3)
		restored.must(restored.Checkpoint(ctx))
		list := check("after more records, under a new key of the secrets", restored, "")
		if len(list) != 1 || list[0].Row != 4 || list[0].Lost != 1 || list[0].LostTo != 6 {
			t.Errorf("the restores are %+v", list)
		}

		twice := l.restore(old)
		twice.must(twice.Restored(ctx, l.opts.Now()))
		twice.must(twice.Checkpoint(ctx))
		if list := check("restored twice", twice, ""); len(list) != 1 || list[0].Lost != 3 || list[0].LostTo != 7 {
			t.Errorf("the restores are %+v", list)
		}
		check("the log of before the second restore", restored, "another hash")

		// What was checkpointed after the restore cannot be cut off by pointing at the restore.
		forged := l.restore(twice.backup())
		forged.record(1)
		twice.record(2)
		twice.must(twice.Checkpoint(ctx))
		check("cut off after the restore", forged, "row 6 is missing")
	})
}
