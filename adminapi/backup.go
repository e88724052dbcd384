package adminapi

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// holdLease is how long the file of the database stays unchanged for a backup that does not ask for more time. A backup
// asks again after a third of it, so that one that is stopped or killed does not let the write-ahead log grow for long.
const holdLease = time.Minute

// HoldRenewal is the interval at which a backup must call "backup renew".
const HoldRenewal = holdLease / 3

// BackupArgs are the arguments of the commands "backup renew" and "backup end".
type BackupArgs struct {
	Hold string `json:"hold"` // as returned by "backup begin"
}

// BackupHold is the result of the command "backup begin".
type BackupHold struct {
	storage.Held
	Hold string `json:"hold"`
}

// hold is the state of a backup that copies the file of the database.
type hold struct {
	mu      sync.Mutex // guards the other fields; a leaf
	id      string     // "" if no backup holds the file
	release func()
	expiry  *time.Timer
}

// backupBegin keeps the file of the database unchanged, so that the caller can copy it.
func (a *API) backupBegin(ctx context.Context, _ struct{}) (any, error) {
	held, release, err := a.DB.Hold(ctx)
	if err != nil {
		return nil, err
	}
	h := a.hold
	h.mu.Lock()
	defer h.mu.Unlock()
	id := rand.Text() // storage.DB.Hold waits for the former holder, so there is none now
	h.id, h.release = id, release
	h.expiry = time.AfterFunc(holdLease, func() {
		if h.end(id) {
			a.Log.Warn("a backup has ended without saying so; it cannot be complete")
		}
	})
	return BackupHold{held, id}, nil
}

// end ends a hold. It returns false if that hold has ended already.
func (h *hold) end(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if id == "" || h.id != id {
		return false
	}
	h.expiry.Stop()
	h.release()
	h.id, h.release = "", nil
	return true
}

func errHoldEnded() error {
	return mxerr.Forbidden("The database has changed during the backup, because the backup did not respond for %v or the server was restarted", holdLease)
}

// BackupPolicy is the result of the command "backup policy".
type BackupPolicy struct {
	Shortest int64 `json:"shortest_ms"` // the shortest time after which messages of a room expire; 0 if all are kept
}

// policyPage is the number of rooms that are listed at a time.
const policyPage = 100

// backupPolicy returns the shortest retention policy of all rooms.
func (a *API) backupPolicy(ctx context.Context, _ struct{}) (any, error) {
	shortest := time.Duration(a.Config.ShortestRetention())
	for after, more := ident.RoomNID(0), true; more; {
		var page []ident.RoomNID
		err := a.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			page, err = tx.RoomsWithPolicy(after, policyPage)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, nid := range page {
			room, err := a.Rooms.RoomByNID(ctx, nid)
			if err != nil {
				return nil, err
			}
			if longest := room.Retention().Max; longest != nil && (shortest == 0 || *longest < shortest) {
				shortest = *longest
			}
		}
		if more = len(page) == policyPage; more {
			after = page[len(page)-1]
		}
	}
	return BackupPolicy{shortest.Milliseconds()}, nil
}

// backupRenew extends a hold.
func (a *API) backupRenew(_ context.Context, b BackupArgs) (any, error) {
	a.hold.mu.Lock()
	defer a.hold.mu.Unlock()
	if b.Hold == "" || a.hold.id != b.Hold {
		return nil, errHoldEnded()
	}
	a.hold.expiry.Reset(holdLease)
	return struct{}{}, nil
}

// backupEnd ends a hold. It fails if the hold has ended before, because then the copy may mix two states.
func (a *API) backupEnd(_ context.Context, b BackupArgs) (any, error) {
	if !a.hold.end(b.Hold) {
		return nil, errHoldEnded()
	}
	return struct{}{}, nil
}
