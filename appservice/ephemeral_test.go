package appservice_test

import (
	"slices"
	"testing"
	"time"

	"ebb/internal/testserver"
)

// ephemeral returns the delivered ephemeral events of a type.
func (b *bridge) ephemeral(typ string) (out []map[string]any) {
	ids, bodies := b.transactions()
	for _, id := range ids {
		list, _ := bodies[id]["ephemeral"].([]any)
		for _, e := range list {
			if e := e.(map[string]any); e["type"] == typ {
				out = append(out, e)
			}
		}
	}
	return out
}

func TestTypingReceiptsAndPresenceReachBridgesThatWantThem(t *testing.T) {
	b := newBridge(t)
	_, s := running(t, b, "receive_ephemeral: true")
	app, alice, bob := callerOf(s), s.Register("alice"), s.Register("bob")
	room, other := createRoom(alice, nil), createRoom(bob, nil)
	ghost := app.registers("_bridge_ghost")
	app.Do("POST", as("/v3/join/"+room, ghost, ""), map[string]any{})
	eventID, elsewhere := say(alice, room, "hello"), say(bob, other, "elsewhere")
	b.hears("hello")

	alice.Do("PUT", "/v3/rooms/"+room+"/typing/"+alice.User, map[string]any{"typing": true, "timeout": 30000})
	bob.Do("PUT", "/v3/rooms/"+other+"/typing/"+bob.User, map[string]any{"typing": true, "timeout": 30000})
	eventually(t, "typing arrives", func() bool { return len(b.ephemeral("m.typing")) == 1 })
	if e := b.ephemeral("m.typing")[0]; e["room_id"] != room || testserver.Get(e, "content", "user_ids", 0) != alice.User {
		t.Errorf("typing is %v", e)
	}

	bob.Do("POST", "/v3/rooms/"+other+"/receipt/m.read/"+elsewhere, map[string]any{})
	alice.Do("POST", "/v3/rooms/"+room+"/receipt/m.read.private/"+eventID, map[string]any{})
	alice.Do("POST", "/v3/rooms/"+room+"/receipt/m.read/"+eventID, map[string]any{"thread_id": "main"})
	app.Do("POST", as("/v3/rooms/"+room+"/receipt/m.read.private/"+eventID, ghost, ""), map[string]any{})
	eventually(t, "receipts arrive", func() bool { return len(b.ephemeral("m.receipt")) == 2 })
	for _, e := range b.ephemeral("m.receipt") {
		public := testserver.Get(e, "content", eventID, "m.read", alice.User, "thread_id") == "main"
		if private := testserver.Get(e, "content", eventID, "m.read.private", ghost); e["room_id"] != room || !public && private == nil {
			t.Errorf("a receipt is %v", e)
		}
	}

	presence := map[string]any{"presence": "online", "status_msg": "here"}
	bob.Do("PUT", "/v3/presence/"+bob.User+"/status", presence)
	alice.Do("PUT", "/v3/presence/"+alice.User+"/status", presence)
	here := func() bool {
		return slices.ContainsFunc(b.ephemeral("m.presence"), func(e map[string]any) bool {
			return e["sender"] == alice.User && testserver.Get(e, "content", "status_msg") == "here"
		})
	}
	eventually(t, "presence arrives", here)
	for _, e := range b.ephemeral("m.presence") {
		if e["sender"] == bob.User {
			t.Errorf("the bridge got the presence of somebody in none of its rooms: %v", e)
		}
	}
	if body := b.got("/transactions/")[len(b.got("/transactions/"))-1].body; body["ephemeral"] == nil || body["de.sorunome.msc2409.ephemeral"] != nil {
		t.Errorf("a transaction is %v", body)
	}
}

func TestBridgesGetNoEphemeralDataUnlessTheyWantIt(t *testing.T) {
	b := newBridge(t)
	_, s := running(t, b, "")
	app, alice := callerOf(s), s.Register("alice")
	room := createRoom(alice, nil)
	app.Do("POST", "/v3/join/"+room, map[string]any{})
	alice.Do("PUT", "/v3/rooms/"+room+"/typing/"+alice.User, map[string]any{"typing": true})
	alice.Do("POST", "/v3/rooms/"+room+"/receipt/m.read/"+say(alice, room, "one"), map[string]any{})
	say(alice, room, "two")
	b.hears("one", "two")
	for _, r := range b.got("/transactions/") {
		if len(r.body) != 1 {
			t.Errorf("a transaction has more than events: %v", r.body)
		}
	}
}

// members returns the values of a member of the transactions that the bridge received.
func (b *bridge) members(name string) (out []any) {
	ids, bodies := b.transactions()
	for _, id := range ids {
		if v := bodies[id][name]; v != nil {
			out = append(out, v)
		}
	}
	return out
}

func TestToDeviceMessagesReachTheBridgeOnce(t *testing.T) {
	b := newBridge(t)
	n, s := running(t, b, "receive_ephemeral: true")
	app, alice := callerOf(s), s.Register("alice")
	ghost := app.registers("_bridge_ghost")
	app.Raw("PUT", as("/v3/devices/DEV", ghost, ""), map[string]any{})
	send := func(user, device, text string) {
		alice.Do("PUT", "/v3/sendToDevice/m.test/"+text, map[string]any{"messages": map[string]any{user: map[string]any{device: map[string]any{"text": text}}}})
	}
	texts := func() (out []string) {
		for _, list := range b.members("de.sorunome.msc2409.to_device") {
			for _, m := range list.([]any) {
				if testserver.Get(m, "to_user_id") != ghost || testserver.Get(m, "to_device_id") != "DEV" || testserver.Get(m, "sender") != alice.User {
					t.Errorf("a message is %v", m)
				}
				out = append(out, testserver.Get(m, "content", "text").(string))
			}
		}
		return out
	}
	send(alice.User, "*", "to-herself")
	send(ghost, "DEV", "one")
	eventually(t, "the first message arrives", func() bool { return slices.Equal(texts(), []string{"one"}) })
	tries := len(b.got("/transactions/"))
	b.answers(func(request) (int, string) { return 500, "" })
	send(ghost, "*", "two")
	eventually(t, "a failed try", func() bool { return len(b.got("/transactions/")) > tries })
	send(ghost, "DEV", "three")
	n.Stop(0)
	b.answers(nil)
	n.Start(0)
	s.Advance(time.Hour)
	eventually(t, "all messages arrive", func() bool { return slices.Equal(texts(), []string{"one", "two", "three"}) })
	eventually(t, "/sync has none of them", func() bool {
		list, _ := testserver.Get(app.Do("GET", as("/v3/sync", ghost, "DEV"), nil), "to_device", "events").([]any)
		return len(list) == 0
	})
}

func TestToDeviceMessagesReachABridgeThatWantsNoEphemeralData(t *testing.T) {
	b := newBridge(t)
	_, s := running(t, b, "org.matrix.msc3202: true")
	app, alice := callerOf(s), s.Register("alice")
	ghost := app.registers("_bridge_ghost")
	app.Raw("PUT", as("/v3/devices/DEV", ghost, ""), map[string]any{})
	alice.Do("PUT", "/v3/sendToDevice/m.test/1", map[string]any{"messages": map[string]any{ghost: map[string]any{"DEV": map[string]any{}}}})
	eventually(t, "the message arrives", func() bool { return len(b.members("de.sorunome.msc2409.to_device")) == 1 })
}

func TestDeviceListsAndKeyCountsReachTheBridge(t *testing.T) {
	b := newBridge(t)
	_, s := running(t, b, "receive_ephemeral: true\norg.matrix.msc3202: true")
	app, alice, bob := callerOf(s), s.Register("alice"), s.Register("bob")
	room := createRoom(alice, nil)
	ghost := app.registers("_bridge_ghost")
	app.Raw("PUT", as("/v3/devices/DEV", ghost, ""), map[string]any{})
	app.Do("POST", as("/v3/join/"+room, ghost, ""), map[string]any{})
	upload := map[string]any{
		"device_keys": map[string]any{"user_id": ghost, "device_id": "DEV", "algorithms": []string{}, "keys": map[string]any{}, "signatures": map[string]any{}},
		"one_time_keys": map[string]any{
			"signed_curve25519:A": map[string]any{"key": "a", "signatures": map[string]any{}}, "signed_curve25519:B": map[string]any{"key": "b", "signatures": map[string]any{}},
		},
	}
	app.Do("POST", as("/v3/keys/upload", ghost, "DEV"), upload)
	told := func(kind, user string) func() bool {
		return func() bool {
			return slices.ContainsFunc(b.members("org.matrix.msc3202.device_lists"), func(v any) bool {
				list, _ := testserver.Get(v, kind).([]any)
				return slices.Contains(list, any(user))
			})
		}
	}
	s.Login("bob") // she shares no room
	s.Login("alice")
	eventually(t, "a new device is announced", told("changed", alice.User))
	bob.Do("POST", "/v3/join/"+room, map[string]any{})
	eventually(t, "who joined is announced", told("changed", bob.User))
	bob.Do("POST", "/v3/rooms/"+room+"/leave", map[string]any{})
	eventually(t, "who left is announced", told("left", bob.User))
	alice.Do("POST", "/v3/keys/claim", map[string]any{"one_time_keys": map[string]any{ghost: map[string]any{"DEV": "signed_curve25519"}}})
	eventually(t, "the number of keys is told", func() bool {
		counts := b.members("org.matrix.msc3202.device_one_time_keys_count")
		return len(counts) > 0 && testserver.Get(counts[len(counts)-1], ghost, "DEV", "signed_curve25519") == 1.0
	})
	for _, name := range []string{"org.matrix.msc3202.device_one_time_key_counts", "org.matrix.msc3202.device_unused_fallback_key_types"} {
		if len(b.members(name)) == 0 {
			t.Errorf("no transaction has %s", name)
		}
	}
	for _, name := range []string{"to_device", "device_lists", "device_one_time_keys_count", "device_unused_fallback_key_types"} {
		if len(b.members(name)) > 0 {
			t.Errorf("a transaction has %s besides its unstable name", name)
		}
	}
}

func TestEphemeralEventsHaveTheirUnstableNameIfTheRegistrationDoes(t *testing.T) {
	b := newBridge(t)
	_, s := running(t, b, "de.sorunome.msc2409.push_ephemeral: true")
	app, alice := callerOf(s), s.Register("alice")
	room := createRoom(alice, nil)
	app.Do("POST", as("/v3/join/"+room, app.registers("_bridge_ghost"), ""), map[string]any{})
	alice.Do("PUT", "/v3/rooms/"+room+"/typing/"+alice.User, map[string]any{"typing": true, "timeout": 30000})
	eventually(t, "typing arrives under both names", func() bool {
		return len(b.members("de.sorunome.msc2409.ephemeral")) > 0 && len(b.members("de.sorunome.msc2409.ephemeral")) == len(b.members("ephemeral"))
	})
}
