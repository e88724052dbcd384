package federation_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"ebb/internal/testserver"
)

// transaction returns the body of a transaction sent by the spy.
func transaction(pdus, edus []any) map[string]any {
	return map[string]any{"origin": "spy.test", "origin_server_ts": 1, "pdus": pdus, "edus": edus}
}

func many(n int, v any) (out []any) {
	for range n {
		out = append(out, v)
	}
	return out
}

func TestTransactionsBeyondTheirBoundsAreRefused(t *testing.T) {
	net, _, _ := pair(t)
	s := newSpy(t, net)
	none := map[string]any{}
	s.refused("PUT", v1+"/send/1", transaction(many(51, none), nil), http.StatusBadRequest, "M_INVALID_PARAM")
	s.refused("PUT", v1+"/send/2", transaction(nil, many(101, none)), http.StatusBadRequest, "M_INVALID_PARAM")
	foreign := transaction([]any{}, nil)
	foreign["origin"] = "hs2.test"
	s.refused("PUT", v1+"/send/3", foreign, http.StatusForbidden, "M_FORBIDDEN")
	s.refused("PUT", v1+"/send/4", []any{}, http.StatusBadRequest, "M_BAD_JSON")
	if answer := s.gets("PUT", v1+"/send/5", transaction([]any{}, nil)); !reflect.DeepEqual(answer, map[string]any{"pdus": map[string]any{}}) {
		t.Errorf("an empty transaction is answered with %v", answer)
	}
}

func TestGarbageInATransactionIsIgnored(t *testing.T) {
	net, alice, bob := pair(t)
	room := made(alice, "garden", "public_chat", nil)
	bob.Do("POST", "/v3/join/"+room+"?via=hs1.test", map[string]any{})
	s := newSpy(t, net)
	deep := json.RawMessage(strings.Repeat(`{"a":`, 90) + "1" + strings.Repeat("}", 90))
	pdus := []any{
		nil, 1, "x", []any{}, map[string]any{}, deep, map[string]any{"room_id": 7}, map[string]any{"room_id": "!unknown:spy.test", "type": "m.room.message"},
		map[string]any{"room_id": room}, map[string]any{"room_id": room, "prev_events": many(21, "$x"), "auth_events": 3, "depth": "deep"},
		map[string]any{
			"room_id": room, "type": "m.room.message", "sender": "@spy:spy.test", "content": map[string]any{}, "depth": 5, "origin_server_ts": 1,
			"prev_events": []any{"$nowhere"}, "auth_events": []any{}, "hashes": map[string]any{"sha256": "x"}, "signatures": map[string]any{},
		},
	}
	edus := []any{nil, 1, map[string]any{"edu_type": 3}, map[string]any{"edu_type": "org.example.unheard", "content": map[string]any{}}}
	for _, typ := range []string{"m.typing", "m.receipt", "m.presence", "m.direct_to_device", "m.device_list_update", "m.signing_key_update"} {
		for _, content := range []any{nil, "x", []any{}, map[string]any{}, map[string]any{"room_id": room, "user_id": alice.User, "typing": true, "sender": alice.User, "messages": 1}, deep} {
			edus = append(edus, map[string]any{"edu_type": typ, "content": content})
		}
	}
	body := transaction(pdus, edus)
	first := s.gets("PUT", v1+"/send/garbage", body)
	results, _ := testserver.Get(first, "pdus").(map[string]any)
	for eventID, result := range results {
		if testserver.Get(result, "error") == nil {
			t.Errorf("%s was taken", eventID)
		}
	}
	if again := s.gets("PUT", v1+"/send/garbage", body); !reflect.DeepEqual(first, again) {
		t.Errorf("answered %v first and then %v", first, again)
	}
	for i, from := range []*testserver.Client{alice, bob} {
		from.Do("PUT", fmt.Sprintf("/v3/rooms/%s/send/m.room.message/%d", room, i), map[string]any{"body": "still here", "msgtype": "m.text"})
	}
	if typing := testserver.Get(alice.Do("GET", "/v3/sync", nil), "rooms", "join", room, "ephemeral", "events"); strings.Contains(fmt.Sprint(typing), "m.typing") {
		t.Errorf("somebody else's server says that alice types: %v", typing)
	}
}
