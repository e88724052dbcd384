package storage

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"ebb/ident"
)

// Pos is a position in the stream of all durable changes that clients can sync. Zero is before everything.
type Pos = ident.Pos

// Settled returns the newest position up to which all writes are committed and their hooks have run. Readers never look
// beyond it.
func (db *DB) Settled() Pos { return Pos(db.settled.Load()) }

// Announced is like Settled, for goroutines that a Committed hook has woken: it waits until the hooks of that batch
// have run, so that the result covers the hook's write. It must not be called from a hook.
func (db *DB) Announced() Pos {
	db.announcing.RLock()
	defer db.announcing.RUnlock()
	return db.Settled()
}

// IDHash returns the hash of an ID for an index. It is keyed with a secret of this database, because strangers can
// choose IDs. It is not unique.
func (db *DB) IDHash(s string) int64 {
	var room [320]byte // room for the key (32 bytes) and the longest ID (255), so that nothing is allocated
	sum := sha256.Sum256(append(append(room[:0], db.idKey...), s...))
	return int64(binary.LittleEndian.Uint64(sum[:]))
}

// Secret derives a key for one purpose from a secret of this database.
func (db *DB) Secret(purpose string) []byte {
	mac := hmac.New(sha256.New, db.idKey)
	mac.Write([]byte(purpose))
	return mac.Sum(nil)
}

// NextPos allots the next stream position. It can be called in a write only. A write that fails leaves a gap: one
// process never allots a position twice, so that nothing in memory can confuse two writes.
func (tx *Tx) NextPos() Pos {
	tx.committer.pos++
	return Pos(tx.committer.pos)
}

// errFenced means that another process has changed the high-water mark, although the process lock should have kept it
// out.
var errFenced = errors.New("storage: another process writes to this database")

const setPositionQuery = `UPDATE meta SET value = $1 WHERE name = 'position' AND value = $2`

// storePosition stores the last allotted position in the transaction that allotted it. The highest position in the
// tables would not do in its place: it decreases when the newest rows are deleted, and then the tokens of clients would
// be ahead of the stream.
//
// A single node remembers what it stored; the comparison with the stored value detects a second process. If there were
// several nodes on PostgreSQL, this row would order them: a batch would lock the rows of its rooms (Write.Rooms,
// sorted), then this row with UPDATE … RETURNING, and allot positions from the answer, so that everything committed is
// settled.
func (c *committer) storePosition() error {
	if c.pos == c.stored {
		return nil
	}
	n, err := c.conn.exec(setPositionQuery, c.pos, c.stored)
	if err == nil && n != 1 {
		err = errFenced
	}
	return err
}

// meta holds what the database records about itself.
type meta struct {
	position int64  // high-water mark of the stream
	idKey    []byte // key of IDHash
}

const addMetaQuery = `INSERT INTO meta (name, value, secret) VALUES ($1, 0, $2) ON CONFLICT (name) DO NOTHING`

// readMeta reads the last position allotted and the secret of this database. On the first start it creates the secret.
func readMeta(c conn) (m meta, err error) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails (crypto/rand)
	if _, err := c.exec(addMetaQuery, "position", ""); err != nil {
		return m, full(err)
	}
	if _, err := c.exec(addMetaQuery, "id_key", hex.EncodeToString(secret[:])); err != nil {
		return m, full(err)
	}
	if m.position, err = readPosition(c); err != nil {
		return m, err
	}
	var key string
	if err := c.query(func(r Row) error { return r.Scan(&key) }, `SELECT secret FROM meta WHERE name = 'id_key'`); err != nil {
		return m, err
	}
	m.idKey, err = hex.DecodeString(key)
	if err == nil && len(m.idKey) != len(secret) {
		err = fmt.Errorf("the secret of the database has %d bytes", len(m.idKey))
	}
	return m, err
}

func readPosition(c conn) (p int64, err error) {
	err = c.query(func(r Row) error { return r.Scan(&p) }, `SELECT value FROM meta WHERE name = 'position'`)
	return p, err
}
