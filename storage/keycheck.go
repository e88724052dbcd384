package storage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"ebb/bodykeys"
	"ebb/storage/sealing"
)

// These functions examine the keys of message bodies for ebb doctor, while another process may use the database.

// MaxKeyDelay is the time within which a deleted text becomes unreadable in PostgreSQL's log and in all copies of the
// database: its key is destroyed then. It is longer than maxDirty and tendInterval together.
const MaxKeyDelay = 24 * time.Hour

// bodyKeysFile is the migration that creates the table body_keys.
const bodyKeysFile = "0087_body_keys.sql"

// KeyState says what a database on PostgreSQL has recorded about the keys of its message bodies.
type KeyState struct {
	Folder    string    // the ID of the folder of keys; "": bodies are not encrypted
	Empty     bool      // there is no event yet
	Pending   int64     // keys that are to be destroyed because something under them was deleted
	Oldest    time.Time // when something under one of them was first deleted; zero if there are none
	ServerDir string    // the folder of the database server; "" if it is on another machine or must not be read
}

const (
	pendingKeysQuery   = `SELECT count(*), coalesce(min(dirty_ts), 0) FROM body_keys WHERE dirty_ts > 0`
	recordedKeysQuery  = `SELECT nid, state FROM body_keys`
	dataDirectoryQuery = `SHOW data_directory`
)

// PeekKeys reads what a database on PostgreSQL has recorded about its keys. It returns false if there is no such
// database yet.
func PeekKeys(ctx context.Context, dsn string) (s KeyState, found bool, err error) {
	c, err := peekSealed(ctx, dsn, nil)
	if c == nil || err != nil {
		return s, false, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.query(func(r Row) error { return r.Scan(&s.Folder) }, identityQuery, metaBodyKeys); err != nil {
		return s, false, err
	}
	s.Empty = true
	if err := c.query(func(Row) error { s.Empty = false; return nil }, anyEventQuery); err != nil {
		return s, false, err
	}
	s.Pending, s.Oldest, err = pendingKeys(c)
	if err == nil && isLocal(dsn) {
		// Only a superuser, or a member of pg_read_all_settings, may read it.
		_ = c.query(func(r Row) error { return r.Scan(&s.ServerDir) }, dataDirectoryQuery)
	}
	return s, true, err
}

func pendingKeys(c conn) (n int64, oldest time.Time, err error) {
	var ms int64
	err = c.query(func(r Row) error { return r.Scan(&n, &ms) }, pendingKeysQuery)
	if ms > 0 {
		oldest = time.UnixMilli(ms)
	}
	return n, oldest, err
}

// PendingKeys returns how many keys are to be destroyed, and since when the oldest of them is.
func (tx *Tx) PendingKeys() (n int64, oldest time.Time, err error) { return pendingKeys(tx.conn) }

// isLocal reports whether a database server is on this machine.
func isLocal(dsn string) bool {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return false
	}
	ip := net.ParseIP(cfg.Host)
	return strings.HasPrefix(cfg.Host, "/") || cfg.Host == "localhost" || ip != nil && ip.IsLoopback()
}

// peekSealed opens a database on PostgreSQL that may be in use. It returns nil if there is none, or if it is from
// before there were keys.
func peekSealed(ctx context.Context, dsn string, keys *sealing.Sealer) (conn, error) {
	d, err := parseDSN(dsn)
	if err != nil {
		return nil, err
	}
	pg, ok := d.(postgresDialect)
	if !ok {
		return nil, nil
	}
	pg.sealer = keys
	c, err := pg.peek(ctx)
	if c == nil || err != nil {
		return nil, err
	}
	applied, err := appliedMigrations(c)
	if err != nil || !slices.Contains(applied, bodyKeysFile) {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// KeyCheck is the result of CheckKeys.
type KeyCheck struct {
	Keys    int     // that something is encrypted under
	Missing int     // keys of these that the folder does not have
	Opened  int     // texts that were decrypted, as a sample
	Failed  []error // texts of the sample that could not be decrypted, at most one for each column
}

// maxSampledKeys bounds the keys of each column under which CheckKeys opens a text.
const maxSampledKeys = 200

// CheckKeys compares a database on PostgreSQL with its folder of keys, and opens a sample of its texts. No key is
// destroyed meanwhile.
func CheckKeys(ctx context.Context, dsn string, f *bodykeys.Folder) (k KeyCheck, err error) {
	s := sealing.New()
	s.Folder = f
	c, err := peekSealed(ctx, dsn, s)
	if c == nil || err != nil {
		return k, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.query(func(Row) error { return nil }, lockKeysQuery, keysLock); err != nil {
		return k, err
	}
	recorded, err := recordedKeys(c)
	if err != nil {
		return k, err
	}
	used := map[bodykeys.ID]bool{}
	for id, state := range recorded {
		if state.needed() {
			used[id] = true
		}
	}
	k.Keys = len(used)
	err = f.Each(func(id bodykeys.ID, _ func() (time.Time, error)) error {
		delete(used, id)
		return nil
	})
	if err != nil {
		return k, err
	}
	k.Missing = len(used)
	for _, column := range sealedColumns {
		if err := k.sample(c, column, recorded); err != nil {
			return k, err
		}
	}
	return k, nil
}

// recordedKeys returns the state of each key that the database has recorded.
func recordedKeys(c conn) (map[bodykeys.ID]keyState, error) {
	recorded := map[bodykeys.ID]keyState{}
	err := c.query(func(r Row) error {
		var id, state int64
		err := r.Scan(&id, &state)
		recorded[bodykeys.ID(id)] = keyState(state)
		return err
	}, recordedKeysQuery)
	return recorded, err
}

// needed reports whether a text may be encrypted under a key in this state.
func (s keyState) needed() bool { return s == usedKey || s == retiringKey }

// sampleQuery selects at most $2 keys of a table, from a number on. It looks up each in the index of keys, so it does
// not read all rows.
const sampleQuery = `WITH RECURSIVE used(nid) AS (SELECT min(body_key) FROM %[1]s WHERE body_key > 0 AND body_key >= $1
UNION ALL SELECT (SELECT min(t.body_key) FROM %[1]s t WHERE t.body_key > 0 AND t.body_key > used.nid) FROM used WHERE used.nid IS NOT NULL)
SELECT nid FROM used WHERE nid IS NOT NULL LIMIT $2`

// sample opens one text of a column under each of some keys. Numbers of keys are random, so those that follow a random
// number are a random selection.
func (k *KeyCheck) sample(c conn, column sealedColumn, recorded map[bodykeys.ID]keyState) error {
	var keys []int64
	for _, from := range []int64{rand.Int64(), 1} { //nolint:gosec // the selection is no secret
		if len(keys) >= maxSampledKeys {
			break
		}
		err := c.query(func(r Row) error {
			key, err := scanNumber[int64](r)
			keys = append(keys, key)
			return err
		}, fmt.Sprintf(sampleQuery, column.table), from, maxSampledKeys-len(keys))
		if err != nil {
			return err
		}
	}
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		if err := k.open(c, column, key, recorded); err != nil {
			k.Failed = append(k.Failed, fmt.Errorf("table %s: %w", column.table, err))
			return nil
		}
	}
	return nil
}

// open opens a text under a key.
func (k *KeyCheck) open(c conn, column sealedColumn, key int64, recorded map[bodykeys.ID]keyState) error {
	if !recorded[bodykeys.ID(key)].needed() {
		return fmt.Errorf("a row is encrypted under the key %016x, which the database has not recorded", key)
	}
	return c.query(func(r Row) error {
		_, err := column.open(r)
		k.Opened++
		return err
	}, column.list, key, 1)
}
