package feed

import (
	"container/list"
	"sync"
)

// maxFilters and maxFilterBytes bound the parsed filters in memory; most clients of a server use the same few.
const (
	maxFilters        = 1000
	maxCachedFilterID = 2048
)

// cachedFilter is a parsed filter with a number of its own, by which sent member events are told apart.
type cachedFilter struct {
	*Filter
	number int64
	key    string
}

// filterCache keeps parsed filters by their JSON text, the ones used last.
type filterCache struct {
	// mu guards all below; a leaf in docs/locks.md.
	mu     sync.Mutex
	next   int64
	byKey  map[string]*list.Element
	recent *list.List
}

func newFilterCache() *filterCache {
	return &filterCache{byKey: map[string]*list.Element{}, recent: list.New()}
}

func (c *filterCache) get(key string) *cachedFilter {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byKey[key]
	if e == nil {
		return nil
	}
	c.recent.MoveToFront(e)
	return e.Value.(*cachedFilter)
}

func (c *filterCache) put(key string, f *Filter) *cachedFilter {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	entry := &cachedFilter{Filter: f, number: c.next, key: key}
	if len(key) > maxCachedFilterID || c.byKey[key] != nil {
		return entry
	}
	c.byKey[key] = c.recent.PushFront(entry)
	if c.recent.Len() > maxFilters {
		oldest := c.recent.Remove(c.recent.Back()).(*cachedFilter)
		delete(c.byKey, oldest.key)
	}
	return entry
}
