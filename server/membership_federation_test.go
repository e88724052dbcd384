package server_test

import (
	"testing"

	"ebb/internal/testserver"
)

func TestJoinOfARoomOfAnotherServer(t *testing.T) {
	net := testserver.Federation(t, 2, nil)
	alice, bob := net.Servers[0].Register("alice"), net.Servers[1].Register("bob")
	room, _ := alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat", "name": "Kitchen"})["room_id"].(string)
	bob.Do("POST", "/v3/join/"+room+"?via=hs1.test", map[string]any{})
	joined := testserver.Get(bob.Do("GET", "/v3/sync", nil), "rooms", "join", room)
	if n := testserver.Get(joined, "summary", "m.joined_member_count"); n != 2.0 {
		t.Errorf("bob sees %v members", n)
	}
}
