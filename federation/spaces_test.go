package federation_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"ebb/internal/testserver"
)

// made creates a room and returns its ID.
func made(c *testserver.Client, name, preset string, more map[string]any) string {
	body := map[string]any{"name": name, "preset": preset}
	for key, value := range more {
		body[key] = value
	}
	room, _ := c.Do("POST", "/v3/createRoom", body)["room_id"].(string)
	return room
}

func space() map[string]any {
	return map[string]any{"creation_content": map[string]any{"type": "m.space"}}
}

// child adds a room to a space.
func child(c *testserver.Client, space, room string, content map[string]any) {
	c.Do("PUT", "/v3/rooms/"+url.PathEscape(space)+"/state/m.space.child/"+url.PathEscape(room), content)
}

func via(servers ...string) map[string]any { return map[string]any{"via": servers} }

// walked returns the names of the rooms in a hierarchy.
func walked(t *testing.T, answer map[string]any) (names []string) {
	t.Helper()
	rooms, _ := answer["rooms"].([]any)
	for _, room := range rooms {
		names = append(names, fmt.Sprint(testserver.Get(room, "name")))
		if _, ok := testserver.Get(room, "children_state").([]any); !ok {
			t.Errorf("%v has no children_state", room)
		}
	}
	return names
}

func hierarchy(room, query string) string {
	return "/v1/rooms/" + url.PathEscape(room) + "/hierarchy?" + query
}

func TestSpacesAreWalkedAcrossServers(t *testing.T) {
	net, alice, bob := pair(t)
	asked := count(net, "/hierarchy/")
	root, inner, outer := made(alice, "root", "public_chat", space()), made(alice, "inner", "public_chat", space()), made(bob, "outer", "public_chat", space())
	leaf, far := made(alice, "leaf", "public_chat", nil), made(bob, "far", "public_chat", nil)
	hidden, mine := made(bob, "hidden", "private_chat", nil), made(alice, "mine", "private_chat", nil)
	child(alice, root, inner, map[string]any{"via": []string{"hs1.test"}, "order": "a", "suggested": true})
	child(alice, root, outer, map[string]any{"via": []string{"nowhere.test", "hs2.test"}, "order": "b"})
	child(alice, root, mine, via("hs1.test"))
	child(alice, root, leaf, map[string]any{}) // removes the child
	child(alice, inner, root, via("hs1.test")) // makes a cycle
	child(bob, outer, far, map[string]any{"via": []string{"hs2.test"}, "order": "f"})
	child(bob, outer, hidden, map[string]any{"via": []string{"hs2.test"}, "order": "h"})
	child(bob, outer, leaf, map[string]any{"via": []string{"hs1.test"}, "order": "l"})

	for query, want := range map[string][]string{
		"":                          {"root", "inner", "outer", "far", "leaf", "mine"},
		"max_depth=1":               {"root", "inner", "outer", "mine"},
		"max_depth=0":               {"root"},
		"suggested_only=true":       {"root", "inner"},
		"max_depth=99999999999":     {"root", "inner", "outer", "far", "leaf", "mine"},
		"limit=100&max_depth=2":     {"root", "inner", "outer", "far", "leaf", "mine"},
		"limit=999999&max_depth=02": {"root", "inner", "outer", "far", "leaf", "mine"},
	} {
		if got := walked(t, alice.Do("GET", hierarchy(root, query), nil)); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	if n := asked.Load(); n != 1 { // the request with suggested_only does not get that far
		t.Errorf("hs2.test was asked %d times", n)
	}
	var pages []string
	for from, n := "", 0; n == 0 || from != ""; n++ {
		page := alice.Do("GET", hierarchy(root, "limit=2&from="+from), nil)
		pages = append(pages, strings.Join(walked(t, page), " "))
		from, _ = page["next_batch"].(string)
	}
	if got := strings.Join(pages, "/"); got != "root inner/outer far/leaf mine" {
		t.Errorf("the pages are %s", got)
	}
	token := alice.Do("GET", hierarchy(root, "limit=2"), nil)["next_batch"].(string)
	alice.Refused("GET", hierarchy(root, "suggested_only=true&from="+token), nil, 400, "M_INVALID_PARAM")
	alice.Refused("GET", hierarchy(root, "max_depth=1&from="+token), nil, 400, "M_INVALID_PARAM")
	alice.Refused("GET", hierarchy(root, "from=h-1_20_false"), nil, 400, "M_INVALID_PARAM")
	alice.Refused("GET", hierarchy(root, "limit=0"), nil, 400, "M_INVALID_PARAM")
	alice.Refused("GET", hierarchy("!unknown:hs1.test", ""), nil, 403, "M_FORBIDDEN")
	bob.Refused("GET", hierarchy(mine, ""), nil, 403, "M_FORBIDDEN")
}

// Synapse once showed rooms in spaces to users outside them. A room may be shown only to users who may join or read it.
func TestSpacesShowRoomsOnlyToUsersWhoMayJoin(t *testing.T) {
	net, alice, bob := pair(t)
	carol := net.Servers[0].Register("carol")
	root := made(alice, "root", "public_chat", space())
	restricted := made(bob, "restricted", "public_chat", map[string]any{"room_version": "11", "initial_state": []any{map[string]any{
		"type": "m.room.join_rules", "state_key": "",
		"content": map[string]any{"join_rule": "restricted", "allow": []any{map[string]any{"type": "m.room_membership", "room_id": root}}},
	}}})
	child(alice, root, restricted, via("hs2.test"))
	walk := func(c *testserver.Client) string {
		return strings.Join(walked(t, c.Do("GET", hierarchy(root, ""), nil)), " ")
	}
	if got := walk(alice); got != "root" { // hs2.test does not know that alice is in the space
		t.Errorf("alice sees %s", got)
	}
	bob.Do("POST", "/v3/join/"+url.PathEscape(root)+"?via=hs1.test", nil)
	if got := walk(alice); got != "root restricted" {
		t.Errorf("alice sees %s", got)
	}
	if got := walk(carol); got != "root" { // although the response of hs2.test is cached
		t.Errorf("carol sees %s", got)
	}
	carol.Do("POST", "/v3/join/"+url.PathEscape(root), nil)
	if got := walk(carol); got != "root restricted" {
		t.Errorf("carol sees %s", got)
	}
	alice.Do("POST", "/v3/rooms/"+url.PathEscape(root)+"/ban", map[string]any{"user_id": carol.User})
	carol.Refused("GET", hierarchy(root, ""), nil, 403, "M_FORBIDDEN")
}

func TestRoomSummaries(t *testing.T) {
	_, alice, bob := pair(t)
	tea := made(bob, "tea", "public_chat", map[string]any{"topic": "leaves", "room_alias_name": "tea", "room_version": "11"})
	secret := made(bob, "secret", "private_chat", nil)
	summary := func(room, query string) string { return "/v1/room_summary/" + url.PathEscape(room) + "?" + query }
	for path, membership := range map[string]string{
		summary(tea, "via=hs2.test"): "leave", summary("#tea:hs2.test", ""): "leave",
		"/unstable/im.nheko.summary/rooms/" + url.PathEscape(tea) + "/summary?via=hs2.test": "leave",
		"/unstable/im.nheko.summary/summary/" + url.PathEscape(tea) + "?via=hs2.test":       "leave",
	} {
		got := alice.Do("GET", path, nil)
		version := "room_version"
		if strings.Contains(path, "/unstable/") {
			version = "im.nheko.summary.room_version"
		}
		if got["room_id"] != tea || got["name"] != "tea" || got["topic"] != "leaves" || got[version] != "11" || got["join_rule"] != "public" || got["membership"] != membership {
			t.Errorf("%s: %v", path, got)
		}
	}
	alice.Do("POST", "/v3/join/"+url.PathEscape(tea)+"?via=hs2.test", nil)
	alice.Do("GET", "/v3/rooms/"+url.PathEscape(tea)+"/members", nil) // waits until all members are known
	if got := alice.Do("GET", summary(tea, ""), nil); got["membership"] != "join" || got["num_joined_members"] != 2.0 {
		t.Errorf("of a room of one's own: %v", got)
	}
	alice.Refused("GET", summary(secret, "via=hs2.test"), nil, 404, "M_NOT_FOUND")
	alice.Refused("GET", summary("#none:hs2.test", ""), nil, 404, "M_NOT_FOUND")
	alice.Refused("GET", summary("tea", ""), nil, 400, "M_INVALID_PARAM")
	stranger := *bob
	stranger.Token = ""
	if got := stranger.Do("GET", summary(tea, ""), nil); got["name"] != "tea" || got["membership"] != nil {
		t.Errorf("to a stranger: %v", got)
	}
	stranger.Refused("GET", summary(secret, ""), nil, 404, "M_NOT_FOUND")
	stranger.Refused("GET", summary("!elsewhere:hs1.test", "via=hs1.test"), nil, 404, "M_NOT_FOUND")
}

// A server that returns wrong information about a room is ignored, and its response has a bounded cost.
func TestHostileAnswersAboutSpaces(t *testing.T) {
	net, alice, _ := pair(t)
	root := made(alice, "root", "public_chat", space())
	answers := map[string]string{
		"!other:evil.test":  `{"room":{"room_id":"!victim:hs2.test","name":"other","join_rule":"public"},"children":[]}`,
		"!types:evil.test":  `{"room":{"room_id":7,"name":["types"]},"children":{}}`,
		"!text:evil.test":   `nothing`,
		"!deep:evil.test":   `{"room":{"room_id":"!deep:evil.test","name":"deep","room_type":"m.space","join_rule":"public","children_state":[` + strings.Repeat(`{"type":"m.space.child","state_key":"!deep:evil.test","content":{"via":["evil.test"]},"sender":"@e:evil.test","origin_server_ts":1},`, 2000) + `7]},"children":[7,{"room_id":1}],"inaccessible_children":[]}`,
		"!secret:evil.test": `{"room":{"room_id":"!secret:evil.test","name":"secret","join_rule":"invite"},"children":[],"inaccessible_children":[]}`,
		"!large:evil.test":  `{"room":{"room_id":"!large:evil.test","name":"` + strings.Repeat("x", 2<<20) + `"}}`,
	}
	net.Serve("evil.test", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		room := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		if answers[room] == "" {
			w.WriteHeader(401)
			io.WriteString(w, `{"errcode":"M_UNKNOWN_TOKEN","error":"go away"}`)
			return
		}
		io.WriteString(w, answers[room])
	}))
	for room := range answers {
		child(alice, root, room, via("evil.test"))
	}
	child(alice, root, "!token:evil.test", via("evil.test"))
	child(alice, root, "!names:evil.test", via("", "..", "evil test", "hs1.test", "[::1]:8448"))
	if got := strings.Join(walked(t, alice.Do("GET", hierarchy(root, ""), nil)), " "); got != "root deep" {
		t.Errorf("the walk found %.200s", got)
	}
}
