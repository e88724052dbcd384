package rooms_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accountdata"
	"ebb/history"
	"ebb/ident"
	"ebb/receipts"
	"ebb/rooms"
	"ebb/sharing"
	"ebb/storage"
)

func TestMain(m *testing.M) {
	rooms.OpenReaders = func(s *rooms.Service, o rooms.Options) rooms.Readers {
		data := accountdata.New(accountdata.Options{DB: o.DB, Rooms: s, Commits: o.Commits})
		return readers{history.New(history.Options{DB: o.DB, Rooms: s, AccountData: data, Commits: o.Commits, Now: o.Now}), receipts.New(s, o.Now), data, sharing.New(s, o.Hub)}
	}
	m.Run()
}

// readers implements rooms.Readers.
type readers struct {
	*history.Service
	receipts *receipts.Service
	data     *accountdata.Service
	sharing  *sharing.Service
}

func (r readers) SetReceipts(ctx context.Context, room id.RoomID, who ident.Requester, event id.EventID, types ...string) error {
	var markers []receipts.Marker
	for _, typ := range types {
		markers = append(markers, receipts.Marker{Type: typ, Event: event})
	}
	return r.receipts.Set(ctx, who, room, markers...)
}

func (r readers) ReceiveReceipts(ctx context.Context, origin string, content json.RawMessage) error {
	return r.receipts.Receive(ctx, origin, content)
}

func (r readers) SetAccountData(ctx context.Context, room id.RoomID, who ident.UserNID, typ, content string) error {
	return r.data.Set(ctx, who, room, typ, json.RawMessage(content))
}

func (r readers) AccountData(ctx context.Context, room id.RoomID, who ident.UserNID, typ string) (json.RawMessage, error) {
	return r.data.Get(ctx, who, room, typ)
}

func (r readers) PutTag(ctx context.Context, room id.RoomID, who ident.UserNID, tag, content string) error {
	return r.data.PutTag(ctx, who, room, tag, json.RawMessage(content))
}

func (r readers) WakeSharers(tx *storage.Tx, user ident.UserNID) (func(), error) {
	return r.sharing.WakeSharers(tx, user)
}

func (r readers) Tags(ctx context.Context, room id.RoomID, who ident.UserNID) (map[string]json.RawMessage, error) {
	return r.data.Tags(ctx, who, room)
}

func recipient(s ident.Requester) ident.Requester {
	return ident.Requester{UserNID: s.UserNID, UserID: s.UserID, DeviceNID: s.DeviceNID}
}

func (r readers) GetEvent(ctx context.Context, room id.RoomID, event id.EventID, who ident.Requester) (json.RawMessage, error) {
	return r.Service.GetEvent(ctx, room, event, recipient(who))
}

func (r readers) Messages(ctx context.Context, room id.RoomID, who ident.Requester, from string, limit int) ([]json.RawMessage, string, error) {
	page, err := r.Service.Messages(ctx, room, recipient(who), history.PageRequest{From: from, Backwards: true, Limit: limit})
	return page.Chunk, page.End, err
}

func (r readers) Before(ctx context.Context, room id.RoomID, event id.EventID, who ident.Requester, limit int) ([]json.RawMessage, error) {
	around, err := r.EventContext(ctx, room, event, recipient(who), limit, history.EventFilter{})
	return around.EventsBefore, err
}

func (r readers) RoomState(ctx context.Context, room id.RoomID, who ident.Requester) ([]json.RawMessage, error) {
	return r.Service.RoomState(ctx, room, recipient(who))
}

func (r readers) StateEvent(ctx context.Context, room id.RoomID, typ, key string, who ident.Requester) (json.RawMessage, error) {
	return r.Service.StateEvent(ctx, room, typ, key, recipient(who), false)
}

func (r readers) GetMembers(ctx context.Context, room id.RoomID, who ident.Requester) ([]json.RawMessage, error) {
	return r.Service.GetMembers(ctx, room, recipient(who), history.MembersRequest{})
}

func (r readers) JoinedMembers(ctx context.Context, room id.RoomID, who ident.Requester) ([]byte, error) {
	return r.Service.JoinedMembers(ctx, room, recipient(who))
}

func (r readers) TimestampToEvent(ctx context.Context, room id.RoomID, who ident.Requester, at time.Time, backwards bool) (id.EventID, int64, error) {
	return r.Service.TimestampToEvent(ctx, room, recipient(who), at, backwards)
}

func (r readers) Unread(ctx context.Context, room ident.RoomNID, who ident.Requester) (notify, highlight int64, err error) {
	u, err := r.Service.Unread(ctx, nil, who.UserNID, room)
	return u.Main.Notify, u.Main.Highlight, err
}

func (r readers) MissingEventsForServer(ctx context.Context, origin string, room id.RoomID, earliest, latest []id.EventID, limit int, minDepth int64) ([]json.RawMessage, error) {
	return r.Service.MissingEventsForServer(ctx, origin, history.MissingEvents{Room: room, Earliest: earliest, Latest: latest, Limit: limit, MinDepth: minDepth})
}
