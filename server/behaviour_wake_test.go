package server_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"ebb/internal/testserver"
)

func TestEveryKindOfChangeWakesAWaitingDevice(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	phone := &device{Client: s.Login("alice"), t: t}
	room, base := together(nil, alice, bob)
	me, peer := "/v3/user/"+alice.User, "/v3/user/"+bob.User
	last := bob.say(base, "hello")
	phone.Do("POST", "/v3/keys/upload", obj{"one_time_keys": obj{"a:1": obj{"key": "k"}}})
	phone.sync()
	for _, c := range []struct {
		what string
		do   func()
		told []any
	}{
		{"a message", func() { bob.say(base, "x") }, []any{"rooms", "join", room, "timeline", "events", 0}},
		{"what oneself said elsewhere", func() { alice.say(base, "x") }, []any{"rooms", "join", room, "timeline", "events", 0}},
		{"a receipt", func() { bob.Do("POST", base+"/receipt/m.read/"+last, obj{}) }, []any{"rooms", "join", room, "ephemeral", "events", 0}},
		{"one's private receipt", func() { alice.Do("POST", base+"/receipt/m.read.private/"+last, obj{}) }, []any{"rooms", "join", room, "ephemeral", "events", 0}},
		{"somebody who types", func() { bob.Do("PUT", base+"/typing/"+bob.User, obj{"typing": true, "timeout": 30000}) }, []any{"rooms", "join", room, "ephemeral", "events", 0}},
		{"account data", func() { alice.Do("PUT", me+"/account_data/m.direct", obj{bob.User: []string{room}}) }, []any{"account_data", "events", 0}},
		{"account data of a room", func() { alice.Do("PUT", me+"/rooms/"+room+"/account_data/x.y", obj{"a": 1}) }, []any{"rooms", "join", room, "account_data", "events", 0}},
		{"a tag", func() { alice.Do("PUT", me+"/rooms/"+room+"/tags/m.favourite", obj{}) }, []any{"rooms", "join", room, "account_data", "events", 0}},
		{"a read marker", func() { alice.Do("POST", base+"/read_markers", obj{"m.fully_read": last}) }, []any{"rooms", "join", room, "account_data", "events", 0}},
		{"a push rule", func() {
			alice.Do("PUT", "/v3/pushrules/global/content/tea", obj{"pattern": "tea", "actions": []string{"notify"}})
		}, []any{"account_data", "events", 0}},
		{"a message to the device", func() {
			bob.Do("PUT", "/v3/sendToDevice/m.x/1", obj{"messages": obj{alice.User: obj{phone.DeviceID: obj{}}}})
		}, []any{"to_device", "events", 0}},
		{"a device's keys", func() {
			bob.Do("POST", "/v3/keys/upload", obj{"device_keys": obj{"user_id": bob.User, "device_id": bob.DeviceID, "algorithms": []string{}, "keys": obj{}, "signatures": obj{}}})
		}, []any{"device_lists", "changed", 0}},
		{"a new name", func() { bob.Do("PUT", "/v3/profile/"+bob.User+"/displayname", obj{"displayname": "B"}) }, []any{"rooms", "join", room, "timeline", "events", 0}},
		{"an invitation", func() { bob.Do("POST", "/v3/createRoom", obj{"invite": []string{alice.User}}) }, []any{"rooms", "invite"}},
	} {
		d := &device{Client: phone.Client, t: t, since: phone.since}
		answer := make(chan obj, 1)
		go func() {
			_, _, raw := d.Raw("GET", "/v3/sync?set_presence=offline&timeout=20000&since="+url.QueryEscape(d.since), nil)
			var v obj
			_ = json.Unmarshal(raw, &v) // a failure leaves v empty
			answer <- v
		}()
		waitForPoll(t, s)
		c.do()
		select {
		case got := <-answer:
			if get(got, c.told...) == nil || strings.Contains(fmt.Sprint(got), "errcode") {
				t.Errorf("%s: the waiting /sync of %s returned %v, want the change in it", c.what, phone.User, got)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the waiting /sync is not woken", c.what)
		}
		phone.sync()
	}
	bob.Refused("GET", me+"/account_data/m.direct", nil, 403, "M_FORBIDDEN")
	alice.Refused("PUT", peer+"/account_data/m.direct", obj{}, 403, "M_FORBIDDEN")
}

// waitForPoll returns once a request is waiting for new events.
func waitForPoll(t *testing.T, s *testserver.Server) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		answer, err := http.Get(s.URL + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		metrics, err := io.ReadAll(answer.Body)
		if err != nil || answer.Body.Close() != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(metrics), "\nebb_sync_waiting 1\n") {
			return
		}
	}
	t.Fatal("no /sync is waiting")
}
