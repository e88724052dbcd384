package storage

import (
	"maps"
	"slices"
	"strings"

	"ebb/storage/statechain"
)

// Queries for entries of several states at once.

// StateKey identifies one entry of a snapshot's state.
type StateKey = statechain.Key

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
		if l.Prev != 0 {
			continue
		}
		if err := full.add(nid, links.Find(nid, bySnapshot, found)); err != nil {
			return nil, err
		}
	}
	return found, full.find()
}

// stateLinks reads the chains of snapshots down to the full ones.
func (tx *Tx) stateLinks(of []int64) (statechain.Links, error) {
	links := make(statechain.Links, len(of))
	slices.Sort(of) // neighbours have most of their chains in common
	for nids := range slices.Chunk(of, maxChainIn) {
		list, args := In(1, nids)
		q := `WITH RECURSIVE chain (nid, prev) AS (SELECT nid, prev FROM state_snapshots WHERE nid IN ` + list + stateChainsQuery
		read := statechain.Links{}
		err := tx.each(func(r Row) error { return scanStateLink(r, read) }, q, args...)
		if err != nil {
			return nil, err
		}
		maps.Copy(links, read)
	}
	links.Connect()
	return links, nil
}

func scanStateLink(r Row, into statechain.Links) error {
	var nid, prev int64
	var typ, key *string
	var pos *int64
	if err := r.Scan(&nid, &prev, &typ, &key, &pos); err != nil {
		return err
	}
	l := into[nid]
	if l == nil {
		l = &statechain.Link{Prev: prev}
		into[nid] = l
	}
	if pos != nil {
		l.Own = append(l.Own, StateEntry{Type: *typ, Key: *key, Position: Pos(*pos)})
	}
	return nil
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
		if l.Prev != 0 {
			continue
		}
		members, err := tx.fullMembers(nid, ":"+server)
		if err != nil {
			return nil, err
		}
		links.Members(nid, members, ":"+server, wanted, out)
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
