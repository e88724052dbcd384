package rooms

import (
	"context"
	"crypto/ed25519"
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/rooms/pdu"
)

// Remote sends requests of rooms to other servers. It is implemented by fedclient.Client.
type Remote interface {
	GetEvent(ctx context.Context, server string, event id.EventID) (json.RawMessage, error)
	GetMissingEvents(ctx context.Context, server string, room id.RoomID, earliest, latest []id.EventID, limit int, minDepth int64) ([]json.RawMessage, error)
	State(ctx context.Context, server string, room id.RoomID, event id.EventID, wanted func(json.RawMessage) bool) (state, authChain []json.RawMessage, err error)
	StateIDs(ctx context.Context, server string, room id.RoomID, event id.EventID) (state, authChain []id.EventID, err error)
	EventAuth(ctx context.Context, server string, room id.RoomID, event id.EventID) ([]json.RawMessage, error)
	Backfill(ctx context.Context, server string, room id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error)
	TimestampToEvent(ctx context.Context, server string, room id.RoomID, ts int64, dir string) (id.EventID, int64, error)

	MakeJoin(ctx context.Context, server string, room id.RoomID, user id.UserID, versions []id.RoomVersion) (fedclient.Template, error)
	MakeLeave(ctx context.Context, server string, room id.RoomID, user id.UserID) (fedclient.Template, error)
	MakeKnock(ctx context.Context, server string, room id.RoomID, user id.UserID, versions []id.RoomVersion) (fedclient.Template, error)
	SendJoin(ctx context.Context, server string, room id.RoomID, event id.EventID, join json.RawMessage, omitMembers bool) (*fedclient.JoinAnswer, error)
	SendLeave(ctx context.Context, server string, room id.RoomID, event id.EventID, leave json.RawMessage) error
	SendKnock(ctx context.Context, server string, room id.RoomID, event id.EventID, knock json.RawMessage) (stripped []json.RawMessage, err error)
	Invite(ctx context.Context, server string, version id.RoomVersion, room id.RoomID, event id.EventID, invite json.RawMessage, stripped []json.RawMessage) (signed json.RawMessage, err error)
	ExchangeThirdPartyInvite(ctx context.Context, server string, room id.RoomID, invite any) error
}

// Keys returns the signing keys of servers. Keys that cannot be fetched are missing from the result.
type Keys interface {
	Keys(ctx context.Context, wants []fedclient.KeyWant) map[fedclient.KeyWant]ed25519.PublicKey
}

// federates reports whether federation is enabled.
func (s *Service) federates() bool { return s.opts.Remote != nil && s.opts.Keys != nil }

// keyWants returns the keys with which a server signed an event.
func keyWants(e *pdu.Event, server string) (wants []fedclient.KeyWant) {
	at := int64(0)
	if e.Version().EnforceKeyValidity {
		at = e.OriginServerTS()
	}
	for signer, keyID := range e.Signatures() {
		if signer == server && len(wants) < maxSignatureKeys {
			wants = append(wants, fedclient.KeyWant{Server: server, KeyID: id.KeyID(keyID), At: at})
		}
	}
	return wants
}

// maxSignatureKeys bounds the signatures of one server on an event that are checked; servers usually make one.
const maxSignatureKeys = 4
