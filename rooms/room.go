package rooms

import (
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/pushrules"
	"ebb/rooms/eventauth"
	"ebb/rooms/expiry"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/wake"
)

// The state events that this package looks into.
const (
	typeCreate            = "m.room.create"
	typeMember            = "m.room.member"
	typePowerLevels       = "m.room.power_levels"
	typeJoinRules         = "m.room.join_rules"
	typeHistoryVisibility = "m.room.history_visibility"
	typeGuestAccess       = "m.room.guest_access"
	typeCanonicalAlias    = "m.room.canonical_alias"
	typeEncryption        = "m.room.encryption"
	typeRedaction         = "m.room.redaction"
	typeTombstone         = "m.room.tombstone"
	typeName              = "m.room.name"
	typeTopic             = "m.room.topic"
	typeAvatar            = "m.room.avatar"
	typeServerACL         = "m.room.server_acl"
	typeThirdPartyInvite  = "m.room.third_party_invite"
	typeDummy             = "org.matrix.dummy_event" // merges forward extremities; clients do not see it
	typeRetention         = "m.room.retention"
	typeRetentionUnstable = "org.matrix.msc1763.retention"
)

// Membership is a user's relation to a room; the empty one is of a user whom the room does not know.
type Membership = string

// The memberships.
const (
	Join   Membership = "join"
	Invite Membership = "invite"
	Knock  Membership = "knock"
	Leave  Membership = "leave"
	Ban    Membership = "ban"
)

// Member is one user's current m.room.member event. It is immutable; a change makes a new one.
type Member struct {
	User       id.UserID
	NID        ident.UserNID
	Membership Membership
	Pos        storage.Pos // the event
	Changed    storage.Pos // since when it is current

	event atomic.Pointer[Event] // nil until somebody asks
}

// Event returns the member event if it is in memory, and nil if it has to be read from the database, at Pos.
func (m *Member) Event() *Event { return m.event.Load() }

// remember keeps the member's event in memory.
func (m *Member) remember(r *Room, e *Event) {
	if m.event.Swap(e) == nil {
		r.memberEvents.Add(1)
	}
}

// Room is a room in use: its committed head, which all readers share, and the provisional head that its next event is
// built on. It is safe for concurrent use. Keep a Room for one request, not longer: one that nobody used for a while is
// dropped from memory and loaded anew.
type Room struct {
	svc     *Service
	nid     ident.RoomNID
	id      id.RoomID
	version *pdu.Version

	used         atomic.Int64 // when last asked for, for eviction
	memberEvents atomic.Int64 // member events in memory, about
	acl          aclCache

	// fetching is held by who asks other servers for what the room lacks, over the network; a slot of one.
	fetching chan struct{}

	// receiving is held by who takes in events of other servers, one after the other; a slot of one.
	receiving chan struct{}

	// signing is held by who asks the room's policy server to sign events made here, over the network; a slot of one.
	signing chan struct{}

	// writer guards next: whoever builds the room's next event holds it, also over a read of the database, never while
	// waiting for a commit. docs/locks.md.
	writer sync.Mutex
	next   provisional

	// mu guards what follows. Held for moments only, by readers, writers and the commit hook.
	mu          sync.RWMutex
	head        head
	pending     overlay
	attempted   time.Time // when it was last tried to decide undecided events
	decideAfter time.Time // when that may be done next
}

// head is what is committed.
type head struct {
	state   map[pdu.StateKey]*Event      // without members
	changed map[pdu.StateKey]storage.Pos // since when an entry of state is current that is older than that
	servers map[string]int               // joined users by server, and one more of each told server of a partial room
	members map[id.UserID]*Member
	local   map[ident.UserNID]*Member // joined users of this server
	invited map[ident.UserNID]*Member // invited users of this server
	counts  map[Membership]int
	names   *pushrules.Names // the display names of local and invited; nil: nobody has asked for them yet

	levels    *eventauth.PowerLevels
	policy    expiry.Policy  // effective
	override  *expiry.Policy // the administrator's
	published bool
	// resolvedMembers is the newest position at which state resolution made an older member event current.
	resolvedMembers storage.Pos
	purged          int64 // ms; message events from before never come back
	extremities     []extremity
	depth           int64
	minDepth        int64       // of the join by which this server entered
	entered         storage.Pos // of that join; 0: this server created the room
	undecided       bool        // there are undecided events
	recheck         bool        // see RepairRooms
	order           ident.Order
	generation      int64
	snapshot        *snapshot
	partial         *partial    // nil: the state is whole
	completed       storage.Pos // since when it is; 0: it always was

	last    storage.Pos // newest committed change, not only of events
	receipt storage.Pos // newest receipt
	ring    []*Event    // newest timeline events, oldest first
	ringOK  storage.Pos // the ring has everything after this position
}

// NID is the room's short name.
func (r *Room) NID() ident.RoomNID { return r.nid }

// ID is the room's id.
func (r *Room) ID() id.RoomID { return r.id }

// Version is the room's version.
func (r *Room) Version() *pdu.Version { return r.version }

// Last is the position of the newest committed change of the room: an event, a receipt.
func (r *Room) Last() storage.Pos {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.last
}

// LastReceipt is the position of the newest receipt, 0 where there is none.
func (r *Room) LastReceipt() storage.Pos {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.receipt
}

// State is one entry of the current state, nil where there is none. A member's event is read from the database at its
// first use; an error then is logged and answers nil.
func (r *Room) State(typ, key string) *Event {
	if typ != typeMember {
		r.mu.RLock()
		defer r.mu.RUnlock()
		return r.head.state[pdu.StateKey{Type: typ, Key: key}]
	}
	m := r.MemberOf(id.UserID(key))
	if m == nil {
		return nil
	}
	e, err := r.svc.memberEvent(r, m)
	if err != nil {
		r.svc.log.Error("member event", "room", r.id, "position", m.Pos, "err", err)
	}
	return e
}

// EachState calls f for every entry of the current state, members included, until f returns false: the position of its
// event, and since when it is current, which is later where state resolution chose an older event. The event of a member
// that is not in memory is nil: EventsAt reads it.
func (r *Room) EachState(f func(key pdu.StateKey, pos, changed storage.Pos, e *Event) bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for k, e := range r.head.state {
		if !f(k, e.Pos, max(e.Pos, r.head.changed[k]), e) {
			return
		}
	}
	for user, m := range r.head.members {
		if !f(pdu.StateKey{Type: typeMember, Key: string(user)}, m.Pos, m.Changed, m.event.Load()) {
			return
		}
	}
}

// Resolved lists the entries of the current state that became current after a position without being newer than it: state
// resolution chose an older event. Members who became known when the room was completed are not among them.
func (r *Room) Resolved(since storage.Pos) (keys []pdu.StateKey) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for k, changed := range r.head.changed {
		if changed > since {
			keys = append(keys, k)
		}
	}
	if r.head.resolvedMembers > since {
		for user, m := range r.head.members {
			if m.Changed > since && m.Changed != m.Pos && m.Changed != r.head.completed {
				keys = append(keys, pdu.StateKey{Type: typeMember, Key: string(user)})
			}
		}
	}
	return keys
}

// Resident tells whether this server takes part in the room: one of its users is joined, or nobody is and nobody knows
// the room better. Of another room it knows at most what it was told with an invite, or what it saw before its users left.
func (r *Room) Resident() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.head.extremities) > 0 && (len(r.head.local) > 0 || len(r.head.servers) == 0)
}

// CanBackfill reports whether there are other servers in the room that may be asked for history which this server lacks.
func (r *Room) CanBackfill() bool { return r.svc.federates() && r.Resident() && r.Shared() }

// HasServer tells whether a user of a server is joined.
func (r *Room) HasServer(name string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.servers[name] > 0
}

// EachServer ranges over the servers with joined users, this one among them. The room is locked for reading meanwhile.
func (r *Room) EachServer() iter.Seq[string] {
	return func(yield func(string) bool) {
		r.mu.RLock()
		defer r.mu.RUnlock()
		for name := range r.head.servers {
			if !yield(name) {
				return
			}
		}
	}
}

// Shared tells whether a user of another server is joined.
func (r *Room) Shared() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	others := len(r.head.servers)
	if r.head.servers[r.svc.opts.Server] > 0 {
		others--
	}
	return others > 0
}

// MemberOf is a user's current membership, nil where the room does not know the user.
func (r *Room) MemberOf(user id.UserID) *Member {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.members[user]
}

// Membership is a user's current membership, empty where the room does not know the user.
func (r *Room) Membership(user id.UserID) Membership {
	if m := r.MemberOf(user); m != nil {
		return m.Membership
	}
	return ""
}

// Members lists the members with one of these memberships, in no particular order.
func (r *Room) Members(of ...Membership) []*Member {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []*Member
	for _, m := range r.head.members {
		for _, want := range of {
			if m.Membership == want {
				out = append(out, m)
				break
			}
		}
	}
	return out
}

// Count is the number of members with a membership.
func (r *Room) Count(of Membership) int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.counts[of]
}

// LocalMembers is the set of joined users of this server, for wake.Hub.
func (r *Room) LocalMembers() wake.Members { return localMembers{r} }

// EachLocal ranges over the joined users of this server. The room is locked for reading meanwhile.
func (r *Room) EachLocal() iter.Seq[*Member] {
	return func(yield func(*Member) bool) {
		r.mu.RLock()
		defer r.mu.RUnlock()
		for _, m := range r.head.local {
			if !yield(m) {
				return
			}
		}
	}
}

// HasLocal tells whether a user of this server, by short name, is joined.
func (r *Room) HasLocal(user ident.UserNID) bool { return localMembers{r}.Has(user) }

type localMembers struct{ r *Room }

func (l localMembers) Len() int {
	l.r.mu.RLock()
	defer l.r.mu.RUnlock()
	return len(l.r.head.local)
}

func (l localMembers) Has(user ident.UserNID) bool {
	l.r.mu.RLock()
	defer l.r.mu.RUnlock()
	return l.r.head.local[user] != nil
}

func (l localMembers) Each(f func(ident.UserNID) bool) {
	l.r.mu.RLock()
	defer l.r.mu.RUnlock()
	for nid := range l.r.head.local {
		if !f(nid) {
			return
		}
	}
}

// Levels are the current power levels.
func (r *Room) Levels() *eventauth.PowerLevels {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.levels
}

// Retention is the effective policy on how long messages are kept.
func (r *Room) Retention() expiry.Policy {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.policy
}

// PurgedBefore is the time (ms) before which message events are gone for good.
func (r *Room) PurgedBefore() int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.purged
}

// Published tells whether the room is listed in the room directory.
func (r *Room) Published() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.published
}

// Snapshot is the state after the room's newest event.
func (r *Room) Snapshot() int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.snapshot.nid
}

// entered is the position of the join by which this server entered the room: 0 if it created the room.
func (r *Room) entered() storage.Pos {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.entered
}

// hasUndecided reports whether the room has undecided events.
func (r *Room) hasUndecided() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.undecided
}

// toRecheck reports whether an earlier version may have damaged the room.
func (r *Room) toRecheck() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.recheck
}

// MinDepth is the depth of the event with which this server came into the room: 0 where it made it. What lies before is
// history.
func (r *Room) MinDepth() int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.minDepth
}

// LastOrder is the timeline order of the room's newest event.
func (r *Room) LastOrder() ident.Order {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.order
}

// Encrypted tells whether the room's messages are to be encrypted.
func (r *Room) Encrypted() bool { return r.State(typeEncryption, "") != nil }

// HistoryVisibility is the current history visibility.
// Spec: client-server-api#room-history-visibility
func (r *Room) HistoryVisibility() string {
	return historyVisibility(r.State(typeHistoryVisibility, ""))
}

func historyVisibility(e *Event) string {
	if e != nil {
		switch v := e.ContentString("history_visibility"); v {
		case "world_readable", "shared", "invited", "joined":
			return v
		}
	}
	return "shared"
}

// JoinRule is the current join rule, "invite" where the room has none.
func (r *Room) JoinRule() string {
	if e := r.State(typeJoinRules, ""); e != nil {
		return e.ContentString("join_rule")
	}
	return "invite"
}

// Ring returns the newest committed timeline events, oldest first, without hidden ones, and the position after which it has
// all of them. The caller must not change it.
func (r *Room) Ring() (events []*Event, reach storage.Pos) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	ring := r.head.ring
	return ring[:len(ring):len(ring)], r.head.ringOK
}

// Recent lists the committed timeline events after a position, oldest first; false where memory does not reach back
// that far. Hidden events are not in it.
func (r *Room) Recent(since storage.Pos) ([]*Event, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if since < r.head.ringOK {
		return nil, false
	}
	ring := r.head.ring
	first := len(ring)
	for first > 0 && ring[first-1].Pos > since {
		first--
	}
	return ring[first:len(ring):len(ring)], true
}

// recentEvent finds a committed event in memory.
func (r *Room) recentEvent(eventID id.EventID) *Event {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for i := len(r.head.ring) - 1; i >= 0; i-- {
		if r.head.ring[i].ID() == eventID {
			return r.head.ring[i]
		}
	}
	return nil
}

// LoadEvent returns the event of a stored row of the room.
func (r *Room) LoadEvent(row *storage.EventRow) (*Event, error) { return fromRow(r.version, row) }

// LoadEvents returns the events of stored rows of the room, in their order.
func (r *Room) LoadEvents(rows []storage.EventRow) ([]*Event, error) {
	out := make([]*Event, len(rows))
	for i := range rows {
		e, err := fromRow(r.version, &rows[i])
		if err != nil {
			return nil, err
		}
		out[i] = e
	}
	return out, nil
}

// EventsAt reads events by position. Position 0 is left out; the event at a position that has none any more is nil.
func (r *Room) EventsAt(tx *storage.Tx, positions []storage.Pos) (map[storage.Pos]*Event, error) {
	want := make([]storage.Pos, 0, len(positions))
	out := make(map[storage.Pos]*Event, len(positions))
	for _, p := range positions {
		if _, seen := out[p]; p != 0 && !seen {
			out[p] = nil
			want = append(want, p)
		}
	}
	if len(want) == 0 {
		return out, nil
	}
	rows, err := tx.EventsAt(want)
	if err != nil {
		return nil, err
	}
	for i := range rows {
		if out[rows[i].Position], err = fromRow(r.version, &rows[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}
