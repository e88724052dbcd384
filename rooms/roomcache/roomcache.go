// Package roomcache keeps the rooms in use in memory, by ID and by number, within a memory budget.
package roomcache

import (
	"sync"
	"sync/atomic"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
)

// Entry has the functions by which a Cache handles its rooms, which are of type R.
type Entry[R any] struct {
	Size func(*R) int64 // bytes in memory
	Used func(*R) int64 // time of the last use
	// Retire marks a room as evicted, or returns false if the room is in use and must stay.
	Retire func(*R) bool
}

// Cache keeps rooms of type R in memory, up to a number of bytes. It is safe for concurrent use.
type Cache[R any] struct {
	entry  Entry[R]
	budget int64
	grown  atomic.Int64 // by how much rooms may have grown since all sizes were measured

	// mu guards the rest. The functions of entry are called under it, except Size for a room that is added.
	mu    sync.RWMutex
	ids   map[id.RoomID]*R
	nids  map[ident.RoomNID]cached[R]
	bytes int64 // the sum of the sizes
}

// cached is a room in a Cache, with its ID and its size.
type cached[R any] struct {
	room *R
	id   id.RoomID
	size int64 // as last measured
}

// measureAt is the part of the budget by which rooms may grow in use before all sizes are measured again.
const measureAt = 16

// New returns an empty Cache with a budget in bytes.
func New[R any](budget int64, e Entry[R]) *Cache[R] {
	return &Cache[R]{entry: e, budget: budget, ids: map[id.RoomID]*R{}, nids: map[ident.RoomNID]cached[R]{}}
}

// ByID returns the room with the given ID, or nil if it is not in the cache.
func (c *Cache[R]) ByID(roomID id.RoomID) *R {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.ids[roomID]
}

// ByNID returns the room with the given number, or nil if it is not in the cache.
func (c *Cache[R]) ByNID(nid ident.RoomNID) *R {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.nids[nid].room
}

// List returns the rooms with the given numbers. In found, a room that is not in the cache is nil; its number is in
// missing.
func (c *Cache[R]) List(nids []ident.RoomNID) (found []*R, missing []ident.RoomNID) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	found = make([]*R, len(nids))
	for i, nid := range nids {
		if found[i] = c.nids[nid].room; found[i] == nil {
			missing = append(missing, nid)
		}
	}
	return found, missing
}

// Grew says that a room has grown by n bytes. Trim takes account of it.
func (c *Cache[R]) Grew(n int64) { c.grown.Add(n) }

// Trim evicts rooms that have not been used recently if rooms have outgrown the budget. It measures them only when they
// have grown by much. The caller must not hold locks that the functions of Entry take.
func (c *Cache[R]) Trim() {
	if c.grown.Load() < c.budget/measureAt {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.measure(); c.bytes > c.budget {
		c.shrink(nil)
	}
}

// Add adds r and returns it, or returns the room with that number if the cache has one already. If the cache exceeds
// its budget, Add evicts rooms that have not been used recently.
func (c *Cache[R]) Add(roomID id.RoomID, nid ident.RoomNID, r *R) *R {
	size := c.entry.Size(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.nids[nid].room; old != nil {
		return old
	}
	c.ids[roomID], c.nids[nid] = r, cached[R]{r, roomID, size}
	if c.bytes += size; c.bytes > c.budget {
		c.shrink(r)
	}
	return r
}

// Size returns the number of rooms in the cache, and their bytes as last measured.
func (c *Cache[R]) Size() (rooms int, bytes int64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.nids), c.bytes
}

// measure measures all sizes again. mu is held.
func (c *Cache[R]) measure() {
	c.grown.Store(0)
	c.bytes = 0
	for nid, r := range c.nids {
		r.size = c.entry.Size(r.room)
		c.nids[nid] = r
		c.bytes += r.size
	}
}

// shrink evicts rooms that have not been used for long until a tenth of the budget is free. It never evicts keep, and
// stops at a room that is in use. mu is held.
func (c *Cache[R]) shrink(keep *R) {
	for c.bytes > c.budget-c.budget/10 {
		var oldest ident.RoomNID
		for range 8 { // a random sample is good enough and needs no ordering
			for nid, r := range c.nids {
				if r.room == keep {
					continue
				}
				if oldest == 0 || c.entry.Used(r.room) < c.entry.Used(c.nids[oldest].room) {
					oldest = nid
				}
				break
			}
		}
		if oldest == 0 || !c.entry.Retire(c.nids[oldest].room) {
			return
		}
		c.drop(oldest)
	}
}

// Drop removes a room if the cache has it.
func (c *Cache[R]) Drop(nid ident.RoomNID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nids[nid].room != nil {
		c.drop(nid)
	}
}

// drop removes a room. mu is held.
func (c *Cache[R]) drop(nid ident.RoomNID) {
	r := c.nids[nid]
	c.bytes -= r.size
	delete(c.ids, r.id)
	delete(c.nids, nid)
}
