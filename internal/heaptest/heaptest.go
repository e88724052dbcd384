// Package heaptest measures in tests what caches keep in memory.
package heaptest

import (
	"runtime"
	"testing"
)

// InUse returns the bytes of the heap in use.
func InUse() int64 {
	for range 3 { // pools keep what they hold for two collections
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Bounded checks that a cache keeps about as many bytes as its bound, however many entries it is given. add is called
// with 0, 1, 2 and so on, and must add an entry each time; all entries together must be several times as large as the
// bound.
func Bounded(t testing.TB, bound int64, entries int, add func(i int)) {
	t.Helper()
	before := InUse()
	for i := range entries {
		add(i)
	}
	took := InUse() - before
	runtime.KeepAlive(add)
	t.Logf("%d bytes of %d", took, bound)
	if took > bound*5/4 {
		t.Errorf("the cache takes %d bytes of memory, want at most %d", took, bound)
	}
	if took < bound/8 {
		t.Errorf("the cache takes only %d bytes of memory of %d: the test proves nothing", took, bound)
	}
}
