package rooms

import (
	"context"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/eventauth"
	"ebb/rooms/graph"
	"ebb/rooms/legalhold"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// adoption is a verified room from another server's join response.
type adoption struct {
	version   *pdu.Version
	room      id.RoomID
	state     []*pdu.Event // before the join
	authChain []*pdu.Event // of the state and the join
	join      *pdu.Event
	sender    ident.Requester // the joining user
	partial   bool            // most members are left out
	servers   []string        // if partial: the servers in the room, starting with the one that answered
}

// firstJoinPosition is the lowest position of the join of a room from another server. The positions below leave room
// for a quarter of a billion events of its history.
const firstJoinPosition storage.Pos = 1 << 16

// adopt makes this server a participant of a room. It stores the state that another server sent, and then the join of a
// local user. Events that are stored from an earlier stay in the room become history.
func (s *Service) adopt(ctx context.Context, a adoption) error {
	nid, err := s.enter(ctx, a.room, a.version)
	if err != nil {
		return err
	}
	r, err := s.lockRoom(ctx, a.room)
	if err != nil {
		return err
	}
	defer r.writer.Unlock()
	if r.Resident() && len(r.Members(Join)) > 0 {
		return errResident
	}
	if again, err := s.rejoinPartial(ctx, r, a.join); again || err != nil {
		return err
	}
	known, err := s.storedOf(ctx, r, a)
	if err != nil {
		return err
	}
	fresh := authorised(a.version, append(slices.Clone(a.authChain), a.state...), known, nil)
	for _, e := range fresh {
		known[e.ID()] = e
	}
	if err := a.check(known); err != nil {
		return err
	}
	if err := s.storeOutliers(ctx, nid, fresh); err != nil {
		return err
	}
	h, before, err := s.adoptedHead(ctx, r, a, known)
	if err != nil {
		return err
	}
	return s.begin(ctx, r, a, h, before)
}

// errResident is returned if this server joined the room meanwhile.
var errResident = mxerr.New(409, mxerr.CodeUnknown, "This server is already in the room")

// enter returns the number of the given room. If the room is new to this server, enter allots the number.
func (s *Service) enter(ctx context.Context, room id.RoomID, v *pdu.Version) (nid ident.RoomNID, err error) {
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		tx.SkipTo(firstJoinPosition)
		row, found, err := tx.RoomByID(string(room))
		if err != nil {
			return err
		}
		if found {
			if nid = row.NID; row.Version != string(v.ID) {
				return mxerr.InvalidParam("The room has version %s", row.Version)
			}
			return nil
		}
		nid = ident.RoomNID(tx.NextPos())
		return tx.InsertRoom(&storage.RoomRow{NID: nid, RoomID: string(room), Version: string(v.ID), CreatedTS: tx.Now().UnixMilli()})
	})
	return nid, err
}

// storedOf returns those events of an adoption that are stored already.
func (s *Service) storedOf(ctx context.Context, r *Room, a adoption) (map[id.EventID]*Event, error) {
	ids := make([]id.EventID, 0, len(a.state)+len(a.authChain))
	for _, e := range a.state {
		ids = append(ids, e.ID())
	}
	for _, e := range a.authChain {
		ids = append(ids, e.ID())
	}
	return s.stored(ctx, r, ids)
}

// check verifies that the state allows the join. An event of the state counts only if its own auth events authorise it;
// known has the results.
func (a *adoption) check(known map[id.EventID]*Event) error {
	state := eventauth.StateMap{}
	for _, given := range a.state {
		if e := known[given.ID()]; e != nil && e.AsAuth().Flags&storage.RejectedEvent == 0 {
			if key, isState := e.StateKey(); isState {
				state[pdu.StateKey{Type: e.Type(), Key: key}] = e.Event
			}
		}
	}
	if err := eventauth.Check(a.version, a.join, state); err != nil {
		return fmt.Errorf("%w: the authorised part of the state does not allow the join: %w", fedclient.ErrBadAnswer, err)
	}
	return nil
}

// adoptedHead returns the room's head before the join, and the state as a snapshot.
func (s *Service) adoptedHead(ctx context.Context, r *Room, a adoption, known map[id.EventID]*Event) (*head, *graph.Snapshot, error) {
	r.mu.RLock()
	old := r.head
	r.mu.RUnlock()
	h := emptyHead()
	h.published, h.purged, h.override, h.generation, h.last, h.order = old.published, old.purged, old.override, old.generation, old.last, old.order
	full := graph.State{}
	for _, given := range a.state {
		e := known[given.ID()]
		key, isState := given.StateKey()
		if e == nil || !isState {
			continue
		}
		if e = e.AsAuth(); e.Flags&storage.RejectedEvent != 0 {
			continue
		}
		k := pdu.StateKey{Type: given.Type(), Key: key}
		full[k] = graph.Entry{Key: k, Pos: e.Pos}
		if k.Type != typeMember {
			h.state[k] = e
			continue
		}
		nid, err := s.UserNID(ctx, id.UserID(key))
		if err != nil {
			return nil, nil, err
		}
		m := &Member{User: id.UserID(key), NID: nid, Membership: pdu.Membership(e.Content()), Pos: e.Pos, Changed: e.Pos}
		h.setMember(s, m)
	}
	for _, m := range old.members { // keep local users who are not in the new state, such as those who rejected an invite
		if h.members[m.User] == nil && s.IsLocal(m.User) && m.Membership != Join {
			h.setMember(s, m)
		}
	}
	h.levels = eventauth.Levels(a.version, h.pdu(typeCreate), h.pdu(typePowerLevels))
	h.policy = s.effective(&h)
	return &h, graph.FullSnapshot(full), nil
}

// begin stores the room with the join as its newest event. The writer lock is held until the write is committed,
// because no other event can be built on the room before that.
func (s *Service) begin(ctx context.Context, r *Room, a adoption, h *head, before *graph.Snapshot) error {
	member := &memberChange{user: a.sender.UserID, nid: a.sender.UserNID, to: Join}
	if m := h.members[a.sender.UserID]; m != nil {
		member.from = m.Membership
	}
	join := &pendingEvent{Event: &Event{
		Event: a.join, Room: r.nid, SenderNID: a.sender.UserNID, DeviceNID: a.sender.DeviceNID, ReceivedTS: s.opts.Now().UnixMilli(), Built: true,
		Flags: storage.GapEvent,
	}, before: before, missing: a.join.PrevEvents(), depth: a.join.Depth()}
	key := pdu.StateKey{Type: typeMember, Key: string(a.sender.UserID)}
	join.changes = []*stateChange{{key: key, event: join.Event, by: join, member: member}}
	join.after = before.Over(graph.Entry{Key: key, Event: join.Event})
	join.head = join.after
	join.extremities = []graph.Extremity{{ID: join.ID(), Event: join.Event, After: join.after}}
	b := &batch{svc: s, room: r, events: []*pendingEvent{join}, entering: true, partial: a.partial}
	h.minDepth = a.join.Depth()
	s.partials.End(r.nid) // of an earlier stay
	p := s.db.Enqueue(storage.Write{
		Rooms: []ident.RoomNID{r.nid},
		Do:    func(tx *storage.Tx) error { return b.enterRoom(tx, h, join, a.servers) },
		Committed: func() {
			c := &b.commit
			c.Room, c.Entered, c.advances = r, true, true
			c.add(s, b.events)
			s.commit(c, headFunc(func(*Room) { a.applyTo(r, h, join) }))
		},
	})
	if err := p.Wait(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("store the room %s: %w", a.room, err)
	}
	if a.partial {
		s.partials.Announce()
	}
	r.next = provisional{
		extremities: join.extremities, depth: join.depth, generation: r.head.generation, snapshot: join.head, levels: h.levels, epoch: r.next.epoch + 1,
		queued: p, batch: p,
	}
	return nil
}

// applyTo replaces the room's head by h, the head of the adopted room, and adds the join. Room.mu is held.
func (a *adoption) applyTo(r *Room, h *head, join *pendingEvent) {
	h.entered, h.recheck = join.Pos, false
	if a.partial {
		h.setPartial(&partial{join: join.Pos, servers: a.servers})
	}
	r.head = *h
	r.memberEvents.Store(0)
	r.pending.reset()
	r.pending.joined = join.changes[0].member.joinedMore() // apply subtracts it again
	r.apply(join)
	r.head.ringOK = join.Pos - 1 // the ring has no events from before the join, which belong to an earlier stay
}

// enterRoom writes the current state, the join and the room's row, and extends legal holds to the room. servers is
// empty unless the room has partial state.
func (b *batch) enterRoom(tx *storage.Tx, h *head, join *pendingEvent, servers []string) error {
	r := b.room
	if err := tx.ClearCurrentState(r.nid); err != nil {
		return err
	}
	for k, e := range h.state {
		if err := tx.SetCurrentState(r.nid, k.Type, k.Key, e.Pos, 0); err != nil {
			return err
		}
	}
	for _, m := range h.members {
		if err := tx.SetCurrentState(r.nid, typeMember, string(m.User), m.Pos, 0); err != nil {
			return err
		}
		if err := tx.SetMembership(storage.MemberRow{User: m.NID, Room: r.nid, Membership: m.Membership, Position: m.Pos}); err != nil {
			return err
		}
	}
	if err := tx.SetStrippedState(join.changes[0].member.nid, r.nid, ""); err != nil {
		return err
	}
	if err := b.writeEvent(tx, join); err != nil {
		return err
	}
	row := &storage.RoomRow{NID: r.nid, Snapshot: join.head.NID, Extremities: []storage.Pos{join.Pos}, Depth: join.Depth(), LastOrder: join.Order, Entered: join.Pos}
	if len(servers) > 0 {
		row.PartialJoin, row.PartialServers = join.Pos, servers
	}
	if err := tx.EnterRoom(row); err != nil {
		return err
	}
	var err error
	b.commit.Holds, err = legalhold.Follow(tx, r.nid)
	return err
}
