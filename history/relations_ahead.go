package history

import (
	"cmp"
	"slices"

	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/graph"
	"ebb/storage"
)

const (
	// maxRelationsAhead bounds the relations of a page of events that are read together, which takes some 10 ms. If
	// there are more, those of each event are read separately.
	maxRelationsAhead = 4096
	// maxBytesAhead bounds the JSON of the related events that are read together.
	maxBytesAhead = 4 << 20
	// aheadBatch is the number of related events that are read at a time.
	aheadBatch = 256
)

// relationsAhead has what was read together for the aggregations of a page, so that each event takes no statements of
// its own. What it does not have is read when it is needed.
type relationsAhead struct {
	counts    map[string][]storage.RelationCount // by event ID: the counts, perhaps none
	relations map[string][]storage.RelationRow   // by event ID: all relations to the event, oldest first
	rows      map[storage.Pos]storage.EventRow   // related events
	bytes     int                                // the size of the JSON in rows
}

// readRelations reads the relations to the events that have the given counts, and the related events that are probably
// needed. It does the same for the latest replies in threads, since these have aggregations of their own.
func (v *viewer) readRelations(tx *storage.Tx, evs []*rooms.Event, counts []storage.RelationCount) error {
	v.ahead = &relationsAhead{
		counts: map[string][]storage.RelationCount{}, relations: map[string][]storage.RelationRow{}, rows: map[storage.Pos]storage.EventRow{},
	}
	replies, err := v.readLevel(tx, evs, counts)
	if err != nil || len(replies) == 0 {
		return err
	}
	ids := make([]string, len(replies))
	for i, e := range replies {
		ids[i] = string(e.ID())
	}
	if counts, err = tx.RelationCounts(v.room.NID(), ids, v.cutoff()); err != nil {
		return err
	}
	for _, id := range ids {
		v.ahead.counts[id] = nil
	}
	for _, c := range counts {
		v.ahead.counts[c.Parent] = append(v.ahead.counts[c.Parent], c)
	}
	_, err = v.readLevel(tx, replies, counts)
	return err
}

// readLevel reads the relations to those of the given events that have counts, and the related events that are probably
// needed. It returns the latest replies of the threads among them.
func (v *viewer) readLevel(tx *storage.Tx, evs []*rooms.Event, counts []storage.RelationCount) (replies []*rooms.Event, err error) {
	has := map[string]bool{}
	for _, c := range counts {
		has[c.Parent] = true
	}
	parents := slices.DeleteFunc(slices.Clone(evs), func(e *rooms.Event) bool { return !has[string(e.ID())] })
	ids := make([]string, len(parents))
	for i, e := range parents {
		ids[i] = string(e.ID())
	}
	found, err := tx.RelationsOf(v.room.NID(), ids, maxRelationsAhead)
	if err != nil || len(found) >= maxRelationsAhead {
		return nil, err
	}
	a := v.ahead
	for _, id := range ids {
		a.relations[id] = nil
	}
	slices.SortFunc(found, func(x, y storage.RelationRow) int { return cmp.Compare(x.Order, y.Order) })
	for _, r := range found {
		if _, asked := a.relations[r.Parent]; asked { // other IDs may have the same hash
			a.relations[r.Parent] = append(a.relations[r.Parent], r)
		}
	}
	var positions, latest []storage.Pos
	for _, e := range parents {
		wanted, reply := wantedOf(e, a.relations[string(e.ID())])
		positions = append(positions, wanted...)
		if reply != 0 {
			latest = append(latest, reply)
		}
	}
	if err := v.readRelated(tx, append(positions, latest...)); err != nil {
		return nil, err
	}
	for _, pos := range latest {
		if row, found := a.rows[pos]; found {
			e, err := v.room.LoadEvent(&row)
			if err != nil {
				return nil, err
			}
			replies = append(replies, e)
		}
	}
	return replies, nil
}

// wantedOf returns the positions of the related events that the aggregations of e probably need. latest is the latest
// reply in its thread, or 0.
func wantedOf(e *rooms.Event, relations []storage.RelationRow) (wanted []storage.Pos, latest storage.Pos) {
	references := 0
	for _, r := range relations {
		switch {
		case r.RelType == relThread:
			latest = r.Position
		case r.RelType == relReference && references < maxReferences:
			references++
			wanted = append(wanted, r.Position)
		}
	}
	if edits := editsOf(e, relations); len(edits) <= maxEdits {
		for _, r := range edits {
			wanted = append(wanted, r.Position)
		}
	}
	return wanted, latest
}

// editsOf returns those of the relations to e that may be replacements of it.
func editsOf(e *rooms.Event, relations []storage.RelationRow) (edits []storage.RelationRow) {
	for _, r := range relations {
		if r.RelType == relReplace && r.Sender == e.SenderNID && r.Type == e.Type() {
			edits = append(edits, r)
		}
	}
	return edits
}

// readRelated reads related events, up to maxBytesAhead, and the states by which the viewer may see them.
func (v *viewer) readRelated(tx *storage.Tx, positions []storage.Pos) error {
	a := v.ahead
	var snapshots []int64
	for part := range slices.Chunk(positions, aheadBatch) {
		if a.bytes >= maxBytesAhead {
			break
		}
		rows, err := tx.EventsAt(part)
		if err != nil {
			return err
		}
		for _, row := range rows {
			a.rows[row.Position] = row
			a.bytes += len(row.JSON)
			if !v.joined || v.joinedPos == 0 || row.Order < ident.Order(v.joinedPos)*graph.OrderStep || v.room.Shared() { // see duringJoin
				snapshots = append(snapshots, row.Snapshot)
			}
		}
	}
	_, err := v.pastsOf(tx, snapshots)
	return err
}

// relationCounts returns the counts of the relations to events.
func (v *viewer) relationCounts(tx *storage.Tx, parents []string) (counts []storage.RelationCount, err error) {
	if v.ahead != nil {
		for i, id := range parents {
			c, known := v.ahead.counts[id]
			if !known {
				break
			}
			if counts = append(counts, c...); i == len(parents)-1 {
				return counts, nil
			}
		}
	}
	return tx.RelationCounts(v.room.NID(), parents, v.cutoff())
}

// editRows returns the newest events that may be replacements of e.
func (v *viewer) editRows(tx *storage.Tx, e *rooms.Event) ([]storage.EventRow, error) {
	if v.ahead != nil {
		if relations, known := v.ahead.relations[string(e.ID())]; known {
			if edits := editsOf(e, relations); len(edits) <= maxEdits {
				return v.ahead.take(tx, edits)
			}
		}
	}
	return tx.Edits(v.room.NID(), string(e.ID()), e.SenderNID, e.Type(), maxEdits)
}

// relatedTo returns a source for a walk along the events that directly relate to e.
func (v *viewer) relatedTo(e *rooms.Event, relType string, backwards bool) source {
	if v.ahead != nil {
		if all, known := v.ahead.relations[string(e.ID())]; known {
			left := slices.DeleteFunc(slices.Clone(all), func(r storage.RelationRow) bool { return r.RelType != relType })
			if backwards {
				slices.Reverse(left)
			}
			return func(tx *storage.Tx, _ *cursor, n int) (out span, err error) {
				part := left[:min(n, len(left))]
				left = left[len(part):]
				for _, r := range part {
					out.orders = append(out.orders, r.Order)
				}
				out.rows, err = v.ahead.take(tx, part)
				return out, err
			}
		}
	}
	return directRelations(storage.RelationFilter{Room: v.room.NID(), Parent: string(e.ID()), RelType: relType, Backwards: backwards})
}

// take returns the rows of related events, in the given order. It reads those that were not read before.
func (a *relationsAhead) take(tx *storage.Tx, relations []storage.RelationRow) ([]storage.EventRow, error) {
	var missing []storage.Pos
	for _, r := range relations {
		if _, found := a.rows[r.Position]; !found {
			missing = append(missing, r.Position)
		}
	}
	read := map[storage.Pos]storage.EventRow{}
	if len(missing) > 0 {
		rows, err := tx.EventsAt(missing)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			read[row.Position] = row
		}
	}
	out := make([]storage.EventRow, 0, len(relations))
	for _, r := range relations {
		row, found := a.rows[r.Position]
		if !found {
			row, found = read[r.Position]
		}
		if found {
			out = append(out, row)
		}
	}
	return out, nil
}
