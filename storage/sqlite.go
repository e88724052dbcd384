package storage

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"github.com/mattn/go-sqlite3"
)

type sqliteDialect struct{}

func (sqliteDialect) name() string   { return "sqlite" }
func (sqliteDialect) rowKey() string { return "INTEGER PRIMARY KEY" }

// lock keeps a second process out: two committers on one file would break positions and caches.
func (sqliteDialect) lock(_ context.Context, path string) (func() error, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("create the folder of the database: %w", err)
	}
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock file of the database: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s is locked", ErrInUse, f.Name()), f.Close())
	}
	return f.Close, nil
}

// ErrInUse: another process has the database open.
var ErrInUse = errors.New("another process uses this database")

// writerPragmas come before the first table, where order matters.
var writerPragmas = []string{
	`PRAGMA page_size = 4096`,
	`PRAGMA auto_vacuum = INCREMENTAL`,
	`PRAGMA journal_mode = WAL`,
	`PRAGMA synchronous = FULL`,
	`PRAGMA secure_delete = ON`,
	`PRAGMA temp_store = MEMORY`,
	`PRAGMA cache_size = -32768`,
	`PRAGMA wal_autocheckpoint = 0`,
	`PRAGMA journal_size_limit = 16777216`,
	`PRAGMA foreign_keys = OFF`,
}

// asserted settings: on any other value Ebb does not start, since acknowledged would not mean stored, or deleted gone.
var asserted = map[string]int64{`PRAGMA synchronous`: 2, `PRAGMA auto_vacuum`: 2, `PRAGMA secure_delete`: 1}

func (sqliteDialect) openWriter(_ context.Context, path string) (*conn, error) {
	c, err := openLite(path, "rwc", writerPragmas)
	if err != nil {
		return nil, err
	}
	for pragma, want := range asserted {
		var got int64
		err := c.query(func(r Row) error { return r.Scan(&got) }, pragma)
		if err != nil || got != want {
			return nil, errors.Join(fmt.Errorf("%s is %d, not %d", pragma, got, want), err, c.close())
		}
	}
	return c, nil
}

func (sqliteDialect) openReader(_ context.Context, path string) (*conn, error) {
	return openLite(path, "ro", []string{`PRAGMA query_only = ON`, `PRAGMA temp_store = MEMORY`, `PRAGMA cache_size = -4096`})
}

func openLite(path, mode string, pragmas []string) (*conn, error) {
	dsn := (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: "mode=" + mode + "&_busy_timeout=10000&_mutex=no"}).String()
	raw, err := (&sqlite3.SQLiteDriver{}).Open(dsn)
	if err != nil {
		return nil, err
	}
	c, err := newLite(raw)
	if err != nil {
		return nil, err
	}
	for _, p := range pragmas {
		if err := c.query(func(Row) error { return nil }, p); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", p, err), c.close())
		}
	}
	return c, nil
}

func (sqliteDialect) checkpoint(c *conn) error {
	return c.query(func(Row) error { return nil }, `PRAGMA wal_checkpoint(PASSIVE)`)
}

func (sqliteDialect) maintain(c *conn) error {
	for _, p := range []string{`PRAGMA incremental_vacuum`, `PRAGMA wal_checkpoint(TRUNCATE)`} {
		if err := c.query(func(Row) error { return nil }, p); err != nil {
			return full(err)
		}
	}
	return nil
}
