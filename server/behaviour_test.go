package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
)

// The tests in this file and in behaviour_rooms_test.go check, through the HTTP API, each behaviour on which clients
// depend according to docs/clients.md.

type obj = map[string]any

// device is a logged-in device together with its sync token.
type device struct {
	*testserver.Client
	t     *testing.T
	since string
	txns  int
}

// signUp creates an account and logs a device in.
func signUp(t *testing.T, s *testserver.Server, name string) *device {
	t.Helper()
	return &device{Client: s.Register(name), t: t}
}

// sync syncs from the last token; params are alternating names and values.
func (d *device) sync(params ...string) obj {
	d.t.Helper()
	query := url.Values{"set_presence": {"offline"}}
	if d.since != "" {
		query.Set("since", d.since)
	}
	for i := 0; i < len(params); i += 2 {
		query.Set(params[i], params[i+1])
	}
	answer := d.Do("GET", "/v3/sync?"+query.Encode(), nil)
	d.since = answer["next_batch"].(string)
	return answer
}

// again performs an initial sync without changing the device's token.
func (d *device) again(params ...string) obj {
	d.t.Helper()
	return (&device{Client: d.Client, t: d.t}).sync(params...)
}

// list returns the array at a path, or nil if there is none.
func list(v any, path ...any) []any {
	found, _ := get(v, path...).([]any)
	return found
}

func decode(t *testing.T, raw []byte) (v obj) {
	t.Helper()
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	return v
}

// each returns the value at a path for every entry.
func each(entries []any, path ...any) []any {
	found := make([]any, 0, len(entries))
	for _, e := range entries {
		found = append(found, get(e, path...))
	}
	return found
}

func TestMissingOperationsAreUnrecognizedSoThatClientsFallBack(t *testing.T) {
	alice := signUp(t, testserver.New(t, func(c *config.Config) { c.OAuth.Enabled = false }), "alice")
	for _, request := range []string{
		"GET /v1/auth_metadata",
		"GET /v3/login/sso/redirect",
		"GET /v9/sync",
	} {
		method, path, _ := strings.Cut(request, " ")
		alice.Refused(method, path, nil, 404, "M_UNRECOGNIZED")
	}
	alice.Refused("DELETE", "/versions", nil, 405, "M_UNRECOGNIZED")
	alice.Refused("PATCH", "/v3/sync", nil, 405, "M_UNRECOGNIZED")
}

func TestUnsetValuesAreNotFound(t *testing.T) {
	alice := signUp(t, testserver.New(t, nil), "alice")
	room := alice.Do("POST", "/v3/createRoom", nil)["room_id"].(string)
	for _, path := range []string{
		"/v3/user/" + alice.User + "/account_data/m.secret_storage.default_key",
		"/v3/user/" + alice.User + "/rooms/" + room + "/account_data/m.fully_read",
		"/v3/room_keys/version",
		"/v3/profile/" + alice.User + "/m.tz",
		"/v3/profile/@nobody:test",
		"/v3/directory/room/%23none%3Atest",
		"/v3/rooms/" + room + "/state/m.room.topic",
		"/v3/rooms/" + room + "/event/$none",
		"/v3/pushrules/global/room/" + room,
		"/v3/user/" + alice.User + "/filter/404",
		"/unstable/org.matrix.msc3814.v1/dehydrated_device",
	} {
		alice.Refused("GET", path, nil, 404, "M_NOT_FOUND")
	}
}

func TestEveryFeatureThatVersionsClaimHasItsOperations(t *testing.T) {
	alice := signUp(t, testserver.New(t, func(c *config.Config) { c.Calls.RTCTransports = `[{"type":"livekit"}]` }), "alice")
	room := alice.Do("POST", "/v3/createRoom", nil)["room_id"].(string)
	versions := alice.Do("GET", "/versions", nil)
	if !slices.Contains(list(versions, "versions"), any("v1.4")) || !slices.Contains(list(versions, "versions"), any("v1.16")) {
		t.Errorf("the versions are %v, want v1.4 and v1.16 among them", versions)
	}
	me := alice.User
	event := alice.Do("PUT", "/v3/rooms/"+room+"/send/m.room.message/1", obj{"body": "x", "msgtype": "m.text"})["event_id"].(string)
	for flag, paths := range map[string][]string{
		"org.matrix.msc3030":        {"/unstable/org.matrix.msc3030/rooms/" + room + "/timestamp_to_event?ts=0&dir=f"},
		"org.matrix.msc3030.stable": {"/v1/rooms/" + room + "/timestamp_to_event?ts=0&dir=f"},
		"org.matrix.msc3715":        {"/v1/rooms/" + room + "/relations/" + event + "?org.matrix.msc3715.dir=f"},
		"org.matrix.msc3715.stable": {"/v1/rooms/" + room + "/relations/" + event + "?dir=f"},
		"org.matrix.msc3827.stable": {"/v3/publicRooms"},
		"org.matrix.msc3856":        {"/unstable/org.matrix.msc3856/rooms/" + room + "/threads"},
		"org.matrix.msc3856.stable": {"/v1/rooms/" + room + "/threads"},
		"org.matrix.msc3874":        {"/v3/rooms/" + room + "/messages?dir=b&filter=" + url.QueryEscape(`{"org.matrix.msc3874.rel_types":["m.thread"]}`)},
		"org.matrix.msc3916.stable": {"/v1/media/config"},
		"org.matrix.msc3981":        {"/v1/rooms/" + room + "/relations/" + event + "?org.matrix.msc3981.recurse=true"},
		"org.matrix.msc4026":        {"/versions"},
		"org.matrix.msc4140":        {delayedPath + "/delayed_events"},
		"org.matrix.msc4143":        {"/unstable/org.matrix.msc4143/rtc/transports"},
		"org.matrix.msc4306":        {changedThreads},
		"org.matrix.msc4429.stable": {"/v3/sync?filter=" + url.QueryEscape(`{"profile_fields":{"ids":["m.status"]}}`)},
		"org.matrix.msc3440.stable": {"/v1/rooms/" + room + "/threads"},
		"org.matrix.msc2432":        {"/unstable/org.matrix.msc2432/rooms/" + room + "/aliases"},
		"org.matrix.msc4222":        {"/v3/sync?org.matrix.msc4222.use_state_after=true"},
		"org.matrix.msc1763":        {"/unstable/org.matrix.msc1763/retention/configuration"},
		"uk.tcpip.msc4133":          {"/unstable/uk.tcpip.msc4133/profile/" + me},
		"uk.tcpip.msc4133.stable":   {"/v3/profile/" + me},
	} {
		if get(versions, "unstable_features", flag) != true {
			t.Errorf("%s is not claimed", flag)
		}
		for _, path := range paths {
			alice.Do("GET", path, nil)
		}
	}
	if get(versions, "unstable_features", "org.matrix.simplified_msc3575") != true {
		t.Error("sliding sync is not claimed")
	}
	for _, path := range []string{"/v1/media/config", "/_matrix/media/v3/config"} {
		if alice.Do("GET", path, nil)["m.upload.size"] == nil {
			t.Errorf("no upload size at %s", path)
		}
	}
}

func TestScriptsOfOtherOriginsReadEveryAnswer(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) { c.RateLimits.Enabled = true })
	alice := s.Register("alice")
	nobody := *alice
	nobody.Token = ""
	try := func(c *testserver.Client, method, path string, want int) {
		t.Helper()
		status, header, raw := c.Raw(method, path, nil)
		if status != want || header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s %s: status %d, Access-Control-Allow-Origin %q: %s", method, path, status, header.Get("Access-Control-Allow-Origin"), raw)
		}
		if want != 204 && want != 200 && !strings.Contains(string(raw), `"errcode"`) {
			t.Errorf("%s %s: no error code: %s", method, path, raw)
		}
	}
	try(alice, "GET", "/v3/account/whoami", 200)
	try(&nobody, "GET", "/v3/account/whoami", 401)
	try(alice, "GET", "/v3/nowhere", 404)
	try(alice, "DELETE", "/v3/account/whoami", 405)
	try(alice, "GET", "/v1/media/download/test/none", 404)
	try(alice, "GET", "/_matrix/nowhere", 404)
	try(alice, "PUT", "/v3/rooms/!x:test/send/m.a/1", 400)
	limited := false
	for range 100 {
		if status, header, _ := nobody.Raw("POST", "/v3/login", obj{"type": "m.login.token", "token": "x"}); status == 429 {
			limited = header.Get("Access-Control-Allow-Origin") == "*"
			break
		}
	}
	if !limited {
		t.Error("no request was refused for being one too many, so its headers were not tested")
	}
	status, header, _ := nobody.Raw("OPTIONS", "/v3/rooms/!x:test/send/m.a/1", nil)
	if status >= 300 || !strings.Contains(header.Get("Access-Control-Allow-Methods"), "PUT") || !strings.Contains(header.Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("the preflight gets %d %v, want the methods and headers of the specification", status, header)
	}
}

func TestSlashesInPathParametersAreKept(t *testing.T) {
	alice := signUp(t, testserver.New(t, nil), "alice")
	room := alice.Do("POST", "/v3/createRoom", nil)["room_id"].(string)
	base := "/v3/rooms/" + url.PathEscape(room)
	alice.Do("PUT", base+"/state/org.example%2Ftype/a%2Fb%20c", obj{"k": 1})
	if got := alice.Do("GET", base+"/state/org.example%2Ftype/a%2Fb%20c", nil); got["k"] != 1.0 {
		t.Errorf("the content of the state event is %v, want 1", got)
	}
	alice.Do("PUT", base+"/send/m.x/txn%2F1", obj{})
	alice.Do("POST", base+"/leave", nil) // without a body
}

func TestAuthenticationStepsOfARequest(t *testing.T) {
	s := testserver.New(t, nil)
	alice := signUp(t, s, "alice")
	other := s.Login("alice")
	path := "/v3/devices/" + other.DeviceID
	challenge := refusal(t, alice, path, nil)
	if challenge["session"] == nil || challenge["flows"] == nil || challenge["errcode"] != nil {
		t.Fatalf("the challenge is %v, want a session, flows and no error code", challenge)
	}
	auth := func(password string) obj {
		return obj{"auth": obj{"type": "m.login.password", "session": challenge["session"], "password": password,
			"identifier": obj{"type": "m.id.user", "user": "alice"}}}
	}
	wrong := refusal(t, alice, path, auth("guess"))
	if wrong["errcode"] != "M_FORBIDDEN" || wrong["session"] != challenge["session"] || wrong["flows"] == nil {
		t.Errorf("after a wrong password: %v, want M_FORBIDDEN with the same session and the flows", wrong)
	}
	alice.Do("DELETE", path, auth(testserver.Password()))
	status, _, raw := other.Raw("GET", "/v3/sync", nil)
	if status != 401 || !strings.Contains(string(raw), "M_UNKNOWN_TOKEN") || strings.Contains(string(raw), "soft_logout") {
		t.Errorf("a request of the deleted device gets %d %s, want M_UNKNOWN_TOKEN without soft_logout", status, raw)
	}
}

// refusal sends a DELETE request that must be refused without the password, and returns the response.
func refusal(t *testing.T, d *device, path string, body any) obj {
	t.Helper()
	if body == nil {
		body = obj{}
	}
	status, _, raw := d.Raw("DELETE", path, body)
	if status != http.StatusUnauthorized {
		t.Fatalf("got %d %s, want status 401", status, raw)
	}
	return decode(t, raw)
}

func TestRefreshTokenWorksUntilItsSuccessorIsUsed(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	first := alice.Do("POST", "/v3/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"},
		"password": testserver.Password(), "refresh_token": true})
	body := obj{"refresh_token": first["refresh_token"]}
	alice.Do("POST", "/v3/refresh", body) // the response gets lost
	second := alice.Do("POST", "/v3/refresh", body)
	renewed := *alice
	renewed.Token = second["access_token"].(string)
	renewed.Do("GET", "/v3/account/whoami", nil)
	alice.Refused("POST", "/v3/refresh", body, 401, "M_UNKNOWN_TOKEN")
	alice.Do("POST", "/v3/refresh", obj{"refresh_token": second["refresh_token"]})
}

func TestFirstSyncReturnsTheCountOfOneTimeKeys(t *testing.T) {
	s := testserver.New(t, nil)
	bare, alice := signUp(t, s, "bare"), signUp(t, s, "alice")
	answer := bare.sync()
	if fallback, isList := answer["device_unused_fallback_key_types"].([]any); !isList || len(fallback) != 0 {
		t.Errorf("the unused fallback keys of a device without keys are %v, want an empty list", answer["device_unused_fallback_key_types"])
	}
	if _, isObject := answer["device_one_time_keys_count"].(obj); !isObject {
		t.Errorf("the counts of one-time keys of a device without keys are %v, want an object", answer["device_one_time_keys_count"])
	}
	alice.Do("POST", "/v3/keys/upload", obj{
		"one_time_keys": obj{"signed_curve25519:1": obj{"key": "a"}, "signed_curve25519:2": obj{"key": "b"}},
		"fallback_keys": obj{"signed_curve25519:f": obj{"key": "c", "fallback": true}},
	})
	for _, answer := range []obj{alice.sync(), alice.sync(), alice.again()} {
		if get(answer, "device_one_time_keys_count", "signed_curve25519") != 2.0 || get(answer, "device_unused_fallback_key_types", 0) != "signed_curve25519" {
			t.Errorf("the counts are %v and the unused fallback keys %v, want 2 and signed_curve25519", answer["device_one_time_keys_count"], answer["device_unused_fallback_key_types"])
		}
	}
}

func TestDeviceListsChangeWithDevicesKeysAndRooms(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	phone := &device{Client: s.Login("alice"), t: t}
	for _, d := range []*device{alice, bob, phone} {
		d.sync()
	}
	changed := func(what string, d *device, users ...string) {
		t.Helper()
		if got := fmt.Sprint(each(list(d.sync(), "device_lists", "changed"))); got != fmt.Sprint(users) {
			t.Errorf("%s: device_lists.changed for %s is %s, want %v", what, d.User, got, users)
		}
	}
	keys := func(d *testserver.Client) {
		d.Do("POST", "/v3/keys/upload", obj{"device_keys": obj{"user_id": d.User, "device_id": d.DeviceID, "algorithms": []string{}, "keys": obj{}, "signatures": obj{}}})
	}
	keys(alice.Client)
	changed("keys, no room shared", bob)
	changed("keys", phone, alice.User)
	alice.sync()
	share(alice.Client, bob.Client)
	changed("a new room", bob, alice.User)
	changed("a new room", alice, bob.User)
	phone.sync()
	tablet := s.Login("alice")
	keys(tablet)
	changed("a login", bob, alice.User)
	changed("a login", phone, alice.User)
	tablet.Do("POST", "/v3/logout", nil)
	changed("a logout", bob, alice.User)
	changed("a logout", phone, alice.User)
	public := strings.Repeat("A", 43)
	alice.Do("POST", "/v3/keys/device_signing/upload", obj{"master_key": obj{"user_id": alice.User, "usage": []string{"master"}, "keys": obj{"ed25519:" + public: public}}})
	changed("cross-signing keys", bob, alice.User)
	changed("cross-signing keys", phone, alice.User)
	changed("nothing", bob)
}

func TestToDeviceMessagesAreRepeatedInOrderUntilAcknowledged(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	phone := &device{Client: s.Login("bob"), t: t} // it has never sent a request before
	for i := range 3 {
		for range 2 { // the second is a retry
			alice.Do("PUT", fmt.Sprint("/v3/sendToDevice/m.test/", i), obj{"messages": obj{bob.User: obj{"*": obj{"n": i}}}})
		}
	}
	for _, d := range []*device{bob, phone} {
		for _, answer := range []obj{d.again(), d.sync()} { // the first response gets lost
			if got := fmt.Sprint(each(list(answer, "to_device", "events"), "content", "n")); got != "[0 1 2]" {
				t.Errorf("a first sync has the messages %s, want [0 1 2]", got)
			}
		}
		if got := list(d.sync(), "to_device", "events"); len(got) != 0 {
			t.Errorf("messages that the client has confirmed come again: %v", got)
		}
	}
	alice.Do("PUT", "/v3/sendToDevice/m.test/4", obj{"messages": obj{bob.User: obj{bob.DeviceID: obj{"n": 4}}}})
	before := bob.since
	for range 2 {
		bob.since = before
		if got := fmt.Sprint(each(list(bob.sync(), "to_device", "events"), "content", "n")); got != "[4]" {
			t.Errorf("a sync with the same token again has the messages %s, want [4]", got)
		}
	}
	if got := list(phone.sync(), "to_device", "events"); len(got) != 0 {
		t.Errorf("the other device gets the messages %v, want none", got)
	}
}
