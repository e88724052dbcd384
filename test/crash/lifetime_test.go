package crash

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebb/test/process"
)

// The server is killed while it redacts the messages of a user that have reached the lifetime that the user has chosen.
func TestAKillDuringDailyRedactionsLeavesNoneAndLosesNoOther(t *testing.T) {
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := process.Start(t, binary, process.Options{Config: config})
	alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
	var rooms [2]string
	const messages = 120
	for i := range rooms {
		rooms[i] = process.Text(alice.Must(t, http.MethodPost, process.Path("createRoom"), process.Object{"preset": "public_chat"}), "room_id")
		bob.Must(t, http.MethodPost, process.Path("join", rooms[i]), process.Object{})
		for n := range messages {
			send(t, bob, rooms[i], n, process.Object{"msgtype": "m.text", "body": fmt.Sprintf("gone-%d.", n)})
			send(t, alice, rooms[i], n, process.Object{"msgtype": "m.text", "body": fmt.Sprintf("stays-%d.", n)})
		}
	}
	s.Kill()
	age(t, s, 3*24*time.Hour)
	s.Up(t)
	for i, room := range rooms {
		send(t, bob, room, messages+i, process.Object{"msgtype": "m.text", "body": "young-message"})
	}
	bob.Must(t, http.MethodPut, "/_matrix/client/unstable/dev.ebb.message_lifetime", process.Object{
		"max_lifetime": (2 * 24 * time.Hour).Milliseconds(), "auth": process.Object{"type": "m.login.password", "identifier": process.Object{"type": "m.id.user", "user": "bob"}, "password": "a password of bob"},
	})
	for range kills(t) {
		time.Sleep(time.Duration(rand.IntN(1200)) * time.Millisecond)
		s.Kill()
		var verdict string
		if fromFiles(t, s, "PRAGMA integrity_check", &verdict); verdict != "ok" {
			t.Fatalf("integrity_check: %s", verdict)
		}
		s.Up(t)
	}
	history := func(room string) string {
		return fmt.Sprint(alice.Must(t, http.MethodGet, process.Path("rooms", room, "messages")+"?dir=b&limit=1000", nil))
	}
	process.Await(t, 90*time.Second, "every old message is redacted", func() bool {
		return !strings.Contains(history(rooms[0])+history(rooms[1]), "gone-")
	})
	s.Command(t, "purge", "now", "--all")
	if found := process.FilesWith(t, s.DataDir, "gone-"); len(found) > 0 {
		t.Errorf("messages that were redacted are in %v", found)
	}
	s.Kill()
	s.Up(t)
	for _, room := range rooms {
		text := history(room)
		for n := range messages {
			if !strings.Contains(text, fmt.Sprintf("stays-%d.", n)) {
				t.Errorf("message %d of another user is lost", n)
			}
		}
		if !strings.Contains(text, "young-message") {
			t.Error("a message is lost that has not reached its lifetime")
		}
	}
	var redactions int
	s.Kill()
	fromFiles(t, s, `SELECT count(*) FROM events WHERE type = 'm.room.redaction'`, &redactions)
	if want := messages * len(rooms); redactions != want {
		t.Errorf("there are %d redactions of %d messages", redactions, want)
	}
}

// age makes all events of a server that was killed older, as if the clock had advanced.
func age(t *testing.T, s *process.Server, by time.Duration) {
	t.Helper()
	db, err := sql.Open("sqlite3", filepath.Join(s.DataDir, "ebb.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), `UPDATE events SET origin_ts = origin_ts - $1, received_ts = received_ts - $1`, by.Milliseconds()); err != nil {
		t.Fatal(err)
	}
}
