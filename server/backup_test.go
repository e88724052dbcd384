package server_test

import (
	"fmt"
	"testing"

	"ebb/internal/testserver"
)

func TestLargeKeyBackupsAreReadCompletely(t *testing.T) {
	s := testserver.New(t, nil)
	alice := signUp(t, s, "alice")
	version, _ := alice.Do("POST", "/v3/room_keys/version", obj{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": obj{}})["version"].(string)
	path := func(p string) string { return "/v3/room_keys/keys" + p + "?version=" + version }
	if got := alice.Do("GET", path(""), nil); len(got["rooms"].(obj)) != 0 {
		t.Errorf("an empty backup is %v", got)
	}
	if got := alice.Do("GET", path("/!none:test"), nil); len(got["sessions"].(obj)) != 0 {
		t.Errorf("an unknown room has %v", got)
	}
	rooms := obj{}
	for r := range 3 {
		sessions := obj{}
		for i := range 400 { // more than one page, with rooms that span two pages
			sessions[fmt.Sprint("session", i)] = obj{"first_message_index": i, "forwarded_count": r, "is_verified": true, "session_data": obj{"c": "x"}}
		}
		rooms[fmt.Sprintf("!r%d:test", r)] = obj{"sessions": sessions}
	}
	alice.Do("PUT", path(""), obj{"rooms": rooms})
	got := alice.Do("GET", path(""), nil)
	for r := range 3 {
		room := fmt.Sprintf("!r%d:test", r)
		all, _ := get(got, "rooms", room, "sessions").(obj)
		if len(all) != 400 || get(all, "session77", "first_message_index") != float64(77) || get(all, "session77", "forwarded_count") != float64(r) {
			t.Errorf("the backup of %s has %d sessions (session77: %v), want 400", room, len(all), all["session77"])
		}
	}
	one := alice.Do("GET", path("/!r1:test"), nil)
	if all := one["sessions"].(obj); len(all) != 400 || get(all, "session5", "forwarded_count") != float64(1) {
		t.Errorf("the backup of one room has %d sessions (session5: %v), want 400", len(all), all["session5"])
	}
	alice.Refused("GET", "/v3/room_keys/keys?version=99", nil, 404, "M_NOT_FOUND")
	alice.Refused("GET", "/v3/room_keys/keys", nil, 400, "M_MISSING_PARAM")
	alice.Refused("GET", path("/!r1:test/none"), nil, 404, "M_NOT_FOUND")
}
