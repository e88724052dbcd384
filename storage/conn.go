package storage

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/mattn/go-sqlite3"
)

// conn is one database connection, used by one goroutine at a time, with its statements prepared once. The two drivers
// differ here and in the dialect, nowhere else.
type conn struct {
	lite  *sqlite3.SQLiteConn // or
	pg    *sql.Conn
	pgDB  *sql.DB
	pgTx  bool
	stmts map[string]*statement
}

// statement is a prepared statement with room for its arguments and columns.
type statement struct {
	stmt *sqlite3.SQLiteStmt
	args []driver.Value
	cols []driver.Value
}

// maxStatements bounds the statement cache; lists padded to powers of two keep the number of texts small.
const maxStatements = 1000

func newLite(c driver.Conn) (*conn, error) {
	lite, ok := c.(*sqlite3.SQLiteConn)
	if !ok {
		return nil, fmt.Errorf("unexpected driver connection %T", c)
	}
	return &conn{lite: lite, stmts: map[string]*statement{}}, nil
}

func (c *conn) close() error {
	if c.pg != nil {
		return errors.Join(c.pg.Close(), c.pgDB.Close())
	}
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.stmt.Close())
	}
	return errors.Join(append(errs, c.lite.Close())...)
}

func (c *conn) prepared(query string) (*statement, error) {
	if s := c.stmts[query]; s != nil {
		return s, nil
	}
	if len(c.stmts) >= maxStatements {
		for q, s := range c.stmts {
			delete(c.stmts, q)
			if err := s.stmt.Close(); err != nil {
				return nil, err
			}
			break
		}
	}
	st, err := c.lite.Prepare(liteText(query))
	if err != nil {
		return nil, err
	}
	s := &statement{stmt: st.(*sqlite3.SQLiteStmt)}
	c.stmts[query] = s
	return s, nil
}

// bind fills the arguments with the types that drivers know.
func (s *statement) bind(args []any) error {
	s.args = s.args[:0]
	for _, a := range args {
		v, err := value(a)
		if err != nil {
			return err
		}
		s.args = append(s.args, v)
	}
	return nil
}

// value turns an argument into what the driver takes: int64, string, []byte, bool, float64, nil.
func value(a any) (driver.Value, error) {
	switch v := a.(type) {
	case nil, int64, string, []byte, bool, float64:
		return v, nil
	case Pos:
		return int64(v), nil
	case int:
		return int64(v), nil
	case driver.Valuer:
		return v.Value()
	}
	r := reflect.ValueOf(a)
	switch {
	case r.Kind() == reflect.Pointer && r.IsNil():
		return nil, nil
	case r.Kind() == reflect.Pointer:
		return value(r.Elem().Interface())
	case r.CanInt():
		return r.Int(), nil
	case r.Kind() == reflect.String:
		return r.String(), nil
	case r.Kind() == reflect.Bool:
		return r.Bool(), nil
	}
	return nil, fmt.Errorf("no way to store a %T", a)
}

func (c *conn) exec(query string, args ...any) (int64, error) {
	if c.pg != nil {
		return c.pgExec(query, args)
	}
	s, err := c.prepared(query)
	if err != nil {
		return 0, err
	}
	if err := s.bind(args); err != nil {
		return 0, err
	}
	res, err := s.stmt.Exec(s.args) //nolint:staticcheck // the variant without context starts no goroutine
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (c *conn) query(f func(Row) error, query string, args ...any) error {
	if c.pg != nil {
		return c.pgQuery(f, query, args)
	}
	s, err := c.prepared(query)
	if err != nil {
		return err
	}
	if err := s.bind(args); err != nil {
		return err
	}
	rows, err := s.stmt.Query(s.args) //nolint:staticcheck // as in exec
	if err != nil {
		return err
	}
	if n := len(rows.Columns()); len(s.cols) < n {
		s.cols = make([]driver.Value, n)
	}
	return errors.Join(eachLite(rows, s.cols[:len(rows.Columns())], f), rows.Close())
}

func eachLite(rows driver.Rows, cols []driver.Value, f func(Row) error) error {
	for {
		err := rows.Next(cols)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f(liteRow(cols)); err != nil {
			return err
		}
	}
}

// liteRow is one row as the SQLite driver gives it.
type liteRow []driver.Value

func (r liteRow) Scan(dest ...any) error {
	if len(dest) != len(r) {
		return fmt.Errorf("scan: %d destinations for %d columns", len(dest), len(r))
	}
	for i, d := range dest {
		if err := assign(d, r[i]); err != nil {
			return fmt.Errorf("column %d: %w", i, err)
		}
	}
	return nil
}

// The transaction verbs.

func (c *conn) begin() error {
	_, err := c.exec(`BEGIN`)
	c.pgTx = err == nil
	return err
}

func (c *conn) beginWrite() error {
	if c.pg != nil {
		return c.begin()
	}
	_, err := c.exec(`BEGIN IMMEDIATE`)
	return err
}

func (c *conn) commit() error {
	_, err := c.exec(`COMMIT`)
	c.pgTx = c.pgTx && err != nil
	return err
}

// rollback ends the transaction if there still is one.
func (c *conn) rollback() error {
	if !c.inTransaction() {
		return nil
	}
	_, err := c.exec(`ROLLBACK`)
	c.pgTx = false
	return err
}

func (c *conn) inTransaction() bool {
	if c.pg != nil {
		return c.pgTx
	}
	return !c.lite.AutoCommit()
}

func (c *conn) savepoint() error {
	_, err := c.exec(`SAVEPOINT w`)
	return err
}

func (c *conn) releaseSavepoint() error {
	_, err := c.exec(`RELEASE w`)
	return err
}

func (c *conn) rollbackSavepoint() error {
	if _, err := c.exec(`ROLLBACK TO w`); err != nil {
		return err
	}
	return c.releaseSavepoint()
}

// PostgreSQL through database/sql: pgx keeps its own cache of prepared statements by text.

func newPostgres(ctx context.Context, dsn string) (*conn, error) {
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return nil, err
	}
	c, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &conn{pg: c, pgDB: db}, nil
}

var _ = stdlib.GetDefaultDriver // registers "pgx"

func (c *conn) pgExec(query string, args []any) (int64, error) {
	values, err := pgArgs(args)
	if err != nil {
		return 0, err
	}
	res, err := c.pg.ExecContext(context.Background(), query, values...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (c *conn) pgQuery(f func(Row) error, query string, args []any) error {
	values, err := pgArgs(args)
	if err != nil {
		return err
	}
	rows, err := c.pg.QueryContext(context.Background(), query, values...)
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := f(rows); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

func pgArgs(args []any) ([]any, error) {
	out := make([]any, len(args))
	for i, a := range args {
		v, err := value(a)
		if err != nil {
			return nil, err
		}
		out[i] = v
	}
	return out, nil
}
