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
)

// Config says which database to open and how.
type Config struct {
	DSN         string        // sqlite:PATH or postgres://…
	ReadConns   int           // read-only connections; 0: 8
	CommitDelay time.Duration // injected into every commit, for the benchmark only
	Now         func() time.Time
	Log         *slog.Logger
	OnBatch     func(writes int, took time.Duration) // after every commit, for metrics; may be nil
	OnStatement func(query string)                   // before every statement of a transaction, for tests; may be nil
}

// ErrClosed: the database was closed.
var ErrClosed = errors.New("storage: closed")

// DB is an open database. It is safe for concurrent use.
type DB struct {
	cfg          Config
	dialect      dialect
	lock         fileLock
	readers      readers
	inner        readers // of ReadInner
	shares       *shares
	commit       *committer
	checkpointer *checkpointer // nil on PostgreSQL
	settled      atomic.Int64
	// announcing is held by the committer while the Committed hooks of a batch run, until Settled covers the batch.
	announcing sync.RWMutex
	idKey      []byte
	health     health
	ctx        context.Context // ends when Close has done its work; for connecting again
	cancel     context.CancelFunc
	closing    sync.Once
}

// Open opens the database, brings its schema up to date and starts the committer. One process at a time may have a database
// open; another gets ErrInUse.
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
	db := &DB{cfg: cfg, dialect: d, shares: newShares(cfg.ReadConns)}
	db.ctx, db.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := db.openOrMakeRoom(ctx); err != nil {
		db.cancel()
		return nil, errors.Join(err, db.lock.release())
	}
	return db, nil
}

// openOrMakeRoom opens the database also on a full disk, for reading at least.
func (db *DB) openOrMakeRoom(ctx context.Context) error {
	err := db.open(ctx)
	if errors.Is(err, ErrFull) && db.dialect.freeReserve() {
		db.cfg.Log.Error("the disk is full: reads still work, and writes will once there is room", "err", err)
		return errors.Join(db.lock.release(), db.open(ctx))
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
	if db.checkpointer != nil {
		go db.checkpointer.run()
	}
	return nil
}

// boot migrates the schema and reads what stands in meta.
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
	return meta.position, nil
}

// Close waits for what is queued to be committed and for the readers, and closes everything. A second Close does nothing.
func (db *DB) Close() (err error) {
	db.closing.Do(func() {
		db.commit.stop()
		err = errors.Join(
			db.checkpointer.stop(),
			db.readers.close(),
			db.inner.close(),
			db.commit.conn.close(), // the last one, so that it folds the write-ahead log back
			db.lock.release(),
		)
		db.cancel()
	})
	return err
}

// Read runs f in one read-only snapshot. It never sees a write that is not committed. f must not call Read or Write: it
// holds one of few connections, and waiting for another while everybody does the same would never end. When ctx ends, the
// next statement fails. What one requester reads at a time is bounded (Requested).
func (db *DB) Read(ctx context.Context, f func(*Tx) error) error {
	release, err := db.shares.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	return db.read(ctx, db.readers, f)
}

// innerConns is the number of connections of ReadInner: its reads are short.
const innerConns = 2

// ReadInner is Read for short look-ups that may happen inside somebody's Read, such as filling a cache. They have
// connections of their own, so that they never wait for those who wait for them. f must not call Read, ReadInner or Write.
func (db *DB) ReadInner(ctx context.Context, f func(*Tx) error) error {
	return db.read(ctx, db.inner, f)
}

func (db *DB) read(ctx context.Context, pool readers, f func(*Tx) error) (err error) {
	c, err := pool.take(ctx)
	if err != nil {
		return err
	}
	defer pool.give(c)
	tx := &Tx{db: db, conn: c, ctx: ctx, now: db.cfg.Now(), settled: db.Settled()} // Settled first, then the snapshot
	if err := c.begin(false); err != nil {
		return fmt.Errorf("begin read: %w", err)
	}
	defer func() {
		if endErr := c.rollback(); endErr != nil && err == nil {
			err = fmt.Errorf("end read: %w", endErr)
		}
	}()
	return f(tx)
}

// Write is one unit of work for the committer.
type Write struct {
	// Rooms are the nids of the rooms that Do changes. One node needs no lock for them; on PostgreSQL with several nodes
	// the batch locks their rows, sorted, before any closure runs.
	Rooms []ident.RoomNID
	// Do runs inside the transaction, at most once. It must not block, and not wait for another write.
	Do func(*Tx) error
	// Committed runs after the commit, in queue order and before Settled covers the write. It must be quick and not use
	// the database.
	Committed func()
	// Failed runs instead of Committed when the write is not in the database (or, on PostgreSQL, the connection was lost
	// in the commit and nobody knows), and before any closure that was queued later runs: whatever was built on this write
	// can still be refused. The same rules as for Committed hold.
	Failed func(error)
}

// Pending is a queued write.
type Pending struct {
	write Write
	task  func(conn) error // instead of write: to run between two batches
	done  chan struct{}
	err   error
}

// Wait returns nil only after the commit, on disk, that holds the write. When ctx ends first the write still happens.
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

// Flush waits until everything queued so far is committed or has failed.
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

// Maintain gives free pages back to the file system and empties the write-ahead log, in small steps between commits, so
// that deleted bytes are in no file any more. It waits for readers that still need the log.
func (db *DB) Maintain(ctx context.Context) error { return db.dialect.maintain(ctx, db) }
