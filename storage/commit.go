package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"ebb/storage/sealing"
	"ebb/storage/statechain"
)

const (
	// maxQueue bounds the writes in the queue. Enqueue blocks while it is full.
	maxQueue = 8192
	// maxBatch and maxBatchTime bound one transaction, so that no write waits for thousands of others.
	maxBatch     = 512
	maxBatchTime = 50 * time.Millisecond
	// slowCommit is the duration of a batch beyond which the next one stays open for a third of that time, at most
	// maxGather, for the writers that have just been answered. Writes that have arrived are processed meanwhile.
	// Otherwise these writers would always miss the next batch, and two halves of the writers would take turns: at 5 ms
	// per commit 16 of them reached 1,370 writes a second instead of 2,700, and without a delay an event took 46 µs of
	// CPU instead of 28. An eighth of the time was too short for 16 senders to build and sign their events: 13.7 of
	// them arrived in time.
	slowCommit = 100 * time.Microsecond
	maxGather  = 2 * time.Millisecond
)

// committer owns the write connection and stores all writes, many in one transaction. Only one goroutine runs, in the
// method run. It alone uses the fields that mu does not guard.
type committer struct {
	db   *DB
	conn conn
	log  *slog.Logger

	mu     sync.Mutex // guards queue and closed; a leaf
	space  *sync.Cond // signals that queue got shorter, or closed
	work   *sync.Cond // signals that queue got longer, or closed
	queue  []*Pending
	closed bool
	ended  chan struct{}

	batch  []*Pending // the writes being committed
	late   []*Pending // removed from the queue but left out of a batch that reached maxBatchTime
	pos    int64      // the last position allotted
	stored int64      // the position stored in meta
	until  time.Time  // when the next batch stops waiting for writers
	last   int        // number of writers that the next batch waits for

	states *statechain.Watch // nil: nobody searches for unneeded states
}

func newCommitter(db *DB, w conn, position int64) *committer {
	c := &committer{db: db, conn: w, log: db.cfg.Log, ended: make(chan struct{}), pos: position, stored: position}
	c.space, c.work = sync.NewCond(&c.mu), sync.NewCond(&c.mu)
	return c
}

func (c *committer) enqueue(p *Pending) {
	if !c.push(p) {
		c.fail(p, ErrClosed)
		p.end()
	}
}

func (c *committer) push(p *Pending) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) >= maxQueue && !c.closed {
		c.space.Wait()
	}
	if c.closed {
		return false
	}
	c.queue = append(c.queue, p)
	c.work.Signal()
	return true
}

// fail ends a write with an error: the write is not in the database and never will be.
func (c *committer) fail(p *Pending, err error) {
	p.err = err
	if f := p.write.Failed; f != nil {
		c.hook(func() { f(err) })
	}
}

// stop refuses new writes and waits until the queue is empty.
func (c *committer) stop() {
	c.mu.Lock()
	c.closed = true
	c.work.Signal()
	c.space.Broadcast()
	c.mu.Unlock()
	<-c.ended
}

// run commits one batch after another. A batch consists of the writes that were queued during the previous one.
func (c *committer) run() {
	done := false
	defer func() {
		if done {
			close(c.ended)
			return
		}
		c.abandoned() // a closure ended the goroutine (runtime.Goexit, as t.FailNow does)
		go c.run()
	}()
	for c.next() {
		if task := c.batch[0].task; task != nil {
			c.batch[0].err = task(c.conn)
			c.answer()
			continue
		}
		c.commit()
	}
	done = true
}

func (c *committer) abandoned() {
	c.failBatch(errors.Join(errors.New("storage: a write ended its goroutine"), c.conn.rollback()))
}

// next waits for the next batch, which consists of several writes or of one task. It returns false if the database is
// closed and the queue is empty.
func (c *committer) next() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.late) > 0 {
		c.batch, c.late = c.late, nil
		return true
	}
	for len(c.queue) == 0 {
		if c.closed {
			return false
		}
		c.work.Wait()
	}
	n := 1
	if c.queue[0].task == nil {
		n = c.writesAhead(maxBatch)
	}
	c.take(n)
	return true
}

// writesAhead counts the writes at the head of the queue, up to limit. The caller holds mu.
func (c *committer) writesAhead(limit int) (n int) {
	for n < len(c.queue) && n < limit && c.queue[n].task == nil {
		n++
	}
	return n
}

// take moves the first n entries of the queue to the batch. The caller holds mu.
func (c *committer) take(n int) {
	c.batch = append(c.batch, c.queue[:n]...)
	rest := copy(c.queue, c.queue[n:])
	clear(c.queue[rest:])
	c.queue = c.queue[:rest]
	c.space.Broadcast()
}

// gathers reports whether the batch should wait for more writes. It does for a while after a slow commit, until as many
// writes have arrived as there were writers waiting then.
func (c *committer) gathers() bool {
	return len(c.batch) < min(c.last, maxBatch) && time.Until(c.until) > 0
}

// more waits until further writes are queued, and adds them to the batch. It returns false if the batch should not
// wait, or if no write arrives in time.
func (c *committer) more() bool {
	if !c.gathers() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	over := false
	timer := time.AfterFunc(time.Until(c.until), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		over = true
		c.work.Signal()
	})
	defer timer.Stop()
	for !over && len(c.queue) == 0 && !c.closed {
		c.work.Wait()
	}
	n := c.writesAhead(maxBatch - len(c.batch))
	c.take(n)
	return n > 0
}

// gatherAfter sets how long the next batch waits for more writes, and for how many, after a commit that began at start.
// It expects a write from each writer whose write has just been committed, unless that rests, in addition to those that
// are queued already.
func (c *committer) gatherAfter(start time.Time) {
	took := time.Since(start)
	c.until = time.Time{}
	if took > slowCommit {
		c.until = time.Now().Add(min(took/3, maxGather))
		c.mu.Lock()
		c.last = len(c.batch) + len(c.queue)
		c.mu.Unlock()
		for _, p := range c.batch {
			if p.write.Rests {
				c.last--
			}
		}
	}
}

// errBatch is the error of writes that failed only because their batch failed.
var errBatch = errors.New("storage: the batch of this write was not committed")

// commit runs a batch and answers all its writers.
func (c *committer) commit() {
	start := time.Now()
	if err := c.transact(); err != nil {
		c.log.Error("a batch of writes failed", "writes", len(c.batch), "err", err)
		c.failBatch(err)
		return
	}
	c.announce()
	c.gatherAfter(start)
	n := len(c.batch)
	c.db.written.Add(int64(n))
	c.answer()
	if f := c.db.cfg.OnBatch; f != nil {
		f(n, time.Since(start))
	}
	c.db.checkpointer.committed(c.conn)
}

// failBatch ends every write of the batch with the error. Writes that failed before keep their own error.
func (c *committer) failBatch(err error) {
	c.db.sealer.Undo(sealing.Mark{})
	for _, p := range append(c.batch, c.late...) {
		if p.err == nil {
			c.fail(p, fmt.Errorf("%w: %w", errBatch, err))
		}
	}
	c.batch, c.late = append(c.batch, c.late...), nil
	c.answer()
}

func (c *committer) answer() {
	for _, p := range c.batch {
		p.end()
	}
	c.batch = nil
}

// announce runs the Committed hooks in queue order and advances Settled to the end of the batch.
func (c *committer) announce() {
	c.db.announcing.Lock()
	defer c.db.announcing.Unlock()
	for _, p := range c.batch {
		if p.err == nil && p.write.Committed != nil {
			c.hook(p.write.Committed)
		}
	}
	c.db.settled.Store(c.stored) // not pos: a position that is not stored may be allotted again after a crash
}

// hook runs f, which is a hook of a write. If f panics, it recovers, because the outcome of the write stays the same.
func (c *committer) hook(f func()) {
	defer func() {
		if r := recover(); r != nil {
			c.log.Error("panic in a hook of a write", "panic", r, "stack", string(debug.Stack()))
		}
	}()
	f()
}

// transact runs the closures of the batch in one transaction. It returns an error if the whole batch failed; the error
// of a single closure goes to its Pending. If no closure succeeded, it rolls the transaction back, which is not a
// failure of the batch.
func (c *committer) transact() (err error) {
	if err := c.begin(); err != nil {
		return full(fmt.Errorf("begin: %w", err))
	}
	kept := 0
	defer func() {
		if err != nil || kept == 0 {
			err = errors.Join(full(err), c.conn.rollback())
			c.db.health.note(c.db, err)
		}
	}()
	tx := &Tx{db: c.db, conn: c.conn, committer: c, now: c.db.cfg.Now(), settled: c.db.Settled()}
	start := time.Now()
	for i := 0; i < len(c.batch) || c.more(); i++ {
		p := c.batch[i]
		if err := c.runOne(tx, p); err != nil {
			return err
		}
		if p.err == nil {
			kept++
		}
		if time.Since(start) > maxBatchTime {
			c.batch, c.late = c.batch[:i+1:i+1], c.batch[i+1:]
			break
		}
	}
	if kept == 0 {
		return nil
	}
	if err := c.storePosition(); err != nil {
		return fmt.Errorf("store the position: %w", err)
	}
	if d := c.db.cfg.CommitDelay; d > 0 {
		time.Sleep(d)
	}
	if err := c.conn.commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	c.db.sealer.Committed()
	c.db.health.unwritable.Store(false)
	c.stored = c.pos
	return nil
}

// begin begins a transaction, on a new connection if the old one is broken.
func (c *committer) begin() error {
	if c.conn.broken() {
		return c.reopen()
	}
	if err := c.conn.rollback(); err != nil { // in case the last rollback failed
		return err
	}
	err := c.conn.begin(true)
	if err != nil && c.conn.broken() {
		return c.reopen()
	}
	return err
}

// reopen replaces a broken connection. It also finds out whether a commit whose answer was lost took effect.
func (c *committer) reopen() error {
	_ = c.conn.close() // first, since it may hold locks; the error of a broken connection says nothing new
	w, err := c.db.dialect.openWriter(c.db.ctx)
	if err != nil {
		return fmt.Errorf("connect again: %w", err)
	}
	stored, err := readPosition(w)
	if err == nil {
		err = w.begin(true)
	}
	if err != nil {
		return errors.Join(err, w.close())
	}
	c.conn, c.stored, c.pos = w, stored, max(c.pos, stored)
	c.log.Warn("the connection to the database was lost and is open again")
	return nil
}

// runOne runs one closure. It stores the closure's error in the Pending and returns only errors that end the batch. A
// closure that is alone in its batch needs no savepoint, because a rollback affects no other write.
func (c *committer) runOne(tx *Tx, p *Pending) error {
	alone := len(c.batch) == 1 && !c.gathers()
	if !alone {
		if err := savepoint(c.conn); err != nil {
			return err
		}
	}
	tx.failed = nil
	mark := c.db.sealer.Mark()
	err := c.protect(tx, p.write.Do)
	if err == nil {
		err = tx.failed // ignored by the closure; PostgreSQL refuses everything after it
	}
	if !c.conn.standing() {
		return errors.Join(errors.New("the database ended the transaction inside a write"), err)
	}
	if err == nil && alone {
		return nil
	}
	if err == nil {
		return releaseSavepoint(c.conn)
	}
	if !alone {
		if err := rollbackSavepoint(c.conn); err != nil {
			return err
		}
	}
	c.db.sealer.Undo(mark)
	c.fail(p, full(err))
	return nil
}

// errPanic is the error of a write that panicked.
var errPanic = errors.New("storage: panic in a write")

// protect turns a panic into an error. The caller then rolls back to the savepoint.
func (c *committer) protect(tx *Tx, do func(*Tx) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			c.log.Error("panic in a write", "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("%w: %v", errPanic, r)
		}
	}()
	return do(tx)
}
