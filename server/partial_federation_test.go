package server_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"ebb/internal/testserver"
)

// slowState delays responses by hs1.test to requests for room state until release is called. asked receives a value for
// each such request.
func slowState(net *testserver.Network) (asked <-chan struct{}, release func()) {
	held, first := make(chan struct{}), make(chan struct{}, 100)
	net.Intercept(func(w http.ResponseWriter, r *http.Request, to string, next http.Handler) {
		if to == "hs1.test" && strings.HasPrefix(r.URL.Path, "/_matrix/federation/v1/state") {
			first <- struct{}{}
			select {
			case <-held:
			case <-r.Context().Done():
				return
			}
		}
		next.ServeHTTP(w, r)
	})
	return first, func() { close(held) }
}

const lazyFilter = `{"room":{"state":{"lazy_load_members":true}}}`

// syncOf returns a /sync response, with lazy loading of members if lazy is set.
func syncOf(c *testserver.Client, lazy bool, since string, timeout time.Duration) map[string]any {
	q := url.Values{"timeout": {fmt.Sprint(timeout.Milliseconds())}}
	if since != "" {
		q.Set("since", since)
	}
	if lazy {
		q.Set("filter", lazyFilter)
	}
	return c.Do("GET", "/v3/sync?"+q.Encode(), nil)
}

func joinedIn(sync map[string]any, room string) map[string]any {
	entry, _ := testserver.Get(sync, "rooms", "join", room).(map[string]any)
	return entry
}

// A client that lazy-loads members can use a room before the members are known: bob reads, sends and receives messages.
// Other clients get the room when its state is complete.
func TestPartialStateRoomIsUsableWithLazyLoading(t *testing.T) {
	w := newTown(t, 2)
	alice, bob := w.users[0], w.users[1]
	others := []*testserver.Client{w.net.Servers[0].Register("anna"), w.net.Servers[0].Register("adam")}
	room := w.create(alice, map[string]any{"preset": "public_chat", "name": "Hall", "initial_state": []any{
		map[string]any{"type": "m.room.encryption", "state_key": "", "content": map[string]any{"algorithm": "m.megolm.v1.aes-sha2"}},
	}})
	for _, c := range others {
		c.Do("POST", "/v3/join/"+url.PathEscape(room), nil)
	}
	inRoom := "/v3/rooms/" + url.PathEscape(room)
	const banned = 110 // too many to look them up one by one
	for i := range banned {
		alice.Do("PUT", fmt.Sprintf("%s/state/m.room.member/@unwanted%d:hs1.test", inRoom, i), map[string]any{"membership": "ban"})
	}
	eager, _ := syncOf(bob, false, "", 0)["next_batch"].(string)
	asked, release := slowState(w.net)
	begun := time.Now()
	w.join(bob, room)
	lazy := syncOf(bob, true, "", 0)
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("the join took %v, want at most two seconds", took)
	}
	if joinedIn(lazy, room) == nil || stateIn(testserver.Get(joinedIn(lazy, room), "state", "events"), "m.room.name", "") == nil {
		t.Fatalf("the room is not in the first /sync: %v", lazy["rooms"])
	}
	<-asked
	if sync := syncOf(bob, false, eager, 0); joinedIn(sync, room) != nil {
		t.Errorf("a client that wants all members gets the room before they are known: %v", joinedIn(sync, room))
	}
	bob.Do("PUT", inRoom+"/send/m.room.message/1", map[string]any{"msgtype": "m.text", "body": "hello from bob"})
	alice.Hears("hello from bob")
	alice.Do("PUT", inRoom+"/typing/"+url.PathEscape(alice.User), map[string]any{"typing": true, "timeout": 30000})
	alice.Do("PUT", inRoom+"/send/m.room.message/1", map[string]any{"msgtype": "m.text", "body": "hello from alice"})
	since, _ := lazy["next_batch"].(string)
	var heard, typing, member bool
	w.eventually("what alice does", func() bool {
		sync := syncOf(bob, true, since, 100*time.Millisecond)
		since, _ = sync["next_batch"].(string)
		text := fmt.Sprint(joinedIn(sync, room))
		heard, typing = heard || strings.Contains(text, "hello from alice"), typing || strings.Contains(text, "m.typing")
		member = member || stateIn(testserver.Get(joinedIn(sync, room), "state", "events"), "m.room.member", alice.User) != nil
		return heard && typing && member
	})
	members := make(chan map[string]any)
	go func() { members <- bob.Do("GET", inRoom+"/members", nil) }()
	woken := make(chan map[string]any)
	go func() { woken <- syncOf(bob, false, eager, 20*time.Second) }()
	select {
	case got := <-members:
		t.Errorf("/members returns %v before the members are known", got)
	case got := <-woken:
		t.Errorf("a waiting /sync of a client that wants all members returns %v before they are known", got)
	case <-time.After(100 * time.Millisecond):
	}
	release()
	if got, _ := (<-members)["chunk"].([]any); len(got) != 4+banned {
		t.Errorf("/members returns %d events, want %d", len(got), 4+banned)
	}
	answer := <-woken
	for range 20 { // what else is new, such as the devices of a member, may arrive first
		if joinedIn(answer, room) != nil {
			break
		}
		answer = syncOf(bob, false, answer["next_batch"].(string), 5*time.Second)
	}
	whole := joinedIn(answer, room)
	for _, c := range append(others, alice) {
		if stateIn(testserver.Get(whole, "state", "events"), "m.room.member", c.User) == nil {
			t.Errorf("the state for the client that wants all members lacks %s: %v", c.User, whole)
		}
	}
	if stateIn(testserver.Get(whole, "state", "events"), "m.room.member", "@unwanted109:hs1.test") == nil {
		t.Error("the state for the client that wants all members lacks the banned users")
	}
	sync := syncOf(bob, true, since, 100*time.Millisecond)
	changed, _ := testserver.Get(sync, "device_lists", "changed").([]any)
	if !slices.Contains(changed, any(others[0].User)) || !slices.Contains(changed, any(others[1].User)) {
		t.Errorf("device_lists.changed is %v, want the users of the other servers", changed)
	}
	if n := testserver.Get(joinedIn(sync, room), "summary", "m.joined_member_count"); n != 4.0 {
		t.Errorf("the summary has %v joined members, want 4", n)
	}
	if got, _ := testserver.Get(joinedIn(sync, room), "state", "events").([]any); len(got) > 0 {
		t.Errorf("a client with lazy loading gets the state %v, want none", got)
	}
}

// A restart during a join only delays it.
func TestJoinGoesOnAfterARestart(t *testing.T) {
	w := newTown(t, 2)
	alice, bob := w.users[0], w.users[1]
	room := w.create(alice, map[string]any{"preset": "public_chat", "name": "Hall"})
	asked, release := slowState(w.net)
	w.join(bob, room)
	<-asked
	w.net.Stop(1)
	w.net.Start(1)
	<-asked
	bob.Do("PUT", "/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/1", map[string]any{"msgtype": "m.text", "body": "still here"})
	alice.Hears("still here")
	release()
	if got, _ := bob.Do("GET", "/v3/rooms/"+url.PathEscape(room)+"/members", nil)["chunk"].([]any); len(got) != 2 {
		t.Errorf("/members returns %d events, want 2", len(got))
	}
}
