package rooms

import (
	"context"
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/mxerr"
	"ebb/rooms/pdu"
)

// Elsewhere is what other servers tell of rooms that this one may not know; fedclient.Client asks them.
type Elsewhere interface {
	PublicRooms(ctx context.Context, server string, query json.RawMessage) (answer json.RawMessage, err error)
	Hierarchy(ctx context.Context, server string, room id.RoomID, suggestedOnly bool) (answer json.RawMessage, err error)
}

// lookTime is how long a client waits for another server to show a room or a directory.
const lookTime = 15 * time.Second

// RemotePublicRooms reads a page of another server's room directory. What is no room in it is left out.
//
// Errors: what the server answers, as far as that is for clients; 502 M_UNKNOWN where it gives no good answer.
// Spec: client-server-api#post_matrixclientv3publicrooms
func (s *Service) RemotePublicRooms(ctx context.Context, server string, query PublicRoomsRequest) (page PublicRooms, err error) {
	if !pdu.ValidServerName(server) {
		return page, mxerr.InvalidParam("server must be a server name")
	}
	if s.opts.Elsewhere == nil {
		return page, mxerr.Forbidden("Federation is disabled on this server")
	}
	query.Limit = min(query.Limit, maxPublicRooms)
	if query.Limit == 0 {
		query.Limit = defaultPublicRooms
	}
	body, err := json.Marshal(query)
	if err != nil {
		return page, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	raw, err := s.opts.Elsewhere.PublicRooms(ctx, server, body)
	if err != nil {
		return page, fedclient.Relay(err)
	}
	return readPublicRooms(raw)
}

func readPublicRooms(raw json.RawMessage) (page PublicRooms, err error) {
	var answer struct {
		Chunk     []json.RawMessage `json:"chunk"`
		NextBatch string            `json:"next_batch"`
		PrevBatch string            `json:"prev_batch"`
		Total     int               `json:"total_room_count_estimate"`
	}
	if json.Unmarshal(raw, &answer) != nil {
		return page, fedclient.Relay(fedclient.ErrBadAnswer)
	}
	page = PublicRooms{Chunk: []PublicRoom{}, NextBatch: answer.NextBatch, PrevBatch: answer.PrevBatch, Total: answer.Total}
	for _, raw := range answer.Chunk[:min(len(answer.Chunk), maxPublicRooms)] {
		var room PublicRoom
		if json.Unmarshal(raw, &room) == nil && validRoomID(room.RoomID) {
			page.Chunk = append(page.Chunk, room)
		}
	}
	return page, nil
}

func validRoomID(room id.RoomID) bool {
	return len(room) > 1 && len(room) <= pdu.MaxIDLength && room[0] == '!'
}

// federated tells whether users of other servers may be in the room.
func (r *Room) federated() bool {
	e := r.State(typeCreate, "")
	if e == nil {
		return false
	}
	var content struct {
		Federate *bool `json:"m.federate"`
	}
	return json.Unmarshal(e.Content(), &content) != nil || content.Federate == nil || *content.Federate
}
