package storage

import (
	"slices"

	"ebb/ident"
	"ebb/storage/statechain"
)

// Queries that scan a room's timeline or read its past states.

const (
	timelineUpQuery   = `SELECT ` + eventColumns + ` FROM events e WHERE e.room_nid = $1 AND e.ord > $2 AND e.ord <= $3 ORDER BY e.ord LIMIT $4`
	timelineDownQuery = `SELECT ` + eventColumns + ` FROM events e WHERE e.room_nid = $1 AND e.ord > $2 AND e.ord <= $3 ORDER BY e.ord DESC LIMIT $4`
)

// Timeline returns at most limit events of a room with an order above after and at most upTo, newest first if backwards
// is set. It includes hidden events. It uses the index events_by_order.
func (tx *Tx) Timeline(room ident.RoomNID, after, upTo ident.Order, backwards bool, limit int) ([]EventRow, error) {
	q := timelineUpQuery
	if backwards {
		q = timelineDownQuery
	}
	return collect(tx, scanEvent, q, int64(room), int64(after), int64(upTo), limit)
}

// TimePoint is the position of an event in the order of timestamps. Events with the same timestamp have the order of
// the timeline.
type TimePoint struct {
	OriginTS int64 // ms
	Order    ident.Order
}

// TimedEvent is an event's row without its JSON.
type TimedEvent struct {
	TimePoint
	Position   Pos
	Sender     ident.UserNID
	ReceivedTS int64 // ms
	Snapshot   int64
	Flags      EventFlags
	IsState    bool
}

func scanTimedEvent(r Row) (e TimedEvent, err error) {
	var flags, state int64
	err = r.Scan(&e.OriginTS, &e.Order, &e.Position, &e.Sender, &e.ReceivedTS, &e.Snapshot, &flags, &state)
	e.Flags, e.IsState = EventFlags(flags), state != 0
	return e, err
}

const (
	timedEventQuery = `SELECT e.origin_ts, e.ord, e.position, e.sender_nid, e.received_ts, e.snapshot, e.flags, CASE WHEN e.state_key IS NULL THEN 0 ELSE 1 END
FROM events e WHERE e.room_nid = $1 AND e.ord > 0 AND (e.origin_ts, e.ord) `
	eventsAfterTimeQuery  = timedEventQuery + `> ($2, $3) ORDER BY e.origin_ts, e.ord LIMIT $4`
	eventsBeforeTimeQuery = timedEventQuery + `< ($2, $3) ORDER BY e.origin_ts DESC, e.ord DESC LIMIT $4`
)

// EventsByTime returns at most limit events of a room's timeline in the order of their origin_server_ts, beginning
// after a point, or before it and in reverse order if backwards is set. It includes hidden events. It uses the index
// events_by_time.
func (tx *Tx) EventsByTime(room ident.RoomNID, from TimePoint, backwards bool, limit int) ([]TimedEvent, error) {
	q := eventsAfterTimeQuery
	if backwards {
		q = eventsBeforeTimeQuery
	}
	return collect(tx, scanTimedEvent, q, int64(room), from.OriginTS, int64(from.Order), limit)
}

// VisibilityState holds the positions of the state events that decide whether a user may see an event.
type VisibilityState = statechain.Visibility

// visibilityChainQuery follows the chains of several snapshots at once. UNION follows common parts only once.
const visibilityChainQuery = ` UNION SELECT s.nid, s.prev FROM state_snapshots s JOIN chain c ON s.nid = c.prev)
SELECT c.nid, c.prev, h.position, m.position FROM chain c
LEFT JOIN state_deltas h ON h.snapshot = c.nid AND h.type = 'm.room.history_visibility' AND h.state_key = ''
LEFT JOIN state_deltas m ON m.snapshot = c.nid AND m.type = 'm.room.member' AND m.state_key = $1`

// VisibilityStates returns the history visibility and one user's member event in the state of each snapshot. It omits
// snapshots that do not exist any more. It uses the primary keys.
func (tx *Tx) VisibilityStates(snapshots []int64, userID string) (map[int64]VisibilityState, error) {
	links := statechain.VisibilityLinks{}
	for nids := range slices.Chunk(snapshots, maxChainIn) {
		list, args := In(2, nids)
		q := `WITH RECURSIVE chain (nid, prev) AS (SELECT nid, prev FROM state_snapshots WHERE nid IN ` + list + visibilityChainQuery
		err := tx.each(func(r Row) error {
			var nid int64
			l := &statechain.VisibilityLink{}
			err := r.Scan(&nid, &l.Prev, &l.History, &l.Member)
			links[nid] = l
			return err
		}, q, append([]any{userID}, args...)...)
		if err != nil {
			return nil, err
		}
	}
	out := make(map[int64]VisibilityState, len(snapshots))
	for _, nid := range snapshots {
		if links[nid] != nil {
			out[nid] = links.State(nid)
		}
	}
	return out, nil
}

// RelationCount is the number of relations of one type from one sender to a parent.
type RelationCount struct {
	Parent  string
	RelType string
	Sender  ident.UserNID
	Count   int64
}

func scanRelationCount(r Row) (c RelationCount, err error) {
	err = r.Scan(&c.Parent, &c.RelType, &c.Sender, &c.Count)
	return c, err
}

// maxCounted bounds the relations that one query counts, which takes some 30 ms. Counts beyond it are too low.
const maxCounted = 50_000

const (
	relationCountsGroup = `) r WHERE r.rel_type IN ('m.thread', 'm.replace', 'm.reference') GROUP BY r.parent_id, r.rel_type, r.sender_nid`
	relationCountsFrom  = `SELECT r.parent_id, r.rel_type, r.sender_nid, count(*) FROM (SELECT r.parent_id, r.rel_type, r.sender_nid FROM relations r `
	relationCountsPlain = relationCountsFrom + `WHERE r.room_nid = $1 AND r.parent_hash IN `
	// The join is used only if messages expire, because it reads a row of events for each relation.
	relationCountsAlive = relationCountsFrom + `JOIN events e ON e.position = r.position
WHERE r.room_nid = $1 AND NOT ((e.origin_ts <= $3 OR e.received_ts <= $3) AND e.received_ts <= $4) AND r.parent_hash IN `
)

// RelationCounts returns the counts for bundled aggregations, by parent, relation type and sender. It omits events that
// the cutoff covers; nil means that nothing expires. It uses the index
// relations_by_parent.
func (tx *Tx) RelationCounts(room ident.RoomNID, parents []string, cutoff *Cutoff) ([]RelationCount, error) {
	var out []RelationCount
	for rest := parents; len(rest) > 0; {
		n := min(len(rest), maxIn)
		hashes := make([]int64, n)
		for i, p := range rest[:n] {
			hashes[i] = tx.IDHash(p)
		}
		part, err := tx.relationCounts(room, hashes, cutoff)
		if err != nil {
			return nil, err
		}
		out, rest = append(out, part...), rest[n:]
	}
	return out, nil
}

func (tx *Tx) relationCounts(room ident.RoomNID, hashes []int64, cutoff *Cutoff) ([]RelationCount, error) {
	if cutoff == nil {
		list, args := In(3, hashes)
		return collect(tx, scanRelationCount, relationCountsPlain+list+` LIMIT $2`+relationCountsGroup, append([]any{int64(room), maxCounted}, args...)...)
	}
	list, args := In(5, hashes)
	return collect(tx, scanRelationCount, relationCountsAlive+list+` LIMIT $2`+relationCountsGroup, append([]any{int64(room), maxCounted, cutoff.Sent, cutoff.Received}, args...)...)
}

const relationsOfQuery = `SELECT r.position, r.parent_id, r.rel_type, r.type, r.sender_nid, r.ord FROM relations r WHERE r.room_nid = $1 AND r.parent_hash IN `

// RelationsOf lists the relations to the given events of a room, in no particular order, and perhaps some to events
// with the same hashes. There are more of them if it returns limit. It uses the index relations_by_parent.
func (tx *Tx) RelationsOf(room ident.RoomNID, parents []string, limit int) (out []RelationRow, err error) {
	for part := range slices.Chunk(parents, maxIn) {
		hashes := make([]int64, len(part))
		for i, p := range part {
			hashes[i] = tx.IDHash(p)
		}
		list, args := In(3, hashes)
		found, err := collect(tx, func(r Row) (n RelationRow, err error) {
			n.Room = room
			err = r.Scan(&n.Position, &n.Parent, &n.RelType, &n.Type, &n.Sender, &n.Order)
			return n, err
		}, relationsOfQuery+list+` LIMIT $2`, append([]any{int64(room), limit - len(out)}, args...)...)
		if err != nil {
			return nil, err
		}
		if out = append(out, found...); len(out) >= limit {
			break
		}
	}
	return out, nil
}

// maxRelationScan bounds the relations of one event, newest first, that one query searches for those of a kind, which
// takes some 10 ms.
const maxRelationScan = 10_000

const editsQuery = `SELECT ` + eventColumns + ` FROM (SELECT r.position, r.rel_type, r.sender_nid, r.type FROM relations r
 WHERE r.parent_hash = $1 AND r.parent_id = $2 AND r.room_nid = $3 ORDER BY r.ord DESC LIMIT $7) r JOIN events e ON e.position = r.position
WHERE r.rel_type = 'm.replace' AND r.sender_nid = $4 AND r.type = $5 ORDER BY e.origin_ts DESC LIMIT $6`

// Edits returns the replacements of an event by its sender and with its type, highest origin_server_ts first. It uses
// the index relations_by_parent.
func (tx *Tx) Edits(room ident.RoomNID, parent string, sender ident.UserNID, typ string, limit int) ([]EventRow, error) {
	return collect(tx, scanEvent, editsQuery, tx.IDHash(parent), parent, int64(room), int64(sender), typ, limit, maxRelationScan)
}

// RelationFilter selects relations of one event.
type RelationFilter struct {
	Room      ident.RoomNID
	Parent    string
	RelType   string      // "" for any
	Type      string      // "" for any
	After     ident.Order // orders above this one
	UpTo      ident.Order // and up to this one
	Backwards bool        // newest first
	Limit     int
}

// RelatedEvent is an event that relates to another one, by position and order.
type RelatedEvent struct {
	Position Pos
	Order    ident.Order
	Matches  bool // whether it has the RelType and Type of the filter
}

func scanRelatedEvent(r Row) (p RelatedEvent, err error) {
	var matches int64
	err = r.Scan(&p.Position, &p.Order, &matches)
	p.Matches = matches != 0
	return p, err
}

const (
	relatedEventColumns  = `SELECT r.position, r.ord, CASE WHEN ($4 = '' OR r.rel_type = $4) AND ($5 = '' OR r.type = $5) THEN 1 ELSE 0 END FROM `
	relatedEventsUpQuery = relatedEventColumns + `relations r WHERE r.parent_hash = $1 AND r.parent_id = $2 AND r.room_nid = $3
AND r.ord > $6 AND r.ord <= $7 ORDER BY r.ord LIMIT $8`
	relatedEventsDownQuery = relatedEventColumns + `relations r WHERE r.parent_hash = $1 AND r.parent_id = $2 AND r.room_nid = $3
AND r.ord > $6 AND r.ord <= $7 ORDER BY r.ord DESC LIMIT $8`
)

// RelatedEvents lists at most Limit events that relate to an event, by order. Events that do not match the filter's
// RelType and Type are included, so that the work is bounded for any filter. It uses the index relations_by_parent.
func (tx *Tx) RelatedEvents(f RelationFilter) ([]RelatedEvent, error) {
	q := relatedEventsUpQuery
	if f.Backwards {
		q = relatedEventsDownQuery
	}
	return collect(tx, scanRelatedEvent, q, tx.IDHash(f.Parent), f.Parent, int64(f.Room), f.RelType, f.Type, int64(f.After), int64(f.UpTo), f.Limit)
}

// relationStepQueries find the events that relate to an event in one, two and three steps. Each has one join per step.
// A recursive query could not be bounded in a way that both databases understand.
var relationStepQueries = []string{relationStep1Query, relationStep2Query, relationStep3Query}

const (
	relationStepOf     = ` WHERE a.parent_hash = $1 AND a.parent_id = $2 AND a.room_nid = $3 LIMIT $6`
	relationStep1Query = `SELECT a.position, a.ord, CASE WHEN ($4 = '' OR a.rel_type = $4) AND ($5 = '' OR a.type = $5) THEN 1 ELSE 0 END FROM relations a` + relationStepOf
	relationStep2Query = relatedEventColumns + `relations a JOIN events p ON p.position = a.position
JOIN relations r ON r.parent_hash = p.id_hash AND r.parent_id = p.event_id AND r.room_nid = a.room_nid` + relationStepOf
	relationStep3Query = relatedEventColumns + `relations a JOIN events p ON p.position = a.position
JOIN relations b ON b.parent_hash = p.id_hash AND b.parent_id = p.event_id AND b.room_nid = a.room_nid
JOIN events q ON q.position = b.position
JOIN relations r ON r.parent_hash = q.id_hash AND r.parent_id = q.event_id AND r.room_nid = a.room_nid` + relationStepOf
)

// RelationTree lists the events that relate to an event, directly or through other events, up to depth levels (at
// most 3). Each is listed once, in no particular order. Limit bounds their total number: only levels that fit
// completely are returned, with the number of these levels, which is 0 if even the direct relations do not fit.
// After and UpTo are ignored, since an event within them may relate to one outside of them. It uses the index
// relations_by_parent.
func (tx *Tx) RelationTree(f RelationFilter, depth int) (places []RelatedEvent, steps int, err error) {
	seen := map[Pos]bool{}
	for _, query := range relationStepQueries[:depth] {
		found, err := collect(tx, scanRelatedEvent, query, tx.IDHash(f.Parent), f.Parent, int64(f.Room), f.RelType, f.Type, f.Limit+1)
		if err != nil {
			return nil, 0, err
		}
		if len(places)+len(found) > f.Limit {
			return places, steps, nil
		}
		for _, p := range found {
			if !seen[p.Position] {
				seen[p.Position] = true
				places = append(places, p)
			}
		}
		steps++
	}
	return places, steps, nil
}

// ThreadRow is a thread with the order of its latest reply.
type ThreadRow struct {
	Root   Pos
	Latest ident.Order
}

func scanThread(r Row) (t ThreadRow, err error) {
	err = r.Scan(&t.Root, &t.Latest)
	return t, err
}

const threadsQuery = `SELECT t.root, t.latest FROM threads t WHERE t.room_nid = $1 AND t.latest < $2 ORDER BY t.latest DESC LIMIT $3`

// Threads lists the threads of a room whose latest reply is below an order, latest first. It uses the index
// threads_by_room.
func (tx *Tx) Threads(room ident.RoomNID, below ident.Order, limit int) ([]ThreadRow, error) {
	return collect(tx, scanThread, threadsQuery, int64(room), int64(below), limit)
}

// Forgotten reports whether a user has forgotten a room.
func (tx *Tx) Forgotten(user ident.UserNID, room ident.RoomNID) (bool, error) {
	n, _, err := one(tx, scanNumber[int64], `SELECT forgotten FROM memberships WHERE user_nid = $1 AND room_nid = $2`, int64(user), int64(room))
	return n != 0, err
}

const eraseUserQuery = `INSERT INTO erased_users (user_nid, position) VALUES ($1, $2) ON CONFLICT (user_nid) DO NOTHING`

// EraseUser records the position at which a user requested erasure. A repeated request changes nothing.
func (tx *Tx) EraseUser(user ident.UserNID, p Pos) error {
	_, err := tx.exec(eraseUserQuery, int64(user), int64(p))
	return err
}

// IsErased reports whether a user has requested erasure.
func (tx *Tx) IsErased(user ident.UserNID) (bool, error) {
	_, found, err := one(tx, scanNumber[int64], `SELECT user_nid FROM erased_users WHERE user_nid = $1`, int64(user))
	return found, err
}

// ErasedUser is a user who requested erasure.
type ErasedUser struct {
	User     ident.UserNID
	Position Pos
}

// ErasedUsers lists all users who requested erasure.
func (tx *Tx) ErasedUsers() ([]ErasedUser, error) {
	return collect(tx, func(r Row) (u ErasedUser, err error) {
		err = r.Scan(&u.User, &u.Position)
		return u, err
	}, `SELECT user_nid, position FROM erased_users ORDER BY user_nid`)
}

const joinedRoomsQuery = `SELECT r.room_id FROM memberships m JOIN rooms r ON r.nid = m.room_nid
WHERE m.user_nid = $1 AND m.membership = 'join' ORDER BY m.room_nid`

// JoinedRooms lists the IDs of the rooms that a user is joined to. It uses the primary keys.
func (tx *Tx) JoinedRooms(user ident.UserNID) ([]string, error) {
	return collect(tx, scanString, joinedRoomsQuery, int64(user))
}
