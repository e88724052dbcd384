// Package parking holds events of servers that are not known to be in a room, until it is known that they are. A server
// may have joined through a third one whose transaction has not arrived yet; its events must neither be lost nor cause
// requests to other servers meanwhile.
//
// Everything is in memory and bounded, in total and for each server. The package also counts the requests that such a
// server causes.
package parking

import (
	"encoding/json"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"
)

const (
	// maxBytes bounds the bytes of parked events, maxServerBytes those of one server. Each event counts eventBytes more
	// than its length.
	maxBytes       = 16 << 20
	maxServerBytes = 1 << 20
	eventBytes     = 512
	// maxKeys bounds the pairs of server and room for which events are parked.
	maxKeys = 1000
	// lifetime is how long events are parked: as long as a join may take.
	lifetime = 5 * time.Minute
	// A server can cause maxFetches requests for member events at once and one more every fetchPause; all servers
	// together can cause maxAllFetches and one more every allFetchPause.
	maxFetches    = 10
	fetchPause    = 30 * time.Second
	maxAllFetches = 100
	allFetchPause = time.Second
)

// Lot holds parked events and counts requests for member events. It is safe for concurrent use.
type Lot struct {
	fresh chan struct{} // one slot
	// mu guards the rest. It is a leaf lock.
	mu      sync.Mutex
	parked  map[Key]*parked
	bytes   int
	servers map[string]int // parked bytes
	fetches map[string]spending
}

// Key says from which server events came, and for which room.
type Key struct {
	Origin string
	Room   id.RoomID
}

type parked struct {
	pdus  []json.RawMessage
	bytes int
	since time.Time
}

// Events are the parked events of a server for a room, in the order in which they came.
type Events struct {
	Origin string
	Room   id.RoomID
	PDUs   []json.RawMessage
}

// NewLot returns an empty Lot.
func NewLot() *Lot {
	return &Lot{fresh: make(chan struct{}, 1), parked: map[Key]*parked{}, servers: map[string]int{}, fetches: map[string]spending{}}
}

// Park stores events and returns those that exceed the server's bound. If the total is exceeded, the server with the
// most events loses some.
func (l *Lot) Park(now time.Time, key Key, pdus []json.RawMessage) (refused []json.RawMessage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, raw := range pdus {
		cost := len(raw) + eventBytes
		if l.servers[key.Origin]+cost > maxServerBytes {
			return pdus[i:]
		}
		for l.bytes+cost > maxBytes || l.parked[key] == nil && len(l.parked) >= maxKeys {
			l.evict()
		}
		p := l.parked[key]
		if p == nil {
			p = &parked{since: now}
			l.parked[key] = p
		}
		p.pdus, p.bytes = append(p.pdus, raw), p.bytes+cost
		l.bytes += cost
		l.servers[key.Origin] += cost
	}
	return nil
}

// evict drops the events of one room of the server that has the most. mu is held.
func (l *Lot) evict() {
	most := ""
	for server, bytes := range l.servers {
		if bytes > l.servers[most] {
			most = server
		}
	}
	for key := range l.parked {
		if key.Origin == most {
			l.remove(key)
			return
		}
	}
}

// remove removes and returns the events of a key. mu is held.
func (l *Lot) remove(key Key) []json.RawMessage {
	p := l.parked[key]
	if p == nil {
		return nil
	}
	delete(l.parked, key)
	l.bytes -= p.bytes
	if l.servers[key.Origin] -= p.bytes; l.servers[key.Origin] == 0 {
		delete(l.servers, key.Origin)
	}
	return p.pdus
}

// Take removes and returns the events of a key.
func (l *Lot) Take(key Key) []json.RawMessage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.remove(key)
}

// Due removes and returns the events whose key is ready, and drops what has been parked for longer than lifetime.
func (l *Lot) Due(now time.Time, ready func(Key) bool) (out []Events) {
	l.mu.Lock()
	keys := make(map[Key]time.Time, len(l.parked))
	for key, p := range l.parked {
		keys[key] = p.since
	}
	l.mu.Unlock()
	for key, since := range keys {
		switch {
		case ready(key):
			out = append(out, Events{key.Origin, key.Room, l.Take(key)})
		case now.Sub(since) > lifetime:
			l.Take(key)
		}
	}
	return out
}

// Announce makes Fresh receive a value: events may be ready.
func (l *Lot) Announce() {
	select {
	case l.fresh <- struct{}{}:
	default:
	}
}

// Fresh returns a channel that receives a value when Due may return events.
func (l *Lot) Fresh() <-chan struct{} { return l.fresh }

// Bytes returns the size of the parked events, as it counts against the bounds.
func (l *Lot) Bytes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

// MayFetch counts a request for a member event that a server causes, and reports whether it is allowed.
func (l *Lot) MayFetch(origin string, now time.Time) bool {
	const all = "" // no server has this name
	l.mu.Lock()
	defer l.mu.Unlock()
	own, ok := l.fetches[origin].spend(now, maxFetches, fetchPause)
	if !ok {
		return false
	}
	sum, ok := l.fetches[all].spend(now, maxAllFetches, allFetchPause)
	if !ok {
		return false
	}
	for server, b := range l.fetches { // bounded by what the total has allowed recently
		if now.Sub(b.at) >= b.used {
			delete(l.fetches, server)
		}
	}
	l.fetches[origin], l.fetches[all] = own, sum
	return true
}

// spending is how much of a budget was used at a time. The budget is refilled over time.
type spending struct {
	used time.Duration
	at   time.Time
}

// spend uses one pause of a budget of n pauses, and reports whether the budget allowed it.
func (b spending) spend(now time.Time, n int, pause time.Duration) (spending, bool) {
	used := max(0, b.used-max(0, now.Sub(b.at))) + pause
	return spending{used, now}, used <= time.Duration(n)*pause
}
