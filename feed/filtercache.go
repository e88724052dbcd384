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

// cachedFilter is a parsed filter with a number. A session remembers under this number which member events it has sent
// to a client, because they depend on the filter.
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

// get returns the cached filter with the given key, or nil if there is none.
func (c *filterCache) get(key string) *cachedFilter {
	f, _ := c.known.Get(key)
	return f
}

// put adds a filter to the cache. If another request has added one under the same key, put keeps and returns that one.
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
