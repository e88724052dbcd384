package server_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
	"ebb/storage"
)

// TestRestoredServerGetsItsLostEventsBackFromOtherServers covers a server whose database is restored to an earlier
// state, while another server has the events that it has sent since.
func TestRestoredServerGetsItsLostEventsBackFromOtherServers(t *testing.T) {
	var dsn string
	net := testserver.Federation(t, 2, func(i int, cfg *config.Config) {
		if i == 0 {
			dsn = cfg.DSN()
		}
	})
	alice, bob := net.Servers[0].Register("alice"), net.Servers[1].Register("bob")
	room, _ := alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat"})["room_id"].(string)
	bob.Do("POST", "/v3/join/"+room+"?via=hs1.test", map[string]any{})
	say := func(c *testserver.Client, txn, body string) {
		t.Helper()
		c.Do("PUT", "/v3/rooms/"+room+"/send/m.room.message/"+txn, map[string]any{"msgtype": "m.text", "body": body})
	}
	heard := listen(t, bob, room)
	say(alice, "1", "before the backup")
	heard.until("the message before the backup", func() bool { return slices.Contains(heard.bodies(), "before the backup") })
	oldPage := alice.Do("GET", "/v3/rooms/"+room+"/messages?dir=b&limit=1", nil)

	file := strings.TrimPrefix(dsn, "sqlite:")
	net.Stop(0)
	copied, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	net.Start(0)
	say(alice, "2", "lost by the restore")
	heard.until("the message after the backup", func() bool { return slices.Contains(heard.bodies(), "lost by the restore") })
	net.Stop(0)
	if err := os.WriteFile(file, copied, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := storage.Open(t.Context(), storage.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.MarkRestored(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	net.Start(0)

	back := listen(t, alice, room)
	say(bob, "3", "after the restore")
	back.until("the message of the other server", func() bool { return slices.Contains(back.bodies(), "after the restore") })
	page := alice.Do("GET", "/v3/rooms/"+room+"/messages?dir=b&limit=100", nil)
	if text, _ := json.Marshal(page); !strings.Contains(string(text), "lost by the restore") {
		t.Errorf("the message that the restore has lost does not come back: %s", text)
	}
	say(alice, "2", "a new message with a transaction ID that was used before")
	heard.until("a message from the restored server", func() bool {
		return slices.Contains(heard.bodies(), "a new message with a transaction ID that was used before")
	})
	// A token from before the restore is still a place in the timeline.
	end, _ := oldPage["end"].(string)
	older := alice.Do("GET", "/v3/rooms/"+room+"/messages?dir=b&limit=100&from="+end, nil)
	if text, _ := json.Marshal(older); strings.Contains(string(text), "before the backup") || !strings.Contains(string(text), "m.room.create") {
		t.Errorf("/messages from an old token returns %s", text)
	}
}
