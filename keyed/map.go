package keyed

import "sync"

// Map is a bounded cache. It is safe for concurrent use. The zero Map stores nothing.
type Map[K comparable, V any] struct {
	// mu guards h; a leaf lock.
	mu sync.RWMutex
	h  halves[K, V]
}

// NewMap returns a Map with at most the given number of entries, which must be at least two.
func NewMap[K comparable, V any](entries int) *Map[K, V] {
	return &Map[K, V]{h: halves[K, V]{bound: int64(entries)}}
}

// NewSizedMap returns a Map that bounds the total size of its entries, in bytes, as computed by size. The size of an
// entry must not change while it is in the map. An entry larger than half the bound is not stored.
func NewSizedMap[K comparable, V any](bytes int64, size func(K, V) int64) *Map[K, V] {
	return &Map[K, V]{h: halves[K, V]{bound: bytes, size: size}}
}

// Get returns the value of a key and reports whether there is one.
func (m *Map[K, V]) Get(key K) (V, bool) {
	m.mu.RLock()
	value, ok := m.h.young[key]
	aged := false
	if !ok {
		_, aged = m.h.old[key]
	}
	m.mu.RUnlock()
	if !aged {
		return value, ok
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.h.get(key)
}

// Put sets the value of a key.
func (m *Map[K, V]) Put(key K, value V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.h.put(key, value)
}

// Update replaces the value of a key by the result of change, and returns it. If there is no value, change receives the
// zero value. change must not use the map.
func (m *Map[K, V]) Update(key K, change func(value V, known bool) V) V {
	m.mu.Lock()
	defer m.mu.Unlock()
	value := change(m.h.get(key))
	m.h.put(key, value)
	return value
}

// Forget removes a key.
func (m *Map[K, V]) Forget(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.h.forget(key)
}

// ForgetFunc removes the entries for which drop returns true. It calls drop for every entry.
func (m *Map[K, V]) ForgetFunc(drop func(K, V) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.h.forgetFunc(drop)
}

// Len returns the number of entries.
func (m *Map[K, V]) Len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.h.len()
}

// halves is a bounded map without a lock. It consists of two halves: new and used entries are in the younger one, and
// when that is full, the older half is dropped and the younger takes its place. A key is in at most one half.
type halves[K comparable, V any] struct {
	bound      int64
	size       func(K, V) int64 // nil means that every entry counts as one
	young, old map[K]V
	used       int64 // size of the younger half
}

func (h *halves[K, V]) sizeOf(key K, value V) int64 {
	if h.size == nil {
		return 1
	}
	return h.size(key, value)
}

// get returns the value of a key and marks it as used.
func (h *halves[K, V]) get(key K) (value V, ok bool) {
	if value, ok = h.young[key]; ok {
		return value, true
	}
	if value, ok = h.old[key]; ok {
		h.put(key, value)
	}
	return value, ok
}

func (h *halves[K, V]) put(key K, value V) {
	h.forget(key)
	half, size := h.bound/2, h.sizeOf(key, value)
	if size > half {
		return
	}
	if h.used+size > half || h.young == nil {
		clear(h.old) // reuses its memory
		h.young, h.old, h.used = h.old, h.young, 0
		if h.young == nil {
			h.young = map[K]V{}
		}
	}
	h.young[key] = value
	h.used += size
}

func (h *halves[K, V]) forget(key K) {
	if value, ok := h.young[key]; ok {
		h.used -= h.sizeOf(key, value)
		delete(h.young, key)
	}
	delete(h.old, key)
}

func (h *halves[K, V]) forgetFunc(drop func(K, V) bool) {
	for _, half := range []map[K]V{h.young, h.old} {
		for key, value := range half {
			if drop(key, value) {
				h.forget(key)
			}
		}
	}
}

func (h *halves[K, V]) len() int { return len(h.young) + len(h.old) }
