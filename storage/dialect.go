package storage

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/mattn/go-sqlite3"
)

// dialect is what the two databases do differently besides conn.
type dialect interface {
	name() string
	// rowKey is the type of a 64-bit primary key, {pk} in migrations.
	rowKey() string
	lock(ctx context.Context, path string) (release func() error, err error)
	openWriter(ctx context.Context, path string) (*conn, error)
	openReader(ctx context.Context, path string) (*conn, error)
	// checkpoint folds the write-ahead log back, without waiting for readers.
	checkpoint(c *conn) error
	// maintain gives free pages back and empties the log.
	maintain(c *conn) error
}

// liteText turns $n into ?n: SQLite numbers $n by order of appearance, not by n.
func liteText(query string) string {
	var b strings.Builder
	quoted := false
	for i := range len(query) {
		c := query[i]
		if c == '\'' {
			quoted = !quoted
		}
		if c == '$' && !quoted && i+1 < len(query) && query[i+1] >= '0' && query[i+1] <= '9' {
			c = '?'
		}
		b.WriteByte(c)
	}
	return b.String()
}

// isFull says that the disk is the cause of an error.
func isFull(err error) bool {
	var lite sqlite3.Error
	if errors.As(err, &lite) {
		return lite.Code == sqlite3.ErrFull || lite.Code == sqlite3.ErrIoErr || lite.Code == sqlite3.ErrReadonly
	}
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "53100" || strings.HasPrefix(pg.Code, "58"))
}
