package rooms

import (
	"context"
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
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

// federates reports whether federation is enabled.
func (s *Service) federates() bool { return s.opts.Remote != nil && s.opts.Keys != nil }
