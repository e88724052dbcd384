package rooms

import (
	"context"
	"errors"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/storage"
)

// errStale means that the write was built on a head that was never committed.
var errStale = errors.New("rooms: built on a head that was not committed")

// maxRebuilds bounds how often an operation is retried because an earlier write of the room failed.
const maxRebuilds = 8

// change calls build to build events of a room, stores them in one write and waits until it is committed. build may be
// called several times. If it adds no events, change only waits for the writes queued before. If ctx ends, building
// stops; but a queued write cannot be cancelled, and change waits for it.
func (s *Service) change(ctx context.Context, room id.RoomID, build func(*batch) error) error {
	var a *approvals
	defer func() { a.release() }()
	for attempt := 0; ; {
		err := s.changeOnce(ctx, room, a, build)
		var lacks lacking
		switch {
		case errors.As(err, &lacks):
			if a, err = s.approve(ctx, lacks, a); err != nil {
				return err
			}
		case attempt == maxRebuilds || !errors.Is(err, errStale):
			return err
		default:
			attempt++
			rebuilds.Inc()
		}
	}
}

func (s *Service) changeOnce(ctx context.Context, room id.RoomID, a *approvals, build func(*batch) error) error {
	r, err := s.lockRoom(ctx, room)
	if err != nil {
		return err
	}
	if !r.Resident() { // this server does not have the room's newest events
		r.writer.Unlock()
		return errNotInRoom()
	}
	b := newBatch(r, a)
	err = build(b)
	if err == nil && len(b.lacking) > 0 {
		err = b.lacking
	}
	if err != nil {
		b.abort()
		r.writer.Unlock()
		return err
	}
	if len(b.events) == 0 {
		epoch, batch := r.next.epoch, r.next.batch
		r.writer.Unlock()
		if batch != nil && r.settle(ctx, epoch, batch) != nil {
			return errStale
		}
		return nil
	}
	epoch, p := r.next.epoch, b.enqueue()
	r.writer.Unlock()
	return r.settle(ctx, epoch, p)
}

// lockRoom returns a room on which events can be built. The room's writer lock is held, and the caller must release it.
func (s *Service) lockRoom(ctx context.Context, room id.RoomID) (*Room, error) {
	for {
		r, err := s.Room(ctx, room)
		if err != nil {
			return nil, err
		}
		r.writer.Lock()
		switch {
		case r.next.retired:
			r.writer.Unlock()
		case !r.next.broken:
			return r, nil
		case !r.idle():
			queued := r.next.queued
			r.writer.Unlock()
			<-queued.Done() // writes settle in order, so the newest is the last
		default:
			if err := r.reload(ctx); err != nil {
				r.writer.Unlock()
				return nil, err
			}
			return r, nil
		}
	}
}

// idle reports whether all queued writes are done. The writer lock is held.
func (r *Room) idle() bool {
	if r.next.queued == nil {
		return true
	}
	select {
	case <-r.next.queued.Done():
		return true
	default:
		return false
	}
}

// reload reads the head from the database again, after queued writes have failed. The writer lock is held, and no write
// is queued.
func (r *Room) reload(ctx context.Context) error {
	return r.svc.db.ReadInner(context.WithoutCancel(ctx), func(tx *storage.Tx) error {
		row, found, err := tx.RoomByNID(r.nid)
		if err != nil {
			return err
		}
		if !found {
			return ErrNoRoom
		}
		stored, err := readRooms(tx, []storage.RoomRow{row})
		if err != nil {
			return err
		}
		return r.fill(&stored[0])
	})
}

// enqueue queues the batch, so that the committer writes it.
func (b *batch) enqueue() *storage.Pending {
	r := b.room
	generation := r.next.generation
	r.next.generation++
	w := storage.Write{
		Do:        func(tx *storage.Tx) error { return b.persist(tx, generation) },
		Committed: b.committed,
	}
	if b.create == nil {
		w.Rooms = []ident.RoomNID{r.nid}
	}
	if n := b.alongside; n != nil {
		n.room.next.generation++
		w.Do = func(tx *storage.Tx) error { return errors.Join(n.persist(tx, 0), b.persist(tx, generation)) }
		w.Committed = func() { n.committed(); b.committed() }
	}
	r.next.batch = b.svc.db.Enqueue(w)
	r.next.queued = r.next.batch
	return r.next.batch
}

// settle waits for a queued write. If the write fails, the ones queued behind it are invalid too, and settle marks the
// room as broken.
func (r *Room) settle(ctx context.Context, epoch int64, p *storage.Pending) error {
	err := p.Wait(context.WithoutCancel(ctx))
	if err != nil {
		r.writer.Lock()
		r.writeFailed(epoch)
		r.writer.Unlock()
	}
	return err
}

// writeFailed marks the provisional head as broken because a queued write has failed. epoch is the epoch that the head
// had when the write was queued. If the head has been read from the database since, its epoch is another one, and the
// head is not marked. The writer lock is held.
func (r *Room) writeFailed(epoch int64) {
	if r.next.epoch == epoch {
		r.next.broken = true
	}
}

// committed is the Committed hook of the batch.
func (b *batch) committed() {
	c := &b.commit
	c.Room, c.Created, c.advances, c.Events = b.room, b.create != nil, true, b.only[:0]
	c.Published = b.unpublishes || c.Created && b.room.Published()
	c.add(b.svc, b.events)
	b.svc.commit(c, b)
}

// applyTo implements headChange.
func (b *batch) applyTo(r *Room) {
	for _, e := range b.events {
		r.apply(e)
	}
	r.head.published = r.head.published && !b.unpublishes
}

// ReceiptChanges are the read receipts and fully-read markers that a write has changed.
type ReceiptChanges struct {
	Receipts    []CommittedReceipt
	AccountData []CommittedAccountData // fully-read markers
}

// WriteReceipts writes receipts of a room. do stores the receipts and returns what has changed; the Commit contains
// these changes. If nothing has changed, there is no Commit.
func (s *Service) WriteReceipts(ctx context.Context, room id.RoomID, do func(*storage.Tx, ident.RoomNID) (ReceiptChanges, error)) error {
	return s.touch(ctx, room, func(r *Room) storage.Write {
		var changes ReceiptChanges
		return storage.Write{
			Do: func(tx *storage.Tx) (err error) {
				changes, err = do(tx, r.nid)
				return err
			},
			Committed: func() {
				if len(changes.Receipts)+len(changes.AccountData) > 0 {
					s.commit(&Commit{Room: r, Receipts: changes.Receipts, AccountData: changes.AccountData}, changes)
				}
			},
		}
	})
}

// applyTo implements headChange.
func (c ReceiptChanges) applyTo(r *Room) {
	for _, receipt := range c.Receipts {
		r.head.receipt, r.head.last = max(r.head.receipt, receipt.Pos), max(r.head.last, receipt.Pos)
	}
}

// touch makes a write that adds no event to a room but changes something else about it, such as a receipt. It queues
// the write under the writer lock, so that the room stays in memory until the write is committed.
func (s *Service) touch(ctx context.Context, room id.RoomID, write func(*Room) storage.Write) error {
	r, err := s.lockRoom(ctx, room)
	if err != nil {
		return err
	}
	w := write(r)
	w.Rooms = []ident.RoomNID{r.nid}
	p := s.db.Enqueue(w)
	r.next.queued = p
	r.writer.Unlock()
	return p.Wait(context.WithoutCancel(ctx))
}
