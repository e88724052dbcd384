package storage

import (
	"maps"
	"slices"
)

// Entries of several states at once.

// StateKey names one entry of the state of a snapshot.
type StateKey struct {
	Snapshot  int64
	Type, Key string
}

// stateLink is one snapshot of a chain.
type stateLink struct {
	prev int64        // 0: a full snapshot, of which own is not read
	own  []StateEntry // what it changes
	next []int64      // the snapshots over it
}

// maxChainIn is how many snapshots are asked for in one statement: what their chains have in common is read once for each statement, and a
// chain may be an eighth as long as the room has members.
const maxChainIn = 4096

const stateChainsQuery = ` UNION SELECT s.nid, s.prev FROM state_snapshots s JOIN chain c ON s.nid = c.prev)
SELECT c.nid, c.prev, d.type, d.state_key, d.position FROM chain c LEFT JOIN state_deltas d ON c.prev <> 0 AND d.snapshot = c.nid`

// StateKeysOf reads entries of several states; those that are absent are left out. However many there are, it takes a few
// statements, and no entry is looked for along its whole chain. It rides the primary keys.
func (tx *Tx) StateKeysOf(wanted []StateKey) (map[StateKey]Pos, error) {
	bySnapshot := map[int64][]StateKey{}
	for _, w := range wanted {
		if w.Snapshot != 0 {
			bySnapshot[w.Snapshot] = append(bySnapshot[w.Snapshot], w)
		}
	}
	links, err := tx.stateLinks(bySnapshot)
	if err != nil {
		return nil, err
	}
	found := make(map[StateKey]Pos, len(wanted))
	for nid, l := range links {
		if l.prev != 0 {
			continue
		}
		w := stateWalk{links: links, wanted: bySnapshot, now: map[StateKey][]Pos{}, found: found, rest: map[string][]StateKey{}}
		w.from(nid)
		if err := tx.fullStateKeys(nid, w.rest, found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// stateLinks reads the chains of snapshots, down to the full ones.
func (tx *Tx) stateLinks(of map[int64][]StateKey) (map[int64]*stateLink, error) {
	links := make(map[int64]*stateLink, len(of))
	for nids := range slices.Chunk(slices.Sorted(maps.Keys(of)), maxChainIn) {
		list, args := In(1, nids)
		q := `WITH RECURSIVE chain (nid, prev) AS (SELECT nid, prev FROM state_snapshots WHERE nid IN ` + list + stateChainsQuery
		read := map[int64]*stateLink{}
		err := tx.each(func(r Row) error { return scanStateLink(r, read) }, q, args...)
		if err != nil {
			return nil, err
		}
		maps.Copy(links, read)
	}
	for nid, l := range links {
		if below := links[l.prev]; below != nil {
			below.next = append(below.next, nid)
		}
	}
	return links, nil
}

func scanStateLink(r Row, into map[int64]*stateLink) error {
	var nid, prev int64
	var typ, key *string
	var pos *int64
	if err := r.Scan(&nid, &prev, &typ, &key, &pos); err != nil {
		return err
	}
	l := into[nid]
	if l == nil {
		l = &stateLink{prev: prev}
		into[nid] = l
	}
	if pos != nil {
		l.own = append(l.own, StateEntry{*typ, *key, Pos(*pos)})
	}
	return nil
}

// stateWalk looks for entries in the snapshots over a full one. It visits each of them once, after the one below it.
type stateWalk struct {
	links  map[int64]*stateLink
	wanted map[int64][]StateKey
	now    map[StateKey][]Pos    // by type and key: what the snapshots down to the full one say of it, the topmost last
	found  map[StateKey]Pos      // of those that are wanted
	rest   map[string][]StateKey // of which none of them says anything, by type
}

// from visits a snapshot and all over it.
func (w *stateWalk) from(nid int64) {
	type step struct {
		nid  int64
		back bool // everything over it was visited
	}
	for todo := []step{{nid: nid}}; len(todo) > 0; {
		last := len(todo) - 1
		at := todo[last]
		if at.back {
			todo = todo[:last]
			w.leave(at.nid)
			continue
		}
		todo[last].back = true
		w.enter(at.nid)
		for _, nid := range w.links[at.nid].next {
			todo = append(todo, step{nid: nid})
		}
	}
}

func (w *stateWalk) enter(nid int64) {
	for _, e := range w.links[nid].own {
		k := StateKey{Type: e.Type, Key: e.Key}
		w.now[k] = append(w.now[k], e.Position)
	}
	for _, k := range w.wanted[nid] {
		switch here := w.now[StateKey{Type: k.Type, Key: k.Key}]; {
		case len(here) == 0:
			w.rest[k.Type] = append(w.rest[k.Type], k)
		case here[len(here)-1] != 0:
			w.found[k] = here[len(here)-1]
		}
	}
}

func (w *stateWalk) leave(nid int64) {
	for _, e := range w.links[nid].own {
		k := StateKey{Type: e.Type, Key: e.Key}
		w.now[k] = w.now[k][:len(w.now[k])-1]
	}
}

const fullStateKeysQuery = `SELECT state_key, position FROM state_deltas WHERE snapshot = $1 AND type = $2 AND state_key IN `

// fullStateKeys finds entries in a full snapshot.
func (tx *Tx) fullStateKeys(full int64, wanted map[string][]StateKey, found map[StateKey]Pos) error {
	for typ, all := range wanted {
		for part := range slices.Chunk(all, maxIn) {
			keys, byKey := []string{}, map[string][]StateKey{}
			for _, w := range part {
				if byKey[w.Key] == nil {
					keys = append(keys, w.Key)
				}
				byKey[w.Key] = append(byKey[w.Key], w)
			}
			list, args := In(3, keys)
			err := tx.each(func(r Row) error {
				var key string
				var pos Pos
				err := r.Scan(&key, &pos)
				for _, w := range byKey[key] {
					found[w] = pos
				}
				return err
			}, fullStateKeysQuery+list, append([]any{full, typ}, args...)...)
			if err != nil {
				return err
			}
		}
	}
	return nil
}
