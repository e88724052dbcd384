package directory

import (
	"context"
	"errors"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/pdu"
)

// RoomSummary is the description of a room for users who may join or read it.
type RoomSummary struct {
	PublicRoom
	AllowedRoomIDs []id.RoomID    `json:"allowed_room_ids,omitempty"` // rooms whose members may join
	Encryption     string         `json:"encryption,omitempty"`
	RoomVersion    id.RoomVersion `json:"room_version,omitempty"`
}

// summaryOf returns the summary of a room that this server participates in.
func summaryOf(r *rooms.Room) RoomSummary {
	s := RoomSummary{PublicRoom: publicRoom(r), RoomVersion: r.Version().ID, AllowedRoomIDs: r.AllowedRooms()}
	if s.JoinRule == "" {
		s.JoinRule = "invite"
	}
	if e := r.State(typeEncryption, ""); e != nil {
		s.Encryption = e.ContentString("algorithm")
	}
	return s
}

// open reports whether everybody may join the room, knock or read its history.
func (s *RoomSummary) open() bool {
	switch s.JoinRule {
	case "public", "knock", "knock_restricted", "": // other servers may omit the join rule of a public room
		return true
	}
	return s.WorldReadable
}

// viewer is the requester of a summary: a local user, another server on behalf of its users, or, if both fields are
// empty, a client without an access token.
type viewer struct {
	user   id.UserID
	server string
}

// maySee reports whether the viewer may see the summary of a room. The summary may come from another server.
// Spec: client-server-api#get_matrixclientv1roomsroomidhierarchy
func (s *Service) maySee(ctx context.Context, who viewer, room *RoomSummary) (bool, error) {
	in, banned, err := s.standing(ctx, who, room.RoomID)
	if err != nil || in {
		return in, err
	}
	if banned {
		return room.WorldReadable, nil
	}
	if room.open() {
		return true, nil
	}
	for _, other := range room.AllowedRoomIDs {
		r, err := s.rooms.Room(ctx, other)
		if errors.Is(err, rooms.ErrNoRoom) {
			continue
		}
		if err != nil {
			return false, err
		}
		if r.Resident() && (who.user != "" && r.Membership(who.user) == rooms.Join || who.server != "" && r.HasServer(who.server)) {
			return true, nil
		}
	}
	return false, nil
}

// standing reports whether the viewer is in the room, which means joined or invited, and whether the viewer is banned,
// as far as this server knows.
func (s *Service) standing(ctx context.Context, who viewer, room id.RoomID) (in, banned bool, err error) {
	r, err := s.rooms.Room(ctx, room)
	if errors.Is(err, rooms.ErrNoRoom) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	if who.server != "" {
		return r.HasServer(who.server) || hasInvited(r, who.server), !r.AllowsServer(who.server), nil
	}
	m := r.Membership(who.user)
	return m == rooms.Join || m == rooms.Invite, m == rooms.Ban, nil
}

// hasInvited reports whether a user of a server is invited to the room.
func hasInvited(r *rooms.Room, server string) bool {
	for _, m := range r.Members(rooms.Invite) {
		if ident.ServerOf(m.User) == server {
			return true
		}
	}
	return false
}

// Summary returns the summary of a room and the user's membership in it. An empty user stands for a client without an
// access token. If this server does not participate in the room, other servers are asked for the summary, including
// those in via.
//
// Errors: M_NOT_FOUND, also if the user may not see the summary; M_INVALID_PARAM.
// Spec: client-server-api#get_matrixclientv1room_summaryroomidoralias
func (s *Service) Summary(ctx context.Context, user id.UserID, idOrAlias string, via []string) (*RoomSummary, rooms.Membership, error) {
	if user == "" && strings.HasPrefix(idOrAlias, "#") && ident.ServerOf(idOrAlias) != s.server {
		return nil, "", errNoSummary() // clients without an access token cannot make this server send requests
	}
	roomID, servers, err := s.ResolveRoom(ctx, idOrAlias)
	if err != nil {
		return nil, "", err
	}
	room, membership, err := s.lookUp(ctx, user, roomID, append(via, servers...))
	if err != nil {
		return nil, "", err
	}
	if visible, err := s.maySee(ctx, viewer{user: user}, room); err != nil || !visible {
		return nil, "", orNoSummary(err)
	}
	return room, membership, nil
}

func errNoSummary() error { return mxerr.NotFound("The room does not exist, or you may not see it") }

func orNoSummary(err error) error {
	if err == nil {
		return errNoSummary()
	}
	return err
}

// lookUp returns the summary of a room, from memory or from another server, and the user's membership.
func (s *Service) lookUp(ctx context.Context, user id.UserID, roomID id.RoomID, via []string) (*RoomSummary, rooms.Membership, error) {
	r, err := s.rooms.Room(ctx, roomID)
	if err != nil && !errors.Is(err, rooms.ErrNoRoom) {
		return nil, "", err
	}
	membership := rooms.Leave
	if r != nil {
		if m := r.Membership(user); m != "" {
			membership = m
		}
		if r.Resident() {
			summary := summaryOf(r)
			return &summary, membership, nil
		}
	}
	if user == "" {
		return nil, "", errNoSummary()
	}
	network, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	found, err := s.spaceElsewhere(network, user, roomID, via, false)
	if err != nil {
		return nil, "", err
	}
	if found == nil {
		return nil, "", errNoSummary()
	}
	return &found.room.RoomSummary, membership, nil
}

// spaceElsewhere requests a room and its children from the servers that may know the room, one after the other. It
// returns nil if none of them answers.
func (s *Service) spaceElsewhere(ctx context.Context, user id.UserID, roomID id.RoomID, via []string, suggestedOnly bool) (*remoteSpace, error) {
	if s.remote == nil {
		return nil, nil
	}
	reading := context.WithoutCancel(ctx) // ctx has the deadline for other servers
	nid, err := s.rooms.UserNID(reading, user)
	if err != nil {
		return nil, err
	}
	servers, err := s.rooms.Candidates(reading, roomID, ident.Requester{UserNID: nid, UserID: user}, via)
	if err != nil {
		return nil, err
	}
	for _, server := range servers[:min(len(servers), maxHierarchyServers)] {
		if ctx.Err() != nil || !pdu.ValidServerName(server) {
			break
		}
		space, err := s.spaces.Get(ctx, spaceKey{server, roomID, suggestedOnly}, func(ctx context.Context) (*remoteSpace, error) {
			ctx, cancel := context.WithTimeout(ctx, hierarchyTime)
			defer cancel()
			raw, err := s.remote.Hierarchy(ctx, server, roomID, suggestedOnly)
			if err != nil {
				return nil, err
			}
			return readSpace(raw, roomID)
		})
		if err == nil {
			return space, nil
		}
		s.log.Debug("a server does not describe a room", "server", server, "room", roomID, "err", err)
	}
	return nil, nil //nolint:nilerr // the failures of the servers have been logged
}
