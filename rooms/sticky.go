package rooms

import (
	"context"
	"slices"

	"ebb/ident"
	"ebb/rooms/graph"
	"ebb/rooms/sticky"
	"ebb/storage"
)

// maxReadmitted bounds the soft-failed sticky events that are checked again when the state of their room changes.
const maxReadmitted = 100

// Sticky returns the table of rooms with sticky events.
func (s *Service) Sticky() *sticky.Table { return &s.sticky }

// PruneSticky removes the entries of events that are not sticky any more.
func (s *Service) PruneSticky(ctx context.Context) error {
	return s.sticky.Prune(ctx, s.db, s.nowMS())
}

func (s *Service) nowMS() int64 { return s.opts.Now().UnixMilli() }

// stickyEvent returns the additional row that is stored for a sticky event. It returns false if the event is not
// sticky.
func (s *Service) stickyEvent(e *Event) (row storage.StickyEvent, ok bool) {
	until := e.StickyUntil()
	if until == 0 || e.Flags&(storage.OutlierEvent|storage.RejectedEvent|storage.SkeletonEvent) != 0 || until <= s.nowMS() {
		return row, false
	}
	return storage.StickyEvent{
		Position: e.Pos, Room: e.Room, Sender: e.SenderNID, Local: s.IsLocal(e.Sender()), Refused: e.Flags&storage.SoftFailedEvent != 0, ExpiresTS: until,
	}, true
}

// writeSticky records that an event is sticky, unless a policy server has not signed it.
func (b *batch) writeSticky(tx *storage.Tx, e *pendingEvent) error {
	row, ok := b.svc.stickyEvent(e.Event)
	if !ok || e.unsigned {
		return nil
	}
	return sticky.Store(tx, row, b.svc.nowMS())
}

// oweSticky records, when the first user of a server joins the room, that the server must be sent the sticky events of
// local users.
func (b *batch) oweSticky(tx *storage.Tx, m *memberChange) error {
	if m == nil || m.to != Join || m.from == Join || b.svc.IsLocal(m.user) || !b.svc.federates() || b.room.HasServer(ident.ServerOf(m.user)) {
		return nil
	}
	return tx.OweSticky(ident.ServerOf(m.user), b.room.nid, b.svc.nowMS())
}

// followSticky is the Listener that adds sticky events to the table. When the state of a room changes, it also has the
// room's soft-failed sticky events checked again.
func (s *Service) followSticky(c *Commit) {
	for i := range c.Events {
		if row, ok := s.stickyEvent(c.Events[i].Event); ok {
			s.sticky.Add(row)
		}
	}
	if c.State && s.sticky.Refused(c.Room.nid, s.nowMS()) {
		select {
		case s.toReadmit <- c.Room.nid:
		default: // readmitAll finds it
		}
	}
}

// readmitAll calls readmit for all rooms with soft-failed sticky events.
func (s *Service) readmitAll(ctx context.Context) error {
	for _, nid := range s.sticky.AllRefused(s.nowMS()) {
		if err := s.readmit(ctx, nid); err != nil {
			return err
		}
	}
	return nil
}

// readmit checks the soft-failed sticky events of a room against the current state again. The events that are allowed
// now are added once more, so that clients get them as new events.
// Spec: MSC4354
func (s *Service) readmit(ctx context.Context, nid ident.RoomNID) error {
	r, err := s.RoomByNID(ctx, nid)
	if err != nil || !r.Resident() || r.Partial() {
		return err
	}
	r, release, err := s.hold(ctx, r.id, receiving)
	if err != nil {
		return err
	}
	defer release()
	return s.change(ctx, r.id, func(b *batch) error {
		return b.room.settled(ctx, func(tx *storage.Tx) error {
			rows, err := tx.RefusedSticky(nid, s.nowMS(), maxReadmitted)
			p := b.room.reader(tx)
			for i := range slices.Backward(rows) {
				if err == nil {
					err = b.readmit(ctx, p, &rows[i])
				}
			}
			return err
		})
	})
}

// readmit adds a soft-failed event once more if the current state allows it. The event does not become a forward
// extremity, because later events of other servers may follow it already. State events are left to state resolution.
func (b *batch) readmit(ctx context.Context, p *graph.Reader, row *storage.EventRow) error {
	e, err := b.room.LoadEvent(row)
	if err != nil || e.IsState() || e.Flags&storage.HiddenEvent != storage.SoftFailedEvent {
		return err
	}
	if expired, err := b.room.hasExpired(e.Event, e.ReceivedTS); expired || err != nil {
		return err
	}
	if verdict, err := b.checkCurrentState(e.Event); verdict != nil || err != nil {
		return err
	}
	if policy := b.room.policyServer(); policy != nil && !policy.Signed(e.Event) {
		return nil
	}
	in, err := b.room.lookedUp(ctx, e.Event)
	if err != nil {
		return err
	}
	before, err := p.Before(e)
	if err != nil {
		return err
	}
	pe := b.again(earlierRedaction{e, before})
	pe.Flags, pe.ThreadRoot, pe.relation = pe.Flags&^storage.SoftFailedEvent, in.threadRoot, in.relation
	if err := b.applyRedaction(p, in, pe); err != nil {
		return err
	}
	b.settleHead(pe)
	if !pe.Hidden() {
		b.notify(pe)
	}
	b.events = append(b.events, pe)
	return nil
}
