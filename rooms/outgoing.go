package rooms

import (
	"context"
	"errors"
	"maps"
	"slices"

	"ebb/ident"
	"ebb/storage"
)

// recipients returns the servers that an event is sent to: the other servers in the room, and that of the user a member
// event is about. It is called right after the event is added to the room.
func (r *Room) recipients(e *Event) []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	about := ""
	if key, isState := e.StateKey(); isState && e.Type() == typeMember {
		about = ident.ServerOf(key)
	}
	origin := ident.ServerOf(e.Sender())
	out := make([]string, 0, len(r.head.servers))
	for server := range r.head.servers {
		if server != r.svc.opts.Server && server != origin && server != about {
			out = append(out, server)
		}
	}
	invited := about != "" && r.head.servers[about] == 0 && e.ContentString("membership") == Invite // sent by /invite
	if about != "" && about != r.svc.opts.Server && about != origin && !invited {
		out = append(out, about)
	}
	return out
}

// SharedServers returns the other servers that share a room with a local user.
func (s *Service) SharedServers(ctx context.Context, user ident.UserNID) ([]string, error) {
	list, err := s.Memberships(ctx, user)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{s.opts.Server: true}
	var out []string
	for _, m := range list {
		if m.Membership != Join {
			continue
		}
		r, err := s.RoomByNID(ctx, m.Room)
		if err != nil {
			return nil, err
		}
		for server := range r.EachServer() {
			if !seen[server] {
				seen[server] = true
				out = append(out, server)
			}
		}
	}
	return out, nil
}

// NewlyShared returns the other servers in a room that share no other room with a local user.
func (s *Service) NewlyShared(ctx context.Context, user ident.UserNID, room ident.RoomNID) ([]string, error) {
	var here []string
	elsewhere := map[string]bool{}
	err := s.EachJoined(ctx, user, func(r *Room) {
		if r.nid == room {
			here = r.OtherServers()
			return
		}
		for name := range r.EachServer() {
			elsewhere[name] = true
		}
	})
	if errors.Is(err, ErrNoRoom) { // it was purged meanwhile
		err = nil
	}
	return slices.DeleteFunc(here, func(name string) bool { return elsewhere[name] }), err
}

// LocalSharers returns the local users who share a room with the given user, including that user if local. It looks up
// the local members of each room, so that the number of remote members does not matter.
func (s *Service) LocalSharers(ctx context.Context, user ident.UserNID) ([]ident.UserNID, error) {
	sharers := map[ident.UserNID]bool{}
	err := s.EachJoined(ctx, user, func(r *Room) {
		for member := range r.EachLocal() {
			sharers[member.NID] = true
		}
	})
	return slices.Sorted(maps.Keys(sharers)), err
}

// WakeSharers finds, within a write, the local users who share a room with the given local user, including that user.
// It returns a function that wakes their syncs once the write is committed. For rooms in memory it reads no member
// list, since they know their local members after all earlier writes. Users must be woken right after the commit: a
// sync that is woken later or not at all would miss the change.
func (s *Service) WakeSharers(tx *storage.Tx, user ident.UserNID) (committed func(), err error) {
	memberships, err := tx.UserMemberships(user)
	if err != nil {
		return nil, err
	}
	awake := []*Room{}
	others := []ident.UserNID{user}
	for _, m := range memberships {
		if m.Membership != Join {
			continue
		}
		if r := s.cache.byNID(m.Room); r != nil {
			awake = append(awake, r)
			continue
		}
		members, err := tx.JoinedMembers(m.Room)
		if err != nil {
			return nil, err
		}
		others = append(others, members...)
	}
	return func() {
		s.opts.Hub.Users(others...)
		for _, r := range awake {
			s.opts.Hub.EachOf(r.LocalMembers())
		}
	}, nil
}

// EachJoined calls f for each room that a local or remote user is joined to.
func (s *Service) EachJoined(ctx context.Context, user ident.UserNID, f func(*Room)) error {
	var rows []storage.MemberRow
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.UserMemberships(user)
		return err
	})
	if err != nil {
		return err
	}
	for _, m := range rows {
		if m.Membership != Join {
			continue
		}
		r, err := s.RoomByNID(ctx, m.Room)
		if err != nil {
			return err
		}
		f(r)
	}
	return nil
}
