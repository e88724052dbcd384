package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ebb/storage/sealing"
	"ebb/storage/values"
)

// Tx is a transaction: a snapshot for reading, or a closure's part of a batch for writing. It is used by one goroutine
// and is invalid after the function that received it has returned.
type Tx struct {
	db        *DB
	conn      conn
	committer *committer      // nil in a read
	ctx       context.Context // the reader's; nil in a write, which no request can cancel
	now       time.Time
	settled   Pos
	media     int64 // media that were deleted because nothing refers to them any more
	failed    error // the error of the first failed statement in this closure
}

// Now returns the time of the transaction, which does not change during it.
func (tx *Tx) Now() time.Time { return tx.now }

// DeletedMedia returns how many media were deleted in this transaction because nothing refers to them any more. The
// difference between two calls is of use, since writes share transactions.
func (tx *Tx) DeletedMedia() int64 { return tx.media }

// IDHash is DB.IDHash.
func (tx *Tx) IDHash(s string) int64 { return tx.db.IDHash(s) }

// Settled returns the value of DB.Settled from before the snapshot was made, so that the snapshot contains every write
// up to it. DB.Settled itself may cover writes that this transaction does not see.
func (tx *Tx) Settled() Pos { return tx.settled }

// Row is one row of a result.
type Row interface {
	// Scan copies the columns, in order, to the destinations.
	Scan(dest ...any) error
	// open decrypts a sealed text of the row (see sealer), and openBlob does so for a column of bytes.
	open(in sealing.In, row int64, text []byte) ([]byte, error)
	openBlob(in sealing.In, row int64, data []byte) ([]byte, error)
}

// exec runs a statement and returns the number of rows it changed.
func (tx *Tx) exec(query string, args ...any) (int64, error) {
	if err := tx.usable(); err != nil {
		return 0, err
	}
	tx.observe(query)
	n, err := tx.conn.exec(query, args...)
	return n, tx.note(query, err)
}

// each runs a query and calls f for each row until f returns an error, which does not count as a failure of the
// statement. f must not use tx.
func (tx *Tx) each(f func(Row) error, query string, args ...any) error {
	if err := tx.usable(); err != nil {
		return err
	}
	tx.observe(query)
	var own error
	err := tx.conn.query(func(r Row) error { own = f(r); return own }, query, args...)
	if own != nil {
		return fmt.Errorf("%s: %w", head(query), err)
	}
	return tx.note(query, err)
}

// usable returns an error if no more statements may run: after a failed statement, as in PostgreSQL, and once the
// request has ended.
func (tx *Tx) usable() error {
	if tx.failed != nil {
		return tx.failed
	}
	if tx.ctx != nil {
		return tx.ctx.Err()
	}
	return nil
}

func (tx *Tx) observe(query string) {
	if f := tx.db.cfg.OnStatement; f != nil {
		f(tx.ctx, query)
	}
}

func (tx *Tx) note(query string, err error) error {
	if err != nil {
		tx.failed = full(fmt.Errorf("%s: %w", head(query), err))
		tx.db.health.note(tx.db, tx.failed)
	}
	return tx.failed
}

// head returns the beginning of a query, by which error messages name it.
func head(query string) string {
	query = strings.Join(strings.Fields(query), " ")
	if len(query) > 60 {
		query = query[:60] + "…"
	}
	return query
}

// collect runs a query and scans all rows.
func collect[T any](tx *Tx, scan func(Row) (T, error), query string, args ...any) ([]T, error) {
	var out []T
	err := tx.each(func(r Row) error {
		v, err := scan(r)
		out = append(out, v)
		return err
	}, query, args...)
	return out, err
}

var errManyRows = errors.New("more than one row")

// one runs a query that returns at most one row. It returns false if there is none.
func one[T any](tx *Tx, scan func(Row) (T, error), query string, args ...any) (v T, found bool, err error) {
	err = tx.each(func(r Row) (err error) {
		if found {
			return errManyRows
		}
		found = true
		v, err = scan(r)
		return err
	}, query, args...)
	return v, found && err == nil, err
}

// In is values.In. The caller splits long lists (slices.Chunk), since SQLite accepts at most 32,766 values.
func In[T any](first int, list []T) (placeholders string, args []any) { return values.In(first, list) }

// numbers runs a query with two columns of numbers. It returns a map from the first column to the second.
func numbers[K, V ~int64](tx *Tx, query string, args ...any) (map[K]V, error) {
	out := map[K]V{}
	err := tx.each(func(r Row) error {
		var k, v int64
		err := r.Scan(&k, &v)
		out[K(k)] = V(v)
		return err
	}, query, args...)
	return out, err
}

func scanString(r Row) (s string, err error) {
	err = r.Scan(&s)
	return s, err
}

// scanNumber scans a column of numbers of one type.
func scanNumber[T ~int64](r Row) (T, error) {
	var n int64 // a pointer to a T would go through reflection
	err := r.Scan(&n)
	return T(n), err
}
