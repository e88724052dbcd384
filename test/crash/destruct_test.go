package crash

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"ebb/test/process"
)

// The server is killed while messages destroy themselves, at a time and after they were read.
func TestAKillWhileMessagesDestroyThemselvesLeavesNoneAndLosesNoOther(t *testing.T) {
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := process.Start(t, binary, process.Options{Config: config})
	alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
	room := process.Text(alice.Must(t, http.MethodPost, process.Path("createRoom"), process.Object{"preset": "public_chat"}), "room_id")
	bob.Must(t, http.MethodPost, process.Path("join", room), process.Object{})
	const messages = 60
	newest := ""
	for i := range messages {
		gone := process.Object{"msgtype": "m.text", "body": fmt.Sprint("gone-", i)}
		if i%2 == 0 {
			gone["m.self_destruct_after"] = time.Now().Add(time.Duration(500+20*i) * time.Millisecond).UnixMilli()
		} else {
			gone["m.self_destruct"] = 1
		}
		send(t, alice, room, i, gone)
		path := process.Path("rooms", room, "send", "m.room.message", fmt.Sprint("s", i))
		newest = process.Text(bob.Must(t, http.MethodPut, path, process.Object{"msgtype": "m.text", "body": fmt.Sprintf("stays-%d.", i)}), "event_id")
	}
	for _, c := range []*process.Client{alice, bob} {
		c.Must(t, http.MethodPost, process.Path("rooms", room, "receipt", "m.read", newest), process.Object{})
	}
	for range kills(t) {
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		s.Kill()
		s.Up(t)
	}
	history := func() string {
		return fmt.Sprint(bob.Must(t, http.MethodGet, process.Path("rooms", room, "messages")+"?dir=b&limit=1000", nil))
	}
	process.Await(t, 90*time.Second, "every message has destroyed itself", func() bool { return !strings.Contains(history(), "gone-") })
	s.Command(t, "purge", "now", "--all")
	if found := process.FilesWith(t, s.DataDir, "gone-"); len(found) > 0 {
		t.Errorf("messages that have destroyed themselves are in %v", found)
	}
	text := history()
	for i := range messages {
		if !strings.Contains(text, fmt.Sprintf("stays-%d.", i)) {
			t.Errorf("message %d of another user is lost", i)
		}
	}
}
