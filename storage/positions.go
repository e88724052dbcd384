package storage

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// Pos is a position in the one stream of everything durable that a client can sync. Zero is before everything.
type Pos int64

// Settled is the newest position whose writes are committed and announced. Readers never look beyond it.
func (db *DB) Settled() Pos { return Pos(db.settled.Load()) }

// Announced is Settled for somebody whom a Committed hook has woken: it waits until the hooks of that batch have run, so
// that the answer covers the write of the hook. Not to be called from a hook.
func (db *DB) Announced() Pos {
	db.announcing.RLock()
	defer db.announcing.RUnlock()
	return db.Settled()
}

// IDHash is the index hash of an id, keyed with a secret of this database, since strangers choose ids. Not unique.
func (db *DB) IDHash(s string) int64 {
	var room [320]byte // 32 of key, 255 of the longest id and some: no allocation
	sum := sha256.Sum256(append(append(room[:0], db.idKey...), s...))
	return int64(binary.LittleEndian.Uint64(sum[:]))
}

// Secret is a key for one purpose, derived from a secret of this database.
func (db *DB) Secret(purpose string) []byte {
	mac := hmac.New(sha256.New, db.idKey)
	mac.Write([]byte(purpose))
	return mac.Sum(nil)
}

// NextPos allots the next stream position, in a write only. A write that fails leaves a gap: a position is not given out
// twice by one process, so nothing in memory can mistake one write for another.
func (tx *Tx) NextPos() Pos {
	tx.committer.pos++
	return Pos(tx.committer.pos)
}

// errFenced: somebody else has moved the high-water mark. The process lock should have kept them out.
var errFenced = errors.New("storage: another process writes to this database")

const setPositionQuery = `UPDATE meta SET value = $1 WHERE name = 'position' AND value = $2`

// storePosition puts the high-water mark into the transaction that allotted positions. The maximum over the tables would
// not do: it goes back when the newest rows are deleted, and then tokens of clients would lie ahead of the stream.
//
// With several nodes on PostgreSQL this row is what orders them: a batch locks its rooms' rows (Write.Rooms, sorted), then
// this row with UPDATE … RETURNING, and allots from the answer, so that what is committed is settled. One node remembers
// what it stored and needs no answer; the comparison fences a second process.
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

// meta is what the database says of itself.
type meta struct {
	position int64  // high-water mark of the stream
	idKey    []byte // secret of IDHash
}

const addMetaQuery = `INSERT INTO meta (name, value, secret) VALUES ($1, 0, $2) ON CONFLICT (name) DO NOTHING`

// readMeta reads the high-water mark and the secret of this database, which are made on the first start.
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
