package rooms

import (
	"context"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/eventauth"
	"ebb/rooms/graph"
	"ebb/storage"
)

// earlierRedaction is a valid redaction that arrived before its target and was withheld until now.
type earlierRedaction struct {
	*Event
	before *graph.Snapshot
}

// applyRedaction redacts the target of a redaction if the redaction is valid: if its sender is a user of the same
// server as the target's sender, or has enough power. Otherwise the redaction is withheld from clients, since they
// would apply it. If the target is unknown or rejected, the redaction is withheld until the target arrives or is
// accepted. p is nil if the state before the event is the provisional state.
// Spec: rooms/v3#handling-redactions
func (b *batch) applyRedaction(p *graph.Reader, in *incoming, pe *pendingEvent) error {
	if in.Type() != typeRedaction || in.IsState() {
		return nil
	}
	levels := b.room.next.levels
	if p != nil {
		var err error
		if levels, err = p.Levels(pe.before); err != nil {
			return err
		}
	}
	switch target := in.redacted; {
	case target == nil && in.purgedSender == "", target != nil && target.Flags&storage.RejectedEvent != 0: // it may be accepted later
		b.withhold(pe, in.Redacts())
	case target == nil && !eventauth.MayRedact(levels, in.Sender(), in.purgedSender), target != nil && !mayRedactEvent(levels, in.Sender(), target):
		b.withhold(pe, "")
	case target != nil && target.RedactedBy == 0:
		return b.redact(pe, target)
	}
	return nil
}

// withhold hides a redaction from clients. target is the ID of the target if the redaction may become valid when the
// target arrives, and otherwise "".
func (b *batch) withhold(pe *pendingEvent, target id.EventID) {
	pe.Flags |= storage.WithheldEvent
	pe.relation, pe.awaits = nil, target
}

// mayRedactEvent reports whether a redaction of a stored event is valid.
func mayRedactEvent(levels *eventauth.PowerLevels, sender id.UserID, target *Event) bool {
	return !target.IsStateKey(typeCreate, "") && target.Flags&storage.RejectedEvent == 0 && eventauth.MayRedact(levels, sender, target.Sender())
}

// lookUpTarget returns the target of a redaction. If the target was purged, it returns only the target's sender.
func (r *Room) lookUpTarget(ctx context.Context, target id.EventID) (e *Event, purgedSender id.UserID, err error) {
	if e, err = r.FindEvent(ctx, target); e != nil && !e.Undecided() || err != nil {
		return e, "", err
	}
	err = r.svc.db.ReadInner(ctx, func(tx *storage.Tx) error {
		sender, _, err := tx.PurgedSender(r.nid, string(target))
		purgedSender = id.UserID(sender)
		return err
	})
	return nil, purgedSender, err
}

// Bounds of the redactions that are applied when their target arrives.
const (
	// maxPendingRedactions is how many are checked, the oldest first. It is large since anybody can send invalid ones,
	// among which a valid one must be found.
	maxPendingRedactions = 1000
	// maxRevealedRedactions is how many of the valid ones are sent to clients. The first one has the whole effect.
	maxRevealedRedactions = 20
)

// lookUpEarlierRedactions finds the redactions of an event that arrived before the event itself, and keeps the valid
// ones.
func (r *Room) lookUpEarlierRedactions(tx *storage.Tx, e *incoming) error {
	pending, err := tx.PendingRedactions(r.nid, string(e.ID()), maxPendingRedactions)
	if err != nil || len(pending) == 0 {
		return err
	}
	e.hasRedactions = true
	redactions, err := r.EventsAt(tx, pending)
	if err != nil {
		return err
	}
	p := r.reader(tx)
	for _, pos := range pending {
		redaction := redactions[pos]
		if len(e.earlier) == maxRevealedRedactions {
			break
		}
		if redaction == nil || redaction.Flags&storage.HiddenEvent != storage.WithheldEvent || e.IsStateKey(typeCreate, "") {
			continue
		}
		before, err := p.Before(redaction)
		if err != nil {
			return err
		}
		levels, err := p.Levels(before)
		if err != nil {
			return err
		}
		if eventauth.MayRedact(levels, redaction.Sender(), e.Sender()) {
			e.earlier = append(e.earlier, earlierRedaction{redaction, before})
		}
	}
	return nil
}

// reveal adds the redactions that arrived before their target to the batch again, after the target. So clients get them
// as new events.
func (b *batch) reveal(in *incoming, target *pendingEvent) error {
	if target.Flags&storage.RejectedEvent != 0 {
		return nil
	}
	for i, r := range in.earlier {
		again := *b.again(r)
		pe := &again
		if i == 0 {
			if err := b.redact(pe, target.Event); err != nil {
				return err
			}
		}
		n := &b.room.next
		if at := slices.IndexFunc(n.extremities, func(x graph.Extremity) bool { return x.ID == r.ID() }); at >= 0 {
			n.extremities = slices.Clone(n.extremities)
			n.extremities[at] = graph.Extremity{ID: r.ID(), Event: pe.Event, After: n.extremities[at].After}
		}
		b.settleHead(pe)
		b.notify(pe)
		b.events = append(b.events, pe)
	}
	return nil
}

// again returns a withheld redaction as a new event, which clients see.
func (b *batch) again(r earlierRedaction) *pendingEvent {
	return &pendingEvent{
		Event: &Event{
			Event: r.Event.Event, Room: b.room.nid, SenderNID: r.SenderNID, DeviceNID: r.DeviceNID, TxnID: r.TxnID, ReceivedTS: r.ReceivedTS,
			RedactedBy: r.RedactedBy, Flags: r.Flags &^ (storage.WithheldEvent | storage.GapEvent), Built: true,
		},
		before: r.before, after: r.before, supersedes: r.Pos,
	}
}

// revealInPlace is like reveal, but for a target that is not a new event for clients, such as one of the history. The
// redactions keep their positions and become visible there. The target is stored in its redacted form.
func revealInPlace(in *incoming, target *pendingEvent) {
	if target.Flags&storage.RejectedEvent != 0 || len(in.earlier) == 0 {
		return
	}
	in.redactedBy = in.earlier[0].Pos
	for _, r := range in.earlier {
		shown := r.Event.RedactedAs(r.Event.Event, r.RedactedBy)
		shown.Flags &^= storage.WithheldEvent
		target.revealed = append(target.revealed, shown)
	}
}

// insert adds an event that was hidden until now to the ring. r.mu is held.
func (r *Room) insert(e *Event) {
	h := &r.head
	if e.Pos <= h.ringOK || e.Backfilled() {
		return
	}
	at, found := slices.BinarySearchFunc(h.ring, e.Pos, func(o *Event, pos storage.Pos) int { return int(o.Pos - pos) })
	if !found {
		h.ring = slices.Insert(slices.Clone(h.ring), at, e)
	}
}

// rememberPurged is how long the sender of a purged event is stored. Clients that were offline for less may still show
// the event, and its sender or a moderator may redact it.
const rememberPurged = 30 * 24 * time.Hour

// ForgetPurged deletes the stored senders of events that were purged long ago.
func (s *Service) ForgetPurged(ctx context.Context) error {
	before := s.opts.Now().Add(-rememberPurged).UnixMilli()
	for more := true; more; {
		err := s.db.Write(ctx, func(tx *storage.Tx) (err error) {
			more, err = tx.ForgetPurged(before, 2000) // 2000 keep it under about 20 ms
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
