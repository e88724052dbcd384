// Package statechain walks through the states of a room. A state is stored as a chain of snapshots: a full one, and
// others that consist of the differences from the one before them. Package storage reads the snapshots.
package statechain

import (
	"slices"
	"strings"

	"ebb/ident"
)

// Entry is one entry of a state. Position 0 means that the key is absent from its snapshot on.
type Entry struct {
	Type, Key string
	Position  ident.Pos
}

// Key identifies one entry of a snapshot's state.
type Key struct {
	Snapshot  int64
	Type, Key string
}

// Link is a snapshot in a chain.
type Link struct {
	Prev int64   // the snapshot before it; 0 for a full snapshot
	Own  []Entry // the entries that it changes; not needed for a full snapshot
	next []int64 // the snapshots based on it
}

// Links are the snapshots of several chains, down to the full ones, by number.
type Links map[int64]*Link

// Connect completes the links, after all of them were added.
func (links Links) Connect() {
	for nid, l := range links {
		if below := links[l.Prev]; below != nil {
			below.next = append(below.next, nid)
		}
	}
}

// visit visits a full snapshot and all snapshots based on it. It calls enter for each snapshot after the one on which
// it is based, and leave for each after those that are based on it.
func (links Links) visit(full int64, enter, leave func(nid int64)) {
	type step struct {
		nid  int64
		back bool // whether the snapshots based on it were visited
	}
	for todo := []step{{nid: full}}; len(todo) > 0; {
		last := len(todo) - 1
		at := todo[last]
		if at.back {
			todo = todo[:last]
			leave(at.nid)
			continue
		}
		todo[last].back = true
		enter(at.nid)
		for _, nid := range links[at.nid].next {
			todo = append(todo, step{nid: nid})
		}
	}
}

// Find finds entries in the snapshots based on a full one, and adds their positions to found. wanted are the entries,
// by snapshot. It returns those that only the full snapshot may have.
func (links Links) Find(full int64, wanted map[int64][]Key, found map[Key]ident.Pos) (rest []Key) {
	now := map[Key][]ident.Pos{} // by type and key: the positions in the snapshots above the full one, the topmost last
	links.visit(full, func(nid int64) {
		for _, e := range links[nid].Own {
			k := Key{Type: e.Type, Key: e.Key}
			now[k] = append(now[k], e.Position)
		}
		for _, k := range wanted[nid] {
			switch here := now[Key{Type: k.Type, Key: k.Key}]; {
			case len(here) == 0:
				rest = append(rest, k)
			case here[len(here)-1] != 0:
				found[k] = here[len(here)-1]
			}
		}
	}, func(nid int64) {
		for _, e := range links[nid].Own {
			k := Key{Type: e.Type, Key: e.Key}
			now[k] = now[k][:len(now[k])-1]
		}
	})
	return rest
}

// Members adds the positions of the member events of some users in the wanted ones of the snapshots based on a full one
// to out, by snapshot. The users are those whose IDs have the given suffix; now has their positions in the full
// snapshot.
func (links Links) Members(full int64, now map[string]ident.Pos, suffix string, wanted map[int64]bool, out map[int64][]ident.Pos) {
	member := func(e Entry) bool { return e.Type == "m.room.member" && strings.HasSuffix(e.Key, suffix) }
	var undo []Entry // the entries of now before each change
	links.visit(full, func(nid int64) {
		for _, e := range links[nid].Own {
			if member(e) {
				undo = append(undo, Entry{Key: e.Key, Position: now[e.Key]})
				now[e.Key] = e.Position
			}
		}
		if !wanted[nid] {
			return
		}
		for _, pos := range now {
			if pos != 0 {
				out[nid] = append(out[nid], pos)
			}
		}
	}, func(nid int64) {
		for _, e := range slices.Backward(links[nid].Own) {
			if member(e) {
				before := undo[len(undo)-1]
				undo = undo[:len(undo)-1]
				now[before.Key] = before.Position
			}
		}
	})
}
