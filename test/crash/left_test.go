package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"ebb/test/process"
)

// The server is killed while it removes rooms that nobody on it is in, or that everybody has forgotten.
func TestAKillDuringTheRemovalOfRoomsLeavesNothingAndLosesNoOther(t *testing.T) {
	for setting, forget := range map[string]bool{"left_rooms": false, "forgotten_rooms": true} {
		t.Run(setting, func(t *testing.T) { removeRooms(t, setting, forget) })
	}
}

// leaving is a server on which a user leaves rooms.
type leaving struct {
	binary     process.Binary
	server     *process.Server
	alice, bob *process.Client
	gone       []string // rooms that go
	stays      string   // a room with bob, or one that alice has left but not forgotten
	txn        int
}

func removeRooms(t *testing.T, setting string, forget bool) {
	t.Helper()
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l := &leaving{binary: binary, server: process.Start(t, binary, process.Options{Config: config + "\nretention: {purge_delay: 0s, " + setting + ": 0s}"})}
	l.alice, l.bob = l.server.Register(t, "alice"), l.server.Register(t, "bob")
	l.stays = l.room(t, "stays")
	if !forget {
		l.bob.Must(t, http.MethodPost, process.Path("join", l.stays), process.Object{})
	}
	l.leave(t, l.stays, false)
	for range kills(t) {
		for range 3 {
			room := l.room(t, "gone")
			l.leave(t, room, forget)
			l.gone = append(l.gone, room)
		}
		l.killDuringPurge(t)
		var verdict string
		if fromFiles(t, l.server, "PRAGMA integrity_check", &verdict); verdict != "ok" {
			t.Fatalf("integrity_check: %s", verdict)
		}
		l.server.Up(t)
		l.check(t, forget)
	}
	last := l.room(t, "gone") // what a kill has interrupted must not keep later rooms
	l.leave(t, last, forget)
	l.gone = append(l.gone, last)
	l.server.Command(t, "purge", "now", "--all")
	if found := process.FilesWith(t, l.server.DataDir, "gone-"); len(found) > 0 {
		t.Errorf("%v have what was in the removed rooms", found)
	}
	if n := filesOf(t, l.server); n != 1 {
		t.Errorf("%d media files are left, want that of the room that stays", n)
	}
	l.check(t, forget)
	for _, room := range l.gone {
		for _, path := range []string{"messages?dir=b", "state", "members"} {
			status, answer, err := l.alice.Do(t.Context(), http.MethodGet, process.Path("rooms", room)+"/"+path, nil)
			if err != nil || status == http.StatusOK {
				t.Errorf("%s of a removed room: %d %v %v", path, status, answer, err)
			}
		}
	}
	receipts := l.server.Command(t, "receipts", "list", "--json")
	for _, room := range l.gone {
		if n := strings.Count(receipts, room); n != 1 {
			t.Errorf("there are %d receipts of a removed room, want 1", n)
		}
	}
}

// room creates a room with messages, state, a file, an alias and settings of a user, all with a word.
func (l *leaving) room(t *testing.T, word string) (room string) {
	t.Helper()
	l.txn++
	name := fmt.Sprintf("%s-%d", word, l.txn)
	room = process.Text(l.alice.Must(t, http.MethodPost, process.Path("createRoom"), process.Object{"preset": "public_chat", "name": name, "room_alias_name": name}), "room_id")
	file := process.Text(l.alice.Must(t, http.MethodPost, "/_matrix/media/v3/upload", process.Object{"text": name}), "content_uri")
	for i := range 40 {
		l.txn++
		content := process.Object{"msgtype": "m.text", "body": fmt.Sprintf("%s, message %d.", name, i)}
		if i == 0 {
			content["url"] = file
		}
		send(t, l.alice, room, l.txn, content)
	}
	l.alice.Must(t, http.MethodPut, process.Path("user", l.alice.UserID, "rooms", room, "account_data", "org.example.note"), process.Object{"note": name})
	return room
}

func (l *leaving) leave(t *testing.T, room string, forget bool) {
	t.Helper()
	l.alice.Must(t, http.MethodPost, process.Path("rooms", room, "leave"), process.Object{})
	if forget {
		l.alice.Must(t, http.MethodPost, process.Path("rooms", room, "forget"), process.Object{})
	}
}

// killDuringPurge begins a purge, and kills the server at a random moment.
func (l *leaving) killDuringPurge(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	purge := exec.CommandContext(ctx, l.binary.Path(), "purge", "now", "--all", "--config", l.server.Config)
	if err := purge.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
	l.server.Kill()
	cancel()
	_ = purge.Wait() // it was interrupted
}

// check checks that nothing is missing in the room that stays. Who has left it may still read it.
func (l *leaving) check(t *testing.T, left bool) {
	t.Helper()
	reader := l.bob
	if left {
		reader = l.alice
	}
	text := fmt.Sprint(reader.Must(t, http.MethodGet, process.Path("rooms", l.stays, "messages")+"?dir=b&limit=1000", nil))
	for i := range 40 {
		if !strings.Contains(text, fmt.Sprintf(", message %d.", i)) {
			t.Errorf("message %d of the room that stays is lost", i)
		}
	}
	if name := process.Text(reader.Must(t, http.MethodGet, process.Path("rooms", l.stays, "state", "m.room.name", ""), nil), "name"); name != "stays-1" {
		t.Errorf("the room that stays has the name %q", name)
	}
	alias := l.bob.Must(t, http.MethodGet, process.Path("directory", "room", "#stays-1:"+l.server.Name), nil)
	if process.Text(alias, "room_id") != l.stays {
		t.Errorf("the alias of the room that stays: %v", alias)
	}
}
