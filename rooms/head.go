package rooms

import (
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/eventauth"
	"ebb/rooms/expiry"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// ringSize is the number of newest events that a room keeps in memory, from which /sync is served.
const ringSize = 64

// ringFill is the number of newest events that are read when a room is loaded: slightly more than the timeline of an
// initial /sync. Reading all 64 took half the time of an initial /sync of 500 rooms.
const ringFill = 24

// overlay holds the changes of queued writes. An entry is removed when its write is committed.
type overlay struct {
	state  map[pdu.StateKey]*stateChange // the newest for each key
	joined int                           // by how much queued writes change the number of joined users
}

func (o *overlay) reset() {
	o.state, o.joined = map[pdu.StateKey]*stateChange{}, 0
}

// provisional is the head that the room's next event is built on. It includes queued writes.
type provisional struct {
	extremities  []graph.Extremity // the oldest first
	depth        int64             // the highest depth of any event
	generation   int64             // expected in the room's row when the next write runs
	snapshot     *graph.Snapshot
	resolvedFrom []*graph.Snapshot // the states from which snapshot was resolved; nil: it was not resolved
	levels       *eventauth.PowerLevels

	queued  *storage.Pending // the newest queued write
	batch   *storage.Pending // the newest queued write of events
	epoch   int64            // grows when queued writes fail
	broken  bool             // queued writes failed: wait for the others, then reload
	retired bool             // evicted from the cache
}

// fill builds the committed head from the database. Either no other goroutine has the room yet, or the room's writer
// lock is held and no write is queued.
func (r *Room) fill(stored *storedRoom) error {
	row := &stored.row
	h := emptyHead()
	h.published, h.purged, h.override = row.Published, row.PurgedBefore, RetentionOverride(row)
	h.depth, h.minDepth, h.order, h.generation = row.Depth, row.MinDepth, row.LastOrder, row.Generation
	h.entered, h.recheck = row.Entered, row.Recheck
	h.undecided = stored.undecided
	h.snapshot = graph.Stored(row.Snapshot, stored.length)
	if err := r.fillState(stored, &h); err != nil {
		return err
	}
	h.completed, h.last = row.Completed, max(h.last, row.Completed)
	h.setPartial(partialOf(row))
	if err := r.fillRing(stored, &h); err != nil {
		return err
	}
	h.receipt, h.last = stored.receipt, max(h.last, stored.receipt)
	if err := r.fillExtremities(stored, &h); err != nil {
		return err
	}
	h.levels = eventauth.Levels(r.version, h.pdu(typeCreate), h.pdu(typePowerLevels))
	h.policy = r.svc.effective(&h)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.head = h
	r.memberEvents.Store(0)
	r.pending.reset()
	r.next = provisional{
		extremities: h.extremities, depth: h.depth, generation: h.generation, snapshot: h.snapshot, levels: h.levels, epoch: r.next.epoch + 1,
	}
	return nil
}

func emptyHead() head {
	return head{
		state: map[pdu.StateKey]*Event{}, changed: map[pdu.StateKey]storage.Pos{}, servers: map[string]int{}, members: map[id.UserID]*Member{}, local: map[ident.UserNID]*Member{}, invited: map[ident.UserNID]*Member{},
		counts: map[Membership]int{},
	}
}

// RetentionOverride returns the administrator's retention policy in the row of a room, or nil if there is none.
func RetentionOverride(row *storage.RoomRow) *expiry.Policy {
	if !row.Overridden {
		return nil
	}
	return &expiry.Policy{Min: expiry.FromMillis(row.OverrideMin), Max: expiry.FromMillis(row.OverrideMax)}
}

func (r *Room) fillState(stored *storedRoom, h *head) (err error) {
	for i := range stored.state {
		entry := &stored.state[i]
		key := pdu.StateKey{Type: entry.Type, Key: entry.StateKey}
		if entry.Position != 0 { // else the entry was deleted
			if h.state[key], err = graph.LoadEvent(r.version, &entry.EventRow); err != nil {
				return err
			}
		}
		if entry.Changed != 0 {
			h.changed[key] = entry.Changed
			h.last = max(h.last, entry.Changed)
		}
	}
	for _, m := range stored.members {
		h.setMember(r.svc, &Member{User: id.UserID(m.UserID), NID: m.User, Membership: m.Membership, Pos: m.Position, Changed: max(m.Position, m.Changed)})
		if m.Changed != 0 {
			h.resolvedMembers = max(h.resolvedMembers, m.Changed)
			h.last = max(h.last, m.Changed)
		}
	}
	return nil
}

func (r *Room) fillRing(stored *storedRoom, h *head) error {
	rows := stored.recent
	complete := len(rows) < ringFill
	if past := slices.IndexFunc(rows, func(e *storage.EventRow) bool { return graph.IsBackfilled(*e) }); past >= 0 {
		rows, complete = rows[:past], false
	}
	for i := range slices.Backward(rows) {
		h.last = max(h.last, rows[i].Position)
		if rows[i].Flags&storage.HiddenEvent != 0 {
			continue
		}
		e, err := graph.LoadEvent(r.version, rows[i])
		if err != nil {
			return err
		}
		h.ring = append(h.ring, e)
	}
	if !complete && len(rows) > 0 {
		h.ringOK = rows[len(rows)-1].Position - 1
	}
	return nil
}

func (r *Room) fillExtremities(stored *storedRoom, h *head) error {
	for _, pos := range stored.row.Extremities { // in the stored order
		eventID := stored.ends[pos]
		if eventID == "" {
			return fmt.Errorf("the forward extremity at %d of room %s is not stored", pos, r.id)
		}
		h.extremities = append(h.extremities, graph.Extremity{ID: eventID, Pos: pos})
	}
	if len(h.extremities) == 1 {
		h.extremities[0].After = h.snapshot
	}
	return nil
}

// pdu returns the event with the given type and an empty state key in the committed state, or nil if there is none.
func (h *head) pdu(typ string) *pdu.Event {
	if e := h.state[pdu.StateKey{Type: typ}]; e != nil {
		return e.Event
	}
	return nil
}

func (h *head) setMember(s *Service, m *Member) {
	h.dropMember(m.User)
	h.members[m.User] = m
	h.counts[m.Membership]++
	if m.Membership == Join {
		h.servers[ident.ServerOf(m.User)]++
	}
	if !s.IsLocal(m.User) {
		return
	}
	switch m.Membership {
	case Join:
		h.local[m.NID] = m
	case Invite:
		h.invited[m.NID] = m
	}
}

// nameMember puts the display name of m into the index of display names. e is the member event of m.
func (h *head) nameMember(m *Member, e *Event) {
	if h.names != nil && (h.local[m.NID] == m || h.invited[m.NID] == m) {
		h.names.Set(m.NID, m.User, e.ContentString("displayname"))
	}
}

// dropMember removes a user from the members, if the user is one.
func (h *head) dropMember(user id.UserID) {
	old := h.members[user]
	if old == nil {
		return
	}
	delete(h.members, user)
	h.names.Drop(old.NID)
	delete(h.local, old.NID)
	delete(h.invited, old.NID)
	h.counts[old.Membership]--
	if old.Membership == Join {
		h.dropServer(ident.ServerOf(user))
	}
}

func (h *head) dropServer(server string) {
	if h.servers[server]--; h.servers[server] == 0 {
		delete(h.servers, server)
	}
}

// effective returns the retention policy that applies to the room with the given head.
func (s *Service) effective(h *head) expiry.Policy {
	return s.EffectiveRetention(h.override, func(typ string) *Event { return h.state[pdu.StateKey{Type: typ}] }, h.counts[Join]+h.counts[Invite])
}

// EffectiveRetention returns the retention policy that applies to a room. override is the administrator's policy or
// nil, state returns the room's state event of the given type, and members is the number of joined and invited users.
// There are two types of retention events; if the room has both, the newer one applies. An invalid event is ignored.
func (s *Service) EffectiveRetention(override *expiry.Policy, state func(typ string) *Event, members int) expiry.Policy {
	o := &s.opts.Retention
	room, _ := statedRetention(state)
	def := o.Default
	if o.ByKind.Any() {
		joinRules := state(typeJoinRules)
		def = o.ByKind.For(expiry.Kind{
			Public: joinRules != nil && joinRules.ContentString("join_rule") == "public", Direct: members <= expiry.MaxDirect, Encrypted: state(typeEncryption) != nil,
		}, def)
	}
	return expiry.Effective(override, room, o.Limits, def)
}

// statedRetention returns the retention policy in the state of a room and the time (ms) when it was received. It
// returns nil if there is no valid one.
func statedRetention(state func(typ string) *Event) (p *expiry.Policy, since int64) {
	var newest storage.Pos
	for _, typ := range []string{typeRetention, typeRetentionUnstable} {
		e := state(typ)
		if e == nil || e.Pos < newest {
			continue
		}
		since = max(since, e.ReceivedTS) // also of an invalid event, which may have replaced a valid one
		if parsed, err := expiry.ParsePolicy(e.Content()); err == nil {
			p, newest = &parsed, e.Pos
		}
	}
	return p, since
}

// apply adds a committed event to the head. r.mu is held.
func (r *Room) apply(e *pendingEvent) {
	h := &r.head
	for _, c := range e.changes {
		if r.pending.state[c.key] == c {
			delete(r.pending.state, c.key)
		}
		r.applyState(c)
	}
	r.applyRedactions(e)
	h.extremities = h.extremities[:0:0]
	for _, x := range e.extremities {
		h.extremities = append(h.extremities, graph.Extremity{ID: x.ID, Pos: x.Position(), After: x.After})
	}
	h.depth, h.snapshot = e.depth, e.head
	h.undecided = h.undecided || e.Undecided()
	if e.Order > 0 { // rejected events are not news
		h.last = max(h.last, e.Pos)
	}
	h.order = max(h.order, e.Order)
	if !e.Hidden() && e.Order > 0 {
		h.push(e.Event)
	}
}

// applyRedactions redacts the target of a committed redaction, and shows the redactions that a committed event reveals.
func (r *Room) applyRedactions(e *pendingEvent) {
	if e.redacts != nil {
		r.replace(e.redacts.target.RedactedAs(e.redacts.pruned, e.redacts.by()))
	}
	for _, redaction := range e.revealed {
		r.insert(redaction)
	}
}

func (r *Room) applyState(c *stateChange) {
	h := &r.head
	if delete(h.changed, c.key); c.event == nil {
		h.changed[c.key] = c.by.Pos
	}
	if c.member != nil {
		defer r.derive(typeMember)
		r.pending.joined -= c.member.joinedMore()
		if old := h.members[c.member.user]; old != nil {
			r.memberEvents.Add(-old.event.Load().Size())
		}
		if c.event == nil {
			h.dropMember(c.member.user)
			return
		}
		m := &Member{User: c.member.user, NID: c.member.nid, Membership: c.member.to, Pos: c.event.Pos, Changed: c.by.Pos}
		if m.Changed != m.Pos {
			h.resolvedMembers = m.Changed
		}
		if c.joinedSince == 0 { // members who became known have no new event
			m.remember(r, c.event)
		}
		h.setMember(r.svc, m)
		h.nameMember(m, c.event)
		return
	}
	switch c.event {
	case nil:
		delete(h.state, c.key)
	case c.by.Event:
		h.state[c.key] = c.event
	default:
		h.state[c.key], h.changed[c.key] = c.event, c.by.Pos
	}
	r.derive(c.key.Type)
}

// derive recomputes the parts of the head that depend on state events of the given type.
func (r *Room) derive(typ string) {
	h := &r.head
	switch typ {
	case typeCreate, typePowerLevels:
		h.levels = eventauth.Levels(r.version, h.pdu(typeCreate), h.pdu(typePowerLevels))
	case typeMember:
		if r.svc.opts.Retention.ByKind.Direct != nil {
			h.policy = r.svc.effective(h)
		}
	case typeRetention, typeRetentionUnstable, typeJoinRules, typeEncryption:
		h.policy = r.svc.effective(h)
	}
}

// push appends an event to the ring. It never modifies elements of the ring, since readers may be using them.
func (h *head) push(e *Event) {
	if len(h.ring) >= 2*ringSize {
		h.ringOK = h.ring[len(h.ring)-ringSize].Pos
		h.ring = append(make([]*Event, 0, 2*ringSize), h.ring[len(h.ring)-ringSize+1:]...)
	}
	h.ring = append(h.ring, e)
}

// replace replaces an event by e, its redacted form, wherever it is in memory.
func (r *Room) replace(e *Event) {
	h := &r.head
	if i := slices.IndexFunc(h.ring, func(o *Event) bool { return o.Pos == e.Pos }); i >= 0 {
		h.ring = slices.Clone(h.ring)
		h.ring[i] = e
	}
	key, isState := e.StateKey()
	if !isState {
		return
	}
	if m := h.members[id.UserID(key)]; e.Type() == typeMember && m != nil && m.Pos == e.Pos {
		m.remember(r, e)
		h.nameMember(m, e)
		return
	}
	k := pdu.StateKey{Type: e.Type(), Key: key}
	if o := h.state[k]; o != nil && o.Pos == e.Pos {
		h.state[k] = e
		r.derive(k.Type)
	}
}
