package feed

import (
	"sync/atomic"

	"ebb/keyed"
)

// maxFilters bounds the parsed filters in memory, in bytes. Most clients of a server use the same few, of some 300
// bytes.
const maxFilters = 4 << 20

// cachedFilter is a parsed filter with a number. A session remembers under this number which member events it has sent
// to a client, because they depend on the filter.
type cachedFilter struct {
	*Filter
	number int64
	size   int64 // in memory, roughly
}

// filterCache keeps parsed filters by their id or JSON text.
type filterCache struct {
	known *keyed.Map[string, *cachedFilter]
	last  atomic.Int64 // number
}

func newFilterCache(bytes int64) *filterCache {
	return &filterCache{known: keyed.NewSizedMap(bytes, func(_ string, f *cachedFilter) int64 { return f.size })}
}

// get returns the cached filter with the given key, or nil if there is none.
func (c *filterCache) get(key string) *cachedFilter {
	f, _ := c.known.Get(key)
	return f
}

// put adds a filter with the given text to the cache. If another request has added one under the same key, put keeps
// and returns that one.
func (c *filterCache) put(key string, f *Filter, text []byte) *cachedFilter {
	// 1024: the struct; 4: an entry of a list takes 16 bytes and its text, and at least 4 bytes of JSON.
	own := &cachedFilter{Filter: f, number: c.last.Add(1), size: int64(1024 + len(key) + 4*len(text))}
	return c.known.Update(key, func(before *cachedFilter, known bool) *cachedFilter {
		if known {
			return before
		}
		return own
	})
}
