package fedclient

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"
)

// KeyWant names a signing key of a server, and the time at which it must be valid.
type KeyWant struct {
	Server string
	KeyID  id.KeyID // ed25519:…
	At     int64    // milliseconds; 0 means any time, as in room versions 1 to 4
}

// Template is the response to make_join, make_leave and make_knock. It is an event that the requesting server
// completes, signs and sends back.
type Template struct {
	RoomVersion id.RoomVersion  `json:"room_version"`
	Event       json.RawMessage `json:"event"`
}

// JoinAnswer is the response to send_join.
type JoinAnswer struct {
	Origin         string            `json:"origin"`
	Event          json.RawMessage   `json:"event,omitempty"` // in restricted rooms, as signed by the resident
	State          []json.RawMessage `json:"state"`           // state before the join
	AuthChain      []json.RawMessage `json:"auth_chain"`
	MembersOmitted bool              `json:"members_omitted"`
	ServersInRoom  []string          `json:"servers_in_room,omitempty"`
}
