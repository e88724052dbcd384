package rooms

import (
	"context"
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// The kinds of read markers.
const (
	ReadReceipt        = "m.read"
	PrivateReadReceipt = "m.read.private"
	FullyRead          = "m.fully_read"
)

// mainThread names the main timeline in threaded receipts.
const mainThread = "main"

// Marker says how far a user has read.
type Marker struct {
	Type   string
	Event  id.EventID
	Thread string // "": unthreaded
}

// SetReceipt notes that a user has read a room, or one thread of it ("main", or the root's id), up to an event.
// Receipts do not go back.
// Spec: client-server-api#post_matrixclientv3roomsroomidreceiptreceipttypeeventid
func (s *Service) SetReceipt(ctx context.Context, sender ident.Requester, room id.RoomID, typ string, event id.EventID, thread string) error {
	return s.SetReadMarkers(ctx, sender, room, Marker{Type: typ, Event: event, Thread: thread})
}

// SetReadMarkers sets several markers of a user at once: all or none.
// Spec: client-server-api#post_matrixclientv3roomsroomidread_markers
func (s *Service) SetReadMarkers(ctx context.Context, sender ident.Requester, room id.RoomID, markers ...Marker) error {
	r, err := s.Room(ctx, room)
	if err != nil {
		return unknownIsForbidden(err)
	}
	if r.Membership(sender.UserID) != Join {
		return mxerr.Forbidden("You are not in this room")
	}
	w := &markerWrite{svc: s, sender: sender}
	for _, m := range markers {
		e, err := r.checkMarker(ctx, m)
		if err != nil {
			return err
		}
		w.markers, w.events = append(w.markers, m), append(w.events, e)
	}
	if len(markers) == 0 {
		return nil
	}
	return s.touch(ctx, room, func(r *Room) storage.Write {
		w.room = r
		return storage.Write{Do: w.do, Committed: w.committed}
	})
}

// checkMarker finds the event of a marker and says what is wrong with the marker.
func (r *Room) checkMarker(ctx context.Context, m Marker) (*Event, error) {
	switch m.Type {
	case ReadReceipt, PrivateReadReceipt:
	case FullyRead:
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
		return nil, errNoReadEvent
	}
	if m.Thread == "" {
		return e, nil
	}
	in, err := r.inThread(ctx, e, m.Thread)
	if err == nil && !in {
		err = mxerr.InvalidParam("The event is not in the thread that thread_id names")
	}
	return e, err
}

// maxRelationHops is how far an event may be from the thread that it is related to.
// Spec: client-server-api#threaded-read-receipts
const maxRelationHops = 3

// inThread tells whether a receipt of a thread may point at an event: one in the thread, or the root and what is
// related to it, where the thread begins.
func (r *Room) inThread(ctx context.Context, e *Event, thread string) (bool, error) {
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
		rel := relationOf(e.Content())
		if rel == nil {
			return false, nil
		}
		if e, err = r.FindEvent(ctx, rel.parent); err != nil || e == nil {
			return false, err
		}
	}
	return e.Pos == root.Pos || e.ThreadRoot == root.Pos, nil
}

// markerWrite is the write of checked markers.
type markerWrite struct {
	svc     *Service
	room    *Room
	sender  ident.Requester
	markers []Marker
	events  []*Event

	moved     []CommittedReceipt
	fullyRead bool // the marker of that name moved
}

func (w *markerWrite) do(tx *storage.Tx) error {
	w.moved, w.fullyRead = nil, false
	for i, m := range w.markers {
		if m.Type == FullyRead {
			if err := w.moveFullyRead(tx, w.events[i]); err != nil {
				return err
			}
			continue
		}
		out := CommittedReceipt{
			User: w.sender.UserID, NID: w.sender.UserNID, Local: true, Type: m.Type, Event: m.Event, Thread: m.Thread, TS: tx.Now().UnixMilli(), Pos: tx.NextPos(),
		}
		moved, err := tx.SetReceipt(out.row(w.room.nid, w.events[i].Order), out.Pos)
		if err != nil {
			return err
		}
		if moved {
			w.moved = append(w.moved, out)
		}
	}
	return nil
}

// row is the receipt as it is stored; order is that of its event.
func (c *CommittedReceipt) row(room ident.RoomNID, order ident.Order) storage.ReceiptRow {
	return storage.ReceiptRow{Room: room, User: c.NID, Type: c.Type, Thread: c.Thread, EventID: string(c.Event), Order: order, TS: c.TS}
}

// moveFullyRead moves the fully-read marker, which is account data, forward.
func (w *markerWrite) moveFullyRead(tx *storage.Tx, e *Event) error {
	before, found, err := tx.AccountData(w.sender.UserNID, w.room.nid, FullyRead)
	if err != nil {
		return err
	}
	if found {
		var at fullyReadContent
		if err := json.Unmarshal([]byte(before), &at); err != nil {
			return err
		}
		if row, known, err := tx.EventByID(w.room.nid, string(at.EventID)); err != nil || known && row.Order >= e.Order {
			return err
		}
	}
	raw, err := json.Marshal(fullyReadContent{e.ID()})
	if err != nil {
		return err
	}
	w.fullyRead = true
	return tx.SetAccountData(w.sender.UserNID, w.room.nid, FullyRead, string(raw))
}

type fullyReadContent struct {
	EventID id.EventID `json:"event_id"`
}

func (w *markerWrite) committed() {
	c := &Commit{Room: w.room, Receipts: w.moved}
	if w.fullyRead {
		c.AccountData = []CommittedAccountData{{w.sender.UserNID, w.room.nid, FullyRead}}
	}
	if len(c.Receipts)+len(c.AccountData) > 0 {
		w.svc.commit(c, headFunc(c.read))
	}
}

// read makes the receipts part of the committed head. Room.mu is held.
func (c *Commit) read(r *Room) {
	for _, receipt := range c.Receipts {
		r.head.receipt, r.head.last = max(r.head.receipt, receipt.Pos), max(r.head.last, receipt.Pos)
	}
}
