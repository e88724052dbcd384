// Package erasure removes everything about users who asked for that when their accounts were closed: what they have
// sent, their names in member events, their media, and the rest of their data.
//
// Package accounts stores a row of the table erasures in the write that closes the account. Job, the only owner of
// these rows, carries an erasure out in stages and stores which one has been reached, so that a restart continues
// there:
//
//  1. Users who join a room of the user from now on get redacted copies (rooms.Service.Erase).
//  2. Package redactions redacts what the user has sent, with real redactions where the user is in the room, so that other
//     servers get them; elsewhere, it removes it from this server. This happens twice: the second time catches messages
//     that were being sent when the account was closed.
//  3. The user leaves all rooms. From then on, nothing new of the user arrives. What came meanwhile is removed.
//  4. Media and the rest of the user's data are deleted. This waits for legal holds.
//
// A stage that is repeated finds the work of its first run done.
package erasure

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/audit"
	"ebb/deletions"
	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
	"ebb/wake"
)

const (
	// page is how many erasures, rooms or uploads are looked at in one transaction.
	page = 100
	// retryAfter is the time after which a stage is repeated that failed for a temporary reason. idle is how often Run
	// looks for work if nothing wakes it.
	retryAfter = time.Minute
	idle       = time.Hour
)

// The stages of an erasure, in order. The database has their numbers.
const (
	stageBegins   = iota // nothing has been done yet
	stageRedacts         // the user's messages and names are redacted
	stageRechecks        // the same once more, for what was being sent when the account was closed
	stageLeaves          // the user leaves all rooms
	stageRemoves         // what has arrived meanwhile is removed from this server
	stageDeletes         // the user's media and other data are deleted
	stageDone
)

// Redactor redacts everything that a user has sent. redactions.Service implements it.
type Redactor interface {
	RedactEverything(tx *storage.Tx, user ident.UserNID) error
	WakeOwn()
}

// Options are the dependencies of a Job. All fields are required but Audit, Deletions, Commits, Timer and Log.
type Options struct {
	DB         *storage.DB
	Rooms      *rooms.Service
	Redactions Redactor
	Audit      *audit.Log
	Deletions  *deletions.Log // signs a receipt of each erasure
	Commits    *rooms.Commits
	Now        func() time.Time
	// Timer starts a timer for Run. The channel receives a value after d unless stop is called first.
	Timer func(d time.Duration) (c <-chan time.Time, stop func())
	Log   *slog.Logger
}

// Job carries out erasures. It is safe for concurrent use.
type Job struct {
	opts Options
	wake chan struct{} // wakes Run
}

// New returns a Job.
func New(o Options) *Job {
	if o.Timer == nil {
		o.Timer = wake.Timer
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	j := &Job{opts: o, wake: make(chan struct{}, 1)}
	o.Commits.Subscribe(j.committed)
	return j
}

// committed is the Listener that wakes Run when there may be something to do.
func (j *Job) committed(c *rooms.Commit) {
	if len(c.Erased)+len(c.Holds) == 0 && !c.OwnRedacted {
		return
	}
	select {
	case j.wake <- struct{}{}:
	default: // Run has been woken already
	}
}

// Run carries out erasures until ctx ends.
func (j *Job) Run(ctx context.Context) error {
	for {
		more, err := j.Step(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the server is being stopped
		}
		pause := idle
		switch {
		case err != nil:
			j.opts.Log.Error("Cannot erase a user now; trying again later", "err", err)
			pause = retryAfter
		case more:
			continue
		}
		timer, stop := j.opts.Timer(pause)
		select {
		case <-ctx.Done():
		case <-j.wake:
		case <-timer:
		}
		stop()
	}
}

// Step advances each unfinished erasure that does not wait for something. It reports whether any of them has advanced,
// so that there may be more to do. An error does not keep it from the other erasures; it returns the first one.
func (j *Job) Step(ctx context.Context) (more bool, err error) {
	for after := ident.UserNID(0); ; {
		var list []storage.ErasureRow
		readErr := j.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			list, err = tx.Erasures(after, page)
			return err
		})
		if readErr != nil {
			return false, readErr
		}
		for i := range list {
			after = list[i].User
			again, stepErr := j.advance(ctx, &list[i])
			more = more || again && stepErr == nil
			if err == nil {
				err = stepErr
			}
		}
		if len(list) < page {
			return more, err
		}
	}
}

// advance does what the stage of an erasure requires. It reports whether the erasure has advanced.
func (j *Job) advance(ctx context.Context, e *storage.ErasureRow) (more bool, err error) {
	switch e.Stage {
	case stageBegins:
		if err := j.opts.Rooms.Erase(ctx, e.User); err != nil {
			return false, err
		}
		return true, j.redact(ctx, e, stageRedacts)
	case stageRedacts, stageRechecks, stageRemoves:
		pending, err := j.pending(ctx, e.User)
		if err != nil || pending {
			return false, err
		}
		if e.Stage == stageRedacts {
			return true, j.redact(ctx, e, stageRechecks)
		}
		e.Stage++
		return true, j.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.AdvanceErasure(e) })
	case stageLeaves:
		user := ident.Requester{UserNID: e.User, UserID: id.UserID(e.UserID)}
		if err := j.opts.Rooms.LeaveAll(ctx, user); err != nil {
			return false, err
		}
		return true, j.redact(ctx, e, stageRemoves)
	case stageDeletes:
		return j.delete(ctx, e)
	}
	return false, nil
}

// redact requests that what is left of the user's events is redacted, and stores the stage in which that is awaited.
func (j *Job) redact(ctx context.Context, e *storage.ErasureRow, next int64) error {
	e.Stage = next
	err := j.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := j.opts.Redactions.RedactEverything(tx, e.User); err != nil {
			return err
		}
		return tx.AdvanceErasure(e)
	})
	if err == nil {
		j.opts.Redactions.WakeOwn()
	}
	return err
}

// pending reports whether the user's events are still being redacted.
func (j *Job) pending(ctx context.Context, user ident.UserNID) (pending bool, err error) {
	err = j.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		n, err := tx.PendingOwnRedactions(user)
		pending = n > 0
		return err
	})
	return pending, err
}

// delete does one step of the last stage, unless a legal hold forbids that.
func (j *Job) delete(ctx context.Context, e *storage.ErasureRow) (more bool, err error) {
	encrypted, err := j.encryptedRooms(ctx, e.User)
	if err != nil || j.held(e.User, encrypted) {
		return false, err
	}
	before := *e
	err = j.opts.DB.Enqueue(storage.Write{
		Do: func(tx *storage.Tx) error {
			*e, more = before, false
			if j.held(e.User, encrypted) { // since it was checked
				return nil
			}
			last, deleted, err := tx.DeleteUserMedia(e.User, e.AfterMedia, page)
			if err != nil {
				return err
			}
			if e.Media += int64(deleted); last != "" {
				e.AfterMedia, more = last, true
				return tx.AdvanceErasure(e)
			}
			if e.Had != nil { // finish need not count what there was
				n, err := tx.EraseDataPart(e.User, page)
				if more = n == page; err != nil || more {
					return err
				}
			}
			return j.finish(ctx, tx, e)
		},
		Committed: func() { // wakes those who remove files and overwrite what was deleted
			if at, ok := j.opts.Rooms.ErasedAt(e.User); ok {
				j.opts.Commits.Deliver(&rooms.Commit{Erased: []rooms.CommittedErasure{{User: e.User, Pos: at}}})
			}
		},
	}).Wait(ctx)
	return more, err
}

// held reports whether a legal hold forbids to delete the user's media: one on the user, or one on an encrypted room of
// the user, whose messages may show media that the server cannot find there.
func (j *Job) held(user ident.UserNID, encrypted []ident.RoomNID) bool {
	return j.opts.Rooms.UserHeld(user) || slices.ContainsFunc(encrypted, j.opts.Rooms.RoomHeld)
}

// encryptedRooms returns the encrypted rooms in which a user is or was.
func (j *Job) encryptedRooms(ctx context.Context, user ident.UserNID) (all []ident.RoomNID, err error) {
	for after := ident.RoomNID(0); ; after = all[len(all)-1] {
		var list []ident.RoomNID
		err := j.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			list, err = tx.EncryptedRoomsOf(user, after, page)
			return err
		})
		if all = append(all, list...); err != nil || len(list) < page {
			return all, err
		}
	}
}

// finish deletes what is left of the user's data, within the last write of an erasure.
func (j *Job) finish(ctx context.Context, tx *storage.Tx, e *storage.ErasureRow) (err error) {
	if e.Redacted, e.Removed, err = tx.ErasureCounts(e.User); err != nil {
		return err
	}
	if e.Had == nil { // it was requested before this was recorded
		if e.Had, err = tx.UserData(e.User); err != nil {
			return err
		}
	}
	if err := tx.EraseEntirely(e.User); err != nil {
		return err
	}
	e.Stage, e.FinishedTS = stageDone, j.opts.Now().UnixMilli()
	if err := tx.AdvanceErasure(e); err != nil {
		return err
	}
	receipt, err := j.receipt(tx, e)
	if err != nil {
		return err
	}
	return j.opts.Audit.Add(ctx, tx, "erasure finished", "user", e.UserID, "redacted", e.Redacted, "removed", e.Removed, "media", e.Media, "receipt", receipt)
}

// receipt signs a receipt of an erasure, and returns its number. It does so only for what is gone: it counts again what
// is left of the user's data.
func (j *Job) receipt(tx *storage.Tx, e *storage.ErasureRow) (number int64, err error) {
	left, err := tx.UserData(e.User)
	if err != nil {
		return 0, err
	}
	gone := map[string]int64{}
	for kind, n := range e.Had {
		if n -= left[kind]; n > 0 {
			gone[kind] = n
		}
	}
	if len(left) > 0 {
		j.opts.Log.Warn("Data of an erased user are left; the receipt of the erasure does not count them", "user", e.UserID, "left", left)
	}
	return j.opts.Deletions.CloseErasure(tx, deletions.Erasure{
		Requested: time.UnixMilli(e.RequestedTS), Redacted: e.Redacted, Removed: e.Removed, Media: e.Media, Data: gone,
	})
}
