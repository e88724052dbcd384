package server_test

import (
	"bytes"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
	"ebb/server"
	"ebb/storage/storagetest"
)

// request sends a request to a server and returns the status and the body of the response.
func request(t *testing.T, s *server.Server, method, path, token, body string) (int, string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	s.Handler("client").ServeHTTP(w, r)
	answer, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(answer)
}

func wantHealth(t *testing.T, s *server.Server, want int, when string) {
	t.Helper()
	if status, _ := request(t, s, "GET", "/health", "", ""); status != want {
		t.Errorf("%s /health is %d, want %d", when, status, want)
	}
}

func TestServerOnAFullDiskStartsReadsAndReportsTheProblem(t *testing.T) {
	disk := storagetest.TinyDisk(t, 16<<20)
	var cfg *config.Config
	first := testserver.New(t, func(c *config.Config) { cfg, c.DataDir = c, disk })
	alice := first.Register("alice")
	room := alice.Do("POST", "/v3/createRoom", map[string]any{})["room_id"].(string)
	alice.Do("PUT", "/v3/rooms/"+room+"/send/m.room.message/1", map[string]any{"body": "before"})
	first.Register("bob").Do("PUT", "/v3/sendToDevice/m.example/1", map[string]any{"messages": map[string]any{"@alice:test": map[string]any{"*": map[string]any{"body": "to a device"}}}})
	media := strings.TrimPrefix(alice.Do("POST", "/_matrix/media/v3/upload", []byte("the file"))["content_uri"].(string), "mxc://")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(disk, "ballast")
	storagetest.Fill(t, ballast)

	s, err := server.New(t.Context(), cfg, server.Options{})
	if err != nil {
		t.Fatalf("the server does not start: %v", err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	wantHealth(t, s, 503, "on a full disk")
	for path, want := range map[string]string{
		"/_matrix/client/v3/sync":                              `"before"`,
		"/_matrix/client/v3/rooms/" + room + "/messages?dir=b": `"before"`,
		"/_matrix/client/v1/media/download/" + media:           "the file",
		"/_matrix/client/v3/account/whoami":                    "@alice:test",
		"/_matrix/client/v3/rooms/" + room + "/joined_members": "@alice:test",
		"/_matrix/client/v3/profile/@alice:test":               "alice",
	} {
		if status, answer := request(t, s, "GET", path, alice.Token, ""); status != 200 || !strings.Contains(answer, want) {
			t.Errorf("GET %s on a full disk: %d %.200s", path, status, answer)
		}
	}
	big := strings.Repeat("x", 2<<20)
	if status, answer := request(t, s, "POST", "/_matrix/media/v3/upload", alice.Token, big); status != 507 || !strings.Contains(answer, "M_UNKNOWN") {
		t.Errorf("an upload to a full disk: %d %s", status, answer)
	}
	refused := 0
	for i := range 40 { // until the write-ahead log is full, too
		status, answer := request(t, s, "PUT", "/_matrix/client/v3/rooms/"+room+"/send/m.room.message/big"+strconv.Itoa(i), alice.Token, `{"body":"`+big[:60_000]+`"}`)
		if status == 507 && strings.Contains(answer, "M_UNKNOWN") {
			refused++
		} else if status != 200 {
			t.Fatalf("a message on a full disk: %d %s", status, answer)
		}
	}
	if refused == 0 {
		t.Error("nothing was refused: the test proves nothing")
	}
	_, answer := request(t, s, "GET", "/_matrix/client/v3/sync", alice.Token, "")
	_, token, _ := strings.Cut(answer, `"next_batch":"`)
	token, _, _ = strings.Cut(token, `"`)
	if !strings.Contains(answer, "to a device") {
		t.Error("there is no message to acknowledge: the test proves nothing")
	}
	if status, answer := request(t, s, "GET", "/_matrix/client/v3/sync?since="+token, alice.Token, ""); status != 200 || strings.Contains(answer, "to a device") {
		t.Errorf("the next /sync on a full disk: %d %.300s", status, answer)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	wantHealth(t, s, 200, "once there is room")
	if status, answer := request(t, s, "POST", "/_matrix/media/v3/upload", alice.Token, big); status != 200 {
		t.Errorf("an upload once there is room: %d %s", status, answer)
	}
}

func TestHealthIsNotOKWhileTheDatabaseCannotBeWritten(t *testing.T) {
	disk := storagetest.TinyDisk(t, 16<<20)
	s := testserver.New(t, func(c *config.Config) { c.DataDir = disk })
	alice := s.Register("alice")
	wantHealth(t, s.Server, 200, "at first")
	ballast := filepath.Join(disk, "ballast")
	storagetest.Fill(t, ballast)
	wantHealth(t, s.Server, 503, "on a full disk")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	wantHealth(t, s.Server, 200, "once there is room")
	alice.Do("POST", "/v3/createRoom", map[string]any{})
}

func TestHealthIsNotOKOnADamagedDatabase(t *testing.T) {
	for name, restarted := range map[string]bool{"while the server runs": false, "before it starts": true} {
		t.Run(name, func(t *testing.T) {
			var cfg *config.Config
			first := testserver.New(t, func(c *config.Config) { cfg = c })
			alice := first.Register("alice")
			room := alice.Do("POST", "/v3/createRoom", map[string]any{})["room_id"].(string)
			for i := range 40 {
				alice.Do("PUT", "/v3/rooms/"+room+"/send/m.room.message/"+strconv.Itoa(i), map[string]any{"body": strings.Repeat("x", 10_000)})
			}
			wantHealth(t, first.Server, 200, "at first")
			s := first.Server
			if restarted {
				if err := first.Close(); err != nil {
					t.Fatal(err)
				}
			} else if _, err := s.Control(t.Context(), "purge now", nil); err != nil { // purge now writes the log back to the file, so that damage in the file is seen
				t.Fatal(err)
			}
			spoil(t, filepath.Join(cfg.Dir(), "ebb.db"), restarted)
			if restarted {
				var err error
				if s, err = server.New(t.Context(), cfg, server.Options{Now: func() time.Time { return first.Now() }}); err != nil {
					return // the server refuses to start
				}
				defer func() { _ = s.Close() }()
			}
			first.Advance(2 * time.Minute)
			wantHealth(t, s, 503, name)
			wantHealth(t, s, 503, "at the next look")
		})
	}
}

// spoil overwrites the second half of a file.
func spoil(t *testing.T, path string, closed bool) {
	t.Helper()
	if wal, err := os.Stat(path + "-wal"); !closed && err == nil && wal.Size() > 0 {
		t.Skip("SKIP damage: the database is still in its log")
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	half := info.Size() / 2 / 4096 * 4096
	_, err = f.WriteAt(bytes.Repeat([]byte{0xA5}, int(info.Size()-half)), half)
	if closeErr := f.Close(); err != nil || closeErr != nil {
		t.Fatal(err, closeErr)
	}
}
