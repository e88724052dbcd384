package trim

import (
	"runtime"
	"testing"
	"time"
)

const mb = 1 << 20

// seen is what a trimmer sees in one interval, in MB.
type seen struct{ allocated, live, held uint64 }

func TestGarbageIsCollectedOnceTheServerIsQuiet(t *testing.T) {
	for _, c := range []struct {
		name string
		see  []seen
		due  int // index of the look at which a collection is due; -1: never
	}{
		{"after a burst", []seen{{90, 20, 60}, {80, 40, 80}, {1, 40, 80}, {2, 40, 80}}, 3},
		{"while it is busy", []seen{{90, 20, 60}, {9, 20, 60}, {9, 20, 60}, {5, 20, 60}, {9, 20, 60}}, -1},
		{"between two bursts", []seen{{90, 20, 60}, {1, 20, 60}, {90, 20, 60}, {1, 20, 60}}, -1},
		{"little garbage", []seen{{1, 8, 11}, {1, 8, 11}, {1, 8, 11}}, -1},
		{"little garbage beside much in use", []seen{{1, 400, 490}, {1, 400, 490}, {1, 400, 490}}, -1},
		{"nothing new for long", []seen{{0, 400, 600}, {0, 400, 600}}, 1},
	} {
		var x trimmer
		var allocated uint64
		due := -1
		for i, s := range c.see {
			allocated += s.allocated * mb
			if x.due(heap{allocated: allocated, live: s.live * mb, held: s.held * mb}, time.Unix(int64(i), 0)) {
				due = i
				break
			}
		}
		if due != c.due {
			t.Errorf("%s: due at look %d, want %d", c.name, due, c.due)
		}
	}
}

func TestCollectionReturnsMemoryAndThenRests(t *testing.T) {
	var x trimmer
	fill(64 * mb)
	before := look()
	x.collect(before)
	if after := look(); before.held < after.held+48*mb {
		t.Errorf("%d MB before, %d MB after", before.held/mb, after.held/mb)
	}
	h := x.last
	h.held += 100 * mb
	now := time.Now()
	x.due(h, now)
	if x.due(h, now) {
		t.Error("due at once again")
	}
	if !x.due(h, x.rest) {
		t.Error("never due again")
	}
}

//go:noinline
func fill(n int) {
	b := make([]byte, n)
	for i := range b {
		b[i] = 1
	}
}

// BenchmarkCollect measures a collection beside 50 MB in use, in small objects with pointers.
func BenchmarkCollect(b *testing.B) {
	type node struct {
		next *node
		_    [6]int
	}
	var list *node
	for range 50 * mb / 64 {
		list = &node{next: list}
	}
	var x trimmer
	for b.Loop() {
		b.StopTimer()
		fill(64 * mb)
		b.StartTimer()
		x.collect(look())
	}
	runtime.KeepAlive(list)
}

func BenchmarkLook(b *testing.B) {
	for b.Loop() {
		look()
	}
}
