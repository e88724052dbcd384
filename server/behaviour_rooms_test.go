package server_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"ebb/internal/testserver"
)

// together creates a room with the given options, joins all devices to it and returns its ID and its path.
func together(options obj, creator *device, others ...*device) (room, base string) {
	creator.t.Helper()
	if options == nil {
		options = obj{}
	}
	options["preset"] = "public_chat"
	room = creator.Do("POST", "/v3/createRoom", options)["room_id"].(string)
	base = "/v3/rooms/" + url.PathEscape(room)
	for _, d := range others {
		d.Do("POST", base+"/join", nil)
	}
	return room, base
}

// send sends an event and returns its ID.
func (d *device) send(base, kind string, content obj) string {
	d.t.Helper()
	d.txns++
	return d.Do("PUT", fmt.Sprint(base, "/send/", kind, "/", d.User, d.DeviceID, d.txns), content)["event_id"].(string)
}

func (d *device) say(base, body string) string {
	d.t.Helper()
	return d.send(base, "m.room.message", obj{"msgtype": "m.text", "body": body, "m.mentions": obj{}})
}

// reply sends a message to a thread.
func (d *device) reply(base, root, body string) string {
	d.t.Helper()
	return d.send(base, "m.room.message", obj{"msgtype": "m.text", "body": body, "m.mentions": obj{}, "m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})
}

// members returns the state keys of the member events among events.
func members(events []any) (users []string) {
	for _, e := range events {
		if get(e, "type") == "m.room.member" {
			users = append(users, get(e, "state_key").(string))
		}
	}
	slices.Sort(users)
	return users
}

func TestStateAfterHasTheRequestedNameAndStateIsSentOtherwise(t *testing.T) {
	alice := signUp(t, testserver.New(t, nil), "alice")
	room, base := together(nil, alice)
	for _, c := range []struct{ parameter, name string }{
		{"org.matrix.msc4222.use_state_after", "org.matrix.msc4222.state_after"}, {"use_state_after", "state_after"}, {"timeout", "state"},
	} {
		value := map[bool]string{true: "0", false: "true"}[c.parameter == "timeout"]
		first := get(alice.again(c.parameter, value), "rooms", "join", room)
		if len(list(first, c.name, "events"))+len(list(first, "timeline", "events")) == 0 {
			t.Errorf("%s: no %s in a first sync: %v", c.parameter, c.name, first)
		}
		alice.sync()
		alice.say(base, "hi")
		next, _ := get(alice.sync(c.parameter, value), "rooms", "join", room).(obj)
		if events, isList := get(next, c.name, "events").([]any); !isList || len(events) != 0 {
			t.Errorf("%s: %s without news is %v", c.parameter, c.name, next[c.name])
		}
		for _, other := range []string{"org.matrix.msc4222.state_after", "state_after", "state"} {
			if other != c.name && next[other] != nil {
				t.Errorf("%s: there is also %s", c.parameter, other)
			}
		}
	}
}

func TestTransactionIDIsSentOnlyToTheSendingDevice(t *testing.T) {
	s := testserver.New(t, nil)
	alice := signUp(t, s, "alice")
	phone := &device{Client: s.Login("alice"), t: t}
	room, base := together(nil, alice)
	root := alice.say(base, "root")
	sent := obj{"msgtype": "m.text", "body": "x", "m.relates_to": obj{"rel_type": "m.thread", "event_id": root}}
	path := base + "/send/m.room.message/mine"
	id := alice.Do("PUT", path, sent)["event_id"]
	if again := alice.Do("PUT", path, sent)["event_id"]; again != id {
		t.Errorf("a retry created the event %v, want %v", again, id)
	}
	if other := alice.Do("PUT", base+"/send/m.other/mine", obj{})["event_id"]; other == id {
		t.Error("a request for another event type counts as a retry")
	}
	if other := phone.Do("PUT", path, sent)["event_id"]; other == id {
		t.Error("a request by another device counts as a retry")
	}
	reads := map[string]func(*device) any{
		"sync":      func(d *device) any { return get(d.again(), "rooms", "join", room, "timeline", "events") },
		"messages":  func(d *device) any { return get(d.Do("GET", base+"/messages?dir=b&limit=9", nil), "chunk") },
		"event":     func(d *device) any { return []any{d.Do("GET", fmt.Sprint(base, "/event/", id), nil)} },
		"context":   func(d *device) any { return []any{get(d.Do("GET", fmt.Sprint(base, "/context/", id), nil), "event")} },
		"relations": func(d *device) any { return get(d.Do("GET", "/v1/rooms/"+room+"/relations/"+root, nil), "chunk") },
	}
	for name, read := range reads {
		for d, want := range map[*device]any{alice: "mine", phone: nil} {
			events, _ := read(d).([]any)
			i := slices.IndexFunc(events, func(e any) bool { return get(e, "event_id") == id })
			if i < 0 {
				t.Fatalf("%s: the event is not in %v", name, events)
			}
			if got := get(events[i], "unsigned", "transaction_id"); got != want {
				t.Errorf("%s has for device %s the transaction ID %v, want %v", name, d.DeviceID, got, want)
			}
		}
	}
}

func TestEveryTokenPagesInBothDirections(t *testing.T) {
	s := testserver.New(t, nil)
	alice := signUp(t, s, "alice")
	room, base := together(nil, alice)
	var ids []any
	for i := range 6 {
		ids = append(ids, alice.say(base, fmt.Sprint(i)))
		if i == 2 {
			alice.sync()
		}
	}
	only := "&limit=100&filter=" + url.QueryEscape(`{"types":["m.room.message"]}`)
	page := func(query string) []any {
		t.Helper()
		return each(list(alice.Do("GET", base+"/messages?"+query+only, nil), "chunk"), "event_id")
	}
	reversed := slices.Clone(ids)
	slices.Reverse(reversed)
	expect := func(what, token string, split int) { // token points to the position before ids[split]
		t.Helper()
		if got := page("dir=f&from=" + token); !slices.Equal(got, ids[split:]) {
			t.Errorf("%s forward: %v, want %v", what, got, ids[split:])
		}
		if got := page("dir=b&from=" + token); !slices.Equal(got, reversed[len(ids)-split:]) {
			t.Errorf("%s back: %v, want %v", what, got, reversed[len(ids)-split:])
		}
	}
	expect("next_batch", alice.since, 3)
	gap := alice.sync("filter", `{"room":{"timeline":{"limit":2}}}`)
	if get(gap, "rooms", "join", room, "timeline", "limited") != true {
		t.Fatalf("no gap: %v", gap)
	}
	expect("prev_batch", get(gap, "rooms", "join", room, "timeline", "prev_batch").(string), 4)
	context := alice.Do("GET", fmt.Sprint(base, "/context/", ids[2], "?limit=2"), nil)
	expect("start of the context", context["start"].(string), 1)
	expect("end of the context", context["end"].(string), 4)
	if got := page("dir=f"); !slices.Equal(got, ids) {
		t.Errorf("pages forward from the beginning have %v, want %v", got, ids)
	}
	if got := page("dir=b"); !slices.Equal(got, reversed) {
		t.Errorf("pages backward from the end have %v, want %v", got, reversed)
	}
	for token, pages := "", 0; ; pages++ {
		answer := alice.Do("GET", base+"/messages?dir=b&limit=4&from="+token, nil)
		if answer["end"] == nil {
			break
		}
		if token = answer["end"].(string); pages > 20 {
			t.Fatal("the pages do not end")
		}
	}
}

func TestStatePrecedesTheTimelineAndIsCompleteForNewRooms(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	room, base := together(obj{"name": "first"}, alice)
	bob.sync()
	bob.Do("POST", base+"/join", nil)
	name := func(answer obj, part string) any {
		for _, e := range slices.Backward(list(answer, "rooms", "join", room, part, "events")) {
			if get(e, "type") == "m.room.name" {
				return get(e, "content", "name")
			}
		}
		return nil
	}
	short := []string{"filter", `{"room":{"timeline":{"limit":1}}}`}
	if joined := bob.sync(short...); name(joined, "state") != "first" || get(joined, "rooms", "join", room, "timeline", "limited") != true {
		t.Errorf("a room that was joined after the token is %v, want its state, and its timeline limited", joined)
	}
	alice.Do("PUT", base+"/state/m.room.name", obj{"name": "second"})
	alice.say(base, "hi")
	alice.Do("PUT", base+"/state/m.room.name", obj{"name": "third"})
	if gap := bob.sync(short...); name(gap, "state") != "second" || name(gap, "timeline") != "third" {
		t.Errorf("after a gap the name in the state is %v and in the timeline %v, want second and third", name(gap, "state"), name(gap, "timeline"))
	}
	bob.Do("POST", base+"/leave", nil)
	bob.sync()
	bob.Do("POST", base+"/join", nil)
	back := bob.sync(short...)
	if name(back, "state") != "third" || !slices.Contains(members(list(back, "rooms", "join", room, "state", "events")), alice.User) {
		t.Errorf("a room that was joined again is %v, want its current state with alice", back)
	}
}

func TestOldTokenReturnsRoomsJoinedSinceWithTheUsersMembership(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	lazy := []string{"filter", `{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":3}}}`}
	bob.sync(lazy...)
	saved := bob.since // a restarted client continues from this token
	room, base := together(nil, alice, bob)
	bob.sync(lazy...)
	for i := range 5 {
		alice.say(base, fmt.Sprint(i))
		bob.sync(lazy...)
	}
	bob.since = saved
	joined := get(bob.sync(lazy...), "rooms", "join", room)
	if got := members(list(joined, "state", "events")); !slices.Contains(got, bob.User) || !slices.Contains(got, alice.User) {
		t.Errorf("the state has the members %v, want alice and bob", got)
	}
	if kinds := each(list(joined, "state", "events"), "type"); !slices.Contains(kinds, any("m.room.create")) {
		t.Errorf("the state lacks the create event: %v", kinds)
	}
}

func TestHeroesComeWithTheirMemberEvents(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob, carol := signUp(t, s, "alice"), signUp(t, s, "bob"), signUp(t, s, "carol")
	room, base := together(obj{"invite": []string{carol.User}}, alice, bob)
	for i := range 3 {
		alice.say(base, fmt.Sprint(i))
	}
	joined := get(alice.sync("filter", `{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}`), "rooms", "join", room)
	summary := get(joined, "summary").(obj)
	heroes := fmt.Sprint(get(summary, "m.heroes"))
	if !strings.Contains(heroes, bob.User) || !strings.Contains(heroes, carol.User) || summary["m.joined_member_count"] != 2.0 || summary["m.invited_member_count"] != 1.0 {
		t.Errorf("the summary is %v, want bob and carol as heroes, 2 joined and 1 invited", summary)
	}
	if got := members(list(joined, "state", "events")); !slices.Equal(got, []string{alice.User, bob.User, carol.User}) {
		t.Errorf("the state has the members %v, want alice, bob and carol", got)
	}
}

func TestInvitesShowTheRoomAndBothUsers(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	bob.Do("PUT", "/v3/profile/"+bob.User+"/displayname", obj{"displayname": "Bobby"})
	room := alice.Do("POST", "/v3/createRoom", obj{"preset": "private_chat", "name": "Tea", "invite": []string{bob.User}, "is_direct": true,
		"initial_state": []any{obj{"type": "m.room.encryption", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}}}})["room_id"].(string)
	events := list(bob.sync(), "rooms", "invite", room, "invite_state", "events")
	kinds := each(events, "type")
	for _, kind := range []string{"m.room.create", "m.room.join_rules", "m.room.name", "m.room.encryption"} {
		if !slices.Contains(kinds, any(kind)) {
			t.Errorf("the stripped state lacks %s: %v", kind, kinds)
		}
	}
	if got := members(events); !slices.Equal(got, []string{alice.User, bob.User}) {
		t.Errorf("the stripped state has the members %v, want alice and bob", got)
	}
	for _, e := range events {
		if get(e, "state_key") == bob.User && (get(e, "content", "displayname") != "Bobby" || get(e, "content", "is_direct") != true) {
			t.Errorf("the invite is %v, want it direct and with the display name Bobby", e)
		}
	}
}

func TestThreadsAreOrderedByLatestReplyAndFilteredByParticipation(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	room, base := together(nil, alice, bob)
	one, two := alice.say(base, "one"), alice.say(base, "two")
	alice.reply(base, two, "a")
	last := bob.reply(base, one, "b")
	threads := "/v1/rooms/" + room + "/threads"
	if got := each(list(bob.Do("GET", threads, nil), "chunk"), "event_id"); !slices.Equal(got, []any{one, two}) {
		t.Errorf("the threads are %v, want the one with the latest reply first", got)
	}
	if got := each(list(bob.Do("GET", threads+"?include=participated", nil), "chunk"), "event_id"); !slices.Equal(got, []any{one}) {
		t.Errorf("the threads in which bob participated are %v, want only the first", got)
	}
	bundle := func(name string, root any) {
		t.Helper()
		thread := get(root, "unsigned", "m.relations", "m.thread")
		if get(thread, "latest_event", "event_id") != last || get(thread, "count") != 1.0 || get(thread, "current_user_participated") != true {
			t.Errorf("%s: the summary of the thread is %v", name, thread)
		}
	}
	find := func(events []any) any {
		i := slices.IndexFunc(events, func(e any) bool { return get(e, "event_id") == one })
		if i < 0 {
			t.Fatalf("the root is not in %v", events)
		}
		return events[i]
	}
	bundle("event", bob.Do("GET", base+"/event/"+one, nil))
	bundle("context", get(bob.Do("GET", base+"/context/"+one, nil), "event"))
	bundle("messages", find(list(bob.Do("GET", base+"/messages?dir=b&limit=9", nil), "chunk")))
	bundle("sync", find(list(bob.again(), "rooms", "join", room, "timeline", "events")))
	bundle("threads", find(list(bob.Do("GET", threads, nil), "chunk")))
}

func TestRelationsAreReturnedRecursively(t *testing.T) {
	s := testserver.New(t, nil)
	alice := signUp(t, s, "alice")
	room, base := together(nil, alice)
	root := alice.say(base, "root")
	reply := alice.reply(base, root, "reply")
	reaction := alice.send(base, "m.reaction", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": reply, "key": "+"}})
	path := "/v1/rooms/" + room + "/relations/" + root
	if got := each(list(alice.Do("GET", path, nil), "chunk"), "event_id"); !slices.Equal(got, []any{reply}) {
		t.Errorf("without recursion the relations are %v, want only the reply", got)
	}
	deep := alice.Do("GET", path+"?recurse=true", nil)
	if got := each(list(deep, "chunk"), "event_id"); !slices.Equal(got, []any{reaction, reply}) || deep["recursion_depth"] == nil {
		t.Errorf("with recursion the relations are %v, want the reaction and the reply", deep)
	}
}

func TestEditsLeaveTheOriginalAndFallBackWhenRedacted(t *testing.T) {
	s := testserver.New(t, nil)
	alice := signUp(t, s, "alice")
	_, base := together(nil, alice)
	original := alice.say(base, "v1")
	edit := func(body string) string {
		s.Advance(1e9)
		return alice.send(base, "m.room.message", obj{"msgtype": "m.text", "body": "* " + body, "m.new_content": obj{"msgtype": "m.text", "body": body},
			"m.relates_to": obj{"rel_type": "m.replace", "event_id": original}})
	}
	expect := func(latest any) {
		t.Helper()
		got := alice.Do("GET", base+"/event/"+original, nil)
		if get(got, "content", "body") != "v1" || get(got, "unsigned", "m.relations", "m.replace", "event_id") != latest {
			t.Errorf("the event is %v, want edit %v", got, latest)
		}
	}
	second := edit("v2")
	third := edit("v3")
	expect(third)
	alice.Do("PUT", base+"/redact/"+third+"/1", obj{})
	expect(second)
	alice.Do("PUT", base+"/redact/"+second+"/2", obj{})
	expect(nil)
}

func TestUnreadCountsFollowReceiptsOfTheRoomAndOfItsThreads(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	room, base := together(nil, alice, bob)
	expect := func(when string, main, mentions float64, threads map[string]float64) {
		t.Helper()
		joined := get(alice.again("filter", `{"room":{"timeline":{"unread_thread_notifications":true}}}`), "rooms", "join", room)
		if got := get(joined, "unread_notifications"); get(got, "notification_count") != main || get(got, "highlight_count") != mentions {
			t.Errorf("%s: the unread counts are %v, want %v and %v", when, got, main, mentions)
		}
		counts := map[string]float64{}
		byThread, _ := get(joined, "unread_thread_notifications").(obj)
		for root, count := range byThread {
			counts[root] = get(count, "notification_count").(float64)
		}
		if fmt.Sprint(counts) != fmt.Sprint(threads) {
			t.Errorf("%s: the counts of the threads are %v, want %v", when, counts, threads)
		}
	}
	read := func(kind, event string, body obj) {
		alice.Do("POST", base+"/receipt/"+kind+"/"+event, body)
	}
	root := alice.say(base, "root")
	first := bob.say(base, "first")
	second := bob.send(base, "m.room.message", obj{"msgtype": "m.text", "body": "second", "m.mentions": obj{"user_ids": []string{alice.User}}})
	reply := bob.reply(base, root, "reply")
	expect("at first", 2, 1, map[string]float64{root: 1})
	bob.send(base, "m.room.message", obj{"msgtype": "m.text", "body": "* 1st", "m.mentions": obj{}, "m.new_content": obj{"msgtype": "m.text", "body": "1st"},
		"m.relates_to": obj{"rel_type": "m.replace", "event_id": first}})
	expect("after an edit", 2, 1, map[string]float64{root: 1})
	read("m.read", first, obj{"thread_id": "main"})
	expect("read in part", 1, 1, map[string]float64{root: 1})
	read("m.read.private", second, obj{"thread_id": "main"})
	expect("read in private", 0, 0, map[string]float64{root: 1})
	read("m.read", reply, obj{"thread_id": root})
	expect("thread read", 0, 0, nil)
	bob.reply(base, root, "more")
	last := bob.say(base, "more")
	expect("more of both", 1, 0, map[string]float64{root: 1})
	read("m.read", last, obj{})
	expect("everything read", 0, 0, nil)
	if told := fmt.Sprint(bob.again()); strings.Contains(told, "m.read.private") || !strings.Contains(told, "m.read:") {
		t.Errorf("bob gets %s, want public receipts only", told)
	}
}
