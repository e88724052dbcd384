package crash

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ebb/test/process"
)

// attachment is a file and the message that shows it.
type attachment struct {
	uri, event string
	redacted   bool // the redaction was acknowledged
}

// The server is killed while messages are redacted and the files that they show are removed.
func TestAKillWhileAttachmentsAreDeletedLeavesNoneAndLosesNoOther(t *testing.T) {
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := process.Start(t, binary, process.Options{Config: config})
	alice := s.Register(t, "alice")
	room := process.Text(alice.Must(t, http.MethodPost, process.Path("createRoom"), process.Object{}), "room_id")
	const kept = 10
	all := make([]attachment, kept+15*kills(t))
	for i := range all {
		a := &all[i]
		a.uri = process.Text(alice.Must(t, http.MethodPost, "/_matrix/media/v3/upload", process.Object{"n": i}), "content_uri")
		a.event = process.Text(alice.Must(t, http.MethodPut, process.Path("rooms", room, "send", "m.room.message", fmt.Sprint("a", i)), process.Object{"msgtype": "m.file", "body": "f", "url": a.uri}), "event_id")
	}
	for range kills(t) {
		redactUntilKilled(t, s, alice, room, all[kept:])
		s.Up(t)
		for i := range all {
			if all[i].redacted && served(t, alice, all[i].uri) {
				t.Fatalf("file %d is served after its message was redacted", i)
			}
		}
	}
	for i := range all[kept:] {
		alice.Must(t, http.MethodPut, redaction(room, all[kept+i].event), process.Object{})
	}
	process.Await(t, time.Minute, "only the files that stay are on disk", func() bool { return filesOf(t, s) == kept })
	for i, a := range all {
		if got, want := served(t, alice, a.uri), i < kept; got != want {
			t.Errorf("file %d is served: %v, want %v", i, got, want)
		}
	}
}

func redaction(room, event string) string {
	return process.Path("rooms", room, "redact", event, "r"+strings.TrimPrefix(event, "$"))
}

// redactUntilKilled redacts messages, and kills the server after some of the redactions.
func redactUntilKilled(t *testing.T, s *process.Server, c *process.Client, room string, all []attachment) {
	t.Helper()
	after := 3 + rand.IntN(10)
	var mu sync.Mutex // guards after
	enough, ended := make(chan struct{}), make(chan struct{})
	var senders sync.WaitGroup
	for sender := range 4 {
		senders.Go(func() {
			for i := sender; i < len(all); i += 4 {
				if all[i].redacted {
					continue
				}
				status, _, err := c.Do(t.Context(), http.MethodPut, redaction(room, all[i].event), process.Object{})
				if err != nil || status != http.StatusOK {
					return // killed
				}
				all[i].redacted = true
				mu.Lock()
				if after--; after == 0 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	go func() {
		senders.Wait()
		close(ended)
	}()
	select {
	case <-enough:
	case <-ended:
	}
	s.Kill()
	<-ended
}

func served(t *testing.T, c *process.Client, uri string) bool {
	t.Helper()
	status, _, err := c.Do(t.Context(), http.MethodGet, "/_matrix/client/v1/media/download/"+strings.TrimPrefix(uri, "mxc://"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return status == http.StatusOK
}

// filesOf counts the files in the media folder.
func filesOf(t *testing.T, s *process.Server) (n int) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(filepath.Join(s.DataDir, "media")), ".", func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
		}
		return nil // the server removes files meanwhile
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
