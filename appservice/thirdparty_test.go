package appservice_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
)

func TestThirdPartyNetworksOfAllBridgesAreListedTogether(t *testing.T) {
	one, two, broken := newBridge(t), newBridge(t), newBridge(t)
	first := one.registered("protocols: [irc]")
	second, third := two.registeredAs("two", "two-token", "_two_", "protocols: [irc, xmpp]"), broken.registeredAs("broken", "broken-token", "_broken_", "protocols: [gone]")
	describe := func(network string) func(request) (int, string) {
		return func(request) (int, string) {
			return 200, fmt.Sprintf(`{"user_fields":["nick"],"location_fields":["channel"],"icon":"mxc://x/y","field_types":{},"instances":[{"desc":"A","network_id":%q,"fields":{}}]}`, network)
		}
	}
	one.answers(describe("libera"))
	two.answers(describe("oftc"))
	broken.answers(func(request) (int, string) { return 500, "garbage" })
	s := testserver.New(t, func(c *config.Config) { first(c); second(c); third(c) })
	alice := s.Register("alice")
	all := alice.Do("GET", "/v3/thirdparty/protocols", nil)
	if len(all) != 2 || testserver.Get(all, "irc", "instances", 0, "instance_id") != "bridge|libera" || testserver.Get(all, "irc", "instances", 1, "instance_id") != "two|oftc" {
		t.Errorf("the protocols are %v", all)
	}
	if p := alice.Do("GET", "/v3/thirdparty/protocol/xmpp", nil); testserver.Get(p, "user_fields", 0) != "nick" {
		t.Errorf("xmpp is %v", p)
	}
	alice.Refused("GET", "/v3/thirdparty/protocol/unheard", nil, 404, "M_NOT_FOUND")
	if n := len(one.got("/thirdparty/protocol/irc")); n != 1 {
		t.Errorf("the bridge was asked %d times", n)
	}
}

func TestUsersAndLocationsOfThirdPartyNetworksAreFound(t *testing.T) {
	b, other := newBridge(t), newBridge(t)
	first, second := b.registered("protocols: [irc]"), other.registeredAs("other", "other-token", "_other_", "protocols: [xmpp]")
	s := testserver.New(t, func(c *config.Config) { first(c); second(c) })
	b.answers(func(r request) (int, string) {
		switch {
		case r.path == "/_matrix/app/v1/thirdparty/user/irc" && r.query.Get("nick") == "bob" && len(r.query) == 1,
			r.path == "/_matrix/app/v1/thirdparty/user" && r.query.Get("userid") == "@_bridge_bob:test":
			return 200, `[{"userid":"@_bridge_bob:test","protocol":"irc","fields":{"nick":"bob"}},{"no":"user"},7]`
		case r.path == "/_matrix/app/v1/thirdparty/location/irc" && r.query.Get("channel") == "#go",
			r.path == "/_matrix/app/v1/thirdparty/location" && r.query.Get("alias") == "#_bridge_go:test":
			return 200, `[{"alias":"#_bridge_go:test","protocol":"irc","fields":{"channel":"#go"}}]`
		}
		return 404, `{"errcode":"M_NOT_FOUND"}`
	})
	other.answers(func(request) (int, string) { return 200, "<html>" })
	alice := s.Register("alice")
	for path, want := range map[string]string{
		"/user/irc?nick=bob": "@_bridge_bob:test",
		"/user?userid=" + url.QueryEscape("@_bridge_bob:test"):      "@_bridge_bob:test",
		"/location/irc?channel=%23go":                               "#_bridge_go:test",
		"/location?alias=" + url.QueryEscape("#_bridge_go:test"):    "#_bridge_go:test",
		"/user/irc?nick=nobody":                                     "",
		"/location?alias=" + url.QueryEscape("#_bridge_other:test"): "",
	} {
		status, _, raw := alice.Raw("GET", "/v3/thirdparty"+path, nil)
		var found []map[string]any
		decode(t, raw, &found)
		if got := ""; status != 200 || len(found) > 1 || (len(found) == 1) != (want != "") || len(found) == 1 && found[0]["userid"] != want && found[0]["alias"] != want {
			t.Errorf("%s: %d %s%s, want %q", path, status, raw, got, want)
		}
	}
	if _, _, raw := alice.Raw("GET", "/v3/thirdparty/location?alias=%23unheard:test", nil); strings.TrimSpace(string(raw)) != "[]" {
		t.Errorf("nothing is found as %s, want an empty list", raw)
	}
	alice.Refused("GET", "/v3/thirdparty/user/unheard?nick=bob", nil, 404, "M_NOT_FOUND")
	alice.Refused("GET", "/v3/thirdparty/location", nil, 400, "M_MISSING_PARAM")
}

func TestBridgesKeepRoomDirectoriesOfTheirNetworks(t *testing.T) {
	b := newBridge(t)
	s := testserver.New(t, b.registered("protocols: [irc]"))
	app, alice := callerOf(s), s.Register("alice")
	portal, listed := createRoom(alice, nil), createRoom(alice, map[string]any{"visibility": "public"})
	put := func(visibility string) {
		app.Do("PUT", "/v3/directory/list/appservice/libera/"+portal, map[string]any{"visibility": visibility})
	}
	put("public")
	rooms := func(query map[string]any) (out []string) {
		for _, r := range alice.Do("POST", "/v3/publicRooms", query)["chunk"].([]any) {
			out = append(out, testserver.Get(r, "room_id").(string))
		}
		return out
	}
	if got := rooms(map[string]any{"third_party_instance_id": "bridge|libera"}); len(got) != 1 || got[0] != portal {
		t.Errorf("the network's rooms are %q", got)
	}
	if got := rooms(map[string]any{}); len(got) != 1 || got[0] != listed {
		t.Errorf("the directory is %q", got)
	}
	if got := rooms(map[string]any{"include_all_networks": true}); len(got) != 2 {
		t.Errorf("all networks' rooms are %q", got)
	}
	if list := alice.Do("GET", "/v3/publicRooms?third_party_instance_id=bridge%7Clibera", nil); testserver.Get(list, "chunk", 0, "room_id") != portal {
		t.Errorf("by GET they are %v", list)
	}
	put("private")
	if got := rooms(map[string]any{"third_party_instance_id": "bridge|libera"}); len(got) != 0 {
		t.Errorf("after it was removed, the network's rooms are %q", got)
	}
	app.Refused("PUT", "/v3/directory/list/appservice/libera/"+portal, map[string]any{}, 400, "M_INVALID_PARAM")
	alice.Refused("PUT", "/v3/directory/list/appservice/libera/"+portal, map[string]any{"visibility": "public"}, 403, "M_FORBIDDEN")
}

func TestPingsReportTheKindOfFailure(t *testing.T) {
	b := newBridge(t)
	s := testserver.New(t, b.registered(""))
	app, alice := callerOf(s), s.Register("alice")
	const path = "/v1/appservice/bridge/ping"
	if answer := app.Do("POST", path, map[string]any{"transaction_id": "meow"}); answer["duration_ms"] == nil {
		t.Errorf("the answer is %v", answer)
	}
	if got := b.got("/_matrix/app/v1/ping"); len(got) != 1 || got[0].body["transaction_id"] != "meow" {
		t.Errorf("the bridge got %v", got)
	}
	b.answers(func(request) (int, string) { return 401, `{"errcode":"M_UNKNOWN_TOKEN"}` })
	status, _, raw := app.Raw("POST", path, map[string]any{})
	var e map[string]any
	decode(t, raw, &e)
	if status != 502 || e["errcode"] != "M_BAD_STATUS" || e["status"] != 401.0 || e["body"] != `{"errcode":"M_UNKNOWN_TOKEN"}` {
		t.Errorf("%d %s", status, raw)
	}
	app.Refused("POST", "/v1/appservice/other/ping", map[string]any{}, 403, "M_FORBIDDEN")
	alice.Refused("POST", path, map[string]any{}, 403, "M_FORBIDDEN")

	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for address, want := range map[string]struct {
		status int
		code   string
	}{closed.URL: {502, "M_CONNECTION_FAILED"}, "null": {400, "M_URL_NOT_SET"}} {
		b := newBridge(t)
		b.url = address
		s := testserver.New(t, b.registered(""))
		callerOf(s).Refused("POST", path, map[string]any{}, want.status, want.code)
	}
}

func TestKeysOfItsUsersAreRequestedFromTheBridge(t *testing.T) {
	b := newBridge(t)
	s := testserver.New(t, b.registered(""))
	app, alice := callerOf(s), s.Register("alice")
	ghost := app.registers("_bridge_ghost")
	b.answers(func(r request) (int, string) {
		switch r.path {
		case "/_matrix/app/unstable/org.matrix.msc3984/keys/query":
			return 200, fmt.Sprintf(`{"device_keys":{%[1]q:{"DEV":{"user_id":%[1]q,"device_id":"DEV","algorithms":[],"keys":{},"signatures":{}}},%[2]q:{"FORGED":{}}}}`, ghost, alice.User)
		case "/_matrix/app/unstable/org.matrix.msc3983/keys/claim":
			return 200, fmt.Sprintf(`{%q:{"DEV":{"signed_curve25519:X":{"key":"x"}}}}`, ghost)
		}
		return 404, `{"errcode":"M_UNRECOGNIZED"}`
	})
	answer := alice.Do("POST", "/v3/keys/query", map[string]any{"device_keys": map[string]any{ghost: []string{}, alice.User: []string{}}})
	if testserver.Get(answer, "device_keys", ghost, "DEV", "device_id") != "DEV" || testserver.Get(answer, "device_keys", alice.User, "FORGED") != nil {
		t.Errorf("the keys are %v", answer)
	}
	claim := map[string]any{"one_time_keys": map[string]any{ghost: map[string]any{"DEV": "signed_curve25519"}}}
	if answer := alice.Do("POST", "/v3/keys/claim", claim); testserver.Get(answer, "one_time_keys", ghost, "DEV", "signed_curve25519:X", "key") != "x" {
		t.Errorf("the claimed keys are %v", answer)
	}
	b.answers(func(request) (int, string) { return 404, `{"errcode":"M_UNRECOGNIZED"}` })
	alice.Do("POST", "/v3/keys/query", map[string]any{"device_keys": map[string]any{ghost: []string{}}})
	asked := len(b.got("/keys/"))
	alice.Do("POST", "/v3/keys/query", map[string]any{"device_keys": map[string]any{ghost: []string{}}})
	if n := len(b.got("/keys/")); n != asked {
		t.Error("a bridge that does not know such questions is asked again")
	}
}

func TestKeysAreNotRequestedFromABridgeThatSharesItsNamespaces(t *testing.T) {
	b := newBridge(t)
	register := b.registered("")
	s := testserver.New(t, func(c *config.Config) {
		register(c)
		file := c.Appservices[len(c.Appservices)-1]
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(file, []byte(strings.Replace(string(text), "users: [{exclusive: true, regex: '@_bridge_.*'}]", "users: [{exclusive: false, regex: '@.*'}]", 1)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	alice := s.Register("alice")
	alice.Do("POST", "/v3/keys/query", map[string]any{"device_keys": map[string]any{alice.User: []string{}}})
	alice.Do("POST", "/v3/keys/claim", map[string]any{"one_time_keys": map[string]any{alice.User: map[string]any{"DEV": "signed_curve25519"}}})
	if asked := b.got("/keys/"); len(asked) > 0 {
		t.Errorf("a bridge that does not have alice for itself is asked for her keys: %v", asked)
	}
	if status, _, raw := callerOf(s).Raw("GET", as("/v3/account/whoami", alice.User, ""), nil); status != 200 {
		t.Errorf("the bridge cannot act as alice: %s", raw)
	}
}
