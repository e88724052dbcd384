package storage

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// maxQueue bounds writes that wait; Enqueue blocks beyond it.
	maxQueue = 8192
	// maxBatch bounds the closures of one transaction, so that nobody waits for thousands of others.
	maxBatch = 512
	// checkpointEvery counts commits between two passive checkpoints of the write-ahead log.
	checkpointEvery = 256
	// slowCommit: after a commit that took longer, the next batch waits a twentieth of that time for the writers who have
	// just been answered; otherwise they would always miss it, and half of the writers share each commit.
	slowCommit = time.Millisecond
)

// committer owns the write connection.
type committer struct {
	db   *DB
	conn *conn

	// mu guards queue and closed; a leaf lock.
	mu     sync.Mutex
	space  *sync.Cond // queue got shorter
	work   *sync.Cond // queue got longer, or closed
	queue  []*Pending
	closed bool
	ended  chan struct{}

	pos       int64         // last position allotted
	stored    int64         // the position that stands in meta
	sinceFold int           // commits since the last checkpoint
	took      time.Duration // by the last batch
}

func newCommitter(db *DB, w *conn) *committer {
	c := &committer{db: db, conn: w, ended: make(chan struct{}), pos: db.settled.Load(), stored: db.settled.Load()}
	c.space, c.work = sync.NewCond(&c.mu), sync.NewCond(&c.mu)
	return c
}

func (c *committer) enqueue(p *Pending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) >= maxQueue && !c.closed {
		c.space.Wait()
	}
	if c.closed {
		p.finish(ErrClosed)
		return
	}
	c.queue = append(c.queue, p)
	c.work.Signal()
}

// enqueueMaintenance queues a request without closure.
func (c *committer) enqueueMaintenance(p *Pending) { c.enqueue(p) }

func (p *Pending) finish(err error) {
	p.err = err
	close(p.done)
}

// stop lets the queue run empty and closes the connection.
func (c *committer) stop() error {
	c.mu.Lock()
	c.closed = true
	c.work.Signal()
	c.space.Broadcast()
	c.mu.Unlock()
	<-c.ended
	return c.conn.close()
}

// run takes whatever has queued while the last batch was committed as the next batch.
func (c *committer) run() {
	defer close(c.ended)
	for {
		if c.took > slowCommit {
			time.Sleep(min(c.took/20, slowCommit))
		}
		batch := c.next()
		if batch == nil {
			return
		}
		if batch[0].write.Do == nil {
			batch[0].finish(c.db.dialect.maintain(c.conn))
			continue
		}
		c.commit(batch)
	}
}

// next waits for work: a run of writes, or one maintenance request.
func (c *committer) next() []*Pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) == 0 {
		if c.closed {
			return nil
		}
		c.work.Wait()
	}
	n := 1
	if c.queue[0].write.Do != nil {
		for n < len(c.queue) && n < maxBatch && c.queue[n].write.Do != nil {
			n++
		}
	}
	batch := append([]*Pending(nil), c.queue[:n]...)
	rest := copy(c.queue, c.queue[n:])
	clear(c.queue[rest:])
	c.queue = c.queue[:rest]
	c.space.Broadcast()
	return batch
}

// errBatch tells the members of a batch that it failed through no doing of their own.
var errBatch = errors.New("storage: the batch of this write was not committed")

// commit runs a batch and answers everybody in it.
func (c *committer) commit(batch []*Pending) {
	start := time.Now()
	defer func() { c.took = time.Since(start) }()
	errs := make([]error, len(batch))
	err := c.transact(batch, errs)
	if err != nil {
		c.pos = c.stored
		c.db.cfg.Log.Error("a batch of writes failed", "writes", len(batch), "err", err)
		for i, p := range batch {
			if errs[i] == nil {
				errs[i] = fmt.Errorf("%w: %w", errBatch, err)
			}
			p.finish(errs[i])
		}
		return
	}
	c.stored = c.pos
	c.announce(batch, errs)
	for i, p := range batch {
		p.finish(errs[i])
	}
	if f := c.db.cfg.OnBatch; f != nil {
		f(len(batch), time.Since(start))
	}
	if c.sinceFold++; c.sinceFold >= checkpointEvery {
		c.sinceFold = 0
		if err := c.db.dialect.checkpoint(c.conn); err != nil {
			c.db.cfg.Log.Warn("checkpoint of the write-ahead log", "err", err)
		}
	}
}

// announce runs the Committed hooks in queue order and lets Settled cover the batch.
func (c *committer) announce(batch []*Pending, errs []error) {
	c.db.announcing.Lock()
	defer c.db.announcing.Unlock()
	for i, p := range batch {
		if errs[i] == nil && p.write.Committed != nil {
			p.write.Committed()
		}
	}
	c.db.settled.Store(c.pos)
}

// transact runs the closures; errs gets the errors of single closures, the result is the failure of the whole batch.
func (c *committer) transact(batch []*Pending, errs []error) error {
	if err := c.conn.beginWrite(); err != nil {
		return full(err)
	}
	tx := &Tx{db: c.db, conn: c.conn, committer: c, now: c.db.cfg.Now()}
	for i, p := range batch {
		if err := c.runOne(tx, p, &errs[i]); err != nil {
			return errors.Join(full(err), c.conn.rollback())
		}
	}
	if c.pos != c.stored {
		if _, err := c.conn.exec(`UPDATE meta SET value = $1 WHERE name = 'position'`, c.pos); err != nil {
			return errors.Join(full(err), c.conn.rollback())
		}
	}
	if d := c.db.cfg.CommitDelay; d > 0 {
		time.Sleep(d)
	}
	if err := c.conn.commit(); err != nil {
		return errors.Join(full(err), c.conn.rollback())
	}
	return nil
}

// runOne runs one closure in a savepoint. Its own failure goes to own; the result is the end of the batch.
func (c *committer) runOne(tx *Tx, p *Pending, own *error) error {
	if err := c.conn.savepoint(); err != nil {
		return err
	}
	*own = protect(tx, p.write.Do)
	if !c.conn.inTransaction() {
		return errors.Join(errors.New("the transaction ended inside a closure"), *own)
	}
	if *own == nil {
		return c.conn.releaseSavepoint()
	}
	if isFull(*own) {
		*own = full(*own)
	}
	return c.conn.rollbackSavepoint()
}

// protect turns a panic into an error: the savepoint takes back what the closure did.
func protect(tx *Tx, do func(*Tx) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic in a write: %v\n%s", r, debug.Stack())
		}
	}()
	return do(tx)
}

// full marks an error as ErrFull where the disk is the cause.
func full(err error) error {
	if err != nil && isFull(err) && !errors.Is(err, ErrFull) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
