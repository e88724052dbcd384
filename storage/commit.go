package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// maxQueue bounds writes that wait; Enqueue blocks beyond it.
	maxQueue = 8192
	// maxBatch and maxBatchTime bound one transaction, so that nobody waits for thousands of others.
	maxBatch     = 512
	maxBatchTime = 50 * time.Millisecond
	// slowCommit: after a batch that took longer, the next one stays open up to a third of that time, at most maxGather, for
	// the writers who have just been answered; those who have come are worked on meanwhile. Otherwise they would always miss
	// it, and two halves of the writers would take turns: at 5 ms per commit 16 of them reached 1,370 writes a second instead
	// of 2,700, and without a delay an event took 46 µs of CPU instead of 28. An eighth was too short for 16 senders to build
	// and sign: 13.7 of them came.
	slowCommit = 100 * time.Microsecond
	maxGather  = 2 * time.Millisecond
)

// committer owns the write connection: run is one goroutine, and only it touches what is not under mu.
type committer struct {
	db   *DB
	conn conn
	log  *slog.Logger

	mu     sync.Mutex // guards queue, closed; a leaf
	space  *sync.Cond // queue got shorter, or closed
	work   *sync.Cond // queue got longer, or closed
	queue  []*Pending
	closed bool
	ended  chan struct{}

	batch  []*Pending // being committed
	late   []*Pending // taken from the queue, but beyond maxBatchTime
	pos    int64      // last position allotted
	stored int64      // the position that stands in meta
	until  time.Time  // the next batch is open until then
	last   int        // writers of the last batch
}

func newCommitter(db *DB, w conn, position int64) *committer {
	c := &committer{db: db, conn: w, log: db.cfg.Log, ended: make(chan struct{}), pos: position, stored: position}
	c.space, c.work = sync.NewCond(&c.mu), sync.NewCond(&c.mu)
	return c
}

func (c *committer) enqueue(p *Pending) {
	if !c.push(p) {
		c.fail(p, ErrClosed)
		close(p.done)
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

// fail tells a write that it is not, and will not be, in the database.
func (c *committer) fail(p *Pending, err error) {
	p.err = err
	if f := p.write.Failed; f != nil {
		c.hook(func() { f(err) })
	}
}

// stop lets the queue run empty.
func (c *committer) stop() {
	c.mu.Lock()
	c.closed = true
	c.work.Signal()
	c.space.Broadcast()
	c.mu.Unlock()
	<-c.ended
}

// run takes whatever has queued while the last batch was committed as the next batch.
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

// next waits for work: a run of writes, or one task. It is false when the database is closed and nothing is left.
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

// writesAhead counts the writes that stand at the head of the queue, up to limit. mu is held.
func (c *committer) writesAhead(limit int) (n int) {
	for n < len(c.queue) && n < limit && c.queue[n].task == nil {
		n++
	}
	return n
}

// take moves the first n of the queue into the batch. mu is held.
func (c *committer) take(n int) {
	c.batch = append(c.batch, c.queue[:n]...)
	rest := copy(c.queue, c.queue[n:])
	clear(c.queue[rest:])
	c.queue = c.queue[:rest]
	c.space.Broadcast()
}

// gathers tells whether the batch is still open for writers of the last one, which was slow.
func (c *committer) gathers() bool {
	return len(c.batch) < min(c.last, maxBatch) && time.Until(c.until) > 0
}

// more waits for more writes while the batch is open, and adds those that come; false where it is no more.
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

// gatherAfter says how long the next batch is open, and for how many: those who are answered now and those who came too
// late for this one.
func (c *committer) gatherAfter(start time.Time) {
	took := time.Since(start)
	c.until = time.Time{}
	if took > slowCommit {
		c.until = time.Now().Add(min(took/3, maxGather))
		c.mu.Lock()
		c.last = len(c.batch) + len(c.queue)
		c.mu.Unlock()
	}
}

// errBatch tells the members of a batch that it failed through no doing of their own.
var errBatch = errors.New("storage: the batch of this write was not committed")

// commit runs a batch and answers everybody in it.
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
	c.answer()
	if f := c.db.cfg.OnBatch; f != nil {
		f(n, time.Since(start))
	}
	c.db.checkpointer.committed()
}

// failBatch answers everybody with the error; those who failed before keep their own.
func (c *committer) failBatch(err error) {
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
		close(p.done)
	}
	c.batch = nil
}

// announce runs the Committed hooks in queue order and lets Settled cover the batch.
func (c *committer) announce() {
	c.db.announcing.Lock()
	defer c.db.announcing.Unlock()
	for _, p := range c.batch {
		if p.err == nil && p.write.Committed != nil {
			c.hook(p.write.Committed)
		}
	}
	c.db.settled.Store(c.stored) // not pos: what is not stored may be given out again after a crash
}

// hook outlives a panic: what became of the write does not change by it.
func (c *committer) hook(f func()) {
	defer func() {
		if r := recover(); r != nil {
			c.log.Error("panic in a hook of a write", "panic", r, "stack", string(debug.Stack()))
		}
	}()
	f()
}

// transact runs the closures of the batch; its result is the failure of the whole batch, that of a single closure stands in
// its Pending. A batch where nothing succeeded is rolled back, which is no failure.
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
	c.db.health.unwritable.Store(false)
	c.stored = c.pos
	return nil
}

// begin begins a transaction, on a new connection where the old one is of no more use.
func (c *committer) begin() error {
	if c.conn.broken() {
		return c.reopen()
	}
	if err := c.conn.rollback(); err != nil { // where the last rollback failed
		return err
	}
	err := c.conn.begin(true)
	if err != nil && c.conn.broken() {
		return c.reopen()
	}
	return err
}

// reopen also learns whether the commit went through whose answer was lost with the connection.
func (c *committer) reopen() error {
	_ = c.conn.close() // first, since it may hold locks; broken as it is, it has nothing more to say
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

// runOne runs one closure. Its own failure goes to the Pending; the result is the end of the batch. A closure that is alone
// needs no savepoint: there is nobody else whose work a rollback would take.
func (c *committer) runOne(tx *Tx, p *Pending) error {
	alone := len(c.batch) == 1 && !c.gathers()
	if !alone {
		if err := savepoint(c.conn); err != nil {
			return err
		}
	}
	tx.failed = nil
	err := c.protect(tx, p.write.Do)
	if err == nil {
		err = tx.failed // swallowed; on PostgreSQL nothing after it counts
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
	c.fail(p, full(err))
	return nil
}

// errPanic is the answer to a write that panicked.
var errPanic = errors.New("storage: panic in a write")

// protect turns a panic into an error: the savepoint takes back what the closure did.
func (c *committer) protect(tx *Tx, do func(*Tx) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			c.log.Error("panic in a write", "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("%w: %v", errPanic, r)
		}
	}()
	return do(tx)
}
