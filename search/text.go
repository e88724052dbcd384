package search

import (
	"ebb/canonjson"
	"ebb/storage/postings"
)

// Text is the searchable text of an event.
type Text struct {
	Field postings.Field
	Text  string
	Edits string // the ID of the event that this one edits; empty if it is not an edit
}

// Keys maps the names of keys in search requests to fields.
// Spec: client-server-api#post_matrixclientv3search
var Keys = map[string]postings.Field{"content.body": postings.Body, "content.name": postings.Name, "content.topic": postings.Topic}

// TextOf returns the searchable text of an event with the given type and JSON. It returns false for events without one,
// such as encrypted events.
func TextOf(typ string, event []byte) (t Text, found bool) {
	content, _ := canonjson.Get(event, "content")
	switch typ {
	case "m.room.name":
		t.Field, t.Text = postings.Name, text(content, "name")
	case "m.room.topic":
		t.Field, t.Text = postings.Topic, text(content, "topic")
	case "m.room.message":
		t.Field = postings.Body
		relation, _ := canonjson.Get(content, "m.relates_to")
		replacement, _ := canonjson.Get(content, "m.new_content")
		if text(relation, "rel_type") == "m.replace" && len(replacement) > 0 && replacement[0] == '{' {
			t.Edits = text(relation, "event_id")
			content = replacement
		}
		t.Text = text(content, "body")
	}
	return t, t.Text != ""
}

// text returns a string member of an object, or "" if there is no such member.
func text(object []byte, key string) string {
	raw, _ := canonjson.Get(object, key)
	s, _ := canonjson.Unquote(raw)
	return s
}
