// Package sticky remembers which rooms have sticky events (MSC4354) and until when, so that sending and syncing in all
// other rooms costs nothing. The events themselves are in the database.
package sticky

import (
	"context"
	"sync"
	"sync/atomic"

	"ebb/ident"
	"ebb/storage"
)

// Bounds of what is sticky in a room at a time. The oldest events beyond them remain as ordinary events.
const (
	maxPerSender = 100
	maxPerRoom   = 1000
)

// Store records that an event is sticky. It is called in the write that stores the event. now is the current time in
// milliseconds.
func Store(tx *storage.Tx, e storage.StickyEvent, now int64) error {
	return tx.AddStickyEvent(e, now, maxPerSender, maxPerRoom)
}

// Table holds the rooms that have sticky events. It is loaded from the database once and then kept up to date with the
// events that are committed. It is safe for concurrent use.
type Table struct {
	count atomic.Int64 // of rooms, so that nobody takes the lock while there are none

	// mu guards rooms; a leaf in docs/locks.md.
	mu    sync.RWMutex
	rooms map[ident.RoomNID]storage.StickyRoom
}

// Load reads the rooms that have sticky events from the database. now is the current time in milliseconds, here and
// below.
func (t *Table) Load(ctx context.Context, db *storage.DB, now int64) error {
	return db.Read(ctx, func(tx *storage.Tx) error {
		list, err := tx.StickyRooms(now)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.rooms = make(map[ident.RoomNID]storage.StickyRoom, len(list))
		for _, r := range list {
			t.rooms[r.Room] = r
		}
		t.count.Store(int64(len(list)))
		return err
	})
}

// Add records that a committed event is sticky.
func (t *Table) Add(e storage.StickyEvent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rooms[e.Room]
	r.Room = e.Room
	if e.Refused {
		r.Refused = max(r.Refused, e.ExpiresTS)
	} else {
		r.Newest, r.Until = max(r.Newest, e.Position), max(r.Until, e.ExpiresTS)
		if e.Local {
			r.LocalUntil = max(r.LocalUntil, e.ExpiresTS)
		}
	}
	t.rooms[e.Room] = r
	t.count.Store(int64(len(t.rooms)))
}

// Any reports whether any room has had sticky events lately.
func (t *Table) Any() bool { return t.count.Load() > 0 }

// room returns the entry of a room, which is empty if the room has no sticky events.
func (t *Table) room(nid ident.RoomNID) storage.StickyRoom {
	if !t.Any() {
		return storage.StickyRoom{}
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.rooms[nid]
}

// After reports whether the room may have events that were stored after pos, are visible to clients, and are still
// sticky at now.
func (t *Table) After(room ident.RoomNID, pos storage.Pos, now int64) bool {
	r := t.room(room)
	return r.Newest > pos && r.Until > now
}

// Local reports whether the room may have events sent by local users that are still sticky at now.
func (t *Table) Local(room ident.RoomNID, now int64) bool { return t.room(room).LocalUntil > now }

// Refused reports whether the room may have soft-failed events that are still sticky at now.
func (t *Table) Refused(room ident.RoomNID, now int64) bool { return t.room(room).Refused > now }

// AllRefused lists the rooms for which Refused returns true.
func (t *Table) AllRefused(now int64) (list []ident.RoomNID) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for nid, r := range t.rooms {
		if r.Refused > now {
			list = append(list, nid)
		}
	}
	return list
}

// pruneChunk is how many rows one write of Prune deletes.
const pruneChunk = 500

// Prune removes everything that is no longer sticky at now, from memory and from the database.
func (t *Table) Prune(ctx context.Context, db *storage.DB, now int64) error {
	t.forget(now)
	for more := true; more; {
		err := db.Write(ctx, func(tx *storage.Tx) (err error) {
			more, err = tx.PruneSticky(now, pruneChunk)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// forget removes the rooms that have no events which are still sticky at now.
func (t *Table) forget(now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for nid, r := range t.rooms {
		if max(r.Until, r.Refused) <= now {
			delete(t.rooms, nid)
		}
	}
	t.count.Store(int64(len(t.rooms)))
}
