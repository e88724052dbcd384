package feed

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
	"ebb/rooms"
)

// Typing and presence across servers.

// EDU types of this package.
const (
	eduTyping   = "m.typing"
	eduPresence = "m.presence"
)

// queueEDU queues an EDU for servers.
func (s *Service) queueEDU(servers []string, typ, key string, content any) {
	if s.opts.Outgoing == nil || len(servers) == 0 {
		return
	}
	edu, err := json.Marshal(map[string]any{"edu_type": typ, "content": content})
	if err != nil {
		s.opts.Log.Error("Cannot encode ephemeral data", "type", typ, "err", err)
		return
	}
	for _, server := range servers {
		s.opts.Outgoing.Queue(server, typ+"\x00"+key, edu)
	}
}

// typingContent is the content of m.typing.
type typingContent struct {
	RoomID id.RoomID `json:"room_id"`
	UserID id.UserID `json:"user_id"`
	Typing bool      `json:"typing"`
}

// sendTyping notifies the other servers in a room that a local user is typing or has stopped.
// Spec: server-server-api#typing-notifications
func (s *Service) sendTyping(room *rooms.Room, user id.UserID, typing bool) {
	if s.opts.Outgoing != nil {
		s.queueEDU(room.OtherServers(), eduTyping, string(room.ID())+"\x00"+string(user), typingContent{room.ID(), user, typing})
	}
}

// ReceiveTyping handles an m.typing EDU from another server. It ignores rooms that this server is not in.
//
// Errors: M_FORBIDDEN, M_BAD_JSON.
// Spec: server-server-api#mtyping-schema
func (s *Service) ReceiveTyping(ctx context.Context, origin string, content json.RawMessage) error {
	var c typingContent
	if err := json.Unmarshal(content, &c); err != nil {
		return mxerr.BadJSON("m.typing does not have the documented shape")
	}
	if !belongsTo(c.UserID, origin) {
		return mxerr.Forbidden("That user does not belong to this server")
	}
	room, err := s.opts.Rooms.Room(ctx, c.RoomID)
	if errors.Is(err, rooms.ErrNoRoom) {
		return nil
	}
	if err != nil {
		return err
	}
	if !room.MayBeJoined(c.UserID) || !room.SharedWith(origin) {
		return mxerr.Forbidden("The user is not in the room")
	}
	nid, err := s.opts.Rooms.UserNID(ctx, c.UserID)
	if err != nil {
		return err
	}
	now := s.opts.Now()
	w := typist{nid: nid, user: c.UserID, remote: true}
	if c.Typing {
		w.until = now.Add(remoteTyping)
	}
	if changed, _ := s.typing.set(room.NID(), w, now); changed {
		s.typingChanged(room)
	}
	return nil
}

// belongsTo reports whether a user belongs to a server.
func belongsTo(user id.UserID, server string) bool {
	_, own, err := user.Parse()
	return err == nil && own == server
}

const (
	// maxPresencePush bounds the users of one m.presence EDU.
	maxPresencePush = 500
	// maxRemotePresence bounds the remote users whose presence is kept.
	maxRemotePresence = 50_000
	// presencePing is how often the presence of users who are not offline is repeated to other servers, which believe
	// it for half an hour.
	presencePing = 25 * time.Minute
	// remotePresence is how long a remote user counts as online without news.
	remotePresence = 30 * time.Minute
)

// presencePush is the presence of one user in an m.presence EDU.
type presencePush struct {
	UserID          id.UserID `json:"user_id"`
	Presence        string    `json:"presence"`
	LastActiveAgo   int64     `json:"last_active_ago"` // ms
	CurrentlyActive bool      `json:"currently_active,omitempty"`
	Status          *string   `json:"status_msg,omitempty"`
}

type presenceContent struct {
	Push []presencePush `json:"push"`
}

// pushOf converts a user's presence to the form that other servers get.
func (s *Service) pushOf(r presenceRecord) presencePush {
	push := presencePush{UserID: r.id, Presence: string(r.state), CurrentlyActive: r.active, Status: r.status}
	if !r.lastActive.IsZero() {
		push.LastActiveAgo = max(0, s.opts.Now().Sub(r.lastActive).Milliseconds())
	}
	return push
}

// sendPresence sends a local user's presence to other servers.
// Spec: server-server-api#presence
func (s *Service) sendPresence(r presenceRecord, servers map[string]bool) {
	list := make([]string, 0, len(servers))
	for server := range servers {
		list = append(list, server)
	}
	s.queueEDU(list, eduPresence, string(r.id), presenceContent{[]presencePush{s.pushOf(r)}})
}

// ReceivePresence handles an m.presence EDU from another server. It ignores users who do not belong to that server, and
// keeps the presence of users who share no room with a local user for a while.
//
// Errors: M_BAD_JSON, M_TOO_LARGE.
// Spec: server-server-api#mpresence-schema
func (s *Service) ReceivePresence(ctx context.Context, origin string, content json.RawMessage) error {
	if !s.opts.SendPresence {
		return nil
	}
	var c struct {
		Push []json.RawMessage `json:"push"`
	}
	if err := json.Unmarshal(content, &c); err != nil {
		return mxerr.BadJSON("m.presence does not have the documented shape")
	}
	if len(c.Push) > maxPresencePush {
		return mxerr.TooLarge("m.presence must not have more than %d entries", maxPresencePush)
	}
	for _, raw := range c.Push {
		var p presencePush
		if json.Unmarshal(raw, &p) != nil || !belongsTo(p.UserID, origin) {
			continue
		}
		if err := s.receivePresence(ctx, origin, p); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) receivePresence(ctx context.Context, origin string, p presencePush) error {
	state, err := parsePresence(p.Presence)
	if err != nil {
		return nil //nolint:nilerr // the EDU may hold valid presence of others
	}
	if p.Status != nil && (len(*p.Status) > maxStatus || *p.Status == "" || strings.ContainsRune(*p.Status, 0)) {
		p.Status = nil
	}
	nid, known, err := s.opts.Rooms.LookupUser(ctx, p.UserID)
	if err != nil {
		return err
	}
	meets := false
	if known {
		err = s.opts.Rooms.EachJoined(ctx, nid, func(room *rooms.Room) { meets = meets || spreadsPresence(room) && room.SharedWith(origin) })
		if err != nil {
			return err
		}
	}
	now := s.opts.Now()
	ago := time.Duration(min(max(0, p.LastActiveAgo), presenceMemory.Milliseconds())) * time.Millisecond
	r := presenceRecord{nid: nid, id: p.UserID, state: state, status: p.Status, active: p.CurrentlyActive, lastActive: now.Add(-ago)}
	if !meets { // the presence of a user who has just joined may arrive before the join
		s.meetings.keep(r, origin, now)
		return nil
	}
	s.presence.heard(r, now)
	return nil
}

// eachSpreading calls f for each room that the user has joined and in which members see each other's presence.
func (s *Service) eachSpreading(ctx context.Context, r presenceRecord, f func(*rooms.Room)) error {
	spreading := func(room *rooms.Room) {
		if spreadsPresence(room) {
			f(room)
		}
	}
	if r.remote {
		return s.opts.Rooms.EachJoined(ctx, r.nid, spreading)
	}
	memberships, err := s.opts.Rooms.Memberships(ctx, r.nid) // from memory
	if err != nil {
		return err
	}
	for _, m := range memberships {
		if m.Membership != rooms.Join {
			continue
		}
		room, err := s.opts.Rooms.RoomByNID(ctx, m.Room)
		if err != nil {
			return err
		}
		spreading(room)
	}
	return nil
}
