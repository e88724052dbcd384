package rooms

import (
	"encoding/json"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/pushrules"
	"ebb/rooms/eventauth"
	"ebb/rooms/expiry"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/wake"
)

// Types of the state events that this package handles.
const (
	typeCreate            = "m.room.create"
	typeMember            = "m.room.member"
	typePowerLevels       = "m.room.power_levels"
	typeJoinRules         = "m.room.join_rules"
	typeHistoryVisibility = "m.room.history_visibility"
	typeGuestAccess       = "m.room.guest_access"
	typeCanonicalAlias    = "m.room.canonical_alias"
	typeSpaceChild        = "m.space.child"
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

// Event is an event of a room with what this server stores about it.
type Event = graph.Event

// Membership is a user's membership in a room. It is empty if the room has no member event for the user.
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
	Changed    storage.Pos // where it became current

	event atomic.Pointer[Event] // nil until it is first used
}

// Event returns the member event if it is in memory. Otherwise it returns nil, and the event can be read from the
// database, where it has the position Pos.
func (m *Member) Event() *Event { return m.event.Load() }

// remember keeps the member event in memory.
func (m *Member) remember(r *Room, e *Event) {
	more := e.Size() - m.event.Swap(e).Size()
	r.memberEvents.Add(more)
	r.svc.cache.Grew(more)
}

// Room is a room in memory. It has a committed head, which all readers share, and a provisional head, on which the next
// event is built. It is safe for concurrent use. A Room must not be kept longer than a request: a room that is not in
// use is evicted from memory, and another Room is loaded later.
type Room struct {
	svc     *Service
	nid     ident.RoomNID
	id      id.RoomID
	version *pdu.Version

	used         atomic.Int64 // time of the last use, for eviction
	memberEvents atomic.Int64 // approximate size of the member events in memory
	acl          aclCache

	// fetching has one slot. It is held while missing events or state are requested from other servers.
	fetching chan struct{}

	// receiving has one slot. It is held while events from other servers are received, one after the other.
	receiving chan struct{}

	// signing has one slot. It is held while the room's policy server is asked to sign local events.
	signing chan struct{}

	// writer guards next. It is held while the room's next event is built, also across database reads, but never while
	// waiting for a commit.
	// See docs/locks.md.
	writer sync.Mutex
	next   provisional

	// mu guards the following fields. Readers, writers and the commit hook hold it only briefly.
	mu          sync.RWMutex
	head        head
	pending     overlay
	attempted   time.Time // when undecided events were last retried
	decideAfter time.Time // earliest time of the next retry
}

// head is the committed head of a room.
type head struct {
	state   map[pdu.StateKey]*Event      // current state without members
	changed map[pdu.StateKey]storage.Pos // where an entry of state became current, if that was after its event, or was deleted
	servers map[string]int               // joined users by server; see setPartial
	members map[id.UserID]*Member
	local   map[ident.UserNID]*Member // joined local users
	invited map[ident.UserNID]*Member // invited local users
	counts  map[Membership]int
	names   *pushrules.Names // the display names of local and invited; nil until first needed

	levels    *eventauth.PowerLevels
	policy    expiry.Policy  // the effective policy
	override  *expiry.Policy // the administrator's policy
	published bool
	// resolvedMembers is the last position at which state resolution made an older member event current.
	resolvedMembers storage.Pos
	purged          int64 // ms; older message events have been purged and are not fetched again
	extremities     []graph.Extremity
	depth           int64
	minDepth        int64       // depth of the join with which this server entered the room
	entered         storage.Pos // position of that join; 0: this server created the room
	undecided       bool        // there are undecided events
	recheck         bool        // see RepairRooms
	order           ident.Order
	generation      int64
	snapshot        *graph.Snapshot
	partial         *partial    // nil unless the room has partial state
	completed       storage.Pos // where the room was completed; 0: it never had partial state

	last    storage.Pos // last committed change, of events or receipts
	receipt storage.Pos // last receipt
	ring    []*Event    // last timeline events, oldest first
	ringOK  storage.Pos // the ring has all events after this position
}

// NID returns the number of the room in the database.
func (r *Room) NID() ident.RoomNID { return r.nid }

// ID returns the room ID.
func (r *Room) ID() id.RoomID { return r.id }

// Version returns the room version.
func (r *Room) Version() *pdu.Version { return r.version }

// Last returns the position of the last committed change to the room: an event or a receipt.
func (r *Room) Last() storage.Pos {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.last
}

// LastReceipt returns the position of the last receipt, or 0 if there is none.
func (r *Room) LastReceipt() storage.Pos {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.receipt
}

// State returns the event with the given type and state key in the current state, or nil if there is none. A member
// event may have to be read from the database; if that fails, the error is logged and nil returned.
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

// EachState calls f for every entry of the current state, including members, until f returns false. pos is the position
// of the event. changed is the position at which the event became current. It is greater than pos if state resolution
// chose an event that is older than the change. e is nil for a member event that is not in memory; EventsAt reads it.
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

// Resolved returns the keys of the entries that state resolution changed after a position: those for which it chose an
// older event, and those that it deleted. It does not return members who became known when the room got its full state.
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

// Resident reports whether this server participates in the room: a local user is joined, or nobody at all is joined and
// this server has the events. For any other room this server has only the stripped state of an invite, or the events
// until its last user left.
func (r *Room) Resident() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.head.extremities) > 0 && (len(r.head.local) > 0 || len(r.head.servers) == 0)
}

// CanBackfill reports whether other servers in the room can be asked for missing history.
func (r *Room) CanBackfill() bool { return r.svc.federates() && r.Resident() && r.Shared() }

// HasServer reports whether a user of the named server is joined.
func (r *Room) HasServer(name string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.servers[name] > 0
}

// EachServer returns an iterator over the servers with joined users, including this one. The room is locked for reading
// during the iteration.
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

// OtherServers returns the other servers with joined users.
func (r *Room) OtherServers() (others []string) {
	for server := range r.EachServer() {
		if server != r.svc.opts.Server {
			others = append(others, server)
		}
	}
	return others
}

// SharedWith reports whether this server shares the room with the named one: this server participates in the room, a
// user of the named server is joined, and the access control list allows that server.
func (r *Room) SharedWith(server string) bool {
	return r.Resident() && r.HasServer(server) && r.AllowsServer(server)
}

// Shared reports whether a user of another server is joined.
func (r *Room) Shared() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	others := len(r.head.servers)
	if r.head.servers[r.svc.opts.Server] > 0 {
		others--
	}
	return others > 0
}

// MemberOf returns the current member event of a user, or nil if there is none.
func (r *Room) MemberOf(user id.UserID) *Member {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.members[user]
}

// Membership returns a user's current membership, or "" if there is no member event.
func (r *Room) Membership(user id.UserID) Membership {
	if m := r.MemberOf(user); m != nil {
		return m.Membership
	}
	return ""
}

// Members returns the members with one of the given memberships, in no particular order.
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

// MemberCount returns the number of member events of the room, of any membership.
func (r *Room) MemberCount() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.head.members)
}

// EachMember calls f for each member of any membership. The room is locked for reading during the calls.
func (r *Room) EachMember(f func(*Member)) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, m := range r.head.members {
		f(m)
	}
}

// Count returns the number of members with the given membership.
func (r *Room) Count(of Membership) int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.counts[of]
}

// LocalMembers returns the set of joined local users, for wake.Hub.
func (r *Room) LocalMembers() wake.Members { return localMembers{r} }

// EachLocal returns an iterator over the joined local users. The room is locked for reading during the iteration.
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

// HasLocal reports whether the given user is a local one and is joined.
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

// Levels returns the current power levels.
func (r *Room) Levels() *eventauth.PowerLevels {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.levels
}

// Retention returns the effective retention policy.
func (r *Room) Retention() expiry.Policy {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.policy
}

// StatedRetention returns the retention policy in the state of the room, nil if there is no valid one, and when the
// event was received that determines it (ms), 0 if there is none.
func (r *Room) StatedRetention() (*expiry.Policy, int64) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return statedRetention(func(typ string) *Event { return r.head.state[pdu.StateKey{Type: typ}] })
}

// PurgedBefore returns the time (ms) before which message events have been purged.
func (r *Room) PurgedBefore() int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.purged
}

// Federated reports whether users of other servers may join the room: its m.room.create does not set m.federate to
// false.
// Spec: client-server-api#mroomcreate
func (r *Room) Federated() bool {
	e := r.State(typeCreate, "")
	if e == nil {
		return false
	}
	var content struct {
		Federate *bool `json:"m.federate"`
	}
	return json.Unmarshal(e.Content(), &content) != nil || content.Federate == nil || *content.Federate
}

// Published reports whether the room is listed in the room directory.
func (r *Room) Published() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.published
}

// entered returns the position of the join with which this server entered the room, or 0 if it created the room.
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

// toRecheck reports whether the room must be checked for damage by an earlier version of Ebb; see RepairRooms.
func (r *Room) toRecheck() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.recheck
}

// MinDepth returns the depth of the event with which this server entered the room, or 0 if it created the room. Events
// below it are history.
func (r *Room) MinDepth() int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.minDepth
}

// ForwardExtremities returns the positions of the room's forward extremities.
func (r *Room) ForwardExtremities() []storage.Pos {
	r.mu.RLock()
	defer r.mu.RUnlock()
	positions := make([]storage.Pos, len(r.head.extremities))
	for i, x := range r.head.extremities {
		positions[i] = x.Position()
	}
	return positions
}

// LastOrder returns the timeline order of the newest event.
func (r *Room) LastOrder() ident.Order {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.order
}

// Encrypted reports whether encryption is enabled in the room.
func (r *Room) Encrypted() bool { return r.State(typeEncryption, "") != nil }

// HistoryVisibility returns the current history visibility.
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

// JoinRule returns the current join rule, or "invite" if the room has none.
func (r *Room) JoinRule() string {
	if e := r.State(typeJoinRules, ""); e != nil {
		return e.ContentString("join_rule")
	}
	return "invite"
}

// Ring returns the newest committed timeline events, oldest first and without hidden ones. It also returns the position
// after which these events are complete. The caller must not modify the slice.
func (r *Room) Ring() (events []*Event, reach storage.Pos) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	ring := r.head.ring
	return ring[:len(ring):len(ring)], r.head.ringOK
}

// Recent returns the committed timeline events after the given position, oldest first and without hidden ones. It
// returns false if the events in memory do not reach back that far.
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

// recentEvent returns a committed event if it is in memory, and nil otherwise.
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

// LoadEvent returns the event stored in a row of the room.
func (r *Room) LoadEvent(row *storage.EventRow) (*Event, error) {
	return graph.LoadEvent(r.version, row)
}

// LoadEvents returns the events stored in the given rows of the room, in the same order.
func (r *Room) LoadEvents(rows []storage.EventRow) ([]*Event, error) {
	out := make([]*Event, len(rows))
	for i := range rows {
		e, err := graph.LoadEvent(r.version, &rows[i])
		if err != nil {
			return nil, err
		}
		out[i] = e
	}
	return out, nil
}

// EventsAt reads the events at the given positions. It skips position 0. In the result, a position without an event has
// the value nil.
func (r *Room) EventsAt(tx *storage.Tx, positions []storage.Pos) (map[storage.Pos]*Event, error) {
	return graph.EventsAt(tx, r.version, positions)
}

// StateOfType returns the events of one type in the current state, by state key. It cannot return members.
func (r *Room) StateOfType(typ string) map[string]*Event {
	r.mu.RLock()
	defer r.mu.RUnlock()
	found := map[string]*Event{}
	for k, e := range r.head.state {
		if k.Type == typ {
			found[k.Key] = e
		}
	}
	return found
}
