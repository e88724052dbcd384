package rooms

import (
	"context"
	"net/http"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/mxerr"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Relation types with special rules.
const (
	relThread     = "m.thread"
	relAnnotation = "m.annotation"
)

// FindEvent returns a committed event of the room from memory or from the database, even if it is hidden. It returns
// nil if there is no such event.
func (r *Room) FindEvent(ctx context.Context, eventID id.EventID) (*Event, error) {
	if e := r.recentEvent(eventID); e != nil {
		return e, nil
	}
	var e *Event
	err := r.svc.db.ReadInner(ctx, func(tx *storage.Tx) error {
		row, found, err := tx.EventByID(r.nid, string(eventID))
		if err != nil || !found {
			return err
		}
		e, err = graph.LoadEvent(r.version, &row)
		return err
	})
	return e, err
}

// related looks up the event to which a new event relates. It returns an error if the relation is not allowed.
func (s *Service) related(ctx context.Context, r *Room, p *proto) error {
	p.relation = pdu.RelationOf(p.content)
	if p.relation == nil {
		return nil
	}
	parent, err := r.FindEvent(ctx, p.relation.Parent)
	if err != nil {
		return err
	}
	if parent == nil || parent.Hidden() {
		p.relation = nil // it is unknown or purged: the relation is ignored
		return nil
	}
	switch p.relation.RelType {
	case relThread:
		return p.inThread(parent)
	case relAnnotation:
		p.inThreadOf(parent)
		return s.checkAnnotation(ctx, r, p)
	}
	p.inThreadOf(parent)
	return nil
}

// inThread adds the event to the thread that starts at root. It returns an error if root itself relates to another
// event, since such an event cannot start a thread.
// Spec: client-server-api#validation-of-mthread-relationships
func (p *proto) inThread(root *Event) error {
	if pdu.RelationOf(root.Content()) != nil {
		return mxerr.New(http.StatusBadRequest, mxerr.CodeUnknown, "A thread cannot start at an event that relates to another event")
	}
	p.threadRoot = root.Pos
	return nil
}

// inThreadOf adds the event to the thread to which its parent belongs, if any.
func (p *proto) inThreadOf(parent *Event) { p.threadRoot = parent.ThreadRoot }

// checkAnnotation returns an error if the user has already reacted to the same event with the same key.
// Spec: client-server-api#avoiding-duplicate-annotations
func (s *Service) checkAnnotation(ctx context.Context, r *Room, p *proto) error {
	var existing []string
	err := s.db.ReadInner(ctx, func(tx *storage.Tx) (err error) {
		existing, err = tx.Annotations(r.nid, string(p.relation.Parent), p.typ, p.sender.UserNID)
		return err
	})
	if err != nil {
		return err
	}
	for _, raw := range existing {
		content, _ := canonjson.Get([]byte(raw), "content")
		if other := pdu.RelationOf(content); other != nil && other.Key == p.relation.Key {
			return badRequest(mxerr.CodeDuplicateAnnotation, "You have already reacted to this event with that key")
		}
	}
	return nil
}
