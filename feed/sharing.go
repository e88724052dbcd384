package feed

import (
	"context"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

// sharing is who has come to share a room with the user since the token, and who may have ceased to.
type sharing struct {
	come map[id.UserID]ident.UserNID // user nid
	gone map[id.UserID]ident.UserNID
	// entered: the user came into a room that other servers are in. They are told of the user's devices, and so are the
	// user's other devices, as clients expect.
	entered bool
}

// sharingNews finds out with whom the user newly shares rooms, and tells the device lists of whom to look at anew.
// Spec: client-server-api#extensions-to-sync-1
func (b *builder) sharingNews(ctx context.Context) error {
	if b.initial {
		return nil
	}
	for i := range b.plan.joined {
		b.roomSharing(&b.plan.joined[i])
	}
	if err := b.leftSharing(ctx); err != nil {
		return err
	}
	if err := b.onlyNew(ctx); err != nil {
		return err
	}
	return b.deviceLists(ctx)
}

// roomSharing notes who came to a room and who went.
func (b *builder) roomSharing(j *joinedRoom) {
	if j.fresh {
		b.shared.entered = b.shared.entered || len(j.room.OtherServers()) > 0
		for _, m := range j.room.Members(rooms.Join) {
			b.shared.note(m)
		}
		return
	}
	w := b.window(j.room, b.since.Pos)
	if completed := j.room.Completed(); !w.whole || completed > b.since.Pos {
		// Of those who were in a room before it was known, the devices matter where messages are encrypted for them.
		encrypted := j.room.Encrypted()
		for _, m := range j.room.Members(rooms.Join, rooms.Leave, rooms.Ban) {
			if m.Changed > b.since.Pos && (encrypted || m.Changed != completed) {
				b.shared.note(m)
			}
		}
		return
	}
	for _, key := range j.room.Resolved(b.since.Pos) {
		if m := j.room.MemberOf(id.UserID(key.Key)); m != nil && key.Type == memberType {
			b.shared.note(m)
		}
	}
	for _, e := range w.events {
		if key, isState := stateKey(e); isState && key.Type == memberType {
			if m := j.room.MemberOf(id.UserID(key.Key)); m != nil {
				b.shared.note(m)
			}
		}
	}
}

func (s *sharing) note(m *rooms.Member) {
	switch m.Membership {
	case rooms.Join:
		if s.come == nil {
			s.come = map[id.UserID]ident.UserNID{}
		}
		s.come[m.User] = m.NID
	case rooms.Leave, rooms.Ban:
		s.lost(m)
	}
}

func (s *sharing) lost(m *rooms.Member) {
	if s.gone == nil {
		s.gone = map[id.UserID]ident.UserNID{}
	}
	s.gone[m.User] = m.NID
}

// leftSharing notes the members of the rooms that the user was in and left.
func (b *builder) leftSharing(ctx context.Context) error {
	for _, m := range b.plan.left {
		room, err := b.opts.Rooms.RoomByNID(ctx, m.Room)
		if err != nil {
			return err
		}
		d, err := b.departure(ctx, room, m.Position)
		if err != nil {
			return err
		}
		if d.leave == nil {
			continue
		}
		for _, other := range room.Members(rooms.Join) {
			b.shared.lost(other)
		}
	}
	return nil
}

// onlyNew drops from those who came the ones who were there before, with a new name perhaps, and from those who went
// the ones who are still met elsewhere.
func (b *builder) onlyNew(ctx context.Context) error {
	delete(b.shared.come, b.UserID)
	delete(b.shared.gone, b.UserID)
	maps.DeleteFunc(b.shared.gone, func(user id.UserID, _ ident.UserNID) bool { return b.meets(ctx, user) })
	if len(b.shared.come) == 0 {
		return nil
	}
	return b.read(ctx, func(tx *storage.Tx) error {
		met, err := b.newlyMet(tx)
		maps.DeleteFunc(b.shared.come, func(_ id.UserID, nid ident.UserNID) bool { return !met[nid] })
		return err
	})
}

// meets tells whether the user is in a room with another one.
func (b *builder) meets(ctx context.Context, user id.UserID) bool {
	return b.anyRoom(ctx, func(room *rooms.Room) bool { return room.Membership(user) == rooms.Join })
}

// newlyMet finds, among those who came, the ones with whom the user is in a room that one of them joined after the
// token.
func (b *builder) newlyMet(tx *storage.Tx) (map[ident.UserNID]bool, error) {
	met := map[ident.UserNID]bool{}
	for _, j := range b.plan.joined {
		var unsure []ident.UserNID
		for user, nid := range b.shared.come {
			switch m := j.room.MemberOf(user); {
			case met[nid] || m == nil || m.Membership != rooms.Join:
			case j.fresh, m.Changed > b.since.Pos && m.Changed == j.room.Completed():
				met[nid] = true
			case m.Changed > b.since.Pos: // joined, or only with a new name
				unsure = append(unsure, nid)
			}
		}
		joined, err := tx.JoinedAfter(j.Room, unsure, b.since.Pos)
		if err != nil {
			return nil, err
		}
		for _, nid := range joined {
			met[nid] = true
		}
	}
	return met, nil
}

// deviceLists turns that, and the changes of devices, into the two lists.
func (b *builder) deviceLists(ctx context.Context) error {
	if b.opts.E2EE == nil || !b.shared.entered && len(b.shared.come)+len(b.shared.gone)+len(b.own.deviceChanges) == 0 {
		return nil
	}
	changed := map[id.UserID]bool{}
	for user := range b.shared.come {
		changed[user] = true
	}
	if b.shared.entered {
		changed[b.UserID] = true
	}
	if len(b.own.deviceChanges) > 0 {
		err := b.read(ctx, func(tx *storage.Tx) error {
			users, err := tx.UserIDs(b.own.deviceChanges)
			for _, user := range users {
				changed[id.UserID(user)] = true
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	for user := range b.shared.gone {
		delete(changed, user)
	}
	b.own.changed = slices.Sorted(maps.Keys(changed))
	b.own.left = slices.Sorted(maps.Keys(b.shared.gone))
	return nil
}

// DeviceChanges lists whose devices to look at anew between two tokens of /sync, and with whom no room is shared any
// more.
// Spec: client-server-api#get_matrixclientv3keyschanges
func (s *Service) DeviceChanges(ctx context.Context, who ident.Requester, from, to string) (changed, left []id.UserID, err error) {
	since, err := s.parseSince(from)
	if err != nil {
		return nil, nil, err
	}
	upTo, err := s.parseSince(to)
	if err != nil {
		return nil, nil, err
	}
	if upTo.Pos < since.Pos {
		return nil, nil, mxerr.InvalidParam("to must not be older than from")
	}
	f, err := s.filterOf(ctx, who, "")
	if err != nil {
		return nil, nil, err
	}
	b := &builder{Service: s, request: &request{SyncRequest: SyncRequest{Requester: who}, filter: f, since: since}, now: s.opts.Now(), partial: true}
	if err := b.makePlan(ctx); err != nil {
		return nil, nil, err
	}
	if s.opts.E2EE != nil {
		err := b.read(ctx, func(tx *storage.Tx) (err error) {
			// Of each user only the newest change is known: one after the second token hides what was between the two.
			b.own.deviceChanges, err = s.opts.E2EE.DeviceListChanges(tx, who.UserNID, since.Pos, b.upTo)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
	}
	if err := b.sharingNews(ctx); err != nil {
		return nil, nil, err
	}
	return b.own.changed, b.own.left, nil
}
