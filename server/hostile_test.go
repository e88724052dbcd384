package server_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ebb/httpapi"
	"ebb/internal/testserver"
)

// operation is an entry of docs/spec-index.txt that the server implements.
type operation struct{ name, method, path string }

// operations reads the implemented operations from docs/spec-index.txt, which a test of internal/specindex keeps up to
// date.
func operations(t *testing.T) (ops []operation) {
	t.Helper()
	file, err := os.Open("../docs/spec-index.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 4 || !strings.HasPrefix(f[2], "/") || f[3] != "Yes" && f[3] != "Partial" || strings.HasPrefix(f[2], "/_matrix/push/") {
			continue
		}
		ops = append(ops, operation{f[0], f[1], f[2]})
	}
	if err := lines.Err(); err != nil || len(ops) < 100 {
		t.Fatalf("%d operations were found (%v), want at least 100", len(ops), err)
	}
	return ops
}

// bodies maps operations to valid bodies. The tests replace each member by wrong values. USER, ROOM, EVENT and DEVICE
// stand for the IDs used by the test.
var bodies = map[string]string{
	"setAccountData":        `{"a":{"b":[1]}}`,
	"setAccountDataPerRoom": `{"a":{"b":[1]}}`,
	"deactivateAccount":     `{"auth":{"type":"m.login.password","session":"s","identifier":{"type":"m.id.user","user":"USER"},"password":"x"},"erase":true,"id_server":"x"}`,
	"ban":                   `{"user_id":"@eve:test","reason":"r"}`, "unban": `{"user_id":"@eve:test","reason":"r"}`, "kick": `{"user_id":"@eve:test","reason":"r"}`,
	"inviteUser": `{"user_id":"@eve:test","reason":"r"}`,
	"createRoom": `{"visibility":"private","room_alias_name":"x","name":"n","topic":"t","invite":["@eve:test"],"room_version":"11","creation_content":{"m.federate":false,"type":"x","additional_creators":["@eve:test"]},` +
		`"initial_state":[{"type":"m.room.join_rules","state_key":"","content":{"join_rule":"knock"}}],"preset":"private_chat","is_direct":true,"power_level_content_override":{"users":{"USER":100},"ban":50,"notifications":{"room":50}}}`,
	"uploadCrossSigningKeys":       `{"master_key":{"user_id":"USER","usage":["master"],"keys":{"ed25519:A":"A"},"signatures":{"USER":{"ed25519:A":"s"}}},"self_signing_key":{"user_id":"USER","usage":["self_signing"],"keys":{"ed25519:B":"B"}},"auth":{"type":"m.login.password","session":"s"}}`,
	"uploadCrossSigningSignatures": `{"USER":{"DEVICE":{"user_id":"USER","device_id":"DEVICE","algorithms":["a"],"keys":{"ed25519:DEVICE":"k"},"signatures":{"USER":{"ed25519:A":"s"}}}}}`,
	"deleteDevices":                `{"devices":["NONE"],"auth":{"type":"m.login.password","session":"s","identifier":{"type":"m.id.user","user":"USER"}}}`,
	"deleteDevice":                 `{"auth":{"type":"m.login.password","session":"s","identifier":{"type":"m.id.user","user":"USER"}}}`,
	"updateDevice":                 `{"display_name":"d"}`,
	"setRoomAlias":                 `{"room_id":"ROOM"}`,
	"defineFilter": `{"event_fields":["type","content.body"],"event_format":"client","presence":{"limit":1,"types":["*"]},"account_data":{"not_types":["a*"]},"room":{"rooms":["ROOM"],"not_rooms":["!x"],"include_leave":true,` +
		`"timeline":{"limit":10,"types":["m.*"],"senders":["USER"],"not_senders":["@x:y"],"contains_url":true,"lazy_load_members":true,"include_redundant_members":true,"unread_thread_notifications":true},"state":{"limit":1},"ephemeral":{"types":["m.typing"]},"account_data":{"types":["x"]}}}`,
	"joinRoom": `{"reason":"r","third_party_signed":{"sender":"USER","mxid":"USER","token":"t","signatures":{"x":{"ed25519:1":"s"}}}}`, "joinRoomById": `{"reason":"r","third_party_signed":{"sender":"USER","mxid":"USER","token":"t","signatures":{"x":{"ed25519:1":"s"}}}}`,
	"knockRoom": `{"reason":"r"}`, "leaveRoom": `{"reason":"r"}`, "forgetRoom": `{}`,
	"putRoomKeys":                      `{"rooms":{"ROOM":{"sessions":{"s":{"first_message_index":1,"forwarded_count":1,"is_verified":true,"session_data":{"c":"x"}}}}}}`,
	"putRoomKeysByRoomId":              `{"sessions":{"s":{"first_message_index":1,"forwarded_count":1,"is_verified":true,"session_data":{"c":"x"}}}}`,
	"putRoomKeyBySessionId":            `{"first_message_index":1,"forwarded_count":1,"is_verified":true,"session_data":{"c":"x"}}`,
	"postRoomKeysVersion":              `{"algorithm":"a","auth_data":{"public_key":"x","signatures":{"USER":{"ed25519:D":"s"}}}}`,
	"putRoomKeysVersion":               `{"algorithm":"a","auth_data":{"public_key":"x"},"version":"1"}`,
	"claimKeys":                        `{"one_time_keys":{"USER":{"DEVICE":"signed_curve25519"}},"timeout":1000}`,
	"queryKeys":                        `{"device_keys":{"USER":["DEVICE"]},"timeout":1000,"token":"x"}`,
	"uploadKeys":                       `{"device_keys":{"user_id":"USER","device_id":"DEVICE","algorithms":["a"],"keys":{"ed25519:DEVICE":"k"},"signatures":{"USER":{"ed25519:DEVICE":"s"}}},"one_time_keys":{"signed_curve25519:A":{"key":"k","signatures":{"USER":{"ed25519:DEVICE":"s"}}}},"fallback_keys":{"signed_curve25519:F":{"key":"k","fallback":true}}}`,
	"setRoomVisibilityOnDirectory":     `{"visibility":"private"}`,
	"queryPublicRooms":                 `{"limit":1,"since":"x","filter":{"generic_search_term":"x","room_types":[null,"m.space"]},"include_all_networks":true,"third_party_instance_id":"x"}`,
	"login":                            `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"nobody","medium":"email","address":"x","country":"GB","phone":"1"},"password":"x","device_id":"d","initial_device_display_name":"x","refresh_token":true,"token":"x","user":"x","medium":"x","address":"x"}`,
	"generateLoginToken":               `{"auth":{"type":"m.login.password","session":"s","identifier":{"type":"m.id.user","user":"USER"},"password":"x"}}`,
	"changePassword":                   `{"new_password":"correct horse","logout_devices":true,"auth":{"type":"m.login.password","session":"s","identifier":{"type":"m.id.user","user":"USER"}}}`,
	"requestTokenToResetPasswordEmail": `{"client_secret":"s","email":"a@b","send_attempt":1,"next_link":"x"}`,
	"setPresence":                      `{"presence":"online","status_msg":"x"}`,
	"setProfileField":                  `{"displayname":"x","m.tz":"Europe/Berlin"}`,
	"setPushRule":                      `{"actions":["notify",{"set_tweak":"sound","value":"default"}],"conditions":[{"kind":"event_match","key":"content.body","pattern":"*a*"},{"kind":"room_member_count","is":"2"},{"kind":"sender_notification_permission","key":"room"},{"kind":"event_property_is","key":"a","value":1}],"pattern":"x"}`,
	"setPushRuleActions":               `{"actions":["notify",{"set_tweak":"sound","value":"default"}]}`,
	"setPushRuleEnabled":               `{"enabled":true}`,
	"setReadMarker":                    `{"m.fully_read":"EVENT","m.read":"EVENT","m.read.private":"EVENT"}`,
	"postReceipt":                      `{"thread_id":"main"}`,
	"redactEvent":                      `{"reason":"r"}`,
	"refresh":                          `{"refresh_token":"x"}`,
	"register":                         `{"username":"new","password":"correct horse","device_id":"d","initial_device_display_name":"x","inhibit_login":true,"refresh_token":true,"auth":{"type":"m.login.token","session":"s","token":"t","response":"r"}}`,
	"sendMessage":                      `{"msgtype":"m.text","body":"b","m.relates_to":{"rel_type":"m.thread","event_id":"EVENT","is_falling_back":true,"key":"k","m.in_reply_to":{"event_id":"EVENT"}},"m.new_content":{"body":"x"},"m.mentions":{"user_ids":["USER"],"room":true},"url":"mxc://test/x","file":{"url":"mxc://test/x"}}`,
	"upgradeRoom":                      `{"new_version":"12","additional_creators":["@eve:test"]}`,
	"setRoomTag":                       `{"order":0.5}`,
	"sendToDevice":                     `{"messages":{"USER":{"*":{"a":1}}}}`,
	"setTyping":                        `{"typing":true,"timeout":1000}`,
	"searchUserDirectory":              `{"search_term":"a","limit":1}`,
	"putDehydratedDevice":              `{"device_id":"DD","device_data":{"algorithm":"a"},"initial_device_display_name":"x","device_keys":{"user_id":"USER","device_id":"DD","algorithms":["a"],"keys":{"ed25519:DD":"k"},"signatures":{}},"one_time_keys":{"a:1":"k"},"fallback_keys":{"a:f":"k"}}`,
	"getDehydratedDeviceEvents":        `{"next_batch":"d1"}`,
	"registerWithSharedSecret":         `{"nonce":"n","username":"u","password":"p","admin":true,"user_type":"x","mac":"00"}`,
}

// stateContents maps event types to valid contents; setRoomStateWithKey is tried with each.
var stateContents = map[string]string{
	"m.room.member":             `{"membership":"join","displayname":"x","avatar_url":"mxc://a/b","third_party_invite":{"signed":{"mxid":"USER","token":"t","signatures":{"x":{"ed25519:1":"s"}}}},"join_authorised_via_users_server":"USER"}`,
	"m.room.power_levels":       `{"users":{"USER":100},"users_default":0,"events":{"m.room.name":50},"events_default":0,"state_default":50,"ban":50,"kick":50,"redact":50,"invite":0,"notifications":{"room":50}}`,
	"m.room.join_rules":         `{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"ROOM"}]}`,
	"m.room.history_visibility": `{"history_visibility":"joined"}`,
	"m.room.canonical_alias":    `{"alias":"#none:test","alt_aliases":["#none:test"]}`,
	"m.room.retention":          `{"min_lifetime":1000000000,"max_lifetime":10000000000000}`,
	"m.room.name":               `{"name":"n"}`, "m.room.topic": `{"topic":"t","m.topic":{"m.text":[{"body":"t"}]}}`, "m.room.avatar": `{"url":"mxc://test/x"}`,
	"m.room.encryption": `{"algorithm":"a","rotation_period_ms":1}`, "m.room.guest_access": `{"guest_access":"can_join"}`,
	"m.room.pinned_events": `{"pinned":["EVENT"]}`, "m.room.server_acl": `{"allow":["*"],"deny":["x"],"allow_ip_literals":true}`,
	"m.room.third_party_invite": `{"display_name":"x","key_validity_url":"x","public_key":"k","public_keys":[{"public_key":"k","key_validity_url":"x"}]}`,
	"m.space.child":             `{"via":["test"],"order":"a","suggested":true}`, "m.room.create": `{"creator":"USER"}`,
}

// junk lists values that replace valid ones.
var junk = []string{
	`null`, `true`, `""`, `"x"`, `0`, `-1`, `1.5`, `1e999`, `9007199254740993`, `99999999999999999999`, `-9223372036854775808`, `[]`, `{}`, `[null]`, `[[]]`, `[{}]`, `{"":null}`, `{"a":{}}`,
	`"\ud800"`, `"\u0001\u202e\n"`, `"a\u0000"`, `"` + strings.Repeat("é", 200) + `"`, `"@:"`, `"!"`, `"$"`,
}

// wrong lists bodies that are not JSON objects, or are useless ones.
var wrong = [][]byte{
	nil, []byte(" "), []byte("{"), []byte("}"), []byte("null"), []byte("[]"), []byte(`"x"`), []byte("1"), []byte(`{"a":1}{`), []byte("{\"a\":\"\xff\"}"), []byte("\xff\xfe{\x00}\x00"),
	[]byte("{\"a\":\"\x00\"}"), []byte(`{"\u0000":1}`), []byte(`{"\ud800":"\udc00"}`), []byte(`{"a":1,"a":[2]}`), []byte(`{"":{}}`), []byte(`{"a":` + strings.Repeat("[", 5000)), []byte(strings.Repeat(`{"a":`, 150) + "1" + strings.Repeat("}", 150)),
	[]byte(`{"a":` + strings.Repeat("[", 95) + strings.Repeat("]", 95) + "}"), []byte(`{"a":1e400,"b":-0,"c":1e-400}`), []byte(`{"a":"` + strings.Repeat("x", 70000) + `"}`),
}

// parameters lists invalid values of path parameters, escaped.
var parameters = []string{
	"%00", "%2F..%2F..", "%0A", "%FF", "%ED%A0%80", "%20", "x", "%21", "%40%3A", "%24", "%23%3A", "-1", "1e9", "99999999999999999999", "%E2%80%AE", "null", "%7B%7D", "%25s%25n", "'%3B--", strings.Repeat("a", 256), strings.Repeat("%C3%A9", 1025),
}

// queries lists query strings that contain every query parameter that some operation reads, with invalid values.
var queries = func() (list []string) {
	names := []string{
		"access_token", "since", "filter", "timeout", "full_state", "set_presence", "use_state_after", "from", "to", "dir", "limit", "at", "membership", "not_membership", "ts", "version", "width", "height", "method",
		"animated", "timeout_ms", "filename", "server", "server_name", "via", "include", "recurse", "username", "token", "format", "only", "before", "after", "user_id", "event_id", "kind", "search_term",
	}
	for _, v := range []string{"", "%00", "%FF", "-1", "0", "99999999999999999999", "1.5", "%7B", "null", "x", "%5B%5D", "%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:-5,%22types%22:%5B%22***a***b%22%5D%7D%7D%7D", "s1_2_3", strings.Repeat("9", 300), "%ED%A0%80"} {
		all := make([]string, len(names))
		for i, name := range names[1:] {
			all[i] = name + "=" + v
			// Some parameters also appear alone, since otherwise an error in an earlier one would hide theirs.
			if len(v)%2 == 1 && strings.Contains(" since filter timeout from to dir limit at ts version ", " "+name+" ") {
				list = append(list, all[i])
			}
		}
		list = append(list, strings.Join(all, "&"))
	}
	return append(list, "%zz", "a;b", strings.Repeat("via=x&", 500), "limit=1&limit=x", "width=1&height=1&method=crop&animated=maybe", "width=2147483647&height=2147483647", "dir=b&from=t1_1&to=t0_0&limit=1")
}()

var errorCode = regexp.MustCompile(`^M_[A-Z_]+$`)

// hostile is a client that sends requests that no honest client sends.
type hostile struct {
	*testserver.Client
	t                  *testing.T
	room, event, media string
	n                  int
}

// try sends a request and reports an error if the response is not acceptable.
func (h *hostile) try(op operation, path string, body []byte) {
	h.n++
	var sent any
	if body != nil {
		sent = body
	}
	status, header, raw := h.Raw(op.method, path, sent)
	var e struct {
		Code  string          `json:"errcode"`
		Error *string         `json:"error"`
		Flows json.RawMessage `json:"flows"`
	}
	late := status == http.StatusGatewayTimeout // the code is M_NOT_YET_UPLOADED
	switch {
	case status < 400, status < 500 && header.Get("Content-Type") == httpapi.HTML: // an HTML page
		return
	case status >= 500 && !late, json.Unmarshal(raw, &e) != nil, e.Flows == nil && (!errorCode.MatchString(e.Code) || e.Error == nil):
		h.t.Errorf("%s %s %.300s: %d %.300s", op.method, path, body, status, raw)
	case e.Code == "M_UNKNOWN_TOKEN" || e.Code == "M_MISSING_TOKEN":
		if op.name != "refresh" && op.name != "login" && !strings.Contains(path, "access_token") {
			h.t.Fatalf("%s %s %.300s signed the client out: %s", op.method, path, body, raw)
		}
	}
}

func (h *hostile) vars() map[string]string {
	return map[string]string{
		"userId": h.User, "type": "m.x", "roomId": h.room, "roomIdOrAlias": h.room, "serverName": "test", "mediaId": h.media, "fileName": "f", "deviceId": "NONE", "roomAlias": "#h:test", "eventId": h.event,
		"filterId": "1", "sessionId": "s", "version": "1", "keyName": "displayname", "kind": "override", "ruleId": "r", "receiptType": "m.read", "txnId": fmt.Sprint("t", h.n), "relType": "m.thread", "eventType": "m.room.message",
		"stateKey": "", "tag": "u.x", "device_id": "DD",
	}
}

var variable = regexp.MustCompile(`\{(\w+)\}`)

// address fills in the variables of a path; bad is the value of the variable called name.
func (h *hostile) address(path, name, bad string) string {
	vars := h.vars()
	return variable.ReplaceAllStringFunc(path, func(v string) string {
		v = v[1 : len(v)-1]
		if v == name {
			return bad
		}
		return url.PathEscape(vars[v])
	})
}

// good returns body with the IDs of the test filled in.
func (h *hostile) good(body string) []byte {
	return []byte(strings.NewReplacer("USER", h.User, "ROOM", h.room, "EVENT", h.event, "DEVICE", h.DeviceID).Replace(body))
}

// twisted returns copies of a JSON object in which one value is replaced by junk. Of all possible copies it returns
// each step-th, and in addition the object itself, one with every member twice and one in upper case.
func twisted(t *testing.T, body []byte, step int) (out [][]byte) {
	t.Helper()
	var top any
	if err := json.Unmarshal(body, &top); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	const mark = `"a mark that nothing else has"`
	n := 0
	for _, marked := range markings(top) {
		raw, err := json.Marshal(marked)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range junk {
			if n++; n%step == 0 {
				out = append(out, bytes.Replace(raw, []byte(mark), []byte(j), 1))
			}
		}
	}
	return append(out, body, append(slices.Clone(body[:len(body)-1]), `,`+string(body[1:])...), bytes.ToUpper(body))
}

// markings returns copies of a value, each with one part replaced by a mark.
func markings(v any) []any {
	out := []any{"a mark that nothing else has"}
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			for _, m := range markings(v[key]) {
				c := maps.Clone(v)
				c[key] = m
				out = append(out, c)
			}
		}
	case []any:
		for i := range v {
			for _, m := range markings(v[i]) {
				c := slices.Clone(v)
				c[i] = m
				out = append(out, c)
			}
		}
	}
	return out
}

// newHostile registers a hostile client that has a room, an event and an uploaded file of its own.
func newHostile(t *testing.T, s *testserver.Server, name string) *hostile {
	t.Helper()
	h := &hostile{Client: s.Register(name), t: t}
	h.freshRoom("11")
	h.media = strings.TrimPrefix(h.Do("POST", "/_matrix/media/v3/upload", []byte("text"))["content_uri"].(string), "mxc://test/")
	h.Do("POST", "/v3/room_keys/version", json.RawMessage(`{"algorithm":"a","auth_data":{}}`))
	return h
}

func (h *hostile) freshRoom(version string) {
	h.room = h.Do("POST", "/v3/createRoom", map[string]any{"room_version": version})["room_id"].(string)
	h.event = h.Do("PUT", "/v3/rooms/"+url.PathEscape(h.room)+"/send/m.room.message/first", map[string]any{"body": "b"})["event_id"].(string)
}

// ends lists the operations that log the client out and need no body to do so.
var ends = []string{"logout", "logout_all"}

func TestNoInputIsAnsweredWithAServerError(t *testing.T) {
	t.Parallel()
	s := testserver.New(t, nil)
	h := newHostile(t, s, "mallory")
	s.Register("eve")
	for _, op := range operations(t) {
		if slices.Contains(ends, op.name) {
			continue
		}
		if strings.Contains(op.path, "{roomId") {
			h.freshRoom("11")
		}
		h.paths(op)
		if op.method == "PUT" || op.method == "POST" || op.method == "DELETE" {
			h.bodies(op)
		}
	}
	t.Logf("%d requests", h.n)
	if sync := h.Do("GET", "/v3/sync", nil); sync["next_batch"] == nil {
		t.Errorf("after all requests /sync returns %v", sync)
	}
}

func (h *hostile) paths(op operation) {
	body := h.good(bodies[op.name])
	for _, v := range variable.FindAllStringSubmatch(op.path, -1) {
		for _, bad := range parameters {
			h.try(op, h.address(op.path, v[1], bad), body)
		}
	}
	if op.method != "GET" {
		return
	}
	for _, q := range queries {
		if op.name == "getEvents" || op.name == "peekEvents" { // these wait for 30 seconds by default
			q = "timeout=0&" + q
		}
		h.try(op, h.address(op.path, "", "")+"?"+q, nil)
	}
}

func (h *hostile) bodies(op operation) {
	for _, body := range wrong {
		h.try(op, h.address(op.path, "", ""), body)
	}
	if bodies[op.name] == "" {
		return
	}
	step := 1
	if len(bodies[op.name]) > 200 { // these have many members, or take long for each
		step = 3
	}
	for _, body := range twisted(h.t, h.good(bodies[op.name]), step) {
		h.try(op, h.address(op.path, "", ""), body)
	}
}

func TestNoStateContentIsAnsweredWithAServerError(t *testing.T) {
	t.Parallel()
	s := testserver.New(t, nil)
	h := newHostile(t, s, "mallory")
	for version := 1; version <= 12; version++ {
		step := 17 // coprime to the number of junk values
		if version == 5 || version == 12 {
			step = 3
		}
		for typ, content := range stateContents {
			h.freshRoom(fmt.Sprint(version))
			key := ""
			if typ == "m.room.member" {
				key = h.User
			}
			op := operation{"setRoomStateWithKey", "PUT", "/v3/rooms/" + url.PathEscape(h.room) + "/state/" + typ + "/" + url.PathEscape(key)}
			for _, body := range twisted(t, h.good(content), step) {
				h.try(op, op.path, body)
			}
			h.try(operation{method: "PUT"}, "/v3/rooms/"+url.PathEscape(h.room)+"/send/m.room.message/after", []byte(`{"body":"after"}`))
			h.try(operation{method: "GET"}, "/v3/rooms/"+url.PathEscape(h.room)+"/messages?dir=b&limit=5", nil)
		}
	}
	t.Logf("%d requests", h.n)
	h.Do("GET", "/v3/sync", nil)
}
