package rooms

import (
	"context"
	"errors"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
	"ebb/storage"
)

// maxRefusedWalk bounds the search through rejected events for the events that they follow.
const maxRefusedWalk = 200

// applyVerdict makes an event part of the graph, and sets its flags and the state after it. An accepted event extends
// the provisional head, or redacts its target. p is nil if the event follows the head.
func (b *batch) applyVerdict(ctx context.Context, p *pastReader, in *incoming, pe *pendingEvent, verdict error, onHead bool) error {
	pe.after = pe.before
	var soft softFailed
	switch {
	case errors.As(verdict, &soft):
		pe.Flags |= storage.SoftFailedEvent
	case verdict != nil:
		pe.Flags |= rejectedFlags(verdict)
		pe.relation = nil
	}
	rejected := pe.Flags&storage.RejectedEvent != 0
	if key, isState := in.StateKey(); isState && !rejected {
		pe.after = pe.before.over(stateRef{key: pdu.StateKey{Type: in.Type(), Key: key}, event: pe.Event})
	}
	if !rejected {
		noteMissing(in, pe)
	}
	if err := b.noteGaps(p, in, pe); err != nil {
		return err
	}
	if err := b.redactIfNeeded(in, pe); err != nil {
		return err
	}
	if pe.Flags&(storage.RejectedEvent|storage.SoftFailedEvent) != 0 {
		pe.outgoing = false
		b.settleHead(pe)
		return nil
	}
	if err := b.applyRedaction(p, in, pe); err != nil {
		return err
	}
	if err := b.extendHead(ctx, p, in, pe, onHead); err != nil {
		return err
	}
	if !pe.Hidden() {
		b.notify(pe)
	}
	return nil
}

// rejectedFlags returns the flags of an event that a verdict keeps out of the room's state.
func rejectedFlags(verdict error) storage.EventFlags {
	if errors.Is(verdict, errUndecided) {
		return storage.RejectedEvent | storage.UndecidedEvent
	}
	return storage.RejectedEvent
}

// noteMissing records the prev_events of an event that are not stored. The timeline has a gap before the event, unless
// all of them precede this server's join.
func noteMissing(in *incoming, pe *pendingEvent) {
	for _, prev := range in.PrevEvents() {
		switch {
		case in.fetchedAfter[prev] == nil:
		case slices.Contains(in.behind, prev): // the timeline since the join is complete
			pe.missingBehind = append(pe.missingBehind, prev)
		default:
			pe.missing = append(pe.missing, prev)
			pe.Flags |= storage.GapEvent
		}
	}
}

// noteGaps records the missing prev_events of rejected events before an event: a rejected event has no position in the
// timeline from which they could be fetched. They replace a rejected event that was missing itself. p is nil if the
// event follows the head.
func (b *batch) noteGaps(p *pastReader, in *incoming, pe *pendingEvent) error {
	if p == nil {
		return nil
	}
	prev := in.PrevEvents()
	if pe.Flags&storage.RejectedEvent != 0 {
		if !in.late {
			return nil
		}
		pe.gapsAt = in.lateOrder
		missing, err := p.gaps(prev, true)
		pe.missing = missing
		return err
	}
	behind, err := p.gaps(prev, false)
	for _, missing := range behind {
		if !slices.Contains(pe.missing, missing) && !slices.Contains(pe.missingBehind, missing) && !b.room.isOver(in.Event, pe.ReceivedTS) {
			pe.missing = append(pe.missing, missing)
			pe.Flags |= storage.GapEvent
		}
	}
	return err
}

// gaps returns the missing events before rejected ones, going back from the given events. If direct is set, missing
// ones among the given events are included.
func (p *pastReader) gaps(from []id.EventID, direct bool) (missing []id.EventID, err error) {
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
		e, err := p.event(s.event)
		switch {
		case err != nil:
			return nil, err
		case e == nil || !placed(e):
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

// redactIfNeeded replaces an event by its redacted form if it is an expired message, is rejected or undecided, or was
// redacted before it arrived.
func (b *batch) redactIfNeeded(in *incoming, pe *pendingEvent) error {
	r := b.room
	undecided := pe.Flags&storage.UndecidedEvent != 0
	expired := !in.IsState() && r.isOver(in.Event, pe.ReceivedTS)
	rejected := pe.Flags&storage.RejectedEvent != 0 && r.partialState() == nil // may be accepted later
	if !expired && !rejected && !undecided && in.redactedBy == 0 {
		return nil
	}
	pruned, err := in.Redact()
	if err != nil {
		return err
	}
	pe.Event.Event, pe.RedactedBy = pruned, in.redactedBy
	if pe.relation = nil; expired {
		pe.Flags |= storage.SkeletonEvent
	}
	return nil
}
