package storage

import (
	"cmp"
	"fmt"
	"slices"

	"ebb/ident"
)

// fate is something that can happen to an event and affects the rows that depend on it.
type fate int

const (
	redacted     fate = 1 << iota // the content is replaced by the redacted form
	rejected                      // an accepted event is rejected and loses its position in the timeline
	purged                        // the row is deleted or reduced to what the event graph needs
	redactedKept                  // like redacted, but the original is kept
	kept                          // the row stays as it is because of a legal hold, but for readers the event is purged
)

// A dependent is a kind of row that is stored because of an event, besides the event's own row.
type dependent struct {
	name     string
	goesWhen fate // the fates of the event that remove these rows
	// rows says where the rows are, by the position of the event, or by the hash of its ID if byHash is set.
	rows   rowsOf
	byHash bool
	// remove deletes the rows that depend on one event.
	remove func(tx *Tx, p Pos, eventID string) error
	// removeAll deletes the rows that depend on any of the given events of a room, of which there are at most maxIn,
	// sorted by position. A kind that most messages have uses it in place of rows and remove. It is called before the
	// events are deleted.
	removeAll func(tx *Tx, room ident.RoomNID, events []PurgeCandidate) error
}

// rowsOf names the column of a table that says on which event a row depends. An index begins with it. where is "", or a
// condition, and AND.
type rowsOf struct{ table, column, where string }

// dependents lists everything that depends on an event. Redaction, rejection, purge and erasure use this list. A new
// table with rows for events (search terms, attachments, notifications) needs an entry.
var dependents = []dependent{
	{ // Replies return to the main timeline. This reads their relations, so it comes before these are removed.
		name:     "replies in a thread",
		goesWhen: purged | kept,
		rows:     rowsOf{"relations", "parent_hash", ""},
		byHash:   true,
		remove: func(tx *Tx, p Pos, eventID string) error {
			_, err := tx.exec(orphanRepliesQuery, tx.IDHash(eventID), eventID, int64(p))
			return err
		},
	},
	{ // The thread whose root is the event.
		name:     "threads",
		goesWhen: purged | kept,
		rows:     rowsOf{"threads", "root", ""},
		remove: func(tx *Tx, p Pos, _ string) error {
			_, err := tx.exec(`DELETE FROM threads WHERE root = $1`, int64(p))
			return err
		},
	},
	{ // The subscriptions to the thread whose root is the event.
		name:     "thread subscriptions",
		goesWhen: purged | kept,
		rows:     rowsOf{"thread_subscriptions", "root", ""},
		remove: func(tx *Tx, p Pos, _ string) error {
			_, err := tx.exec(`DELETE FROM thread_subscriptions WHERE root = $1`, int64(p))
			return err
		},
	},
	{ // The event's relation to another one.
		name:     "relations",
		goesWhen: redacted | redactedKept | rejected | purged | kept,
		rows:     rowsOf{"relations", "position", ""},
		remove:   func(tx *Tx, p Pos, _ string) error { return tx.DeleteRelation(p) },
	},
	{ // The reports about the event. They show it as it is now, so only a purge leaves nothing to show. A legal hold keeps
		// them: they may be evidence.
		name:     "reports",
		goesWhen: purged,
		rows:     rowsOf{"report_events", "position", ""},
		remove: func(tx *Tx, p Pos, _ string) error {
			_, err := tx.exec(`DELETE FROM report_events WHERE position = $1`, int64(p))
			return err
		},
	},
	{ // The users whom the event notifies differently from the rest of the room.
		name:     "notifications",
		goesWhen: redacted | redactedKept | rejected | purged | kept,
		rows:     rowsOf{"event_push", "position", ""},
		remove: func(tx *Tx, p Pos, _ string) error {
			_, err := tx.exec(`DELETE FROM event_push WHERE position = $1`, int64(p))
			return err
		},
	},
	{ // That the event is sticky.
		name:     "sticky events",
		goesWhen: redacted | redactedKept | rejected | purged | kept,
		rows:     rowsOf{"sticky_events", "position", ""},
		remove: func(tx *Tx, p Pos, _ string) error {
			_, err := tx.exec(`DELETE FROM sticky_events WHERE position = $1`, int64(p))
			return err
		},
	},
	{ // That the event is to be destroyed (MSC2228).
		name:     "self-destruction",
		goesWhen: redacted | redactedKept | rejected | purged | kept,
		rows:     rowsOf{"self_destructs", "position", ""},
		remove:   func(tx *Tx, p Pos, _ string) error { return tx.DeleteSelfDestruct(p) },
	},
	{ // The event's references to media, and the media to which nothing else refers. A redaction has deleted those of all
		// rows of the event before, unless the original is kept.
		name:     "media",
		goesWhen: redacted | purged,
		rows:     rowsOf{"media_refs", "owner", "kind IN (0, 2) AND "},
		remove:   func(tx *Tx, p Pos, _ string) error { return tx.releaseEventMedia(p) },
	},
	{ // The references of an event that is rejected. It may be accepted again, so its media stay for a while.
		name:     "media of a rejected event",
		goesWhen: rejected,
		remove: func(tx *Tx, p Pos, _ string) error {
			_, err := tx.exec(dropRejectedMediaQuery, int64(p))
			return err
		},
	},
	{ // What a redacted event was before. The purge of originals deletes it if the event stays longer.
		name:     "originals",
		goesWhen: purged,
		removeAll: func(tx *Tx, _ ident.RoomNID, events []PurgeCandidate) error {
			list, args := In(1, positionsOf(events))
			if err := tx.soil(`SELECT body_key FROM originals WHERE position IN `+list, args...); err != nil {
				return err
			}
			_, err := tx.exec(`DELETE FROM originals WHERE position IN `+list, args...)
			return err
		},
	},
	{ // Receipts at the event, and those in its thread.
		name:      "receipts",
		goesWhen:  purged | kept,
		removeAll: (*Tx).clearReceipts,
	},
	{ // m.fully_read markers at the event.
		name:      "m.fully_read markers",
		goesWhen:  purged | kept,
		removeAll: (*Tx).removeMarkers,
	},
	{ // The words in the search index of an event that stays.
		name:      "search terms of an event that stays",
		goesWhen:  redacted | redactedKept | rejected | kept,
		removeAll: (*Tx).removeFromSearch,
	},
	{ // Those of purged events, of which there may be many: blocks are marked that lose them at the end of the run.
		name:      "search terms",
		goesWhen:  purged,
		removeAll: (*Tx).outdateSearch,
	},
}

// Dependents returns the names of the kinds of rows that a purge of an event removes.
func Dependents() (names []string) {
	for _, d := range dependents {
		if d.goesWhen&purged != 0 {
			names = append(names, d.name)
		}
	}
	return names
}

// The limit of four steps is one more than the search for a thread's root takes upwards.
const orphanRepliesQuery = `UPDATE events SET thread_root = 0 WHERE thread_root = $3 AND position IN (
    WITH RECURSIVE tree (position, depth) AS (
        SELECT position, 1 FROM relations WHERE parent_hash = $1 AND parent_id = $2 AND rel_type = 'm.thread'
        UNION
        SELECT r.position, t.depth + 1 FROM tree t JOIN events e ON e.position = t.position
        JOIN relations r ON r.parent_hash = e.id_hash AND r.parent_id = e.event_id WHERE t.depth < 4)
    SELECT position FROM tree)`

// removeDependents deletes the rows that depend on an event and that go when f happens to it.
func (tx *Tx) removeDependents(f fate, p Pos, eventID string) error {
	if err := tx.removeOwnDependents(f, p, eventID); err != nil {
		return err
	}
	events, err := tx.candidatesAt([]Pos{p})
	if err != nil {
		return err
	}
	return tx.removeCommonDependents(f, events)
}

// removeOwnDependents does the work of removeDependents for the kinds of dependents that have a remove function.
func (tx *Tx) removeOwnDependents(f fate, p Pos, eventID string) error {
	for _, d := range dependents {
		if d.goesWhen&f == 0 || d.remove == nil {
			continue
		}
		if err := d.remove(tx, p, eventID); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return nil
}

// removeCommonDependents does the work of removeDependents for the kinds of dependents that have a removeAll function,
// and for at most maxIn events at once.
func (tx *Tx) removeCommonDependents(f fate, events []PurgeCandidate) error {
	byRoom := map[ident.RoomNID][]PurgeCandidate{}
	for _, e := range events {
		byRoom[e.Room] = append(byRoom[e.Room], e)
	}
	for room, events := range byRoom {
		slices.SortFunc(events, func(a, b PurgeCandidate) int { return cmp.Compare(a.Position, b.Position) })
		for _, d := range dependents {
			if d.goesWhen&f == 0 || d.removeAll == nil {
				continue
			}
			if err := d.removeAll(tx, room, events); err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
		}
	}
	return nil
}

// positionsOf returns the positions of events.
func positionsOf(events []PurgeCandidate) []Pos {
	out := make([]Pos, len(events))
	for i, e := range events {
		out[i] = e.Position
	}
	return out
}

// WithDependents returns the positions of those events in a purge batch on which rows depend that must be deleted event
// by event, by the remove function of their kind. Most messages have none. A few queries with lists find that out more
// cheaply than several statements for each message, and kinds that no event near the batch has cost no such query.
func (tx *Tx) WithDependents(batch []PurgeCandidate) (map[Pos]bool, error) {
	found := map[Pos]bool{}
	for part := range slices.Chunk(batch, maxIn) {
		positions, hashes := positionsOf(part), make([]int64, len(part))
		withHash := map[int64][]Pos{}
		for i, c := range part {
			hashes[i] = tx.IDHash(c.EventID)
			withHash[hashes[i]] = append(withHash[hashes[i]], c.Position)
		}
		kinds, err := collect(tx, scanNumber[int64], kindsBetweenQuery, int64(slices.Min(positions)), int64(slices.Max(positions)))
		if err != nil {
			return nil, err
		}
		list, args := In(1, positions)
		hashList, hashArgs := In(1, hashes)
		for _, kind := range kinds {
			d := &foundByRows[kind]
			in, values := list, args
			if d.byHash {
				in, values = hashList, hashArgs
			}
			keys, err := collect(tx, scanNumber[int64], d.rows.query()+` IN `+in, values...)
			if err != nil {
				return nil, err
			}
			for _, key := range keys {
				owners := []Pos{Pos(key)}
				if d.byHash { // includes another event with the same hash, for which removing finds no rows
					owners = withHash[key]
				}
				for _, p := range owners {
					found[p] = true
				}
			}
		}
	}
	return found, nil
}

// query returns the beginning of a query for the keys of such rows.
func (r rowsOf) query() string {
	return `SELECT DISTINCT ` + r.column + ` FROM ` + r.table + ` WHERE ` + r.where + r.column
}

// foundByRows lists the dependents for which WithDependents looks, all of which go with a purged or kept event, and
// kindsBetweenQuery finds which of these, by number, some event between two positions may have.
var foundByRows, kindsBetweenQuery = func() (kinds []dependent, query string) {
	for _, d := range dependents {
		if d.rows.table == "" {
			continue
		}
		query += fmt.Sprintf(` UNION ALL SELECT %d`, len(kinds))
		if !d.byHash { // hashes are random
			query += ` WHERE EXISTS (` + d.rows.query() + ` BETWEEN $1 AND $2)`
		}
		kinds = append(kinds, d)
	}
	return kinds, query[len(` UNION ALL `):]
}()
