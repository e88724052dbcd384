package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

const (
	stickyParam = "?org.matrix.msc4354.sticky_duration_ms="
	ttlMember   = "msc4354_sticky_duration_ttl_ms"
	shortFilter = "/v3/sync?filter=%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:1%7D%7D%7D"
)

// stick sends a message that is sticky for some milliseconds.
func stick(c *testserver.Client, room, body string, ms int) (eventID string) {
	answer := c.Do("PUT", fmt.Sprintf("/v3/rooms/%s/send/m.room.message/%s%s%d", url.PathEscape(room), body, stickyParam, ms), obj{"msgtype": "m.text", "body": body})
	eventID, _ = answer["event_id"].(string)
	return eventID
}

// stuck lists the bodies of the sticky events that a first /sync has, in the timeline of one event or in their section.
func stuck(c *testserver.Client, room string) (bodies []string) {
	joined := get(c.Do("GET", shortFilter, nil), "rooms", "join", room)
	for _, part := range []string{"msc4354_sticky", "timeline"} {
		events, _ := get(joined, part, "events").([]any)
		for _, e := range events {
			if get(e, "unsigned", ttlMember) != nil {
				bodies = append(bodies, fmt.Sprint(get(e, "content", "body")))
			}
		}
	}
	return bodies
}

func TestClientsMakeEventsSticky(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	room, _ := alice.Do("POST", "/v3/createRoom", obj{})["room_id"].(string)
	at := "/v3/rooms/" + url.PathEscape(room)
	sticky := stick(alice, room, "sticky", 60_000)
	s.Advance(20 * time.Second)
	for what, e := range map[string]any{
		"the event":    alice.Do("GET", at+"/event/"+sticky, nil),
		"the context":  get(alice.Do("GET", at+"/context/"+sticky, nil), "event"),
		"the messages": list(alice.Do("GET", at+"/messages?dir=b&limit=1", nil), "chunk")[0],
		"the sync":     list(get(alice.Do("GET", shortFilter, nil), "rooms", "join", room), "timeline", "events")[0],
	} {
		if get(e, "msc4354_sticky", "duration_ms") != 60_000.0 || get(e, "unsigned", ttlMember) != 40_000.0 {
			t.Errorf("%s has %v, want a duration of 60 s of which 40 s are left", what, e)
		}
	}
	s.Advance(40 * time.Second)
	if e := alice.Do("GET", at+"/event/"+sticky, nil); get(e, "msc4354_sticky", "duration_ms") != 60_000.0 || get(e, "unsigned", ttlMember) != nil {
		t.Errorf("an event that is not sticky any more has %v, want no time left", e)
	}
	for _, duration := range []string{"-1", "3600001", "x", "1.5", "1e3", "99999999999999999999", "+5x", "%20"} {
		alice.Refused("PUT", at+"/send/m.room.message/bad"+stickyParam+duration, obj{"body": "x"}, 400, "M_INVALID_PARAM")
		alice.Refused("PUT", at+"/state/m.room.topic/"+stickyParam+duration, obj{"topic": "x"}, 400, "M_INVALID_PARAM")
		alice.Refused("PUT", at+"/send/m.room.message/later"+stickyParam+duration+"&org.matrix.msc4140.delay=1000", obj{"body": "x"}, 400, "M_INVALID_PARAM")
		alice.Refused("PUT", delayedPath+"/rooms/"+url.PathEscape(room)+"/delayed_event/m.room.message/bad"+stickyParam+duration, obj{"delay": 1000, "content": obj{}}, 400, "M_INVALID_PARAM")
	}
	for _, duration := range []string{"0", "3600000"} {
		alice.Do("PUT", at+"/send/m.room.message/good"+duration+stickyParam+duration, obj{"body": "x"})
	}
	e := alice.Do("PUT", at+"/send/m.room.message/plain"+stickyParam, obj{"body": "x"})
	if e = alice.Do("GET", at+"/event/"+e["event_id"].(string), nil); get(e, "msc4354_sticky") != nil {
		t.Errorf("an event without a duration is stored as sticky: %v", e)
	}
}

func TestTheSameStateIsSetAgainIfItIsToBeSticky(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	room, _ := alice.Do("POST", "/v3/createRoom", obj{})["room_id"].(string)
	path := "/v3/rooms/" + url.PathEscape(room) + "/state/org.example.call/key"
	first := alice.Do("PUT", path, obj{"x": 1})["event_id"].(string)
	second := alice.Do("PUT", path+stickyParam+"60000", obj{"x": 1})["event_id"].(string)
	third := alice.Do("PUT", path, obj{"x": 1})["event_id"].(string)
	if first == second || third != second {
		t.Errorf("the event IDs are %s, %s and %s; want a new event only for the first sticky state", first, second, third)
	}
	if e := alice.Do("GET", "/v3/rooms/"+url.PathEscape(room)+"/event/"+second, nil); get(e, "unsigned", ttlMember) != 60_000.0 {
		t.Errorf("the state event is %v, want it to be sticky for 60 s", e)
	}
}

func TestDelayedEventsAreStickyFromWhenTheyAreSent(t *testing.T) {
	h := newDelays(t)
	for form, send := range map[string]func(body string) string{
		"query": func(body string) string {
			path := "/v3/rooms/" + url.PathEscape(h.room) + "/send/m.room.message/" + body + stickyParam + "60000&org.matrix.msc4140.delay=5000"
			return h.alice.Do("PUT", path, obj{"body": body})["delay_id"].(string)
		},
		"delayed_event": func(body string) string {
			path := delayedPath + "/rooms/" + url.PathEscape(h.room) + "/delayed_event/m.room.message/" + body + stickyParam + "60000"
			return h.alice.Do("PUT", path, obj{"delay_ms": 5000, "content": obj{"body": body}})["delay_id"].(string)
		},
	} {
		send(form)
	}
	tell(h.alice, h.room, "newest")
	if got := stuck(h.bob, h.room); len(got) != 0 {
		t.Errorf("before they are sent, the sticky events are %v", got)
	}
	h.due(5 * time.Second)
	tell(h.alice, h.room, "newer")
	if got := stuck(h.bob, h.room); len(got) != 2 {
		t.Errorf("when they have been sent, the sticky events are %v, want two", got)
	}
	h.Advance(time.Minute)
	if got := stuck(h.bob, h.room); len(got) != 0 {
		t.Errorf("a minute later the sticky events are %v, want none", got)
	}
}

// A server that joins is sent the sticky events of the servers in the room, from before its join.
func TestAServerThatJoinsIsSentStickyEvents(t *testing.T) {
	w := newTown(t, 2)
	alice, bob := w.users[0], w.users[1]
	room := w.create(alice, obj{"preset": "public_chat", "initial_state": []any{
		obj{"type": "m.room.history_visibility", "state_key": "", "content": obj{"history_visibility": "joined"}},
	}})
	var want []string
	for n := range 12 {
		body := fmt.Sprint("sticky", n)
		want = append(want, body)
		stick(alice, room, body, 3_000_000)
		tell(alice, room, fmt.Sprint("between", n))
	}
	redacted := stick(alice, room, "redacted", 3_000_000)
	alice.Do("PUT", "/v3/rooms/"+url.PathEscape(room)+"/redact/"+redacted+"/r", obj{})
	w.join(bob, room)
	w.eventually("the sticky events", func() bool { return len(stuck(bob, room)) == len(want) })
	got := stuck(bob, room)
	for _, body := range want {
		if !strings.Contains(strings.Join(got, " ")+" ", body+" ") {
			t.Errorf("%s is not among %v", body, got)
		}
	}
	tell(alice, room, "afterwards")
	w.eventually("what comes afterwards", func() bool {
		return strings.Contains(fmt.Sprint(bob.Do("GET", "/v3/sync", nil)), "afterwards")
	})
	tell(bob, room, "answer")
	w.eventually("what the new server sends", func() bool {
		return strings.Contains(fmt.Sprint(alice.Do("GET", "/v3/sync", nil)), "answer")
	})
}

// What is owed to a server that joins survives that it cannot be reached, and a restart.
func TestStickyEventsAreOwedToAServerThatCannotBeReached(t *testing.T) {
	w := newTown(t, 2)
	alice, bob := w.users[0], w.users[1]
	room := w.create(alice, obj{"preset": "public_chat"})
	stick(alice, room, "sticky", 3_000_000)
	for n := range 3 {
		tell(alice, room, fmt.Sprint("after", n))
	}
	// Transactions to the second server fail; joining through the first one works.
	w.net.Intercept(func(rw http.ResponseWriter, r *http.Request, to string, next http.Handler) {
		if to == "hs2.test" && strings.Contains(r.URL.Path, "/send/") {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(rw, r)
	})
	w.join(bob, room)
	tell(alice, room, "meanwhile")
	w.net.Stop(0)
	w.net.Start(0)
	if got := stuck(bob, room); len(got) != 0 {
		t.Errorf("before anything is sent, the other server has the sticky events %v", got)
	}
	w.net.Intercept(nil)
	tell(bob, room, "hello") // ends the wait of the first server
	w.eventually("the sticky event", func() bool { return strings.Join(stuck(bob, room), " ") == "sticky" })
}

// A sticky event of another server begins to be sticky when it was sent.
func TestStickyEventsThatArriveLateCountFromWhenTheyWereSent(t *testing.T) {
	net, alice, bob, room := neighbours(t)
	net.Cut("hs1.test", "hs2.test")
	stick(alice, room, "long", 1_800_000)
	stick(alice, room, "short", 600_000)
	tell(alice, room, "newest")
	for _, s := range net.Servers {
		s.Advance(20 * time.Minute)
	}
	net.Heal()
	tell(bob, room, "hello")
	l := listen(t, bob, room)
	l.until("the newest event", func() bool { return strings.Contains(fmt.Sprint(bob.Do("GET", "/v3/sync", nil)), "newest") })
	if got := strings.Join(stuck(bob, room), " "); got != "long" {
		t.Errorf("the sticky events are %q, want only %q", got, "long")
	}
	section := list(get(bob.Do("GET", shortFilter, nil), "rooms", "join", room), "msc4354_sticky", "events")
	if ttl, _ := get(section[0], "unsigned", ttlMember).(float64); ttl > 600_000 || ttl < 500_000 {
		t.Errorf("the rest of the time for which it is sticky is %v ms, want 500,000 to 600,000", ttl)
	}
}

func TestAnExpiredStickyEventIsGoneFromEveryAnswerAndFromDisk(t *testing.T) {
	const marker = "tidewater-4354"
	s := testserver.New(t, nil)
	alice, bob := s.Register("alice"), s.Register("bob")
	room, _ := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	bob.Do("POST", "/v3/join/"+url.PathEscape(room), obj{})
	alice.Do("PUT", "/v3/rooms/"+url.PathEscape(room)+"/state/m.room.retention", obj{"max_lifetime": 60_000})
	sticky := stick(alice, room, marker, 3_600_000) // for longer than it is kept
	answers := func() (shown []string) {
		for _, path := range append(reads(room, sticky, sticky), shortFilter) {
			if _, _, raw := bob.Raw("GET", path, nil); strings.Contains(string(raw), marker) || strings.Contains(string(raw), sticky) {
				shown = append(shown, path)
			}
		}
		sliding := bob.Do("POST", "/unstable/org.matrix.simplified_msc3575/sync", obj{
			"lists":      obj{"all": obj{"ranges": [][]int{{0, 9}}, "timeline_limit": 0, "required_state": []any{}}},
			"extensions": obj{"org.matrix.msc4354.sticky_events": obj{"enabled": true}},
		})
		if strings.Contains(fmt.Sprint(sliding), marker) || strings.Contains(fmt.Sprint(sliding), sticky) {
			shown = append(shown, "sliding sync")
		}
		return shown
	}
	if shown := answers(); len(shown) < 7 || shown[len(shown)-1] != "sliding sync" || len(stuck(bob, room)) != 1 || len(s.FilesWith(marker)) == 0 {
		t.Fatalf("before it expires only %q show it, files %q: the search proves nothing", shown, s.FilesWith(marker))
	}
	s.Advance(time.Minute + time.Second)
	if shown := answers(); len(shown) != 0 || len(stuck(bob, room)) != 0 {
		t.Errorf("once it has expired: %q", shown)
	}
	alice.Do("PUT", "/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/later", obj{"msgtype": "m.text", "body": "later"})
	control(t, s, "purge now", obj{})
	if files := s.FilesWith(marker); len(files) != 0 {
		t.Errorf("after the purge it is in %q", files)
	}
	if shown := answers(); len(shown) != 0 {
		t.Errorf("after the purge: %q", shown)
	}
}

func TestStickyEventsReachEveryClientOfCalls(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) { c.RateLimits.Enabled = true })
	alice, bob := s.Register("alice"), s.Register("bob")
	room, _ := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	bob.Do("POST", "/v3/join/"+url.PathEscape(room), obj{})
	if get(alice.Do("GET", "/versions", nil), "unstable_features", "org.matrix.msc4354") != true {
		t.Error("sticky events are not announced")
	}
	// As Element Call: the membership, and the one that ends it later.
	member := obj{"application": "m.call", "msc4354_sticky_key": "device"}
	path := "/v3/rooms/" + url.PathEscape(room) + "/send/org.matrix.msc4143.rtc.member/"
	alice.Do("PUT", path+"join"+stickyParam+"3600000", member)
	alice.Do("PUT", path+"leave"+stickyParam+"3600000&org.matrix.msc4140.delay=8000", obj{"msc4354_sticky_key": "device"})
	alice.Do("PUT", path+"encrypted"+stickyParam+"3600000", obj{"algorithm": "m.megolm.v1.aes-sha2"})
	for n := range 20 {
		tell(bob, room, fmt.Sprint(n))
	}
	body, _ := json.Marshal(obj{"lists": obj{"all": obj{"ranges": [][]int{{0, 20}}, "timeline_limit": 1, "required_state": []any{}}},
		"extensions": obj{"org.matrix.msc4354.sticky_events": obj{"enabled": true, "limit": 50}}})
	answer := bob.Do("POST", "/unstable/org.matrix.simplified_msc3575/sync", json.RawMessage(body))
	extension := get(answer, "extensions", "org.matrix.msc4354.sticky_events")
	events := list(get(extension, "rooms", room), "events")
	if len(events) != 2 || get(events[0], "content", "msc4354_sticky_key") != "device" || get(events[0], "msc4354_sticky", "duration_ms") != 3_600_000.0 || get(extension, "next_batch") == nil {
		t.Errorf("sliding sync has %v", extension)
	}
}

// Neither sending nor syncing in a room without sticky events reads or writes anything about them.
func TestRoomsWithoutStickyEventsCostNothing(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := s.Register("alice"), s.Register("bob")
	create := func(c *testserver.Client) string {
		room, _ := c.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
		return room
	}
	elsewhere, room := create(alice), create(alice)
	stick(alice, elsewhere, "sticky", 3_600_000)
	bob.Do("POST", "/v3/join/"+url.PathEscape(room), obj{})
	sliding := json.RawMessage(`{"lists":{"all":{"ranges":[[0,20]],"timeline_limit":1,"required_state":[]}},"extensions":{"org.matrix.msc4354.sticky_events":{"enabled":true}}}`)
	statements := s.Statements(func() {
		since, _ := bob.Do("GET", "/v3/sync", nil)["next_batch"].(string)
		bob.Do("POST", "/unstable/org.matrix.simplified_msc3575/sync", sliding)
		tell(alice, room, "hello")
		bob.Do("GET", "/v3/sync?since="+since, nil)
	})
	if len(statements) == 0 {
		t.Fatal("no statements are counted")
	}
	for _, query := range statements {
		if strings.Contains(query, "sticky_events") {
			t.Errorf("a statement about sticky events: %s", query)
		}
	}
}
