package directory

import (
	"context"
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/mxerr"
	"ebb/rooms/pdu"
)

// Remote asks other servers about rooms that this server may not know; fedclient.Client implements it.
type Remote interface {
	QueryDirectory(ctx context.Context, server string, alias id.RoomAlias) (room id.RoomID, servers []string, err error)
	PublicRooms(ctx context.Context, server string, query json.RawMessage) (answer json.RawMessage, err error)
	Hierarchy(ctx context.Context, server string, room id.RoomID, suggestedOnly bool) (answer json.RawMessage, err error)
}

// lookTime bounds how long a client waits for other servers to answer about a room or about their directory.
const lookTime = 15 * time.Second

// RemotePublicRooms returns a page of another server's room directory. It leaves out malformed rooms.
//
// Errors: those of the other server that are meant for clients; 502 M_UNKNOWN if its response is missing or malformed.
// Spec: client-server-api#post_matrixclientv3publicrooms
func (s *Service) RemotePublicRooms(ctx context.Context, server string, query PublicRoomsRequest) (page PublicRooms, err error) {
	if !pdu.ValidServerName(server) {
		return page, mxerr.InvalidParam("server must be a server name")
	}
	if s.remote == nil {
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
	raw, err := s.remote.PublicRooms(ctx, server, body)
	if err != nil {
		return page, fedclient.Relay(err)
	}
	return readPublicRooms(raw)
}

// readPublicRooms parses the response of another server.
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
		if json.Unmarshal(raw, &room) == nil && pdu.LooksLikeRoomID(room.RoomID) {
			page.Chunk = append(page.Chunk, room)
		}
	}
	return page, nil
}
