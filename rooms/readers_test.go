package rooms

import (
	"context"
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/ident"
	"ebb/storage"
)

// Readers is the part of the packages history, receipts and accountdata that the tests of this package use. Tests
// inside this package cannot import these packages, so history_test.go, which is outside, supplies an implementation.
type Readers interface {
	GetEvent(ctx context.Context, room id.RoomID, event id.EventID, who ident.Requester) (json.RawMessage, error)
	// Messages returns a page of events before a token.
	Messages(ctx context.Context, room id.RoomID, who ident.Requester, from string, limit int) (chunk []json.RawMessage, end string, err error)
	// Before returns the events before an event in its context.
	Before(ctx context.Context, room id.RoomID, event id.EventID, who ident.Requester, limit int) ([]json.RawMessage, error)
	RoomState(ctx context.Context, room id.RoomID, who ident.Requester) ([]json.RawMessage, error)
	StateEvent(ctx context.Context, room id.RoomID, typ, key string, who ident.Requester) (json.RawMessage, error)
	GetMembers(ctx context.Context, room id.RoomID, who ident.Requester) ([]json.RawMessage, error)
	JoinedMembers(ctx context.Context, room id.RoomID, who ident.Requester) ([]byte, error)
	TimestampToEvent(ctx context.Context, room id.RoomID, who ident.Requester, at time.Time, backwards bool) (id.EventID, int64, error)
	Unread(ctx context.Context, room ident.RoomNID, who ident.Requester) (notify, highlight int64, err error)

	SetReceipts(ctx context.Context, room id.RoomID, who ident.Requester, event id.EventID, types ...string) error
	ReceiveReceipts(ctx context.Context, origin string, content json.RawMessage) error
	SetAccountData(ctx context.Context, room id.RoomID, who ident.UserNID, typ, content string) error
	AccountData(ctx context.Context, room id.RoomID, who ident.UserNID, typ string) (json.RawMessage, error)
	PutTag(ctx context.Context, room id.RoomID, who ident.UserNID, tag, content string) error
	Tags(ctx context.Context, room id.RoomID, who ident.UserNID) (map[string]json.RawMessage, error)

	WakeSharers(tx *storage.Tx, user ident.UserNID) (committed func(), err error)
	JoinAnswer(ctx context.Context, j AcceptedJoin) (*fedclient.JoinAnswer, error)
	EventForServer(ctx context.Context, origin string, event id.EventID) (json.RawMessage, error)
	StateForServer(ctx context.Context, origin string, room id.RoomID, event id.EventID) (state, chain []*Event, err error)
	AuthChainForServer(ctx context.Context, origin string, room id.RoomID, event id.EventID) ([]*Event, error)
	BackfillForServer(ctx context.Context, origin string, room id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error)
	MissingEventsForServer(ctx context.Context, origin string, room id.RoomID, earliest, latest []id.EventID, limit int, minDepth int64) ([]json.RawMessage, error)
	EventAtTimeForServer(ctx context.Context, origin string, room id.RoomID, ts int64, backwards bool) (id.EventID, int64, error)
}

// OpenReaders returns the readers for a service that was created with the given options.
var OpenReaders func(s *Service, o Options) Readers

// reads returns the readers of the house's service.
func (h *house) reads() Readers {
	h.Helper()
	r, ok := h.readers.Load(h.svc)
	if !ok {
		h.Fatal("the house did not open this service")
	}
	return r.(Readers)
}
