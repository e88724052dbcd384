package federation

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/id"
)

const (
	// maxLater bounds the rooms of servers whose events wait to be tried again, maxLaterRooms those of one server, maxLaterEvents the
	// events of one room.
	maxLater       = 500
	maxLaterRooms  = 50
	maxLaterEvents = 100
	// maxLaterTries is how often they are: after 2 s, then after four times as long each time, the last time after half an hour.
	maxLaterTries = 6
	firstLater    = 2 * time.Second
	laterEvery    = time.Second
)

// later keeps events that could not be judged: their server did not tell what had to be asked about them, or this one failed. Their sender
// thinks them delivered, and nothing else may ever name them. A restart forgets them: then the next event of the room brings
// them along.
//
// A server that withholds the past of an event on purpose, or spoils it, looks like one that is still catching up, and is tried again
// like it. That is no gain to it: each try makes the checks that the first one made, and costs what the same transaction
// would that it may send again whenever it likes, and the tries are few.
type later struct {
	// mu guards waiting; a leaf.
	mu      sync.Mutex
	waiting map[laterKey]*laterEvents
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

// add keeps events for another try. Where there is no room they are lost.
func (l *later) add(now time.Time, key laterKey, pdus []json.RawMessage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.waiting[key]
	if w == nil {
		if len(l.waiting) >= maxLater || l.of(key.origin) >= maxLaterRooms {
			return
		}
		w = &laterEvents{}
		l.waiting[key] = w
	}
	w.pdus = append(w.pdus, pdus...)
	w.pdus = w.pdus[max(0, len(w.pdus)-maxLaterEvents):]
	if w.tries == 0 {
		w.due = now.Add(firstLater)
	}
}

// of counts the rooms of a server. mu is held.
func (l *later) of(origin string) (n int) {
	for key := range l.waiting {
		if key.origin == origin {
			n++
		}
	}
	return n
}

// due takes out what is to be tried now.
func (l *later) due(now time.Time) map[laterKey]*laterEvents {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[laterKey]*laterEvents{}
	for key, w := range l.waiting {
		if !now.Before(w.due) {
			out[key] = w
			delete(l.waiting, key)
		}
	}
	return out
}

// again puts back what could not be judged this time either.
func (l *later) again(now time.Time, key laterKey, w *laterEvents) {
	w.tries++
	if w.tries >= maxLaterTries {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if newer := l.waiting[key]; newer != nil { // these came meanwhile
		w.pdus = append(w.pdus, newer.pdus...)
		w.pdus = w.pdus[max(0, len(w.pdus)-maxLaterEvents):]
	} else if len(l.waiting) >= maxLater {
		return
	}
	w.due = now.Add(firstLater << (2 * w.tries))
	l.waiting[key] = w
}

// Run tries again, until ctx ends, to take in events that could not be judged when they came.
func (a *API) Run(ctx context.Context) error {
	tick := time.NewTicker(laterEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		var all errgroup.Group
		all.SetLimit(maxRooms)
		for key, w := range a.later.due(time.Now()) {
			all.Go(func() error {
				ctx, cancel := context.WithTimeout(ctx, transactionTime)
				defer cancel()
				if _, err := a.receive(ctx, key.origin, key.room, w.pdus); mayTryAgain(err) {
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
