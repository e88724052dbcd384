package processors

import (
	"slices"
	"testing"
)

func TestCallersShareTheMostThatOneHasAskedFor(t *testing.T) {
	values := []int{2}
	set := func(n int) int {
		was := values[len(values)-1]
		if n > 0 {
			values = append(values, n)
		}
		return was
	}
	s := &setting{set: set, reset: func(was int) { set(was) }}
	for _, want := range [][]int{{2, 4, 5, 2}, {2, 4, 5, 2, 4, 5, 2}} {
		first := s.raise(2)
		second, third := s.raise(3), s.raise(1)
		first()
		second()
		if got := want[:len(want)-1]; !slices.Equal(values, got) {
			t.Errorf("until the last one is finished: %v, want %v", values, got)
		}
		third()
		if !slices.Equal(values, want) {
			t.Errorf("afterwards: %v, want %v", values, want)
		}
	}
}
