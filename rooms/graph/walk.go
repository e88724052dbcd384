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

// Bridge returns the state before the join if an event has the same prev_events as the join, else nil. These
// prev_events need not be stored.
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

// IsHistory reports whether an event is known to precede the join with which this server entered the room, and is not
// stored.
func (p *Reader) IsHistory(eventID id.EventID) (bool, error) {
	order, found, err := p.tx.MissingBefore(p.Room.NID, string(eventID))
	return found && order <= ident.Order(p.Room.Entered)*OrderStep, err
}

// SameEvents reports whether two lists have the same events in any order.
func SameEvents(a, b []id.EventID) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(e id.EventID) bool { return !slices.Contains(b, e) })
}

// maxRefusedWalk bounds the search through rejected events for the events that they follow.
const maxRefusedWalk = 200

// Gaps returns the missing events before rejected ones, going back from the given events. If direct is set, missing
// ones among the given events are included.
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

// Superseded returns the events that are no longer forward extremities because of an event: its prev_events, and the
// prev_events of those that were rejected or soft-failed.
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
