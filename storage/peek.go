package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Peeked is the result of Peek.
type Peeked struct {
	Identity
	Account string // the user ID of an arbitrary account; "" if there is none
}

// Peek reads from a database that may be in use, and changes nothing. It returns false if there is no database yet. The
// error is the reason why Open would refuse the database.
func Peek(ctx context.Context, dsn string) (p Peeked, found bool, err error) {
	d, err := parseDSN(dsn)
	if err != nil {
		return p, false, err
	}
	c, err := d.peek(ctx)
	if c == nil || err != nil {
		return p, false, err
	}
	p, err = peek(c)
	return p, err == nil, errors.Join(err, c.close())
}

func peek(c conn) (p Peeked, err error) {
	text := func(into *string, query string, args ...any) {
		if err == nil {
			err = c.query(func(r Row) error { return r.Scan(into) }, query, args...)
		}
	}
	applied, err := appliedMigrations(c)
	if err != nil {
		return p, err
	}
	known, err := fs.Glob(migrationFiles, "migrations/*.sql")
	for i := range known {
		known[i] = path.Base(known[i])
	}
	if err = errors.Join(err, refuseNewer(applied, known)); err != nil {
		return p, err
	}
	text(&p.ServerName, identityQuery, metaServerName)
	text(&p.SigningKey, identityQuery, metaSigningKey)
	if slices.Contains(applied, accountsFile) {
		text(&p.Account, anyAccountQuery)
	}
	return p, err
}

// peekTimeout bounds the wait for PostgreSQL's answer.
const peekTimeout = 10 * time.Second

// accountsFile is the migration that creates the table accounts.
const accountsFile = "0002_accounts.sql"

// Clear deletes all tables of a database on PostgreSQL. It is for a database that a restore was filling when it was
// interrupted.
func Clear(ctx context.Context, dsn string) error {
	d, err := parseDSN(dsn)
	if err != nil {
		return err
	}
	c, err := d.peek(ctx)
	if c == nil || err != nil {
		return err
	}
	var tables []string
	err = c.query(func(r Row) error {
		var name string
		err := r.Scan(&name)
		tables = append(tables, name)
		return err
	}, `SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()`)
	for _, name := range tables {
		if err == nil {
			err = run(c, `DROP TABLE `+pgx.Identifier{name}.Sanitize())
		}
	}
	return errors.Join(err, c.close())
}

// hasMeta reports whether a query for the table meta finds it. Without that table Ebb has never opened the database.
func hasMeta(c conn, query string) (bool, error) {
	n := 0
	err := c.query(func(Row) error { n++; return nil }, query)
	return n > 0, err
}

// peek opens the file for reading. If there is no write-ahead log, it does so in a mode that creates no file.
func (d sqliteDialect) peek(context.Context) (conn, error) {
	info, err := os.Stat(d.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	mode := "ro"
	if _, err := os.Stat(d.path + "-wal"); errors.Is(err, fs.ErrNotExist) {
		mode += "&" + url.Values{"immutable": {"1"}}.Encode()
	}
	c, err := openLite(d.path, mode, nil)
	if err != nil {
		return nil, err
	}
	there, err := hasMeta(c, `SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meta'`)
	if err == nil {
		err = d.checkSettings(c, storedSettings)
	}
	if !there || err != nil {
		err = errors.Join(err, c.close())
		return nil, err
	}
	return c, nil
}

func (d postgresDialect) peek(ctx context.Context) (conn, error) {
	pool, err := d.openReaders(1)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, peekTimeout)
	defer cancel()
	taken, err := pool.take(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to PostgreSQL: %w", err), pool.close())
	}
	c := taken.(*pgConn)
	c.db = pool.(pgReaders).db // closed with the connection
	there, err := hasMeta(c, `SELECT 1 FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = 'meta'`)
	if err = errors.Join(err, c.checkSettings()); !there || err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}
