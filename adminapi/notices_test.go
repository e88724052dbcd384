package adminapi_test

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"ebb/internal/testserver"
)

func TestScriptsForSynapseSendServerNotices(t *testing.T) {
	s := testserver.New(t, nil)
	admin, other, alice := s.Register("admin"), s.Register("other"), s.Register("alice")
	for _, name := range []string{"admin", "other"} {
		if _, err := s.Control(t.Context(), "user admin", json.RawMessage(`{"user":"`+name+`","admin":true}`)); err != nil {
			t.Fatal(err)
		}
	}
	const path = "/_synapse/admin/v1/send_server_notice"
	message := func(text string) map[string]any {
		return map[string]any{"user_id": alice.User, "content": map[string]any{"msgtype": "m.text", "body": text}}
	}
	alice.Refused("POST", path, message("x"), 403, "M_FORBIDDEN")
	admin.Refused("POST", path, map[string]any{"user_id": alice.User}, 400, "M_MISSING_PARAM")
	admin.Refused("POST", path, map[string]any{"user_id": alice.User, "content": "text"}, 400, "M_BAD_JSON")
	for _, nobody := range []string{"@nobody:test", "@alice:elsewhere", "@server-notices:test", "alice"} {
		admin.Refused("POST", path, map[string]any{"user_id": nobody, "content": map[string]any{}}, 404, "M_NOT_FOUND")
	}

	first := admin.Do("POST", path, message("first"))["event_id"].(string)
	invites := testserver.Get(alice.Do("GET", "/v3/sync", nil), "rooms", "invite").(map[string]any)
	if len(invites) != 1 {
		t.Fatalf("invites: %v", invites)
	}
	room := slices.Collect(maps.Keys(invites))[0]
	base := "/v3/rooms/" + url.PathEscape(room)
	if sender := testserver.Get(invites[room], "invite_state", "events", 0, "sender"); sender != "@server-notices:test" {
		t.Errorf("the invite is from %v", sender)
	}
	alice.Refused("POST", base+"/leave", nil, 403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM")
	alice.Do("POST", base+"/join", nil)
	if e := alice.Do("GET", base+"/event/"+url.PathEscape(first), nil); testserver.Get(e, "content", "body") != "first" || testserver.Get(e, "type") != "m.room.message" {
		t.Errorf("the event is %v", e)
	}

	// A user who has left is invited to the same room, and a repeated transaction sends nothing.
	alice.Do("POST", base+"/leave", nil)
	once := admin.Do("PUT", path+"/1", message("once"))["event_id"]
	if again := admin.Do("PUT", path+"/1", message("once"))["event_id"]; again != once {
		t.Errorf("a repeated transaction sent %v after %v", again, once)
	}
	if e := other.Do("PUT", path+"/1", message("another"))["event_id"]; e == once {
		t.Error("two administrators share transaction IDs")
	}
	alice.Do("POST", base+"/join", nil)
	var bodies []string
	for _, e := range alice.Do("GET", base+"/messages?dir=f&limit=100", nil)["chunk"].([]any) {
		if testserver.Get(e, "type") == "m.room.message" {
			bodies = append(bodies, testserver.Get(e, "content", "body").(string))
		}
	}
	if got := strings.Join(bodies, " "); got != "first once another" {
		t.Errorf("the messages are %q", got)
	}
	topic := map[string]any{"user_id": alice.User, "type": "m.room.topic", "state_key": "", "content": map[string]any{"topic": "Notices of 2026"}}
	admin.Do("POST", path, topic)
	if state := alice.Do("GET", base+"/state/m.room.topic", nil); state["topic"] != "Notices of 2026" {
		t.Errorf("the topic is %v", state)
	}
}
