package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ebb/storage/pace"
)

// SQLite merges two pages of a table only when one of them is almost empty. So when many events are deleted from
// between others, the pages with the others stay half empty, and as new events have higher positions, the space is
// never used again. Compact stores what is left of such ranges anew, in the order of the positions. SQLite then fills
// the pages as it does for a table into which rows are inserted in order, and the freed pages are returned by Maintain.
// The rows stay exactly as they were.
//
// Which ranges these are is counted when events are deleted, in blocks of positions, since finding out later would mean
// to read the whole table. The indexes are left alone: those in random order are filled again by new events.

const (
	// gapBlock is the number of positions in a block.
	gapBlock = 1 << 14
	// minGaps is the number of deleted events from which a block may be worth the work.
	minGaps = 256
	// gapShare is the number of remaining events for each deleted one up to which it is: the space of a fifth of the
	// events is gained then, for at most four events that are written again.
	gapShare = 4
	// maxMoved bounds the texts, in bytes, that one step moves, besides the number of events, since events may be
	// large.
	maxMoved = 1 << 20
)

const addGapsQuery = `INSERT INTO event_gaps (block, deleted, due) VALUES ($1, $2, $3) ON CONFLICT (block) DO UPDATE SET deleted = event_gaps.deleted + excluded.deleted`

// addGaps counts events that are deleted. Their positions are in order, or nearly so.
func (tx *Tx) addGaps(positions []Pos) error {
	if tx.db.checkpointer == nil {
		return nil
	}
	for len(positions) > 0 {
		block, n := int64(positions[0])/gapBlock, 1
		for n < len(positions) && int64(positions[n])/gapBlock == block {
			n++
		}
		if _, err := tx.exec(addGapsQuery, block, n, minGaps); err != nil {
			return err
		}
		positions = positions[n:]
	}
	return nil
}

// gaps is a row of event_gaps.
type gaps struct{ block, deleted, done, counted int64 }

func (g gaps) end() int64 { return (g.block+1)*gapBlock - 1 }

const (
	dueGapsQuery   = `SELECT block, deleted, done, counted FROM event_gaps WHERE done > 0 OR deleted >= due ORDER BY done DESC, block LIMIT 1`
	leftInGaps     = `SELECT count(*) FROM events WHERE position >= $1 AND position <= $2`
	deferGapsQuery = `UPDATE event_gaps SET due = $2 WHERE block = $1`
	beginGapsQuery = `UPDATE event_gaps SET done = $2, counted = deleted WHERE block = $1`
	stepGapsQuery  = `UPDATE event_gaps SET done = $2 WHERE block = $1`
	// What was deleted meanwhile counts for the next time.
	endGapsQuery    = `UPDATE event_gaps SET done = 0, counted = 0, deleted = deleted - counted, due = $2 WHERE block = $1`
	forgetGapsQuery = `DELETE FROM event_gaps WHERE block = $1 AND deleted = 0`
)

// Compact stores some events together between which many others were deleted, and reports whether there may be more to
// do. Each call is one short transaction between two batches; after a crash the next call continues. Maintain returns
// the freed space to the file system. On PostgreSQL, where autovacuum does this work, Compact does nothing.
func (db *DB) Compact(ctx context.Context, at *pace.Pace) (more bool, err error) {
	if db.checkpointer == nil {
		return false, nil
	}
	g, found, err := db.dueGaps(ctx)
	if err != nil || !found {
		return false, err
	}
	if !db.checkpointer.idle() {
		return true, nil
	}
	err = db.between(ctx, func(w conn) error {
		defer db.checkpointer.committed(w)
		return full(compactStep(w.(*liteConn), g, at))
	})
	if err != nil {
		return false, fmt.Errorf("store events together: %w", err)
	}
	return true, nil
}

// heldWait is how long a step of Compact waits for the end of a checkpoint or a backup before it gives up.
const heldWait = 20 * time.Millisecond

// idle waits for a moment until no checkpoint runs, and reports whether that is so. While the file is held for a
// backup, the log should not grow more than it must.
func (k *checkpointer) idle() bool {
	timer := time.NewTimer(heldWait)
	defer timer.Stop()
	select {
	case k.gate <- struct{}{}:
		<-k.gate
		return true
	case <-timer.C:
		return false
	}
}

// dueGaps returns the next block that is worth the work, and marks it as begun.
func (db *DB) dueGaps(ctx context.Context) (g gaps, found bool, err error) {
	for {
		var left int64
		err := db.Read(ctx, func(tx *Tx) (err error) {
			g, found, err = one(tx, func(r Row) (g gaps, err error) {
				err = r.Scan(&g.block, &g.deleted, &g.done, &g.counted)
				return g, err
			}, dueGapsQuery)
			if err == nil && found && g.done == 0 {
				left, _, err = one(tx, scanNumber[int64], leftInGaps, g.block*gapBlock, g.end())
			}
			return err
		})
		if err != nil || !found || g.done > 0 {
			return g, found, err
		}
		worth := left <= gapShare*g.deleted
		g.done = max(g.block*gapBlock-1, 1)
		err = db.Write(ctx, func(tx *Tx) (err error) {
			if worth {
				_, err = tx.exec(beginGapsQuery, g.block, g.done)
			} else {
				_, err = tx.exec(deferGapsQuery, g.block, max(left/gapShare, g.deleted+minGaps))
			}
			return err
		})
		if err != nil || worth {
			return g, worth, err
		}
	}
}

// compacted lists the tables with a row for each of many events whose keys are the positions of the events.
var compacted = []string{"events", "relations"}

// compactStep stores the next events of a block anew.
func compactStep(w *liteConn, g gaps, at *pace.Pace) (err error) {
	measured := at.Measure()
	for _, table := range compacted {
		if err := run(w, `CREATE TEMP TABLE IF NOT EXISTS moved_`+table+` AS SELECT * FROM `+table+` WHERE 0`); err != nil {
			return err
		}
	}
	if err := w.begin(true); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.rollback())
		}
	}()
	last, err := lastToMove(w, g, at.Step())
	if err != nil {
		return err
	}
	for _, table := range compacted {
		if err := move(w, table, g.done, last); err != nil {
			return err
		}
	}
	if last < g.end() {
		_, err = w.exec(stepGapsQuery, g.block, last)
	} else if _, err = w.exec(endGapsQuery, g.block, minGaps); err == nil {
		_, err = w.exec(forgetGapsQuery, g.block)
	}
	if err != nil {
		return err
	}
	measured()
	return w.commit()
}

const toMoveQuery = `SELECT position, octet_length(json) FROM events WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3`

// lastToMove returns the position up to which a step moves rows.
func lastToMove(w *liteConn, g gaps, limit int) (last int64, err error) {
	n, size := 0, 0
	err = w.query(func(r Row) error {
		var position int64
		var length int
		err := r.Scan(&position, &length)
		if size += length; n == 0 || size <= maxMoved {
			n, last = n+1, position
		}
		return err
	}, toMoveQuery, g.done, g.end(), limit)
	if n < limit && size <= maxMoved {
		last = g.end()
	}
	return last, err
}

// move deletes the rows of a table whose keys are above after and up to last, and inserts them again in order.
func move(w *liteConn, table string, after, last int64) error {
	const which = ` WHERE position > $1 AND position <= $2`
	if _, err := w.exec(`INSERT INTO moved_`+table+` SELECT * FROM `+table+which, after, last); err != nil {
		return err
	}
	if _, err := w.exec(`DELETE FROM `+table+which, after, last); err != nil {
		return err
	}
	if _, err := w.exec(`INSERT INTO ` + table + ` SELECT * FROM moved_` + table + ` ORDER BY position`); err != nil {
		return err
	}
	return run(w, `DELETE FROM moved_`+table)
}
