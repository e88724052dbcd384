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

// Lot holds parked events, which are those whose server is not known to be in the room yet. It also counts the requests
// for member events that such servers cause. It is safe for concurrent use.
type Lot struct {
	fresh chan struct{} // one slot
	// mu guards the rest. It is a leaf lock.
	mu      sync.Mutex
	parked  map[Key]*parked
	bytes   int
	servers map[string]int // parked bytes
	fetches map[string]spending
}

// Key identifies the events that one server sent for one room.
type Key struct {
	Origin string
	Room   id.RoomID
}

type parked struct {
	pdus  []json.RawMessage
	bytes int
	since time.Time
}

// Events are the parked events that one server sent for one room, in the order of arrival.
type Events struct {
	Origin string
	Room   id.RoomID
	PDUs   []json.RawMessage
}

// NewLot returns an empty Lot.
func NewLot() *Lot {
	return &Lot{fresh: make(chan struct{}, 1), parked: map[Key]*parked{}, servers: map[string]int{}, fetches: map[string]spending{}}
}

// Park stores events that came under the given key. It returns those that would exceed maxServerBytes; they are not
// stored. If all events together exceed maxBytes, the server with the most parked bytes loses some of its events.
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

// evict finds the server with the most parked bytes and drops its events for one of its rooms. mu is held.
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

// remove removes and returns the events parked under the given key. mu is held.
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

// Take removes and returns the events parked under the given key.
func (l *Lot) Take(key Key) []json.RawMessage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.remove(key)
}

// Due removes and returns the events for whose key ready returns true. It drops the events that have been parked for
// longer than lifetime.
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

// Announce makes the channel of Fresh receive a value, because Due may now return events.
func (l *Lot) Announce() {
	select {
	case l.fresh <- struct{}{}:
	default:
	}
}

// Fresh returns a channel that receives a value when Due may return events.
func (l *Lot) Fresh() <-chan struct{} { return l.fresh }

// Bytes returns the size of all parked events: their length plus eventBytes for each.
func (l *Lot) Bytes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

// MayFetch reports whether another member event may be requested because of events from the server origin. If so, it
// counts the request.
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

// spending records how many requests a server has recently caused. Each request costs the time (the pause) after which
// another one becomes possible, and the cost decreases as time passes.
type spending struct {
	used time.Duration
	at   time.Time
}

// spend adds one request, which costs pause. At most n requests are possible at once. It returns the new spending, and
// whether the request is allowed.
func (b spending) spend(now time.Time, n int, pause time.Duration) (spending, bool) {
	used := max(0, b.used-max(0, now.Sub(b.at))) + pause
	return spending{used, now}, used <= time.Duration(n)*pause
}
