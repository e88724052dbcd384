package rooms

import (
	"context"
	"errors"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/pdu"
)

// RoomSummary is what a room shows of itself to those who may join or read it.
type RoomSummary struct {
	PublicRoom
	AllowedRoomIDs []id.RoomID    `json:"allowed_room_ids,omitempty"` // whose members may join
	Encryption     string         `json:"encryption,omitempty"`
	RoomVersion    id.RoomVersion `json:"room_version,omitempty"`
}

// summary is the room as this server knows it.
func (r *Room) summary() RoomSummary {
	s := RoomSummary{PublicRoom: r.public(), RoomVersion: r.version.ID}
	if s.JoinRule == "" {
		s.JoinRule = "invite"
	}
	if e := r.State(typeEncryption, ""); e != nil {
		s.Encryption = e.ContentString("algorithm")
	}
	if r.restricted() {
		s.AllowedRoomIDs = allowedRooms(r.State(typeJoinRules, "").Content())
	}
	return s
}

// allowedRooms are the rooms whose members a join rule lets in.
func allowedRooms(joinRules []byte) (rooms []id.RoomID) {
	raw, _ := canonjson.Get(joinRules, "allow")
	allow, _ := canonjson.Elements(raw)
	for _, a := range allow[:min(len(allow), maxAllow)] {
		if !isObject(a) {
			continue
		}
		typ, _ := canonjson.Get(a, "type")
		of, _ := canonjson.Get(a, "room_id")
		if room := id.RoomID(jsonString(of)); jsonString(typ) == "m.room_membership" && validRoomID(room) {
			rooms = append(rooms, room)
		}
	}
	return rooms
}

// open tells whether anybody may join, ask to join, or read the room.
func (s *RoomSummary) open() bool {
	switch s.JoinRule {
	case "public", "knock", "knock_restricted", "": // other servers may leave out that it is public
		return true
	}
	return s.WorldReadable
}

// onlooker is who looks at a summary: a user of this server, or another server in the name of its users, or nobody that is
// known.
type onlooker struct {
	user   id.UserID
	server string
}

// mayLook tells whether somebody may see the summary of a room. What is not known here of the room comes from elsewhere.
// Spec: client-server-api#get_matrixclientv1roomsroomidhierarchy
func (s *Service) mayLook(ctx context.Context, who onlooker, room *RoomSummary) (bool, error) {
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
		r, err := s.Room(ctx, other)
		if errors.Is(err, ErrNoRoom) {
			continue
		}
		if err != nil {
			return false, err
		}
		if r.Resident() && (who.user != "" && r.Membership(who.user) == Join || who.server != "" && r.HasServer(who.server)) {
			return true, nil
		}
	}
	return false, nil
}

// standing tells whether somebody is in a room or invited, or banned, as far as this server knows.
func (s *Service) standing(ctx context.Context, who onlooker, room id.RoomID) (in, banned bool, err error) {
	r, err := s.Room(ctx, room)
	if errors.Is(err, ErrNoRoom) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	if who.server != "" {
		return r.HasServer(who.server) || r.hasInvited(who.server), !r.AllowsServer(who.server), nil
	}
	m := r.Membership(who.user)
	return m == Join || m == Invite, m == Ban, nil
}

// hasInvited tells whether a user of a server is invited.
func (r *Room) hasInvited(server string) bool {
	for _, m := range r.Members(Invite) {
		if serverOf(string(m.User)) == server {
			return true
		}
	}
	return false
}

// Summary is what a room shows of itself to a user, and the user's membership in it; of a user "" it is what the room shows to
// everybody. A room in which this server does not take part is asked for at the servers that are named with it.
//
// Errors: M_NOT_FOUND, also for what the user may not see; M_INVALID_PARAM.
// Spec: client-server-api#get_matrixclientv1room_summaryroomidoralias
func (s *Service) Summary(ctx context.Context, user id.UserID, idOrAlias string, via []string) (*RoomSummary, Membership, error) {
	if user == "" && strings.HasPrefix(idOrAlias, "#") && serverOf(idOrAlias) != s.opts.Server {
		return nil, "", errNoSummary() // strangers do not send this server out
	}
	roomID, servers, err := s.ResolveRoom(ctx, idOrAlias)
	if err != nil {
		return nil, "", err
	}
	room, membership, err := s.lookUp(ctx, user, roomID, append(via, servers...))
	if err != nil {
		return nil, "", err
	}
	if visible, err := s.mayLook(ctx, onlooker{user: user}, room); err != nil || !visible {
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

// lookUp finds a summary here or elsewhere, and the user's membership.
func (s *Service) lookUp(ctx context.Context, user id.UserID, roomID id.RoomID, via []string) (*RoomSummary, Membership, error) {
	r, err := s.Room(ctx, roomID)
	if err != nil && !errors.Is(err, ErrNoRoom) {
		return nil, "", err
	}
	membership := Leave
	if r != nil {
		if m := r.Membership(user); m != "" {
			membership = m
		}
		if r.Resident() {
			summary := r.summary()
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

// spaceElsewhere asks the servers that may know a room for it, one after the other; nil where none shows it.
func (s *Service) spaceElsewhere(ctx context.Context, user id.UserID, roomID id.RoomID, via []string, suggestedOnly bool) (*remoteSpace, error) {
	if s.opts.Elsewhere == nil {
		return nil, nil
	}
	reading := context.WithoutCancel(ctx) // ctx is for the network
	nid, err := s.UserNID(reading, user)
	if err != nil {
		return nil, err
	}
	servers, err := s.candidates(reading, roomID, ident.Requester{UserNID: nid, UserID: user}, via)
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
			raw, err := s.opts.Elsewhere.Hierarchy(ctx, server, roomID, suggestedOnly)
			if err != nil {
				return nil, err
			}
			return readSpace(raw, roomID)
		})
		if err == nil {
			return space, nil
		}
		s.log.Debug("a server does not show a room", "server", server, "room", roomID, "err", err)
	}
	return nil, nil //nolint:nilerr // who does not show the room is passed over
}
