package rooms

import (
	"slices"
	"strings"

	"ebb/ident"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// snapshot is a room state as it is stored: entries that override those of another snapshot. Its nid is allotted when
// the write that first needs it runs, in the same goroutine as all later writes that refer to it.
type snapshot struct {
	nid    int64 // 0: not written yet, or the empty state of a room before its first event
	length int64 // number of snapshots since the last full one

	// Set only until it is written.
	prev    *snapshot // nil: own is the full state
	own     []stateRef
	current bool // it is the room's current state when written: a full snapshot is copied from there
}

// stateRef is an entry of a state.
type stateRef struct {
	key   pdu.StateKey
	event *Event      // an event that is being written, whose position is known when the write runs; else nil
	pos   storage.Pos // 0 without event: the key is absent in this snapshot and later ones
}

func (s stateRef) position() storage.Pos {
	if s.event != nil {
		return s.event.Pos
	}
	return s.pos
}

// over returns a snapshot with some entries of s replaced, or s itself if there are none.
func (s *snapshot) over(own ...stateRef) *snapshot {
	if len(own) == 0 {
		return s
	}
	return &snapshot{prev: s, own: own, length: s.length + 1}
}

// same reports whether two snapshots are known to be the same.
func (s *snapshot) same(o *snapshot) bool { return s == o || s.nid != 0 && s.nid == o.nid }

// write stores a snapshot, and those it builds on if they are not stored yet.
func (s *snapshot) write(tx *storage.Tx, room ident.RoomNID) error {
	if s.nid != 0 || s.prev == nil && s.own == nil {
		return nil
	}
	prev := int64(0)
	if s.prev != nil && !s.current {
		if err := s.prev.write(tx, room); err != nil {
			return err
		}
		prev = s.prev.nid
	}
	s.nid = int64(tx.NextPos())
	if err := tx.InsertSnapshot(s.nid, room, prev, s.length); err != nil {
		return err
	}
	own := s.own
	s.prev, s.own = nil, nil
	if s.current {
		return tx.CopyCurrentState(s.nid, room)
	}
	for _, ref := range own {
		if err := tx.InsertStateDelta(s.nid, ref.key.Type, ref.key.Key, ref.position()); err != nil {
			return err
		}
	}
	return nil
}

// find returns an entry of the state, or false if there is none. All queued writes must be committed.
func (s *snapshot) find(tx *storage.Tx, key pdu.StateKey) (ref stateRef, found bool, err error) {
	for ; s != nil && s.nid == 0; s = s.prev {
		for _, own := range s.own {
			if own.key == key {
				return own, own.event != nil || own.pos != 0, nil
			}
		}
	}
	if s == nil {
		return ref, false, nil
	}
	pos, err := tx.StateKeyOf(s.nid, key.Type, key.Key)
	return stateRef{key: key, pos: pos}, pos != 0, err
}

// all reads the full state. All queued writes must be committed.
func (s *snapshot) all(tx *storage.Tx) (map[pdu.StateKey]stateRef, error) {
	var unwritten []*snapshot
	for ; s != nil && s.nid == 0; s = s.prev {
		unwritten = append(unwritten, s)
	}
	out := map[pdu.StateKey]stateRef{}
	if s != nil {
		entries, err := tx.StateOf(s.nid)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			key := pdu.StateKey{Type: e.Type, Key: e.Key}
			out[key] = stateRef{key: key, pos: e.Position}
		}
	}
	for i := len(unwritten) - 1; i >= 0; i-- {
		for _, own := range unwritten[i].own {
			if own.event == nil && own.pos == 0 {
				delete(out, own.key)
			} else {
				out[own.key] = own
			}
		}
	}
	return out, nil
}

// resolvedSnapshot returns a snapshot of the state that one or more states resolve to.
func resolvedSnapshot(p *pastReader, points []*snapshot) (*snapshot, error) {
	points = distinct(points)
	if len(points) == 1 {
		return points[0], nil
	}
	resolved, err := p.resolve(points)
	if err != nil {
		return nil, err
	}
	return snapshotOf(p, points[0], resolved)
}

// snapshotOf returns a snapshot of a state, stored as the difference from another one.
func snapshotOf(p *pastReader, base *snapshot, state map[pdu.StateKey]stateRef) (*snapshot, error) {
	have, err := p.all(base)
	if err != nil {
		return nil, err
	}
	var own []stateRef
	for key, ref := range state {
		if old, ok := have[key]; !ok || old != ref {
			own = append(own, ref)
		}
	}
	for key := range have {
		if _, ok := state[key]; !ok {
			own = append(own, stateRef{key: key})
		}
	}
	slices.SortFunc(own, func(a, b stateRef) int { return compareKeys(a.key, b.key) })
	if base.length >= maxSnapshotChain && len(own) > 0 {
		return fullSnapshot(state), nil
	}
	return base.over(own...), nil
}

// fullSnapshot returns a snapshot of a state that builds on no other one.
func fullSnapshot(s state) *snapshot {
	full := &snapshot{}
	for _, ref := range s {
		full.own = append(full.own, ref)
	}
	return full
}

// maxSnapshotChain bounds the snapshots between one at a fork of the graph and the last full one.
const maxSnapshotChain = 256

func compareKeys(a, b pdu.StateKey) int {
	if c := strings.Compare(a.Type, b.Type); c != 0 {
		return c
	}
	return strings.Compare(a.Key, b.Key)
}
