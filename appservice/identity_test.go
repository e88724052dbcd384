package appservice_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

func TestAnApplicationServiceActsAsItsUsersOnly(t *testing.T) {
	s := testserver.New(t, newBridge(t).registered(""))
	app := callerOf(s)
	alice := s.Register("alice")
	if who := app.Do("GET", "/v3/account/whoami", nil); who["user_id"] != "@_bridge_bot:test" || who["device_id"] != nil {
		t.Errorf("without user_id it is %v", who)
	}
	ghost := app.registers("_bridge_ghost")
	if who := app.Do("GET", as("/v3/account/whoami", ghost, ""), nil); who["user_id"] != ghost {
		t.Errorf("as its user it is %v", who)
	}
	query := s.Anonymous() // old bridges send the token in the query
	if who := query.Do("GET", as("/v3/account/whoami?access_token="+asToken, ghost, ""), nil); who["user_id"] != ghost {
		t.Errorf("with the token in the query it is %v", who)
	}
	app.Refused("GET", as("/v3/account/whoami", alice.User, ""), nil, 403, "M_FORBIDDEN")
	app.Refused("GET", as("/v3/account/whoami", "@_bridge_x:elsewhere", ""), nil, 403, "M_FORBIDDEN")
	app.Refused("GET", as("/v3/account/whoami", "@_bridge_unregistered:test", ""), nil, 403, "M_FORBIDDEN")
	if who := alice.Do("GET", as("/v3/account/whoami", ghost, ""), nil); who["user_id"] != alice.User {
		t.Errorf("a user who names another one is %v", who)
	}
}

func TestAnApplicationServiceCannotActAsDeactivatedUsers(t *testing.T) {
	s := testserver.New(t, newBridge(t).registered(""))
	app := callerOf(s)
	ghost := app.registers("_bridge_ghost")
	app.Do("GET", as("/v3/account/whoami", ghost, ""), nil)
	app.Do("POST", as("/v3/account/deactivate", ghost, ""), map[string]any{}) // no password is required
	app.Refused("GET", as("/v3/account/whoami", ghost, ""), nil, 403, "M_USER_DEACTIVATED")
}

func TestExclusiveNamespacesAreReserved(t *testing.T) {
	b := newBridge(t)
	first, second := b.registered(""), b.registeredAs("other", "other-token", "_other_", "")
	s := testserver.New(t, func(c *config.Config) { first(c); second(c) })
	app, other := callerOf(s), callerOf(s)
	other.Token = "other-token"
	stranger := s.Anonymous()
	dummy := map[string]any{"type": "m.login.dummy"}
	stranger.Refused("POST", "/v3/register", map[string]any{"username": "_bridge_x", "password": testserver.Password(), "auth": dummy}, 400, "M_EXCLUSIVE")
	stranger.Refused("GET", "/v3/register/available?username=_bridge_x", nil, 400, "M_EXCLUSIVE")
	byService := func(name string) map[string]any {
		return map[string]any{"type": "m.login.application_service", "username": name}
	}
	other.Refused("POST", "/v3/register", byService("_bridge_x"), 400, "M_EXCLUSIVE")
	app.Refused("POST", "/v3/register", byService("outside"), 400, "M_EXCLUSIVE")
	stranger.Refused("POST", "/v3/register", byService("_bridge_x"), 401, "M_MISSING_TOKEN")
	stranger.Token = "wrong"
	stranger.Refused("POST", "/v3/register", byService("_bridge_x"), 401, "M_UNKNOWN_TOKEN")
	app.registers("_bridge_x")
	app.Refused("POST", "/v3/register", byService("_bridge_x"), 400, "M_USER_IN_USE")
}

func TestExclusiveAliasesAreReserved(t *testing.T) {
	s := testserver.New(t, newBridge(t).registered(""))
	app, alice := callerOf(s), s.Register("alice")
	room := alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat"})["room_id"].(string)
	directory := func(alias string) string { return "/v3/directory/room/" + url.PathEscape(alias) }
	target := map[string]any{"room_id": room}
	alice.Refused("PUT", directory("#_bridge_a:test"), target, 400, "M_EXCLUSIVE")
	alice.Refused("POST", "/v3/createRoom", map[string]any{"room_alias_name": "_bridge_a"}, 400, "M_EXCLUSIVE")
	app.Do("POST", "/v3/join/"+room, map[string]any{})
	app.Refused("PUT", directory("#outside:test"), target, 400, "M_EXCLUSIVE")
	app.Do("PUT", directory("#_bridge_a:test"), target)
	app.Do("POST", "/v3/createRoom", map[string]any{"room_alias_name": "_bridge_b"})
	alice.Refused("DELETE", directory("#_bridge_a:test"), nil, 400, "M_EXCLUSIVE")
	app.Do("POST", "/v3/rooms/"+room+"/leave", map[string]any{})
	app.Do("DELETE", directory("#_bridge_a:test"), nil) // it may manage its namespace even if its users are in no room
	alice.Refused("GET", directory("#_bridge_a:test"), nil, 404, "M_NOT_FOUND")
}

func TestApplicationServicesSignInWithoutPassword(t *testing.T) {
	s := testserver.New(t, newBridge(t).registered(""))
	app, alice := callerOf(s), s.Register("alice")
	login := func(user string) map[string]any {
		return map[string]any{"type": "m.login.application_service", "identifier": map[string]any{"type": "m.id.user", "user": user}}
	}
	ghost := app.registers("_bridge_ghost")
	in := app.Do("POST", "/v3/login", login("_bridge_ghost"))
	c := s.Anonymous()
	c.Token = in["access_token"].(string)
	if who := c.Do("GET", "/v3/account/whoami", nil); who["user_id"] != ghost || who["device_id"] != in["device_id"] {
		t.Errorf("signed in as %v", who)
	}
	app.Refused("POST", "/v3/login", login(alice.User), 403, "M_EXCLUSIVE")
	app.Refused("POST", "/v3/login", login("_bridge_unregistered"), 403, "M_FORBIDDEN")
	s.Anonymous().Refused("POST", "/v3/login", login("_bridge_ghost"), 401, "M_MISSING_TOKEN")
	alice.Refused("POST", "/v3/login", login("_bridge_ghost"), 401, "M_UNKNOWN_TOKEN")
	offered := false
	for _, f := range s.Anonymous().Do("GET", "/v3/login", nil)["flows"].([]any) {
		offered = offered || testserver.Get(f, "type") == "m.login.application_service"
	}
	if !offered {
		t.Error("the login flow is not offered")
	}
}

func TestDevicesAreManagedWithoutSigningIn(t *testing.T) {
	s := testserver.New(t, newBridge(t).registered("io.element.msc4190: true"))
	app, alice := callerOf(s), s.Register("alice")
	app.Refused("POST", "/v3/register", map[string]any{"type": "m.login.application_service", "username": "_bridge_ghost"}, 400, "M_APPSERVICE_LOGIN_UNSUPPORTED")
	ghost := app.registers("_bridge_ghost")
	app.Refused("POST", "/v3/login", map[string]any{"type": "m.login.application_service", "user": ghost}, 400, "M_APPSERVICE_LOGIN_UNSUPPORTED")
	put := func(c caller, path string, want int) {
		t.Helper()
		if status, _, raw := c.Raw("PUT", path, map[string]any{"display_name": "Bridge"}); status != want {
			t.Fatalf("PUT %s: %d %s, want %d", path, status, raw, want)
		}
	}
	app.Refused("GET", as("/v3/account/whoami", ghost, "DEV"), nil, 400, "M_UNKNOWN_DEVICE")
	put(app, as("/v3/devices/DEV", ghost, ""), 201)
	put(app, as("/v3/devices/DEV", ghost, ""), 200)
	alice.Refused("PUT", "/v3/devices/NEW", map[string]any{"display_name": "x"}, 404, "M_NOT_FOUND")
	if who := app.Do("GET", as("/v3/account/whoami", ghost, "DEV"), nil); who["device_id"] != "DEV" {
		t.Errorf("with a device it is %v", who)
	}
	if who := app.Do("GET", as("/v3/account/whoami?org.matrix.msc3202.device_id=DEV", ghost, ""), nil); who["device_id"] != "DEV" {
		t.Errorf("with the unstable parameter it is %v", who)
	}
	app.Refused("POST", as("/v3/keys/upload", ghost, ""), map[string]any{}, 400, "M_MISSING_PARAM")
	app.Do("POST", as("/v3/keys/upload", ghost, "DEV"), map[string]any{})
	app.Do("DELETE", as("/v3/devices/DEV", ghost, ""), nil) // no user-interactive authentication is required
	app.Refused("GET", as("/v3/account/whoami", ghost, "DEV"), nil, 400, "M_UNKNOWN_DEVICE")
}

func TestApplicationServicesReplaceCrossSigningKeysWithoutPassword(t *testing.T) {
	s := testserver.New(t, newBridge(t).registered(""))
	app := callerOf(s)
	ghost := app.registers("_bridge_ghost")
	for _, key := range []string{"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"} {
		master := map[string]any{"user_id": ghost, "usage": []string{"master"}, "keys": map[string]any{"ed25519:" + key: key}}
		app.Do("POST", as("/v3/keys/device_signing/upload", ghost, ""), map[string]any{"master_key": master})
		answer := app.Do("POST", as("/v3/keys/query", ghost, ""), map[string]any{"device_keys": map[string]any{ghost: []string{}}})
		if testserver.Get(answer, "master_keys", ghost, "keys", "ed25519:"+key) != key {
			t.Fatalf("the keys are %v", answer)
		}
	}
}

func TestApplicationServicesSetTimestampsAndRepeatTransactionsWithoutDevice(t *testing.T) {
	s := testserver.New(t, newBridge(t).registered(""))
	app, alice := callerOf(s), s.Register("alice")
	room := alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat"})["room_id"].(string)
	ghost := app.registers("_bridge_ghost")
	app.Do("PUT", as("/v3/rooms/"+room+"/state/m.room.member/"+ghost+"?ts=1500000000000", ghost, ""), map[string]any{"membership": "join"})
	send := as("/v3/rooms/"+room+"/send/m.room.message/1?ts=1600000000000", ghost, "")
	body := map[string]any{"msgtype": "m.text", "body": "from long ago"}
	first := app.Do("PUT", send, body)["event_id"].(string)
	if again := app.Do("PUT", send, body)["event_id"]; again != first {
		t.Errorf("repeated, the transaction made the event %v besides %v", again, first)
	}
	event := alice.Do("GET", "/v3/rooms/"+room+"/event/"+url.PathEscape(first), nil)
	if event["origin_server_ts"] != 1.6e12 || event["sender"] != ghost {
		t.Errorf("the event is %v", event)
	}
	member := alice.Do("GET", "/v3/rooms/"+room+"/state/m.room.member/"+ghost+"?format=event", nil)
	if member["origin_server_ts"] != 1.5e12 {
		t.Errorf("the member event is %v", member)
	}
	app.Refused("PUT", as("/v3/rooms/"+room+"/send/m.room.message/2?ts=-1", ghost, ""), body, 400, "M_INVALID_PARAM")
	own := alice.Do("PUT", "/v3/rooms/"+room+"/send/m.room.message/1?ts=1600000000000", body)["event_id"].(string)
	if event := alice.Do("GET", "/v3/rooms/"+room+"/event/"+url.PathEscape(own), nil); event["origin_server_ts"] == 1.6e12 {
		t.Error("a user set the timestamp of an event")
	}
}

func TestApplicationServicesAreRateLimitedOnlyIfRegisteredSo(t *testing.T) {
	limited := func(c *config.Config) {
		c.RateLimits.Enabled = true
		c.RateLimits.Sends, c.RateLimits.Anonymous = config.Bucket{PerSecond: 0.001, Burst: 3}, config.Bucket{PerSecond: 0.001, Burst: 3}
	}
	for more, want := range map[string]int{"": 200, "rate_limited: true": 429} {
		file := newBridge(t).registered(more)
		s := testserver.New(t, func(c *config.Config) { limited(c); file(c) })
		app := callerOf(s)
		ghost := app.registers("_bridge_ghost")
		status := 0
		for range 5 {
			status, _, _ = app.Raw("PUT", as("/v3/presence/"+ghost+"/status", ghost, ""), map[string]any{"presence": "online"})
		}
		if status != want {
			t.Errorf("%q: %d after many requests, want %d", more, status, want)
		}
		for i := range 5 { // the sender is never limited
			app.Do("PUT", "/v3/presence/@_bridge_bot:test/status", map[string]any{"presence": "online", "status_msg": string(rune('a' + i))})
		}
	}
}

func TestAnUnknownUserOrAliasIsCreatedWhenAskedFor(t *testing.T) {
	b := newBridge(t)
	s := testserver.New(t, b.registered(""))
	app, alice := callerOf(s), s.Register("alice")
	b.answers(func(r request) (int, string) {
		switch r.path {
		case "/_matrix/app/v1/users/@_bridge_ghost:test":
			app.registers("_bridge_ghost")
		case "/_matrix/app/v1/rooms/#_bridge_room:test":
			app.Do("POST", "/v3/createRoom", map[string]any{"room_alias_name": "_bridge_room"})
		default:
			return 404, `{"errcode":"M_NOT_FOUND"}`
		}
		return 200, "{}"
	})
	alice.Do("GET", "/v3/profile/@_bridge_ghost:test", nil)
	alice.Refused("GET", "/v3/profile/@_bridge_nobody:test", nil, 404, "M_NOT_FOUND")
	alice.Refused("GET", "/v3/profile/@nobody:test", nil, 404, "M_NOT_FOUND")
	if answer := alice.Do("GET", "/v3/directory/room/"+url.PathEscape("#_bridge_room:test"), nil); answer["room_id"] == nil {
		t.Errorf("the alias leads to %v", answer)
	}
	alice.Refused("GET", "/v3/directory/room/"+url.PathEscape("#_bridge_none:test"), nil, 404, "M_NOT_FOUND")
	if n := len(b.got("/users/")); n != 2 {
		t.Errorf("the bridge was asked for users %d times", n)
	}
}

func TestAnUnknownUserIsCreatedWhenInvited(t *testing.T) {
	b := newBridge(t)
	change := b.registered("")
	net := testserver.Federation(t, 2, func(_ int, c *config.Config) { change(c) })
	app, alice, bob := callerOf(net.Servers[0]), net.Servers[0].Register("alice"), net.Servers[1].Register("bob")
	b.answers(func(r request) (int, string) {
		user, asked := strings.CutPrefix(r.path, "/_matrix/app/v1/users/@")
		if !asked {
			return 200, "{}"
		}
		app.registers(strings.TrimSuffix(user, ":hs1.test"))
		return 200, "{}"
	})
	exists := func(localpart string) {
		t.Helper()
		before := len(b.got("/users/"))
		alice.Do("GET", "/v3/profile/@"+localpart+":hs1.test", nil)
		if len(b.got("/users/")) != before {
			t.Errorf("the bridge was not asked for %s by the invite", localpart)
		}
	}
	room, _ := alice.Do("POST", "/v3/createRoom", map[string]any{"invite": []string{"@_bridge_created:hs1.test"}})["room_id"].(string)
	exists("_bridge_created")
	alice.Do("POST", "/v3/rooms/"+url.PathEscape(room)+"/invite", map[string]any{"user_id": "@_bridge_invited:hs1.test"})
	exists("_bridge_invited")
	elsewhere, _ := bob.Do("POST", "/v3/createRoom", nil)["room_id"].(string)
	bob.Do("POST", "/v3/rooms/"+url.PathEscape(elsewhere)+"/invite", map[string]any{"user_id": "@_bridge_remote:hs1.test"})
	exists("_bridge_remote")
}

// TestABridgeThatHangsDelaysNewRoomsByOneQueryOnly has a bridge that answers no query for a user before it has got all
// of them.
func TestABridgeThatHangsDelaysNewRoomsByOneQueryOnly(t *testing.T) {
	b := newBridge(t)
	s := testserver.New(t, b.registered(""))
	alice := s.Register("alice")
	const ghosts = 8 // as many as are asked for at a time
	var waiting sync.WaitGroup
	waiting.Add(ghosts)
	b.answers(func(r request) (int, string) {
		if strings.Contains(r.path, "/users/") {
			waiting.Done()
			waiting.Wait()
		}
		return 404, "{}"
	})
	var invite []string
	for i := range ghosts {
		invite = append(invite, fmt.Sprintf("@_bridge_%d:test", i))
	}
	began := time.Now()
	alice.Do("POST", "/v3/createRoom", map[string]any{"invite": invite})
	if took := time.Since(began); took > 15*time.Second { // a query is given up after 20 s
		t.Errorf("the room was created after %v", took)
	}
}

// Anybody can ask for the profiles of users that do not exist.
func TestQueriesThatABridgeDoesNotAnswerDelayNoTransactions(t *testing.T) {
	b := newBridge(t)
	_, s := running(t, b, "")
	app, alice := callerOf(s), s.Register("alice")
	ghost := app.registers("_bridge_ghost")
	room := alice.Do("POST", "/v3/createRoom", map[string]any{"invite": []string{ghost}})["room_id"].(string)
	app.Do("POST", as("/v3/join/"+url.PathEscape(room), ghost, ""), map[string]any{})
	release := make(chan struct{})
	b.answers(func(r request) (int, string) {
		if strings.Contains(r.path, "/users/") {
			<-release
			return 404, "{}"
		}
		return 200, "{}"
	})
	var asking sync.WaitGroup
	for i := range 40 {
		asking.Go(func() { s.Anonymous().Raw("GET", fmt.Sprintf("/v3/profile/@_bridge_%d:hs1.test", i), nil) })
	}
	defer asking.Wait()
	defer close(release)
	eventually(t, "queries are in progress", func() bool { return len(b.got("/users/")) >= 8 })
	alice.Do("PUT", "/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/1", map[string]any{"msgtype": "m.text", "body": "in between"})
	eventually(t, "the message is delivered", func() bool { return slices.Contains(b.texts(), "in between") })
}
