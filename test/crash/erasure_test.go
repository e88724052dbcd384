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

// The server is killed at random moments while it erases everything about a user.
func TestAKillDuringAnErasureLeavesNothingOfTheUserAndLosesNothingOfOthers(t *testing.T) {
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := process.Start(t, binary, process.Options{Config: config})
	alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
	alice.Must(t, http.MethodPut, process.Path("profile", alice.UserID, "displayname"), process.Object{"displayname": "gone-name"})
	var rooms, files []string
	for r := range 4 {
		room := process.Text(bob.Must(t, http.MethodPost, process.Path("createRoom"), process.Object{"preset": "public_chat", "invite": []string{alice.UserID}}), "room_id")
		alice.Must(t, http.MethodPost, process.Path("join", room), process.Object{})
		for i := range 40 {
			send(t, alice, room, i, process.Object{"msgtype": "m.text", "body": fmt.Sprintf("gone-%d-%d", r, i)})
			send(t, bob, room, i, process.Object{"msgtype": "m.text", "body": fmt.Sprintf("stays-%d-%d", r, i)})
		}
		for i, c := range []*process.Client{alice, alice, bob} { // the second one is in no message
			uri := process.Text(c.Must(t, http.MethodPost, "/_matrix/media/v3/upload", process.Object{"r": r, "i": i}), "content_uri")
			if files = append(files, uri); i != 1 {
				send(t, c, room, 100+i, process.Object{"msgtype": "m.file", "body": "f", "url": uri})
			}
		}
		rooms = append(rooms, room)
	}
	alice.Must(t, http.MethodPost, process.Path("rooms", rooms[3], "leave"), process.Object{})
	s.Command(t, "user", "erase", "--everything", "alice")
	for range kills(t) {
		time.Sleep(time.Duration(rand.IntN(700)) * time.Millisecond)
		s.Kill()
		var verdict string
		if fromFiles(t, s, "PRAGMA integrity_check", &verdict); verdict != "ok" {
			t.Fatalf("integrity_check: %s", verdict)
		}
		s.Up(t)
	}
	process.Await(t, 90*time.Second, "the erasure is finished", func() bool {
		return strings.Contains(s.Command(t, "user", "erase", "--status", "alice"), "finished")
	})
	process.Await(t, 90*time.Second, "the files are gone", func() bool { return filesOf(t, s) == len(rooms) })
	process.Await(t, 90*time.Second, "the text is gone from disk", func() bool { return len(process.FilesWith(t, s.DataDir, "gone-")) == 0 })
	for i, uri := range files {
		if got, want := served(t, bob, uri), i%3 == 2; got != want {
			t.Errorf("file %d is served: %v, want %v", i, got, want)
		}
	}
	for r, room := range rooms {
		text := fmt.Sprint(bob.Must(t, http.MethodGet, process.Path("rooms", room, "messages")+"?dir=b&limit=1000", nil))
		for i := range 40 {
			if !strings.Contains(text, fmt.Sprintf("stays-%d-%d", r, i)) {
				t.Errorf("message %d of another user is lost in room %d", i, r)
			}
		}
		member := bob.Must(t, http.MethodGet, process.Path("rooms", room, "state", "m.room.member", alice.UserID), nil)
		if member["membership"] != "leave" || member["displayname"] != nil {
			t.Errorf("in room %d the user is %v", r, member)
		}
	}
}

func send(t *testing.T, c *process.Client, room string, txn int, content process.Object) {
	t.Helper()
	c.Must(t, http.MethodPut, process.Path("rooms", room, "send", "m.room.message", fmt.Sprint("t", txn)), content)
}
