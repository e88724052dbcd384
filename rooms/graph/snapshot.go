package graph

import (
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Snapshot is a stored room state. It consists of entries that override those of an earlier snapshot. Its number (NID)
// is allotted in the first write that refers to it; all such writes run in the same goroutine.
type Snapshot struct {
	NID    int64 // 0: not written yet, or the empty state of a room before its first event
	length int64 // number of snapshots since the last full one

	// Set only until it is written.
	prev    *Snapshot // nil: own is the full state
	own     []Entry
	current bool // it is the room's current state when written: a full snapshot is copied from there
}

// Entry is an entry of a state.
type Entry struct {
	Key   pdu.StateKey
	Event *Event      // an event that is being written, whose position is known when the write runs; else nil
	Pos   storage.Pos // 0 without Event: the key is absent in this snapshot and later ones
}

// Position returns the position of the event, or 0 if the key is absent. The event must be written.
func (s Entry) Position() storage.Pos {
	if s.Event != nil {
		return s.Event.Pos
	}
	return s.Pos
}

// Stored returns the stored snapshot with the given number. length is the length of its chain, which is stored too.
func Stored(nid, length int64) *Snapshot { return &Snapshot{NID: nid, length: length} }

// Written returns the number of the snapshot, or else of the stored one on which it builds; 0 if there is none. All
// queued writes must be done.
func (s *Snapshot) Written() int64 {
	for ; s != nil; s = s.prev {
		if s.NID != 0 {
			return s.NID
		}
	}
	return 0
}

// Chain returns the number of snapshots between this one and the last full one, all of which must be read for this
// state.
func (s *Snapshot) Chain() int64 { return s.length }

// CopyCurrent turns a snapshot that is not written yet into a full one. It must be the room's current state at the time
// when it is written, because its entries are then copied from the current state.
func (s *Snapshot) CopyCurrent() { s.length, s.current = 0, true }

// Over returns a snapshot that differs from s in the given entries, or s itself if no entries are given.
func (s *Snapshot) Over(own ...Entry) *Snapshot {
	if len(own) == 0 {
		return s
	}
	return &Snapshot{prev: s, own: own, length: s.length + 1}
}

// Same reports whether two snapshots are known to be the same one.
func (s *Snapshot) Same(o *Snapshot) bool { return s == o || s.NID != 0 && s.NID == o.NID }

// Write stores a snapshot, and the snapshots that it builds on unless they are stored already.
func (s *Snapshot) Write(tx *storage.Tx, room ident.RoomNID) error {
	if s.NID != 0 || s.prev == nil && s.own == nil {
		return nil
	}
	prev := int64(0)
	if s.prev != nil && !s.current {
		if err := s.prev.Write(tx, room); err != nil {
			return err
		}
		prev = s.prev.NID
	}
	s.NID = int64(tx.NextPos())
	if err := tx.InsertSnapshot(s.NID, room, prev, s.length); err != nil {
		return err
	}
	own := s.own
	s.prev, s.own = nil, nil
	if s.current {
		return tx.CopyCurrentState(s.NID, room)
	}
	for _, ref := range own {
		if err := tx.InsertStateDelta(s.NID, ref.Key.Type, ref.Key.Key, ref.Position()); err != nil {
			return err
		}
	}
	return nil
}

// find returns the entry of the state for the given key, or false if there is none. All queued writes must be
// committed.
func (s *Snapshot) find(tx *storage.Tx, key pdu.StateKey) (ref Entry, found bool, err error) {
	for ; s != nil && s.NID == 0; s = s.prev {
		for _, own := range s.own {
			if own.Key == key {
				return own, own.Event != nil || own.Pos != 0, nil
			}
		}
	}
	if s == nil {
		return ref, false, nil
	}
	pos, err := tx.StateKeyOf(s.NID, key.Type, key.Key)
	return Entry{Key: key, Pos: pos}, pos != 0, err
}

// all reads the full state. All queued writes must be committed.
func (s *Snapshot) all(tx *storage.Tx) (State, error) {
	var unwritten []*Snapshot
	for ; s != nil && s.NID == 0; s = s.prev {
		unwritten = append(unwritten, s)
	}
	out := State{}
	if s != nil {
		entries, err := tx.StateOf(s.NID)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			key := pdu.StateKey{Type: e.Type, Key: e.Key}
			out[key] = Entry{Key: key, Pos: e.Position}
		}
	}
	for i := len(unwritten) - 1; i >= 0; i-- {
		for _, own := range unwritten[i].own {
			if own.Event == nil && own.Pos == 0 {
				delete(out, own.Key)
			} else {
				out[own.Key] = own
			}
		}
	}
	return out, nil
}

// State is a full room state, by type and state key. It is shared and must not be modified.
type State = map[pdu.StateKey]Entry

// FullSnapshot returns a snapshot that contains all entries of a state, and so builds on no other snapshot.
func FullSnapshot(s State) *Snapshot {
	full := &Snapshot{}
	for _, ref := range s {
		full.own = append(full.own, ref)
	}
	return full
}

// maxSnapshotChain bounds the number of snapshots between a full one and one at a fork of the graph that builds on it.
const maxSnapshotChain = 256

// CompareKeys orders state keys by type and then by key.
func CompareKeys(a, b pdu.StateKey) int {
	if c := strings.Compare(a.Type, b.Type); c != 0 {
		return c
	}
	return strings.Compare(a.Key, b.Key)
}

// Extremity is a forward extremity: an event that no other event names in prev_events.
type Extremity struct {
	ID    id.EventID
	Event *Event // set while it is queued; its position is known when its write runs
	Pos   storage.Pos
	After *Snapshot // the state after it; nil: not known yet, Reader.After finds it
}

// Position returns the position of the event.
func (x Extremity) Position() storage.Pos {
	if x.Event != nil {
		return x.Event.Pos
	}
	return x.Pos
}
