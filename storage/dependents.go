package storage

import (
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
	// find returns those of the keys in an IN list for which such rows exist. The keys are positions, or hashes of
	// event IDs if byHash is set.
	find   func(tx *Tx, list string, keys []any) ([]int64, error)
	byHash bool
	// remove deletes the rows that depend on one event.
	remove func(tx *Tx, p Pos, eventID string) error
	// removeAll deletes the rows that depend on any of the given events of a room, of which there are at most maxIn,
	// sorted. A kind that most messages have uses it in place of find and remove. It is called before the events are
	// deleted.
	removeAll func(tx *Tx, room ident.RoomNID, positions []Pos) error
}

// dependents lists everything that depends on an event. Redaction, rejection, purge and erasure use this list. A new
// table with rows for events (search terms, attachments, notifications) needs an entry.
var dependents = []dependent{
	{ // Replies return to the main timeline. This reads their relations, so it comes before these are removed.
		name:     "replies in a thread",
		goesWhen: purged | kept,
		find: func(tx *Tx, list string, keys []any) ([]int64, error) {
			return collect(tx, scanNumber[int64], `SELECT DISTINCT parent_hash FROM relations WHERE parent_hash IN `+list, keys...)
		},
		byHash: true,
		remove: func(tx *Tx, p Pos, eventID string) error {
			_, err := tx.exec(orphanRepliesQuery, tx.IDHash(eventID), eventID, int64(p))
			return err
		},
	},
	{ // The thread whose root is the event.
		name:     "threads",
		goesWhen: purged | kept,
		find: func(tx *Tx, list string, keys []any) ([]int64, error) {
			return collect(tx, scanNumber[int64], `SELECT root FROM threads WHERE root IN `+list, keys...)
		},
		remove: func(tx *Tx, p Pos, _ string) error {
			_, err := tx.exec(`DELETE FROM threads WHERE root = $1`, int64(p))
			return err
		},
	},
	{ // The subscriptions to the thread whose root is the event.
		name:     "thread subscriptions",
		goesWhen: purged | kept,
		find: func(tx *Tx, list string, keys []any) ([]int64, error) {
			return collect(tx, scanNumber[int64], `SELECT DISTINCT root FROM thread_subscriptions WHERE root IN `+list, keys...)
		},
		remove: func(tx *Tx, p Pos, _ string) error {
			_, err := tx.exec(`DELETE FROM thread_subscriptions WHERE root = $1`, int64(p))
			return err
		},
	},
	{ // The event's relation to another one.
		name:     "relations",
		goesWhen: redacted | redactedKept | rejected | purged | kept,
		find: func(tx *Tx, list string, keys []any) ([]int64, error) {
			return collect(tx, scanNumber[int64], `SELECT position FROM relations WHERE position IN `+list, keys...)
		},
		remove: func(tx *Tx, p Pos, _ string) error { return tx.DeleteRelation(p) },
	},
	{ // The reports about the event. They show it as it is now, so only a purge leaves nothing to show. A legal hold keeps
		// them: they may be evidence.
		name:     "reports",
		goesWhen: purged,
		find: func(tx *Tx, list string, keys []any) ([]int64, error) {
			return collect(tx, scanNumber[int64], `SELECT position FROM report_events WHERE position IN `+list, keys...)
		},
		remove: func(tx *Tx, p Pos, _ string) error {
			_, err := tx.exec(`DELETE FROM report_events WHERE position = $1`, int64(p))
			return err
		},
	},
	{ // The users whom the event notifies differently from the rest of the room.
		name:     "notifications",
		goesWhen: redacted | redactedKept | rejected | purged | kept,
		find: func(tx *Tx, list string, keys []any) ([]int64, error) {
			return collect(tx, scanNumber[int64], `SELECT position FROM event_push WHERE position IN `+list, keys...)
		},
		remove: func(tx *Tx, p Pos, _ string) error {
			_, err := tx.exec(`DELETE FROM event_push WHERE position = $1`, int64(p))
			return err
		},
	},
	{ // That the event is sticky.
		name:     "sticky events",
		goesWhen: redacted | redactedKept | rejected | purged | kept,
		find: func(tx *Tx, list string, keys []any) ([]int64, error) {
			return collect(tx, scanNumber[int64], `SELECT position FROM sticky_events WHERE position IN `+list, keys...)
		},
		remove: func(tx *Tx, p Pos, _ string) error {
			_, err := tx.exec(`DELETE FROM sticky_events WHERE position = $1`, int64(p))
			return err
		},
	},
	{ // That the event is to be destroyed (MSC2228).
		name:     "self-destruction",
		goesWhen: redacted | redactedKept | rejected | purged | kept,
		find: func(tx *Tx, list string, keys []any) ([]int64, error) {
			return collect(tx, scanNumber[int64], `SELECT position FROM self_destructs WHERE position IN `+list, keys...)
		},
		remove: func(tx *Tx, p Pos, _ string) error { return tx.DeleteSelfDestruct(p) },
	},
	{ // The event's references to media, and the media to which nothing else refers. A redaction has deleted those of all
		// rows of the event before, unless the original is kept.
		name:     "media",
		goesWhen: redacted | purged,
		find: func(tx *Tx, list string, keys []any) ([]int64, error) {
			return collect(tx, scanNumber[int64], eventsWithMediaQuery+list, keys...)
		},
		remove: func(tx *Tx, p Pos, _ string) error { return tx.releaseEventMedia(p) },
	},
	{ // The references of an event that is rejected. It may be accepted again, so its media stay for a while.
		name:     "media of a rejected event",
		goesWhen: rejected,
		find: func(tx *Tx, list string, keys []any) ([]int64, error) {
			return collect(tx, scanNumber[int64], eventsWithMediaQuery+list, keys...)
		},
		remove: func(tx *Tx, p Pos, _ string) error {
			_, err := tx.exec(dropRejectedMediaQuery, int64(p))
			return err
		},
	},
	{ // What a redacted event was before. The purge of originals deletes it if the event stays longer.
		name:     "originals",
		goesWhen: purged,
		removeAll: func(tx *Tx, _ ident.RoomNID, positions []Pos) error {
			list, args := In(1, positions)
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
	byRoom := map[ident.RoomNID][]Pos{}
	for _, e := range events {
		byRoom[e.Room] = append(byRoom[e.Room], e.Position)
	}
	for room, positions := range byRoom {
		slices.Sort(positions)
		for _, d := range dependents {
			if d.goesWhen&f == 0 || d.removeAll == nil {
				continue
			}
			if err := d.removeAll(tx, room, positions); err != nil {
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
// cheaply than several statements for each message.
func (tx *Tx) WithDependents(batch []PurgeCandidate) (map[Pos]bool, error) {
	found := map[Pos]bool{}
	for part := range slices.Chunk(batch, maxIn) {
		positions, hashes := positionsOf(part), make([]int64, len(part))
		withHash := map[int64][]Pos{}
		for i, c := range part {
			hashes[i] = tx.IDHash(c.EventID)
			withHash[hashes[i]] = append(withHash[hashes[i]], c.Position)
		}
		list, args := In(1, positions)
		hashList, hashArgs := In(1, hashes)
		for _, d := range dependents {
			if d.find == nil {
				continue
			}
			in, values := list, args
			if d.byHash {
				in, values = hashList, hashArgs
			}
			keys, err := d.find(tx, in, values)
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
