package server_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"ebb/internal/testserver"
)

func TestSendToDeviceAndSignaturesAcceptRequestsUpToTheirLimits(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	big := strings.Repeat("x", 1000)
	to := obj{}
	for i := range 10_000 - 1 {
		to[fmt.Sprint("DEVICE", i)] = obj{"ciphertext": big}
	}
	to[bob.DeviceID] = obj{"ciphertext": big}
	alice.Do("PUT", "/v3/sendToDevice/m.room.encrypted/1", obj{"messages": obj{bob.User: to}})
	if got := list(bob.again(), "to_device", "events"); len(got) != 1 {
		t.Errorf("the device gets %d messages, want 1", len(got))
	}
	to["ONE-MORE"] = obj{}
	alice.Refused("PUT", "/v3/sendToDevice/m.room.encrypted/2", obj{"messages": obj{bob.User: to}}, 413, "M_TOO_LARGE")
	signed := obj{}
	for i := range 2000 {
		signed[fmt.Sprint("DEVICE", i)] = obj{"device_id": fmt.Sprint("DEVICE", i), "user_id": bob.User, "x": big}
	}
	answer := alice.Do("POST", "/v3/keys/signatures/upload", obj{bob.User: signed})
	if failures, _ := get(answer, "failures", bob.User).(obj); len(failures) != 2000 {
		t.Errorf("%d of 2,000 objects without a signature have a failure, want all", len(failures))
	}
}

func TestRetriedRegistrationGetsTheSameAnswer(t *testing.T) {
	s := testserver.New(t, nil)
	nobody := s.Anonymous()
	body := obj{"username": "alice", "password": testserver.Password(), "device_id": "D"}
	_, _, raw := nobody.Raw("POST", "/v3/register", body)
	var flows obj
	if err := json.Unmarshal(raw, &flows); err != nil {
		t.Fatal(err)
	}
	body["auth"] = obj{"type": "m.login.dummy", "session": flows["session"]}
	first := nobody.Do("POST", "/v3/register", body)
	if again := nobody.Do("POST", "/v3/register", body); !reflect.DeepEqual(again, first) || again["access_token"] == nil {
		t.Errorf("the same request again: %v, want %v", again, first)
	}
	body["auth"] = obj{"session": flows["session"]}
	if again := nobody.Do("POST", "/v3/register", body); !reflect.DeepEqual(again, first) {
		t.Errorf("with the session only: %v, want %v", again, first)
	}
	body["password"] = "another password"
	nobody.Refused("POST", "/v3/register", body, 400, "M_USER_IN_USE")
	body["password"], body["auth"] = testserver.Password(), obj{"type": "m.login.dummy", "session": "another"}
	nobody.Refused("POST", "/v3/register", body, 400, "M_USER_IN_USE")
	body["username"], body["auth"] = "bob", obj{"session": flows["session"]}
	nobody.Refused("POST", "/v3/register", body, 401, "")
}

func TestUnknownRangeUnitIsIgnored(t *testing.T) {
	s := testserver.New(t, nil)
	alice := signUp(t, s, "alice")
	_, _, raw := alice.Raw("POST", "/_matrix/media/v3/upload", []byte("0123456789"))
	var up struct {
		URI string `json:"content_uri"`
	}
	if err := json.Unmarshal(raw, &up); err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{"bytes=2-3": "206 23", "lines=2-3": "200 0123456789", "x": "200 0123456789", "": "200 0123456789", "bytes=20-": "416 "} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/_matrix/client/v1/media/download/"+strings.TrimPrefix(up.URI, "mxc://"), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+alice.Token)
		if value != "" {
			r.Header.Set("Range", value)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if _ = resp.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
			body = nil
		}
		if got := fmt.Sprintf("%d %s", resp.StatusCode, body); got != want {
			t.Errorf("Range %q: %s, want %s", value, got, want)
		}
	}
}

func TestJoinedMembersLeaveOutAvatarsThatAreNotSet(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	_, base := together(nil, alice, bob)
	alice.Do("PUT", base+"/state/m.room.member/"+url.PathEscape(alice.User), obj{"membership": "join", "avatar_url": "mxc://hs/a"})
	bob.Do("PUT", base+"/state/m.room.member/"+url.PathEscape(bob.User), obj{"membership": "join", "displayname": "Bob", "avatar_url": ""})
	want := obj{alice.User: obj{"display_name": "", "avatar_url": "mxc://hs/a"}, bob.User: obj{"display_name": "Bob"}}
	if got := get(alice.Do("GET", base+"/joined_members", nil), "joined"); !reflect.DeepEqual(got, any(want)) {
		t.Errorf("joined_members returns %v, want %v", got, want)
	}
}

func TestNoResponseHasBothTheStableAndTheUnstableName(t *testing.T) {
	s := testserver.New(t, nil)
	alice := signUp(t, s, "alice")
	room, base := together(nil, alice)
	alice.Do("PUT", base+"/state/m.room.encryption", obj{"algorithm": "m.megolm.v1.aes-sha2"})
	both := "use_state_after=true&org.matrix.msc4222.use_state_after=true"
	for what, c := range map[string]struct {
		answer      any
		stable, old []string
		isOld       bool
	}{
		"capabilities": {get(alice.Do("GET", "/v3/capabilities", nil), "capabilities"), []string{"m.profile_fields"}, []string{"uk.tcpip.msc4133.profile_fields"}, false},
		"summary": {alice.Do("GET", "/v1/room_summary/"+url.PathEscape(room), nil),
			[]string{"encryption", "room_version"}, []string{"im.nheko.summary.encryption", "im.nheko.summary.room_version"}, false},
		"summary, unstable": {alice.Do("GET", "/unstable/im.nheko.summary/summary/"+url.PathEscape(room), nil),
			[]string{"encryption", "room_version"}, []string{"im.nheko.summary.encryption", "im.nheko.summary.room_version"}, true},
		"sync": {get(alice.Do("GET", "/v3/sync?"+both, nil), "rooms", "join", room), []string{"state_after"}, []string{"org.matrix.msc4222.state_after", "state"}, false},
	} {
		answer, _ := c.answer.(obj)
		for _, name := range c.stable {
			if (answer[name] == nil) != c.isOld {
				t.Errorf("%s: %s is %v", what, name, answer[name])
			}
		}
		for _, name := range c.old {
			if (answer[name] != nil) != c.isOld {
				t.Errorf("%s: %s is %v", what, name, answer[name])
			}
		}
	}
}

func TestGroupsOfPushRulesCanBeReadButNotWritten(t *testing.T) {
	alice := signUp(t, testserver.New(t, nil), "alice")
	for _, path := range []string{"/v3/pushrules/global/underride", "/v3/pushrules/global/underride/", "/r0/pushrules/global/underride/"} {
		status, _, raw := alice.Raw("GET", path, nil)
		if text := string(raw); status != http.StatusOK || !strings.HasPrefix(text, `[{`) || !strings.Contains(text, `".m.rule.message"`) || strings.Contains(text, ".m.rule.master") {
			t.Errorf("GET %s: %d %s", path, status, raw)
		}
	}
	rule := obj{"actions": []string{"notify"}}
	for _, path := range []string{"/", "", "/global", "/global/", "/global/override", "/global/override/", "/device", "/device/x", "/global/nonsense/x"} {
		alice.Refused("PUT", "/v3/pushrules"+path, rule, 400, "M_INVALID_PARAM")
	}
	for _, path := range []string{"/device", "/device/", "/device/override", "/device/override/x", "/device/override/x/enabled", "/device/override/x/actions", "/global/nonsense", "/global/nonsense/"} {
		alice.Refused("GET", "/v3/pushrules"+path, nil, 400, "M_INVALID_PARAM")
	}
	for _, path := range []string{"/device/override/x", "/device/override/x/enabled", "/device/override/x/actions"} {
		alice.Refused("PUT", "/v3/pushrules"+path, rule, 400, "M_INVALID_PARAM")
	}
	alice.Refused("DELETE", "/v3/pushrules/device/override/x", nil, 400, "M_INVALID_PARAM")
	if set := alice.Do("GET", "/v3/pushrules/global/", nil); set["override"] == nil {
		t.Errorf("the global rules: %v", set)
	}
	if set := alice.Do("GET", "/r0/pushrules/", nil); set["global"] == nil {
		t.Errorf("all rules: %v", set)
	}
	alice.Refused("GET", "/v3/pushrules/global/override/none", nil, 404, "M_NOT_FOUND")
}
