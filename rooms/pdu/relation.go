package pdu

import (
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
)

// maxRelationText bounds the event IDs and types of relations that are indexed.
const maxRelationText = 255

// Relation is the content of m.relates_to.
type Relation struct {
	Parent  id.EventID
	RelType string
	Key     string // set for an annotation
}

// RelationOf reads m.relates_to. It returns nil if there is none, or only a plain reply, which servers need not know.
// Spec: client-server-api#forming-relationships-between-events
func RelationOf(content []byte) *Relation {
	raw, ok := canonjson.Get(content, "m.relates_to")
	if !ok || len(raw) == 0 || raw[0] != '{' {
		return nil
	}
	text := func(key string) string {
		v, _ := canonjson.Get(raw, key)
		return canonjson.String(v)
	}
	r := &Relation{Parent: id.EventID(text("event_id")), RelType: text("rel_type"), Key: text("key")}
	if r.Parent == "" || r.RelType == "" || len(r.Parent) > maxRelationText || len(r.RelType) > maxRelationText || strings.Contains(string(r.Parent)+r.RelType, "\x00") {
		return nil
	}
	return r
}
