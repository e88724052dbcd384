package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ebb/storage/pace"
)

// A separate connection copies SQLite's write-ahead log back into the database (a checkpoint) while commits continue.
// Under load it never reaches the end of the log, because the committer keeps appending. When the log has become long,
// it is therefore repeated, each time with what was appended meanwhile, until little is left. The committer copies that
// itself between two batches, and the next batch starts the log from its beginning.

const (
	// logLook is the number of commits between two checks of the log's length.
	logLook = 8
	// longLog is the number of pages (4 KiB) to copy at which a checkpoint starts, and tooLongLog the length of the log
	// at which the committer finishes it. Longer logs showed no gain in CPU per write from 1,024 to 16,384 pages, and
	// after a crash the whole log must be read before the first answer (32 MiB took 90 ms).
	longLog    = 1024
	tooLongLog = 4 * longLog
	// longestLog is the length of the log at which commits wait for a checkpoint that is slower than they are.
	longestLog = 4 * tooLongLog
	// shortRest is the number of pages that the committer may copy between two batches. If commits are faster than the
	// checkpoint, it copies more after copyTries.
	shortRest = 64
	copyTries = 8
)

// checkpointer copies SQLite's write-ahead log into the database file when the log has become long. Such a copy is
// called a checkpoint. A nil checkpointer does nothing; it is for databases that need no checkpoints.
type checkpointer struct {
	conn    *liteConn
	commits chan struct{}
	ended   chan struct{}
	rest    func() error // copies the rest of the log between batches
	// gate has a value while a checkpoint runs, or while the file of the database must not change; see DB.Hold.
	gate chan struct{}
	log  *slog.Logger
	seen int // commits since the last check; used by the committer only
	// copying is held while pages are copied and commits continue. Whoever has a value in gate may take it.
	copying sync.Mutex
}

func (d sqliteDialect) openCheckpointer(db *DB) (*checkpointer, error) {
	c, err := openLite(d.path, "rw", []string{`synchronous = FULL`, `wal_autocheckpoint = 0`, `cache_size = -256`})
	if err != nil {
		return nil, err
	}
	return &checkpointer{
		conn: c, commits: make(chan struct{}, 1), ended: make(chan struct{}), gate: make(chan struct{}, 1), log: db.cfg.Log,
		rest: func() error {
			return db.between(context.Background(), func(w conn) error {
				_, err := fold(w.(*liteConn), "PASSIVE")
				return err
			})
		},
	}, nil
}

// committed counts a commit over a connection. After every logLook commits, it makes run check the length of the log.
// The committer calls it after each commit.
func (k *checkpointer) committed(w conn) {
	if k == nil {
		return
	}
	if k.seen++; k.seen >= logLook {
		k.seen = 0
		select {
		case k.commits <- struct{}{}:
		default: // a check is pending; if it does not copy fast enough, no more commits may follow until it has
			if l, err := fold(w.(*liteConn), "NOOP"); err == nil && l.pages >= longestLog {
				k.copying.Lock()
				k.copying.Unlock() //nolint:staticcheck // nothing is to be done meanwhile
			}
		}
	}
}

// run checks the log whenever committed asks for it, until stop is called.
func (k *checkpointer) run() {
	defer close(k.ended)
	for range k.commits {
		if err := k.look(); err != nil && !errors.Is(err, ErrClosed) {
			k.log.Warn("the checkpoint of the write-ahead log failed", "err", err)
		}
	}
}

// look copies the log if it has become long, unless the file of the database must not change.
func (k *checkpointer) look() error {
	select {
	case k.gate <- struct{}{}:
	default:
		return nil // the next commits make run look again
	}
	defer func() { <-k.gate }()
	l, err := fold(k.conn, "NOOP")
	if err != nil || l.pages-l.copied < longLog {
		return err
	}
	for try := 0; l.pages-l.copied > shortRest && l.pages < longestLog && try < copyTries; try++ {
		k.copying.Lock()
		l, err = fold(k.conn, "PASSIVE")
		k.copying.Unlock()
		if err != nil || l.pages < tooLongLog {
			return err
		}
		if l, err = fold(k.conn, "NOOP"); err != nil {
			return err
		}
	}
	return k.rest()
}

func (k *checkpointer) stop() error {
	if k == nil {
		return nil
	}
	close(k.commits)
	<-k.ended
	return k.conn.close()
}

// walState is the result of a checkpoint.
type walState struct {
	busy          bool
	pages, copied int64
}

func fold(c *liteConn, mode string) (l walState, err error) {
	err = c.pragma("wal_checkpoint("+mode+")", &l.busy, &l.pages, &l.copied)
	return l, full(err)
}

const (
	// vacuumPages is how many pages one step returns to the file system, at most.
	vacuumPages = 256
	// truncateWait is how long one attempt to empty the log waits for readers. No batch runs meanwhile.
	truncateWait = 20 * time.Millisecond
	// truncateTries bounds the attempts. Readers release their snapshots within milliseconds.
	truncateTries = 200
)

// maintain returns free pages to the file system and empties the log, in small steps between batches. It waits while
// the file of the database is held; see DB.Hold.
func (sqliteDialect) maintain(ctx context.Context, db *DB) error {
	at := db.Pace(vacuumPages)
	for more := true; more; at.Rest(ctx, 0, more) {
		err := db.between(ctx, func(w conn) (err error) { more, err = vacuumStep(w.(*liteConn), at); return err })
		if err != nil {
			return fmt.Errorf("return free pages to the file system: %w", err)
		}
	}
	if err := db.checkpointer.acquire(ctx); err != nil {
		return err
	}
	defer db.checkpointer.release()
	return emptyLog(ctx, db)
}

func vacuumStep(w *liteConn, at *pace.Pace) (more bool, err error) {
	var before, after int64
	if err := w.pragma("freelist_count", &before); err != nil || before == 0 {
		return false, err
	}
	measured := at.Measure()
	if err := w.begin(true); err != nil {
		return false, full(err)
	}
	err = w.pragma(fmt.Sprintf("incremental_vacuum(%d)", at.Step()))
	if measured(); err == nil {
		err = w.commit()
	}
	if err != nil {
		return false, errors.Join(full(err), w.rollback())
	}
	err = w.pragma("freelist_count", &after)
	return after > 0 && after < before, err
}

func truncateLog(w *liteConn) (l walState, err error) {
	if err := w.pragma(fmt.Sprintf("busy_timeout = %d", truncateWait.Milliseconds())); err != nil {
		return l, err
	}
	l, err = fold(w, "TRUNCATE")
	return l, errors.Join(err, w.pragma("busy_timeout = 10000"))
}
