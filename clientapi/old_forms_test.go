package clientapi

import "testing"

func TestDeprecatedFormsOfRequestsAreServed(t *testing.T) {
	h := newHouse(t)
	room := h.room("alice", `{"preset":"public_chat"}`)
	base := "/v3/rooms/" + room
	seen := map[any]bool{}
	for _, version := range []string{"/v3", "/r0", "/api/v1"} {
		for range 2 {
			sent := h.must("alice", "POST", version+"/rooms/"+room+"/send/m.room.message", `{"msgtype":"m.text","body":"hi"}`)["event_id"]
			if seen[sent] || sent == nil {
				t.Errorf("%s: the same request again sends %v", version, sent)
			}
			seen[sent] = true
			redaction := h.must("alice", "POST", version+"/rooms/"+room+"/redact/"+sent.(string), `{"reason":"typo"}`)["event_id"]
			event := h.must("alice", "GET", base+"/event/"+sent.(string), "")
			if content, _ := event["content"].(map[string]any); len(content) != 0 || redaction == nil {
				t.Errorf("%s: redacted by %v, and still %v", version, redaction, event)
			}
		}
	}
	h.refused("bob", "POST", base+"/send/m.room.message", `{"body":"x"}`, 403, "M_FORBIDDEN")
	h.refused("alice", "POST", base+"/send/m.room.message", `[`, 400, "M_NOT_JSON")
	h.refused("alice", "POST", base+"/redact/$unknown", `{"reason":5}`, 400, "M_BAD_JSON")
}
