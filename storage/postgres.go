package storage

import (
	"context"
	"errors"
	"fmt"
)

type postgresDialect struct{}

func (postgresDialect) name() string   { return "postgres" }
func (postgresDialect) rowKey() string { return "BIGINT PRIMARY KEY" }

// processLock is the key of the advisory lock that keeps a second process out until nodes share a database.
const processLock = 0x656262 // "ebb"

func (postgresDialect) lock(ctx context.Context, dsn string) (func() error, error) {
	c, err := newPostgres(ctx, dsn)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	got := false
	err = c.query(func(r Row) error { return r.Scan(&got) }, `SELECT pg_try_advisory_lock($1)`, processLock)
	if err == nil && !got {
		err = ErrInUse
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c.close, nil // closing the session gives the lock back
}

func (postgresDialect) openWriter(ctx context.Context, dsn string) (*conn, error) {
	c, err := newPostgres(ctx, dsn)
	if err != nil {
		return nil, err
	}
	var collation string
	err = c.query(func(r Row) error { return r.Scan(&collation) }, `SELECT datcollate FROM pg_database WHERE datname = current_database()`)
	if err == nil && collation != "C" && collation != "POSIX" {
		err = fmt.Errorf("the database must be created with collation C, not %s: other orders change with the operating system", collation)
	}
	if err == nil {
		_, err = c.exec(`SET synchronous_commit = on`)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (postgresDialect) openReader(ctx context.Context, dsn string) (*conn, error) {
	c, err := newPostgres(ctx, dsn)
	if err != nil {
		return nil, err
	}
	if _, err := c.exec(`SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY`); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (postgresDialect) checkpoint(*conn) error { return nil } // PostgreSQL's own

// maintain: autovacuum reuses the space of deleted rows.
func (postgresDialect) maintain(*conn) error { return nil }
