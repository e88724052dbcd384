package rooms

import (
	"context"
	"math"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/txns"
	"ebb/storage"
)

const (
	// maxRelatedRedactions bounds the related events that one call of RedactRelated examines.
	maxRelatedRedactions = 1000
	// maxRelatedBatch is how many of them are redacted in one write: 50 take a few milliseconds.
	maxRelatedBatch = 50
	// anyRelation stands for all relation types.
	anyRelation = "*"
)

// RelatedRedaction is a redaction of the events that directly relate to an event.
type RelatedRedaction struct {
	Room     id.RoomID
	Sender   ident.Requester
	Target   id.EventID
	Reason   string
	RelTypes []string    // the types of relations; "*" stands for all
	After    ident.Order // related events up to this order are done
	UpTo     storage.Pos // events after this position are not redacted
	Limit    int         // how many related events to examine; at most, and by default, maxRelatedRedactions
}

// RedactionOf returns the redaction of the target itself.
func RedactionOf(d *RelatedRedaction, txn *txns.Txn) NewEvent {
	return NewEvent{Room: d.Room, Sender: d.Sender, Type: typeRedaction, Content: redactionContent(d.Reason), Redacts: d.Target, Txn: txn}
}

// CheckRelated returns an error if the sender may not redact the target.
//
// Errors: those of Redact.
func (s *Service) CheckRelated(ctx context.Context, d *RelatedRedaction) error {
	r, err := s.Room(ctx, d.Room)
	if err != nil {
		return unknownIsForbidden(err)
	}
	target := RedactionOf(d, nil)
	return s.prepareRedaction(ctx, r, &target, &proto{content: target.Content})
}

// RedactRelated redacts the next related events, except those that the sender may not redact, and advances After. It
// reports whether there may be more.
// Spec: MSC3912
//
// Errors: M_FORBIDDEN if the sender has left the room.
func (s *Service) RedactRelated(ctx context.Context, d *RelatedRedaction) (more bool, err error) {
	r, err := s.Room(ctx, d.Room)
	if err != nil {
		return false, unknownIsForbidden(err)
	}
	if r.Membership(d.Sender.UserID) != Join {
		return false, errNotInRoom()
	}
	related, done, more, err := r.related(ctx, d)
	if err != nil {
		return false, err
	}
	content := redactionContent(d.Reason)
	for part := range slices.Chunk(related, maxRelatedBatch) {
		err := s.change(ctx, d.Room, func(b *batch) error {
			for _, e := range part {
				if _, err := b.add(proto{typ: typeRedaction, sender: d.Sender, content: content, redacts: e.ID(), target: e}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return false, unknownIsForbidden(err)
		}
	}
	d.After = done
	return more, nil
}

// related returns the next related events that the sender may redact, the order up to which it has looked for them, and
// whether there may be more.
func (r *Room) related(ctx context.Context, d *RelatedRedaction) (events []*Event, done ident.Order, more bool, err error) {
	limit := maxRelatedRedactions
	if d.Limit > 0 {
		limit = min(d.Limit, limit)
	}
	done = d.After
	err = r.svc.db.Read(ctx, func(tx *storage.Tx) error {
		found, err := tx.RelatedEvents(storage.RelationFilter{Room: r.nid, Parent: string(d.Target), After: d.After, UpTo: math.MaxInt64, Limit: limit})
		if err != nil || len(found) == 0 {
			return err
		}
		done, more = found[len(found)-1].Order, len(found) == limit
		positions := make([]storage.Pos, len(found))
		for i, f := range found {
			positions[i] = f.Position
		}
		stored, err := r.EventsAt(tx, positions)
		for _, p := range positions {
			if e := stored[p]; e != nil && p <= d.UpTo && r.redactsRelated(d, e) {
				events = append(events, e)
			}
		}
		return err
	})
	return events, done, more, err
}

// redactsRelated reports whether an event that relates to the target is to be redacted.
func (r *Room) redactsRelated(d *RelatedRedaction, e *Event) bool {
	return (slices.Contains(d.RelTypes, anyRelation) || slices.Contains(d.RelTypes, e.RelType())) &&
		!e.Hidden() && e.RedactedBy == 0 && mayRedactOf(r, d.Sender, e.Sender()) == nil
}
