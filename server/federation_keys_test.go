package server_test

import (
	"net/url"
	"testing"
	"time"

	"ebb/internal/testserver"
)

func TestARotatedKeyIsUsedAtOnceAndOldSignaturesStayValid(t *testing.T) {
	w := testserver.Federation(t, 3, nil)
	alice, bob, carol := w.Servers[0].Register("alice"), w.Servers[1].Register("bob"), w.Servers[2].Register("carol")
	room := alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat"})["room_id"].(string)
	base := "/v3/rooms/" + url.PathEscape(room)
	alice.Do("PUT", base+"/send/m.room.message/1", map[string]any{"msgtype": "m.text", "body": "by the first key"})
	bob.Do("POST", "/v3/join/"+url.PathEscape(room)+"?via=hs1.test", nil)
	for _, s := range w.Servers {
		s.Advance(time.Hour) // the other servers have a cached copy of the key
	}
	keys, err := w.Servers[0].Control(t.Context(), "keys rotate", nil)
	if err != nil {
		t.Fatal(err)
	}
	alice.Do("PUT", base+"/send/m.room.message/2", map[string]any{"msgtype": "m.text", "body": "by the second key"})
	bob.Hears("by the second key")
	// A new server needs both keys, since the former one signed the room's state.
	carol.Do("POST", "/v3/join/"+url.PathEscape(room)+"?via=hs2.test", nil)
	alice.Hears(carol.User) // hs1.test must know that carol's server is in the room
	alice.Do("PUT", base+"/send/m.room.message/3", map[string]any{"msgtype": "m.text", "body": "to all"})
	carol.Hears("to all")
	if creator := carol.Do("GET", base+"/state/m.room.member/"+alice.User, nil); creator["membership"] != "join" {
		t.Errorf("what the first key signed: %v; keys %v", creator, keys)
	}
}
