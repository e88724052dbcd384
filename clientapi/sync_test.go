package clientapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"ebb/internal/testserver"
)

// device is a logged-in device with its sync token.
type device struct {
	*testserver.Client
	t     *testing.T
	since string
}

func signUp(t *testing.T, s *testserver.Server, name string) *device {
	t.Helper()
	return &device{Client: s.Register(name), t: t}
}

func (d *device) createRoom(invite ...*device) string {
	d.t.Helper()
	room, _ := d.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat"})["room_id"].(string)
	for _, other := range invite {
		other.Do("POST", "/v3/rooms/"+room+"/join", nil)
	}
	return room
}

var txns int

// send sends an event and returns its ID.
func (d *device) send(room, typ string, content map[string]any) string {
	d.t.Helper()
	txns++
	eventID, _ := d.Do("PUT", fmt.Sprintf("/v3/rooms/%s/send/%s/%d", room, typ, txns), content)["event_id"].(string)
	return eventID
}

func (d *device) say(room, body string) string {
	d.t.Helper()
	return d.send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": body})
}

// sync syncs once from the stored token; params are alternating names and values.
func (d *device) sync(params ...string) map[string]any {
	d.t.Helper()
	a := d.Do("GET", "/v3/sync?"+d.query(params...), nil)
	d.since, _ = a["next_batch"].(string)
	return a
}

func (d *device) query(params ...string) string {
	q := url.Values{"set_presence": {"offline"}}
	if d.since != "" {
		q.Set("since", d.since)
	}
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	return q.Encode()
}

// longPoll starts a sync in the background that waits for new events.
func (d *device) longPoll() <-chan map[string]any {
	c := make(chan map[string]any, 1)
	path := "/v3/sync?" + d.query("timeout", "20000")
	go func() {
		status, _, raw := d.Raw("GET", path, nil)
		a := map[string]any{}
		_ = json.Unmarshal(raw, &a)
		a["status"] = status
		c <- a
	}()
	return c
}

func (d *device) wait(c <-chan map[string]any) map[string]any {
	d.t.Helper()
	select {
	case a := <-c:
		return a
	case <-time.After(15 * time.Second):
		d.t.Fatal("the long poll was not woken")
		return nil
	}
}

func counts(a map[string]any, room string) [2]float64 {
	notify, _ := testserver.Get(a, "rooms", "join", room, "unread_notifications", "notification_count").(float64)
	highlight, _ := testserver.Get(a, "rooms", "join", room, "unread_notifications", "highlight_count").(float64)
	return [2]float64{notify, highlight}
}

func TestSyncReturnsWhatChanged(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	room := alice.createRoom(bob)
	a := alice.sync()
	if testserver.Get(a, "rooms", "join", room, "timeline", "events") == nil {
		t.Fatalf("the room is missing: %v", a)
	}
	poll := alice.longPoll()
	bob.say(room, "hello")
	a = alice.wait(poll)
	if got := testserver.Get(a, "rooms", "join", room, "timeline", "events", 0, "content", "body"); got != "hello" {
		t.Fatalf("woken by %v", a)
	}
	for _, query := range []string{
		"since=x", "since=s1_99999999_0_0_0_0", "timeout=-1", "timeout=soon", "full_state=maybe", "use_state_after=1", "set_presence=away",
		"filter=%7B", "filter=nosuch", "filter=%7B%22room%22%3A1%7D",
	} {
		alice.Refused("GET", "/v3/sync?"+query, nil, http.StatusBadRequest, "M_INVALID_PARAM")
	}
	alice.Do("GET", "/v3/sync?timeout=99999999999999999999", nil) // an initial sync does not wait
}

func TestLongPollOfASignedOutDeviceEnds(t *testing.T) {
	s := testserver.New(t, nil)
	alice := signUp(t, s, "alice")
	alice.createRoom()
	alice.sync()
	poll := alice.longPoll()
	other := s.Login("alice")
	other.Do("POST", "/v3/logout/all", nil)
	if a := alice.wait(poll); a["status"] == http.StatusOK && len(a) > 8 {
		t.Errorf("a signed-out device is told %v", a)
	}
	alice.Refused("GET", "/v3/sync?"+alice.query(), nil, http.StatusUnauthorized, "M_UNKNOWN_TOKEN")
}

func TestFiltersAreStoredVerbatimForTheirOwner(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	const verbatim = `{"room": {"timeline":{"limit":1,"types":["m.room.create"]}},"x.custom":  [1.0]}`
	path := "/v3/user/" + alice.User + "/filter"
	filterID, _ := alice.Do("POST", path, []byte(verbatim))["filter_id"].(string)
	if _, _, raw := alice.Raw("GET", path+"/"+filterID, nil); string(raw) != verbatim {
		t.Errorf("%s, want %s", raw, verbatim)
	}
	room := alice.createRoom()
	a := alice.sync("filter", filterID)
	if got := testserver.Get(a, "rooms", "join", room, "timeline", "events", 0, "type"); got != "m.room.create" {
		t.Errorf("the filter is not used: %v", a)
	}
	bob.Refused("GET", path+"/"+filterID, nil, http.StatusForbidden, "M_FORBIDDEN")
	bob.Refused("POST", path, []byte(verbatim), http.StatusForbidden, "M_FORBIDDEN")
	bob.Refused("GET", "/v3/user/"+bob.User+"/filter/"+filterID, nil, http.StatusNotFound, "M_NOT_FOUND")
	alice.Refused("GET", path+"/x", nil, http.StatusNotFound, "M_NOT_FOUND")
	alice.Refused("POST", path, []byte(`{"room":{"timeline":"x"}}`), http.StatusBadRequest, "M_BAD_JSON")
	alice.Refused("POST", path, []byte(`{"room":`), http.StatusBadRequest, "M_NOT_JSON")
	alice.Refused("POST", path, []byte(`{"x":"`+strings.Repeat("a", 70_000)+`"}`), http.StatusRequestEntityTooLarge, "M_TOO_LARGE")
}

func TestTypingReachesTheRoom(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob, carol := signUp(t, s, "alice"), signUp(t, s, "bob"), signUp(t, s, "carol")
	room := alice.createRoom(bob)
	bob.sync()
	poll := bob.longPoll()
	path := "/v3/rooms/" + room + "/typing/"
	alice.Do("PUT", path+alice.User, map[string]any{"typing": true, "timeout": 30000})
	a := bob.wait(poll)
	if got := testserver.Get(a, "rooms", "join", room, "ephemeral", "events", 0, "content", "user_ids", 0); got != alice.User {
		t.Errorf("bob is told %v", a)
	}
	alice.Refused("PUT", path+bob.User, map[string]any{"typing": true}, http.StatusForbidden, "M_FORBIDDEN")
	carol.Refused("PUT", path+carol.User, map[string]any{"typing": true}, http.StatusForbidden, "M_FORBIDDEN")
	alice.Refused("PUT", path+alice.User, map[string]any{"timeout": 1}, http.StatusBadRequest, "M_MISSING_PARAM")
	alice.Refused("PUT", path+alice.User, map[string]any{"typing": "yes"}, http.StatusBadRequest, "M_BAD_JSON")
	alice.Do("PUT", path+alice.User, map[string]any{"typing": true, "timeout": int64(1) << 62})
}

func TestPresenceIsSetAndReadByRoommates(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob, carol := signUp(t, s, "alice"), signUp(t, s, "bob"), signUp(t, s, "carol")
	alice.createRoom(bob)
	bob.sync()
	path := "/v3/presence/" + alice.User + "/status"
	alice.Do("PUT", path, map[string]any{"presence": "unavailable", "status_msg": "at lunch"})
	for _, d := range []*device{alice, bob} {
		if a := d.Do("GET", path, nil); a["presence"] != "unavailable" || a["status_msg"] != "at lunch" {
			t.Errorf("%s reads %v", d.User, a)
		}
	}
	if a := bob.sync(); testserver.Get(a, "presence", "events", 0, "content", "status_msg") != "at lunch" {
		t.Errorf("bob is told %v", a)
	}
	carol.Refused("GET", path, nil, http.StatusForbidden, "M_FORBIDDEN")
	bob.Refused("PUT", path, map[string]any{"presence": "online"}, http.StatusForbidden, "M_FORBIDDEN")
	alice.Refused("PUT", path, map[string]any{"presence": "dancing"}, http.StatusBadRequest, "M_INVALID_PARAM")
	alice.Refused("PUT", path, map[string]any{}, http.StatusBadRequest, "M_MISSING_PARAM")
	alice.Refused("PUT", path, map[string]any{"presence": "online", "status_msg": strings.Repeat("a", 2000)}, http.StatusRequestEntityTooLarge, "M_TOO_LARGE")
	if a := bob.Do("GET", path, nil); a["presence"] != "unavailable" {
		t.Errorf("refused requests changed the presence: %v", a)
	}
}

func TestUnreadCountsGoToZeroOnEveryDeviceWhenOneReads(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	phone := &device{Client: s.Login("alice"), t: t}
	room := alice.createRoom(bob)
	alice.sync()
	phone.sync()
	bob.say(room, "one")
	last := bob.send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "alice: two", "m.mentions": map[string]any{"user_ids": []string{alice.User}}})
	if got := counts(alice.sync(), room); got != [2]float64{2, 1} {
		t.Errorf("unread: %v, want 2 and 1 highlight", got)
	}
	poll := alice.longPoll()
	phone.Do("POST", "/v3/rooms/"+room+"/receipt/m.read.private/"+last, map[string]any{})
	a := alice.wait(poll)
	if got := counts(a, room); got != [2]float64{} || testserver.Get(a, "rooms", "join", room, "unread_notifications") == nil {
		t.Errorf("the other device reads, and this one is told %v", a)
	}
	if a := bob.sync(); strings.Contains(fmt.Sprint(a), "m.read.private") {
		t.Errorf("a private receipt leaks: %v", a)
	}
}

func TestThreadsAreCountedSeparatelyIfTheFilterAsksForIt(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	room := alice.createRoom(bob)
	root := alice.say(room, "root")
	alice.sync()
	bob.send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "reply", "m.relates_to": map[string]any{"rel_type": "m.thread", "event_id": root}})
	last := bob.say(room, "main")
	const byThread = `{"room":{"timeline":{"unread_thread_notifications":true}}}`
	since := alice.since
	if got := counts(alice.sync(), room); got != [2]float64{2, 0} {
		t.Errorf("together: %v, want 2", got)
	}
	alice.since = since
	a := alice.sync("filter", byThread)
	if got := counts(a, room); got != [2]float64{1, 0} {
		t.Errorf("main timeline: %v, want 1", got)
	}
	if got := testserver.Get(a, "rooms", "join", room, "unread_thread_notifications", root, "notification_count"); got != float64(1) {
		t.Errorf("thread: %v, want 1", got)
	}
	const unstable = "org.matrix.msc3773.unread_thread_notifications"
	alice.since = since
	a = alice.sync("filter", strings.Replace(byThread, "unread_thread_notifications", unstable, 1))
	got := testserver.Get(a, "rooms", "join", room, unstable, root, "notification_count")
	if stable := testserver.Get(a, "rooms", "join", room, "unread_thread_notifications"); got != float64(1) || stable != nil || counts(a, room) != [2]float64{1, 0} {
		t.Errorf("by the unstable name the thread has %v, by the stable one %v", got, stable)
	}
	alice.Do("POST", "/v3/rooms/"+room+"/receipt/m.read/"+last, map[string]any{})
	if got, ok := testserver.Get(alice.sync("filter", byThread), "rooms", "join", room).(map[string]any); !ok || got["unread_thread_notifications"] != nil {
		t.Errorf("after a receipt: %v", got)
	}
}
