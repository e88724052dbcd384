package keyed_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"ebb/keyed"
)

func TestMapNeverExceedsItsBound(t *testing.T) {
	for _, bound := range []int{2, 3, 10, 101} {
		m := keyed.NewMap[int, int](bound)
		for i := range 10 * bound {
			m.Put(i, i)
			m.Get(i / 2) // moves old entries to the younger half
			if m.Len() > bound {
				t.Fatalf("%d entries of %d", m.Len(), bound)
			}
			if v, ok := m.Get(i); !ok || v != i {
				t.Fatalf("what was just put in is %d, %v", v, ok)
			}
		}
	}
}

func TestMapKeepsUsedEntriesWhileOthersFillIt(t *testing.T) {
	m := keyed.NewMap[string, int](100)
	m.Put("used", 1)
	m.Put("unused", 2)
	for i := range 1000 {
		m.Put(fmt.Sprint(i), i)
		if i%40 == 0 {
			m.Get("used")
		}
	}
	if _, ok := m.Get("used"); !ok {
		t.Error("an entry in use was displaced")
	}
	if _, ok := m.Get("unused"); ok {
		t.Error("an entry that nobody uses was kept")
	}
}

func TestSizedMapCountsBytes(t *testing.T) {
	m := keyed.NewSizedMap(100, func(k, v string) int64 { return int64(len(k) + len(v)) })
	sum := func() (bytes int) {
		m.ForgetFunc(func(k, v string) bool { bytes += len(k) + len(v); return false })
		return bytes
	}
	for i := range 200 {
		m.Put(fmt.Sprint(i%30), strings.Repeat("x", i%40))
		if sum() > 100 {
			t.Fatalf("%d bytes of 100", sum())
		}
	}
	m.Put("large", strings.Repeat("x", 50))
	if _, ok := m.Get("large"); ok {
		t.Error("an entry larger than a half was kept")
	}
	m.Put("a", "first")
	m.Put("a", strings.Repeat("x", 60)) // too large to be stored, but it must still remove the first value
	if v, ok := m.Get("a"); ok {
		t.Errorf("the replaced value %q is still there", v)
	}
}

func TestMapForgets(t *testing.T) {
	m := keyed.NewMap[int, string](6)
	for i := range 5 { // 0 to 2 are in the older half
		m.Put(i, "x")
	}
	m.Forget(0)
	m.Forget(4)
	m.ForgetFunc(func(k int, _ string) bool { return k == 1 || k == 3 })
	for i := range 5 {
		if _, ok := m.Get(i); ok != (i == 2) {
			t.Errorf("%d: %v", i, ok)
		}
	}
	if got := m.Update(2, func(v string, known bool) string { return fmt.Sprint(v, known) }); got != "xtrue" {
		t.Error(got)
	}
	if got := m.Update(9, func(v string, known bool) string { return fmt.Sprint(v, known) }); got != "false" {
		t.Error(got)
	}
}

func TestMapIsSafeForConcurrentUse(t *testing.T) {
	m := keyed.NewMap[int, int](50)
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 500 {
				m.Put(i%80, i%80)
				if v, ok := m.Get((i + g) % 80); ok && v != (i+g)%80 {
					t.Errorf("%d under %d", v, (i+g)%80)
				}
				m.Update(100+g, func(n int, _ bool) int { return n + 1 })
				m.Forget(i % 7)
			}
		})
	}
	all.Wait()
	if m.Len() > 50 {
		t.Errorf("%d entries", m.Len())
	}
}

func BenchmarkMapGet(b *testing.B) {
	b.ReportAllocs()
	m := keyed.NewMap[string, int64](1000)
	m.Put("@alice:example.org", 1)
	for range b.N {
		m.Get("@alice:example.org")
	}
}

func BenchmarkMapPut(b *testing.B) {
	b.ReportAllocs()
	m := keyed.NewMap[int, int64](1000)
	for i := range b.N {
		m.Put(i, 1)
	}
}
