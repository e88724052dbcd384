package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/stdlib"

	"ebb/storage/filelock"
	"ebb/storage/sealing"
	"ebb/storage/values"
)

type postgresDialect struct {
	dsn    string
	sealer *sealing.Sealer // nil: nothing is sealed
}

func (postgresDialect) name() string   { return "postgres" }
func (postgresDialect) rowKey() string { return "BIGINT PRIMARY KEY" }

// lock takes no lock on a file. On PostgreSQL, takeLock takes a lock in the database instead.
func (postgresDialect) lock() (filelock.Lock, error) { return filelock.Lock{}, nil }

// ErrAway means that PostgreSQL cannot be reached, or that the connection to it was lost. It is not known whether a
// write that was being committed took effect.
var ErrAway = errors.New("storage: the database cannot be reached")

func away(err error) error { return fmt.Errorf("%w: %w", ErrAway, err) }

// pgTimeout bounds a statement. On a connection that died silently the committer would wait for hours.
const pgTimeout = 30 * time.Second

func (postgresDialect) prepare(*slog.Logger) error { return nil }

func (d postgresDialect) openWriter(ctx context.Context) (conn, error) {
	ctx, cancel := context.WithTimeout(ctx, pgTimeout)
	defer cancel()
	db, err := sql.Open("pgx", d.dsn)
	if err != nil {
		return nil, err
	}
	sc, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(away(err), db.Close())
	}
	c := &pgConn{c: sc, db: db, sealer: d.sealer}
	if err := errors.Join(c.checkSettings(), run(c, `SET synchronous_commit = on`), c.takeLock(ctx)); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *pgConn) checkSettings() error {
	var collation, encoding string
	err := c.query(func(r Row) error { return r.Scan(&collation, &encoding) },
		`SELECT datcollate, pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()`)
	if err == nil && collation != "C" && collation != "POSIX" || encoding != "UTF8" {
		err = errors.Join(err, fmt.Errorf("the database must be created with encoding UTF8 and collation C (it has %s and %s): "+
			"other orders change with the operating system", encoding, collation))
	}
	return err
}

// processLock is one half of the key of the advisory lock that keeps a second process out until nodes can share a
// database; the other half is the schema. The session that writes holds the lock, so that losing it and losing the
// right to write are the same.
const processLock = 0x656262 // "ebb"

// lockTries and lockPause determine how long takeLock tries. The lock of a killed process remains until PostgreSQL
// notices that its session has ended.
const (
	lockTries = 20
	lockPause = 100 * time.Millisecond
)

func (c *pgConn) takeLock(ctx context.Context) (err error) {
	var got bool
	var schema string
	for range lockTries {
		err = c.query(func(r Row) error { return r.Scan(&got, &schema) },
			`SELECT pg_try_advisory_lock($1::int, hashtext(current_schema())), current_schema()`, processLock)
		if err != nil || got {
			return err
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("%w: schema %s is locked", ErrInUse, schema)
}

// pgReaders is the pool of reading connections to PostgreSQL. It uses the pool of database/sql, which also replaces
// broken connections.
type pgReaders struct {
	db     *sql.DB
	sealer *sealing.Sealer
}

func (d postgresDialect) openReaders(n int) (readers, error) {
	db, err := sql.Open("pgx", d.dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return pgReaders{db, d.sealer}, nil
}

func (p pgReaders) take(ctx context.Context) (conn, error) {
	c, err := p.db.Conn(ctx)
	if err != nil {
		if ctx.Err() == nil {
			err = away(err)
		}
		return nil, err
	}
	return &pgConn{c: c, sealer: p.sealer}, nil
}

func (p pgReaders) give(c conn) { _ = c.close() } // database/sql does not reuse a broken connection

func (p pgReaders) close() error { return p.db.Close() }

func (postgresDialect) openCheckpointer(*DB) (*checkpointer, error) { return nil, nil }

// maintain destroys keys and removes deleted rows from the files.
func (postgresDialect) maintain(ctx context.Context, db *DB) error {
	if err := db.RetireKeys(ctx, false); err != nil {
		return err
	}
	c, err := db.readers.take(ctx)
	if err != nil {
		return err
	}
	defer db.readers.give(c)
	_, err = c.(*pgConn).c.ExecContext(ctx, `VACUUM`)
	return full(err)
}

// pgConn is a connection to PostgreSQL through database/sql. It keeps no prepared statements, since pgx caches them by
// their text.
type pgConn struct {
	c    *sql.Conn
	db   *sql.DB // of the writer only; nil in a pool
	rows bool    // a row callback is running

	sealer *sealing.Sealer // nil: nothing is sealed
}

func (c *pgConn) close() error {
	if c.db != nil && !c.broken() {
		// The end of the session releases the lock too, but only some time after close.
		_ = c.query(func(Row) error { return nil }, `SELECT pg_advisory_unlock_all()`)
	}
	err := c.c.Close()
	if errors.Is(err, sql.ErrConnDone) {
		err = nil
	}
	if c.db != nil {
		err = errors.Join(err, c.db.Close())
	}
	return err
}

func (c *pgConn) exec(query string, args ...any) (int64, error) {
	values, err := c.prepare(args)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), pgTimeout)
	defer cancel()
	res, err := c.c.ExecContext(ctx, query, values...)
	if err != nil {
		return 0, c.explain(err)
	}
	return res.RowsAffected()
}

func (c *pgConn) query(f func(Row) error, query string, args ...any) (err error) {
	values, err := c.prepare(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), pgTimeout)
	defer cancel()
	rows, err := c.c.QueryContext(ctx, query, values...)
	if err != nil {
		return c.explain(err)
	}
	c.rows = true
	defer func() {
		c.rows = false
		err = errors.Join(err, rows.Close())
	}()
	for rows.Next() {
		if err := f(pgRow{rows, c.sealer}); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return c.explain(err)
	}
	return nil
}

// explain marks the error of a statement as ErrAway if the connection is lost.
func (c *pgConn) explain(err error) error {
	if c.broken() {
		return away(err)
	}
	return err
}

// pgRow is the current row of a result.
type pgRow struct {
	rows   *sql.Rows
	sealer *sealing.Sealer
}

func (r pgRow) open(in sealing.In, row int64, text []byte) ([]byte, error) {
	return r.sealer.OpenText(in, row, text)
}

func (r pgRow) openBlob(in sealing.In, row int64, data []byte) ([]byte, error) {
	return r.sealer.Open(in, row, data)
}

func (r pgRow) Scan(dest ...any) error {
	for i, d := range dest {
		dest[i] = values.Plain(d)
	}
	return r.rows.Scan(dest...)
}

func (c *pgConn) prepare(args []any) ([]any, error) {
	if c.rows {
		return nil, errNested
	}
	out := make([]any, len(args))
	for i, a := range args {
		v, err := values.Of(a)
		if err != nil {
			return nil, fmt.Errorf("$%d: %w", i+1, err)
		}
		switch b := v.(type) {
		case values.Blob:
			v = append([]byte{}, b...) // nil would be NULL
		case []byte:
			if b != nil {
				v = string(b)
			}
		}
		out[i] = v
	}
	return out, nil
}

func (c *pgConn) begin(write bool) error {
	if write {
		return run(c, `BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE`)
	}
	return run(c, `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`)
}

// commit commits the transaction. It checks the status first, because COMMIT of a failed transaction is a rollback
// without an error.
func (c *pgConn) commit() error {
	if c.status() != 'T' {
		return c.explain(errors.New("the transaction is no longer open"))
	}
	return run(c, `COMMIT`)
}

func (c *pgConn) rollback() error {
	if !c.standing() {
		return nil
	}
	return run(c, `ROLLBACK`)
}

// standing reports whether the transaction still exists. A failed transaction ('E') counts too, since rolling back to
// the savepoint makes it usable again.
func (c *pgConn) standing() bool { s := c.status(); return s == 'T' || s == 'E' }

func (c *pgConn) broken() bool { return c.status() == 0 }

// status returns the status of the connection: I (idle), T (in a transaction), E (in a failed transaction), or 0 if it
// is closed.
func (c *pgConn) status() (s byte) {
	err := c.c.Raw(func(driverConn any) error {
		pg := driverConn.(*stdlib.Conn).Conn().PgConn()
		if !pg.IsClosed() {
			s = pg.TxStatus()
		}
		return nil
	})
	if err != nil {
		return 0
	}
	return s
}
