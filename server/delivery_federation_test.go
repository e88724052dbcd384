package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ebb/fedclient"
	"ebb/internal/testserver"
	"ebb/mxerr"
	"ebb/outbox"
)

// neighbours starts two servers with one user each, who share a room.
func neighbours(t *testing.T) (net *testserver.Network, alice, bob *testserver.Client, room string) {
	t.Helper()
	net = testserver.Federation(t, 2, nil)
	alice, bob = net.Servers[0].Register("alice"), net.Servers[1].Register("bob")
	room, _ = alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat"})["room_id"].(string)
	bob.Do("POST", "/v3/join/"+room+"?via=hs1.test", map[string]any{})
	return net, alice, bob, room
}

// listener collects the events of a room that a client's /sync returns after the listener was created.
type listener struct {
	t      *testing.T
	c      *testserver.Client
	room   string
	since  string
	events []map[string]any
}

func listen(t *testing.T, c *testserver.Client, room string) *listener {
	t.Helper()
	since, _ := c.Do("GET", "/v3/sync", nil)["next_batch"].(string)
	return &listener{t: t, c: c, room: room, since: since}
}

// until syncs until f returns true.
func (l *listener) until(what string, f func() bool) {
	l.t.Helper()
	for end := time.Now().Add(time.Minute); !f(); {
		if time.Now().After(end) {
			l.t.Fatalf("%s: not within a minute, there is %v", what, l.bodies())
		}
		answer := l.c.Do("GET", "/v3/sync?timeout=10000&since="+l.since+"&filter="+`%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:100%7D%7D%7D`, nil)
		l.since, _ = answer["next_batch"].(string)
		for _, in := range []string{"join", "leave"} {
			timeline, _ := testserver.Get(answer, "rooms", in, l.room, "timeline", "events").([]any)
			for _, e := range timeline {
				event, _ := e.(map[string]any)
				l.events = append(l.events, event)
			}
		}
	}
}

func (l *listener) bodies() (out []string) {
	for _, e := range l.events {
		if body, ok := testserver.Get(e, "content", "body").(string); ok {
			out = append(out, body)
		}
	}
	return out
}

func tell(c *testserver.Client, room, body string) (eventID string) {
	answer := c.Do("PUT", "/v3/rooms/"+room+"/send/m.room.message/"+body, map[string]any{"msgtype": "m.text", "body": body})
	eventID, _ = answer["event_id"].(string)
	return eventID
}

func numbers(prefix string, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprint(prefix, i))
	}
	return out
}

// sent records the transactions that the first server sends to the second.
type sent struct {
	mu    sync.Mutex // guards the fields below
	paths []string
	all   bytes.Buffer
	lose  func(n int) bool // optional response to the n-th transaction, counted from 1
}

func record(net *testserver.Network) *sent {
	s := &sent{}
	net.Intercept(func(w http.ResponseWriter, r *http.Request, to string, next http.Handler) {
		if !strings.Contains(r.URL.Path, "/send/") || to != "hs2.test" {
			next.ServeHTTP(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		s.mu.Lock()
		s.paths = append(s.paths, r.URL.Path)
		s.all.Write(body)
		lost := s.lose != nil && s.lose(len(s.paths))
		s.mu.Unlock()
		next.ServeHTTP(w, r)
		if lost {
			panic(http.ErrAbortHandler)
		}
	})
	return s
}

func (s *sent) contains(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.all.String(), text)
}

func TestMessagesSentDuringAPartitionArriveAfterwards(t *testing.T) {
	net, alice, bob, room := neighbours(t)
	atAlice, atBob := listen(t, alice, room), listen(t, bob, room)
	net.Cut("hs1.test", "hs2.test")
	for i := range 70 {
		tell(alice, room, fmt.Sprint("a", i))
		if i%10 == 0 {
			tell(bob, room, fmt.Sprint("b", i/10))
		}
	}
	net.Heal()
	atBob.until("bob hears all", func() bool { return len(atBob.bodies()) == 77 })
	atAlice.until("alice hears all", func() bool { return len(atAlice.bodies()) == 77 })
	for _, l := range []*listener{atAlice, atBob} {
		for prefix, n := range map[string]int{"a": 70, "b": 7} {
			got := slices.DeleteFunc(l.bodies(), func(s string) bool { return !strings.HasPrefix(s, prefix) })
			if !slices.Equal(got, numbers(prefix, n)) {
				t.Errorf("%s gets %v; want all %d messages with the prefix %q, in order", l.c.User, got, n, prefix)
			}
		}
	}
}

func TestQueuedEventsThatAreRedactedOrExpireAreNotSent(t *testing.T) {
	net, alice, bob, room := neighbours(t)
	atBob := listen(t, bob, room)
	alice.Do("PUT", "/v3/rooms/"+room+"/state/m.room.retention", map[string]any{"max_lifetime": 3_600_000})
	net.Stop(1)
	s := record(net)
	redacted := tell(alice, room, "said-in-anger")
	tell(alice, room, "said-long-ago")
	alice.Do("PUT", "/v3/rooms/"+room+"/redact/"+redacted+"/1", map[string]any{})
	net.Servers[0].Advance(2 * time.Hour)
	net.Servers[1].Advance(2 * time.Hour)
	tell(alice, room, "said-now")
	net.Start(1)
	atBob.until("bob hears the newest", func() bool { return slices.Contains(atBob.bodies(), "said-now") })
	if s.contains("said-in-anger") || s.contains("said-long-ago") {
		t.Error("a redacted or expired message was sent")
	}
	if got := atBob.bodies(); !slices.Equal(got, []string{"said-now"}) {
		t.Errorf("bob gets %v, want only the message that is left", got)
	}
}

func TestAServerReceivesTheKickOfItsLastUserAfterAnOutage(t *testing.T) {
	net, alice, bob, room := neighbours(t)
	atBob := listen(t, bob, room)
	net.Cut("hs1.test", "hs2.test")
	tell(alice, room, "before")
	alice.Do("POST", "/v3/rooms/"+room+"/kick", map[string]any{"user_id": bob.User})
	tell(alice, room, "behind his back")
	net.Stop(0) // the queue survives the restart
	net.Start(0)
	net.Heal()
	atBob.until("bob is out", func() bool {
		return slices.ContainsFunc(atBob.events, func(e map[string]any) bool {
			return e["state_key"] == bob.User && testserver.Get(e, "content", "membership") == "leave"
		})
	})
	if slices.Contains(atBob.bodies(), "behind his back") {
		t.Error("bob gets a message from after the kick")
	}
}

func TestATransactionWithoutAResponseIsRetriedAndAppliedOnce(t *testing.T) {
	net, alice, bob, room := neighbours(t)
	atBob := listen(t, bob, room)
	s := record(net)
	s.lose = func(n int) bool { return n <= 2 }
	tell(alice, room, "once")
	tell(alice, room, "then")
	atBob.until("bob hears both", func() bool { return slices.Contains(atBob.bodies(), "then") })
	if got := atBob.bodies(); !slices.Equal(got, []string{"once", "then"}) {
		t.Errorf("bob gets %v, want each message once", got)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.paths) < 3 || s.paths[0] != s.paths[1] || s.paths[1] != s.paths[2] {
		t.Errorf("the paths of the transactions are %v, want the first one three times", s.paths)
	}
}

func TestRoomsWithoutOtherServersSendNothing(t *testing.T) {
	net, alice, bob, _ := neighbours(t)
	s := record(net)
	carol := net.Servers[0].Register("carol")
	local, _ := alice.Do("POST", "/v3/createRoom", map[string]any{
		"preset": "private_chat", "invite": []string{carol.User}, "creation_content": map[string]any{"m.federate": false},
	})["room_id"].(string)
	carol.Do("POST", "/v3/join/"+local, map[string]any{})
	tell(alice, local, "among-us")
	alice.Do("POST", "/v3/rooms/"+local+"/ban", map[string]any{"user_id": bob.User})
	invited, _ := alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "private_chat", "invite": []string{bob.User}})["room_id"].(string)
	tell(alice, invited, "not-yet-for-bob")
	raw, err := net.Servers[0].Control(context.Background(), "federation status", json.RawMessage(`{"server":"hs2.test"}`))
	status, _ := raw.([]outbox.Status)
	if mxerr.Code(err) != mxerr.CodeNotFound && (len(status) != 1 || status[0].Events != 0) {
		t.Errorf("the status of the other server is %+v (%v), want nothing that waits for it", raw, err)
	}
	if s.contains(local) || s.contains("not-yet-for-bob") {
		t.Errorf("an event was sent to a server that is not in the room: %s", s.all.String())
	}
}

func TestServersWithDifferentClocksReceiveEachOthersEvents(t *testing.T) {
	net, alice, bob, room := neighbours(t)
	atAlice, atBob := listen(t, alice, room), listen(t, bob, room)
	net.Servers[1].Advance(5 * time.Hour)
	tell(alice, room, "from-the-past")
	tell(bob, room, "from-the-future")
	both := []string{"from-the-past", "from-the-future"}
	for _, l := range []*listener{atAlice, atBob} {
		l.until("both are heard", func() bool {
			return !slices.ContainsFunc(both, func(s string) bool { return !slices.Contains(l.bodies(), s) })
		})
	}
	net.Stop(1)
	net.Start(1) // with keys that must be fetched again
	tell(alice, room, "and-again")
	atBob.until("after a restart", func() bool { return slices.Contains(atBob.bodies(), "and-again") })
}

// If a server cannot fetch what precedes an event, it must try again, even if no further event follows.
func TestAnEventWhosePredecessorsCannotBeFetchedIsRetried(t *testing.T) {
	net := testserver.Federation(t, 3, nil)
	alice, bob, carol := net.Servers[0].Register("alice"), net.Servers[1].Register("bob"), net.Servers[2].Register("carol")
	room, _ := alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat"})["room_id"].(string)
	bob.Do("POST", "/v3/join/"+room+"?via=hs1.test", map[string]any{})
	carol.Do("POST", "/v3/join/"+room+"?via=hs1.test", map[string]any{})
	atAlice, atBob, atCarol := listen(t, alice, room), listen(t, bob, room), listen(t, carol, room)
	carol.Do("PUT", "/v3/rooms/"+room+"/send/m.room.message/hello", map[string]any{"body": "hello", "msgtype": "m.text"})
	for _, l := range []*listener{atAlice, atBob} {
		l.until("carol is heard", func() bool { return slices.Contains(l.bodies(), "hello") })
	}
	net.Cut("hs2.test", "hs3.test")
	tell(alice, room, "first") // carol's server receives it, bob's does not yet
	var asked atomic.Int32
	net.Intercept(func(w http.ResponseWriter, r *http.Request, to string, next http.Handler) {
		x, _ := fedclient.ParseXMatrix(r.Header.Get("Authorization"))
		past := strings.Contains(r.URL.Path, "/get_missing_events/") || strings.Contains(r.URL.Path, "/state")
		if x.Origin == "hs2.test" && past && asked.Add(1) <= 2 || x.Origin == "hs1.test" && to == "hs2.test" {
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	})
	net.Heal()
	tell(alice, room, "second")
	atCarol.until("alice is heard", func() bool { return slices.Contains(atCarol.bodies(), "second") })
	tell(carol, room, "third")
	atBob.until("the third is heard", func() bool { return slices.Contains(atBob.bodies(), "third") })
	if asked.Load() < 3 {
		t.Errorf("the missing event was requested %d times, want at least 3", asked.Load())
	}
}

// If two servers set the topic while they cannot reach each other, one of the events loses in state resolution. The
// messages sent before it must arrive all the same.
func TestALosingStateEventHidesNoMessages(t *testing.T) {
	net, alice, bob, room := neighbours(t)
	alice.Do("PUT", "/v3/rooms/"+room+"/state/m.room.power_levels", map[string]any{"state_default": 0, "events": map[string]any{}})
	atAlice, atBob := listen(t, alice, room), listen(t, bob, room)
	tell(alice, room, "levels")
	atBob.until("bob hears of the levels", func() bool { return slices.Contains(atBob.bodies(), "levels") })
	net.Cut("hs1.test", "hs2.test")
	for _, c := range []*testserver.Client{alice, bob} {
		for i := range 5 { // more than one, since the first may be sent in a transaction of its own
			tell(c, room, fmt.Sprint("said-by-", c.User[1:2], i))
		}
		c.Do("PUT", "/v3/rooms/"+room+"/state/m.room.topic", map[string]any{"topic": "by " + c.User})
	}
	net.Heal()
	for _, l := range []*listener{atAlice, atBob} {
		l.until(l.c.User+" hears both", func() bool {
			return slices.Contains(l.bodies(), "said-by-a4") && slices.Contains(l.bodies(), "said-by-b4")
		})
	}
}

// A server that does not have an event cannot check whether its user may redact it; the other servers can.
func TestRedactionWithoutPowerReachesNobody(t *testing.T) {
	net := testserver.Federation(t, 2, nil)
	alice, bob := net.Servers[0].Register("alice"), net.Servers[1].Register("bob")
	room, _ := alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat"})["room_id"].(string)
	target := tell(alice, room, "from-before-bob")
	bob.Do("POST", "/v3/join/"+room+"?via=hs1.test", map[string]any{})
	atAlice, atBob := listen(t, alice, room), listen(t, bob, room)
	bob.Do("PUT", "/v3/rooms/"+room+"/redact/"+target+"/1", map[string]any{"reason": "spite"})
	tell(bob, room, "done")
	atAlice.until("alice hears that bob is done", func() bool { return slices.Contains(atAlice.bodies(), "done") })
	atBob.until("bob hears himself", func() bool { return slices.Contains(atBob.bodies(), "done") })
	messages := bob.Do("GET", "/v3/rooms/"+room+"/messages?dir=b&limit=50", nil) // this makes bob's server fetch the target of the redaction
	for who, seen := range map[string]any{
		"alice": append(atAlice.events, alice.Do("GET", "/v3/rooms/"+room+"/messages?dir=b&limit=50", nil)),
		"bob":   append(atBob.events, messages),
	} {
		if text := fmt.Sprint(seen); strings.Contains(text, "m.room.redaction") || strings.Contains(text, "spite") {
			t.Errorf("%s gets a redaction by a user without the power: %s", who, text)
		}
	}
	if e := alice.Do("GET", "/v3/rooms/"+room+"/event/"+target, nil); testserver.Get(e, "content", "body") != "from-before-bob" {
		t.Errorf("the target is %v, want it with its content", e)
	}
	alice.Do("PUT", "/v3/rooms/"+room+"/redact/"+target+"/2", map[string]any{"reason": "regret"})
	atBob.until("bob hears of alice's redaction", func() bool {
		return slices.ContainsFunc(atBob.events, func(e map[string]any) bool { return e["redacts"] == target })
	})
}
