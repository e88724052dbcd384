// Package storage is the database: one SQL text for SQLite and PostgreSQL, hand-written queries as methods on *Tx in one
// file per family of tables, and group commit. It knows rows and bytes, not what an event means.
//
// A read travels: DB.Read → a pooled connection, one snapshot → methods on *Tx. A write travels: DB.Enqueue → the queue →
// the committer, which runs the closures of many requests in one transaction, a savepoint each → commit → Committed hooks
// in queue order → Settled advances → Pending.Wait returns. Nobody is answered before the commit that holds their write.
package storage

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Pos is a position in the one stream of everything durable that a client can sync. Zero is before everything.
type Pos int64

// Config says which database to open and how.
type Config struct {
	DSN         string        // sqlite:PATH or postgres://…
	ReadConns   int           // read-only connections; 0: 8
	CommitDelay time.Duration // injected into every commit, for the benchmark only
	Now         func() time.Time
	Log         *slog.Logger
	OnBatch     func(writes int, took time.Duration) // after every commit, for metrics; may be nil
}

// ErrFull: there is no room on the disk, or it cannot be written. Nothing of the write was kept.
var ErrFull = errors.New("storage: the disk is full or cannot be written")

// ErrClosed: the database was closed.
var ErrClosed = errors.New("storage: closed")

// DB is an open database. It is safe for concurrent use.
type DB struct {
	cfg     Config
	dialect dialect
	readers chan *conn // idle read connections
	conns   []*conn    // all read connections
	commit  *committer
	settled atomic.Int64
	// announcing is held by the committer while the Committed hooks of a batch run, until Settled covers the batch.
	announcing sync.RWMutex
	idKey      []byte
	release    func() error // of the process lock
	closed     chan struct{}
}

// Open opens the database, brings its schema up to date and starts the committer. One process at a time may have a SQLite
// database open.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	if cfg.ReadConns == 0 {
		cfg.ReadConns = 8
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d, path, err := parseDSN(cfg.DSN)
	if err != nil {
		return nil, err
	}
	db := &DB{cfg: cfg, dialect: d, readers: make(chan *conn, cfg.ReadConns), release: func() error { return nil }, closed: make(chan struct{})}
	if err := db.open(ctx, path); err != nil {
		return nil, errors.Join(err, db.release())
	}
	return db, nil
}

func parseDSN(dsn string) (dialect, string, error) {
	switch {
	case strings.HasPrefix(dsn, "sqlite:"):
		return sqliteDialect{}, strings.TrimPrefix(dsn, "sqlite:"), nil
	case strings.HasPrefix(dsn, "postgres://"), strings.HasPrefix(dsn, "postgresql://"):
		return postgresDialect{}, dsn, nil
	}
	return nil, "", fmt.Errorf("database %q is neither sqlite:PATH nor postgres://…", dsn)
}

func (db *DB) open(ctx context.Context, path string) error {
	var err error
	if db.release, err = db.dialect.lock(ctx, path); err != nil {
		db.release = func() error { return nil }
		return err
	}
	w, err := db.dialect.openWriter(ctx, path)
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	if err := db.boot(w); err != nil {
		return errors.Join(err, w.close())
	}
	for range db.cfg.ReadConns {
		c, err := db.dialect.openReader(ctx, path)
		if err != nil {
			return errors.Join(fmt.Errorf("open database for reading: %w", err), db.closeReaders(), w.close())
		}
		db.conns = append(db.conns, c)
		db.readers <- c
	}
	db.commit = newCommitter(db, w)
	go db.commit.run()
	return nil
}

// boot migrates the schema and reads what stands in meta.
func (db *DB) boot(w *conn) error {
	if err := migrate(w, db.dialect); err != nil {
		return err
	}
	meta, err := readMeta(w)
	if err != nil {
		return fmt.Errorf("read meta: %w", err)
	}
	db.settled.Store(meta.position)
	db.idKey = meta.idKey
	return nil
}

// Close waits for what is queued to be committed, and closes everything.
func (db *DB) Close() error {
	select {
	case <-db.closed:
		return nil
	default:
		close(db.closed)
	}
	err := db.commit.stop()
	return errors.Join(err, db.closeReaders(), db.release())
}

func (db *DB) closeReaders() error {
	var errs []error
	for range db.conns {
		c := <-db.readers
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}

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
	h := sha256.New()
	h.Write(db.idKey)
	h.Write([]byte(s))
	return int64(binary.LittleEndian.Uint64(h.Sum(nil)))
}

// Read runs f in one read-only snapshot. It never sees a write that is not committed. f must not call Read or Write.
func (db *DB) Read(ctx context.Context, f func(*Tx) error) (err error) {
	var c *conn
	select {
	case c = <-db.readers:
	case <-ctx.Done():
		return ctx.Err()
	case <-db.closed:
		return ErrClosed
	}
	defer func() { db.readers <- c }()
	if err := c.begin(); err != nil {
		return fmt.Errorf("begin read: %w", err)
	}
	defer func() {
		if endErr := c.rollback(); endErr != nil && err == nil {
			err = fmt.Errorf("end read: %w", endErr)
		}
	}()
	return f(&Tx{db: db, conn: c, now: db.cfg.Now()})
}

// Write is one unit of work for the committer.
type Write struct {
	// Rooms are the nids of the rooms that Do changes. One node needs no lock for them; on PostgreSQL with several nodes
	// the batch locks their rows, sorted, before any closure runs.
	Rooms []int64
	// Do runs inside the transaction, maybe more than once never: it is called exactly once. It must not block.
	Do func(*Tx) error
	// Committed runs after the commit, in queue order and before Settled covers the write. It must be quick.
	Committed func()
}

// Pending is a queued write.
type Pending struct {
	write Write
	done  chan struct{}
	err   error
}

// Wait returns nil only after the commit, on disk, that holds the write. When ctx ends first the write still happens.
func (p *Pending) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Done is closed when the write is committed or has failed.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Err is the result of a write that is done.
func (p *Pending) Err() error { return p.err }

// Enqueue hands a write to the committer, in order. It blocks only while maxQueue writes wait.
func (db *DB) Enqueue(w Write) *Pending {
	p := &Pending{write: w, done: make(chan struct{})}
	db.commit.enqueue(p)
	return p
}

// Write runs f in a write and waits for its commit.
func (db *DB) Write(ctx context.Context, f func(*Tx) error) error {
	return db.Enqueue(Write{Do: f}).Wait(ctx)
}

// Flush waits until everything queued so far is committed.
func (db *DB) Flush(ctx context.Context) error {
	return db.Write(ctx, func(*Tx) error { return nil })
}

// Maintain gives free pages back to the file system and empties the write-ahead log, between commits.
func (db *DB) Maintain(ctx context.Context) error {
	p := &Pending{done: make(chan struct{})}
	db.commit.enqueueMaintenance(p)
	return p.Wait(ctx)
}
