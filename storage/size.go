package storage

import (
	"context"
	"errors"
	"io/fs"
	"os"
)

// Totals holds the numbers and sizes of what a server stores.
type Totals struct {
	Users       int64 // active accounts
	Rooms       int64
	Media       int64 // bytes of all uploads, including identical ones
	RemoteMedia int64 // bytes of cached files of other servers
}

const (
	countUsersQuery     = `SELECT count(*) FROM accounts WHERE deactivated_ts = 0`
	countRoomsQuery     = `SELECT count(*) FROM rooms`
	mediaSizeQuery      = `SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM media`
	remoteMediaAllQuery = `SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM remote_media`
)

// Totals counts what is stored. It scans whole tables and must not be used in a request.
func (tx *Tx) Totals() (t Totals, err error) {
	for query, into := range map[string]*int64{countUsersQuery: &t.Users, countRoomsQuery: &t.Rooms, mediaSizeQuery: &t.Media, remoteMediaAllQuery: &t.RemoteMedia} {
		if *into, _, err = one(tx, scanNumber[int64], query); err != nil {
			break
		}
	}
	return t, err
}

// Size returns the size of the database in bytes.
func (db *DB) Size(ctx context.Context) (int64, error) { return db.dialect.size(ctx, db) }

// size returns the size of the file and its log.
func (d sqliteDialect) size(context.Context, *DB) (bytes int64, err error) {
	for _, suffix := range []string{"", "-wal"} {
		info, err := os.Stat(d.path + suffix)
		if err == nil {
			bytes += info.Size()
		} else if !errors.Is(err, fs.ErrNotExist) {
			return bytes, err
		}
	}
	return bytes, nil
}

func (postgresDialect) size(ctx context.Context, db *DB) (bytes int64, err error) {
	c, err := db.readers.take(ctx)
	if err != nil {
		return 0, err
	}
	defer db.readers.give(c)
	err = c.query(func(r Row) error { return r.Scan(&bytes) }, `SELECT pg_database_size(current_database())`)
	return bytes, err
}
