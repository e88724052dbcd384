package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"ebb/internal/testserver"
)

// mediaFiles counts the files in the media folder.
func mediaFiles(t *testing.T, s *testserver.Server) (n int) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(s.Dir+"/media"), ".", func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// upload uploads a file and returns its mxc URI.
func upload(c *testserver.Client, content []byte) string {
	return c.Do("POST", "/_matrix/media/v3/upload", content)["content_uri"].(string)
}

// served reports whether a user gets a file.
func served(c *testserver.Client, uri string) bool {
	status, _, _ := c.Raw("GET", "/v1/media/download/"+strings.TrimPrefix(uri, "mxc://"), nil)
	return status == 200
}

// expiring returns the path of a new room whose messages live for a minute.
func expiring(c *testserver.Client) string {
	room := c.Do("POST", "/v3/createRoom", nil)["room_id"].(string)
	base := "/v3/rooms/" + url.PathEscape(room)
	c.Do("PUT", base+"/state/m.room.retention", map[string]any{"max_lifetime": 60_000})
	return base
}

// sendImage sends a message that shows a file.
func sendImage(c *testserver.Client, base, txn, uri string) string {
	return c.Do("PUT", base+"/send/m.room.message/"+txn, map[string]any{"msgtype": "m.image", "body": "image.png", "url": uri})["event_id"].(string)
}

func purge(t *testing.T, s *testserver.Server) {
	t.Helper()
	if _, err := s.Control(t.Context(), "purge now", nil); err != nil {
		t.Fatal(err)
	}
}

func pngImage(t *testing.T, side int) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, side, side))
	for i := range side {
		img.Set(i, i, color.RGBA{uint8(i), 100, 200, 255})
	}
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestAttachmentsOfExpiredMessagesAreHiddenAndThenDeleted(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	base := expiring(alice)
	uri := upload(alice, pngImage(t, 300))
	thumbnail := "/v1/media/thumbnail/" + strings.TrimPrefix(uri, "mxc://") + "?width=32&height=32&method=crop"
	sendImage(alice, base, "1", uri)
	alice.Raw("GET", thumbnail, nil)
	if !served(alice, uri) || mediaFiles(t, s) != 2 {
		t.Fatalf("before expiry: %d files", mediaFiles(t, s))
	}
	s.Advance(61 * time.Second)
	alice.Refused("GET", "/v1/media/download/"+strings.TrimPrefix(uri, "mxc://"), nil, 404, "M_NOT_FOUND")
	alice.Refused("GET", thumbnail, nil, 404, "M_NOT_FOUND")
	purge(t, s)
	if n := mediaFiles(t, s); n != 0 {
		t.Errorf("after the purge %d files are left", n)
	}
	if id := uri[strings.LastIndexByte(uri, '/')+1:]; len(s.FilesWith(id)) != 0 {
		t.Errorf("after the purge %v have the media ID", s.FilesWith(id))
	}
}

func TestMediaStayWhileSomethingRefersToThem(t *testing.T) {
	for name, refer := range map[string]func(c *testserver.Client, uri string) (release func()){
		"a message of another room": func(c *testserver.Client, uri string) func() {
			room := c.Do("POST", "/v3/createRoom", nil)["room_id"].(string)
			base := "/v3/rooms/" + url.PathEscape(room)
			event := sendImage(c, base, "again", uri)
			return func() { c.Do("PUT", base+"/redact/"+url.PathEscape(event)+"/r1", map[string]any{}) }
		},
		"custom emoji in a message": func(c *testserver.Client, uri string) func() {
			room := c.Do("POST", "/v3/createRoom", nil)["room_id"].(string)
			base := "/v3/rooms/" + url.PathEscape(room)
			event := c.Do("PUT", base+"/send/m.room.message/e", map[string]any{"msgtype": "m.text", "body": ":x:", "format": "org.matrix.custom.html",
				"formatted_body": `<img data-mx-emoticon src="` + uri + `" alt=":x:">`})["event_id"].(string)
			return func() { c.Do("PUT", base+"/redact/"+url.PathEscape(event)+"/r1", map[string]any{}) }
		},
		"the avatar of a room": func(c *testserver.Client, uri string) func() {
			room := c.Do("POST", "/v3/createRoom", nil)["room_id"].(string)
			base := "/v3/rooms/" + url.PathEscape(room)
			event := c.Do("PUT", base+"/state/m.room.avatar", map[string]any{"url": uri})["event_id"].(string)
			return func() { c.Do("PUT", base+"/redact/"+url.PathEscape(event)+"/r1", map[string]any{}) }
		},
		"a profile": func(c *testserver.Client, uri string) func() {
			c.Do("PUT", "/v3/profile/"+url.PathEscape(c.User)+"/avatar_url", map[string]any{"avatar_url": uri})
			return nil
		},
		"account data with escaped slashes": func(c *testserver.Client, uri string) func() {
			c.Do("PUT", "/v3/user/"+url.PathEscape(c.User)+"/account_data/im.ponies.user_emotes",
				[]byte(`{"images":{"x":{"url":"`+strings.ReplaceAll(uri, "/", `\/`)+`"}}}`))
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := testserver.New(t, nil)
			alice := s.Register("alice")
			base := expiring(alice)
			uri := upload(alice, []byte("used twice"))
			event := sendImage(alice, base, "1", uri)
			release := refer(alice, uri)
			s.Advance(61 * time.Second)
			purge(t, s)
			if status, _, raw := alice.Raw("GET", base+"/event/"+url.PathEscape(event), nil); status != 404 {
				t.Fatalf("the message is still there: %s", raw)
			}
			if !served(alice, uri) || mediaFiles(t, s) != 1 {
				t.Fatal("the file is gone")
			}
			if release == nil {
				return
			}
			release()
			if served(alice, uri) {
				t.Error("the file is served after the last reference was redacted")
			}
			purge(t, s)
			if n := mediaFiles(t, s); n != 0 {
				t.Errorf("%d files are left after the last reference was redacted", n)
			}
		})
	}
}

func TestTheSameContentUploadedTwiceStaysForTheOtherUpload(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	base := expiring(alice)
	first, second := upload(alice, []byte("the same bytes")), upload(alice, []byte("the same bytes"))
	sendImage(alice, base, "1", first)
	if n := mediaFiles(t, s); n != 1 {
		t.Fatalf("%d files for the same content", n)
	}
	s.Advance(61 * time.Second)
	purge(t, s)
	if served(alice, first) || !served(alice, second) {
		t.Errorf("the expired one is served: %v; the other one: %v", served(alice, first), served(alice, second))
	}
}

func TestErasureDeletesTheAvatarOfTheProfile(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := s.Register("alice"), s.Register("bob")
	uri := upload(alice, []byte("my face"))
	alice.Do("PUT", "/v3/profile/"+url.PathEscape(alice.User)+"/avatar_url", map[string]any{"avatar_url": uri})
	if !served(bob, uri) {
		t.Fatal("not served before")
	}
	if _, err := s.Control(t.Context(), "user deactivate", fmt.Appendf(nil, `{"user":%q,"erase":true}`, alice.User)); err != nil {
		t.Fatal(err)
	}
	if served(bob, uri) {
		t.Error("the avatar is served after the erasure")
	}
}

func TestAdministratorsListDeleteAndWithdrawMedia(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := s.Register("alice"), s.Register("bob")
	base := expiring(alice)
	uri, other := upload(alice, []byte("of alice")), upload(bob, []byte("of bob"))
	event := sendImage(alice, base, "1", uri)
	command := func(name, args string) string {
		t.Helper()
		answer, err := s.Control(t.Context(), name, []byte(args))
		if err != nil {
			t.Fatalf("%s %s: %v", name, args, err)
		}
		raw, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	room, err := url.PathUnescape(strings.TrimPrefix(base, "/v3/rooms/"))
	if err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string][2]bool{
		`{}`: {true, true}, `{"user":"bob"}`: {false, true}, fmt.Sprintf(`{"room":%q}`, room): {true, false}, `{"min_size":7}`: {true, false},
		`{"age_ms":1000}`: {false, false}, `{"remote":true}`: {false, false},
	} {
		list := command("media list", args)
		if got := [2]bool{strings.Contains(list, uri), strings.Contains(list, other)}; got != want {
			t.Errorf("media list %s: %s", args, list)
		}
	}
	for _, bad := range []string{`{"after":"x"}`, `{"age_ms":-1}`, `{"user":"nobody"}`, `{"room":"!unknown:test"}`} {
		if _, err := s.Control(t.Context(), "media list", []byte(bad)); err == nil {
			t.Errorf("media list %s is accepted", bad)
		}
	}

	if text := command("media quarantine", fmt.Sprintf(`{"uri":%q}`, uri)); !strings.Contains(text, event) || !strings.Contains(text, room) || served(alice, uri) {
		t.Errorf("media quarantine: %s; served: %v", text, served(alice, uri))
	}
	if command("media quarantine", fmt.Sprintf(`{"uri":%q,"lift":true}`, uri)); !served(alice, uri) {
		t.Error("not served after the quarantine was lifted")
	}
	if text := command("media delete", fmt.Sprintf(`{"uri":%q}`, uri)); !strings.Contains(text, event) || served(alice, uri) || mediaFiles(t, s) != 1 {
		t.Errorf("media delete: %s; served: %v; %d files", text, served(alice, uri), mediaFiles(t, s))
	}
	for _, bad := range []string{uri, "mxc://test/", "https://test/abc", "mxc://other.test/unknown"} {
		if _, err := s.Control(t.Context(), "media delete", fmt.Appendf(nil, `{"uri":%q}`, bad)); err == nil {
			t.Errorf("media delete of %s succeeds", bad)
		}
	}
	if text := command("media gc", `{"dry_run":true}`); !strings.Contains(text, `"waiting":{"files":0,"bytes":0}`) || !strings.Contains(text, `"young":{"files":1,"bytes":6}`) {
		t.Errorf("media gc of a new upload: %s", text)
	}
	s.Advance(24 * time.Hour)
	if text := command("media gc", `{"dry_run":true}`); !strings.Contains(text, `"waiting":{"files":1,"bytes":6}`) || !served(bob, other) {
		t.Errorf("media gc: %s", text)
	}
}

// In an encrypted room the server cannot read which media a message shows.
func TestUploadsOfUsersOfEncryptedRoomsAreKeptAsLongAsMessagesThere(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	base := expiring(alice)
	alice.Do("PUT", base+"/state/m.room.encryption", map[string]any{"algorithm": "m.megolm.v1.aes-sha2"})
	alice.Do("PUT", base+"/state/m.room.retention", map[string]any{"max_lifetime": (72 * time.Hour).Milliseconds()})
	uri := upload(alice, []byte("encrypted by the client"))
	collect := func() string {
		t.Helper()
		answer, err := s.Control(t.Context(), "media gc", nil)
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := json.Marshal(answer)
		return string(raw)
	}
	s.Advance(71 * time.Hour)
	if text := collect(); !strings.Contains(text, `"undeclared":{"files":1`) || !served(alice, uri) {
		t.Errorf("while messages live: %s", text)
	}
	s.Advance(time.Hour)
	if text := collect(); !strings.Contains(text, `"waiting":{"files":1`) || served(alice, uri) {
		t.Errorf("once they have expired: %s", text)
	}
	room := alice.Do("POST", "/v3/createRoom", map[string]any{"initial_state": []any{map[string]any{"type": "m.room.encryption", "state_key": "", "content": map[string]any{"algorithm": "m.megolm.v1.aes-sha2"}}}})
	if text := collect(); !strings.Contains(text, `"undeclared":{"files":1`) || !served(alice, uri) {
		t.Errorf("with a room where messages live for ever (%v): %s", room, text)
	}
}
