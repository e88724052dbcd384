package graph

import (
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/storage"
)

// Join returns the join with which this server entered the room, or nil if it created the room.
func (p *Reader) Join() (*Event, error) {
	pos := p.Room.Entered
	if pos == 0 {
		return nil, nil
	}
	return p.EventOf(Entry{Pos: pos})
}

// Bridge returns the state before the join with which this server entered the room, if prev are exactly the prev_events
// of that join; otherwise it returns nil. The prev_events need not be stored.
func (p *Reader) Bridge(prev []id.EventID) (*Snapshot, error) {
	join, err := p.Join()
	if join == nil || err != nil || !SameEvents(join.PrevEvents(), prev) {
		return nil, err
	}
	if p.BeforeJoin != nil {
		return p.BeforeJoin, nil
	}
	return p.Before(join)
}

// IsHistory reports whether an event is not stored, but is known to precede the join with which this server entered the
// room.
func (p *Reader) IsHistory(eventID id.EventID) (bool, error) {
	order, found, err := p.tx.MissingBefore(p.Room.NID, string(eventID))
	return found && order <= ident.Order(p.Room.Entered)*OrderStep, err
}

// SameEvents reports whether two lists contain the same events, in any order.
func SameEvents(a, b []id.EventID) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(e id.EventID) bool { return !slices.Contains(b, e) })
}

// maxRefusedWalk bounds the search through rejected events for the events that they follow.
const maxRefusedWalk = 200

// Gaps goes back from the given events through rejected ones, and returns the missing events that it reaches. If direct
// is true, the result also includes those of the given events that are missing.
func (p *Reader) Gaps(from []id.EventID, direct bool) (missing []id.EventID, err error) {
	seen := map[id.EventID]bool{}
	type step struct {
		event  id.EventID
		behind bool // found through a rejected event
	}
	var todo []step
	for _, eventID := range from {
		todo = append(todo, step{eventID, direct})
	}
	for steps := 0; len(todo) > 0 && steps < maxRefusedWalk; steps++ {
		s := todo[0]
		todo = todo[1:]
		if seen[s.event] {
			continue
		}
		seen[s.event] = true
		e, err := p.Event(s.event)
		switch {
		case err != nil:
			return nil, err
		case e == nil || !e.InGraph():
			if s.behind {
				missing = append(missing, s.event)
			}
		case e.Flags&storage.RejectedEvent != 0:
			for _, prev := range e.PrevEvents() {
				todo = append(todo, step{prev, true})
			}
		}
	}
	return missing, nil
}

// Superseded returns the events that cease to be forward extremities when an event with the given prev_events is
// accepted. These are the prev_events and, where one of them was rejected or soft-failed, its own prev_events in turn.
func (p *Reader) Superseded(prev []id.EventID) (map[id.EventID]bool, error) {
	found := map[id.EventID]bool{}
	queue := slices.Clone(prev)
	for steps := 0; len(queue) > 0 && steps < maxRefusedWalk; steps++ {
		eventID := queue[0]
		queue = queue[1:]
		if found[eventID] {
			continue
		}
		found[eventID] = true
		e, err := p.Event(eventID)
		if err != nil {
			return nil, err
		}
		if e != nil && e.Flags&(storage.RejectedEvent|storage.SoftFailedEvent) != 0 {
			queue = append(queue, e.PrevEvents()...)
		}
	}
	return found, nil
}
