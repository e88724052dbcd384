package backup

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ebb/test/process"
)

// A user is erased after the backup.
func TestAnErasedUserStaysErasedAfterARestore(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { runErasureDrill(t, start(t, "")) })
	t.Run("postgres", func(t *testing.T) { runErasureDrill(t, start(t, postgres(t))) })
}

func runErasureDrill(t *testing.T, d *drill) {
	alice, bob := d.Register(t, "alice"), d.Register(t, "bob")
	bob.Must(t, "PUT", process.Path("profile", bob.UserID, "displayname"), process.Object{"displayname": "gone-name"})
	chat := room(t, alice, nil, bob)
	say(t, alice, chat, "kept-marker")
	say(t, bob, chat, "gone-text")
	file := upload(t, bob, "gone-file")
	bob.Must(t, "PUT", process.Path("rooms", chat, "send", "m.room.message", "f"), process.Object{"msgtype": "m.file", "body": "f", "url": "mxc://" + file})
	unused := upload(t, bob, "gone-upload")
	bob.Must(t, "PUT", process.Path("user", bob.UserID, "account_data", "org.x"), process.Object{"x": "gone-data"})
	left := room(t, alice, nil, bob)
	say(t, bob, left, "gone-elsewhere")
	bob.Must(t, "POST", process.Path("rooms", left, "leave"), process.Object{})
	r := d.backup()

	d.must("user", "erase", "--everything", "bob")
	d.awaitErased("bob")
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	d.lose()
	d.must("restore", "--identity", d.key, r.Path)
	if found := process.FilesWith(t, d.DataDir, "gone-"); len(found) > 0 {
		t.Errorf("what was erased is in %v", found)
	}
	d.Up(t)
	d.awaitErased("bob")
	text := fmt.Sprint(alice.Must(t, "GET", process.Path("rooms", chat, "messages")+"?dir=b&limit=100", nil))
	if !strings.Contains(text, "kept-marker") || strings.Contains(text, "gone-") {
		t.Errorf("the room has %s", text)
	}
	member := alice.Must(t, "GET", process.Path("rooms", chat, "state", "m.room.member", bob.UserID), nil)
	if member["membership"] != "leave" || member["displayname"] != nil {
		t.Errorf("bob is %v", member)
	}
	for _, media := range []string{file, unused} {
		if code, _ := status(t, alice, "GET", "/_matrix/client/v1/media/download/"+media, nil); code != 404 {
			t.Errorf("a file of bob gets %d", code)
		}
	}
	if code, _ := login(t, d.Server, "bob", "a password of bob"); code == 200 {
		t.Error("bob can sign in")
	}
}

// awaitErased waits until the erasure of a user is finished.
func (d *drill) awaitErased(user string) {
	d.t.Helper()
	process.Await(d.t, time.Minute, "the erasure of "+user+" is finished", func() bool {
		return strings.Contains(d.must("user", "erase", "--status", user), "finished")
	})
}
