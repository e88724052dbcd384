package feed

import (
	"sync/atomic"

	"ebb/keyed"
)

// maxFilters and maxCachedFilterID bound the parsed filters in memory; most clients of a server use the same few.
const (
	maxFilters        = 1000
	maxCachedFilterID = 2048
)

// cachedFilter is a parsed filter with a number. The member events that a client has been sent are remembered under
// this number, because they depend on the filter.
type cachedFilter struct {
	*Filter
	number int64
}

// filterCache keeps parsed filters by their id or JSON text.
type filterCache struct {
	known *keyed.Map[string, *cachedFilter]
	last  atomic.Int64 // number
}

func newFilterCache(entries int) *filterCache {
	return &filterCache{known: keyed.NewMap[string, *cachedFilter](entries)}
}

// get returns a filter; nil if it is not cached.
func (c *filterCache) get(key string) *cachedFilter {
	f, _ := c.known.Get(key)
	return f
}

// put caches a filter unless one is cached under the key, and returns the cached one.
func (c *filterCache) put(key string, f *Filter) *cachedFilter {
	own := &cachedFilter{Filter: f, number: c.last.Add(1)}
	if len(key) > maxCachedFilterID {
		return own
	}
	return c.known.Update(key, func(before *cachedFilter, known bool) *cachedFilter {
		if known {
			return before
		}
		return own
	})
}
