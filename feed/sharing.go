package feed

import (
	"context"
	"maps"
	"math"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

// sharing holds the users who have come to share a room with the user since the token (come), and those who may no
// longer share one (gone).
type sharing struct {
	come map[id.UserID]ident.UserNID // user nid
	gone map[id.UserID]bool
	// entered: the user joined a room that other servers are in. Those servers have just been sent the user's devices;
	// clients expect the user's own ID among the changed ones then.
	entered bool
}

// sharingNews finds the users who newly share a room with the user and those who no longer share one, and sets
// device_lists accordingly.
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
	if err := b.dropUnchanged(ctx); err != nil {
		return err
	}
	return b.deviceLists(ctx)
}

// roomSharing adds the users who have joined or left the given room, or have lost their membership by state resolution,
// to b.shared.
func (b *builder) roomSharing(j *joinedRoom) {
	if j.fresh {
		b.shared.entered = b.shared.entered || len(j.room.OtherServers()) > 0
		for _, m := range j.room.Members(rooms.Join) {
			b.shared.note(m)
		}
		return
	}
	resolved := j.room.Resolved(b.since.Pos)
	for _, key := range resolved {
		if key.Type == memberType && j.room.MemberOf(id.UserID(key.Key)) == nil {
			b.shared.lost(id.UserID(key.Key)) // state resolution deleted the user's membership
		}
	}
	w := b.window(j.room, b.since.Pos)
	if completed := j.room.Completed(); !w.whole || completed > b.since.Pos {
		// Members who were in a room before its state was complete matter only if the room is encrypted, so that
		// messages are encrypted for their devices.
		encrypted := j.room.Encrypted()
		for _, m := range j.room.Members(rooms.Join, rooms.Leave, rooms.Ban) {
			if m.Changed > b.since.Pos && (encrypted || m.Changed != completed) {
				b.shared.note(m)
			}
		}
		return
	}
	for _, key := range resolved {
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
		s.lost(m.User)
	}
}

// lost adds a user who may no longer share a room with the syncing user.
func (s *sharing) lost(user id.UserID) {
	if s.gone == nil {
		s.gone = map[id.UserID]bool{}
	}
	s.gone[user] = true
}

// leftSharing adds the members of the rooms that the user has left to b.shared.gone.
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
			b.shared.lost(other.User)
		}
	}
	return nil
}

// dropUnchanged removes users for whom nothing has changed: from come those who shared a room before, such as those
// with only a new display name, and from gone those who still share another room.
func (b *builder) dropUnchanged(ctx context.Context) error {
	delete(b.shared.come, b.UserID)
	delete(b.shared.gone, b.UserID)
	maps.DeleteFunc(b.shared.gone, func(user id.UserID, _ bool) bool { return b.sharesRoomWith(ctx, user) })
	if len(b.shared.come) == 0 {
		return nil
	}
	return b.read(ctx, func(tx *storage.Tx) error {
		met, err := b.newlySharing(tx)
		maps.DeleteFunc(b.shared.come, func(_ id.UserID, nid ident.UserNID) bool { return !met[nid] })
		return err
	})
}

// sharesRoomWith reports whether the user shares a room with another user.
func (b *builder) sharesRoomWith(ctx context.Context, user id.UserID) bool {
	return b.anyRoom(ctx, func(room *rooms.Room) bool { return room.Membership(user) == rooms.Join })
}

// newlySharing selects, from the users in b.shared.come, those who share a room that they or the user joined after the
// token.
func (b *builder) newlySharing(tx *storage.Tx) (map[ident.UserNID]bool, error) {
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

// deviceLists computes the lists changed and left of device_lists from b.shared and from the device changes since the
// token.
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

// DeviceChanges lists the users whose devices changed between two /sync tokens, and those with whom no room is shared
// any more.
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
			// Only the newest change of each user is stored: a change after the second token hides those between the
			// two tokens. It may even be newer than b.upTo.
			b.own.deviceChanges, err = s.opts.E2EE.DeviceListChanges(tx, who.UserNID, since.Pos, math.MaxInt64)
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
