package storage

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"testing"

	"ebb/storage/values"
)

// Access to internals for the tests of the engine.

func (tx *Tx) Exec(query string, args ...any) (int64, error) { return tx.exec(query, args...) }

func (tx *Tx) Each(f func(Row) error, query string, args ...any) error {
	return tx.each(f, query, args...)
}

func (tx *Tx) Int64(query string, args ...any) (int64, error) {
	n, _, err := one(tx, scanNumber[int64], query, args...)
	return n, err
}

var (
	ErrNested = errNested
	ErrBatch  = errBatch
	ErrPanic  = errPanic
)

// FindsByID holds the queries that find events by ID.
var FindsByID = []string{eventByIDQuery, eventsByIDQuery + `($2, $3)`, eventAnywhereQuery, eventPositionsQuery + `($1)`, redactEventQuery}

// SealedUpdates returns the statements that replace a text in each of the columns with sealed texts.
func SealedUpdates() (queries []string) {
	for _, c := range sealedColumns {
		queries = append(queries, c.move)
	}
	return queries
}

const LongestLog = longestLog

// SlowCheckpoint makes the next checkpoint of the write-ahead log take until release is called.
func SlowCheckpoint(db *DB) (release func()) {
	db.checkpointer.copying.Lock()
	return db.checkpointer.copying.Unlock
}

// MakeForeign creates a database with SQLite's default settings.
func MakeForeign(t *testing.T, path string) {
	t.Helper()
	c, err := openLite(path, "rwc", nil)
	if err == nil {
		err = errors.Join(run(c, `CREATE TABLE foreign_table (n BIGINT)`), c.close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// RunSQL runs statements on a database file as sqlite3 would.
func RunSQL(t *testing.T, path, statements string) {
	t.Helper()
	c, err := openLite(path, "rw", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.c.Exec(statements, nil)
	if err := errors.Join(err, c.close()); err != nil {
		t.Fatal(err)
	}
}

// Migrate upgrades a database with the given migrations.
func Migrate(dsn string, files fs.FS) error {
	d, err := parseDSN(dsn)
	if err != nil {
		return err
	}
	c, err := d.openWriter(context.Background())
	if err != nil {
		return err
	}
	return errors.Join(migrate(c, d, files, slog.New(slog.DiscardHandler)), c.close())
}

// Prepare returns an error if the database does not understand a query.
func Prepare(db *DB, query string) error {
	return db.between(context.Background(), func(c conn) error {
		if lite, ok := c.(*liteConn); ok {
			s, err := lite.c.Prepare(values.Lite(query))
			if err != nil {
				return err
			}
			return s.Close()
		}
		if err := run(c, `PREPARE q AS `+query); err != nil {
			return err
		}
		return run(c, `DEALLOCATE q`)
	})
}

// Paged are the queries that read a list page by page, with the index that finds a page.
var Paged = map[string]string{
	allRoomsQuery:           "PRIMARY KEY",
	publishedRoomsQuery:     "rooms_published",
	roomsWithPolicyQuery:    "PRIMARY KEY",
	registrationTokensQuery: "registration_tokens_by_age",
	listAccountsQuery:       "autoindex_accounts",
	roomRowsQuery:           "PRIMARY KEY",
}

// SealOld seals what is stored from before there were keys.
func (db *DB) SealOld() error { return db.sealOld(context.Background()) }

// MaxDirty is how long a key may be dirty.
const MaxDirty = maxDirty

// PassingTables returns the tables that DropExpired sweeps, with how long (ms) their rows are kept after they expire.
func PassingTables() map[string]int64 {
	tables := map[string]int64{}
	for _, t := range passing {
		tables[t.table] = t.kept
	}
	return tables
}
