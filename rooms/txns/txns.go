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

// Txn is a transaction ID that a client sent. The device, the path of the request and the transaction ID together
// identify a request.
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

// Table holds the answers to earlier requests, and the requests in progress, by transaction ID. It is safe for
// concurrent use.
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

// Claim stands for one request of a device that has a transaction ID. Only the first request with this ID makes a
// claim; a repeated request waits for that claim's answer.
type Claim struct {
	Device ident.DeviceNID
	Hash   int64 // of the path and the transaction ID

	done   chan struct{} // closed when answer or err is set
	answer id.EventID
	err    error
}

// New returns an empty Table.
func New(db *storage.DB, now func() time.Time) *Table {
	return &Table{db: db, now: now, devices: map[ident.DeviceNID]*device{}}
}

// Once calls do unless the same request was answered before or is in progress; in that case it returns the answer to
// that request. do may be called although there is an answer, if that is no longer in memory. Its write then must fail,
// and Once returns the stored answer. Errors are not stored, so that the client may try again. If txn or nid is zero,
// Once always calls do, with nil.
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
			return t.run(ctx, c, do)
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

// run calls do for a claim, stores the answer in the claim and releases the requests that wait for it. If do fails, the
// request may be a repeated one whose answer is no longer in memory. do may have failed before its write: the sender of
// a message may have been banned after the first request.
func (t *Table) run(ctx context.Context, c *Claim, do func(*Claim) (id.EventID, error)) (id.EventID, error) {
	finished := false
	defer func() {
		if !finished { // do panicked: release the waiting requests
			c.err = context.Canceled
			t.finish(c)
		}
	}()
	c.answer, c.err = do(c)
	if c.err != nil {
		if answer, found, err := t.stored(context.WithoutCancel(ctx), c.Device, c.Hash); err == nil && found {
			c.answer, c.err = answer, nil
		}
	}
	finished = true
	t.finish(c)
	return c.answer, c.err
}

// claim returns the claim for a request, given the hash of its path and transaction ID. If there is none yet, claim
// makes it and returns first as true; the caller must then answer it.
func (t *Table) claim(ctx context.Context, nid ident.DeviceNID, hash int64) (c *Claim, first bool, err error) {
	if c, first := t.claimIn(nid, hash, false); c != nil {
		return c, first, nil
	}
	// The first request of a device after a start is often a repeated one.
	answer, found, err := t.stored(ctx, nid, hash)
	if err != nil {
		return nil, false, err
	}
	c, first = t.claimIn(nid, hash, true)
	if first && found {
		c.answer = answer
		t.finish(c)
	}
	return c, first && !found, nil
}

// claimIn is like claim, but looks in memory only. If the device is not there, it is added if add is set; otherwise
// claimIn returns nil.
func (t *Table) claimIn(nid ident.DeviceNID, hash int64, add bool) (c *Claim, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.devices[nid]
	if d == nil {
		if !add {
			return nil, false
		}
		if len(t.devices) >= maxDevices {
			t.evict()
		}
		d = &device{claims: map[int64]*Claim{}}
		t.devices[nid] = d
	}
	if c := d.claims[hash]; c != nil {
		return c, false
	}
	c = &Claim{Device: nid, Hash: hash, done: make(chan struct{})}
	d.claims[hash] = c
	d.inProgress++
	return c, true
}

// evict removes any one device that has no request in progress. mu is held.
func (t *Table) evict() {
	for nid, d := range t.devices {
		if d.inProgress == 0 {
			delete(t.devices, nid)
			return
		}
	}
}

// finish marks a claim as answered, which releases the requests that wait for it. A claim with an error is removed.
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

// stored reads the answer to a request from the database.
func (t *Table) stored(ctx context.Context, nid ident.DeviceNID, hash int64) (answer id.EventID, found bool, err error) {
	err = t.db.Read(ctx, func(tx *storage.Tx) error {
		text, ok, err := tx.Txn(nid, hash)
		answer, found = id.EventID(text), ok
		return err
	})
	return answer, found, err
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
