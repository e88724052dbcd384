package graph

import (
	"cmp"
	"fmt"
	"maps"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Room describes the room whose graph a Reader reads.
type Room struct {
	NID     ident.RoomNID
	ID      id.RoomID
	Version *pdu.Version
	Entered storage.Pos // the join with which this server entered the room; 0: it created the room
	Partial bool        // members may be missing from the states
}

// Reader reads the graph of a room: events by ID, and the states before and after them. It is for use in one read
// transaction, while no write of the room is queued.
type Reader struct {
	Room Room

	tx     *storage.Tx
	events map[id.EventID]*Event // nil: not stored
	queued map[id.EventID]queuedEvent
	facts  *Facts

	// Heads are forward extremities. If the state after one is known, it is not read from the database.
	Heads []Extremity
	// BeforeJoin is the state before the join with which this server entered the room, if it is not the stored one.
	BeforeJoin *Snapshot
}

// queuedEvent is an event that is not stored yet, with the state after it.
type queuedEvent struct {
	event *Event
	after *Snapshot
}

// Facts caches things that never change once they are stored. The readers for the events of a batch share one: if many
// of the events follow an old event of a large room, its state is read once.
type Facts struct {
	at     map[storage.Pos]*Event
	names  map[storage.Pos]id.EventID
	states map[int64]State // by snapshot
	afters map[id.EventID]*Snapshot
}

// NewFacts returns an empty cache.
func NewFacts() *Facts {
	return &Facts{at: map[storage.Pos]*Event{}, names: map[storage.Pos]id.EventID{}, states: map[int64]State{}, afters: map[id.EventID]*Snapshot{}}
}

// maxStates bounds the states that a Facts holds.
const maxStates = 8

// NewReader returns a reader of a room's graph. If facts is nil, the reader makes a cache of its own.
func NewReader(room Room, tx *storage.Tx, facts *Facts) *Reader {
	if facts == nil {
		facts = NewFacts()
	}
	return &Reader{Room: room, tx: tx, events: map[id.EventID]*Event{}, queued: map[id.EventID]queuedEvent{}, facts: facts}
}

// Queue adds an event that is not stored yet, with the state after it. It replaces a stored event with the same ID.
func (p *Reader) Queue(e *Event, after *Snapshot) { p.queued[e.ID()] = queuedEvent{e, after} }

// IsQueued reports whether an event was added by Queue.
func (p *Reader) IsQueued(eventID id.EventID) bool { return p.queued[eventID].event != nil }

// SetAfter replaces the state after an event.
func (p *Reader) SetAfter(eventID id.EventID, s *Snapshot) { p.facts.afters[eventID] = s }

// Forget drops the events that were read from memory, so that they do not pile up. Queued events stay.
func (p *Reader) Forget() { clear(p.events) }

// Event returns an event of the room, or nil if it is neither stored nor queued.
func (p *Reader) Event(eventID id.EventID) (*Event, error) {
	if e := p.queued[eventID].event; e != nil {
		return e, nil
	}
	err := p.Load([]id.EventID{eventID})
	return p.events[eventID], err
}

// Load reads several events in one query. Calls of Event then find them in memory.
func (p *Reader) Load(ids []id.EventID) error {
	var missing []string
	for _, eventID := range ids {
		if _, ok := p.events[eventID]; !ok && !p.IsQueued(eventID) {
			p.events[eventID] = nil
			missing = append(missing, string(eventID))
		}
	}
	rows, err := p.tx.EventsByID(p.Room.NID, missing)
	if err != nil {
		return err
	}
	for i := range rows {
		e, err := LoadEvent(p.Room.Version, &rows[i])
		if err != nil {
			return err
		}
		old := p.events[e.ID()]
		switch {
		case old == nil:
			p.events[e.ID()] = e
		case cmp.Or(cmp.Compare(e.Order, old.Order), cmp.Compare(e.Pos, old.Pos)) > 0:
			e.Outlier, p.events[e.ID()] = OutlierOf(old), e
		default:
			old.Outlier = cmp.Or(old.Outlier, OutlierOf(e))
		}
	}
	return nil
}

// EventOf returns the event of a state entry.
func (p *Reader) EventOf(ref Entry) (*Event, error) {
	if ref.Event != nil {
		return ref.Event, nil
	}
	if e := p.facts.at[ref.Pos]; e != nil {
		return e, nil
	}
	row, found, err := p.tx.EventAt(ref.Pos)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("the state event at %d of room %s is not stored", ref.Pos, p.Room.ID)
	}
	e, err := LoadEvent(p.Room.Version, &row)
	if err != nil {
		return nil, err
	}
	p.facts.at[ref.Pos] = e
	return e, nil
}

// LoadEntries reads the events of several state entries at once.
func (p *Reader) LoadEntries(s State, keys []pdu.StateKey) error {
	var missing []storage.Pos
	for _, key := range keys {
		if ref, ok := s[key]; ok && ref.Event == nil && p.facts.at[ref.Pos] == nil {
			missing = append(missing, ref.Pos)
		}
	}
	events, err := EventsAt(p.tx, p.Room.Version, missing)
	maps.Copy(p.facts.at, events)
	return err
}

// After returns the state after an event. It returns nil if the event is not stored, or is an outlier, whose state is
// unknown.
func (p *Reader) After(eventID id.EventID) (*Snapshot, error) {
	if p.IsQueued(eventID) {
		return p.queued[eventID].after, nil
	}
	for _, x := range p.Heads {
		if x.ID == eventID && x.After != nil {
			return x.After, nil
		}
	}
	if s := p.facts.afters[eventID]; s != nil {
		return s, nil
	}
	s, err := p.storedAfter(eventID)
	if s == nil && err == nil {
		s, err = p.Bridge([]id.EventID{eventID})
	}
	if s != nil {
		p.facts.afters[eventID] = s
	}
	return s, err
}

func (p *Reader) storedAfter(eventID id.EventID) (*Snapshot, error) {
	e, err := p.Event(eventID)
	if err != nil || e == nil || e.Flags&storage.OutlierEvent != 0 {
		return nil, err
	}
	before, err := p.Before(e)
	if err != nil {
		return nil, err
	}
	key, isState := e.StateKey()
	if !isState || e.Flags&storage.RejectedEvent != 0 {
		return before, nil
	}
	return before.Over(Entry{Key: pdu.StateKey{Type: e.Type(), Key: key}, Pos: e.Pos}), nil
}

// Before returns the stored state before an event.
func (p *Reader) Before(e *Event) (*Snapshot, error) { return p.Snapshot(e.Snapshot) }

// Snapshot returns the stored snapshot with the given number. Number 0 is the empty state.
func (p *Reader) Snapshot(nid int64) (*Snapshot, error) {
	if nid == 0 {
		return &Snapshot{}, nil
	}
	length, err := p.tx.SnapshotLength(nid)
	return Stored(nid, length), err
}

// All returns all entries of the state of a snapshot.
func (p *Reader) All(s *Snapshot) (State, error) {
	if s.NID == 0 || p.facts.states[s.NID] == nil {
		found, err := s.all(p.tx)
		if err != nil || s.NID == 0 {
			return found, err
		}
		if len(p.facts.states) >= maxStates {
			clear(p.facts.states)
		}
		p.facts.states[s.NID] = found
	}
	return p.facts.states[s.NID], nil
}

// Find returns the entry of a state for the given key, or false if there is none.
func (p *Reader) Find(s *Snapshot, key pdu.StateKey) (Entry, bool, error) { return s.find(p.tx, key) }

// Levels returns the power levels of a state.
func (p *Reader) Levels(s *Snapshot) (*eventauth.PowerLevels, error) {
	v := p.View(s)
	levels := eventauth.Levels(p.Room.Version, v.Get("m.room.create", ""), v.Get("m.room.power_levels", ""))
	return levels, v.Err
}

// View gives the authorisation rules access to a stored state: it implements eventauth.State.
type View struct {
	p   *Reader
	s   *Snapshot
	Err error // the first error of Get
}

// View returns a View of the state of a snapshot.
func (p *Reader) View(s *Snapshot) *View { return &View{p: p, s: s} }

// Get returns the state event with the given type and state key, or nil if there is none. If reading fails, it sets Err
// and returns nil.
func (v *View) Get(typ, key string) *pdu.Event {
	ref, found, err := v.p.Find(v.s, pdu.StateKey{Type: typ, Key: key})
	if err == nil && found {
		var e *Event
		if e, err = v.p.EventOf(ref); err == nil {
			return e.Event
		}
	}
	v.Err = cmp.Or(v.Err, err)
	return nil
}
