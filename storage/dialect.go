package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/mattn/go-sqlite3"

	"ebb/storage/filelock"
)

// dialect is the interface to one database of either kind.
type dialect interface {
	name() string
	// rowKey returns the type of a 64-bit primary key, which replaces {pk} in migrations.
	rowKey() string
	// lock keeps other processes from using the database.
	lock() (filelock.Lock, error)
	// prepare is called once after lock, before the first connection is opened.
	prepare(log *slog.Logger) error
	openWriter(ctx context.Context) (conn, error)
	// peek opens a connection that changes nothing (see Peek). It returns nil if there is no database of Ebb yet.
	peek(ctx context.Context) (conn, error)
	openReaders(n int) (readers, error)
	// openCheckpointer returns nil if the database manages its own log.
	openCheckpointer(db *DB) (*checkpointer, error)
	// maintain implements DB.Maintain.
	maintain(ctx context.Context, db *DB) error
	// size implements DB.Size.
	size(ctx context.Context, db *DB) (int64, error)
	// check implements DB.Check.
	check(ctx context.Context) error
	// keepReserve reserves a little disk space, which freeReserve releases for a start on a full disk.
	keepReserve() error
	freeReserve() bool
}

// conn is a connection that prepares each statement once. It is used by one goroutine at a time.
type conn interface {
	// exec runs a statement and returns the number of rows it changed.
	exec(query string, args ...any) (int64, error)
	// query calls f for each row. f must not use the connection.
	query(f func(Row) error, query string, args ...any) error
	begin(write bool) error
	commit() error
	// rollback ends the transaction, if there still is one.
	rollback() error
	// standing reports whether the transaction is still open, that is, not ended by the database (full disk, I/O error,
	// lost connection).
	standing() bool
	// broken reports whether the connection is unusable.
	broken() bool
	close() error
}

// readers is a bounded pool of connections that cannot write.
type readers interface {
	take(ctx context.Context) (conn, error)
	give(c conn)
	// close waits until every connection was returned.
	close() error
}

// errNested is the error of a row callback that used its transaction.
var errNested = errors.New("storage: a row callback used its transaction")

func savepoint(c conn) error { return run(c, `SAVEPOINT w`) }

func releaseSavepoint(c conn) error { return run(c, `RELEASE SAVEPOINT w`) }

func rollbackSavepoint(c conn) error {
	if err := run(c, `ROLLBACK TO SAVEPOINT w`); err != nil {
		return err
	}
	return releaseSavepoint(c)
}

func run(c conn, query string) error {
	_, err := c.exec(query)
	return err
}

func parseDSN(dsn string) (dialect, error) {
	if path, ok := strings.CutPrefix(dsn, "sqlite:"); ok && path != "" && path != ":memory:" {
		return newSQLite(path), nil
	}
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		// The library's error quotes the address, with a password in it that it may not recognise as one.
		if _, err := pgx.ParseConfig(dsn); err != nil {
			return nil, errors.New("the address of the PostgreSQL database cannot be understood: look at its port and parameters, " +
				"and write special characters in the password as %XX (/ is %2F, # is %23, @ is %40)")
		}
		return postgresDialect{dsn: dsn}, nil
	}
	return nil, errors.New("the address of the database is neither sqlite:PATH nor postgres://…") // it may hold a password
}

// CheckDSN reports what is wrong with the address of a database, without opening it. The error does not quote it.
func CheckDSN(dsn string) error {
	_, err := parseDSN(dsn)
	return err
}

// ErrFull means that the disk is full or cannot be written. Nothing of the write was kept.
var ErrFull = errors.New("storage: the disk is full or cannot be written")

// Full marks an error of the database or of a file as ErrFull if the disk is the cause.
func Full(err error) error { return full(err) }

func full(err error) error {
	if err != nil && isFull(err) && !errors.Is(err, ErrFull) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

func isFull(err error) bool {
	for _, cause := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO} {
		if errors.Is(err, cause) {
			return true
		}
	}
	var lite sqlite3.Error
	if errors.As(err, &lite) {
		return lite.Code == sqlite3.ErrFull || lite.Code == sqlite3.ErrIoErr || lite.Code == sqlite3.ErrReadonly
	}
	var pg *pgconn.PgError // disk_full, and class 58: system errors outside PostgreSQL
	return errors.As(err, &pg) && (pg.Code == "53100" || strings.HasPrefix(pg.Code, "58"))
}
