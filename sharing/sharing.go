// Package sharing finds the users and servers that share a room with a user: they are notified when the user's devices
// change.
package sharing

import (
	"context"
	"errors"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
	"ebb/wake"
)

// Service finds the users and servers with which a user shares a room. It is safe for concurrent use.
type Service struct {
	rooms *rooms.Service
	hub   *wake.Hub
}

// New returns a Service. Waiting /sync requests are woken through hub.
func New(r *rooms.Service, hub *wake.Hub) *Service { return &Service{rooms: r, hub: hub} }

// SharedServers returns the other servers that share a room with a local user.
func (s *Service) SharedServers(ctx context.Context, user ident.UserNID) ([]string, error) {
	list, err := s.rooms.Memberships(ctx, user)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{s.rooms.Server(): true}
	var out []string
	for _, m := range list {
		if m.Membership != rooms.Join {
			continue
		}
		r, err := s.rooms.RoomByNID(ctx, m.Room)
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

// NewlyShared returns the other servers in the given room that share no other room with the given local user.
func (s *Service) NewlyShared(ctx context.Context, user ident.UserNID, room ident.RoomNID) ([]string, error) {
	var here []string
	elsewhere := map[string]bool{}
	err := s.rooms.EachJoined(ctx, user, func(r *rooms.Room) {
		if r.NID() == room {
			here = r.OtherServers()
			return
		}
		for name := range r.EachServer() {
			elsewhere[name] = true
		}
	})
	if errors.Is(err, rooms.ErrNoRoom) { // it was purged meanwhile
		err = nil
	}
	return slices.DeleteFunc(here, func(name string) bool { return elsewhere[name] }), err
}

// LocalSharers returns the local users who share a room with the given user, including that user if local. It looks up
// the local members of each room, so that the number of remote members does not matter.
func (s *Service) LocalSharers(ctx context.Context, user ident.UserNID) ([]ident.UserNID, error) {
	sharers := map[ident.UserNID]bool{}
	err := s.rooms.EachJoined(ctx, user, func(r *rooms.Room) {
		for member := range r.EachLocal() {
			sharers[member.NID] = true
		}
	})
	return slices.Sorted(maps.Keys(sharers)), err
}

// WakeSharers is called in a write that changes something about a local user. It finds the local users who share a room
// with the given one, who is included. It returns a function that wakes their syncs; the caller calls that function
// right after the commit, because a sync that is woken later or not at all would miss the change. For rooms in memory
// no member list is read: their local members include the effects of all earlier writes.
func (s *Service) WakeSharers(tx *storage.Tx, user ident.UserNID) (committed func(), err error) {
	memberships, err := tx.UserMemberships(user)
	if err != nil {
		return nil, err
	}
	awake := []*rooms.Room{}
	others := []ident.UserNID{user}
	for _, m := range memberships {
		if m.Membership != rooms.Join {
			continue
		}
		if r := s.rooms.Cached(m.Room); r != nil {
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
		s.hub.Users(others...)
		for _, r := range awake {
			s.hub.EachOf(r.LocalMembers())
		}
	}, nil
}

// MayShareRoom reports whether the given user of another server may be in a partial-state room, whose members are not
// all known.
func (s *Service) MayShareRoom(ctx context.Context, user id.UserID) (bool, error) {
	for _, room := range s.rooms.PartialRooms() {
		r, err := s.rooms.RoomByNID(ctx, room)
		if err != nil {
			return false, err
		}
		if r.Partial() && r.MayBeJoined(user) {
			return true, nil
		}
	}
	return false, nil
}
