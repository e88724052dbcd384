// Package graph reads the event graph of a room as it is stored: events with what this server knows about them, the
// states before and after them, which are stored as chains of differences, and the states that these resolve to where
// the graph forks. It decides nothing: package rooms authorises events, builds the next head and queues the writes.
package graph

import (
	"fmt"
	"iter"
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

	Outlier *Event // the event as an outlier, before it became part of the graph; see AsAuth

	// Built is set if this run of the server stored the event. Then Singled has the users with a class of their own;
	// otherwise they are in the table event_push.
	Built   bool
	Singled map[ident.UserNID]pushrules.Class

	forms [2]atomic.Pointer[[]byte]
}

// eventBytes is what an event takes in memory apart from its texts.
const eventBytes = 512

// Size returns about how many bytes the event takes in memory: its JSON, mostly also a form for clients, and the rest.
// It does not change, and is 0 for nil.
func (e *Event) Size() int64 {
	if e == nil {
		return 0
	}
	return eventBytes + 2*int64(len(e.JSON())) + 24*int64(len(e.Singled))
}

// Size returns the sum of the sizes of events.
func Size(events iter.Seq[*Event]) (n int64) {
	for e := range events {
		n += e.Size()
	}
	return n
}

// Hidden reports whether the event is hidden from all clients.
func (e *Event) Hidden() bool { return e.Flags&storage.HiddenEvent != 0 }

// StickyUntil returns the time (ms) at which the event ceases to be sticky, or 0 if it is not sticky at all. Stickiness
// begins when the event was sent or when it arrived, whichever was earlier.
// Spec: MSC4354
func (e *Event) StickyUntil() int64 {
	d, ok := e.Sticky()
	if !ok {
		return 0
	}
	return min(e.OriginServerTS(), e.ReceivedTS) + d.Milliseconds()
}

// Backfilled reports whether the event was inserted into the timeline as history; /sync never sends it as new.
func (e *Event) Backfilled() bool { return e.Order != ident.Order(e.Pos)*OrderStep }

// Form returns the client form of the event, with or without the room ID. The form is built once and must not be
// modified; a caller that adds unsigned inserts it before the last byte of a copy.
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

// ContentString returns the string under the given key of the event's content, or "" if there is none.
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

// RelatesTo returns the ID of the event to which this one relates, or "" if this event has no relation with a rel_type.
func (e *Event) RelatesTo() id.EventID {
	if r := pdu.RelationOf(e.Content()); r != nil {
		return r.Parent
	}
	return ""
}

// ClassFor returns the result of a user's push rules for the event. It returns false if an earlier run of the server
// stored the event; then only the database has the result.
func (e *Event) ClassFor(user ident.UserNID) (pushrules.Class, bool) {
	if !e.Built {
		return 0, false
	}
	if class, ok := e.Singled[user]; ok {
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
	return e.RedactedAs(pruned, e.RedactedBy), nil
}

// RedactedAs returns the event as it is after a redaction: in the same position, with pruned as its redacted form. by
// is the position of the redaction.
func (e *Event) RedactedAs(pruned *pdu.Event, by storage.Pos) *Event {
	return &Event{
		Event: pruned, Pos: e.Pos, Order: e.Order, Room: e.Room, SenderNID: e.SenderNID, DeviceNID: e.DeviceNID, TxnID: e.TxnID,
		ReceivedTS: e.ReceivedTS, Flags: e.Flags, RedactedBy: by, ThreadRoot: e.ThreadRoot, Push: 0, Snapshot: e.Snapshot,
	}
}

// Verified returns an undecided event as a verified copy of it has it. What was stored may be a forgery that cites
// other events: in room versions in which servers choose the event IDs, the ID proves nothing about them.
func (e *Event) Verified(copied *pdu.Event) *Event { return e.RedactedAs(copied, e.RedactedBy) }

// WithStateBefore returns a copy of the event that has another snapshot as the state before it.
func (e *Event) WithStateBefore(snapshot int64) *Event {
	return &Event{
		Event: e.Event, Pos: e.Pos, Order: e.Order, Room: e.Room, SenderNID: e.SenderNID, DeviceNID: e.DeviceNID, TxnID: e.TxnID,
		ReceivedTS: e.ReceivedTS, Flags: e.Flags, RedactedBy: e.RedactedBy, ThreadRoot: e.ThreadRoot, Push: e.Push, Snapshot: snapshot,
		Built: e.Built, Singled: e.Singled,
	}
}

// WithoutThread returns a copy of the event that belongs to no thread, for an event whose thread root was purged.
func (e *Event) WithoutThread() *Event {
	return &Event{
		Event: e.Event, Pos: e.Pos, Order: e.Order, Room: e.Room, SenderNID: e.SenderNID, DeviceNID: e.DeviceNID, TxnID: e.TxnID,
		ReceivedTS: e.ReceivedTS, Flags: e.Flags, RedactedBy: e.RedactedBy, Push: e.Push, Snapshot: e.Snapshot, Built: e.Built, Singled: e.Singled,
	}
}

// Row returns the row in which the event is stored.
func (e *Event) Row() storage.EventRow {
	key, isState := e.StateKey()
	return storage.EventRow{
		Position: e.Pos, Room: e.Room, Order: e.Order, EventID: string(e.ID()), Type: e.Type(), StateKey: key, IsState: isState,
		Sender: e.SenderNID, OriginTS: e.OriginServerTS(), ReceivedTS: e.ReceivedTS, Snapshot: e.Snapshot, Flags: e.Flags,
		RedactedBy: e.RedactedBy, ThreadRoot: e.ThreadRoot, Push: int64(e.Push), Device: e.DeviceNID, TxnID: e.TxnID, JSON: e.JSON(),
	}
}

// EventsAt reads the events of a room at the given positions in one query. It skips position 0. In the result, a
// position without an event has the value nil. v is the version of the room.
func EventsAt(tx *storage.Tx, v *pdu.Version, positions []storage.Pos) (map[storage.Pos]*Event, error) {
	want := make([]storage.Pos, 0, len(positions))
	out := make(map[storage.Pos]*Event, len(positions))
	for _, p := range positions {
		if _, seen := out[p]; p != 0 && !seen {
			out[p] = nil
			want = append(want, p)
		}
	}
	if len(want) == 0 {
		return out, nil
	}
	rows, err := tx.EventsAt(want)
	if err != nil {
		return nil, err
	}
	for i := range rows {
		if out[rows[i].Position], err = LoadEvent(v, &rows[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// LoadEvent returns the event that is stored in a row. v is the version of the room. Of an old state event that only a
// legal hold keeps, it returns the redacted form: nobody is shown more, but later events may refer to it.
func LoadEvent(v *pdu.Version, r *storage.EventRow) (*Event, error) {
	p, err := pdu.ParseStored(v, id.EventID(r.EventID), r.JSON)
	if err == nil && r.IsState && r.Flags&storage.KeptEvent != 0 {
		p, err = p.Redact()
	}
	if err != nil {
		return nil, fmt.Errorf("stored event %s: %w", r.EventID, err)
	}
	return &Event{
		Event: p, Pos: r.Position, Order: r.Order, Room: r.Room, SenderNID: r.Sender, DeviceNID: r.Device, TxnID: r.TxnID,
		ReceivedTS: r.ReceivedTS, Flags: r.Flags, RedactedBy: r.RedactedBy, ThreadRoot: r.ThreadRoot, Push: pushrules.Class(r.Push), Snapshot: r.Snapshot,
	}, nil
}

// OrderStep is the distance between two live events in a room's timeline, so that others can be inserted between them
// later.
const OrderStep = 1 << 16

// IsBackfilled is like Event.Backfilled, but for the database row of a timeline event.
func IsBackfilled(e storage.EventRow) bool { return e.Order != ident.Order(e.Position)*OrderStep }

// InGraph reports whether a stored event is part of the graph, whether or not it was accepted. Outliers are not.
func (e *Event) InGraph() bool { return e.Flags&storage.OutlierEvent == 0 }

// Undecided reports whether the event can be neither accepted nor rejected yet.
func (e *Event) Undecided() bool { return e.Flags&storage.UndecidedEvent != 0 }

// OutlierOf returns the form of an event that was accepted as an outlier, or nil if there is none. This is e itself if
// e is an accepted outlier, and otherwise e.Outlier.
func OutlierOf(e *Event) *Event {
	if e.Flags&(storage.OutlierEvent|storage.RejectedEvent) == storage.OutlierEvent {
		return e
	}
	return e.Outlier
}

// AsAuth returns the form of the event that counts when it is cited as an auth event. An event that was accepted as an
// outlier may be rejected later, when the state before it becomes known. It still authorises others, so AsAuth returns
// the outlier.
func (e *Event) AsAuth() *Event {
	if e.Flags&storage.RejectedEvent != 0 && e.Outlier != nil {
		return e.Outlier
	}
	return e
}
