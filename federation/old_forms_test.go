package federation_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/internal/testserver"
	"ebb/rooms/pdu"
)

// event builds an event of a version 1 room, signed by the spy.
func (s *spy) event(template any, membership string) *pdu.Event {
	s.Helper()
	ids := func(list any) (out []id.EventID) {
		pairs, _ := list.([]any)
		for i := range pairs {
			eventID, _ := testserver.Get(pairs, i, 0).(string)
			out = append(out, id.EventID(eventID))
		}
		return out
	}
	text := func(key string) string { v, _ := testserver.Get(template, key).(string); return v }
	key, depth := text("state_key"), testserver.Get(template, "depth")
	n, _ := depth.(float64)
	v, _ := pdu.VersionOf(id.RoomV1)
	e, err := pdu.Build(v, pdu.Proto{
		RoomID: id.RoomID(text("room_id")), Type: "m.room.member", StateKey: &key, Sender: id.UserID(text("sender")), Depth: int64(n),
		Content: json.RawMessage(`{"membership":"` + membership + `"}`), OriginServerTS: s.net.Servers[0].Now().UnixMilli(),
		PrevEvents: ids(testserver.Get(template, "prev_events")), AuthEvents: ids(testserver.Get(template, "auth_events")),
	}, s.signer)
	if err != nil {
		s.Fatal(err)
	}
	return e
}

// Servers from before 2019 support only version 1 of the endpoints for joins, leaves and invites, and rooms of version
// 1.
func TestOldFormsOfJoinsLeavesAndInvites(t *testing.T) {
	net, alice, _ := pair(t)
	s := newSpy(t, net)
	room := made(alice, "old", "public_chat", map[string]any{"room_version": "1"})
	at := url.PathEscape(room)
	state := func() any {
		_, _, raw := alice.Raw("GET", "/v3/rooms/"+at+"/state/m.room.member/@spy:spy.test", nil)
		return testserver.Get(decode(raw), "membership")
	}

	made := s.gets("GET", v1+"/make_join/"+at+"/@spy:spy.test?ver=1", nil)
	join := s.event(testserver.Get(made, "event"), "join")
	answer := s.gets("PUT", v1+"/send_join/"+at+"/"+url.PathEscape(string(join.ID())), json.RawMessage(join.JSON()))
	if events, _ := testserver.Get(answer, 1, "state").([]any); testserver.Get(answer, 0) != 200.0 || len(events) < 5 || state() != "join" {
		t.Errorf("the join is answered with %.300v, and the spy is %v", answer, state())
	}

	made = s.gets("GET", v1+"/make_leave/"+at+"/@spy:spy.test", nil)
	leave := s.event(testserver.Get(made, "event"), "leave")
	answer = s.gets("PUT", v1+"/send_leave/"+at+"/"+url.PathEscape(string(leave.ID())), json.RawMessage(leave.JSON()))
	if testserver.Get(answer, 0) != 200.0 || state() != "leave" {
		t.Errorf("the leave is answered with %v, and the spy is %v", answer, state())
	}

	invite := s.event(map[string]any{
		"room_id": "!den:spy.test", "sender": "@spy:spy.test", "state_key": alice.User, "depth": 3.0,
		"prev_events": []any{[]any{"$a:spy.test"}}, "auth_events": []any{[]any{"$b:spy.test"}},
	}, "invite")
	answer = s.gets("PUT", v1+"/invite/"+url.PathEscape("!den:spy.test")+"/"+url.PathEscape(string(invite.ID())), json.RawMessage(invite.JSON()))
	if testserver.Get(answer, 0) != 200.0 || testserver.Get(answer, 1, "event", "signatures", "hs1.test") == nil {
		t.Errorf("the invite is answered with %v", answer)
	}
	if testserver.Get(alice.Do("GET", "/v3/sync", nil), "rooms", "invite", "!den:spy.test") == nil {
		t.Error("alice is not told of the invite")
	}
}

// A third-party invite becomes an invite when an identity server reports the user who owns the address.
func TestThirdPartyInvitesAreExchangedWhenTheAddressIsBound(t *testing.T) {
	net, alice, bob := pair(t)
	key := ed25519.NewKeyFromSeed([]byte(strings.Repeat("i", 32)))
	public := base64.RawStdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
	room := made(bob, "for whom it may concern", "private_chat", nil)
	bob.Do("PUT", "/v3/rooms/"+url.PathEscape(room)+"/state/m.room.third_party_invite/token", map[string]any{
		"display_name": "a...", "key_validity_url": "https://id.test/valid", "public_key": public, "public_keys": []any{map[string]any{"public_key": public}},
	})
	bound := func(token string) int {
		signed, err := pdu.SignJSON([]byte(`{"mxid":"`+alice.User+`","token":"`+token+`"}`), pdu.Signer{Server: "id.test", KeyID: "ed25519:0", Key: key})
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(map[string]any{
			"medium": "email", "address": "alice@example.org", "mxid": alice.User,
			"invites": []any{map[string]any{"medium": "email", "address": "alice@example.org", "mxid": alice.User, "room_id": room, "sender": bob.User, "signed": json.RawMessage(signed)}},
		})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		net.Servers[0].Handler("federation").ServeHTTP(w, httptest.NewRequest("PUT", v1+"/3pid/onbind", bytes.NewReader(body)))
		return w.Code
	}
	invited := func() bool { return testserver.Get(alice.Do("GET", "/v3/sync", nil), "rooms", "invite", room) != nil }
	if status := bound("another token"); status != 200 || invited() {
		t.Fatalf("a token that nobody gave is exchanged: %d", status)
	}
	if status := bound("token"); status != 200 || !invited() {
		t.Fatalf("alice is not invited: %d", status)
	}
	alice.Do("POST", "/v3/join/"+url.PathEscape(room)+"?via=hs2.test", nil)
}
