package server_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"ebb/internal/testserver"
)

const usersPath = "/_ebb/admin/v1/users/"

func TestAdministratorsEraseAUserOverHTTP(t *testing.T) {
	s := testserver.New(t, nil)
	admin := administrator(t, s, "admin")
	w := newErasing(t, s, s.Register("alice"), s.Register("bob"))
	path := usersPath + url.PathEscape(w.alice.User) + "/erase"
	admin.Refused("GET", path, nil, 404, "M_NOT_FOUND")
	admin.Refused("POST", usersPath+"@nobody:test/erase", obj{"everything": true}, 404, "M_NOT_FOUND")
	w.bob.Refused("POST", path, obj{"everything": true}, 403, "M_FORBIDDEN")
	if e := admin.Do("POST", path, obj{"everything": true}); e["stage"] == nil || e["finished"] != nil {
		t.Errorf("the answer is %v", e)
	}
	w.erase()
	w.gone()
	if e := admin.Do("GET", path, nil); e["finished"] == nil || e["user"] != w.alice.User {
		t.Errorf("at the end: %v", e)
	}
	admin.Do("POST", usersPath+url.PathEscape(w.bob.User)+"/erase", obj{})
	w.bob.Refused("GET", "/v3/account/whoami", nil, 401, "M_UNKNOWN_TOKEN")
	if _, _, page := admin.Raw("GET", base(w.open)+"/messages?dir=b", nil); strings.Contains(string(page), "m.room.redaction") {
		t.Errorf("erasure without everything sends redactions: %s", page)
	}
}

func TestAdministratorsRedactTheMessagesOfAUserOverHTTP(t *testing.T) {
	s := testserver.New(t, nil)
	admin, alice, bob := administrator(t, s, "admin"), s.Register("alice"), s.Register("bob")
	w := &erasing{T: t, s: s, alice: alice, bob: bob}
	var rooms [2]string
	for i := range rooms {
		rooms[i] = alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
		w.say(alice, rooms[i], "one"+ownWord)
	}
	path := usersPath + url.PathEscape(alice.User) + "/redactions"
	bob.Refused("GET", path, nil, 403, "M_FORBIDDEN")
	admin.Refused("POST", path, obj{"room": "!none:test"}, 404, "M_NOT_FOUND")
	admin.Refused("POST", path, obj{"age_ms": -1}, 400, "M_INVALID_PARAM")
	admin.Do("POST", path, obj{"age_ms": 60_000})
	if n := len(list(admin.Do("DELETE", path, nil), "requests")); n != 0 {
		t.Errorf("%d requests are left after they were cancelled", n)
	}
	admin.Do("POST", path, obj{"room": rooms[0], "reason": "asked by mail"})
	w.erase()
	answer := admin.Do("GET", path, nil)
	if r := list(answer, "requests"); len(r) != 1 || get(r[0], "redacted") != 1.0 || get(r[0], "finished") == nil || get(r[0], "room") != rooms[0] {
		t.Errorf("the requests are %v", answer)
	}
	for i, room := range rooms {
		_, _, page := alice.Raw("GET", base(room)+"/messages?dir=b&limit=50", nil)
		if got, want := strings.Contains(string(page), ownWord), i == 1; got != want {
			t.Errorf("room %d shows the message: %v, want %v", i, got, want)
		}
	}
}

func TestAdministratorsExportAUserOverHTTP(t *testing.T) {
	s := testserver.New(t, nil)
	admin, alice, bob := administrator(t, s, "admin"), s.Register("alice"), s.Register("bob")
	room := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	w := &erasing{T: t, s: s, alice: alice, bob: bob}
	w.say(alice, room, "one"+ownWord)
	path := usersPath + url.PathEscape(alice.User) + "/export"
	bob.Refused("POST", path, nil, 403, "M_FORBIDDEN")
	admin.Refused("GET", path+"/archive", nil, 404, "M_NOT_FOUND")
	admin.Do("POST", path, nil)
	eventually(t, 30*time.Second, "the export is ready", func() bool { return admin.Do("GET", path, nil)["state"] == "ready" })
	bob.Refused("GET", path+"/archive", nil, 403, "M_FORBIDDEN")
	status, header, archive := admin.Raw("GET", path+"/archive", nil)
	if status != 200 || header.Get("Content-Type") != "application/zip" || !anyContains(unzip(t, archive), "one"+ownWord) {
		t.Errorf("the archive: %d %v", status, header)
	}
	bob.Do("POST", "/v3/join/"+url.PathEscape(room), obj{})
	w.say(bob, room, "two"+ownWord)
	for _, conversations := range []bool{false, true} {
		admin.Do("POST", path, obj{"conversations": conversations})
		eventually(t, 30*time.Second, "the export is ready", func() bool { return admin.Do("GET", path, nil)["state"] == "ready" })
		_, _, archive := admin.Raw("GET", path+"/archive", nil)
		if got := anyContains(unzip(t, archive), "two"+ownWord); got != conversations || admin.Do("GET", path, nil)["conversations"] != conversations {
			t.Errorf("with conversations %v, the archive has the message of another user: %v", conversations, got)
		}
	}
	admin.Refused("POST", path, obj{"conversations": "yes"}, 400, "M_BAD_JSON")
	admin.Do("DELETE", path, nil)
	admin.Refused("GET", path+"/archive", nil, 404, "M_NOT_FOUND")
}
