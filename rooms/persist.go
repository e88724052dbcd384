package rooms

import (
	"errors"

	"ebb/deletions"
	"ebb/ident"
	"ebb/rooms/graph"
	"ebb/storage"
)

// errDuplicateTxn means that the database has an answer to the request that is no longer in memory.
var errDuplicateTxn = errors.New("rooms: the transaction ID was answered before")

// persist writes the batch. It runs in the committer, which allots the positions. Later writes that refer to these
// events run in the same goroutine, and so find the positions set.
func (b *batch) persist(tx *storage.Tx, generation int64) error {
	if b.create != nil {
		b.room.nid = ident.RoomNID(tx.NextPos())
	}
	for _, e := range b.events {
		if err := b.writeEvent(tx, e); err != nil {
			return err
		}
	}
	if err := b.writeHead(tx, generation); err != nil {
		return err
	}
	for _, e := range b.events {
		if err := b.followHolds(tx, e.changes); err != nil {
			return err
		}
	}
	if b.txn != nil {
		first, err := tx.InsertTxn(b.txn.Device, storage.TxnRow{Hash: b.txn.Hash, Answer: string(b.events[0].ID())})
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

// writeHead writes the room's new head to its row. If the room is new, it inserts the row.
func (b *batch) writeHead(tx *storage.Tx, generation int64) error {
	last := b.events[len(b.events)-1]
	if err := last.head.Write(tx, b.room.nid); err != nil {
		return err
	}
	row := b.headRow(generation, last.head, last.depth, last.extremities)
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

// headRow returns the room's row with the given head.
func (b *batch) headRow(generation int64, head *graph.Snapshot, depth int64, extremities []graph.Extremity) storage.RoomRow {
	row := storage.RoomRow{NID: b.room.nid, Generation: generation, Snapshot: head.NID, Depth: depth, Forked: len(b.saved.extremities) > 1}
	for _, x := range extremities {
		row.Extremities = append(row.Extremities, x.Position())
	}
	for _, e := range b.events {
		row.LastOrder, row.Forked = max(row.LastOrder, e.Order), row.Forked || len(e.extremities) > 1
	}
	return row
}

// place assigns a position to an event. If the event is part of a timeline, place also assigns an order.
func (b *batch) place(tx *storage.Tx, e *pendingEvent) error {
	e.Room, e.Pos = b.room.nid, tx.NextPos()
	if e.Flags&(storage.OutlierEvent|storage.RejectedEvent) == 0 {
		if e.Order = e.past; e.Order == 0 {
			e.Order = ident.Order(e.Pos) * graph.OrderStep
		}
	} else if e.Undecided() { // events of the history have an order
		e.Order = e.past
	}
	if err := e.before.Write(tx, e.Room); err != nil {
		return err
	}
	e.Snapshot = e.before.NID
	return nil
}

func (b *batch) writeEvent(tx *storage.Tx, e *pendingEvent) error {
	if err := b.place(tx, e); err != nil {
		return err
	}
	row := e.Row()
	if err := tx.InsertEvent(&row); err != nil {
		return err
	}
	if err := b.writeOriginal(tx, e); err != nil {
		return err
	}
	if e.supersedes != 0 {
		if err := tx.SupersedeEvent(e.supersedes, string(e.ID())); err != nil {
			return err
		}
	}
	for _, c := range e.changes {
		if err := c.write(tx, e.Room); err != nil {
			return err
		}
		if err := b.writeDeviceListUpdate(tx, c); err != nil {
			return err
		}
		if err := b.oweSticky(tx, c.member); err != nil {
			return err
		}
	}
	if err := b.writeSticky(tx, e); err != nil {
		return err
	}
	if err := b.writeSelfDestruct(tx, e); err != nil {
		return err
	}
	if err := e.head.Write(tx, e.Room); err != nil {
		return err
	}
	if e.outgoing && b.svc.federates() {
		if err := tx.AddOutbox(storage.OutboxRow{Position: e.Pos, Room: e.Room}); err != nil {
			return err
		}
	}
	if e.relation != nil {
		if err := b.writeRelation(tx, e); err != nil {
			return err
		}
	}
	if err := b.writeRedactions(tx, e); err != nil {
		return err
	}
	if err := b.writeEdges(tx, e); err != nil {
		return err
	}
	for user, class := range e.push.Users {
		if err := tx.InsertEventPush(user, e.Room, e.Pos, int64(class)); err != nil {
			return err
		}
	}
	return nil
}

// writeEdges records which prev_events of an event are missing, and that the event itself is no longer missing.
func (b *batch) writeEdges(tx *storage.Tx, e *pendingEvent) error {
	if e.late {
		if err := tx.DeleteBackwardEdge(e.Room, string(e.ID())); err != nil {
			return err
		}
	}
	order := e.Order
	if e.gapsAt != 0 {
		order = e.gapsAt
	}
	for _, missing := range e.missing {
		if err := tx.AddBackwardEdge(e.Room, string(missing), order); err != nil {
			return err
		}
	}
	for _, missing := range e.missingBehind {
		if err := tx.AddBackwardEdge(e.Room, string(missing), ident.Order(b.room.entered())*graph.OrderStep); err != nil {
			return err
		}
	}
	if e.Undecided() {
		return tx.TrimUndecided(e.Room, maxUndecided, maxUndecidedBytes)
	}
	return nil
}

// writeDeviceListUpdate records that the device list of a newly joined local user must be sent to other servers.
func (b *batch) writeDeviceListUpdate(tx *storage.Tx, c *stateChange) error {
	m := c.member
	if !b.svc.federates() || m == nil || m.to != Join || m.from == Join || !b.svc.IsLocal(m.user) || !b.entering && !b.room.Shared() {
		return nil
	}
	return tx.AddDeviceAnnouncement(storage.DeviceAnnouncement{User: m.nid, Room: b.room.nid, Partial: b.partial || b.room.partialState() != nil})
}

// write stores the change of the current state.
func (c *stateChange) write(tx *storage.Tx, room ident.RoomNID) error {
	if c.event == nil {
		if c.member != nil {
			if err := tx.DeleteMembership(c.member.nid, room); err != nil {
				return err
			}
		}
		return tx.DeleteCurrentState(room, c.key.Type, c.key.Key, c.by.Pos)
	}
	changed := storage.Pos(0)
	if c.event != c.by.Event {
		changed = c.by.Pos
	}
	if err := tx.SetCurrentState(room, c.key.Type, c.key.Key, c.event.Pos, changed); err != nil {
		return err
	}
	if c.member == nil {
		return nil
	}
	return tx.SetMembership(storage.MemberRow{User: c.member.nid, Room: room, Membership: c.member.to, Position: c.event.Pos, Changed: changed, JoinedPos: c.joinedSince})
}

// writeRedactions stores the effects of redactions: if the event is a redaction, it redacts the target, or records that
// this is to be done when the target arrives. It also makes visible the withheld redactions whose target the event is.
func (b *batch) writeRedactions(tx *storage.Tx, e *pendingEvent) error {
	if e.hasRedactions && e.Flags&storage.RejectedEvent == 0 {
		if err := tx.DeletePendingRedactions(e.Room, string(e.ID())); err != nil {
			return err
		}
	}
	for _, redaction := range e.revealed {
		if err := tx.ShowRedaction(redaction.Pos); err != nil {
			return err
		}
	}
	if e.awaits != "" {
		return tx.AddPendingRedaction(e.Room, string(e.awaits), e.Pos)
	}
	if e.redacts == nil {
		return nil
	}
	target := e.redacts.target
	if o, keep := b.original(target, e.ReceivedTS); keep {
		return tx.RedactKeepingOriginal(o, string(target.ID()), e.redacts.pruned.JSON(), e.redacts.by())
	}
	return b.svc.counted(tx, e.Room, deletions.Redacted, 1, func() error {
		return tx.RedactEvent(e.Room, target.Pos, string(target.ID()), e.redacts.pruned.JSON(), e.redacts.by())
	})
}

func (b *batch) writeRelation(tx *storage.Tx, e *pendingEvent) error {
	err := tx.InsertRelation(storage.RelationRow{
		Position: e.Pos, Room: e.Room, Parent: string(e.relation.Parent), RelType: e.relation.RelType, Type: e.Type(), Sender: e.SenderNID, Order: e.Order,
	})
	if err != nil || e.relation.RelType != relThread || e.ThreadRoot == 0 {
		return err
	}
	return tx.TouchThread(e.ThreadRoot, e.Order)
}
