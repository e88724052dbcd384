package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"ebb/ident"
	"ebb/storage/filelock"
	"ebb/storage/pace"
	"ebb/storage/sealing"
	"ebb/storage/shares"
)

// Config describes the database to open.
type Config struct {
	DSN         string        // sqlite:PATH or postgres://…
	Server      string        // the server name, by which references to media of this server are recognised
	ReadConns   int           // number of read-only connections; 0 means 8
	BodyKeys    string        // the folder with the keys of message bodies, on PostgreSQL; "": bodies are not encrypted
	KeysIfNew   bool          // BodyKeys is only for a database without events, or whose bodies are encrypted already
	CommitDelay time.Duration // injected into every commit, for the benchmark only
	Now         func() time.Time
	Log         *slog.Logger
	OnBatch     func(writes int, took time.Duration) // after every commit, for metrics; may be nil
	Ledger      bool                                 // whether deletions are queued for the ledger; see Tx.Note
	// OnStatement is called before every statement of a transaction, for tests; ctx is nil in a write. May be nil.
	OnStatement func(ctx context.Context, query string)
}

// ErrInUse means that another process has the database open.
var ErrInUse = filelock.ErrInUse

// ErrClosed is returned after the database was closed.
var ErrClosed = errors.New("storage: closed")

// DB is an open database. It is safe for concurrent use.
type DB struct {
	cfg     Config
	dialect dialect
	lock    filelock.Lock
	readers readers
	inner   readers // for ReadInner
	shares  *shares.Shares
	commit  *committer
	sealer  *sealing.Sealer // nil if bodies are not encrypted
	// tending prevents that keys are retired twice at once. It is held during database work, before any other lock.
	tending      sync.Mutex
	spares       struct{ stopping, ended chan struct{} } // of makeSpares: closed to end it, and when it has ended
	checkpointer *checkpointer                           // nil on PostgreSQL
	settled      atomic.Int64
	written      atomic.Int64 // writes that were committed since the database was opened
	// announcing is held by the committer while the Committed hooks of a batch run, until Settled covers the batch.
	announcing sync.RWMutex
	idKey      []byte
	noted      chan struct{} // see Noted
	restored   atomic.Int64  // see Restored
	restoredTS atomic.Int64  // ms; see ForgotTokens
	health     health
	ctx        context.Context // ends after Close; used to reconnect
	cancel     context.CancelFunc
	closing    sync.Once
}

// Open opens the database, migrates its schema and starts the committer. Only one process at a time may have a database
// open; others get ErrInUse.
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
	d, err := parseDSN(cfg.DSN)
	if err != nil {
		return nil, err
	}
	var keys *sealing.Sealer
	if pg, ok := d.(postgresDialect); ok && cfg.BodyKeys != "" {
		keys = sealing.New()
		pg.sealer = keys
		d = pg
	}
	db := &DB{cfg: cfg, dialect: d, sealer: keys, shares: shares.New(cfg.ReadConns), noted: make(chan struct{}, 1)}
	db.spares.stopping, db.spares.ended = make(chan struct{}), make(chan struct{})
	db.ctx, db.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := db.openOrMakeRoom(ctx); err != nil {
		db.cancel()
		return nil, errors.Join(err, db.lock.Release())
	}
	return db, nil
}

// openOrMakeRoom opens the database. On a full disk it first deletes the reserve file, so that at least reads work.
func (db *DB) openOrMakeRoom(ctx context.Context) error {
	err := db.open(ctx)
	if errors.Is(err, ErrFull) && db.dialect.freeReserve() {
		db.cfg.Log.Error("the disk is full: reads still work, and writes will work when there is space again", "err", err)
		return errors.Join(db.lock.Release(), db.open(ctx))
	}
	if err != nil {
		return err
	}
	if err := db.dialect.keepReserve(); err != nil {
		db.cfg.Log.Warn("no disk space could be reserved for starting on a full disk", "err", err)
	}
	return nil
}

func (db *DB) open(ctx context.Context) (err error) {
	if db.lock, err = db.dialect.lock(); err != nil {
		return err
	}
	if err := db.dialect.prepare(db.cfg.Log); err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	w, err := db.dialect.openWriter(ctx)
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	position, err := db.boot(w)
	if err != nil {
		return errors.Join(err, w.close())
	}
	if db.readers, err = db.dialect.openReaders(db.cfg.ReadConns); err != nil {
		return errors.Join(fmt.Errorf("open database for reading: %w", err), w.close())
	}
	if db.inner, err = db.dialect.openReaders(innerConns); err != nil {
		return errors.Join(fmt.Errorf("open database for reading: %w", err), db.readers.close(), w.close())
	}
	if db.checkpointer, err = db.dialect.openCheckpointer(db); err != nil {
		return errors.Join(fmt.Errorf("open database: %w", err), db.inner.close(), db.readers.close(), w.close())
	}
	db.commit = newCommitter(db, w, position)
	go db.commit.run()
	if db.sealer != nil {
		go db.makeSpares()
	}
	if db.checkpointer != nil {
		go db.checkpointer.run()
	}
	return nil
}

// boot migrates the schema and reads the table meta.
func (db *DB) boot(w conn) (position int64, err error) {
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return 0, err
	}
	if err := migrate(w, db.dialect, files, db.cfg.Log); err != nil {
		return 0, err
	}
	meta, err := readMeta(w)
	if err != nil {
		return 0, fmt.Errorf("read meta: %w", err)
	}
	db.settled.Store(meta.position)
	db.idKey = meta.idKey
	if err := db.bootKeys(w); err != nil {
		return 0, err
	}
	if err := db.readRestored(w); err != nil {
		return 0, fmt.Errorf("read meta: %w", err)
	}
	return meta.position, nil
}

// Close commits all queued writes, waits for readers and closes the database. A second Close does nothing.
func (db *DB) Close() (err error) {
	db.closing.Do(func() {
		db.commit.stop()
		db.stopSpares()
		err = errors.Join(
			db.checkpointer.stop(),
			db.readers.close(),
			db.inner.close(),
			db.commit.conn.close(), // last, so that it copies the write-ahead log back
			db.lock.Release(),
		)
		db.cancel()
	})
	return err
}

// Read runs f in a read-only snapshot, which contains committed writes only. f must not call Read or Write: it holds
// one of few connections, and if every reader waited for another one, none would ever get it. Once ctx ends, the next
// statement fails. The number of concurrent reads of one requester is bounded; see Requested.
func (db *DB) Read(ctx context.Context, f func(*Tx) error) error {
	release, err := db.shares.Take(ctx)
	if err != nil {
		return err
	}
	defer release()
	return db.read(ctx, db.readers, f)
}

// innerConns is the number of connections for ReadInner, whose reads are short.
const innerConns = 2

// ReadInner is like Read, for short lookups that may happen inside another Read, such as filling a cache. It has its
// own connections, so that it never waits for readers that wait for it. f must not call Read, ReadInner or Write.
func (db *DB) ReadInner(ctx context.Context, f func(*Tx) error) error {
	return db.read(ctx, db.inner, f)
}

func (db *DB) read(ctx context.Context, pool readers, f func(*Tx) error) (err error) {
	c, err := db.beginRead(ctx, pool)
	if err != nil {
		return err
	}
	defer pool.give(c)
	if db.sealer != nil {
		defer db.sealer.Enter()()
	}
	tx := &Tx{db: db, conn: c, ctx: ctx, now: db.cfg.Now(), settled: db.Settled()} // Settled first, then the snapshot
	defer func() {
		if endErr := c.rollback(); endErr != nil && err == nil {
			err = fmt.Errorf("end read: %w", endErr)
		}
	}()
	return f(tx)
}

// beginRead begins a transaction on a connection of a pool. After an outage of PostgreSQL the pool may have connections
// that were lost meanwhile; it drops these.
func (db *DB) beginRead(ctx context.Context, pool readers) (c conn, err error) {
	for range db.cfg.ReadConns + innerConns + 1 {
		if c, err = pool.take(ctx); err != nil {
			return nil, err
		}
		if err = c.begin(false); err == nil {
			return c, nil
		}
		pool.give(c)
		if !errors.Is(err, ErrAway) {
			break
		}
	}
	return nil, fmt.Errorf("begin read: %w", err)
}

// Write is one unit of work for the committer.
type Write struct {
	// Rooms are the nids of the rooms that Do changes. A single node does not lock them. With several nodes on
	// PostgreSQL the batch locks their rows, sorted, before any closure runs.
	Rooms []ident.RoomNID
	// Do runs inside the transaction, at most once. It must not block or wait for another write.
	Do func(*Tx) error
	// Committed runs after the commit, in queue order, before Settled covers the write. It must be quick and must not
	// use the database.
	Committed func()
	// Failed runs instead of Committed if the write is not in the database, or if the connection to PostgreSQL was lost
	// during the commit and the outcome is unknown. It runs before any closure that was queued later, so that writes
	// that depend on this one can still be refused. It must be quick and must not use the database.
	Failed func(error)
	Rests  bool // the writer rests before its next write (pace.Pace), so no batch waits for that
}

// Pending is a queued write.
type Pending struct {
	write Write
	task  func(conn) error // runs between two batches; set instead of write
	done  chan struct{}
	err   error
}

// Wait returns nil only after the commit that contains the write is on disk. If ctx ends first, the write still
// happens.
func (p *Pending) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	default:
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end reports the result to those who wait. It drops the closures: whoever keeps the Pending would otherwise keep all
// that they refer to. A room keeps the Pending of its newest write, whose closures refer to that of the one before, and
// so on: without this, every event since the start would stay in memory.
func (p *Pending) end() {
	p.write, p.task = Write{}, nil
	close(p.done)
}

// Done returns a channel that is closed when the write is committed or has failed.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Err returns the result of a write that is done.
func (p *Pending) Err() error { return p.err }

// Enqueue appends a write to the queue of the committer. It blocks only while maxQueue writes wait.
func (db *DB) Enqueue(w Write) *Pending {
	p := &Pending{write: w, done: make(chan struct{})}
	db.commit.enqueue(p)
	return p
}

// Write enqueues a write that runs f and waits for its commit.
func (db *DB) Write(ctx context.Context, f func(*Tx) error) error {
	return db.Enqueue(Write{Do: f}).Wait(ctx)
}

// Flush waits until all writes queued so far are committed or have failed.
func (db *DB) Flush(ctx context.Context) error {
	p := &Pending{task: func(conn) error { return nil }, done: make(chan struct{})}
	db.commit.enqueue(p)
	return p.Wait(ctx)
}

// between runs a task on the write connection between two batches and waits for it.
func (db *DB) between(ctx context.Context, task func(conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p := &Pending{task: task, done: make(chan struct{})}
	db.commit.enqueue(p)
	<-p.done
	return p.err
}

// Maintain returns free pages to the file system and empties the write-ahead log, in small steps between commits, so
// that no file contains deleted bytes any more. It waits for readers that still need the log.
func (db *DB) Maintain(ctx context.Context) error { return db.dialect.maintain(ctx, db) }

// Pace returns a Pace for background work that begins now, in steps of at most a number of items.
func (db *DB) Pace(most int) *pace.Pace { return pace.New(db.written.Load, most) }

// Overwrites reports whether nothing that was deleted is left in the files of the database after Maintain. On
// PostgreSQL, only the keys of sealed texts are destroyed (see RetireKeys).
func (db *DB) Overwrites() bool {
	_, overwrites := db.dialect.(sqliteDialect)
	return overwrites
}
