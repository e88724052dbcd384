package storage

import (
	"maps"
	"slices"
	"strings"
)

// Queries for entries of several states at once.

// StateKey identifies one entry of a snapshot's state.
type StateKey struct {
	Snapshot  int64
	Type, Key string
}

// stateLink is a snapshot in a chain. Each snapshot of a chain is a difference from the one before it; the first one is
// full.
type stateLink struct {
	prev int64        // the snapshot before it; 0 for a full snapshot
	own  []StateEntry // the entries that it changes; not read for a full snapshot
	next []int64      // the snapshots based on it
}

// maxChainIn is the number of snapshots in one statement. The common part of their chains is read once for each
// statement, and a chain may be an eighth as long as the room has members.
const maxChainIn = 4096

const stateChainsQuery = ` UNION SELECT s.nid, s.prev FROM state_snapshots s JOIN chain c ON s.nid = c.prev)
SELECT c.nid, c.prev, d.type, d.state_key, d.position FROM chain c LEFT JOIN state_deltas d ON c.prev <> 0 AND d.snapshot = c.nid`

// StateKeysOf returns the positions of entries in several states. It omits absent entries. It takes a few statements
// regardless of the number of entries and does not search a whole chain for each of them. It uses the primary keys.
func (tx *Tx) StateKeysOf(wanted []StateKey) (map[StateKey]Pos, error) {
	bySnapshot := map[int64][]StateKey{}
	for _, w := range wanted {
		if w.Snapshot != 0 {
			bySnapshot[w.Snapshot] = append(bySnapshot[w.Snapshot], w)
		}
	}
	links, err := tx.stateLinks(slices.Collect(maps.Keys(bySnapshot)))
	if err != nil {
		return nil, err
	}
	found := make(map[StateKey]Pos, len(wanted))
	full := fullStates{tx: tx, found: found}
	for nid, l := range links {
		if l.prev != 0 {
			continue
		}
		w := stateWalk{links: links, wanted: bySnapshot, now: map[StateKey][]Pos{}, found: found}
		visitStates(links, nid, w.enter, w.leave)
		if err := full.add(nid, w.rest); err != nil {
			return nil, err
		}
	}
	return found, full.find()
}

// stateLinks reads the chains of snapshots down to the full ones.
func (tx *Tx) stateLinks(of []int64) (map[int64]*stateLink, error) {
	links := make(map[int64]*stateLink, len(of))
	slices.Sort(of) // neighbours have most of their chains in common
	for nids := range slices.Chunk(of, maxChainIn) {
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

// visitStates visits a full snapshot and all snapshots based on it. It calls enter for each snapshot after the one on
// which it is based, and leave for each after those that are based on it.
func visitStates(links map[int64]*stateLink, full int64, enter, leave func(nid int64)) {
	type step struct {
		nid  int64
		back bool // whether the snapshots based on it were visited
	}
	for todo := []step{{nid: full}}; len(todo) > 0; {
		last := len(todo) - 1
		at := todo[last]
		if at.back {
			todo = todo[:last]
			leave(at.nid)
			continue
		}
		todo[last].back = true
		enter(at.nid)
		for _, nid := range links[at.nid].next {
			todo = append(todo, step{nid: nid})
		}
	}
}

// stateWalk finds entries in the snapshots based on a full one.
type stateWalk struct {
	links  map[int64]*stateLink
	wanted map[int64][]StateKey
	now    map[StateKey][]Pos // by type and key: the positions in the snapshots above the full one, the topmost last
	found  map[StateKey]Pos   // the wanted entries that were found
	rest   []StateKey         // the wanted entries that only the full snapshot may have
}

func (w *stateWalk) enter(nid int64) {
	for _, e := range w.links[nid].own {
		k := StateKey{Type: e.Type, Key: e.Key}
		w.now[k] = append(w.now[k], e.Position)
	}
	for _, k := range w.wanted[nid] {
		switch here := w.now[StateKey{Type: k.Type, Key: k.Key}]; {
		case len(here) == 0:
			w.rest = append(w.rest, k)
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

// fullStates looks up entries in full snapshots, of several snapshots at a time.
type fullStates struct {
	tx        *Tx
	found     map[StateKey]Pos
	asked     map[StateKey][]StateKey // the wanted entries, by the entry of the full snapshot
	snapshots []int64
	types     map[string]bool            // of entries with an empty state key
	keys      map[string]map[string]bool // by type: the state keys of the others
	entries   int                        // at least as many as there are in types and keys
}

// maxFullProbes bounds the entries that statements for several full snapshots look up: they look up every entry in
// every snapshot. It also bounds the placeholders.
const maxFullProbes = 512

// add adds entries that are wanted of the full snapshot with the given number.
func (f *fullStates) add(full int64, wanted []StateKey) error {
	if len(wanted) == 0 {
		return nil
	}
	if len(f.snapshots) > 0 && (len(f.snapshots)+1)*(f.entries+len(wanted)) > maxFullProbes {
		if err := f.find(); err != nil {
			return err
		}
	}
	if f.asked == nil {
		f.asked, f.types, f.keys = map[StateKey][]StateKey{}, map[string]bool{}, map[string]map[string]bool{}
	}
	f.snapshots, f.entries = append(f.snapshots, full), f.entries+len(wanted)
	for _, w := range wanted {
		k := StateKey{Snapshot: full, Type: w.Type, Key: w.Key}
		f.asked[k] = append(f.asked[k], w)
		if w.Key == "" {
			f.types[w.Type] = true
			continue
		}
		if f.keys[w.Type] == nil {
			f.keys[w.Type] = map[string]bool{}
		}
		f.keys[w.Type][w.Key] = true
	}
	return nil
}

const (
	fullTypesQuery = `SELECT snapshot, type, state_key, position FROM state_deltas WHERE state_key = $1 AND snapshot IN `
	fullKeysQuery  = `SELECT snapshot, type, state_key, position FROM state_deltas WHERE type = $1 AND snapshot IN `
)

// find looks up the entries that were added. It takes a statement for the entries with an empty state key and one for
// each type among the others, and more if there are very many.
func (f *fullStates) find() error {
	if err := f.read(fullTypesQuery, ` AND type IN `, "", slices.Collect(maps.Keys(f.types))); err != nil {
		return err
	}
	for typ, keys := range f.keys {
		if err := f.read(fullKeysQuery, ` AND state_key IN `, typ, slices.Collect(maps.Keys(keys))); err != nil {
			return err
		}
	}
	*f = fullStates{tx: f.tx, found: f.found}
	return nil
}

func (f *fullStates) read(query, in, fixed string, values []string) error {
	snapshots, args := In(2, f.snapshots)
	for part := range slices.Chunk(values, maxIn) {
		list, more := In(2+len(args), part)
		err := f.tx.each(func(r Row) error {
			var k StateKey
			var pos Pos
			err := r.Scan(&k.Snapshot, &k.Type, &k.Key, &pos)
			for _, w := range f.asked[k] {
				f.found[w] = pos
			}
			return err
		}, query+snapshots+in+list, slices.Concat([]any{fixed}, args, more)...)
		if err != nil {
			return err
		}
	}
	return nil
}

// MembersOfServer returns, by snapshot, the positions of the member events of a server's users in several states.
func (tx *Tx) MembersOfServer(snapshots []int64, server string) (map[int64][]Pos, error) {
	wanted := make(map[int64]bool, len(snapshots))
	for _, nid := range snapshots {
		wanted[nid] = true
	}
	links, err := tx.stateLinks(slices.Collect(maps.Keys(wanted)))
	if err != nil {
		return nil, err
	}
	out := make(map[int64][]Pos, len(wanted))
	for nid, l := range links {
		if l.prev != 0 {
			continue
		}
		w := memberWalk{links: links, wanted: wanted, suffix: ":" + server, out: out}
		if w.now, err = tx.fullMembers(nid, w.suffix); err != nil {
			return nil, err
		}
		visitStates(links, nid, w.enter, w.leave)
	}
	return out, nil
}

const fullMembersQuery = `SELECT state_key, position FROM state_deltas WHERE snapshot = $1 AND type = 'm.room.member'`

// fullMembers returns the members in a full snapshot whose user IDs have the given suffix.
func (tx *Tx) fullMembers(full int64, suffix string) (map[string]Pos, error) {
	out := map[string]Pos{}
	err := tx.each(func(r Row) error {
		var user string
		var pos Pos
		err := r.Scan(&user, &pos)
		if strings.HasSuffix(user, suffix) {
			out[user] = pos
		}
		return err
	}, fullMembersQuery, full)
	return out, err
}

// memberWalk tracks the members of a server through the snapshots based on a full one.
type memberWalk struct {
	links  map[int64]*stateLink
	wanted map[int64]bool
	suffix string
	now    map[string]Pos // by user; 0 if absent again
	undo   []StateEntry   // the entries of now before each change
	out    map[int64][]Pos
}

func (w *memberWalk) isMember(e StateEntry) bool {
	return e.Type == "m.room.member" && strings.HasSuffix(e.Key, w.suffix)
}

func (w *memberWalk) enter(nid int64) {
	for _, e := range w.links[nid].own {
		if w.isMember(e) {
			w.undo = append(w.undo, StateEntry{Key: e.Key, Position: w.now[e.Key]})
			w.now[e.Key] = e.Position
		}
	}
	if !w.wanted[nid] {
		return
	}
	for _, pos := range w.now {
		if pos != 0 {
			w.out[nid] = append(w.out[nid], pos)
		}
	}
}

func (w *memberWalk) leave(nid int64) {
	for _, e := range w.links[nid].own {
		if w.isMember(e) {
			before := w.undo[len(w.undo)-1]
			w.undo = w.undo[:len(w.undo)-1]
			w.now[before.Key] = before.Position
		}
	}
}
