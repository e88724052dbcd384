package rooms

import (
	"context"
	"sync"

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
	// txnsPerDevice is the number of answers that are kept in memory for a device. An older retry is recognised by the
	// row in the database.
	txnsPerDevice = 256
	// txnDevices bounds the devices whose answers are kept in memory.
	txnDevices = 10_000
)

// txnTable holds the answers to transaction IDs, and the requests in progress.
type txnTable struct {
	mu      sync.Mutex // guards the rest; a leaf lock
	devices map[ident.DeviceNID]*deviceTxns
}

type deviceTxns struct {
	loaded   bool
	claims   map[int64]*claim
	ring     []int64 // hashes of finished claims, oldest first
	underWay int
}

// claim is a transaction ID of a device.
type claim struct {
	device ident.DeviceNID
	hash   int64
	done   chan struct{} // closed when answer or err is set
	answer id.EventID
	err    error
}

func (t *txnTable) init() { t.devices = map[ident.DeviceNID]*deviceTxns{} }

// once runs do unless the request was answered before or is in progress; then it returns that answer. Errors are not
// remembered, so that the client may retry.
func (s *Service) once(ctx context.Context, sender ident.Requester, txn *Txn, do func(*claim) (id.EventID, error)) (id.EventID, error) {
	if txn == nil || sender.Transactions() == 0 {
		return do(nil)
	}
	hash := s.db.IDHash(txn.Path + "\x00" + txn.ID)
	for {
		c, mine, err := s.claim(ctx, sender.Transactions(), hash)
		if err != nil {
			return "", err
		}
		if mine {
			return s.txns.run(c, do)
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
func (t *txnTable) run(c *claim, do func(*claim) (id.EventID, error)) (id.EventID, error) {
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

// claim returns the claim on a transaction ID. mine is set if the caller is the first and must answer it.
func (s *Service) claim(ctx context.Context, device ident.DeviceNID, hash int64) (c *claim, mine bool, err error) {
	if c, mine, ok := s.txns.claim(device, hash); ok {
		return c, mine, nil
	}
	var rows []storage.TxnRow
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.RecentTxns(device, txnsPerDevice)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	s.txns.load(device, rows)
	c, mine, _ = s.txns.claim(device, hash)
	return c, mine, nil
}

// claim returns false for ok if the earlier transaction IDs of the device are not loaded.
func (t *txnTable) claim(device ident.DeviceNID, hash int64) (c *claim, mine, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.devices[device]
	if d == nil || !d.loaded {
		return nil, false, false
	}
	if c := d.claims[hash]; c != nil {
		return c, false, true
	}
	c = &claim{device: device, hash: hash, done: make(chan struct{})}
	d.claims[hash] = c
	d.underWay++
	return c, true, true
}

// load adds the earlier transaction IDs of a device, newest first.
func (t *txnTable) load(device ident.DeviceNID, rows []storage.TxnRow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.devices[device] != nil {
		return
	}
	if len(t.devices) >= txnDevices {
		t.forget()
	}
	d := &deviceTxns{loaded: true, claims: map[int64]*claim{}}
	for i := len(rows) - 1; i >= 0; i-- {
		c := &claim{device: device, hash: rows[i].Hash, done: make(chan struct{}), answer: id.EventID(rows[i].Answer)}
		close(c.done)
		d.claims[c.hash] = c
		d.ring = append(d.ring, c.hash)
	}
	t.devices[device] = d
}

// forget removes some device without requests in progress.
func (t *txnTable) forget() {
	for device, d := range t.devices {
		if d.underWay == 0 {
			delete(t.devices, device)
			return
		}
	}
}

// finish releases the requests that wait for a claim.
func (t *txnTable) finish(c *claim) {
	close(c.done)
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.devices[c.device]
	d.underWay--
	if c.err != nil {
		delete(d.claims, c.hash)
		return
	}
	d.ring = append(d.ring, c.hash)
	if len(d.ring) > txnsPerDevice {
		delete(d.claims, d.ring[0])
		d.ring = append(d.ring[:0], d.ring[1:]...)
	}
}

// answered reads the stored answer to an old transaction ID.
func (s *Service) answered(ctx context.Context, c *claim) (id.EventID, error) {
	var answer string
	err := s.db.Read(context.WithoutCancel(ctx), func(tx *storage.Tx) (err error) {
		answer, _, err = tx.Txn(c.device, c.hash)
		return err
	})
	return id.EventID(answer), err
}

// txnLifetimeMillis is how long transaction IDs are stored: clients retry for minutes, and overnight at most.
const txnLifetimeMillis = 48 * 60 * 60 * 1000

// PruneTxns deletes the transaction IDs that are older than txnLifetimeMillis, in small writes.
func (s *Service) PruneTxns(ctx context.Context) error {
	before := s.opts.Now().UnixMilli() - txnLifetimeMillis
	for {
		var n int64
		err := s.db.Write(ctx, func(tx *storage.Tx) (err error) {
			n, err = tx.PruneTxns(before, 500) // 500: a few milliseconds
			return err
		})
		if err != nil || n < 500 {
			return err
		}
	}
}
