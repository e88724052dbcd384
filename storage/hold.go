package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"time"
)

// Held describes the state of a database in which Hold has stopped it.
type Held struct {
	File      string     `json:"file"` // the file to copy
	Migration string     `json:"migration"`
	Ledger    LedgerHead `json:"ledger"`
}

// ErrNotHeld means that a database is not in files of this machine.
var ErrNotHeld = errors.New("storage: the database has no file of its own")

// Hold prepares an SQLite database for a copy of its file while commits continue. It copies the write-ahead log into
// the file and empties the log, and until release is called, nothing is copied from the log to the file again. So the
// file remains as it was at one point in time, and as secure_delete is on, it has nothing of what was deleted before.
// The log grows meanwhile. Maintain waits.
//
// The file must be copied by another process: closing any descriptor of the file would release the locks that SQLite
// holds on it in this one.
func (db *DB) Hold(ctx context.Context) (h Held, release func(), err error) {
	if db.checkpointer == nil {
		return h, nil, ErrNotHeld
	}
	err = db.Read(ctx, func(tx *Tx) (err error) {
		_, h.Ledger, err = tx.LedgerHead()
		return err
	})
	if err != nil {
		return h, nil, err
	}
	if err := db.checkpointer.acquire(ctx); err != nil {
		return h, nil, err
	}
	if err := emptyLog(ctx, db); err != nil {
		db.checkpointer.release()
		return h, nil, err
	}
	h.File = db.dialect.(sqliteDialect).path
	h.Migration, err = newestMigration()
	return h, db.checkpointer.release, err
}

// newestMigration returns the name of the last migration of this version.
func newestMigration() (string, error) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil || len(names) == 0 {
		return "", errors.Join(err, errOrNil(len(names) == 0, errors.New("no migrations")))
	}
	return path.Base(names[len(names)-1]), nil
}

// KnowsMigration returns an error unless this version knows a migration, and so can open a database that has it.
func KnowsMigration(name string) error {
	_, err := fs.Stat(migrationFiles, path.Join("migrations", path.Base(name)))
	if err != nil {
		return fmt.Errorf("%w (it has %s)", ErrNewerSchema, name)
	}
	return nil
}

// HoldClosed is Hold for a database that no process has open. Until release is called, no server can start. It does not
// migrate the database.
func HoldClosed(ctx context.Context, dsn string) (h Held, release func() error, err error) {
	parsed, err := parseDSN(dsn)
	if err != nil {
		return h, nil, err
	}
	d, ok := parsed.(sqliteDialect)
	if !ok {
		return h, nil, ErrNotHeld
	}
	if _, err := os.Stat(d.path); err != nil {
		return h, nil, err
	}
	lock, err := d.lock()
	if err != nil {
		return h, nil, err
	}
	h.File = d.path
	if err := h.settle(d); err != nil {
		return h, nil, errors.Join(err, lock.Release())
	}
	return h, lock.Release, nil
}

// settle copies the write-ahead log into the file and deletes it, and reads the fields of h.
func (h *Held) settle(d sqliteDialect) (err error) {
	if err := d.prepare(slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	c, err := openLite(d.path, "rw", writerPragmas[2:])
	if err != nil {
		return full(err)
	}
	defer func() { err = errors.Join(err, full(c.close())) }()
	if err := d.checkSettings(c, storedSettings); err != nil {
		return err
	}
	if err := h.read(c); err != nil {
		return err
	}
	l, err := fold(c, "TRUNCATE")
	if err == nil && l.busy {
		err = errors.New("another program is reading the database")
	}
	return err
}

// CheckFile returns an error if the SQLite database in a file is damaged.
func CheckFile(ctx context.Context, dsn string) (err error) {
	parsed, err := parseDSN(dsn)
	if err != nil {
		return err
	}
	d, ok := parsed.(sqliteDialect)
	if !ok {
		return nil
	}
	c, err := openLite(d.path, "ro", readerPragmas)
	if err != nil {
		return err
	}
	var result string
	err = errors.Join(c.pragma("quick_check(1)", &result), c.close(), ctx.Err())
	if err == nil && result != "ok" {
		err = fmt.Errorf("the database in the file is damaged: %s", result)
	}
	return err
}

// acquire waits until no checkpoint and no other holder keeps the file of the database from being copied, and stops
// checkpoints until release is called.
func (k *checkpointer) acquire(ctx context.Context) error {
	select {
	case k.gate <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// release ends what acquire has begun. The log is checked again after the next commits.
func (k *checkpointer) release() { <-k.gate }

// emptyLog copies the write-ahead log into the database and truncates it, between two batches. It waits for readers
// that still need the log. The caller has acquired the checkpointer.
func emptyLog(ctx context.Context, db *DB) error {
	// Most of the log is copied while commits continue.
	if _, err := fold(db.checkpointer.conn, "PASSIVE"); err != nil {
		return fmt.Errorf("copy the write-ahead log: %w", err)
	}
	for range truncateTries {
		var l walState
		err := db.between(ctx, func(w conn) (err error) { l, err = truncateLog(w.(*liteConn)); return err })
		if err != nil {
			return fmt.Errorf("empty the write-ahead log: %w", err)
		}
		if !l.busy {
			return nil
		}
		select {
		case <-time.After(truncateWait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("empty the write-ahead log: a reader still uses it")
}

// PeekHeld reads from a database that may be in use what Held says about it.
func PeekHeld(ctx context.Context, dsn string) (h Held, err error) {
	d, err := parseDSN(dsn)
	if err != nil {
		return h, err
	}
	c, err := d.peek(ctx)
	if c == nil || err != nil {
		return h, errors.Join(err, errOrNil(c == nil && err == nil, errors.New("there is no database yet")))
	}
	return h, errors.Join(h.read(c), c.close())
}

// read reads the fields of h except File.
func (h *Held) read(c conn) error {
	applied, err := appliedMigrations(c)
	if err != nil {
		return err
	}
	if len(applied) > 0 {
		h.Migration = applied[len(applied)-1]
	}
	return c.query(func(r Row) error { return r.Scan(&h.Ledger.Line, &h.Ledger.MAC) }, ledgerHeadQuery, metaLedger)
}
