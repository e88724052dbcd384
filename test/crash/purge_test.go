package crash

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ebb/test/process"
)

// purging makes messages expire after half a second and the server purge all the time.
const (
	purging  = config + "\nretention: {purge_interval: 20ms, purge_delay: 0s}"
	lifetime = 500 * time.Millisecond
)

// fading is a room in which messages expire, and one in which they stay.
type fading struct {
	server  *process.Server
	alice   *process.Client
	gone    string // rooms
	stays   string
	n       atomic.Int64
	mu      sync.Mutex // guards the fields below
	expired []string   // events that were acknowledged
	kept    []string
	uploads int // files that were uploaded for messages which were not acknowledged
}

// The server is killed in the middle of purges, while messages are sent.
func TestAKillDuringAPurgeLosesNothingAndLeavesNothing(t *testing.T) {
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &fading{server: process.Start(t, binary, process.Options{Config: purging})}
	f.alice = f.server.Register(t, "alice")
	for _, room := range []*string{&f.gone, &f.stays} {
		*room = process.Text(f.alice.Must(t, http.MethodPost, process.Path("createRoom"), process.Object{"name": "the-name-of-it"}), "room_id")
	}
	f.alice.Must(t, http.MethodPut, process.Path("rooms", f.gone, "state", "m.room.retention", ""), process.Object{"max_lifetime": lifetime.Milliseconds()})
	for range kills(t) {
		f.sendUntilKilled(t)
		var verdict string
		if fromFiles(t, f.server, "PRAGMA integrity_check", &verdict); verdict != "ok" {
			t.Fatalf("integrity_check: %s", verdict)
		}
		f.server.Up(t)
		f.check(t)
	}
	for deadline := time.Now().Add(time.Minute); f.onDisk(t, "gone-") > 0 || filesOf(t, f.server) > f.uploads; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d files have text of expired messages, and there are %d media files; %d were uploaded for no message", f.onDisk(t, "gone-"), filesOf(t, f.server), f.uploads)
		}
	}
	f.check(t)
	if f.onDisk(t, "stays-") == 0 || f.onDisk(t, "the-name-of-it") == 0 {
		t.Error("the files have no text at all: the test proves nothing")
	}
}

// sendUntilKilled sends messages and files to both rooms, and kills the server at a random moment.
func (f *fading) sendUntilKilled(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var senders sync.WaitGroup
	left, enough := atomic.Int64{}, make(chan struct{})
	left.Store(200 + rand.Int64N(800))
	for range 6 {
		senders.Go(func() {
			for f.sendOne(ctx) {
				if left.Add(-1) == 0 {
					close(enough)
				}
			}
		})
	}
	select {
	case <-enough:
	case <-time.After(time.Minute):
		t.Fatal("few messages were acknowledged within a minute")
	}
	f.server.Kill()
	cancel()
	senders.Wait()
}

// sendOne sends a message to each room, and returns false if one was not acknowledged.
func (f *fading) sendOne(ctx context.Context) bool {
	n := f.n.Add(1)
	uploaded := false
	defer func() {
		if uploaded {
			f.mu.Lock()
			f.uploads++
			f.mu.Unlock()
		}
	}()
	body := process.Object{"msgtype": "m.text", "body": fmt.Sprintf("gone-%d", n)}
	if n%20 == 0 {
		uploaded = true
		status, answer, err := f.alice.Do(ctx, http.MethodPost, "/_matrix/media/v3/upload", process.Object{"n": n})
		if err != nil || status != http.StatusOK {
			return false
		}
		body["url"] = process.Text(answer, "content_uri")
	}
	for _, m := range []struct {
		room string
		body process.Object
		into *[]string
	}{{f.gone, body, &f.expired}, {f.stays, process.Object{"msgtype": "m.text", "body": fmt.Sprintf("stays-%d", n)}, &f.kept}} {
		status, answer, err := f.alice.Do(ctx, http.MethodPut, process.Path("rooms", m.room, "send", "m.room.message", fmt.Sprint("t", n)), m.body)
		if err != nil || status != http.StatusOK {
			return false
		}
		f.mu.Lock()
		*m.into = append(*m.into, process.Text(answer, "event_id"))
		f.mu.Unlock()
		uploaded = false // its message has arrived
	}
	return true
}

// check checks that all messages of one room are there, and that soon none of the other is.
func (f *fading) check(t *testing.T) {
	t.Helper()
	shown := f.timeline(t, f.stays)
	for _, e := range f.kept {
		if !shown[e] {
			t.Fatalf("the message %s is lost", e)
		}
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		shown, left := f.timeline(t, f.gone), 0
		for _, e := range f.expired {
			if shown[e] {
				left++
			}
		}
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d expired messages are shown", left)
		}
	}
	for _, room := range []string{f.gone, f.stays} {
		if name := process.Text(f.alice.Must(t, http.MethodGet, process.Path("rooms", room, "state", "m.room.name", ""), nil), "name"); name != "the-name-of-it" {
			t.Errorf("the room has the name %q", name)
		}
	}
}

func (f *fading) timeline(t *testing.T, room string) map[string]bool {
	t.Helper()
	shown := map[string]bool{}
	for from, first := "", true; first || from != ""; first = false {
		path := process.Path("rooms", room, "messages") + "?dir=f&limit=500"
		if !first {
			path += "&from=" + from
		}
		page := f.alice.Must(t, http.MethodGet, path, nil)
		for _, e := range process.List(page, "chunk") {
			shown[process.Text(e, "event_id")] = true
		}
		from = process.Text(page, "end")
	}
	return shown
}

// onDisk counts the files of the server that contain a text.
func (f *fading) onDisk(t *testing.T, text string) (n int) {
	t.Helper()
	err := filepath.WalkDir(f.server.DataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.HasPrefix(d.Name(), "ebb.db") {
			return nil //nolint:nilerr // the server removes files meanwhile
		}
		if raw, err := os.ReadFile(path); err == nil && bytes.Contains(raw, []byte(text)) {
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
