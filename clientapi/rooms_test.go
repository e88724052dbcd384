package clientapi

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accountdata"
	"ebb/config"
	"ebb/directory"
	"ebb/history"
	"ebb/httpapi"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/receipts"
	"ebb/redactions"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/wake"
)

// house serves the room operations of the API on a real database. In place of an access token, requests carry the name
// of a user, optionally followed by a slash and a device.
type house struct {
	t    *testing.T
	svc  *rooms.Service
	door *httpapi.Server
	now  time.Time
	txn  int
}

func newHouse(t *testing.T) *house {
	h := &house{t: t, now: time.UnixMilli(1_750_000_000_000)}
	db, err := storage.Open(t.Context(), storage.Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "ebb.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	commits, now := rooms.NewCommits(), func() time.Time { return h.now }
	h.svc, err = rooms.New(t.Context(), rooms.Options{
		DB: db, Server: "here", Hub: wake.New(), Commits: commits, Now: now,
		Signer: pdu.Signer{Server: "here", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))},
	})
	if err != nil {
		t.Fatal(err)
	}
	data := accountdata.New(accountdata.Options{DB: db, Rooms: h.svc, Commits: commits})
	a := &API{Config: &config.Config{ServerName: "here"}, Rooms: h.svc, AccountData: data, Receipts: receipts.New(h.svc, now), Redactions: redactions.New(redactions.Options{DB: db, Rooms: h.svc})}
	a.History = history.New(history.Options{DB: db, Rooms: h.svc, AccountData: data, Commits: commits, Now: now})
	a.Directory = directory.New(directory.Options{DB: db, Server: "here", Rooms: h.svc, Admins: administrators{}, Commits: commits, Now: now})
	h.door = httpapi.New(httpapi.Options{Routes: a.allRoomRoutes(), Authenticate: h.authenticate, Log: slog.New(slog.DiscardHandler)})
	return h
}

// administrators lets all administrators act as such.
type administrators struct{}

func (administrators) Administer(context.Context, ident.Requester) error { return nil }

// allRoomRoutes returns the routes that the tests in this file use.
func (a *API) allRoomRoutes() []httpapi.Route {
	return slices.Concat(
		a.accountDataRoutes(), a.banningRoutes(), a.createRoomRoutes(), a.directoryRoutes(), a.eventContextRoutes(), a.invitingRoutes(),
		a.joiningRoutes(), a.kickingRoutes(), a.knockingRoutes(), a.leavingRoutes(), a.listJoinedRoomsRoutes(), a.listPublicRoomsRoutes(),
		a.messagePaginationRoutes(), a.readMarkersRoutes(), a.receiptsRoutes(), a.redactionRoutes(), a.relationsRoutes(),
		a.roomEventByTimestampRoutes(), a.roomSendRoutes(), a.roomStateRoutes(), a.roomUpgradesRoutes(), a.roomsRoutes(), a.tagsRoutes(),
		a.threadsListRoutes(),
	)
}

func (h *house) authenticate(ctx context.Context, token string, _ *httpapi.Request) (ident.Requester, error) {
	name, device, _ := strings.Cut(token, "/")
	if name == "" || name == "nobody" {
		return ident.Requester{}, mxerr.UnknownToken(false)
	}
	user := id.UserID("@" + name + ":here")
	nid, err := h.svc.UserNID(ctx, user)
	return ident.Requester{UserNID: nid, UserID: user, DeviceNID: ident.DeviceNID(nid)*100 + ident.DeviceNID(len(device)) + 1, DeviceID: id.DeviceID(device), IsAdmin: name == "admin"}, err
}

// answer is a response.
type answer struct {
	status int
	body   []byte
}

func (a answer) errcode() string {
	var e struct {
		Code string `json:"errcode"`
	}
	_ = json.Unmarshal(a.body, &e) // e stays empty if the body is not an object
	return e.Code
}

// call sends a request; paths are below /_matrix/client unless they start with it.
func (h *house) call(token, method, path, body string) answer {
	h.t.Helper()
	if !strings.HasPrefix(path, "/_matrix") {
		path = "/_matrix/client" + path
	}
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	h.door.ServeHTTP(w, r)
	if w.Code >= 500 {
		h.t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	return answer{w.Code, w.Body.Bytes()}
}

// must sends a request that must succeed with 200, and returns the response as a map.
func (h *house) must(token, method, path, body string) map[string]any {
	h.t.Helper()
	a := h.call(token, method, path, body)
	if a.status != http.StatusOK {
		h.t.Fatalf("%s %s by %s: %d %s", method, path, token, a.status, a.body)
	}
	var m map[string]any
	if err := json.Unmarshal(a.body, &m); err != nil {
		h.t.Fatalf("%s %s: %v in %s", method, path, err, a.body)
	}
	return m
}

// refused sends a request that must fail with the given status and error code.
func (h *house) refused(token, method, path, body string, status int, code string) {
	h.t.Helper()
	if a := h.call(token, method, path, body); a.status != status || a.errcode() != code {
		h.t.Errorf("%s %s by %s: %d %s, want %d %s", method, path, token, a.status, a.body, status, code)
	}
}

func (h *house) room(token, body string) string {
	h.t.Helper()
	return url.PathEscape(h.must(token, "POST", "/v3/createRoom", body)["room_id"].(string))
}

func (h *house) send(token, room, typ, body string) string {
	h.t.Helper()
	h.txn++
	h.now = h.now.Add(time.Second)
	return h.must(token, "PUT", fmt.Sprintf("/v3/rooms/%s/send/%s/t%d", room, typ, h.txn), body)["event_id"].(string)
}

// dig returns a value from nested maps.
func dig(v any, keys ...string) any {
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

func chunk(m map[string]any, key string) (ids []string) {
	list, _ := m[key].([]any)
	for _, e := range list {
		text, _ := dig(e, "event_id").(string)
		ids = append(ids, text)
	}
	return ids
}

const message = `{"msgtype":"m.text","body":"hello"}`

func TestSentEventsAreReturnedByEveryOperation(t *testing.T) {
	h := newHouse(t)
	room := h.room("alice", `{"preset":"public_chat"}`)
	first := h.send("alice", room, "m.room.message", message)
	root := h.send("alice", room, "m.room.message", `{"msgtype":"m.text","body":"root"}`)
	reply := h.send("alice", room, "m.room.message", `{"body":"reply","m.relates_to":{"rel_type":"m.thread","event_id":"`+root+`"}}`)
	note := h.send("alice", room, "m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"`+reply+`","key":"1"}}`)
	base := "/v3/rooms/" + room
	if e := h.must("alice", "GET", base+"/event/"+first, ""); dig(e, "content", "body") != "hello" || dig(e, "unsigned", "transaction_id") != "t1" {
		t.Errorf("event: %v", e)
	}
	page := h.must("alice", "GET", base+"/messages?dir=b&limit=2", "")
	if got := chunk(page, "chunk"); !slices.Equal(got, []string{note, reply}) {
		t.Errorf("messages: %v", got)
	}
	page = h.must("alice", "GET", base+"/messages?dir=b&limit=2&from="+page["end"].(string), "")
	if got := chunk(page, "chunk"); !slices.Equal(got, []string{root, first}) {
		t.Errorf("messages, second page: %v", got)
	}
	around := h.must("alice", "GET", base+"/context/"+root+"?limit=2&filter="+url.QueryEscape(`{"types":["m.room.message"]}`), "")
	if !slices.Equal(chunk(around, "events_before"), []string{first}) || !slices.Equal(chunk(around, "events_after"), []string{reply}) || dig(around, "event", "event_id") != root {
		t.Errorf("context: %v", around)
	}
	relations := "/v1/rooms/" + room + "/relations/" + root
	for path, want := range map[string][]string{
		relations: {reply}, relations + "/m.thread": {reply}, relations + "/m.thread/m.room.message": {reply}, relations + "/m.thread/m.sticker": nil,
		relations + "?recurse=true": {note, reply}, relations + "?recurse=true&dir=f&limit=1": {reply},
	} {
		got := h.must("alice", "GET", path, "")
		if !slices.Equal(chunk(got, "chunk"), want) {
			t.Errorf("%s: %v", path, got)
		}
		if _, has := got["recursion_depth"]; has != strings.Contains(path, "recurse") {
			t.Errorf("%s: recursion_depth %v", path, got["recursion_depth"])
		}
	}
	if got := chunk(h.must("alice", "GET", "/v1/rooms/"+room+"/threads?include=participated", ""), "chunk"); !slices.Equal(got, []string{root}) {
		t.Errorf("threads: %v", got)
	}
	at := h.must("alice", "GET", fmt.Sprintf("/v1/rooms/%s/timestamp_to_event?dir=b&ts=%d", room, h.now.UnixMilli()-2000), "")
	if at["event_id"] != root {
		t.Errorf("by time: %v", at)
	}
}

func TestTransactionIDsHoldPerDeviceAndPath(t *testing.T) {
	h := newHouse(t)
	room := h.room("alice", `{}`)
	send := func(token, typ, txn string) string {
		return h.must(token, "PUT", "/v3/rooms/"+room+"/send/"+typ+"/"+txn, message)["event_id"].(string)
	}
	first := send("alice/A", "m.room.message", "x")
	if again := send("alice/A", "m.room.message", "x"); again != first {
		t.Error("the same request made two events")
	}
	if old := h.must("alice/A", "PUT", "/r0/rooms/"+room+"/send/m.room.message/x", message)["event_id"]; old != first {
		t.Error("the same request under its old name made two events")
	}
	for _, other := range []string{send("alice/BB", "m.room.message", "x"), send("alice/A", "m.sticker", "x"), send("alice/A", "m.room.message", "y")} {
		if other == first {
			t.Error("another request got the same event")
		}
	}
	target := url.PathEscape(first)
	redact := func() any {
		return h.must("alice/A", "PUT", "/v3/rooms/"+room+"/redact/"+target+"/r", `{"reason":"typo"}`)["event_id"]
	}
	if one := redact(); one != redact() {
		t.Error("the same redaction was made twice")
	}
	if e := h.must("alice", "GET", "/v3/rooms/"+room+"/event/"+target, ""); len(e["content"].(map[string]any)) != 0 || dig(e, "unsigned", "redacted_because", "content", "reason") != "typo" {
		t.Errorf("redacted: %v", e)
	}
}

func TestStateIsSetAndReadWithAndWithoutKey(t *testing.T) {
	h := newHouse(t)
	room := h.room("alice", `{"name":"one"}`)
	base := "/v3/rooms/" + room + "/state"
	for i, path := range []string{"/m.room.name", "/m.room.name/"} {
		name := fmt.Sprint("name", i)
		sent := h.must("alice", "PUT", base+path, `{"name":"`+name+`"}`)["event_id"]
		for _, get := range []string{"/m.room.name", "/m.room.name/", "/m.room.name?format=content"} {
			if got := h.must("alice", "GET", base+get, "")["name"]; got != name {
				t.Errorf("%s: %v", get, got)
			}
		}
		if e := h.must("alice", "GET", base+"/m.room.name?format=event", ""); e["event_id"] != sent || dig(e, "content", "name") != name {
			t.Errorf("format=event: %v", e)
		}
	}
	h.must("alice", "PUT", base+"/x.y/a%2Fb%20c", `{"v":1}`)
	if got := h.must("alice", "GET", base+"/x.y/a%2Fb%20c", "")["v"]; got != 1.0 {
		t.Errorf("a key with a slash: %v", got)
	}
	if all := h.call("alice", "GET", base, ""); !bytes.Contains(all.body, []byte(`"state_key":"a/b c"`)) || all.body[0] != '[' {
		t.Errorf("all: %s", all.body)
	}
	h.refused("alice", "GET", base+"/x.y/none", "", 404, "M_NOT_FOUND")
	h.refused("bob", "GET", base, "", 403, "M_FORBIDDEN")
	h.refused("alice", "GET", base+"/m.room.name?format=other", "", 400, "M_INVALID_PARAM")
}

func TestMembershipsMoveAndAreListed(t *testing.T) {
	h := newHouse(t)
	room := h.room("alice", `{"preset":"private_chat"}`)
	base := "/v3/rooms/" + room
	members := func() string {
		var list []string
		for _, e := range h.must("alice", "GET", base+"/members", "")["chunk"].([]any) {
			list = append(list, fmt.Sprint(dig(e, "state_key"), "=", dig(e, "content", "membership")))
		}
		slices.Sort(list)
		return strings.Join(list, " ")
	}
	step := func(token, method, path, body, want string) {
		t.Helper()
		h.must(token, method, path, body)
		if got := members(); got != "@alice:here=join @bob:here="+want {
			t.Errorf("after %s: %s, want %s", path, got, want)
		}
	}
	const bob = `{"user_id":"@bob:here","reason":"why not"}`
	h.refused("bob", "POST", base+"/join", "", 403, "M_FORBIDDEN")
	step("alice", "POST", base+"/invite", bob, "invite")
	step("bob", "POST", base+"/leave", `{}`, "leave")
	step("alice", "POST", base+"/invite", bob, "invite")
	step("bob", "POST", base+"/join", "", "join")
	if got := h.must("bob", "GET", "/v3/joined_rooms", "")["joined_rooms"].([]any); len(got) != 1 || url.PathEscape(got[0].(string)) != room {
		t.Errorf("joined rooms: %v", got)
	}
	if got := h.must("bob", "GET", base+"/joined_members", "")["joined"].(map[string]any); len(got) != 2 {
		t.Errorf("joined members: %v", got)
	}
	step("alice", "POST", base+"/kick", bob, "leave")
	step("alice", "POST", base+"/ban", bob, "ban")
	h.refused("alice", "POST", base+"/invite", bob, 403, "M_FORBIDDEN")
	step("alice", "POST", base+"/unban", bob, "leave")
	h.must("bob", "POST", base+"/forget", "")
	h.refused("bob", "GET", base+"/messages?dir=b", "", 403, "M_FORBIDDEN")
	h.must("alice", "PUT", base+"/state/m.room.join_rules", `{"join_rule":"knock"}`)
	step("bob", "POST", "/v3/knock/"+room, `{"reason":"please"}`, "knock")
	h.refused("alice", "POST", base+"/forget", "", 400, "M_UNKNOWN")
	if got := h.must("bob", "GET", "/v3/joined_rooms", "")["joined_rooms"].([]any); len(got) != 0 {
		t.Errorf("joined rooms at the end: %v", got)
	}
}

func TestJoinKeepsWhatTheClientAddsToItsMemberEvent(t *testing.T) {
	h := newHouse(t)
	room := h.room("alice", `{"preset":"public_chat","room_alias_name":"lobby"}`)
	for name, path := range map[string]string{"bob": "/v3/join/" + room, "carol": "/v3/join/%23lobby:here", "dave": "/v3/rooms/" + room + "/join"} {
		h.must(name, "POST", path, `{"foo":"bar","membership":"ban","reason":"curious"}`)
		got := h.must("alice", "GET", "/v3/rooms/"+room+"/state/m.room.member/@"+name+":here", "")
		if got["foo"] != "bar" || got["membership"] != "join" || got["reason"] != "curious" {
			t.Errorf("%s: %v", path, got)
		}
	}
}

func TestAliasesAndTheDirectory(t *testing.T) {
	h := newHouse(t)
	room := h.room("alice", `{"preset":"public_chat","name":"Tea room"}`)
	const alias = "/v3/directory/room/%23tea:here"
	h.refused("alice", "GET", alias, "", 404, "M_NOT_FOUND")
	id, _ := url.PathUnescape(room)
	h.must("alice", "PUT", alias, `{"room_id":"`+id+`"}`)
	h.refused("alice", "PUT", alias, `{"room_id":"`+id+`"}`, 409, "M_UNKNOWN")
	if got := h.must("bob", "GET", alias, ""); got["room_id"] != id || len(got["servers"].([]any)) != 1 {
		t.Errorf("resolved: %v", got)
	}
	if got := h.must("alice", "GET", "/v3/rooms/"+room+"/aliases", "")["aliases"].([]any); len(got) != 1 || got[0] != "#tea:here" {
		t.Errorf("aliases: %v", got)
	}
	h.must("bob", "POST", "/v3/join/%23tea:here", "")
	h.refused("bob", "DELETE", alias, "", 403, "M_FORBIDDEN")

	listed := func() int { return len(h.must("bob", "GET", "/v3/publicRooms", "")["chunk"].([]any)) }
	if listed() != 0 {
		t.Error("listed without having been asked")
	}
	h.refused("bob", "PUT", "/v3/directory/list/room/"+room, `{"visibility":"public"}`, 403, "M_FORBIDDEN")
	h.must("alice", "PUT", "/v3/directory/list/room/"+room, `{}`)
	if got := h.must("bob", "GET", "/v3/directory/list/room/"+room, "")["visibility"]; got != "public" || listed() != 1 {
		t.Errorf("listed: %v, %d", got, listed())
	}
	for term, want := range map[string]int{"tea": 1, "coffee": 0} {
		got := h.must("bob", "POST", "/v3/publicRooms", `{"filter":{"generic_search_term":"`+term+`"},"limit":3}`)
		if len(got["chunk"].([]any)) != want {
			t.Errorf("%s: %v", term, got)
		}
	}
	h.refused("bob", "GET", "/v3/publicRooms?server=elsewhere", "", 403, "M_FORBIDDEN")
	h.must("alice", "PUT", "/v3/directory/list/room/"+room, `{"visibility":"private"}`)
	if listed() != 0 {
		t.Error("still listed")
	}
	h.must("alice", "DELETE", alias, "")
	h.refused("alice", "GET", alias, "", 404, "M_NOT_FOUND")
}

func TestUpgradeReplacesARoom(t *testing.T) {
	h := newHouse(t)
	room := h.room("alice", `{"room_version":"11","name":"old"}`)
	next := url.PathEscape(h.must("alice", "POST", "/v3/rooms/"+room+"/upgrade", `{"new_version":"12"}`)["replacement_room"].(string))
	if got := h.must("alice", "GET", "/v3/rooms/"+room+"/state/m.room.tombstone", "")["replacement_room"]; url.PathEscape(got.(string)) != next {
		t.Errorf("tombstone: %v", got)
	}
	if got := h.must("alice", "GET", "/v3/rooms/"+next+"/state/m.room.name", "")["name"]; got != "old" {
		t.Errorf("name: %v", got)
	}
	h.refused("alice", "POST", "/v3/rooms/"+room+"/upgrade", `{}`, 400, "M_MISSING_PARAM")
	h.refused("alice", "POST", "/v3/rooms/"+next+"/upgrade", `{"new_version":"99"}`, 400, "M_UNSUPPORTED_ROOM_VERSION")
}

func TestMarkersTagsAndAccountDataBelongToTheirUser(t *testing.T) {
	h := newHouse(t)
	room := h.room("alice", `{}`)
	first, second := h.send("alice", room, "m.room.message", message), h.send("alice", room, "m.room.message", message)
	base, mine := "/v3/rooms/"+room, "/v3/user/@alice:here"
	h.must("alice", "POST", base+"/read_markers", `{"m.fully_read":"`+second+`","m.read":"`+first+`","m.read.private":"`+second+`"}`)
	if got := h.must("alice", "GET", mine+"/rooms/"+room+"/account_data/m.fully_read", "")["event_id"]; got != second {
		t.Errorf("fully read: %v", got)
	}
	h.must("alice", "POST", base+"/receipt/m.read/"+url.PathEscape(second), `{"thread_id":"main"}`)
	h.must("alice", "POST", base+"/receipt/m.read.private/"+url.PathEscape(second), "")
	h.refused("alice", "POST", base+"/receipt/m.other/"+url.PathEscape(second), "{}", 400, "M_INVALID_PARAM")
	h.refused("alice", "POST", base+"/receipt/m.read/"+url.PathEscape(second), `{"thread_id":""}`, 400, "M_INVALID_PARAM")
	h.refused("bob", "POST", base+"/receipt/m.read/"+url.PathEscape(second), "{}", 403, "M_FORBIDDEN")

	tags := mine + "/rooms/" + room + "/tags"
	h.must("alice", "PUT", tags+"/m.favourite", `{"order":0.5}`)
	if got := dig(h.must("alice", "GET", tags, ""), "tags", "m.favourite", "order"); got != 0.5 {
		t.Errorf("tags: %v", got)
	}
	h.must("alice", "DELETE", tags+"/m.favourite", "")
	if got := h.must("alice", "GET", tags, "")["tags"].(map[string]any); len(got) != 0 {
		t.Errorf("tags after deletion: %v", got)
	}
	for _, path := range []string{mine + "/account_data/x.y", mine + "/rooms/" + room + "/account_data/x.y"} {
		h.refused("alice", "GET", path, "", 404, "M_NOT_FOUND")
		h.must("alice", "PUT", path, `{"a":{"b":1}}`)
		if got := dig(h.must("alice", "GET", path, ""), "a", "b"); got != 1.0 {
			t.Errorf("%s: %v", path, got)
		}
		h.refused("bob", "GET", path, "", 403, "M_FORBIDDEN")
		h.refused("bob", "PUT", path, "{}", 403, "M_FORBIDDEN")
		h.refused("alice", "PUT", path, "[]", 400, "M_BAD_JSON")
	}
	h.refused("alice", "PUT", mine+"/account_data/m.push_rules", "{}", 405, "M_BAD_JSON")
	h.refused("alice", "PUT", mine+"/rooms/"+room+"/account_data/m.fully_read", "{}", 405, "M_BAD_JSON")
}

// TestMalformedRoomRequestsGetTheSpecificationsErrors sends malformed requests. None of them may be answered with 5xx,
// which call checks.
func TestMalformedRoomRequestsGetTheSpecificationsErrors(t *testing.T) {
	h := newHouse(t)
	room := h.room("alice", `{"preset":"public_chat"}`)
	e := url.PathEscape(h.send("alice", room, "m.room.message", message))
	base, v1 := "/v3/rooms/"+room, "/v1/rooms/"+room
	for _, path := range []string{
		base + "/messages?dir=x", base + "/messages?dir=b&limit=-1", base + "/messages?dir=b&limit=x", base + "/messages?dir=b&from=bogus",
		base + "/messages?dir=b&filter=%7B", base + "/messages?dir=b&filter=%5B%5D", base + "/messages?dir=b&from=%00", base + "/messages?dir=b&from=%ff",
		base + "/context/" + e + "?limit=-5", base + "/context/" + e + "?filter=1", base + "/members?at=bogus", base + "/members?membership=x",
		v1 + "/relations/" + e + "?dir=x", v1 + "/relations/" + e + "?limit=0", v1 + "/relations/" + e + "?recurse=maybe", v1 + "/threads?include=x",
		v1 + "/threads?from=bogus", v1 + "/threads?limit=0", v1 + "/timestamp_to_event?dir=f&ts=-1", v1 + "/timestamp_to_event?dir=f&ts=x", v1 + "/timestamp_to_event?dir=x&ts=1",
	} {
		h.refused("alice", "GET", path, "", 400, "M_INVALID_PARAM")
	}
	h.refused("alice", "GET", base+"/messages", "", 400, "M_MISSING_PARAM")
	h.refused("alice", "GET", v1+"/timestamp_to_event", "", 400, "M_MISSING_PARAM")
	for _, id := range []string{"$none", "none", "%24", "$" + strings.Repeat("x", 1000), "%F0%9F%92%A9"} {
		h.refused("alice", "GET", base+"/event/"+id, "", 404, "M_NOT_FOUND")
		h.refused("alice", "GET", base+"/context/"+id, "", 404, "M_NOT_FOUND")
		h.refused("alice", "GET", v1+"/relations/"+id, "", 404, "M_NOT_FOUND")
		h.refused("alice", "GET", "/v3/rooms/"+id+"/messages?dir=b", "", 403, "M_FORBIDDEN")
		h.refused("alice", "PUT", "/v3/rooms/"+id+"/send/m.room.message/1", message, 403, "M_FORBIDDEN")
	}
	h.refused("alice", "GET", base+"/event/%01", "", 400, "M_INVALID_PARAM")
	h.refused("alice", "GET", v1+"/timestamp_to_event?dir=f&ts=9223372036854775807", "", 404, "M_NOT_FOUND")
	for body, code := range map[string]string{
		"": "M_NOT_JSON", "{}": "", "[]": "M_BAD_JSON", "null": "M_BAD_JSON", "1": "M_BAD_JSON", `{"a":`: "M_NOT_JSON", "{\"a\":\"\xff\"}": "M_NOT_JSON",
		`{"a":1.5}`: "M_BAD_JSON", `{"a":9007199254740992}`: "M_BAD_JSON", `{"a":1,"a":2}`: "M_BAD_JSON", strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200): "M_BAD_JSON",
	} {
		a := h.call("alice", "PUT", base+"/send/m.room.message/bad"+fmt.Sprint(len(body), code), body)
		if a.errcode() != code || (a.status == 200) != (code == "") {
			t.Errorf("%.40q: %d %s, want %s", body, a.status, a.body, code)
		}
	}
	h.refused("alice", "PUT", base+"/send/m.room.message/big", `{"body":"`+strings.Repeat("x", 70_000)+`"}`, 413, "M_TOO_LARGE")
	h.refused("alice", "PUT", base+"/send/m.room.message/huge", `{"body":"`+strings.Repeat("x", 2<<20)+`"}`, 413, "M_TOO_LARGE")
	h.refused("alice", "PUT", base+"/send/"+strings.Repeat("t", 300)+"/1", message, 413, "M_TOO_LARGE")
	h.refused("alice", "POST", base+"/invite", `{"user_id":5}`, 400, "M_BAD_JSON")
	h.refused("alice", "POST", base+"/invite", `{}`, 400, "M_MISSING_PARAM")
	h.refused("alice", "POST", base+"/invite", `{"user_id":"bob"}`, 400, "M_INVALID_PARAM")
	h.refused("alice", "POST", "/v3/join/bogus", "", 400, "M_INVALID_PARAM")
	h.refused("alice", "POST", "/v3/join/!none:here", "", 404, "M_NOT_FOUND")
	h.refused("nobody", "GET", base+"/messages?dir=b", "", 401, "M_UNKNOWN_TOKEN")
}
