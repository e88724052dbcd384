package server_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

// removeLeft makes a server remove the rooms that its users have left, once their events have reached other servers.
func removeLeft(t *testing.T, s *testserver.Server) {
	t.Helper()
	eventually(t, 30*time.Second, "a room is removed", func() bool {
		answer, err := s.Control(t.Context(), "purge now", []byte(`{"all":true}`))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(fmt.Sprintf("%+v", answer), "Removed:1 ")
	})
}

func TestARoomThatEverybodyHasLeftIsGoneFromDisk(t *testing.T) {
	const marker = "cormorant3318"
	month := config.Duration(30 * 24 * time.Hour)
	s := testserver.New(t, func(c *config.Config) { c.Retention.LeftRooms = &month })
	alice, bob := s.Register("alice"), s.Register("bob")
	room := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat", "name": marker, "topic": marker, "room_alias_name": marker})["room_id"].(string)
	base := "/v3/rooms/" + url.PathEscape(room)
	bob.Do("POST", "/v3/join/"+url.PathEscape("#"+marker+":"+s.Name()), obj{})
	root := bob.Do("PUT", base+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": marker})["event_id"].(string)
	alice.Do("PUT", base+"/send/m.room.message/2", obj{"msgtype": "m.text", "body": marker, "m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})
	sendImage(alice, base, "3", upload(alice, pngImage(t, 40)))
	alice.Do("PUT", base+"/state/m.room.avatar", obj{"url": upload(alice, pngImage(t, 50))})
	emoji := upload(alice, pngImage(t, 60))
	alice.Do("PUT", "/v3/user/"+url.PathEscape(alice.User)+base[len("/v3"):]+"/account_data/im.ponies.room", obj{"text": marker, "url": emoji})
	alice.Do("POST", base+"/receipt/m.read/"+url.PathEscape(root), obj{})
	alice.Do("PUT", base+"/send/m.room.message/4?org.matrix.msc4140.delay=86400000", obj{"msgtype": "m.text", "body": marker})
	since := alice.Do("GET", "/v3/sync", nil)["next_batch"].(string)
	for _, c := range []*testserver.Client{alice, bob} {
		c.Do("POST", base+"/leave", obj{})
	}
	s.Advance(29 * 24 * time.Hour)
	if _, err := s.Control(t.Context(), "purge now", []byte(`{"all":true}`)); err != nil {
		t.Fatal(err)
	}
	if status, _, raw := bob.Raw("GET", base+"/messages?dir=b", nil); status != 200 || !strings.Contains(string(raw), marker) || mediaFiles(t, s) != 3 {
		t.Fatalf("a former member cannot read the room before its time: %d %s, %d files", status, raw, mediaFiles(t, s))
	}
	s.Advance(2 * 24 * time.Hour)
	removeLeft(t, s)
	if files := s.FilesWith(marker); len(files) != 0 || mediaFiles(t, s) != 0 {
		t.Errorf("%v have the marker, %d media files are left", files, mediaFiles(t, s))
	}
	for _, path := range []string{base + "/messages?dir=b", base + "/state", base + "/members", base + "/event/" + url.PathEscape(root), base + "/context/" + url.PathEscape(root)} {
		if status, _, raw := bob.Raw("GET", path, nil); status != 403 && status != 404 {
			t.Errorf("%s: %d %s", path, status, raw)
		}
	}
	alice.Refused("GET", "/v3/directory/room/"+url.PathEscape("#"+marker+":"+s.Name()), nil, 404, "M_NOT_FOUND")
	bob.Refused("POST", "/v3/join/"+url.PathEscape(room), obj{}, 404, "M_NOT_FOUND")
	filter := url.QueryEscape(`{"room":{"include_leave":true}}`)
	for _, path := range []string{"/v3/sync?filter=" + filter, "/v3/sync?since=" + since} {
		if _, _, raw := alice.Raw("GET", path, nil); strings.Contains(string(raw), room) {
			t.Errorf("%s names the room: %s", path, raw)
		}
	}
	receipts, err := s.Control(t.Context(), "receipts list", []byte(`{}`))
	if text := fmt.Sprintf("%+v", receipts); err != nil || !strings.Contains(text, "rooms that all users of this server have left") || !strings.Contains(text, room) {
		t.Errorf("the receipts are %s (%v)", text, err)
	}
	alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat", "room_alias_name": marker}) // the alias is free again
}

func TestARemovedRoomCanBeJoinedAgain(t *testing.T) {
	net := testserver.Federation(t, 2, func(i int, c *config.Config) {
		if i == 0 {
			c.Retention.LeftRooms = new(config.Duration)
		}
	})
	alice, bob := net.Servers[0].Register("alice"), net.Servers[1].Register("bob")
	room := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	bob.Do("POST", "/v3/join/"+url.PathEscape(room)+"?via=hs1.test", obj{})
	base := "/v3/rooms/" + url.PathEscape(room)
	say := func(c *testserver.Client, txn, body string) {
		c.Do("PUT", base+"/send/m.room.message/"+txn, obj{"msgtype": "m.text", "body": body})
	}
	heard := listen(t, bob, room)
	say(alice, "1", "lighthouse5561")
	heard.until("the first message", func() bool { return slices.Contains(heard.bodies(), "lighthouse5561") })
	for stay := range 2 { // it is removed and joined again twice
		alice.Do("POST", base+"/leave", obj{})
		removeLeft(t, net.Servers[0])
		if files := net.Servers[0].FilesWith("lighthouse5561"); len(files) != 0 {
			t.Errorf("%v have the message", files)
		}
		say(bob, fmt.Sprint("b", stay), "meanwhile")
		alice.Do("POST", "/v3/join/"+url.PathEscape(room)+"?server_name=hs2.test", obj{})
		body := fmt.Sprint("again ", stay)
		say(alice, fmt.Sprint("a", stay), body)
		heard.until(body, func() bool { return slices.Contains(heard.bodies(), body) })
		eventually(t, 30*time.Second, "the history is fetched", func() bool {
			_, _, raw := alice.Raw("GET", base+"/messages?dir=b&limit=100", nil)
			return strings.Contains(string(raw), `"lighthouse5561"`) && strings.Contains(string(raw), `"meanwhile"`) && strings.Contains(string(raw), body)
		})
	}
	back := listen(t, alice, room)
	say(bob, "last", "to those who are back")
	back.until("a message to the server that is back", func() bool { return slices.Contains(back.bodies(), "to those who are back") })
}
