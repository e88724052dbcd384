package server_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

const delayedPath = "/unstable/org.matrix.msc4140"

// delays is a room with the members alice and bob in which delayed events are sent.
type delays struct{ *threads }

func newDelays(t *testing.T) *delays { return &delays{newThreads(t)} }

// later schedules a message through the operation that form names and returns the delay ID.
func (h *delays) later(c *testserver.Client, form, body string, delay int) string {
	h.Helper()
	h.sent++
	room, content := url.PathEscape(h.room), obj{"msgtype": "m.text", "body": body}
	switch form {
	case "query":
		return c.Do("PUT", fmt.Sprintf("/v3/rooms/%s/send/m.room.message/d%d?org.matrix.msc4140.delay=%d", room, h.sent, delay), content)["delay_id"].(string)
	case "state":
		return c.Do("PUT", fmt.Sprintf("/v3/rooms/%s/state/org.example.call/%s?org.matrix.msc4140.delay=%d", room, body, delay), obj{"body": body})["delay_id"].(string)
	}
	return c.Do("PUT", fmt.Sprintf("%s/rooms/%s/delayed_event/m.room.message/d%d", delayedPath, room, h.sent), obj{form: delay, "content": content})["delay_id"].(string)
}

// due advances the clock and sends the events that are due.
func (h *delays) due(d time.Duration) {
	h.Helper()
	h.Advance(d)
	if err := h.SendDelayed(h.Context()); err != nil {
		h.Fatal(err)
	}
}

func (h *delays) scheduled(c *testserver.Client) []any {
	h.Helper()
	return c.Do("GET", delayedPath+"/delayed_events", nil)["delayed_events"].([]any)
}

// bodies returns the bodies of the newest messages, oldest first.
func (h *delays) bodies(c *testserver.Client) (out []string) {
	h.Helper()
	chunk := c.Do("GET", "/v3/rooms/"+url.PathEscape(h.room)+"/messages?dir=b&limit=50", nil)["chunk"].([]any)
	for i := len(chunk) - 1; i >= 0; i-- {
		if body, ok := testserver.Get(chunk[i], "content", "body").(string); ok {
			out = append(out, body)
		}
	}
	return out
}

func TestDelayedEventsAreSentWhenTheyAreDue(t *testing.T) {
	h := newDelays(t)
	for _, form := range []string{"query", "delay_ms", "delay", "state"} {
		h.later(h.alice, form, "late "+form, 5_000)
	}
	h.later(h.alice, "delay_ms", "first", 1_000)
	if list := h.scheduled(h.alice); len(list) != 5 || testserver.Get(list[0], "content", "body") != "first" || testserver.Get(list[0], "delay_ms") != 1000.0 ||
		testserver.Get(list[0], "room_id") != h.room || testserver.Get(list[0], "type") != "m.room.message" || testserver.Get(list[0], "scheduled_at") == nil {
		t.Fatalf("the scheduled events of alice are %v", list)
	}
	if list := h.scheduled(h.bob); len(list) != 0 {
		t.Fatalf("bob gets alice's scheduled events: %v", list)
	}
	h.due(999 * time.Millisecond)
	if got := h.bodies(h.bob); len(got) != 0 {
		t.Fatalf("before they are due, bob gets %v", got)
	}
	h.due(time.Millisecond)
	h.due(4 * time.Second)
	if got := strings.Join(h.bodies(h.bob), ", "); got != "first, late query, late delay_ms, late delay, late state" {
		t.Errorf("bob gets %q, want the events in the order in which they are due", got)
	}
	if list := h.scheduled(h.alice); len(list) != 0 {
		t.Errorf("events that were sent are still scheduled: %v", list)
	}
	done := h.alice.Do("GET", delayedPath+"/delayed_events?status=finalised", nil)["finalised"].([]any)
	if len(done) != 5 || testserver.Get(done[0], "outcome") != "send" || testserver.Get(done[0], "reason") != "delay" || testserver.Get(done[0], "event_id") == nil {
		t.Errorf("the finalised events are %v, want five that were sent", done)
	}
	h.due(time.Hour)
	if got := h.bodies(h.bob); len(got) != 5 {
		t.Errorf("bob has %v, want each of the five events once", got)
	}
}

// The sender's devices see the delay ID in the event; other users do not.
func TestASentDelayedEventNamesItsDelayIDToItsSender(t *testing.T) {
	h := newDelays(t)
	delayID := h.later(h.alice, "query", "late", 1_000)
	h.due(time.Second)
	find := func(c *testserver.Client) any {
		chunk := c.Do("GET", "/v3/rooms/"+url.PathEscape(h.room)+"/messages?dir=b&limit=1", nil)["chunk"].([]any)
		return testserver.Get(chunk[0], "unsigned", "org.matrix.msc4140.delay_id")
	}
	if find(h.alice) != delayID || find(h.Login("alice")) != delayID || find(h.bob) != nil {
		t.Errorf("alice gets the delay ID %v and bob %v, want it only for alice", find(h.alice), find(h.bob))
	}
	item := h.alice.Do("GET", delayedPath+"/delayed_events/"+delayID, nil)
	if item["event_id"] == nil || item["finalised_ts"] == nil || len(item["content"].(map[string]any)) != 0 {
		t.Errorf("the finalised event is %v, want its event ID and no content", item)
	}
	h.bob.Refused("GET", delayedPath+"/delayed_events/"+delayID, nil, 404, "M_NOT_FOUND")
}

func TestARepeatedTransactionSchedulesOnce(t *testing.T) {
	h := newDelays(t)
	path := "/v3/rooms/" + url.PathEscape(h.room) + "/send/m.room.message/same?org.matrix.msc4140.delay=5000"
	first := h.alice.Do("PUT", path, obj{"body": "x"})["delay_id"]
	if again := h.alice.Do("PUT", path, nil)["delay_id"]; again != first { // the transaction ID is known, so the body does not matter
		t.Errorf("the second request got %v, the first %v", again, first)
	}
	if other := h.alice.Do("PUT", strings.Replace(path, "same", "other", 1), obj{"body": "x"})["delay_id"]; other == first {
		t.Error("another transaction got the same delay ID")
	}
	if n := len(h.scheduled(h.alice)); n != 2 {
		t.Errorf("%d events are scheduled, want 2", n)
	}
}

func TestDelayedEventsAreRestartedCancelledAndSent(t *testing.T) {
	for _, form := range []string{"path", "body"} {
		t.Run("action in the "+form, func(t *testing.T) {
			h := newDelays(t)
			anybody := h.Anonymous() // the delay ID suffices; no access token is needed
			request := func(c *testserver.Client, delayID, action string) (string, any) {
				if form == "body" {
					return delayedPath + "/delayed_events/" + delayID, obj{"action": action}
				}
				return delayedPath + "/delayed_events/" + delayID + "/" + action, nil
			}
			act := func(c *testserver.Client, delayID, action string) {
				path, body := request(c, delayID, action)
				c.Do("POST", path, body)
			}
			refused := func(delayID, action string, status int, code string) {
				t.Helper()
				path, body := request(anybody, delayID, action)
				anybody.Refused("POST", path, body, status, code)
			}
			put, off, now := h.later(h.alice, "query", "put off", 5_000), h.later(h.alice, "query", "off", 5_000), h.later(h.alice, "state", "now", 5_000)
			h.due(4 * time.Second)
			act(anybody, put, "restart")
			act(anybody, off, "cancel")
			act(h.alice, now, "send")
			if got := h.bodies(h.bob); len(got) != 1 || got[0] != "now" {
				t.Fatalf("after the actions bob gets %v, want only the event that was sent at once", got)
			}
			h.due(4 * time.Second)
			if got := h.bodies(h.bob); len(got) != 1 {
				t.Fatalf("bob gets %v: the restarted event is sent too early", got)
			}
			h.due(time.Second)
			if got := strings.Join(h.bodies(h.bob), ", "); got != "now, put off" {
				t.Errorf("bob gets %q, want %q", got, "now, put off")
			}
			act(anybody, off, "cancel") // a repeated cancel
			act(anybody, now, "send")
			refused(off, "send", 409, "M_UNKNOWN")
			refused(now, "cancel", 409, "M_UNKNOWN")
			refused(put, "restart", 404, "M_NOT_FOUND") // the client then schedules a new one
			for _, action := range []string{"cancel", "restart", "send"} {
				refused("nosuch", action, 404, "M_NOT_FOUND")
			}
			if got := len(h.bodies(h.bob)); got != 2 {
				t.Errorf("bob has %d messages, want 2: the cancelled event must not be sent", got)
			}
		})
	}
	h := newDelays(t)
	h.Anonymous().Refused("POST", delayedPath+"/delayed_events/x/oops", obj{}, 404, "M_UNRECOGNIZED")
	h.Anonymous().Refused("POST", delayedPath+"/delayed_events/x", obj{}, 400, "M_MISSING_PARAM")
	h.Anonymous().Refused("POST", delayedPath+"/delayed_events/x", obj{"action": "oops"}, 400, "M_INVALID_PARAM")
	h.Anonymous().Refused("GET", delayedPath+"/delayed_events", nil, 401, "M_MISSING_TOKEN")
}

func TestDelayedEventsOfUsersWhoMayNotSendAreNotSent(t *testing.T) {
	h := newDelays(t)
	carol, dave := h.Register("carol"), h.Register("dave")
	join := "/v3/join/" + url.PathEscape(h.room)
	carol.Do("POST", join, nil)
	dave.Do("POST", join, nil)
	left := h.later(h.bob, "query", "bob has left", 5_000)
	h.later(carol, "query", "carol is gone", 5_000)
	silenced := h.later(dave, "state", "dave may not", 5_000) // sending state requires a power level
	h.bob.Do("POST", "/v3/rooms/"+url.PathEscape(h.room)+"/leave", nil)
	carol.Do("POST", "/v3/account/deactivate", obj{"auth": obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": carol.User}, "password": testserver.Password()}})
	h.due(6 * time.Second)
	if got := h.bodies(h.alice); len(got) != 0 {
		t.Errorf("alice gets %v, want nothing: the senders may not send", got)
	}
	for _, tc := range []struct {
		c  *testserver.Client
		id string
	}{{h.bob, left}, {dave, silenced}} {
		item := tc.c.Do("GET", delayedPath+"/delayed_events/"+tc.id, nil)
		if testserver.Get(item, "error", "errcode") != "M_FORBIDDEN" || item["event_id"] != nil {
			t.Errorf("%s: the finalised event is %v, want the error M_FORBIDDEN", tc.c.User, item)
		}
	}
	h.bob.Refused("PUT", "/v3/rooms/"+url.PathEscape(h.room)+"/send/m.room.message/x?org.matrix.msc4140.delay=5", obj{}, 403, "M_FORBIDDEN")
}

// A client schedules the event that ends its part in a call before it joins the call. The state that the client itself
// sets when joining must not cancel that event.
func TestStateOfOthersOverridesADelayedStateEvent(t *testing.T) {
	h := newDelays(t)
	h.alice.Do("PUT", "/v3/rooms/"+url.PathEscape(h.room)+"/state/m.room.power_levels", obj{"users": obj{}, "state_default": 0, "events": obj{"m.room.power_levels": 100}})
	set := func(c *testserver.Client, key, body string) {
		c.Do("PUT", "/v3/rooms/"+url.PathEscape(h.room)+"/state/org.example.call/"+key, obj{"body": body})
	}
	state := func(key string) any {
		return h.alice.Do("GET", "/v3/rooms/"+url.PathEscape(h.room)+"/state/org.example.call/"+key, nil)["body"]
	}
	h.later(h.bob, "state", "own", 5_000)
	h.later(h.bob, "state", "others", 5_000)
	set(h.bob, "own", "in the call")
	set(h.alice, "others", "alice's")
	h.due(5 * time.Second)
	if state("own") != "own" || state("others") != "alice's" {
		t.Errorf("the states are %v and %v, want the user's own and that of alice", state("own"), state("others"))
	}
}

func TestDelayedEventsAreBounded(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) {
		c.DelayedEvents = config.Delays{MaxDelay: config.Duration(time.Hour), MaxPerUser: 2}
	})
	alice := s.Register("alice")
	room := alice.Do("POST", "/v3/createRoom", obj{})["room_id"].(string)
	send := "/v3/rooms/" + url.PathEscape(room) + "/send/m.room.message/"
	alice.Do("PUT", send+"1?org.matrix.msc4140.delay=3600000", obj{})
	alice.Do("PUT", send+"2?org.matrix.msc4140.delay=60000", obj{})
	status, header, raw := alice.Raw("PUT", send+"3?org.matrix.msc4140.delay=1000", obj{})
	if status != 429 || header.Get("Retry-After") != "60" || !strings.Contains(string(raw), "M_MAX_DELAYED_EVENTS_EXCEEDED") || !strings.Contains(string(raw), "M_LIMIT_EXCEEDED") {
		t.Errorf("a third scheduled event gets %d, %v, %s; want 429 with Retry-After", status, header, raw)
	}
	status, _, raw = alice.Raw("PUT", send+"4?org.matrix.msc4140.delay=3600001", obj{})
	if text := string(raw); status != 400 || !strings.Contains(text, `"errcode":"M_UNKNOWN"`) || !strings.Contains(text, `"org.matrix.msc4140.errcode":"M_MAX_DELAY_EXCEEDED"`) || !strings.Contains(text, `"org.matrix.msc4140.max_delay":3600000`) {
		t.Errorf("a delay beyond the maximum gets %d %s", status, raw)
	}
	later := delayedPath + "/rooms/" + url.PathEscape(room) + "/delayed_event/m.room.message/"
	alice.Refused("PUT", later+"1", obj{"delay_ms": int64(1) << 62, "content": obj{}}, 403, "M_FORBIDDEN")
	for i, bad := range []struct {
		body any
		code string
	}{
		{obj{"content": obj{}}, "M_MISSING_PARAM"}, {obj{"delay_ms": 5}, "M_MISSING_PARAM"}, {obj{"delay_ms": 0, "content": obj{}}, "M_INVALID_PARAM"},
		{obj{"delay_ms": -5, "content": obj{}}, "M_INVALID_PARAM"}, {obj{"delay_ms": "5", "content": obj{}}, "M_BAD_JSON"}, {obj{"delay_ms": 5, "content": []int{}}, "M_BAD_JSON"},
		{[]byte("{"), "M_NOT_JSON"}, {obj{"delay_ms": 5, "content": obj{}, "state_key": 7}, "M_BAD_JSON"},
	} {
		alice.Refused("PUT", fmt.Sprint(later, "bad", i), bad.body, 400, bad.code)
	}
	alice.Refused("PUT", later+"large", obj{"delay_ms": 5, "content": obj{"x": strings.Repeat("x", 65<<10)}}, 413, "M_TOO_LARGE")
	for _, delay := range []string{"0", "-1", "x", "1.5"} {
		alice.Refused("PUT", send+"5?org.matrix.msc4140.delay="+delay, obj{}, 400, "M_INVALID_PARAM")
	}
	limits := testserver.Get(alice.Do("GET", "/v3/capabilities", nil), "capabilities", "org.matrix.msc4140.delayed_events")
	if testserver.Get(limits, "max_delay_ms") != 3600000.0 || testserver.Get(limits, "max_scheduled") != 2.0 {
		t.Errorf("the capability is %v, want a delay of an hour and two events", limits)
	}
}

func TestDelayedEventsCanBeSwitchedOff(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) { c.DelayedEvents.MaxPerUser = 0 })
	alice := s.Register("alice")
	room := alice.Do("POST", "/v3/createRoom", obj{})["room_id"].(string)
	alice.Refused("PUT", "/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/1?org.matrix.msc4140.delay=5", obj{}, 403, "M_FORBIDDEN")
	if testserver.Get(alice.Do("GET", "/versions", nil), "unstable_features", "org.matrix.msc4140") != false ||
		testserver.Get(alice.Do("GET", "/v3/capabilities", nil), "capabilities", "org.matrix.msc4140.delayed_events") != nil {
		t.Error("the server claims to support delayed events")
	}
}

// The content of a sent or cancelled delayed event remains only in the room.
func TestAFinalisedDelayedEventKeepsNoContent(t *testing.T) {
	h := newDelays(t)
	h.alice.Do("PUT", "/v3/rooms/"+url.PathEscape(h.room)+"/state/m.room.retention", obj{"max_lifetime": 60_000})
	h.later(h.alice, "query", "tidewater-4140", 1_000)
	cancelled := h.later(h.alice, "query", "tidewater-4140 too", 1_000)
	h.alice.Do("POST", delayedPath+"/delayed_events/"+cancelled+"/cancel", nil)
	h.due(time.Second)
	if len(h.FilesWith("tidewater-4140")) == 0 {
		t.Fatal("nothing was written: the search proves nothing")
	}
	h.Advance(2 * time.Minute)
	h.says(h.alice, "", "a later message", nil)
	if _, err := h.Control(t.Context(), "purge now", nil); err != nil {
		t.Fatal(err)
	}
	if files := h.FilesWith("tidewater-4140"); len(files) != 0 {
		t.Errorf("%v still have the content", files)
	}
}

func TestDelayedEventsSurviveARestart(t *testing.T) {
	n := testserver.Federation(t, 1, nil)
	alice := n.Servers[0].Register("alice")
	room := alice.Do("POST", "/v3/createRoom", obj{})["room_id"].(string)
	send := func(txn string, delay int) {
		alice.Do("PUT", fmt.Sprintf("/v3/rooms/%s/send/m.room.message/%s?org.matrix.msc4140.delay=%d", url.PathEscape(room), txn, delay), obj{"body": txn, "msgtype": "m.text"})
	}
	send("while it is stopped", 5_000)
	n.Stop(0)
	n.Servers[0].Advance(6 * time.Second)
	n.Start(0)
	alice.Hears("while it is stopped")
	send("while it runs", 5)
	n.Servers[0].Advance(time.Second)
	alice.Hears("while it runs")
}
