package federation_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

// pair returns two servers, hs1.test with alice and hs2.test with bob.
func pair(t *testing.T) (net *testserver.Network, alice, bob *testserver.Client) {
	t.Helper()
	net = testserver.Federation(t, 2, nil)
	return net, net.Servers[0].Register("alice"), net.Servers[1].Register("bob")
}

// count counts the requests between servers whose path contains the given text.
func count(net *testserver.Network, path string) *atomic.Int32 {
	var n atomic.Int32
	net.Intercept(func(w http.ResponseWriter, r *http.Request, _ string, next http.Handler) {
		if strings.Contains(r.URL.Path, path) {
			n.Add(1)
		}
		next.ServeHTTP(w, r)
	})
	return &n
}

func TestProfilesOfOtherServersAreRequested(t *testing.T) {
	net, alice, bob := pair(t)
	asked := count(net, "/query/profile")
	bob.Do("PUT", "/v3/profile/"+bob.User+"/displayname", map[string]any{"displayname": "Bob over there"})
	bob.Do("PUT", "/v3/profile/"+bob.User+"/org.example.colour", map[string]any{"org.example.colour": "blue"})
	whole := alice.Do("GET", "/v3/profile/"+bob.User, nil)
	if whole["displayname"] != "Bob over there" || whole["org.example.colour"] != "blue" {
		t.Errorf("the profile is %v", whole)
	}
	if field := alice.Do("GET", "/v3/profile/"+bob.User+"/displayname", nil); field["displayname"] != "Bob over there" {
		t.Errorf("the name is %v", field)
	}
	if asked.Load() != 1 {
		t.Errorf("asked %d times within a minute", asked.Load())
	}
	alice.Refused("GET", "/v3/profile/@nobody:hs2.test", nil, 404, "M_NOT_FOUND")
	alice.Refused("GET", "/v3/profile/@nobody:elsewhere.test", nil, 502, "M_UNKNOWN")
	net.Cut("hs1.test", "hs2.test")
	net.Servers[0].Advance(2 * time.Minute) // longer than profiles are cached
	alice.Refused("GET", "/v3/profile/"+bob.User, nil, 502, "M_UNKNOWN")
}

func TestDirectoriesOfOtherServers(t *testing.T) {
	_, alice, bob := pair(t)
	listed := map[string]string{}
	for _, name := range []string{"Tea", "Coffee"} {
		answer := bob.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat", "visibility": "public", "name": name})
		listed[answer["room_id"].(string)] = name
	}
	bob.Do("POST", "/v3/createRoom", map[string]any{
		"preset": "public_chat", "visibility": "public", "name": "Tea at home", "creation_content": map[string]any{"m.federate": false},
	})
	query := "?server=hs2.test"
	page := alice.Do("GET", "/v3/publicRooms"+query+"&limit=1", nil)
	rest := alice.Do("GET", "/v3/publicRooms"+query+"&limit=1&since="+url.QueryEscape(page["next_batch"].(string)), nil)
	for _, room := range []any{testserver.Get(page, "chunk", 0), testserver.Get(rest, "chunk", 0)} {
		roomID, _ := testserver.Get(room, "room_id").(string)
		if name := testserver.Get(room, "name"); listed[roomID] != name {
			t.Errorf("%s is %v", roomID, name)
		}
		delete(listed, roomID)
	}
	found := alice.Do("POST", "/v3/publicRooms"+query, map[string]any{"filter": map[string]any{"generic_search_term": "tea"}})
	if chunk, _ := found["chunk"].([]any); len(chunk) != 1 || testserver.Get(chunk, 0, "name") != "Tea" {
		t.Errorf("the search found %v", found)
	}
	alice.Refused("GET", "/v3/publicRooms?server=nobody.test", nil, 502, "M_UNKNOWN")
	alice.Refused("GET", "/v3/publicRooms?server=no_name", nil, 400, "M_INVALID_PARAM")
	stranger := alice.Server().Anonymous()
	stranger.Refused("GET", "/v3/publicRooms"+query, nil, 401, "M_MISSING_TOKEN")
}

func TestAliasesOfOtherServersLeadToRoomsAndServers(t *testing.T) {
	_, alice, bob := pair(t)
	room := bob.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat", "room_alias_name": "tea"})["room_id"]
	alias := url.PathEscape("#tea:hs2.test")
	found := alice.Do("GET", "/v3/directory/room/"+alias, nil)
	if found["room_id"] != room || testserver.Get(found, "servers", 0) != "hs2.test" {
		t.Errorf("the alias leads to %v", found)
	}
	alice.Refused("GET", "/v3/directory/room/"+url.PathEscape("#none:hs2.test"), nil, 404, "M_NOT_FOUND")
	if joined := alice.Do("POST", "/v3/join/"+alias, nil); joined["room_id"] != room {
		t.Errorf("joined %v", joined)
	}
}

func TestOpenIDTokensIdentifyTheirOwner(t *testing.T) {
	net, alice, bob := pair(t)
	request := "/v3/user/" + url.PathEscape(alice.User) + "/openid/request_token"
	answer := alice.Do("POST", request, map[string]any{})
	token, _ := answer["access_token"].(string)
	if answer["token_type"] != "Bearer" || answer["matrix_server_name"] != "hs1.test" || answer["expires_in"] != 3600.0 || token == "" {
		t.Fatalf("the token is %v", answer)
	}
	bob.Refused("POST", request, map[string]any{}, 403, "M_FORBIDDEN")
	userinfo := func(token string) (int, map[string]string) {
		r := httptest.NewRequest("GET", "/_matrix/federation/v1/openid/userinfo?access_token="+token, nil)
		w := httptest.NewRecorder()
		net.Servers[0].Handler("federation").ServeHTTP(w, r)
		var body map[string]string
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
			t.Fatal(err)
		}
		return w.Code, body
	}
	if status, body := userinfo(token); status != 200 || body["sub"] != alice.User {
		t.Errorf("%d %v", status, body)
	}
	for _, wrong := range []string{alice.Token, token + "x", "0"} {
		if status, body := userinfo(wrong); status != 401 || body["errcode"] != "M_UNKNOWN_TOKEN" {
			t.Errorf("%d %v", status, body)
		}
	}
	if status, body := userinfo(""); status != 401 || body["errcode"] != "M_MISSING_TOKEN" {
		t.Errorf("without a token: %d %v", status, body)
	}
	impostor := *alice
	impostor.Token = token
	impostor.Refused("GET", "/v3/account/whoami", nil, 401, "M_UNKNOWN_TOKEN")
	if found := net.Servers[0].FilesWith(token); len(found) > 0 {
		t.Errorf("the token itself is stored in %v", found)
	}
	net.Servers[0].Advance(time.Hour)
	if status, body := userinfo(token); status != 401 {
		t.Errorf("after its time: %d %v", status, body)
	}
}

func TestTheUserDirectoryKnowsUsersOfOtherServersFromSharedAndPublicRooms(t *testing.T) {
	net, alice, bob := pair(t)
	carol := net.Servers[0].Register("carol")
	bob.Do("PUT", "/v3/profile/"+bob.User+"/displayname", map[string]any{"displayname": "Robert the Bruce"})
	var rooms []string
	for _, name := range []string{"one", "two"} { // he is found only once although he shares two rooms
		room := url.PathEscape(made(alice, name, "public_chat", nil))
		bob.Do("POST", "/v3/join/"+room+"?via=hs1.test", nil)
		rooms = append(rooms, room)
	}
	search := func(c *testserver.Client, term string) []any {
		results, _ := c.Do("POST", "/v3/user_directory/search", map[string]any{"search_term": term})["results"].([]any)
		return results
	}
	for _, term := range []string{"BRUCE", "bob", "hs2.test"} {
		if got := search(alice, term); len(got) != 1 || testserver.Get(got, 0, "user_id") != bob.User || testserver.Get(got, 0, "display_name") != "Robert the Bruce" {
			t.Errorf("%s finds %v", term, got)
		}
	}
	if got := search(carol, "bruce"); len(got) != 1 {
		t.Errorf("who shares no room finds %v of those in public rooms", got)
	}
	for _, room := range rooms {
		alice.Do("PUT", "/v3/rooms/"+room+"/state/m.room.join_rules/", map[string]any{"join_rule": "invite"})
	}
	if got := search(carol, "bruce"); len(got) != 0 {
		t.Errorf("who shares no room finds %v of those in private rooms", got)
	}
	if got := search(alice, "bruce"); len(got) != 1 {
		t.Errorf("who shares a private room finds %v", got)
	}
}

func TestTheUserDirectoryForgetsUsersOfRoomsThatTheServerHasLeft(t *testing.T) {
	net, alice, bob := pair(t)
	carol := net.Servers[0].Register("carol")
	room := url.PathEscape(made(bob, "tea", "public_chat", nil))
	alice.Do("POST", "/v3/join/"+room+"?via=hs2.test", nil)
	finds := func() []any {
		results, _ := carol.Do("POST", "/v3/user_directory/search", map[string]any{"search_term": "bob"})["results"].([]any)
		return results
	}
	if got := finds(); len(got) != 1 {
		t.Fatalf("while the server is in the room, %v is found", got)
	}
	alice.Do("POST", "/v3/rooms/"+room+"/leave", nil)
	if got := finds(); len(got) != 0 {
		t.Errorf("after the server left the room, %v is found", got)
	}
}

func TestAMalformedEventDoesNotAffectItsTransaction(t *testing.T) {
	net, alice, bob := pair(t)
	room, _ := alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat"})["room_id"].(string)
	bob.Do("POST", "/v3/join/"+url.PathEscape(room)+"?via=hs1.test", nil)
	odd := func(content string) json.RawMessage {
		return json.RawMessage(`{"type":"m.room.message","sender":"@alice:hs1.test","room_id":"` + room + `","content":` + content + `,"prev_events":[],"auth_events":[],"depth":1,"origin_server_ts":1,"hashes":{"sha256":""},"signatures":{}}`)
	}
	typing := json.RawMessage(`{"edu_type":"m.typing","content":{"room_id":"` + room + `","user_id":"@alice:hs1.test","typing":true}}`)
	for i, content := range []string{
		`{"a":` + strings.Repeat(`[`, 150) + strings.Repeat(`]`, 150) + `}`, `{"a":"\u0000"}`, `{"a":1e999}`, `{"a":1.5}`, `{"a":1,"a":2}`, `7`,
	} {
		_, err := net.Servers[0].Remote().SendTransaction(t.Context(), "hs2.test", "odd"+strconv.Itoa(i),
			[]json.RawMessage{odd(content)}, []json.RawMessage{odd(content), json.RawMessage(`{"edu_type":"m.typing","content":{"room_id":"\u0000"}}`), typing})
		if err != nil {
			t.Errorf("%.20s: %v", content, err)
		}
	}
	typists := testserver.Get(bob.Do("GET", "/v3/sync", nil), "rooms", "join", room, "ephemeral", "events", 0, "content", "user_ids", 0)
	if typists != alice.User {
		t.Errorf("%v types", typists)
	}
}

// Anonymous requests must not make this server send requests to others, and invalid server names are never looked up.
func TestStrangersAndInvalidNamesCauseNoRequests(t *testing.T) {
	net := testserver.Federation(t, 2, func(_ int, c *config.Config) { c.RateLimits.Enabled = true })
	alice, bob := net.Servers[0].Register("alice"), net.Servers[1].Register("bob")
	var asked atomic.Int32
	net.Intercept(func(w http.ResponseWriter, r *http.Request, _ string, next http.Handler) {
		asked.Add(1)
		next.ServeHTTP(w, r)
	})
	stranger := alice.Server().Anonymous()
	stranger.Do("GET", "/v3/profile/"+bob.User, nil)
	if asked.Load() == 0 {
		t.Error("somebody who follows a link sees no profile")
	}
	refused := 0
	for i := range 100 {
		path := fmt.Sprintf("/v3/profile/%s%d:%s", "@nobody", i, bob.Server().Name())
		if i%2 == 1 {
			path = "/v3/directory/room/" + url.PathEscape(fmt.Sprintf("#nowhere%d:%s", i, bob.Server().Name()))
		}
		if status, _, _ := stranger.Raw("GET", path, nil); status == http.StatusTooManyRequests {
			refused++
		}
	}
	if n := asked.Load(); n > 10 || refused < 90 {
		t.Errorf("%d requests were sent for a stranger, %d refused", n, refused)
	}
	stranger.Do("GET", "/v3/profile/"+alice.User, nil)
	asked.Store(0)
	for _, server := range []string{"a..b", "1.2.3.999", "a.test:99999", "-a.test"} {
		alice.Refused("GET", "/v3/profile/"+url.PathEscape("@bob:"+server), nil, http.StatusNotFound, "M_NOT_FOUND")
		alice.Refused("GET", "/v3/directory/room/"+url.PathEscape("#somewhere:"+server), nil, http.StatusNotFound, "M_NOT_FOUND")
		alice.Refused("POST", "/v3/join/"+url.PathEscape("!room:"+server), nil, http.StatusNotFound, "M_NOT_FOUND")
		alice.Refused("GET", "/v1/media/download/"+url.PathEscape(server)+"/abc", nil, http.StatusNotFound, "M_NOT_FOUND")
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
	alice.Refused("GET", "/v3/profile/@somebody:"+bob.Server().Name(), nil, http.StatusNotFound, "M_NOT_FOUND")
	if asked.Load() == 0 {
		t.Error("nobody is asked for who is signed in")
	}
}
