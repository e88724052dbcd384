package storage

import (
	"database/sql"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Tx is one transaction: a snapshot to read, or a closure's part of a batch to write. It is used by one goroutine.
type Tx struct {
	db        *DB
	conn      *conn
	committer *committer // nil in a read
	now       time.Time
}

// NextPos allots the next stream position. A write that is rolled back may leave a gap. Only in a write.
func (tx *Tx) NextPos() Pos {
	tx.committer.pos++
	return Pos(tx.committer.pos)
}

// Now is the time of the transaction: the same throughout.
func (tx *Tx) Now() time.Time { return tx.now }

// IDHash is DB.IDHash.
func (tx *Tx) IDHash(s string) int64 { return tx.db.IDHash(s) }

// Settled is DB.Settled.
func (tx *Tx) Settled() Pos { return tx.db.Settled() }

// Row is one row of a result.
type Row interface {
	// Scan copies the columns, in order, to where dest points.
	Scan(dest ...any) error
}

// exec runs a statement and returns the number of rows it changed.
func (tx *Tx) exec(query string, args ...any) (int64, error) {
	n, err := tx.conn.exec(query, args...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", head(query), err)
	}
	return n, nil
}

// each runs a query and calls f for every row.
func (tx *Tx) each(f func(Row) error, query string, args ...any) error {
	if err := tx.conn.query(f, query, args...); err != nil {
		return fmt.Errorf("%s: %w", head(query), err)
	}
	return nil
}

// head is the beginning of a query, for errors.
func head(query string) string {
	query = strings.Join(strings.Fields(query), " ")
	if len(query) > 60 {
		query = query[:60] + "…"
	}
	return query
}

// collect runs a query and scans every row.
func collect[T any](tx *Tx, scan func(Row) (T, error), query string, args ...any) ([]T, error) {
	var out []T
	err := tx.each(func(r Row) error {
		v, err := scan(r)
		out = append(out, v)
		return err
	}, query, args...)
	return out, err
}

// one runs a query for at most one row; false where there is none.
func one[T any](tx *Tx, scan func(Row) (T, error), query string, args ...any) (v T, found bool, err error) {
	err = tx.each(func(r Row) error {
		if found {
			return errManyRows
		}
		found = true
		v, err = scan(r)
		return err
	}, query, args...)
	return v, found, err
}

var errManyRows = fmt.Errorf("more than one row")

// In gives the placeholders for a list of n values from $first on, and the list padded to a power of two (so that there
// are few distinct statements) by repeating its last value. An empty list matches nothing.
func In[T any](first int, values []T) (placeholders string, args []any) {
	n := 1
	for n < len(values) {
		n *= 2
	}
	var b strings.Builder
	b.WriteByte('(')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "$%d", first+i)
		switch {
		case len(values) == 0:
			args = append(args, nil)
		case i < len(values):
			args = append(args, values[i])
		default:
			args = append(args, values[len(values)-1])
		}
	}
	b.WriteByte(')')
	return b.String(), args
}

func scanString(r Row) (s string, err error) {
	err = r.Scan(&s)
	return s, err
}

func scanInt64(r Row) (n int64, err error) {
	err = r.Scan(&n)
	return n, err
}

// assign copies one column value of the SQLite driver (int64, float64, string, []byte, bool, nil) to a destination.
func assign(dest, src any) error {
	switch d := dest.(type) {
	case *int64:
		if v, ok := src.(int64); ok {
			*d = v
			return nil
		}
	case *Pos:
		if v, ok := src.(int64); ok {
			*d = Pos(v)
			return nil
		}
	case *string:
		switch v := src.(type) {
		case string:
			*d = v
			return nil
		case []byte:
			*d = string(v)
			return nil
		}
	case *[]byte:
		switch v := src.(type) {
		case string:
			*d = []byte(v)
			return nil
		case []byte:
			*d = append((*d)[:0:0], v...)
			return nil
		case nil:
			*d = nil
			return nil
		}
	case *bool:
		if v, ok := src.(int64); ok {
			*d = v != 0
			return nil
		}
	case sql.Scanner:
		return d.Scan(src)
	}
	return assignKind(dest, src)
}

// assignKind serves named types and pointers for nullable columns.
func assignKind(dest, src any) error {
	v := reflect.ValueOf(dest)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return fmt.Errorf("scan: destination %T is not a pointer", dest)
	}
	v = v.Elem()
	if v.Kind() == reflect.Pointer {
		if src == nil {
			v.SetZero()
			return nil
		}
		v.Set(reflect.New(v.Type().Elem()))
		return assign(v.Interface(), src)
	}
	switch s := src.(type) {
	case int64:
		if v.CanInt() {
			v.SetInt(s)
			return nil
		}
		if v.CanUint() {
			v.SetUint(uint64(s))
			return nil
		}
	case string:
		if v.Kind() == reflect.String {
			v.SetString(s)
			return nil
		}
		if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte(s))
			return nil
		}
	case float64:
		if v.CanFloat() {
			v.SetFloat(s)
			return nil
		}
	}
	return fmt.Errorf("scan: no way from %T to %T", src, dest)
}
