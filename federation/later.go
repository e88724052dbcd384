package federation

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/id"

	"ebb/keyed"
)

const (
	// maxLater bounds the rooms that have events waiting for another attempt; a room counts once for each server.
	// maxLaterRooms bounds those of one server, and maxLaterEvents the events of one room.
	maxLater       = 500
	maxLaterRooms  = 50
	maxLaterEvents = 100
	// maxLaterBytes bounds the bytes of all waiting events, and maxLaterServer those of one server. 2 MiB hold thirty
	// events of maximum size, or a thousand usual ones.
	maxLaterBytes  = 32 << 20
	maxLaterServer = 2 << 20
	// maxLaterTries bounds the attempts for the same events.
	maxLaterTries = 6
	laterEvery    = time.Second
)

// laterBackoff determines when events are tried again. The last attempt is after half an hour.
var laterBackoff = keyed.Backoff{First: 2 * time.Second, Factor: 4, Max: time.Hour}

// later keeps events that could not be checked because a server did not return what was requested, or because this
// server failed. Their sender considers them delivered, and nothing else may ever refer to them. They are kept in
// memory only; after a restart, the next event of the room causes them to be requested. Only events from servers in the
// room are kept.
//
// A server that intentionally withholds the predecessors of an event cannot be distinguished from one that is still
// catching up, so its events are tried again as well. It gains nothing by that, because an attempt costs as much as
// sending the same transaction again, and there are few attempts.
type later struct {
	// mu guards the fields below; a leaf lock.
	mu      sync.Mutex
	waiting map[laterKey]*laterEvents
	bytes   int
	servers map[string]*laterServer
}

type laterKey struct {
	origin string
	room   id.RoomID
}

type laterEvents struct {
	pdus  []json.RawMessage
	tries int
	due   time.Time
}

// laterServer counts the rooms and bytes of one server in later.
type laterServer struct{ rooms, bytes int }

func newLater() *later {
	return &later{waiting: map[laterKey]*laterEvents{}, servers: map[string]*laterServer{}}
}

// add keeps events for another attempt. It drops events that exceed the bounds.
func (l *later) add(now time.Time, key laterKey, pdus []json.RawMessage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.remove(key)
	if w == nil {
		w = &laterEvents{}
	}
	w.pdus = append(w.pdus, pdus...)
	if w.tries == 0 {
		w.due = now.Add(laterBackoff.Delay(0))
	}
	l.put(key, w)
}

// put keeps the newest of a room's events, as many as the bounds allow. The caller holds mu, and no events of the room
// are waiting.
func (l *later) put(key laterKey, w *laterEvents) {
	s := l.servers[key.origin]
	if s == nil {
		s = &laterServer{}
	}
	if len(l.waiting) >= maxLater || s.rooms >= maxLaterRooms {
		return
	}
	room := min(maxLaterBytes-l.bytes, maxLaterServer-s.bytes)
	first, bytes := len(w.pdus), 0
	for first > 0 && len(w.pdus)-first < maxLaterEvents && bytes+len(w.pdus[first-1]) <= room {
		first--
		bytes += len(w.pdus[first])
	}
	if w.pdus = slices.Clone(w.pdus[first:]); len(w.pdus) == 0 {
		return
	}
	s.rooms++
	s.bytes += bytes
	l.bytes += bytes
	l.servers[key.origin], l.waiting[key] = s, w
}

// remove removes the events of a room and returns them, or nil if there are none. The caller holds mu.
func (l *later) remove(key laterKey) *laterEvents {
	w := l.waiting[key]
	if w == nil {
		return nil
	}
	delete(l.waiting, key)
	s := l.servers[key.origin]
	for _, raw := range w.pdus {
		s.bytes -= len(raw)
		l.bytes -= len(raw)
	}
	if s.rooms--; s.rooms == 0 {
		delete(l.servers, key.origin)
	}
	return w
}

// due removes the events whose next attempt is due and returns them.
func (l *later) due(now time.Time) map[laterKey]*laterEvents {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[laterKey]*laterEvents{}
	for key, w := range l.waiting {
		if !now.Before(w.due) {
			out[key] = l.remove(key)
		}
	}
	return out
}

// again keeps events for another attempt after an attempt to check them has failed.
func (l *later) again(now time.Time, key laterKey, w *laterEvents) {
	w.tries++
	if w.tries >= maxLaterTries {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if newer := l.remove(key); newer != nil { // events that arrived in the meantime
		w.pdus = append(w.pdus, newer.pdus...)
	}
	w.due = now.Add(laterBackoff.Delay(int64(w.tries)))
	l.put(key, w)
}

// Run retries events that could not be checked when they arrived. It also receives events that were parked, which means
// kept until the sending server was known to be in the room. It returns when ctx ends.
func (a *API) Run(ctx context.Context) error {
	tick := time.NewTicker(laterEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-a.Rooms.MayUnpark():
		}
		var all errgroup.Group
		all.SetLimit(maxRooms)
		for _, p := range a.Rooms.Unparked() {
			key := laterKey{p.Origin, p.Room}
			all.Go(func() error {
				if !a.tryAgain(ctx, key, p.PDUs) {
					a.later.add(time.Now(), key, p.PDUs)
				}
				return nil
			})
		}
		for key, w := range a.later.due(time.Now()) {
			all.Go(func() error {
				if !a.tryAgain(ctx, key, w.pdus) {
					a.later.again(time.Now(), key, w)
				}
				return nil
			})
		}
		if err := all.Wait(); err != nil {
			return err
		}
	}
}

// tryAgain receives events again. It returns false if they should be tried once more.
func (a *API) tryAgain(ctx context.Context, key laterKey, pdus []json.RawMessage) bool {
	ctx, cancel := context.WithTimeout(ctx, transactionTime)
	defer cancel()
	_, err := a.receive(ctx, key.origin, key.room, pdus)
	return !mayTryAgain(err) || !a.Rooms.ServerIn(ctx, key.room, key.origin)
}
