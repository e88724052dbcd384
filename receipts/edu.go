package receipts

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// eduType is the type of the EDU that carries read receipts between servers.
const eduType = "m.receipt"

const (
	// maxEDURooms bounds the rooms of an m.receipt, and maxEDUUsers the receipts in each of them. A transaction can
	// have a hundred m.receipt, and each room takes a write.
	maxEDURooms = 100
	maxEDUUsers = 1000
)

// eduContent is the content of m.receipt: room ID → receipt type → user ID.
type eduContent map[id.RoomID]map[string]map[id.UserID]userReceipt

type userReceipt struct {
	EventIDs []id.EventID `json:"event_ids"`
	Data     receiptData  `json:"data"`
}

type receiptData struct {
	TS       int64  `json:"ts"` // ms
	ThreadID string `json:"thread_id,omitempty"`
}

// EDU returns the EDU that sends a receipt to other servers. key identifies the room, user and thread of the receipt:
// in the outbox, an EDU replaces an older one with the same key.
// Spec: server-server-api#receipts
func EDU(room id.RoomID, c *rooms.CommittedReceipt) (key string, edu json.RawMessage, err error) {
	content := eduContent{room: {c.Type: {c.User: {EventIDs: []id.EventID{c.Event}, Data: receiptData{TS: c.TS, ThreadID: c.Thread}}}}}
	edu, err = json.Marshal(map[string]any{"edu_type": eduType, "content": content})
	return strings.Join([]string{eduType, string(room), string(c.User), c.Thread}, "\x00"), edu, err
}

// Receive stores the receipts in the content of an m.receipt EDU from another server. It skips invalid receipts, since
// the others may be valid: those of users of a third server, and those in rooms or at events that this server does not
// know.
// Spec: server-server-api#mreceipt-schema
func (s *Service) Receive(ctx context.Context, origin string, content json.RawMessage) error {
	var byRoom map[id.RoomID]map[string]json.RawMessage
	if err := json.Unmarshal(content, &byRoom); err != nil {
		return mxerr.BadJSON("m.receipt does not have the documented shape")
	}
	if len(byRoom) > maxEDURooms {
		return mxerr.TooLarge("m.receipt must not name more than %d rooms", maxEDURooms)
	}
	for room, types := range byRoom {
		if err := s.receiveIn(ctx, origin, room, types[rooms.ReadReceipt]); err != nil {
			return err
		}
	}
	return nil
}

// receiveIn stores the receipts that an EDU has for one room.
func (s *Service) receiveIn(ctx context.Context, origin string, room id.RoomID, raw json.RawMessage) error {
	var users map[id.UserID]json.RawMessage
	_ = json.Unmarshal(raw, &users) // malformed: no receipts
	if len(users) == 0 || len(users) > maxEDUUsers {
		return nil
	}
	r, err := s.rooms.Room(ctx, room)
	if err != nil || !r.SharedWith(origin) {
		return unlessInternal(err)
	}
	var received []receivedReceipt
	for user, raw := range users {
		receipt, ok, err := s.check(ctx, r, origin, user, raw)
		if err != nil {
			return err
		}
		if ok {
			received = append(received, receipt)
		}
	}
	if len(received) == 0 {
		return nil
	}
	return s.rooms.WriteReceipts(ctx, room, func(tx *storage.Tx, room ident.RoomNID) (changes rooms.ReceiptChanges, err error) {
		for _, receipt := range received {
			if err := store(tx, room, receipt.order, receipt.CommittedReceipt, &changes); err != nil {
				return changes, err
			}
		}
		return changes, nil
	})
}

// unlessInternal returns err if it is an internal error, and nil if it says that the request is wrong.
func unlessInternal(err error) error {
	if mxerr.Code(err) != "" {
		return nil
	}
	return err
}

// receivedReceipt is a receipt that another server sent and that was found valid.
type receivedReceipt struct {
	rooms.CommittedReceipt
	order ident.Order // of its event
}

// check parses a receipt that another server sent. It returns false if the receipt is not valid.
func (s *Service) check(ctx context.Context, r *rooms.Room, origin string, user id.UserID, raw json.RawMessage) (out receivedReceipt, ok bool, err error) {
	var c userReceipt
	if json.Unmarshal(raw, &c) != nil || len(c.EventIDs) == 0 {
		return out, false, nil //nolint:nilerr // it is not valid
	}
	if ident.ServerOf(user) != origin || !pdu.ValidUserID(user) || !r.MayBeJoined(user) {
		return out, false, nil
	}
	marker := Marker{Type: rooms.ReadReceipt, Event: c.EventIDs[0], Thread: c.Data.ThreadID}
	if out.order, ok, err = orderOf(ctx, r, marker); err != nil || !ok {
		return out, false, err
	}
	nid, err := s.rooms.UserNID(ctx, user)
	if err != nil {
		return out, false, err
	}
	ts := min(max(0, c.Data.TS), s.now().UnixMilli())
	out.CommittedReceipt = rooms.CommittedReceipt{User: user, NID: nid, Type: marker.Type, Event: marker.Event, Thread: marker.Thread, TS: ts}
	return out, true, nil
}

// orderOf returns the order of the event that a receipt refers to, or false if the receipt is not allowed. In a
// partial-state room the event may not have arrived yet. The order is then 0, which is before all events.
func orderOf(ctx context.Context, r *rooms.Room, m Marker) (order ident.Order, ok bool, err error) {
	e, err := checkMarker(ctx, r, m)
	if errors.Is(err, errNoEvent) && r.Partial() && m.Thread == "" {
		known, err := r.FindEvent(ctx, m.Event)
		return 0, err == nil && known == nil && len(m.Event) <= pdu.MaxIDLength, err
	}
	if err != nil || e.Order == 0 { // an outlier
		return 0, false, unlessInternal(err)
	}
	return e.Order, true, nil
}
