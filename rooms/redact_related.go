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
	// maxRelatedRedactions bounds the events that one request redacts because they relate to its target.
	maxRelatedRedactions = 1000
	// maxRelatedBatch is how many of them are redacted in one write: 50 take a few milliseconds.
	maxRelatedBatch = 50
	// anyRelation means all relation types.
	anyRelation = "*"
)

// RedactWithRelated is Redact, and also redacts the events that directly relate to the target with one of the types, or
// any if a type is "*". It leaves out those that the sender may not redact. The target comes last: a request that is
// interrupted has no answer, so that the client repeats it.
// Spec: MSC3912
func (s *Service) RedactWithRelated(
	ctx context.Context, sender ident.Requester, room id.RoomID, eventID id.EventID, reason string, txn *txns.Txn, relTypes []string,
) (id.EventID, error) {
	if len(relTypes) > 0 {
		if err := s.redactRelated(context.WithoutCancel(ctx), sender, room, eventID, reason, relTypes); err != nil {
			return "", err
		}
	}
	return s.Redact(ctx, sender, room, eventID, reason, txn)
}

func (s *Service) redactRelated(ctx context.Context, sender ident.Requester, room id.RoomID, eventID id.EventID, reason string, relTypes []string) error {
	r, err := s.Room(ctx, room)
	if err != nil {
		return unknownIsForbidden(err)
	}
	content := redactionContent(reason)
	target := NewEvent{Room: room, Sender: sender, Type: typeRedaction, Content: content, Redacts: eventID}
	if err := s.prepareRedaction(ctx, r, &target, &proto{content: content}); err != nil {
		return err
	}
	related, err := r.related(ctx, eventID, relTypes)
	if err != nil {
		return err
	}
	related = slices.DeleteFunc(related, func(e *Event) bool {
		return e.Hidden() || e.RedactedBy != 0 || mayRedactOf(r, sender, e.Sender()) != nil
	})
	for part := range slices.Chunk(related, maxRelatedBatch) {
		err := s.change(ctx, room, func(b *batch) error {
			for _, e := range part {
				if _, err := b.add(proto{typ: typeRedaction, sender: sender, content: content, redacts: e.ID(), target: e}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return unknownIsForbidden(err)
		}
	}
	return nil
}

// related returns the events that directly relate to an event with one of the types.
func (r *Room) related(ctx context.Context, eventID id.EventID, relTypes []string) (events []*Event, err error) {
	err = r.svc.db.Read(ctx, func(tx *storage.Tx) error {
		places, err := tx.RelatedEvents(storage.RelationFilter{
			Room: r.nid, Parent: string(eventID), After: math.MinInt64, UpTo: math.MaxInt64, Limit: maxRelatedRedactions,
		})
		if err != nil {
			return err
		}
		positions := make([]storage.Pos, len(places))
		for i, p := range places {
			positions[i] = p.Position
		}
		found, err := r.EventsAt(tx, positions)
		for _, p := range positions {
			if e := found[p]; e != nil && (slices.Contains(relTypes, anyRelation) || slices.Contains(relTypes, e.RelType())) {
				events = append(events, e)
			}
		}
		return err
	})
	return events, err
}
