// Package receipts records how far users have read: read receipts and fully-read markers of local users, and the read
// receipts that other servers send. A Service checks them; package rooms stores them with the room
// (rooms.Service.WriteReceipts), and the rooms.Commit of that write notifies the other services.
package receipts

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

// Service checks receipts and fully-read markers and has them stored. It is safe for concurrent use.
type Service struct {
	rooms *rooms.Service
	now   func() time.Time
}

// New returns a Service that stores receipts through r. now returns the current time.
func New(r *rooms.Service, now func() time.Time) *Service { return &Service{rooms: r, now: now} }

// mainThread names the main timeline in threaded receipts.
const mainThread = "main"

// Marker says how far a user has read: it is a read receipt or a fully-read marker.
type Marker struct {
	Type   string // rooms.ReadReceipt, rooms.PrivateReadReceipt or rooms.FullyRead
	Event  id.EventID
	Thread string // "main" or the thread root's ID; "": unthreaded
}

// errNoEvent is returned for a marker whose event is not in the room.
var errNoEvent error = mxerr.NotFound("There is no such event in this room")

// Set sets the given markers of a user, either all or none of them. A marker never moves back: if the event is older
// than the one it is at, it stays there.
// Spec: client-server-api#post_matrixclientv3roomsroomidreceiptreceipttypeeventid,
// client-server-api#post_matrixclientv3roomsroomidread_markers
func (s *Service) Set(ctx context.Context, sender ident.Requester, room id.RoomID, markers ...Marker) error {
	r, err := s.rooms.Room(ctx, room)
	if err != nil && !errors.Is(err, rooms.ErrNoRoom) {
		return err
	}
	if err != nil || r.Membership(sender.UserID) != rooms.Join {
		return mxerr.Forbidden("You are not in this room").Because(err)
	}
	w := markerWrite{sender: sender, markers: markers, events: make([]*rooms.Event, len(markers))}
	for i, m := range markers {
		if w.events[i], err = checkMarker(ctx, r, m); err != nil {
			return err
		}
	}
	if len(markers) == 0 {
		return nil
	}
	return s.rooms.WriteReceipts(ctx, room, w.do)
}

// checkMarker checks a marker that a client or another server wants to set: its type, its event and its thread. It
// returns the event at which the marker is to be set, or an error if the marker is not allowed.
func checkMarker(ctx context.Context, r *rooms.Room, m Marker) (*rooms.Event, error) {
	switch m.Type {
	case rooms.ReadReceipt, rooms.PrivateReadReceipt:
	case rooms.FullyRead:
		if m.Thread != "" {
			return nil, mxerr.InvalidParam("m.fully_read must not have a thread_id")
		}
	default:
		return nil, mxerr.InvalidParam("%.255q is not a receipt type", m.Type)
	}
	e, err := r.FindEvent(ctx, m.Event)
	if err != nil {
		return nil, err
	}
	if e == nil || e.Hidden() {
		return nil, errNoEvent
	}
	if m.Thread == "" {
		return e, nil
	}
	in, err := inThread(ctx, r, e, m.Thread)
	if err == nil && !in {
		err = mxerr.InvalidParam("The event is not in the thread that thread_id names")
	}
	return e, err
}

// maxRelationHops is the number of relations that are followed from an event to its thread.
// Spec: client-server-api#threaded-read-receipts
const maxRelationHops = 3

// inThread reports whether event e belongs to the given thread, so that a receipt for the thread may be at e. The
// events of a thread are its root, the replies in it, and the events that relate to one of these.
func inThread(ctx context.Context, r *rooms.Room, e *rooms.Event, thread string) (bool, error) {
	if thread == mainThread {
		return e.ThreadRoot == 0, nil
	}
	root, err := r.FindEvent(ctx, id.EventID(thread))
	if err != nil || root == nil {
		return false, err
	}
	for range maxRelationHops {
		if e.Pos == root.Pos || e.ThreadRoot == root.Pos {
			return true, nil
		}
		parent := e.RelatesTo()
		if parent == "" {
			return false, nil
		}
		if e, err = r.FindEvent(ctx, parent); err != nil || e == nil {
			return false, err
		}
	}
	return e.Pos == root.Pos || e.ThreadRoot == root.Pos, nil
}

// markerWrite is the write that stores markers of a local user. The markers have been checked.
type markerWrite struct {
	sender  ident.Requester
	markers []Marker
	events  []*rooms.Event // those that the markers are at, in the same order
}

func (w *markerWrite) do(tx *storage.Tx, room ident.RoomNID) (changes rooms.ReceiptChanges, err error) {
	for i, m := range w.markers {
		if m.Type == rooms.FullyRead {
			if err := w.moveFullyRead(tx, room, w.events[i], &changes); err != nil {
				return changes, err
			}
			continue
		}
		err := store(tx, room, w.events[i].Order, rooms.CommittedReceipt{
			User: w.sender.UserID, NID: w.sender.UserNID, Local: true, Type: m.Type, Event: m.Event, Thread: m.Thread, TS: tx.Now().UnixMilli(),
		}, &changes)
		if err != nil {
			return changes, err
		}
	}
	return changes, nil
}

// store stores a receipt whose event has the given order. If the receipt moved forward, store adds it to changes.
func store(tx *storage.Tx, room ident.RoomNID, order ident.Order, c rooms.CommittedReceipt, changes *rooms.ReceiptChanges) error {
	c.Pos = tx.NextPos()
	row := storage.ReceiptRow{Room: room, User: c.NID, Type: c.Type, Thread: c.Thread, EventID: string(c.Event), Order: order, TS: c.TS}
	moved, err := tx.SetReceipt(row, c.Pos)
	if err == nil && moved {
		changes.Receipts = append(changes.Receipts, c)
	}
	return err
}

// moveFullyRead moves the fully-read marker, which is account data, forward.
func (w *markerWrite) moveFullyRead(tx *storage.Tx, room ident.RoomNID, e *rooms.Event, changes *rooms.ReceiptChanges) error {
	before, found, err := tx.AccountData(w.sender.UserNID, room, rooms.FullyRead)
	if err != nil {
		return err
	}
	if found {
		var at fullyReadContent
		if err := json.Unmarshal([]byte(before), &at); err != nil {
			return err
		}
		if row, known, err := tx.EventByID(room, string(at.EventID)); err != nil || known && row.Order >= e.Order {
			return err
		}
	}
	raw, err := json.Marshal(fullyReadContent{e.ID()})
	if err != nil {
		return err
	}
	changes.AccountData = append(changes.AccountData[:0], rooms.CommittedAccountData{User: w.sender.UserNID, Room: room, Type: rooms.FullyRead})
	return tx.SetAccountData(w.sender.UserNID, room, rooms.FullyRead, string(raw))
}

// fullyReadContent is the content of m.fully_read.
type fullyReadContent struct {
	EventID id.EventID `json:"event_id"`
}
