package server_test

import (
	"testing"

	"ebb/internal/testserver"
)

// TestSlidingSyncInBothForms drives both operations over HTTP; what they answer is tested in package feed.
func TestSlidingSyncInBothForms(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	room := alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat", "name": "Ebb"})["room_id"].(string)
	bob.Do("POST", "/v3/rooms/"+room+"/join", nil)

	const deployed = "/unstable/org.matrix.simplified_msc3575/sync"
	body := map[string]any{
		"conn_id": "a", "txn_id": "t",
		"lists":      map[string]any{"all": map[string]any{"ranges": []any{[]int{0, 9}}, "timeline_limit": 1, "required_state": []any{[]string{"m.room.create", ""}}}},
		"extensions": map[string]any{"account_data": map[string]any{"enabled": true}, "e2ee": map[string]any{"enabled": true}},
	}
	a := bob.Do("POST", deployed, body)
	if get(a, "rooms", room, "name") != "Ebb" || get(a, "rooms", room, "initial") != true || get(a, "txn_id") != "t" || get(a, "lists", "all", "count") != 1.0 {
		t.Errorf("deployed form: %v", a)
	}
	if len(list(a, "extensions", "account_data", "global")) == 0 {
		t.Errorf("no push rules: %v", a)
	}
	alice.Do("PUT", "/v3/rooms/"+room+"/send/m.room.message/1", map[string]any{"msgtype": "m.text", "body": "hi"})
	a = bob.Do("POST", deployed+"?timeout=10000&pos="+get(a, "pos").(string), body)
	if get(a, "rooms", room, "notification_count") != 1.0 || get(a, "rooms", room, "num_live") != 1.0 {
		t.Errorf("deployed form, second: %v", a)
	}
	bob.Refused("POST", deployed+"?pos=s1_1_p_0_0_0_1_1", body, 400, "M_UNKNOWN_POS")
	bob.Refused("POST", deployed+"?set_presence=x", body, 400, "M_INVALID_PARAM")

	body = map[string]any{"lists": map[string]any{"all": map[string]any{"range": []int{0, 9}, "timeline_limit": 1, "required_state": map[string]any{"include": []any{map[string]any{}}}}}}
	a = bob.Do("POST", "/v4/sync", body)
	if get(a, "rooms", room, "membership") != "join" || get(a, "rooms", room, "notification_count") != nil || len(list(a, "rooms", room, "required_state")) < 5 {
		t.Errorf("merged form: %v", a)
	}
	body["pos"], body["timeout"] = get(a, "pos"), 10000
	alice.Do("PUT", "/v3/rooms/"+room+"/send/m.room.message/2", map[string]any{"msgtype": "m.text", "body": "hi"})
	if a = bob.Do("POST", "/v4/sync", body); len(list(a, "rooms", room, "timeline")) != 1 {
		t.Errorf("merged form, second: %v", a)
	}
	body["pos"] = "x"
	bob.Refused("POST", "/v4/sync", body, 400, "M_UNKNOWN_POS")
}
