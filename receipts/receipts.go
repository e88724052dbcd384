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

// Service implements the package. It is safe for concurrent use.
type Service struct {
	rooms *rooms.Service
	now   func() time.Time
}

// New returns a Service for the rooms of r. now is the clock.
func New(r *rooms.Service, now func() time.Time) *Service { return &Service{rooms: r, now: now} }

// mainThread names the main timeline in threaded receipts.
const mainThread = "main"

// Marker says how far a user has read.
type Marker struct {
	Type   string // rooms.ReadReceipt, rooms.PrivateReadReceipt or rooms.FullyRead
	Event  id.EventID
	Thread string // "main" or the thread root's ID; "": unthreaded
}

// errNoEvent is returned for a marker whose event is not in the room.
var errNoEvent error = mxerr.NotFound("There is no such event in this room")

// Set sets markers of a user, all or none. A marker at an older event than before changes nothing.
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

// checkMarker returns the event of a marker, or an error if the marker is not allowed.
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

// inThread reports whether a threaded receipt may be at an event. Events of a thread are its root, the events in it and
// those that relate to one of them.
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

// markerWrite writes checked markers of a local user.
type markerWrite struct {
	sender  ident.Requester
	markers []Marker
	events  []*rooms.Event
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

// store stores a receipt at an event with the given order, and adds it to changes if it moved.
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
