package rooms

import (
	"context"
	"errors"
	"slices"

	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// applyVerdict makes an event part of the graph, and sets its flags and the state after it. An event that is accepted
// extends the provisional head and, if it is a redaction, redacts its target. p is nil if the event follows the head.
func (b *batch) applyVerdict(ctx context.Context, p *graph.Reader, in *incoming, pe *pendingEvent, verdict error, onHead bool) error {
	pe.after = pe.before
	var soft softFailed
	switch {
	case errors.As(verdict, &soft):
		pe.Flags |= storage.SoftFailedEvent
		pe.unsigned = !IsVerdict(soft)
	case verdict != nil:
		pe.Flags |= rejectedFlags(verdict)
		pe.relation = nil
	}
	rejected := pe.Flags&storage.RejectedEvent != 0
	if key, isState := in.StateKey(); isState && !rejected {
		pe.after = pe.before.Over(graph.Entry{Key: pdu.StateKey{Type: in.Type(), Key: key}, Event: pe.Event})
	}
	if !rejected {
		noteMissing(in, pe)
	}
	if err := b.noteGaps(p, in, pe); err != nil {
		return err
	}
	expired, err := b.room.hasExpired(in.Event, pe.ReceivedTS)
	if err != nil {
		return err
	}
	if err := b.redactIfNeeded(in, pe, expired); err != nil {
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

// rejectedFlags returns the flags of an event that is not accepted because of the given verdict.
func rejectedFlags(verdict error) storage.EventFlags {
	if errors.Is(verdict, errUndecided) {
		return storage.RejectedEvent | storage.UndecidedEvent
	}
	return storage.RejectedEvent
}

// noteMissing records which prev_events of an event are missing. If one of them does not precede this server's join,
// the timeline has a gap before the event.
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

// noteGaps records the missing events before rejected events that an event follows. They belong to this event, because
// a rejected event has no position in the timeline from which they could be fetched. If the event itself is rejected
// and was missing before, the events missing before it take its place. p is nil if the event follows the head.
func (b *batch) noteGaps(p *graph.Reader, in *incoming, pe *pendingEvent) error {
	if p == nil {
		return nil
	}
	prev := in.PrevEvents()
	if pe.Flags&storage.RejectedEvent != 0 {
		if !in.late {
			return nil
		}
		pe.gapsAt = in.lateOrder
		missing, err := p.Gaps(prev, true)
		pe.missing = missing
		return err
	}
	behind, err := p.Gaps(prev, false)
	for _, missing := range behind {
		if !slices.Contains(pe.missing, missing) && !slices.Contains(pe.missingBehind, missing) && !b.room.isOver(in.Event, pe.ReceivedTS) {
			pe.missing = append(pe.missing, missing)
			pe.Flags |= storage.GapEvent
		}
	}
	return err
}

// redactIfNeeded replaces an event by its redacted form if the event is a message and expired is set, is rejected or
// undecided, or was redacted before it arrived.
func (b *batch) redactIfNeeded(in *incoming, pe *pendingEvent, expired bool) error {
	r := b.room
	undecided := pe.Flags&storage.UndecidedEvent != 0
	expired = expired && !in.IsState()
	rejected := pe.Flags&storage.RejectedEvent != 0 && r.partialState() == nil // in a partial-state room the event may be accepted later
	if !expired && !rejected && !undecided && in.redactedBy == 0 {
		return nil
	}
	pruned, err := in.Redact()
	if err != nil {
		return err
	}
	if !rejected && !undecided && (in.redactedBy != 0 || pe.past == 0) {
		pe.original = in.JSON() // see writeOriginal
	}
	pe.Event.Event, pe.RedactedBy = pruned, in.redactedBy
	if pe.relation = nil; expired {
		pe.Flags |= storage.SkeletonEvent
	}
	return nil
}
