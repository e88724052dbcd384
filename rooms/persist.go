package rooms

import (
	"errors"

	"ebb/storage"
)

// errDuplicateTxn: the client's transaction id has an answer in the database that memory no longer knew of.
var errDuplicateTxn = errors.New("rooms: the transaction id was answered before")

// persist writes the batch. It runs in the committer; positions are allotted here, and every later write that refers to
// these events runs in the same goroutine after this one.
func (b *batch) persist(tx *storage.Tx, generation int64) error {
	b.allot(tx)
	if err := b.writeHead(tx, generation); err != nil {
		return err
	}
	for _, e := range b.events {
		if err := b.writeEvent(tx, e); err != nil {
			return err
		}
	}
	if b.txn != nil {
		first, err := tx.InsertTxn(b.txn.device, storage.TxnRow{Hash: b.txn.hash, Answer: string(b.events[0].ID())})
		if err != nil {
			return err
		}
		if !first {
			return errDuplicateTxn
		}
	}
	if b.extra != nil {
		return b.extra(tx, b.room.nid)
	}
	return nil
}

// allot gives the batch its places in the stream and the timeline.
func (b *batch) allot(tx *storage.Tx) {
	if b.create != nil {
		b.room.nid = int64(tx.NextPos())
	}
	for _, e := range b.events {
		e.Room, e.Snapshot = b.room.nid, e.before.nid
		e.Pos = tx.NextPos()
		e.Order = int64(e.Pos) * orderStep
		if e.after != e.before {
			e.after.nid = int64(tx.NextPos())
		}
	}
}

// writeHead moves the room's row on, or adds it.
func (b *batch) writeHead(tx *storage.Tx, generation int64) error {
	last := b.events[len(b.events)-1]
	row := storage.RoomRow{
		NID: b.room.nid, Generation: generation, Snapshot: last.after.nid, Extremities: []storage.Pos{last.Pos}, Depth: last.Depth(), LastOrder: last.Order,
	}
	if b.create != nil {
		row.RoomID, row.Version, row.CreatedTS = string(b.room.id), string(b.room.version.ID), tx.Now().UnixMilli()
		row.Generation++
		return tx.InsertRoom(&row)
	}
	ok, err := tx.AdvanceRoom(&row)
	if err == nil && !ok {
		err = errStale
	}
	return err
}

func (b *batch) writeEvent(tx *storage.Tx, e *pendingEvent) error {
	row := e.row()
	if err := tx.InsertEvent(&row); err != nil {
		return err
	}
	if e.after != e.before {
		if err := b.writeState(tx, e, &row); err != nil {
			return err
		}
	}
	if e.relation != nil {
		if err := b.writeRelation(tx, e); err != nil {
			return err
		}
	}
	if e.redacts != nil {
		if err := tx.RedactEvent(e.redacts.target.Pos, e.redacts.pruned.JSON(), e.Pos); err != nil {
			return err
		}
	}
	for user, class := range e.push.Users {
		if err := tx.InsertEventPush(user, e.Room, e.Pos, int64(class)); err != nil {
			return err
		}
	}
	return nil
}

// writeState makes the event current and the snapshot that has it: full where the chain has grown long.
func (b *batch) writeState(tx *storage.Tx, e *pendingEvent, row *storage.EventRow) error {
	if err := tx.SetCurrentState(e.Room, row.Type, row.StateKey, e.Pos); err != nil {
		return err
	}
	if e.member != nil {
		m := storage.MemberRow{User: e.member.nid, Room: e.Room, Membership: e.member.to, Position: e.Pos}
		if err := tx.SetMembership(m); err != nil {
			return err
		}
	}
	if e.full {
		if err := tx.InsertSnapshot(e.after.nid, e.Room, 0, 0); err != nil {
			return err
		}
		return tx.CopyCurrentState(e.after.nid, e.Room)
	}
	if err := tx.InsertSnapshot(e.after.nid, e.Room, e.before.nid, e.after.length); err != nil {
		return err
	}
	return tx.InsertStateDelta(e.after.nid, row.Type, row.StateKey, e.Pos)
}

func (b *batch) writeRelation(tx *storage.Tx, e *pendingEvent) error {
	err := tx.InsertRelation(storage.RelationRow{
		Position: e.Pos, Room: e.Room, Parent: string(e.relation.parent), RelType: e.relation.relType, Type: e.Type(), Sender: e.SenderNID, Order: e.Order,
	})
	if err != nil || e.relation.relType != relThread || e.ThreadRoot == 0 {
		return err
	}
	return tx.TouchThread(e.ThreadRoot, e.Order)
}
