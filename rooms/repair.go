package rooms

import (
	"context"
	"encoding/json"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Earlier versions of Ebb treated events that precede a join as new. They could reject such an event, then the
// events that cite it, and then everything that followed. These rejections cannot be told from correct ones, but a
// rejected event is judged again if it arrives again. So the repair deletes every event rejected since the join,
// records where history is missing, and requests the newest of the deleted events.

const (
	repairChunk   = 200 // rows that one write of a repair removes or one read returns
	maxRepairTips = 20  // deleted events that are requested at once; the others are found through them
)

// RepairRooms repairs the rooms that an earlier version of Ebb may have damaged. A repair that is interrupted starts
// again when the server restarts or when the next event of the room arrives.
func (s *Service) RepairRooms(ctx context.Context) error {
	var rooms []ident.RoomNID
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		rooms, err = tx.RoomsToRecheck()
		return err
	})
	if err != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "cannot list the rooms to check for damage by an earlier version", "err", err)
	}
	for _, nid := range rooms {
		if err := s.repairRoom(ctx, nid); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "cannot check a room for damage by an earlier version", "room", nid, "err", err)
		}
	}
	return nil
}

// repairRoom repairs one room. It deletes the events that may have been rejected wrongly, and requests the newest of
// them again.
func (s *Service) repairRoom(ctx context.Context, nid ident.RoomNID) error {
	r, err := s.RoomByNID(ctx, nid)
	if err != nil {
		return err
	}
	tips, err := s.forgetDamage(ctx, r)
	if err != nil || !s.federates() {
		return err
	}
	for _, e := range tips {
		for _, server := range r.backfillServers(e.Sender()) {
			raw, err := s.opts.Remote.GetEvent(ctx, server, e.ID())
			if err == nil {
				_, err = s.Receive(ctx, server, r.id, []json.RawMessage{raw})
			}
			if err == nil || ctx.Err() != nil {
				break
			}
		}
	}
	return ctx.Err()
}

// forgetDamage deletes the events of a room that an earlier version may have rejected wrongly, unless this was done
// before. It returns the newest deleted events; see forgetRejected.
func (s *Service) forgetDamage(ctx context.Context, r *Room) (tips []*Event, err error) {
	r, release, err := s.hold(ctx, r.id, receiving)
	if err != nil {
		return nil, err
	}
	defer release()
	if !r.toRecheck() {
		return nil, nil
	}
	join, err := s.findEntry(ctx, r)
	if err != nil {
		return nil, err
	}
	entered := storage.Pos(0)
	var edges []storage.BackwardEdge
	if join != nil {
		entered = join.Pos
		if r.Partial() { // when the room is completed, everything is judged again
			r.amend(func(r *Room) { r.head.entered = entered })
			return nil, nil
		}
		if tips, err = s.forgetRejected(ctx, r, join.Pos); err != nil {
			return nil, err
		}
		if edges, err = s.missingEdges(ctx, r, join); err != nil {
			return nil, err
		}
	}
	return tips, s.touch(ctx, r.id, func(r *Room) storage.Write {
		return storage.Write{
			Do: func(tx *storage.Tx) error {
				for _, e := range edges {
					if err := tx.AddBackwardEdge(r.nid, e.Missing, e.Order); err != nil {
						return err
					}
				}
				return tx.SetEntered(r.nid, entered, false)
			},
			Committed: func() {
				r.amend(func(r *Room) { r.head.entered, r.head.recheck = entered, false })
			},
		}
	})
}

// findEntry returns the join with which this server entered a room, for a room that was joined with an earlier version
// of Ebb. It returns nil if there is no such join.
func (s *Service) findEntry(ctx context.Context, r *Room) (join *Event, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.GapEvents(r.nid, typeMember, 0)
		for i := range rows {
			e, err := graph.LoadEvent(r.version, &rows[i])
			if err != nil {
				return err
			}
			if e.Depth() == r.MinDepth() && s.IsLocal(e.Sender()) && pdu.Membership(e.Content()) == Join && !graph.IsBackfilled(rows[i]) {
				join = e
			}
		}
		return err
	})
	return join, err
}

// forgetRejected deletes the events that were rejected since the join. From the deleted events that no other deleted
// event follows, it returns the newest ones, at most maxRepairTips.
func (s *Service) forgetRejected(ctx context.Context, r *Room, since storage.Pos) (tips []*Event, err error) {
	followed := map[id.EventID]bool{}
	for {
		var events []*Event
		err := s.db.Read(ctx, func(tx *storage.Tx) error {
			rows, err := tx.RejectedEvents(r.nid, since, repairChunk)
			for i := range rows {
				e, err := graph.LoadEvent(r.version, &rows[i])
				if err != nil {
					return err
				}
				events = append(events, e)
			}
			return err
		})
		if err != nil || len(events) == 0 {
			return lastTips(tips, followed), err
		}
		for _, e := range events {
			for _, prev := range e.PrevEvents() {
				followed[prev] = true
			}
		}
		tips = lastTips(append(tips, events...), followed)
		err = s.db.Write(ctx, func(tx *storage.Tx) error {
			for _, e := range events {
				if err := tx.PurgeEvent(e.Pos, string(e.ID())); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
}

// lastTips returns the last of the given events that are not in followed, at most maxRepairTips.
func lastTips(events []*Event, followed map[id.EventID]bool) []*Event {
	events = slices.DeleteFunc(events, func(e *Event) bool { return followed[e.ID()] })
	return events[max(0, len(events)-maxRepairTips):]
}

// missingEdges returns the missing prev_events of the history, and of events that have a gap before them.
func (s *Service) missingEdges(ctx context.Context, r *Room, join *Event) (edges []storage.BackwardEdge, err error) {
	look := func(tx *storage.Tx, rows []storage.EventRow) error {
		p := r.reader(tx)
		for i := range rows {
			e, err := pdu.ParseStored(r.version, id.EventID(rows[i].EventID), rows[i].JSON)
			if err != nil {
				return err
			}
			if rows[i].Flags&storage.OutlierEvent != 0 || rows[i].Position != join.Pos && r.isOver(e, rows[i].ReceivedTS) {
				continue
			}
			if err := p.Load(e.PrevEvents()); err != nil {
				return err
			}
			for _, prev := range e.PrevEvents() {
				known, err := p.Event(prev)
				if err != nil {
					return err
				}
				if known == nil || !known.InGraph() {
					edges = append(edges, storage.BackwardEdge{Missing: string(prev), Order: rows[i].Order})
				}
			}
		}
		return nil
	}
	for after := ident.Order(0); ; {
		var rows []storage.EventRow
		err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
			if rows, err = tx.Timeline(r.nid, after, join.Order, false, repairChunk); err != nil {
				return err
			}
			return look(tx, rows)
		})
		if err != nil {
			return nil, err
		}
		if len(rows) < repairChunk {
			break
		}
		after = rows[len(rows)-1].Order
	}
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.GapEvents(r.nid, "", join.Order)
		if err != nil {
			return err
		}
		return look(tx, rows)
	})
	return edges, err
}
