package rooms

import (
	"context"
	"net/http"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/mxerr"
	"ebb/storage"
)

// Relation types with special rules.
const (
	relThread     = "m.thread"
	relAnnotation = "m.annotation"
)

// maxRelationText bounds the event IDs and types of relations that are indexed.
const maxRelationText = 255

// relation is the content of m.relates_to.
type relation struct {
	parent  id.EventID
	relType string
	key     string // set for an annotation
}

// relationOf reads m.relates_to. It returns nil if there is none, or only a plain reply, which servers need not know.
// Spec: client-server-api#forming-relationships-between-events
func relationOf(content []byte) *relation {
	raw, ok := canonjson.Get(content, "m.relates_to")
	if !ok || len(raw) == 0 || raw[0] != '{' {
		return nil
	}
	text := func(key string) string {
		v, _ := canonjson.Get(raw, key)
		return canonjson.String(v)
	}
	r := &relation{parent: id.EventID(text("event_id")), relType: text("rel_type"), key: text("key")}
	if r.parent == "" || r.relType == "" || len(r.parent) > maxRelationText || len(r.relType) > maxRelationText || strings.Contains(string(r.parent)+r.relType, "\x00") {
		return nil
	}
	return r
}

// FindEvent returns a committed event of the room, hidden or not, from memory or the database, or nil if there is none.
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
		e, err = fromRow(r.version, &row)
		return err
	})
	return e, err
}

// related looks up the event that a new one relates to, and rejects relations that are not allowed.
func (s *Service) related(ctx context.Context, r *Room, p *proto) error {
	p.relation = relationOf(p.content)
	if p.relation == nil {
		return nil
	}
	parent, err := r.FindEvent(ctx, p.relation.parent)
	if err != nil {
		return err
	}
	if parent == nil || parent.Hidden() {
		p.relation = nil // it is unknown or purged: the relation is ignored
		return nil
	}
	switch p.relation.relType {
	case relThread:
		return p.inThread(parent)
	case relAnnotation:
		p.inThreadOf(parent)
		return s.checkAnnotation(ctx, r, p)
	}
	p.inThreadOf(parent)
	return nil
}

// inThread adds the event to the thread of root. An event that itself relates to another cannot start a thread.
// Spec: client-server-api#validation-of-mthread-relationships
func (p *proto) inThread(root *Event) error {
	if relationOf(root.Content()) != nil {
		return mxerr.New(http.StatusBadRequest, mxerr.CodeUnknown, "A thread cannot start at an event that relates to another event")
	}
	p.threadRoot = root.Pos
	return nil
}

// inThreadOf adds the event to the thread of its parent.
func (p *proto) inThreadOf(parent *Event) { p.threadRoot = parent.ThreadRoot }

// checkAnnotation rejects a second reaction with the same key.
// Spec: client-server-api#avoiding-duplicate-annotations
func (s *Service) checkAnnotation(ctx context.Context, r *Room, p *proto) error {
	var existing []string
	err := s.db.ReadInner(ctx, func(tx *storage.Tx) (err error) {
		existing, err = tx.Annotations(r.nid, string(p.relation.parent), p.typ, p.sender.UserNID)
		return err
	})
	if err != nil {
		return err
	}
	for _, raw := range existing {
		content, _ := canonjson.Get([]byte(raw), "content")
		if other := relationOf(content); other != nil && other.key == p.relation.key {
			return badRequest(mxerr.CodeDuplicateAnnotation, "You have already reacted to this event with that key")
		}
	}
	return nil
}
