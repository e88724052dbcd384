package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"net/url"
	"strings"
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
)

var get = testserver.Get

// share creates a room, joins both users to it and returns its ID.
func share(alice, bob *testserver.Client) string {
	room := alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "private_chat", "invite": []string{bob.User}})["room_id"].(string)
	bob.Do("POST", "/v3/rooms/"+url.PathEscape(room)+"/join", nil)
	return room
}

func TestMediaIsServedToMembersOnlyAndNeverRuns(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewRGBA(image.Rect(0, 0, 400, 300))); err != nil {
		t.Fatal(err)
	}
	uri := alice.Do("POST", "/_matrix/media/v3/upload?filename="+url.QueryEscape("ein Bild.png"), picture.Bytes())["content_uri"].(string)
	path := strings.TrimPrefix(uri, "mxc://")

	status, header, body := alice.Raw("GET", "/v1/media/download/"+path, nil)
	if status != 200 || !bytes.Equal(body, picture.Bytes()) {
		t.Fatalf("the download has status %d and %d bytes, want 200 and the uploaded file", status, len(body))
	}
	if got := header.Get("Content-Security-Policy"); !strings.HasPrefix(got, "sandbox") || header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("the headers would let a browser run the file: %v", header)
	}
	if got := header.Get("Content-Disposition"); !strings.Contains(got, `"ein Bild.png"`) || !strings.HasPrefix(got, "attachment") {
		t.Errorf("the Content-Disposition of a file without a type is %q, want an attachment with the file name", got)
	}
	if _, header, _ := alice.Raw("GET", "/v1/media/download/"+path+"/%C3%BC.png", nil); !strings.Contains(header.Get("Content-Disposition"), "utf-8''%C3%BC.png") {
		t.Errorf("the Content-Disposition under another name is %q, want that name", header.Get("Content-Disposition"))
	}
	status, header, body = alice.Raw("GET", "/v1/media/thumbnail/"+path+"?width=32&height=32&method=crop", nil)
	if thumb, err := png.DecodeConfig(bytes.NewReader(body)); status != 200 || err != nil || thumb.Width != 32 {
		t.Errorf("the thumbnail has status %d (%v), want 200 and a width of 32: %v", status, err, header)
	}
	if got := header.Get("Content-Disposition") + header.Get("Content-Type"); got != "inline; filename=thumbnail.pngimage/png" {
		t.Errorf("the headers of a thumbnail are %q", got)
	}
	for _, request := range []string{"width=400&height=300", "width=1600&height=1200&method=crop", "width=400&height=300&animated=false"} { // none of these requires scaling
		status, header, body = alice.Raw("GET", "/v1/media/thumbnail/"+path+"?"+request, nil)
		if status != 200 || !bytes.Equal(body, picture.Bytes()) || header.Get("Content-Type") != "image/png" {
			t.Errorf("thumbnail of %s: %d %v, %d bytes", request, status, header, len(body))
		}
	}
	if got := alice.Do("GET", "/v1/media/config", nil)["m.upload.size"]; got != float64(100<<20) {
		t.Errorf("m.upload.size is %v, want %d", got, 100<<20)
	}
	nobody := *alice
	nobody.Token = ""
	nobody.Refused("GET", "/v1/media/download/"+path, nil, 401, "M_MISSING_TOKEN")
	nobody.Refused("GET", "/_matrix/media/v3/download/"+path, nil, 404, "M_NOT_FOUND")
	alice.Refused("GET", "/v1/media/download/test/"+strings.Repeat("x", 20), nil, 404, "M_NOT_FOUND")
	alice.Refused("GET", "/v1/media/download/elsewhere/abc", nil, 404, "M_NOT_FOUND")
	alice.Refused("GET", "/v1/media/thumbnail/"+path+"?width=-1&height=32", nil, 400, "M_INVALID_PARAM")
	alice.Refused("GET", "/v1/media/thumbnail/"+path, nil, 400, "M_MISSING_PARAM")

	reserved := alice.Do("POST", "/_matrix/media/v1/create", nil)["content_uri"].(string)
	later := strings.TrimPrefix(reserved, "mxc://")
	alice.Refused("GET", "/v1/media/download/"+later+"?timeout_ms=0", nil, 504, "M_NOT_YET_UPLOADED")
	alice.Do("PUT", "/_matrix/media/v3/upload/"+later, []byte("late"))
	if _, _, body := alice.Raw("GET", "/v1/media/download/"+later, nil); string(body) != "late" {
		t.Errorf("a file that was uploaded later is downloaded as %q, want %q", body, "late")
	}
	alice.Refused("PUT", "/_matrix/media/v3/upload/"+later, []byte("again"), 409, "M_CANNOT_OVERWRITE_MEDIA")
}

func TestUnauthenticatedMediaIsServedOnlyIfConfigured(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) { c.Media.AllowUnauthenticated, c.Media.MaxUploadSize = true, 100 })
	alice := s.Register("alice")
	path := strings.TrimPrefix(alice.Do("POST", "/_matrix/media/v3/upload", []byte("text"))["content_uri"].(string), "mxc://")
	nobody := *alice
	nobody.Token = ""
	for _, p := range []string{"/download/" + path, "/download/" + path + "/name.txt"} {
		if status, _, body := nobody.Raw("GET", "/_matrix/media/v3"+p, nil); status != 200 || string(body) != "text" {
			t.Errorf("%s: %d %s", p, status, body)
		}
	}
	nobody.Refused("GET", "/_matrix/media/v3/thumbnail/"+path+"?width=32&height=32", nil, 400, "M_UNKNOWN")
	alice.Refused("POST", "/_matrix/media/v3/upload", bytes.Repeat([]byte("x"), 101), 413, "M_TOO_LARGE")
}

func TestKeysAndMessagesTravelBetweenDevices(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := s.Register("alice"), s.Register("bob")
	share(alice, bob)
	before := alice.Do("GET", "/v3/sync", nil)["next_batch"].(string)

	identity := map[string]any{"user_id": bob.User, "device_id": bob.DeviceID, "algorithms": []string{"a"}, "keys": map[string]any{"ed25519:" + bob.DeviceID: "k"}, "signatures": map[string]any{}}
	counts := bob.Do("POST", "/v3/keys/upload", map[string]any{"device_keys": identity, "one_time_keys": map[string]any{"signed_curve25519:1": map[string]any{"key": "o"}}})
	if got := get(counts, "one_time_key_counts", "signed_curve25519"); got != 1.0 {
		t.Errorf("the answer to the upload is %v, want one key", counts)
	}
	sync := alice.Do("GET", "/v3/sync?since="+before, nil)
	after := sync["next_batch"].(string)
	if got := get(sync, "device_lists", "changed", 0); got != bob.User {
		t.Errorf("device_lists.changed in /sync is %v, want bob", sync["device_lists"])
	}
	changes := alice.Do("GET", fmt.Sprintf("/v3/keys/changes?from=%s&to=%s", before, after), nil)
	if got := get(changes, "changed", 0); got != bob.User {
		t.Errorf("/keys/changes returns %v, want bob", changes)
	}
	query := alice.Do("POST", "/v3/keys/query", map[string]any{"device_keys": map[string]any{bob.User: []string{}}})
	if got := get(query, "device_keys", bob.User, bob.DeviceID, "keys", "ed25519:"+bob.DeviceID); got != "k" {
		t.Errorf("/keys/query returns %v, want bob's device key", query)
	}
	claim := map[string]any{"one_time_keys": map[string]any{bob.User: map[string]any{bob.DeviceID: "signed_curve25519"}}}
	if got := get(alice.Do("POST", "/v3/keys/claim", claim), "one_time_keys", bob.User, bob.DeviceID, "signed_curve25519:1", "key"); got != "o" {
		t.Errorf("the claimed key is %v, want %q", got, "o")
	}
	if got := get(bob.Do("GET", "/v3/sync", nil), "device_one_time_keys_count", "signed_curve25519"); got != 0.0 {
		t.Errorf("after the claim, an initial sync has the count %v, want 0", got)
	}
	message := map[string]any{"messages": map[string]any{bob.User: map[string]any{"*": map[string]any{"body": "hi"}}}}
	for range 2 { // the second is a retry
		alice.Do("PUT", "/v3/sendToDevice/m.test/1", message)
	}
	got := bob.Do("GET", "/v3/sync", nil)
	if list, _ := get(got, "to_device", "events").([]any); len(list) != 1 || get(list[0], "content", "body") != "hi" || get(list[0], "sender") != alice.User {
		t.Errorf("the to-device messages are %v, want alice's message", got["to_device"])
	}
	if again := bob.Do("GET", "/v3/sync?since="+got["next_batch"].(string), nil); get(again, "to_device", "events", 0) != nil {
		t.Errorf("a message that the client has confirmed comes again: %v", again["to_device"])
	}
	bob.Refused("POST", "/v3/keys/upload", map[string]any{"device_keys": []int{}}, 400, "M_BAD_JSON")
	bob.Refused("POST", "/v3/keys/query", map[string]any{"device_keys": 1}, 400, "M_BAD_JSON")
	bob.Refused("POST", "/v3/keys/claim", map[string]any{}, 400, "M_MISSING_PARAM")
	bob.Refused("PUT", "/v3/sendToDevice/m.test/2", map[string]any{"messages": map[string]any{alice.User: map[string]any{"*": "text"}}}, 400, "M_BAD_JSON")
}

func TestReplacedCrossSigningKeysNeedThePassword(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	master := func(public string) map[string]any {
		return map[string]any{"master_key": map[string]any{"user_id": alice.User, "usage": []string{"master"}, "keys": map[string]any{"ed25519:" + public: public}}}
	}
	first, second := strings.Repeat("A", 43), strings.Repeat("B", 42)+"A"
	alice.Do("POST", "/v3/keys/device_signing/upload", master(first))
	alice.Do("POST", "/v3/keys/device_signing/upload", master(first))
	status, _, raw := alice.Raw("POST", "/v3/keys/device_signing/upload", master(second))
	var challenge map[string]any
	if err := json.Unmarshal(raw, &challenge); err != nil || status != 401 || challenge["session"] == nil {
		t.Fatalf("an upload that replaces keys without the password gets %d %s, want 401 and a session", status, raw)
	}
	body := master(second)
	body["auth"] = map[string]any{"type": "m.login.password", "session": challenge["session"],
		"identifier": map[string]any{"type": "m.id.user", "user": alice.User}, "password": testserver.Password()}
	alice.Do("POST", "/v3/keys/device_signing/upload", body)
	query := alice.Do("POST", "/v3/keys/query", map[string]any{"device_keys": map[string]any{alice.User: []string{}}})
	if get(query, "master_keys", alice.User, "keys", "ed25519:"+second) != second {
		t.Errorf("the master key is %v, want the second one", query["master_keys"])
	}
	bad := map[string]any{alice.User: map[string]any{second: map[string]any{"user_id": alice.User}}}
	if got := get(alice.Do("POST", "/v3/keys/signatures/upload", bad), "failures", alice.User, second, "errcode"); got != "M_INVALID_PARAM" {
		t.Errorf("a signature on another key gets %v, want M_INVALID_PARAM", got)
	}
}

func TestKeyBackupIsKeptByVersion(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	alice.Refused("GET", "/v3/room_keys/version", nil, 404, "M_NOT_FOUND")
	about := map[string]any{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": map[string]any{"public_key": "p"}}
	version := alice.Do("POST", "/v3/room_keys/version", about)["version"].(string)
	about["auth_data"] = map[string]any{"public_key": "q"}
	alice.Do("PUT", "/v3/room_keys/version/"+version, about)
	if got := get(alice.Do("GET", "/v3/room_keys/version", nil), "auth_data", "public_key"); got != "q" {
		t.Errorf("the public key in auth_data is %v, want %q", got, "q")
	}
	session := map[string]any{"first_message_index": 1, "forwarded_count": 0, "is_verified": false, "session_data": map[string]any{"c": "x"}}
	in := "?version=" + version
	alice.Do("PUT", "/v3/room_keys/keys/%21a/s1"+in, session)
	alice.Do("PUT", "/v3/room_keys/keys/%21a"+in, map[string]any{"sessions": map[string]any{"s2": session}})
	alice.Do("PUT", "/v3/room_keys/keys"+in, map[string]any{"rooms": map[string]any{"!b": map[string]any{"sessions": map[string]any{"s3": session}}}})
	if got := alice.Do("GET", "/v3/room_keys/version/"+version, nil)["count"]; got != 3.0 {
		t.Errorf("the count of the backup is %v, want 3", got)
	}
	if got := get(alice.Do("GET", "/v3/room_keys/keys"+in, nil), "rooms", "!b", "sessions", "s3", "session_data", "c"); got != "x" {
		t.Errorf("session s3 is %v, want %q", got, "x")
	}
	if got := get(alice.Do("GET", "/v3/room_keys/keys/%21a"+in, nil), "sessions"); len(got.(map[string]any)) != 2 {
		t.Errorf("room !a has the sessions %v, want two", got)
	}
	if got := get(alice.Do("GET", "/v3/room_keys/keys/%21a/s1"+in, nil), "first_message_index"); got != 1.0 {
		t.Errorf("first_message_index of session s1 is %v, want 1", got)
	}
	alice.Refused("PUT", "/v3/room_keys/keys/%21a/s1?version=99", session, 403, "M_WRONG_ROOM_KEYS_VERSION")
	alice.Do("DELETE", "/v3/room_keys/keys/%21a/s1"+in, nil)
	alice.Refused("GET", "/v3/room_keys/keys/%21a/s1"+in, nil, 404, "M_NOT_FOUND")
	alice.Do("DELETE", "/v3/room_keys/keys/%21a"+in, nil)
	if got := alice.Do("DELETE", "/v3/room_keys/keys"+in, nil)["count"]; got != 0.0 {
		t.Errorf("after the deletion the count is %v, want 0", got)
	}
	alice.Do("DELETE", "/v3/room_keys/version/"+version, nil)
	alice.Refused("GET", "/v3/room_keys/version", nil, 404, "M_NOT_FOUND")
}

func TestPushRulesDetermineUnreadCounts(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := s.Register("alice"), s.Register("bob")
	room := share(alice, bob)
	base := "/v3/rooms/" + url.PathEscape(room)
	n := 0
	send := func(body string) {
		n++
		alice.Do("PUT", fmt.Sprint(base, "/send/m.room.message/", n), map[string]any{"msgtype": "m.text", "body": body, "m.mentions": map[string]any{}})
	}
	counts := func() [2]any {
		c := get(bob.Do("GET", "/v3/sync", nil), "rooms", "join", room, "unread_notifications")
		return [2]any{get(c, "notification_count"), get(c, "highlight_count")}
	}
	expect := func(when string, notify, highlight float64) {
		t.Helper()
		if got := counts(); got != [2]any{notify, highlight} {
			t.Errorf("%s: counts %v, want %v and %v", when, got, notify, highlight)
		}
	}
	send("hello")
	expect("by default", 1, 0)
	keyword := "/v3/pushrules/global/content/cake"
	bob.Do("PUT", keyword, map[string]any{"pattern": "cake", "actions": []any{"notify", map[string]any{"set_tweak": "highlight"}}})
	send("there is Cake.")
	expect("with a keyword", 2, 1)
	bob.Do("PUT", keyword+"/enabled", map[string]any{"enabled": false})
	if got := bob.Do("GET", keyword+"/enabled", nil)["enabled"]; got != false {
		t.Errorf("the disabled rule has enabled %v", got)
	}
	send("more cake")
	expect("with the keyword off", 3, 1)
	mute := "/v3/pushrules/global/override/" + url.PathEscape(room)
	bob.Do("PUT", mute, map[string]any{"conditions": []any{map[string]any{"kind": "event_match", "key": "room_id", "pattern": room}}, "actions": []any{}})
	send("unheard")
	expect("muted", 3, 1)
	bob.Do("PUT", mute+"/actions", map[string]any{"actions": []any{"notify"}})
	if got, _ := bob.Do("GET", mute+"/actions", nil)["actions"].([]any); len(got) != 1 || got[0] != "notify" {
		t.Errorf("the actions are %v, want notify", got)
	}
	send("heard")
	expect("unmuted", 4, 1)
	if got := get(bob.Do("GET", "/v3/pushrules/", nil), "global", "override", 1, "rule_id"); got != room {
		t.Errorf("the first rule after the master rule is %v, want that of the room", got)
	}
	if got := get(bob.Do("GET", "/v3/pushrules/global/", nil), "content", 0, "rule_id"); got != "cake" {
		t.Errorf("the first content rule is %v, want %q", got, "cake")
	}
	bob.Do("DELETE", mute, nil)
	bob.Refused("GET", mute, nil, 404, "M_NOT_FOUND")
	bob.Refused("DELETE", "/v3/pushrules/global/override/.m.rule.master", nil, 400, "M_INVALID_PARAM")
	bob.Refused("PUT", "/v3/pushrules/global/nonsense/x", map[string]any{"actions": []any{}}, 400, "M_INVALID_PARAM")
	if got := get(bob.Do("GET", keyword, nil), "pattern"); got != "cake" {
		t.Errorf("the pattern is %v, want %q", got, "cake")
	}
}

func TestSyncReturnsTypingAndPresenceAndAppliesFilters(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := s.Register("alice"), s.Register("bob")
	room := share(alice, bob)
	base := "/v3/rooms/" + url.PathEscape(room)
	since := bob.Do("GET", "/v3/sync", nil)["next_batch"].(string)
	alice.Do("PUT", base+"/typing/"+url.PathEscape(alice.User), map[string]any{"typing": true, "timeout": 30000})
	alice.Do("PUT", "/v3/presence/"+url.PathEscape(alice.User)+"/status", map[string]any{"presence": "unavailable", "status_msg": "at lunch"})
	if got := bob.Do("GET", "/v3/presence/"+url.PathEscape(alice.User)+"/status", nil); got["presence"] != "unavailable" || got["status_msg"] != "at lunch" {
		t.Errorf("alice's presence is %v, want unavailable with her status", got)
	}
	sync := bob.Do("GET", "/v3/sync?timeout=5000&since="+since, nil)
	if got := get(sync, "rooms", "join", room, "ephemeral", "events", 0, "content", "user_ids", 0); got != alice.User {
		t.Errorf("the ephemeral events of the room are %v, want alice typing", get(sync, "rooms", "join", room, "ephemeral"))
	}
	definition := map[string]any{"room": map[string]any{"timeline": map[string]any{"limit": 1, "types": []string{"m.room.member"}}}, "presence": map[string]any{"types": []string{}}}
	me := "/v3/user/" + url.PathEscape(bob.User) + "/filter"
	filter := bob.Do("POST", me, definition)["filter_id"].(string)
	if got := get(bob.Do("GET", me+"/"+filter, nil), "room", "timeline", "limit"); got != 1.0 {
		t.Errorf("the stored filter has the limit %v, want 1", got)
	}
	sync = bob.Do("GET", "/v3/sync?filter="+filter, nil)
	events, _ := get(sync, "rooms", "join", room, "timeline", "events").([]any)
	if len(events) != 1 || get(events[0], "type") != "m.room.member" || get(sync, "rooms", "join", room, "timeline", "limited") != true {
		t.Errorf("with the filter the timeline is %v, want one member event, limited", get(sync, "rooms", "join", room, "timeline"))
	}
	bob.Refused("GET", "/v3/sync?since=nonsense", nil, 400, "M_INVALID_PARAM")
	bob.Refused("GET", "/v3/sync?filter=999", nil, 400, "M_INVALID_PARAM")
}
