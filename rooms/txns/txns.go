// Package txns makes requests with a transaction ID idempotent: a device that repeats a request gets the answer to the
// first one. Answers are rows of client_txns, which the write of a request adds to the room's other rows; the newest
// ones, and requests in progress, are in memory.
// Spec: client-server-api#transaction-identifiers
package txns

import (
	"context"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/storage"
)

// Txn is a client's transaction ID. Together with the device and the path of the request it identifies one request.
type Txn struct {
	Path string // the request's path without the transaction ID
	ID   string
}

const (
	// maxPerDevice bounds the answers that are kept in memory for a device. An older retry is recognised by the row in
	// the database.
	maxPerDevice = 256
	// maxDevices bounds the devices whose answers are kept in memory.
	maxDevices = 10_000
)

// Table holds the answers to transaction IDs, and the requests in progress. It is safe for concurrent use.
type Table struct {
	db  *storage.DB
	now func() time.Time

	mu      sync.Mutex // guards devices; a leaf lock
	devices map[ident.DeviceNID]*device
}

type device struct {
	claims     map[int64]*Claim
	finished   []int64 // hashes of finished claims, oldest first
	inProgress int
}

// Claim is a transaction ID of a device.
type Claim struct {
	Device ident.DeviceNID
	Hash   int64 // of the path and the transaction ID

	done   chan struct{} // closed when answer or err is set
	answer id.EventID
	err    error
}

// New returns a Table. It reads the answers of a device from the database when the device sends its first request.
func New(db *storage.DB, now func() time.Time) *Table {
	return &Table{db: db, now: now, devices: map[ident.DeviceNID]*device{}}
}

// Once calls do unless the request was answered before or is in progress; then it returns that answer. Errors are not
// remembered, so that the client may retry. If txn or nid is zero, Once calls do with nil.
func (t *Table) Once(ctx context.Context, nid ident.DeviceNID, txn *Txn, do func(*Claim) (id.EventID, error)) (id.EventID, error) {
	if txn == nil || nid == 0 {
		return do(nil)
	}
	hash := t.db.IDHash(txn.Path + "\x00" + txn.ID)
	for {
		c, first, err := t.claim(ctx, nid, hash)
		if err != nil {
			return "", err
		}
		if first {
			return t.run(c, do)
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if c.err == nil {
			return c.answer, nil
		}
	}
}

// run calls do for a claim and records the answer.
func (t *Table) run(c *Claim, do func(*Claim) (id.EventID, error)) (id.EventID, error) {
	finished := false
	defer func() {
		if !finished { // do panicked: release the waiting requests
			c.err = context.Canceled
			t.finish(c)
		}
	}()
	c.answer, c.err = do(c)
	finished = true
	t.finish(c)
	return c.answer, c.err
}

// claim returns the claim on a transaction ID. first is set if the caller made it and must answer it.
func (t *Table) claim(ctx context.Context, nid ident.DeviceNID, hash int64) (c *Claim, first bool, err error) {
	if c, first, ok := t.claimLoaded(nid, hash); ok {
		return c, first, nil
	}
	var rows []storage.TxnRow
	err = t.db.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.RecentTxns(nid, maxPerDevice)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	t.load(nid, rows)
	c, first, _ = t.claimLoaded(nid, hash)
	return c, first, nil
}

// claimLoaded is claim for a device whose earlier transaction IDs are in memory. Otherwise it returns false for ok.
func (t *Table) claimLoaded(nid ident.DeviceNID, hash int64) (c *Claim, first, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.devices[nid]
	if d == nil {
		return nil, false, false
	}
	if c := d.claims[hash]; c != nil {
		return c, false, true
	}
	c = &Claim{Device: nid, Hash: hash, done: make(chan struct{})}
	d.claims[hash] = c
	d.inProgress++
	return c, true, true
}

// load adds the earlier transaction IDs of a device, newest first.
func (t *Table) load(nid ident.DeviceNID, rows []storage.TxnRow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.devices[nid] != nil {
		return
	}
	if len(t.devices) >= maxDevices {
		t.evict()
	}
	d := &device{claims: map[int64]*Claim{}}
	for i := len(rows) - 1; i >= 0; i-- {
		c := &Claim{Device: nid, Hash: rows[i].Hash, done: make(chan struct{}), answer: id.EventID(rows[i].Answer)}
		close(c.done)
		d.claims[c.Hash] = c
		d.finished = append(d.finished, c.Hash)
	}
	t.devices[nid] = d
}

// evict removes some device without requests in progress. mu is held.
func (t *Table) evict() {
	for nid, d := range t.devices {
		if d.inProgress == 0 {
			delete(t.devices, nid)
			return
		}
	}
}

// finish releases the requests that wait for a claim.
func (t *Table) finish(c *Claim) {
	close(c.done)
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.devices[c.Device]
	d.inProgress--
	if c.err != nil {
		delete(d.claims, c.Hash)
		return
	}
	d.finished = append(d.finished, c.Hash)
	if len(d.finished) > maxPerDevice {
		delete(d.claims, d.finished[0])
		d.finished = append(d.finished[:0], d.finished[1:]...)
	}
}

// Stored reads the stored answer to a claim whose write found it in the database.
func (t *Table) Stored(ctx context.Context, c *Claim) (id.EventID, error) {
	var answer string
	err := t.db.Read(context.WithoutCancel(ctx), func(tx *storage.Tx) (err error) {
		answer, _, err = tx.Txn(c.Device, c.Hash)
		return err
	})
	return id.EventID(answer), err
}

// lifetimeMillis is how long transaction IDs are stored: clients retry for minutes, and overnight at most.
const lifetimeMillis = 48 * 60 * 60 * 1000

// Prune deletes the transaction IDs that are older than lifetimeMillis, in small writes.
func (t *Table) Prune(ctx context.Context) error {
	before := t.now().UnixMilli() - lifetimeMillis
	for {
		var n int64
		err := t.db.Write(ctx, func(tx *storage.Tx) (err error) {
			n, err = tx.PruneTxns(before, 500) // 500: a few milliseconds
			return err
		})
		if err != nil || n < 500 {
			return err
		}
	}
}
