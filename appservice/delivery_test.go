package appservice_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

// running starts a server with all background jobs, at which the bridge is registered.
func running(t *testing.T, b *bridge, more string) (*testserver.Network, *testserver.Server) {
	change := b.registered(more)
	n := testserver.Federation(t, 1, func(_ int, c *config.Config) { change(c) })
	return n, n.Servers[0]
}

// transactions returns the bodies of the transactions received so far, with their IDs in the order of first arrival.
func (b *bridge) transactions() (ids []string, bodies map[string]map[string]any) {
	bodies = map[string]map[string]any{}
	for _, r := range b.got("/transactions/") {
		id := r.path[strings.LastIndexByte(r.path, '/')+1:]
		if bodies[id] == nil {
			ids = append(ids, id)
		}
		bodies[id] = r.body
	}
	return ids, bodies
}

// events returns the events of all transactions, counting repeated transactions once.
func (b *bridge) events() (out []map[string]any) {
	ids, bodies := b.transactions()
	for _, id := range ids {
		list, _ := bodies[id]["events"].([]any)
		for _, e := range list {
			out = append(out, e.(map[string]any))
		}
	}
	return out
}

// texts returns the texts of the delivered messages.
func (b *bridge) texts() (out []string) {
	for _, e := range b.events() {
		if text, ok := testserver.Get(e, "content", "body").(string); ok && e["type"] == "m.room.message" {
			out = append(out, text)
		}
	}
	return out
}

// hears waits until exactly these messages have been delivered to the bridge.
func (b *bridge) hears(texts ...string) {
	b.t.Helper()
	eventually(b.t, fmt.Sprint("the bridge gets ", texts), func() bool { return slices.Contains(b.texts(), texts[len(texts)-1]) })
	if got := b.texts(); !slices.Equal(got, texts) {
		b.t.Fatalf("the bridge got %q, want %q", got, texts)
	}
}

// passing is like eventually, but advances the server's clock so that the delays between attempts end.
func passing(t testing.TB, s *testserver.Server, what string, f func() bool) {
	t.Helper()
	eventually(t, what, func() bool {
		s.Advance(2 * time.Second)
		return f()
	})
}

func say(c *testserver.Client, room, text string) string {
	path := fmt.Sprintf("/v3/rooms/%s/send/m.room.message/%s", room, strings.ReplaceAll(text, " ", "_"))
	return c.Do("PUT", path, map[string]any{"msgtype": "m.text", "body": text})["event_id"].(string)
}

func createRoom(c *testserver.Client, more map[string]any) string {
	body := map[string]any{"preset": "public_chat"}
	for k, v := range more {
		body[k] = v
	}
	return c.Do("POST", "/v3/createRoom", body)["room_id"].(string)
}

func TestEventsOfItsRoomsReachTheBridgeInOrderAndNoOthers(t *testing.T) {
	b := newBridge(t)
	_, s := running(t, b, "")
	app, alice := callerOf(s), s.Register("alice")
	other, room := createRoom(alice, nil), createRoom(alice, nil)
	say(alice, other, "elsewhere")
	say(alice, room, "before the join")
	ghost := app.registers("_bridge_ghost")
	app.Do("POST", as("/v3/join/"+room, ghost, ""), map[string]any{})
	say(alice, other, "elsewhere again")
	var want []string
	for i := range 150 {
		want = append(want, fmt.Sprint("message ", i))
		say(alice, room, want[i])
	}
	b.hears(want...)
	e := b.events()[0]
	if e["type"] != "m.room.member" || e["state_key"] != ghost || e["room_id"] != room || e["event_id"] == "" || testserver.Get(e, "unsigned", "age") == nil {
		t.Errorf("the first event is %v", e)
	}
	if b.got("/transactions/")[0].query.Get("access_token") != "" {
		t.Error("the token is in the query")
	}
}

func TestAnInviteAndTheKickOfTheLastGhostArePushed(t *testing.T) {
	b := newBridge(t)
	_, s := running(t, b, "")
	alice := s.Register("alice")
	room := createRoom(alice, map[string]any{"name": "Portal"})
	ghost := "@_bridge_unregistered:" + s.Name()
	memberships := func() (out []string) {
		for _, e := range b.events() {
			if e["type"] == "m.room.member" && e["state_key"] == ghost {
				out = append(out, testserver.Get(e, "content", "membership").(string))
			}
		}
		return out
	}
	alice.Do("POST", "/v3/rooms/"+room+"/invite", map[string]any{"user_id": ghost})
	eventually(t, "the invite is pushed", func() bool { return slices.Equal(memberships(), []string{"invite"}) })
	if name := fmt.Sprint(testserver.Get(b.events()[0], "unsigned", "invite_room_state")); !strings.Contains(name, "Portal") {
		t.Errorf("the invite has the state %s", name)
	}
	app := callerOf(s)
	app.registers("_bridge_unregistered")
	app.Do("POST", as("/v3/join/"+room, ghost, ""), map[string]any{})
	alice.Do("POST", "/v3/rooms/"+room+"/kick", map[string]any{"user_id": ghost})
	say(alice, room, "after the kick")
	eventually(t, "the kick is pushed", func() bool { return slices.Equal(memberships(), []string{"invite", "join", "leave"}) })
	last := b.events()[len(b.events())-1]
	if testserver.Get(last, "unsigned", "prev_content", "membership") != "join" {
		t.Errorf("the kick is %v", last)
	}
	if got := b.texts(); len(got) > 0 {
		t.Errorf("the bridge got %q", got)
	}
}

func TestRoomsWithAnAliasInTheNamespacesConcernTheBridge(t *testing.T) {
	b := newBridge(t)
	_, s := running(t, b, "")
	app, alice := callerOf(s), s.Register("alice")
	room := createRoom(alice, nil)
	say(alice, room, "before")
	app.Do("POST", "/v3/join/"+room, map[string]any{})
	app.Do("PUT", "/v3/directory/room/%23_bridge_room:"+s.Name(), map[string]any{"room_id": room})
	app.Do("POST", "/v3/rooms/"+room+"/leave", map[string]any{})
	say(alice, room, "with the alias")
	b.hears("with the alias")
	app.Do("DELETE", "/v3/directory/room/%23_bridge_room:"+s.Name(), nil)
	say(alice, room, "without it")
	second := app.Do("POST", "/v3/createRoom", map[string]any{"room_alias_name": "_bridge_two", "preset": "public_chat"})["room_id"].(string)
	alice.Do("POST", "/v3/join/"+second, map[string]any{})
	say(alice, second, "second")
	b.hears("with the alias", "second")
}

func TestARefusedTransactionIsRepeatedUnchangedAndInOrder(t *testing.T) {
	b := newBridge(t)
	_, s := running(t, b, "")
	app, alice := callerOf(s), s.Register("alice")
	room := createRoom(alice, nil)
	app.Do("POST", "/v3/join/"+room, map[string]any{})
	eventually(t, "the join arrives", func() bool { return len(b.events()) == 1 })
	b.answers(func(request) (int, string) { return 500, "garbage" })
	say(alice, room, "one")
	eventually(t, "the first try", func() bool { return len(b.got("/transactions/")) > 1 })
	say(alice, room, "two")
	for range 3 {
		tries := len(b.got("/transactions/"))
		passing(t, s, "another try", func() bool { return len(b.got("/transactions/")) > tries })
	}
	b.answers(nil)
	passing(t, s, "the bridge gets both", func() bool { return len(b.texts()) == 2 })
	b.hears("one", "two")
	ids, _ := b.transactions()
	if len(ids) != 3 {
		t.Errorf("the transactions are %q", ids)
	}
}

func TestEventsFromADowntimeAreDeliveredOnce(t *testing.T) {
	b := newBridge(t)
	n, s := running(t, b, "")
	app, alice := callerOf(s), s.Register("alice")
	room := createRoom(alice, nil)
	ghost := app.registers("_bridge_ghost")
	app.Do("POST", as("/v3/join/"+room, ghost, ""), map[string]any{})
	say(alice, room, "one")
	b.hears("one")
	tries := len(b.got("/transactions/"))
	b.answers(func(request) (int, string) { return 502, "" })
	say(alice, room, "two")
	eventually(t, "a failed try", func() bool { return len(b.got("/transactions/")) > tries })
	say(alice, room, "three")
	alice.Do("POST", "/v3/rooms/"+room+"/kick", map[string]any{"user_id": ghost})
	say(alice, room, "after the kick")
	n.Stop(0)
	b.answers(nil)
	n.Start(0)
	s.Advance(time.Hour)
	alice.Do("GET", "/v3/account/whoami", nil)
	b.hears("one", "two", "three")
}

func TestRedactedAndExpiredEventsAreNotDeliveredLate(t *testing.T) {
	b := newBridge(t)
	_, s := running(t, b, "")
	app, alice := callerOf(s), s.Register("alice")
	room := createRoom(alice, map[string]any{"initial_state": []any{
		map[string]any{"type": "m.room.retention", "content": map[string]any{"max_lifetime": 3600_000}},
	}})
	app.Do("POST", "/v3/join/"+room, map[string]any{})
	eventually(t, "the join arrives", func() bool { return len(b.events()) == 1 })
	b.answers(func(request) (int, string) { return 500, "" })
	tries := len(b.got("/transactions/"))
	say(alice, room, "expires")
	topic := alice.Do("PUT", "/v3/rooms/"+room+"/state/m.room.topic", map[string]any{"topic": "a topic"})["event_id"].(string)
	alice.Do("PUT", "/v3/rooms/"+room+"/redact/"+topic+"/2", map[string]any{"reason": "expires, too"})
	eventually(t, "a failed try", func() bool { return len(b.got("/transactions/")) > tries })
	s.Advance(2 * time.Hour)
	redacted := say(alice, room, "is redacted")
	alice.Do("PUT", "/v3/rooms/"+room+"/redact/"+redacted+"/1", map[string]any{})
	say(alice, room, "stays")
	b.answers(nil)
	passing(t, s, "the bridge gets a message", func() bool { return len(b.texts()) > 0 })
	b.hears("stays")
	found := map[string]any{}
	for _, e := range b.events() {
		if len(e["content"].(map[string]any)) == 0 {
			found[e["event_id"].(string)] = testserver.Get(e, "unsigned", "redacted_because")
		}
	}
	if found[redacted] == nil {
		t.Error("the redacted event did not arrive in redacted form")
	}
	if because, there := found[topic]; !there || because != nil {
		t.Errorf("the redacted topic arrived %v, with a redaction that has expired: %v", there, because)
	}
}

func TestAHangingBridgeDelaysNobodyElse(t *testing.T) {
	slow, quick := newBridge(t), newBridge(t)
	first, second := slow.registered(""), quick.registeredAs("quick", "quick-token", "_quick_", "")
	n := testserver.Federation(t, 1, func(_ int, c *config.Config) { first(c); second(c) })
	s := n.Servers[0]
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	slow.answers(func(request) (int, string) { <-release; return 200, "{}" })
	alice := s.Register("alice")
	room := createRoom(alice, nil)
	app, other := callerOf(s), callerOf(s)
	other.Token = "quick-token"
	app.Do("POST", "/v3/join/"+room, map[string]any{})
	other.Do("POST", "/v3/join/"+room, map[string]any{})
	say(alice, room, "hello")
	quick.hears("hello")
	if got := slow.got("/transactions/"); len(got) != 1 {
		t.Errorf("the bridge that hangs got %d transactions", len(got))
	}
}

func TestAnAnswerThatIsTooLargeIsAFailure(t *testing.T) {
	b := newBridge(t)
	_, s := running(t, b, "")
	app, alice := callerOf(s), s.Register("alice")
	room := createRoom(alice, nil)
	b.answers(func(request) (int, string) { return 200, strings.Repeat("garbage ", 1<<18) })
	app.Do("POST", "/v3/join/"+room, map[string]any{})
	eventually(t, "the first try", func() bool { return len(b.got("/transactions/")) > 0 })
	passing(t, s, "another try", func() bool { return len(b.got("/transactions/")) > 1 })
	b.answers(nil)
	say(alice, room, "hello")
	passing(t, s, "the bridge gets the message", func() bool { return len(b.texts()) > 0 })
}

func TestOldBridgesGetTheirPathAndTheTokenInTheQuery(t *testing.T) {
	b := newBridge(t)
	b.answers(func(r request) (int, string) {
		switch {
		case strings.HasPrefix(r.path, "/_matrix/app/"):
			return 404, "Cannot PUT"
		case r.query.Get("access_token") != hsToken:
			return 403, "{}"
		}
		return 200, "{}"
	})
	_, s := running(t, b, "")
	app, alice := callerOf(s), s.Register("alice")
	room := createRoom(alice, nil)
	app.Do("POST", "/v3/join/"+room, map[string]any{})
	say(alice, room, "one")
	accepted := func() (out []string) {
		for _, r := range b.got("/transactions/") {
			if list, _ := r.body["events"].([]any); strings.HasPrefix(r.path, "/transactions/") && r.query.Get("access_token") == hsToken {
				for _, e := range list {
					if text, ok := testserver.Get(e, "content", "body").(string); ok {
						out = append(out, text)
					}
				}
			}
		}
		return out
	}
	eventually(t, "the old path is used", func() bool { return slices.Equal(accepted(), []string{"one"}) })
}
