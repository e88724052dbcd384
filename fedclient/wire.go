package fedclient

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"
)

// KeyWant names a signing key of a server, and the time at which it must be valid.
type KeyWant struct {
	Server string
	KeyID  id.KeyID // ed25519:…
	At     int64    // ms; 0: at any time, as in room versions 1 to 4
}

// Template is the answer to make_join, make_leave and make_knock: an event to be completed, signed and sent back.
type Template struct {
	RoomVersion id.RoomVersion  `json:"room_version"`
	Event       json.RawMessage `json:"event"`
}

// JoinAnswer is the answer to send_join.
type JoinAnswer struct {
	Origin         string            `json:"origin"`
	Event          json.RawMessage   `json:"event,omitempty"` // signed by the resident server, in restricted rooms
	State          []json.RawMessage `json:"state"`           // before the join
	AuthChain      []json.RawMessage `json:"auth_chain"`
	MembersOmitted bool              `json:"members_omitted"`
	ServersInRoom  []string          `json:"servers_in_room,omitempty"`
}
