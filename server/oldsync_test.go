package server_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

func TestTheOldEventStreamHasTheEventsOfAllRooms(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	room, base := together(nil, alice, bob)
	other, otherBase := together(nil, alice, bob)
	alice.say(base, "before")
	all := alice.Do("GET", "/v3/initialSync?limit=5", nil)
	from, _ := all["end"].(string)
	said := []string{bob.say(base, "one"), bob.say(otherBase, "two")}
	got := alice.Do("GET", "/v3/events?timeout=0&from="+url.QueryEscape(from), nil)
	found := fmt.Sprint(got["chunk"])
	for i, e := range said {
		if !strings.Contains(found, e) {
			t.Errorf("event %d is not in %s", i, found)
		}
	}
	if strings.Contains(found, "before") || len(list(got, "chunk")) != 2 || get(got, "chunk", 0, "room_id") == nil || got["start"] != from {
		t.Errorf("the stream has %v, want the two events from after the token", got)
	}
	if rooms := fmt.Sprint(get(got, "chunk", 0, "room_id"), get(got, "chunk", 1, "room_id")); !strings.Contains(rooms, room) || !strings.Contains(rooms, other) {
		t.Errorf("the rooms are %s", rooms)
	}

	answer := make(chan obj, 1)
	go func() { // without a from token, the stream begins now
		_, _, raw := alice.Raw("GET", "/v3/events?timeout=20000&from="+url.QueryEscape(fmt.Sprint(got["end"])), nil)
		var v obj
		_ = json.Unmarshal(raw, &v)
		answer <- v
	}()
	waitForPoll(t, s)
	invited, _ := bob.Do("POST", "/v3/createRoom", obj{"invite": []string{alice.User}})["room_id"].(string)
	select {
	case v := <-answer:
		if e := get(v, "chunk", 0); get(e, "room_id") != invited || get(e, "type") != "m.room.member" || get(e, "event_id") == nil {
			t.Errorf("the invite arrives as %v", v)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the waiting request is not woken by an invite")
	}
	if now := alice.Do("GET", "/v3/events?timeout=0", nil); len(list(now, "chunk")) != 0 || now["end"] == nil {
		t.Errorf("a request without a token returns %v, want no events and a token", now)
	}
	alice.Refused("GET", "/v3/events?from=nonsense", nil, 400, "M_INVALID_PARAM")
}

func TestTheOldEventStreamLeavesMessagesForTheDevice(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	_, base := together(nil, alice, bob)
	bob.Do("PUT", "/v3/sendToDevice/m.x/1", obj{"messages": obj{alice.User: obj{alice.DeviceID: obj{"a": 1}}}})
	first := alice.Do("GET", "/v3/events?timeout=0", nil)
	bob.say(base, "x")
	second := alice.Do("GET", "/v3/events?timeout=0&from="+url.QueryEscape(fmt.Sprint(first["end"])), nil)
	alice.Do("GET", "/v3/events?timeout=0&from="+url.QueryEscape(fmt.Sprint(second["end"])), nil)
	if got := alice.sync(); len(list(got, "to_device", "events")) != 1 {
		t.Errorf("the old stream has taken the message for the device: %v", got["to_device"])
	}
}

func TestTheOldInitialSyncHasEveryRoom(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	room, base := together(obj{"name": "Pond"}, alice, bob)
	left, leftBase := together(nil, alice, bob)
	alice.Do("POST", leftBase+"/leave", obj{})
	invited, _ := bob.Do("POST", "/v3/createRoom", obj{"invite": []string{alice.User}})["room_id"].(string)
	alice.Do("PUT", "/v3/user/"+alice.User+"/account_data/m.x", obj{"a": 1})
	alice.Do("PUT", "/v3/user/"+alice.User+"/rooms/"+room+"/tags/m.favourite", obj{})
	for i := range 4 {
		alice.say(base, fmt.Sprint("message ", i))
	}
	rooms := func(query string) map[any]any {
		out := map[any]any{}
		got := alice.Do("GET", "/v3/initialSync"+query, nil)
		for _, r := range list(got, "rooms") {
			out[get(r, "room_id")] = r
		}
		if !strings.Contains(fmt.Sprint(got["account_data"]), "m.x") || got["presence"] == nil || got["end"] == nil {
			t.Errorf("initialSync has %v", got)
		}
		return out
	}
	got := rooms("?limit=2")
	r := got[room]
	if len(got) != 2 || get(r, "membership") != "join" || get(r, "visibility") != "private" || len(list(r, "messages", "chunk")) != 2 ||
		get(r, "messages", "chunk", 1, "content", "body") != "message 3" || get(r, "messages", "chunk", 0, "room_id") != room {
		t.Errorf("the rooms are %v", got)
	}
	if state := fmt.Sprint(get(r, "state")); !strings.Contains(state, "Pond") || !strings.Contains(state, "m.room.create") {
		t.Errorf("the state is %s", state)
	}
	if data := fmt.Sprint(get(r, "account_data")); !strings.Contains(data, "m.favourite") {
		t.Errorf("the account data of the room is %s", data)
	}
	if i := got[invited]; get(i, "membership") != "invite" || get(i, "invite", "sender") != bob.User || get(i, "invite", "event_id") == nil {
		t.Errorf("the invite is %v", i)
	}
	older := alice.Do("GET", base+"/messages?dir=b&limit=1&from="+url.QueryEscape(fmt.Sprint(get(r, "messages", "start"))), nil)
	if get(older, "chunk", 0, "content", "body") != "message 1" {
		t.Errorf("the events before the token start are %v, want message 1", older)
	}
	if got := rooms("?archived=true"); get(got[left], "membership") != "leave" {
		t.Errorf("the archived room is %v", got[left])
	}
	alice.Refused("GET", "/v3/initialSync?archived=maybe", nil, 400, "M_INVALID_PARAM")
}

func TestOneEventIsFoundWithoutItsRoom(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	room, base := together(nil, alice, alice)
	event := alice.say(base, "here")
	if got := alice.Do("GET", "/v3/events/"+event, nil); got["room_id"] != room || get(got, "content", "body") != "here" {
		t.Errorf("the event is %v", got)
	}
	bob.Refused("GET", "/v3/events/"+event, nil, 404, "M_NOT_FOUND")
	alice.Refused("GET", "/v3/events/$nothing", nil, 404, "M_NOT_FOUND")
}

func TestInvitesAreFilteredByUserAndServer(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob, carol := signUp(t, s, "alice"), signUp(t, s, "bob"), signUp(t, s, "carol")
	config := "/v3/user/" + alice.User + "/account_data/"
	const lists = "org.matrix.msc4155.invite_permission_config"
	invite := func(by *device) (room string, status int) {
		t.Helper()
		room, _ = by.Do("POST", "/v3/createRoom", obj{})["room_id"].(string)
		status, _, raw := by.Raw("POST", "/v3/rooms/"+room+"/invite", obj{"user_id": alice.User})
		if status == 403 && !strings.Contains(string(raw), "M_INVITE_BLOCKED") {
			t.Errorf("the refusal is %s", raw)
		}
		return room, status
	}
	sees := func(room string) bool { return get(alice.again(), "rooms", "invite", room) != nil }
	for _, c := range []struct {
		what    string
		content obj
		by      *device
		status  int
		seen    bool
	}{
		{"a blocked user", obj{"blocked_users": []string{"@b*:test"}}, bob, 403, false},
		{"another user", obj{"blocked_users": []string{"@b*:test"}}, carol, 200, true},
		{"an ignored user", obj{"ignored_users": []string{"@BOB:test"}}, bob, 200, false},
		{"an allowed user of a blocked server", obj{"allowed_users": []string{"@bob:test"}, "blocked_servers": []string{"*"}}, bob, 200, true},
		{"a user of a blocked server", obj{"allowed_users": []string{"@bob:test"}, "blocked_servers": []string{"te?t"}}, carol, 403, false},
		{"a user of an ignored server", obj{"ignored_servers": []string{"test"}}, carol, 200, false},
		{"an allowed server before a blocked one", obj{"allowed_servers": []string{"test"}, "blocked_servers": []string{"*"}}, carol, 200, true},
		{"a filter that is off", obj{"enabled": false, "blocked_users": []string{"*"}}, bob, 200, true},
		{"a malformed filter", obj{"blocked_users": "*", "ignored_servers": []any{1, nil}}, bob, 200, true},
	} {
		alice.Do("PUT", config+lists, c.content)
		room, status := invite(c.by)
		if seen := sees(room); status != c.status || seen != c.seen {
			t.Errorf("%s: the invite gets %d, and is seen: %v", c.what, status, seen)
		}
	}
	alice.Do("PUT", config+lists, obj{})
	earlier, _ := invite(bob)
	for _, typ := range []string{"m.invite_permission_config", "org.matrix.msc4380.invite_permission_config"} {
		alice.Do("PUT", config+typ, obj{"default_action": "block"})
		if _, status := invite(bob); status != 403 {
			t.Errorf("%s: the invite gets %d", typ, status)
		}
		if sees(earlier) {
			t.Errorf("%s: an earlier invite is seen", typ)
		}
		if got := alice.Do("POST", "/unstable/org.matrix.simplified_msc3575/sync", obj{"lists": obj{"a": obj{"ranges": [][]int{{0, 99}}, "timeline_limit": 1, "required_state": [][]string{}}}}); get(got, "rooms", earlier) != nil {
			t.Errorf("%s: sliding sync has the invite", typ)
		}
		alice.Do("PUT", config+typ, obj{})
		if !sees(earlier) {
			t.Errorf("%s: after blocking ended, the earlier invite is not seen", typ)
		}
	}
}

func TestWellKnownDocumentsFollowTheConfiguration(t *testing.T) {
	const key = "6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-s"
	s := testserver.New(t, func(c *config.Config) {
		c.WellKnown.PolicyKey = key
		c.WellKnown.ClientExtra = map[string]any{"org.example.map": map[string]any{"style": "https://example.org/map.json"}}
	})
	anyone := s.Anonymous()
	if got := anyone.Do("GET", "/.well-known/matrix/policy_server", nil); get(got, "public_keys", "ed25519") != key {
		t.Errorf("the policy server is %v", got)
	}
	if got := anyone.Do("GET", "/.well-known/matrix/client", nil); get(got, "org.example.map", "style") != "https://example.org/map.json" || get(got, "m.homeserver", "base_url") == nil {
		t.Errorf("the document for clients is %v", got)
	}
	testserver.New(t, nil).Anonymous().Refused("GET", "/.well-known/matrix/policy_server", nil, 404, "M_NOT_FOUND")
}
