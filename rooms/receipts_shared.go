package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Receipts across servers.

// eduReceipt is the EDU that carries them.
const eduReceipt = "m.receipt"

const (
	// maxReceiptRooms bounds the rooms of one m.receipt, maxReceiptUsers the receipts of one of them: a transaction has
	// a hundred m.receipt, and each room is a write.
	maxReceiptRooms = 100
	maxReceiptUsers = 1000
)

// receiptContent is the content of m.receipt: room → type → user.
type receiptContent map[id.RoomID]map[string]map[id.UserID]userReceipt

type userReceipt struct {
	EventIDs []id.EventID `json:"event_ids"`
	Data     receiptData  `json:"data"`
}

type receiptData struct {
	TS       int64  `json:"ts"` // ms
	ThreadID string `json:"thread_id,omitempty"`
}

// EDU returns the EDU that tells other servers of the receipt, and the key under which a newer one replaces it.
// Spec: server-server-api#receipts
func (c *CommittedReceipt) EDU(room id.RoomID) (key string, edu json.RawMessage, err error) {
	content := receiptContent{room: {c.Type: {c.User: {EventIDs: []id.EventID{c.Event}, Data: receiptData{TS: c.TS, ThreadID: c.Thread}}}}}
	edu, err = json.Marshal(map[string]any{"edu_type": eduReceipt, "content": content})
	return strings.Join([]string{eduReceipt, string(room), string(c.User), c.Thread}, "\x00"), edu, err
}

// OtherServers lists the servers with joined users, without this one.
func (r *Room) OtherServers() (others []string) {
	for server := range r.EachServer() {
		if server != r.svc.opts.Server {
			others = append(others, server)
		}
	}
	return others
}

// ReceiveReceipts takes an m.receipt of another server. What is not a receipt of one of its users, for an event that
// this server knows in a room that both are in, is passed over: others in the same EDU are good nevertheless.
// Spec: server-server-api#mreceipt-schema
func (s *Service) ReceiveReceipts(ctx context.Context, origin string, content json.RawMessage) error {
	var rooms map[id.RoomID]map[string]json.RawMessage
	if err := json.Unmarshal(content, &rooms); err != nil {
		return mxerr.BadJSON("m.receipt does not have the documented shape")
	}
	if len(rooms) > maxReceiptRooms {
		return mxerr.TooLarge("m.receipt must not name more than %d rooms", maxReceiptRooms)
	}
	for room, types := range rooms {
		if err := s.receiveReceipts(ctx, origin, room, types[ReadReceipt]); err != nil {
			return err
		}
	}
	return nil
}

// receiveReceipts takes the receipts of one room.
func (s *Service) receiveReceipts(ctx context.Context, origin string, room id.RoomID, raw json.RawMessage) error {
	var users map[id.UserID]json.RawMessage
	_ = json.Unmarshal(raw, &users) // what is no object is of nobody
	if len(users) == 0 || len(users) > maxReceiptUsers {
		return nil
	}
	r, err := s.Room(ctx, room)
	if err != nil || !r.SharedWith(origin) {
		return unlessInternal(err)
	}
	w := &receivedReceipts{svc: s}
	for user, raw := range users {
		receipt, ok, err := r.receivedReceipt(ctx, origin, user, raw)
		if err != nil {
			return err
		}
		if ok {
			w.receipts = append(w.receipts, receipt)
		}
	}
	if len(w.receipts) == 0 {
		return nil
	}
	return s.touch(ctx, room, func(r *Room) storage.Write {
		w.room = r
		return storage.Write{Do: w.do, Committed: w.committed}
	})
}

// SharedWith tells whether this server takes part in the room, and another one does and may.
func (r *Room) SharedWith(server string) bool {
	return r.Resident() && r.HasServer(server) && r.AllowsServer(server)
}

// unlessInternal leaves errors out that are about the request: what is asked for is not there.
func unlessInternal(err error) error {
	if mxerr.Code(err) != "" {
		return nil
	}
	return err
}

func parseReceipt(raw json.RawMessage) (c userReceipt, ok bool) {
	err := json.Unmarshal(raw, &c)
	return c, err == nil && len(c.EventIDs) > 0
}

// receivedReceipt is a receipt of another server's user that is to be stored.
type receivedReceipt struct {
	CommittedReceipt
	order ident.Order // of its event
}

// receivedReceipt checks one receipt; false if it is not to be stored.
func (r *Room) receivedReceipt(ctx context.Context, origin string, user id.UserID, raw json.RawMessage) (out receivedReceipt, ok bool, err error) {
	c, ok := parseReceipt(raw)
	if !ok || ident.ServerOf(user) != origin || !pdu.ValidUserID(user) || !r.MayBeJoined(user) {
		return out, false, nil
	}
	marker := Marker{Type: ReadReceipt, Event: c.EventIDs[0], Thread: c.Data.ThreadID}
	if out.order, ok, err = r.receiptOrder(ctx, marker); err != nil || !ok {
		return out, false, err
	}
	nid, err := r.svc.UserNID(ctx, user)
	if err != nil {
		return out, false, err
	}
	ts := min(max(0, c.Data.TS), r.svc.opts.Now().UnixMilli())
	out.CommittedReceipt = CommittedReceipt{User: user, NID: nid, Type: marker.Type, Event: marker.Event, Thread: marker.Thread, TS: ts}
	return out, true, nil
}

// receiptOrder is the place of the event of a receipt: 0, before all others, where a partial room does not know the
// event yet. It is false of what no receipt may point at.
func (r *Room) receiptOrder(ctx context.Context, m Marker) (order ident.Order, ok bool, err error) {
	e, err := r.checkMarker(ctx, m)
	if errors.Is(err, errNoReadEvent) && r.Partial() && m.Thread == "" {
		known, err := r.FindEvent(ctx, m.Event)
		return 0, err == nil && known == nil && len(m.Event) <= pdu.MaxIDLength, err
	}
	if err != nil || e.Order == 0 { // an event that has no place in the timeline
		return 0, false, unlessInternal(err)
	}
	return e.Order, true, nil
}

// receivedReceipts is the write of receipts of another server's users in one room.
type receivedReceipts struct {
	svc      *Service
	room     *Room
	receipts []receivedReceipt
	moved    []CommittedReceipt
}

func (w *receivedReceipts) do(tx *storage.Tx) error {
	w.moved = nil
	for _, receipt := range w.receipts {
		receipt.Pos = tx.NextPos()
		moved, err := tx.SetReceipt(receipt.row(w.room.nid, receipt.order), receipt.Pos)
		if err != nil {
			return err
		}
		if moved {
			w.moved = append(w.moved, receipt.CommittedReceipt)
		}
	}
	return nil
}

func (w *receivedReceipts) committed() {
	if c := (&Commit{Room: w.room, Receipts: w.moved}); len(c.Receipts) > 0 {
		w.svc.commit(c, headFunc(c.read))
	}
}
