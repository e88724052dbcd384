package rooms

import (
	"context"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// outlierChunk is how many outliers one write stores: 250 keep it under about 20 ms.
const outlierChunk = 250

// authorised authorises outliers by their own auth events, which are among the outliers or in known. In the result,
// each event comes after its auth events, and rejected events are flagged. Events that cite a missing or undecided
// event are left out. Messages are left out as well: they belong in no state and in no auth chain, and as outliers they
// would never expire.
func authorised(v *pdu.Version, events []*pdu.Event, known map[id.EventID]*Event, elsewhere map[id.EventID]bool) []*Event {
	byID := make(map[id.EventID]*pdu.Event, len(events))
	for _, e := range events {
		if e.IsState() {
			byID[e.ID()] = e
		}
	}
	j := judging{v: v, byID: byID, known: known, elsewhere: elsewhere, done: make(map[id.EventID]*Event, len(events))}
	for _, e := range events {
		if e.IsState() {
			j.visit(e)
		}
	}
	return j.out
}

type judging struct {
	v         *pdu.Version
	byID      map[id.EventID]*pdu.Event
	known     map[id.EventID]*Event
	elsewhere map[id.EventID]bool   // events of other rooms
	done      map[id.EventID]*Event // nil: in progress, or not to be judged
	out       []*Event
}

// visit judges an event once all its auth events are judged. It uses a stack of its own instead of recursion, since an
// auth chain may be long.
func (j *judging) visit(e *pdu.Event) {
	stack := []*pdu.Event{e}
	for len(stack) > 0 {
		top := stack[len(stack)-1]
		if _, seen := j.done[top.ID()]; !seen {
			j.done[top.ID()] = nil
			for _, a := range top.AuthEvents() {
				if _, seen := j.done[a]; !seen && j.known[a] == nil && j.byID[a] != nil {
					stack = append(stack, j.byID[a])
				}
			}
			continue
		}
		stack = stack[:len(stack)-1]
		if j.done[top.ID()] == nil && j.known[top.ID()] == nil {
			j.judge(top)
		}
	}
}

func (j *judging) judge(e *pdu.Event) {
	auth := eventauth.StateMap{}
	list := make([]*pdu.Event, 0, len(e.AuthEvents()))
	rejected := false
	for _, a := range e.AuthEvents() {
		found := j.done[a]
		if found == nil {
			found = j.known[a]
		}
		if j.elsewhere[a] {
			rejected = true
			continue
		}
		if found == nil {
			return
		}
		if found = found.AsAuth(); found.Undecided() {
			return
		}
		rejected = rejected || found.Flags&storage.RejectedEvent != 0
		list = append(list, found.Event)
		if key, isState := found.StateKey(); isState {
			auth[pdu.StateKey{Type: found.Type(), Key: key}] = found.Event
		}
	}
	if j.v.RoomIDIsCreateHash {
		if create := j.create(e.RoomID()); create != nil {
			auth[pdu.StateKey{Type: typeCreate}] = create
		}
	}
	if eventauth.CheckAuthEvents(e, list) != nil || eventauth.Check(j.v, e, auth) != nil {
		rejected = true
	}
	out := &Event{Event: e, Flags: storage.OutlierEvent}
	if rejected {
		pruned, err := e.Redact()
		if err != nil {
			return
		}
		out.Event, out.Flags = pruned, out.Flags|storage.RejectedEvent
	}
	j.done[e.ID()] = out
	j.out = append(j.out, out)
}

// create returns the create event of a room whose ID is derived from that event, or nil if the event is not known.
func (j *judging) create(room id.RoomID) *pdu.Event {
	eventID := pdu.CreateEventID(room)
	if e := j.byID[eventID]; e != nil {
		return e
	}
	if e := j.known[eventID]; e != nil {
		return e.Event
	}
	return nil
}

// storeOutliers stores events that the function authorised has returned.
func (s *Service) storeOutliers(ctx context.Context, room ident.RoomNID, events []*Event) error {
	now := s.opts.Now().UnixMilli()
	for part := range slices.Chunk(events, outlierChunk) {
		err := s.db.Write(ctx, func(tx *storage.Tx) error {
			for _, e := range part {
				sender, err := tx.UserNID(string(e.Sender()))
				if err != nil {
					return err
				}
				e.Room, e.SenderNID, e.ReceivedTS, e.Pos = room, sender, now, tx.NextPos()
				row := e.Row()
				if err := tx.InsertEvent(&row); err != nil {
					return err
				}
				if err := nameMember(tx, e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// nameMember allots a number to the user whom a member event is about. Done later, it would take a write of its own for
// each user.
func nameMember(tx *storage.Tx, e *Event) error {
	user, isState := e.StateKey()
	if !isState || e.Type() != typeMember || !pdu.ValidUserID(id.UserID(user)) {
		return nil
	}
	_, err := tx.UserNID(user)
	return err
}

// stored looks up events of a room by ID. The result lacks the events that are not stored.
func (s *Service) stored(ctx context.Context, r *Room, ids []id.EventID) (map[id.EventID]*Event, error) {
	out := make(map[id.EventID]*Event, len(ids))
	if len(ids) == 0 {
		return out, nil
	}
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		p := r.reader(tx)
		if err := p.Load(ids); err != nil {
			return err
		}
		for _, eventID := range ids {
			e, err := p.Event(eventID)
			if err != nil {
				return err
			}
			if e != nil {
				out[eventID] = e
			}
		}
		return nil
	})
	return out, err
}
