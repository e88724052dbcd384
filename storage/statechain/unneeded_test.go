package statechain

import (
	"fmt"
	"slices"
	"testing"
)

func TestOnlySnapshotsOutsideTheChainsOfNeededOnesAreUnneeded(t *testing.T) {
	// 1 ← 2 ← 3 ← 5, 2 ← 4; 6 ← 7; 8
	set := func() Set {
		return Set{{NID: 1}, {NID: 2, Prev: 1}, {NID: 3, Prev: 2}, {NID: 4, Prev: 2}, {NID: 5, Prev: 3}, {NID: 6}, {NID: 7, Prev: 6}, {NID: 8}}
	}
	for _, c := range []struct{ needed, unneeded []int64 }{
		{nil, []int64{8, 7, 6, 5, 4, 3, 2, 1}},
		{[]int64{5}, []int64{8, 7, 6, 4}},
		{[]int64{4, 7}, []int64{8, 5, 3}},
		{[]int64{3, 4, 5, 7, 8}, nil},
		{[]int64{9, 0, 2}, []int64{8, 7, 6, 5, 4, 3}},
	} {
		s := set()
		for _, nid := range c.needed {
			s.Need(nid)
		}
		if got := s.Unneeded(); !slices.Equal(got, c.unneeded) {
			t.Errorf("if %v are needed, %v are not, want %v", c.needed, got, c.unneeded)
		}
	}
}

func TestAWatchOfTooManySnapshotsKnowsNothing(t *testing.T) {
	var none *Watch
	none.Add(1)
	s := Set{{NID: 1}, {NID: 2}}
	if none.Need(s) {
		t.Error("nobody has watched, yet the needed snapshots are known")
	}
	w := &Watch{}
	w.Add(0)
	w.Add(2)
	if !w.Need(s) || fmt.Sprint(s.Unneeded()) != "[1]" {
		t.Errorf("unneeded are %v, want 1", s.Unneeded())
	}
	for nid := range int64(maxWatched) {
		w.Add(nid + 10)
	}
	if w.Need(s) {
		t.Errorf("of more than %d snapshots all are known", maxWatched)
	}
}
