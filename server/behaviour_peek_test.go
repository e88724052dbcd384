package server_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"testing"
	"time"

	"ebb/internal/testserver"
)

// texts joins the bodies of the message events.
func texts(events []any) string {
	out := ""
	for _, e := range events {
		if body := get(e, "content", "body"); body != nil {
			out += body.(string)
		}
	}
	return out
}

func TestRoomInitialSyncShowsRoomsThatAllowPeeking(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob, eve := signUp(t, s, "alice"), signUp(t, s, "bob"), signUp(t, s, "eve")
	room, base := together(obj{"name": "Ebb", "visibility": "public"}, alice, bob)
	alice.Do("PUT", "/v3/user/"+alice.User+"/rooms/"+url.PathEscape(room)+"/account_data/x.y", obj{"a": 1})
	for i := range 4 {
		alice.say(base, fmt.Sprint(i))
	}
	eve.Refused("GET", base+"/initialSync", nil, 403, "M_FORBIDDEN")
	eve.Refused("GET", "/v3/rooms/!unknown:elsewhere.test/initialSync?limit=20", nil, 403, "M_FORBIDDEN")
	for _, c := range []struct {
		who        *device
		membership any
		data       int
	}{{alice, "join", 1}, {bob, "join", 0}, {eve, nil, 0}} {
		if c.who == eve {
			alice.Do("PUT", base+"/state/m.room.history_visibility", obj{"history_visibility": "world_readable"})
			alice.say(base, "4")
			alice.say(base, "5")
		}
		a := c.who.Do("GET", base+"/initialSync?limit=2", nil)
		want := map[bool]string{true: "45", false: "23"}[c.who == eve]
		if a["room_id"] != room || a["membership"] != c.membership || a["visibility"] != "public" || texts(list(a, "messages", "chunk")) != want || len(list(a, "account_data")) != c.data {
			t.Errorf("%s: %v", c.who.User, a)
		}
		if len(members(list(a, "state"))) != 2 || get(a, "state", 0, "type") != "m.room.create" || get(a, "state", 0, "room_id") != room {
			t.Errorf("%s gets the state %v, want the create event first and two members", c.who.User, a["state"])
		}
		older := c.who.Do("GET", base+"/messages?dir=b&limit=1&from="+get(a, "messages", "start").(string), nil)
		if c.who != eve && texts(list(older, "chunk")) != "1" {
			t.Errorf("%s gets %v before the first page, want message 1", c.who.User, older)
		}
	}
	bob.Do("POST", base+"/leave", obj{})
	alice.Do("PUT", base+"/state/m.room.history_visibility", obj{"history_visibility": "joined"})
	alice.Do("PUT", base+"/state/m.room.name", obj{"name": "later"})
	alice.say(base, "6")
	a := bob.Do("GET", base+"/initialSync", nil)
	for _, e := range list(a, "state") {
		if get(e, "type") == "m.room.name" && get(e, "content", "name") != "Ebb" {
			t.Errorf("a former member gets state from after the leave: %v", e)
		}
	}
	if got := texts(list(a, "messages", "chunk")); a["membership"] != "leave" || got != "012345" {
		t.Errorf("a former member has the membership %v and gets the messages %q", a["membership"], got)
	}
	eve.Refused("GET", base+"/initialSync", nil, 403, "M_FORBIDDEN")
}

func TestEventsOfOneRoomAreStreamedToUsersWhoMayReadIt(t *testing.T) {
	s := testserver.New(t, nil)
	alice, eve := signUp(t, s, "alice"), signUp(t, s, "eve")
	room, base := together(nil, alice)
	events := "/v3/events?timeout=0&room_id=" + url.QueryEscape(room)
	eve.Refused("GET", events, nil, 403, "M_FORBIDDEN")
	if all := eve.Do("GET", "/v3/events?timeout=0", nil)["chunk"].([]any); len(all) != 0 {
		t.Errorf("a stream without a room has %v for eve, want nothing", all)
	}
	alice.Do("PUT", base+"/state/m.room.history_visibility", obj{"history_visibility": "world_readable"})
	eve.Refused("GET", events+"&from=x", nil, 400, "M_INVALID_PARAM")
	from := get(eve.Do("GET", base+"/initialSync", nil), "messages", "end").(string)
	alice.say(base, "1")
	first := eve.Do("GET", events+"&from="+from, nil)
	alice.say(base, "2")
	second := eve.Do("GET", events+"&from="+first["end"].(string), nil)
	if first["start"] != from || texts(list(first, "chunk")) != "1" || texts(list(second, "chunk")) != "2" || get(second, "chunk", 0, "room_id") != room {
		t.Errorf("the first request returned %v and the second %v, want one message each", first, second)
	}
}

func TestWaitingForEventsOfARoomEndsWithTheAccountAndTheDevice(t *testing.T) {
	s := testserver.New(t, nil)
	admin, alice := administrator(t, s, "admin"), signUp(t, s, "alice")
	for name, c := range map[string]struct {
		end  func(who *device)
		code string
	}{
		"locked":     {func(who *device) { admin.Do("PUT", "/v1/admin/lock/"+who.User, obj{"locked": true}) }, "M_USER_LOCKED"},
		"signed out": {func(who *device) { who.Do("POST", "/v3/logout", obj{}) }, "M_UNKNOWN_TOKEN"},
	} {
		who := signUp(t, s, "who"+name[:1])
		room, _ := together(nil, alice, who)
		code := make(chan any, 1)
		go func() {
			_, _, raw := who.Raw("GET", "/v3/events?timeout=20000&room_id="+url.QueryEscape(room), nil)
			var v obj
			_ = json.Unmarshal(raw, &v)
			code <- v["errcode"]
		}()
		waitForPoll(t, s)
		c.end(who)
		select {
		case got := <-code:
			if got != c.code {
				t.Errorf("%s: the request ends with %v, want %s", name, got, c.code)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: the request still waits", name)
		}
	}
}
