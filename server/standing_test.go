package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"ebb/clientapi"
	"ebb/internal/testserver"
)

// administrator registers a user who is an administrator.
func administrator(t *testing.T, s *testserver.Server, name string) *device {
	t.Helper()
	d := signUp(t, s, name)
	control(t, s, "user admin", obj{"user": d.User, "admin": true})
	return d
}

// control runs a command through the control socket, as the command line does.
func control(t *testing.T, s *testserver.Server, name string, args obj) any {
	t.Helper()
	raw, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.Control(t.Context(), name, raw)
	if err != nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return answer
}

func TestLockedAccountsCanOnlyLogOut(t *testing.T) {
	s := testserver.New(t, nil)
	admin, alice, bob := administrator(t, s, "admin"), signUp(t, s, "alice"), signUp(t, s, "bob")
	room, base := together(nil, alice, bob)
	phone := &device{Client: s.Login("alice"), t: t}
	lock := "/v1/admin/lock/" + alice.User
	fresh := alice.Do("POST", "/v3/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": testserver.Password(), "refresh_token": true})
	loginToken := tokenToSignIn(alice)
	alice.sync()

	parked := make(chan obj, 1)
	go func() {
		_, _, raw := alice.Raw("GET", "/v3/sync?set_presence=offline&timeout=20000&since="+url.QueryEscape(alice.since), nil)
		var v obj
		_ = json.Unmarshal(raw, &v)
		parked <- v
	}()
	waitForPoll(t, s)
	if got := admin.Do("GET", lock, nil); got["locked"] != false {
		t.Errorf("before the lock: %v", got)
	}
	admin.Do("PUT", lock, obj{"locked": true})
	select {
	case got := <-parked:
		if got["errcode"] != "M_USER_LOCKED" || got["soft_logout"] != true {
			t.Errorf("the waiting /sync gets %v", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the waiting /sync of a locked account goes on")
	}
	if got := admin.Do("GET", lock, nil); got["locked"] != true {
		t.Errorf("after the lock: %v", got)
	}
	refused := func(d *testserver.Client, method, path string, body any) {
		t.Helper()
		status, _, raw := d.Raw(method, path, body)
		var e obj
		if json.Unmarshal(raw, &e) != nil || status != http.StatusUnauthorized || e["errcode"] != "M_USER_LOCKED" || e["soft_logout"] != true {
			t.Errorf("%s %s of a locked account: %d %s", method, path, status, raw)
		}
	}
	for _, path := range []string{"/v3/sync", "/v3/account/whoami", base + "/messages", "/versions", "/v3/profile/" + bob.User, "/v1/media/config"} {
		refused(alice.Client, "GET", path, nil)
		refused(phone.Client, "GET", path, nil)
	}
	refused(alice.Client, "PUT", base+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": "x"})
	refused(s.Anonymous(), "POST", "/v3/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": testserver.Password()})
	refused(s.Anonymous(), "POST", "/v3/login", obj{"type": "m.login.token", "token": loginToken})
	refused(s.Anonymous(), "POST", "/v3/refresh", obj{"refresh_token": fresh["refresh_token"]})
	bob.Do("GET", base+"/messages?dir=b", nil)

	phone.Do("POST", "/v3/logout", obj{})
	phone.Refused("GET", "/v3/account/whoami", nil, 401, "M_UNKNOWN_TOKEN")
	admin.Do("PUT", lock, obj{"locked": false})
	alice.Do("PUT", base+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": "back again"})
	s.Anonymous().Do("POST", "/v3/refresh", obj{"refresh_token": fresh["refresh_token"]})
	if news := alice.sync(); len(list(news, "rooms", "join", room, "timeline", "events")) == 0 {
		t.Errorf("after the lock the same session gets %v", news)
	}
}

// tokenToSignIn returns a login token for the device's user.
func tokenToSignIn(d *device) any {
	return d.Do("POST", "/v1/login/get_token", obj{"auth": obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": d.User}, "password": testserver.Password()}})["login_token"]
}

func TestSuspendedUsersReadButDoNotAct(t *testing.T) {
	s := testserver.New(t, nil)
	admin, alice, bob := administrator(t, s, "admin"), signUp(t, s, "alice"), signUp(t, s, "bob")
	room, base := together(nil, alice, bob)
	own, others := alice.say(base, "mine"), bob.say(base, "yours")
	open, _ := bob.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	second, _ := bob.Do("POST", "/v3/createRoom", obj{"invite": []string{alice.User}})["room_id"].(string)
	suspend := "/v1/admin/suspend/" + alice.User
	if got := admin.Do("PUT", suspend, obj{"suspended": true}); got["suspended"] != true {
		t.Errorf("the answer is %v", got)
	}
	if got := admin.Do("GET", suspend, nil); got["suspended"] != true {
		t.Errorf("the account is %v", got)
	}
	for _, c := range []struct {
		method, path string
		body         any
	}{
		{"PUT", base + "/send/m.room.message/1", obj{"msgtype": "m.text", "body": "x"}},
		{"PUT", base + "/send/m.reaction/2", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": others, "key": "x"}}},
		{"PUT", base + "/state/m.room.topic", obj{"topic": "x"}},
		{"PUT", base + "/state/m.room.member/" + alice.User, obj{"membership": "join", "displayname": "x"}},
		{"PUT", base + "/redact/" + others + "/3", obj{}},
		{"PUT", base + "/send/m.room.redaction/4", obj{"redacts": others}},
		{"POST", "/v3/join/" + open, obj{}},
		{"POST", "/v3/rooms/" + second + "/join", obj{}},
		{"POST", "/v3/knock/" + open, obj{}},
		{"POST", base + "/invite", obj{"user_id": admin.User}},
		{"POST", base + "/kick", obj{"user_id": bob.User}},
		{"POST", base + "/ban", obj{"user_id": bob.User}},
		{"POST", base + "/upgrade", obj{"new_version": "12"}},
		{"POST", "/v3/createRoom", obj{}},
		{"PUT", "/v3/profile/" + alice.User + "/displayname", obj{"displayname": "x"}},
		{"DELETE", "/v3/profile/" + alice.User + "/avatar_url", nil},
		{"PUT", "/v3/directory/room/%23x:test", obj{"room_id": room}},
		{"POST", "/_matrix/media/v3/upload", []byte("x")},
		{"POST", "/v3/account/3pid/delete", obj{"medium": "email", "address": "alice@example.org"}},
		{"POST", "/v3/account/3pid/unbind", obj{"medium": "email", "address": "alice@example.org"}},
	} {
		alice.Refused(c.method, c.path, c.body, 403, "M_USER_SUSPENDED")
	}
	alice.Do("GET", base+"/messages?dir=b", nil)
	alice.sync()
	alice.Do("POST", "/v3/keys/upload", obj{"one_time_keys": obj{"a:1": obj{"key": "k"}}})
	alice.Do("PUT", base+"/redact/"+own+"/5", obj{})
	if e := bob.Do("GET", base+"/event/"+own, nil); get(e, "unsigned", "redacted_because") == nil {
		t.Error("a suspended user cannot redact their own message")
	}
	alice.Do("POST", "/v3/rooms/"+second+"/leave", obj{})
	alice.Do("PUT", base+"/state/m.room.member/"+alice.User, obj{"membership": "leave"})
	again := &device{Client: s.Login("alice"), t: t}
	again.Refused("POST", "/v3/createRoom", obj{}, 403, "M_USER_SUSPENDED")
	again.Do("POST", "/v3/logout", obj{})
	admin.Do("PUT", suspend, obj{"suspended": false})
	alice.Do("POST", "/v3/join/"+open, obj{})
}

func TestOnlyAdministratorsModerateAndOnlyOrdinaryUsers(t *testing.T) {
	s := testserver.New(t, nil)
	admin, second, alice := administrator(t, s, "admin"), administrator(t, s, "second"), signUp(t, s, "alice")
	for path, body := range map[string]obj{"/v1/admin/lock/": {"locked": true}, "/v1/admin/suspend/": {"suspended": true}} {
		alice.Refused("GET", path+"@nobody:test", nil, 403, "M_FORBIDDEN")
		alice.Refused("PUT", path+"@nobody:test", body, 403, "M_FORBIDDEN")
		for _, m := range []string{"GET", "PUT"} {
			admin.Refused(m, path+second.User, body, 403, "M_FORBIDDEN")
			admin.Refused(m, path+"@alice:elsewhere.org", body, 400, "M_INVALID_PARAM")
			admin.Refused(m, path+"alice", body, 400, "M_INVALID_PARAM")
			admin.Refused(m, path+"@nobody:test", body, 404, "M_NOT_FOUND")
		}
		admin.Refused("PUT", path+admin.User, body, 403, "M_FORBIDDEN")
		admin.Refused("PUT", path+alice.User, obj{}, 400, "M_MISSING_PARAM")
		admin.Refused("PUT", path+alice.User, obj{"locked": "yes", "suspended": "yes"}, 400, "M_BAD_JSON")
	}
	moderates := func(d *device) any {
		return get(d.Do("GET", "/v3/capabilities", nil), "capabilities", "m.account_moderation")
	}
	if got := fmt.Sprint(moderates(admin)); got != "map[lock:true suspend:true]" {
		t.Errorf("the capability of an administrator is %s", got)
	}
	if got := moderates(alice); got != nil {
		t.Errorf("the capability of a user is %v", got)
	}
	control(t, s, "user suspend", obj{"user": second.User}) // the command line may suspend administrators
	second.Refused("PUT", "/v1/admin/lock/"+alice.User, obj{"locked": true}, 403, "M_USER_SUSPENDED")
	control(t, s, "user lock", obj{"user": second.User})
	second.Refused("GET", "/v3/account/whoami", nil, 401, "M_USER_LOCKED")
	control(t, s, "user unlock", obj{"user": second.User})
	control(t, s, "user unsuspend", obj{"user": second.User})
	second.Do("PUT", "/v1/admin/lock/"+alice.User, obj{"locked": true})
}

func TestWhoIsListsDevicesToTheirUserAndToAdministrators(t *testing.T) {
	s := testserver.New(t, nil)
	admin, alice, bob := administrator(t, s, "admin"), signUp(t, s, "alice"), signUp(t, s, "bob")
	alice.Do("GET", "/v3/account/whoami", nil)
	whois := "/v3/admin/whois/" + alice.User
	for _, d := range []*device{admin, alice} {
		got := d.Do("GET", whois, nil)
		c := get(got, "devices", alice.DeviceID, "sessions", 0, "connections", 0)
		if got["user_id"] != alice.User || get(c, "ip") != "127.0.0.1" || get(c, "user_agent") != "Go-http-client/1.1" || get(c, "last_seen") != float64(s.Now().UnixMilli()) {
			t.Errorf("%s is told %v", d.User, got)
		}
	}
	bob.Refused("GET", whois, nil, 403, "M_FORBIDDEN")
	bob.Refused("GET", "/v3/admin/whois/@nobody:test", nil, 403, "M_FORBIDDEN")
	admin.Refused("GET", "/v3/admin/whois/@nobody:test", nil, 404, "M_NOT_FOUND")
}

func TestEveryOperationInTheTablesOfStandingExists(t *testing.T) {
	s := testserver.New(t, nil)
	served := map[string]bool{}
	for _, r := range s.Routes() {
		served[r.OperationID] = true
	}
	for _, operation := range clientapi.OperationsByStanding() {
		if !served[operation] {
			t.Errorf("the tables in clientapi/standing.go name %s, which is not served", operation)
		}
	}
}
