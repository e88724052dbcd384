package fedclient

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"
)

// KeyWant names a signing key of a server, and the time at which it must be good.
type KeyWant struct {
	Server string
	KeyID  id.KeyID // ed25519:…
	At     int64    // ms; 0: at any time, as room versions 1 to 4 have it
}

// Template is what make_join, make_leave and make_knock answer: an event to be filled in, signed and sent back.
type Template struct {
	RoomVersion id.RoomVersion  `json:"room_version"`
	Event       json.RawMessage `json:"event"`
}

// JoinAnswer is what send_join answers.
type JoinAnswer struct {
	Origin         string            `json:"origin"`
	Event          json.RawMessage   `json:"event,omitempty"` // with the resident server's signature, in restricted rooms
	State          []json.RawMessage `json:"state"`           // before the join
	AuthChain      []json.RawMessage `json:"auth_chain"`
	MembersOmitted bool              `json:"members_omitted"`
	ServersInRoom  []string          `json:"servers_in_room,omitempty"`
}
