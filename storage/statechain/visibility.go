package statechain

import (
	"cmp"
	"slices"

	"ebb/ident"
)

// Visibility holds the positions of the state events that decide whether a user may see an event. A position is 0 if
// the state has no such event.
type Visibility struct {
	HistoryVisibility ident.Pos
	Member            ident.Pos // the m.room.member event of the user
}

// VisibilityLink is a snapshot in a chain with what it changes of a Visibility.
type VisibilityLink struct {
	Prev            int64
	History, Member *int64 // nil if the snapshot does not change it
	known           bool   // whether the values from the snapshots below were added
}

// VisibilityLinks are the snapshots of several chains, by number.
type VisibilityLinks map[int64]*VisibilityLink

// State returns both values in the state of the given snapshot. It follows the chain to a snapshot whose values are
// known or to the end, and then sets the values of all snapshots on the way, so that later calls need not go as far.
func (links VisibilityLinks) State(nid int64) Visibility {
	var open []*VisibilityLink
	below := links[nid]
	for below != nil && !below.known {
		open, below = append(open, below), links[below.Prev]
	}
	for _, l := range slices.Backward(open) {
		if below != nil {
			l.History, l.Member = cmp.Or(l.History, below.History), cmp.Or(l.Member, below.Member)
		}
		below, l.known = l, true
	}
	if below == nil {
		return Visibility{}
	}
	return Visibility{HistoryVisibility: posOf(below.History), Member: posOf(below.Member)}
}

func posOf(p *int64) ident.Pos {
	if p == nil {
		return 0
	}
	return ident.Pos(*p)
}
