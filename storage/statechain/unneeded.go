package statechain

import (
	"cmp"
	"slices"
)

// Snapshot is a snapshot of a room for which it is to be found out whether anything needs it.
type Snapshot struct {
	NID, Prev int64 // Prev is the snapshot before it; 0 for a full snapshot
	needed    bool
}

// Set are all snapshots of a room, sorted by number.
type Set []Snapshot

// Need records that a snapshot is needed, with those of its chain. Numbers that are not in the set are ignored.
func (s Set) Need(nid int64) {
	for {
		i, found := slices.BinarySearchFunc(s, nid, func(at Snapshot, nid int64) int { return cmp.Compare(at.NID, nid) })
		if !found || s[i].needed {
			return
		}
		s[i].needed, nid = true, s[i].Prev
	}
}

// Unneeded returns the snapshots that are not needed, the newest first, so that each comes before those of its chain.
func (s Set) Unneeded() (unneeded []int64) {
	for _, at := range slices.Backward(s) {
		if !at.needed {
			unneeded = append(unneeded, at.NID)
		}
	}
	return unneeded
}

// maxWatched bounds the snapshots that a Watch records.
const maxWatched = 100_000

// Watch records the snapshots to which writes refer. A nil Watch records nothing.
type Watch struct {
	seen map[int64]bool
	full bool // there were too many
}

// Add records a snapshot.
func (w *Watch) Add(nid int64) {
	switch {
	case w == nil || nid == 0 || w.full:
	case len(w.seen) == maxWatched:
		w.seen, w.full = nil, true
	case w.seen == nil:
		w.seen = map[int64]bool{nid: true}
	default:
		w.seen[nid] = true
	}
}

// Need records in s that the recorded snapshots are needed. It returns false if they are not known.
func (w *Watch) Need(s Set) (known bool) {
	if w == nil || w.full {
		return false
	}
	for nid := range w.seen {
		s.Need(nid)
	}
	return true
}
