package server_test

import (
	"net/url"
	"testing"

	"ebb/internal/testserver"
)

// TestSlidingSyncInBothForms sends both operations over HTTP. The contents of their responses are tested in package
// feed.
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
		t.Errorf("the second response in the deployed form is %v, want one new message", a)
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
		t.Errorf("the second response in the merged form is %v, want one new event", a)
	}
	body["pos"] = "x"
	bob.Refused("POST", "/v4/sync", body, 400, "M_UNKNOWN_POS")
}

// slidingExtension sends a request with one extension for one room, and returns the extension's part of the response
// and the next pos.
func slidingExtension(c *device, pos, room, name string, settings map[string]any) (answer any, next string) {
	settings["enabled"] = true
	a := c.Do("POST", "/unstable/org.matrix.simplified_msc3575/sync?timeout=10000&pos="+pos, map[string]any{
		"room_subscriptions": map[string]any{room: map[string]any{"timeline_limit": 0, "required_state": []any{}}},
		"extensions":         map[string]any{name: settings},
	})
	return get(a, "extensions", name), get(a, "pos").(string)
}

func TestSlidingSyncReturnsThreadSubscriptions(t *testing.T) {
	const name = "io.element.msc4308.thread_subscriptions"
	alice := signUp(t, testserver.New(t, nil), "alice")
	room := alice.Do("POST", "/v3/createRoom", nil)["room_id"].(string)
	var roots []string
	subscribe := func() {
		root := alice.Do("PUT", "/v3/rooms/"+room+"/send/m.room.message/"+string(rune('a'+len(roots))), map[string]any{"msgtype": "m.text", "body": "hi"})["event_id"].(string)
		alice.Do("PUT", "/unstable/io.element.msc4306/rooms/"+room+"/thread/"+root+"/subscription", map[string]any{})
		roots = append(roots, root)
	}
	subscribe()
	answer, pos := slidingExtension(alice, "", room, name, map[string]any{})
	if get(answer, "subscribed", room, roots[0], "automatic") != false || get(answer, "subscribed", room, roots[0], "bump_stamp") == nil || get(answer, "prev_batch") != nil {
		t.Errorf("first: %v", answer)
	}
	first := pos
	subscribe()
	subscribe()
	answer, pos = slidingExtension(alice, pos, room, name, map[string]any{"limit": 1})
	if len(get(answer, "subscribed", room).(map[string]any)) != 1 || get(answer, "subscribed", room, roots[2]) == nil {
		t.Errorf("the newest: %v", answer)
	}
	page := alice.Do("GET", "/unstable/io.element.msc4308/thread_subscriptions?dir=b&from="+get(answer, "prev_batch").(string)+"&to="+first, nil)
	if len(get(page, "subscribed", room).(map[string]any)) != 1 || get(page, "subscribed", room, roots[1]) == nil {
		t.Errorf("prev_batch leads to %v", page)
	}
	alice.Do("DELETE", "/unstable/io.element.msc4306/rooms/"+room+"/thread/"+roots[0]+"/subscription", nil)
	if answer, _ = slidingExtension(alice, pos, room, name, map[string]any{}); get(answer, "unsubscribed", room, roots[0], "bump_stamp") == nil {
		t.Errorf("unsubscribed: %v", answer)
	}
}

func TestSlidingSyncReturnsProfileChangesOfMembers(t *testing.T) {
	const name = "org.matrix.msc4262.profiles"
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	room := alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat"})["room_id"].(string)
	bob.Do("POST", "/v3/rooms/"+room+"/join", nil)
	if get(alice.Do("GET", "/versions", nil), "unstable_features", "org.matrix.msc4262") != true {
		t.Error("org.matrix.msc4262 is not claimed")
	}
	_, pos := slidingExtension(alice, "", room, name, map[string]any{"fields": []string{"m.tz", "x.y"}})
	bob.Do("PUT", "/v3/profile/"+bob.User+"/m.tz", map[string]any{"m.tz": "Europe/London"})
	answer, pos := slidingExtension(alice, pos, room, name, map[string]any{"fields": []string{"m.tz", "x.y"}})
	if get(answer, "users", bob.User, "updated", "m.tz") != "Europe/London" || get(answer, "users", bob.User, "removed") != nil {
		t.Errorf("changed: %v", answer)
	}
	bob.Do("DELETE", "/v3/profile/"+bob.User+"/m.tz", nil)
	answer, pos = slidingExtension(alice, pos, room, name, map[string]any{"fields": []string{"m.tz"}})
	if removed := list(answer, "users", bob.User, "removed"); len(removed) != 1 || removed[0] != "m.tz" || get(answer, "users", bob.User, "updated") != nil {
		t.Errorf("removed: %v", answer)
	}
	bob.Do("PUT", "/v3/profile/"+bob.User+"/x.y", map[string]any{"x.y": nil})
	answer, pos = slidingExtension(alice, pos, room, name, map[string]any{"fields": []string{"x.y"}})
	if updated, _ := get(answer, "users", bob.User, "updated").(map[string]any); len(updated) != 1 || get(answer, "users", bob.User, "removed") != nil {
		t.Errorf("null, which is a value: %v", answer)
	}
	// The room is outside the lists and subscriptions of this request, but a later one may cover it again.
	bob.Do("PUT", "/v3/profile/"+bob.User+"/m.tz", map[string]any{"m.tz": "Europe/Paris"})
	outside := alice.Do("POST", "/unstable/org.matrix.simplified_msc3575/sync?pos="+url.QueryEscape(pos), map[string]any{
		"extensions": map[string]any{name: map[string]any{"enabled": true}},
	})
	if get(outside, "extensions", name, "users", bob.User, "updated", "m.tz") != "Europe/Paris" {
		t.Errorf("changed by a member of a room that is not covered: %v", outside)
	}
	pos = get(outside, "pos").(string)
	bob.Do("POST", "/v3/rooms/"+room+"/leave", nil)
	answer, _ = slidingExtension(alice, pos, room, name, map[string]any{})
	if users, _ := get(answer, "users").(map[string]any); len(users) != 1 || users[bob.User] != nil {
		t.Errorf("gone: %v", answer)
	}
}

func TestSlidingSyncReturnsProfileFieldsThatTheClientAsksForLater(t *testing.T) {
	const name = "org.matrix.msc4262.profiles"
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	room := alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat"})["room_id"].(string)
	bob.Do("POST", "/v3/rooms/"+room+"/join", nil)
	for _, field := range []string{"x.a", "x.b", "x.c"} {
		bob.Do("PUT", "/v3/profile/"+bob.User+"/"+field, map[string]any{field: field + " of bob"})
	}
	ask := func(pos string, fields ...string) (updated map[string]any, next string) {
		t.Helper()
		extension := map[string]any{}
		if len(fields) > 0 {
			extension["fields"] = fields
		}
		answer, next := slidingExtension(alice, pos, room, name, extension)
		updated, _ = get(answer, "users", bob.User, "updated").(map[string]any)
		return updated, next
	}
	_, pos := ask("", "x.a")
	if more, _ := ask(pos, "x.b", "x.a"); len(more) != 1 || more["x.b"] != "x.b of bob" {
		t.Errorf("with x.b: %v", more)
	}
	again, next := ask(pos, "x.a", "x.b")
	if len(again) != 1 {
		t.Errorf("with x.b, repeated: %v", again)
	}
	if none, _ := ask(next, "x.a", "x.b"); len(none) != 0 {
		t.Errorf("in another order: %v", none)
	}
	if none, _ := ask(next, "x.a"); len(none) != 0 {
		t.Errorf("fewer: %v", none)
	}
	all, pos := ask(next)
	if all["x.c"] != "x.c of bob" || all["x.a"] != nil {
		t.Errorf("all: %v", all)
	}
	if none, _ := ask(pos, "x.a", "x.c"); len(none) != 0 {
		t.Errorf("some of all: %v", none)
	}
	// An answer that confirms more fields is given at once, even if nobody has them.
	_, pos = ask("", "x.a")
	if _, next = ask(pos, "x.a", "x.nobody"); next == pos {
		t.Error("x.nobody is not confirmed")
	}
	// Without the extension, changes are not sent, so that the client gets all fields when it asks again.
	answer := alice.Do("POST", "/unstable/org.matrix.simplified_msc3575/sync?pos="+url.QueryEscape(next), map[string]any{})
	bob.Do("PUT", "/v3/profile/"+bob.User+"/x.a", map[string]any{"x.a": "new"})
	alice.Do("PUT", "/v3/rooms/"+room+"/send/m.room.message/1", map[string]any{"msgtype": "m.text", "body": "hi"})
	answer = alice.Do("POST", "/unstable/org.matrix.simplified_msc3575/sync?pos="+url.QueryEscape(get(answer, "pos").(string)), map[string]any{
		"room_subscriptions": map[string]any{room: map[string]any{"timeline_limit": 1, "required_state": []any{}}},
	})
	if again, _ := ask(get(answer, "pos").(string), "x.a"); again["x.a"] != "new" {
		t.Errorf("asked again: %v", again)
	}
}
