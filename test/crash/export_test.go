package crash

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebb/test/process"
)

// The server is killed at random moments while it builds an export and while that is downloaded.
func TestAKillDuringAnExportLeavesNothingReadableAndTheExportIsBuiltAgain(t *testing.T) {
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := process.Start(t, binary, process.Options{Config: config})
	alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
	room := process.Text(bob.Must(t, http.MethodPost, process.Path("createRoom"), process.Object{"preset": "public_chat"}), "room_id")
	alice.Must(t, http.MethodPost, process.Path("join", room), process.Object{})
	var events []string
	for i := range 200 {
		send(t, alice, room, i, process.Object{"msgtype": "m.text", "body": fmt.Sprintf("alice-%d.", i)})
		sent := bob.Must(t, http.MethodPut, process.Path("rooms", room, "send", "m.room.message", fmt.Sprint("t", i)), process.Object{"msgtype": "m.text", "body": fmt.Sprintf("bob-%d.", i)})
		events = append(events, process.Text(sent, "event_id"))
	}
	for i := range 5 {
		alice.Must(t, http.MethodPost, "/_matrix/media/v3/upload", process.Object{"file": i, "text": strings.Repeat("upload-marker ", 20_000)})
	}
	exports, out := filepath.Join(s.DataDir, "exports"), filepath.Join(t.TempDir(), "alice.zip")
	n := kills(t)
	for i := range n {
		ended := make(chan error)
		go func() {
			_, err := binary.Run(context.Background(), "user", "export", "--with-conversations", "--out", out, "--config", s.Config, "alice")
			ended <- err
		}()
		time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
		s.Kill()
		if err := <-ended; err == nil {
			checkArchive(t, out, i)
			if err := os.Remove(out); err != nil {
				t.Fatal(err)
			}
		} else if _, err := os.Stat(out); err == nil {
			t.Error("half an archive is left where the administrator wanted to have it")
		}
		for _, marker := range []string{"upload-marker", "alice-", "bob-", "manifest.json"} {
			if found := process.FilesWith(t, exports, marker); len(found) > 0 {
				t.Errorf("%v can be read", found)
			}
		}
		var requests int
		fromFiles(t, s, "SELECT count(*) FROM export_requests WHERE attempts < 3", &requests)
		left := names(t, exports)
		s.Up(t)
		if requests > 0 {
			process.Await(t, 90*time.Second, "the export is built again", func() bool { return len(names(t, exports)) > 0 })
		}
		for name := range names(t, exports) {
			if left[name] {
				t.Errorf("the file %s of a former run is left", name)
			}
		}
		bob.Must(t, http.MethodPut, process.Path("rooms", room, "redact", events[i], "r"), process.Object{})
	}
	s.Command(t, "user", "export", "--with-conversations", "--out", out, "alice")
	checkArchive(t, out, n)
	if left := names(t, exports); len(left) > 0 {
		t.Errorf("after the download, %v are left", left)
	}
}

// names returns the names of the files in a folder, which need not exist.
func names(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, f := range files {
		all[filepath.Base(f)] = true
	}
	return all
}

// checkArchive fails the test unless an archive is complete, but for the first messages of bob, which were redacted.
func checkArchive(t *testing.T, path string, redacted int) {
	t.Helper()
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var conversations strings.Builder
	uploads := 0
	for _, f := range z.File {
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(in) // which verifies its checksum
		if err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		if strings.HasPrefix(f.Name, "conversations/") {
			conversations.Write(raw)
		}
		if strings.HasPrefix(f.Name, "media/") {
			uploads++
		}
	}
	for i := range 200 {
		if !strings.Contains(conversations.String(), fmt.Sprintf(`"alice-%d."`, i)) {
			t.Errorf("message %d of the user is missing", i)
		}
		if got, want := strings.Contains(conversations.String(), fmt.Sprintf(`"bob-%d."`, i)), i >= redacted; got != want {
			t.Errorf("message %d of another user is in the archive: %v, want %v", i, got, want)
		}
	}
	if uploads != 5 {
		t.Errorf("%d uploads are in the archive, want 5", uploads)
	}
}
