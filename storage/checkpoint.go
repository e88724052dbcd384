package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// The write-ahead log of SQLite is folded back into the database by a connection of its own, while commits go on. Under
// load that never reaches the end of the log, since the committer writes on; so when the log has become long, the committer
// folds the rest itself, between two batches, and the next batch starts the log anew.

const (
	// logLook: commits between two looks at the length of the log.
	logLook = 8
	// longLog and tooLongLog are in pages (4 KiB). Longer showed no gain in CPU per write from 1,024 to 16,384 pages, and
	// after a crash the log has to be read whole before the first answer (32 MiB took 90 ms).
	longLog    = 1024
	tooLongLog = 4 * longLog
)

// checkpointer folds the log. Nil where there is none to fold.
type checkpointer struct {
	conn    *liteConn
	commits chan struct{}
	ended   chan struct{}
	rest    func() error // folds what is left, between batches
	log     *slog.Logger
	seen    int // commits since the last look; the committer's
}

func (d sqliteDialect) openCheckpointer(db *DB) (*checkpointer, error) {
	c, err := openLite(d.path, "rw", []string{`synchronous = FULL`, `wal_autocheckpoint = 0`, `cache_size = -256`})
	if err != nil {
		return nil, err
	}
	return &checkpointer{
		conn: c, commits: make(chan struct{}, 1), ended: make(chan struct{}), log: db.cfg.Log,
		rest: func() error {
			return db.between(context.Background(), func(w conn) error {
				_, err := fold(w.(*liteConn), "PASSIVE")
				return err
			})
		},
	}, nil
}

// committed is called by the committer after each commit.
func (k *checkpointer) committed() {
	if k == nil {
		return
	}
	if k.seen++; k.seen >= logLook {
		k.seen = 0
		select {
		case k.commits <- struct{}{}:
		default: // it is at work
		}
	}
}

// run works until stop.
func (k *checkpointer) run() {
	defer close(k.ended)
	for range k.commits {
		if err := k.look(); err != nil && !errors.Is(err, ErrClosed) {
			k.log.Warn("fold the write-ahead log back", "err", err)
		}
	}
}

func (k *checkpointer) look() error {
	l, err := fold(k.conn, "NOOP")
	if err != nil || l.pages-l.folded < longLog {
		return err
	}
	if l, err = fold(k.conn, "PASSIVE"); err != nil || l.pages < tooLongLog {
		return err
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

// walState is the answer to a checkpoint.
type walState struct {
	busy          bool
	pages, folded int64
}

func fold(c *liteConn, mode string) (l walState, err error) {
	err = c.pragma("wal_checkpoint("+mode+")", &l.busy, &l.pages, &l.folded)
	return l, full(err)
}

const (
	// vacuumPages go back to the file system in one step: under 20 ms, between batches.
	vacuumPages = 256
	// truncateWait is how long a step that empties the log waits for readers, while no batch runs.
	truncateWait = 20 * time.Millisecond
	// truncateTries bounds the steps; readers of a snapshot are gone in milliseconds.
	truncateTries = 200
)

// maintain works in small steps between batches.
func (sqliteDialect) maintain(ctx context.Context, db *DB) error {
	for more := true; more; {
		err := db.between(ctx, func(w conn) (err error) { more, err = vacuumStep(w.(*liteConn)); return err })
		if err != nil {
			return fmt.Errorf("give free pages back: %w", err)
		}
	}
	for range truncateTries {
		var l walState
		err := db.between(ctx, func(w conn) (err error) { l, err = truncateLog(w.(*liteConn)); return err })
		if err != nil {
			return fmt.Errorf("empty the write-ahead log: %w", err)
		}
		if !l.busy {
			return nil
		}
		select {
		case <-time.After(truncateWait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("empty the write-ahead log: a reader does not let go of it")
}

func vacuumStep(w *liteConn) (more bool, err error) {
	var before, after int64
	if err := w.pragma("freelist_count", &before); err != nil || before == 0 {
		return false, err
	}
	if err := w.pragma(fmt.Sprintf("incremental_vacuum(%d)", vacuumPages)); err != nil {
		return false, full(err)
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
