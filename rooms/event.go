package rooms

import (
	"fmt"
	"sync/atomic"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/pushrules"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Event is an event of a room with what this server stores about it. It is immutable once committed and shared by all
// readers. A redaction replaces it by a new Event.
type Event struct {
	*pdu.Event

	Pos        storage.Pos   // position in the stream, in the order of arrival
	Order      ident.Order   // position in the room's timeline
	Room       ident.RoomNID // the room's number
	SenderNID  ident.UserNID
	DeviceNID  ident.DeviceNID // the local device that sent it; 0 if none
	TxnID      string          // its transaction ID
	ReceivedTS int64           // ms by this server's clock
	Flags      storage.EventFlags
	RedactedBy storage.Pos     // the redaction that was applied; 0 if none
	ThreadRoot storage.Pos     // the root of its thread; 0 in the main timeline
	Push       pushrules.Class // its class for users without one of their own
	Snapshot   int64           // the state before it; 0 for an outlier

	outlier *Event // the event as an outlier, before it joined the graph; see asAuth

	// built is set if this run of the server stored the event. Then singled has the users with a class of their own;
	// otherwise they are in event_push.
	built   bool
	singled map[ident.UserNID]pushrules.Class

	forms [2]atomic.Pointer[[]byte]
}

// Hidden reports whether the event is hidden from all clients.
func (e *Event) Hidden() bool { return e.Flags&storage.HiddenEvent != 0 }

// Backfilled reports whether the event was inserted into the timeline as history; /sync never sends it as new.
func (e *Event) Backfilled() bool { return e.Order != ident.Order(e.Pos)*OrderStep }

// Form returns the client form of the event, with or without the room ID. It is built once. Callers must not modify it;
// they splice unsigned before the last byte of a copy.
func (e *Event) Form(withRoomID bool) []byte {
	slot := &e.forms[0]
	if withRoomID {
		slot = &e.forms[1]
	}
	if b := slot.Load(); b != nil {
		return *b
	}
	b := e.ClientJSON(withRoomID)
	slot.Store(&b)
	return b
}

// ContentString returns a string member of the event's content, or "" if there is none.
func (e *Event) ContentString(key string) string {
	raw, ok := canonjson.Get(e.Content(), key)
	if !ok {
		return ""
	}
	return canonjson.String(raw)
}

// RelType returns the rel_type of the event's relation, or "" if it has none.
func (e *Event) RelType() string {
	if r := pdu.RelationOf(e.Content()); r != nil {
		return r.RelType
	}
	return ""
}

// RelatesTo returns the ID of the event to which the event has a relation with a rel_type, or "" if it has none.
func (e *Event) RelatesTo() id.EventID {
	if r := pdu.RelationOf(e.Content()); r != nil {
		return r.Parent
	}
	return ""
}

// ClassFor returns the result of a user's push rules for the event. It returns false if only the database has it, since
// the event was stored by an earlier run of the server.
func (e *Event) ClassFor(user ident.UserNID) (pushrules.Class, bool) {
	if !e.built {
		return 0, false
	}
	if class, ok := e.singled[user]; ok {
		return class, true
	}
	return e.Push, true
}

// RedactedCopy returns the event in its redacted form, for readers who may not see its content.
func (e *Event) RedactedCopy() (*Event, error) {
	pruned, err := e.Redact()
	if err != nil {
		return nil, err
	}
	return e.redactedAs(pruned, e.RedactedBy), nil
}

// redactedAs returns the event after a redaction was applied: in the same position, with the redacted JSON.
func (e *Event) redactedAs(pruned *pdu.Event, by storage.Pos) *Event {
	return &Event{
		Event: pruned, Pos: e.Pos, Order: e.Order, Room: e.Room, SenderNID: e.SenderNID, DeviceNID: e.DeviceNID, TxnID: e.TxnID,
		ReceivedTS: e.ReceivedTS, Flags: e.Flags, RedactedBy: by, ThreadRoot: e.ThreadRoot, Push: 0, Snapshot: e.Snapshot,
	}
}

// after returns the event with another state before it.
func (e *Event) after(snapshot int64) *Event {
	return &Event{
		Event: e.Event, Pos: e.Pos, Order: e.Order, Room: e.Room, SenderNID: e.SenderNID, DeviceNID: e.DeviceNID, TxnID: e.TxnID,
		ReceivedTS: e.ReceivedTS, Flags: e.Flags, RedactedBy: e.RedactedBy, ThreadRoot: e.ThreadRoot, Push: e.Push, Snapshot: snapshot,
		built: e.built, singled: e.singled,
	}
}

// unthreaded returns the event after the root of its thread was purged.
func (e *Event) unthreaded() *Event {
	return &Event{
		Event: e.Event, Pos: e.Pos, Order: e.Order, Room: e.Room, SenderNID: e.SenderNID, DeviceNID: e.DeviceNID, TxnID: e.TxnID,
		ReceivedTS: e.ReceivedTS, Flags: e.Flags, RedactedBy: e.RedactedBy, Push: e.Push, Snapshot: e.Snapshot, built: e.built, singled: e.singled,
	}
}

// row returns the event as it is stored.
func (e *Event) row() storage.EventRow {
	key, isState := e.StateKey()
	return storage.EventRow{
		Position: e.Pos, Room: e.Room, Order: e.Order, EventID: string(e.ID()), Type: e.Type(), StateKey: key, IsState: isState,
		Sender: e.SenderNID, OriginTS: e.OriginServerTS(), ReceivedTS: e.ReceivedTS, Snapshot: e.Snapshot, Flags: e.Flags,
		RedactedBy: e.RedactedBy, ThreadRoot: e.ThreadRoot, Push: int64(e.Push), Device: e.DeviceNID, TxnID: e.TxnID, JSON: e.JSON(),
	}
}

// LoadEvent returns the event stored in a row. v is the version of its room.
func LoadEvent(v *pdu.Version, r *storage.EventRow) (*Event, error) { return fromRow(v, r) }

// fromRow returns the event stored in a row; v is the version of its room.
func fromRow(v *pdu.Version, r *storage.EventRow) (*Event, error) {
	p, err := pdu.ParseStored(v, id.EventID(r.EventID), r.JSON)
	if err != nil {
		return nil, fmt.Errorf("stored event %s: %w", r.EventID, err)
	}
	return &Event{
		Event: p, Pos: r.Position, Order: r.Order, Room: r.Room, SenderNID: r.Sender, DeviceNID: r.Device, TxnID: r.TxnID,
		ReceivedTS: r.ReceivedTS, Flags: r.Flags, RedactedBy: r.RedactedBy, ThreadRoot: r.ThreadRoot, Push: pushrules.Class(r.Push), Snapshot: r.Snapshot,
	}, nil
}
