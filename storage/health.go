package storage

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/mattn/go-sqlite3"
)

// ErrDamaged means that the database file does not contain what was written to it.
var ErrDamaged = errors.New("storage: the database is damaged")

// health holds what the results of statements have shown about the database.
type health struct {
	damaged    atomic.Pointer[error] // the first error that showed damage; never reset
	unwritable atomic.Bool           // whether the last write failed because the disk was full
}

// note records what an error shows about the database.
func (h *health) note(db *DB, err error) {
	switch {
	case errors.Is(err, ErrFull):
		h.unwritable.Store(true)
	case err != nil && isDamage(err) && h.damaged.CompareAndSwap(nil, &err):
		db.cfg.Log.Error("the database is damaged: stop the server and restore a backup", "err", err)
	}
}

func isDamage(err error) bool {
	var lite sqlite3.Error
	if errors.As(err, &lite) {
		return lite.Code == sqlite3.ErrCorrupt || lite.Code == sqlite3.ErrNotADB
	}
	var pg *pgconn.PgError // data_corrupted, index_corrupted
	return errors.Is(err, ErrDamaged) || errors.As(err, &pg) && (pg.Code == "XX001" || pg.Code == "XX002")
}

const probeQuery = `SELECT value FROM meta WHERE name = 'position'`

// Health returns an error if the database cannot be used normally: it does not answer, was found damaged, or cannot be
// written, or the folder with the keys of messages cannot be used. It writes only after a write has failed, to find out
// whether writes work again.
func (db *DB) Health(ctx context.Context) error {
	err := db.read(ctx, db.inner, func(tx *Tx) error {
		_, _, err := one(tx, scanNumber[int64], probeQuery)
		return err
	})
	if damage := db.health.damaged.Load(); damage != nil {
		return *damage
	}
	if err == nil && db.health.unwritable.Load() {
		err = db.Write(ctx, func(tx *Tx) error {
			_, err := tx.exec(setMetaNumberQuery, metaProbe, tx.now.UnixMilli())
			return err
		})
	}
	if err == nil {
		err = db.sealer.Check(ctx)
	}
	return err
}

// metaProbe is the row of meta that Health writes.
const metaProbe = "probe"

// Check reads the whole database from the disk, not from memory, and returns ErrDamaged if its structure is broken. On
// PostgreSQL, which has its own checks, it does nothing.
func (db *DB) Check(ctx context.Context) error {
	err := db.dialect.check(ctx)
	db.health.note(db, err)
	return err
}

func (d sqliteDialect) check(context.Context) error {
	c, err := openLite(d.path, "ro", readerPragmas)
	if err != nil {
		return err
	}
	var found string
	err = c.pragma(`quick_check(1)`, &setting{&found})
	if err = errors.Join(err, c.close()); err == nil && found != "ok" {
		err = fmt.Errorf("%w: %s", ErrDamaged, found)
	}
	return err
}

func (postgresDialect) check(context.Context) error { return nil }
