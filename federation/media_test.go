package federation_test

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

// picture returns a PNG of the given size.
func picture(t *testing.T, width, height int) []byte {
	t.Helper()
	img := image.NewGray(image.Rect(0, 0, width, height))
	for i := range img.Pix {
		img.Pix[i] = color.Gray{Y: uint8(i)}.Y
	}
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// upload stores a file and returns its media ID.
func upload(t *testing.T, c *testserver.Client, name string, data []byte) string {
	t.Helper()
	uri, _ := c.Do("POST", "/_matrix/media/v3/upload?filename="+name, data)["content_uri"].(string)
	return uri[strings.LastIndex(uri, "/")+1:]
}

const downloads, thumbnails = "/v1/media/download/", "/v1/media/thumbnail/"

func TestFilesOfOtherServers(t *testing.T) {
	net, alice, bob := pair(t)
	asked := count(net, "/media/download/")
	data := picture(t, 600, 400)
	mediaID := upload(t, bob, "holiday.png", data)

	status, header, body := alice.Raw("GET", downloads+"hs2.test/"+mediaID, nil)
	if status != 200 || !bytes.Equal(body, data) || !strings.Contains(header.Get("Content-Disposition"), "holiday.png") {
		t.Errorf("%d %v, %d bytes of %d", status, header, len(body), len(data))
	}
	if _, header, _ = alice.Raw("GET", downloads+"hs2.test/"+mediaID+"/other.png", nil); !strings.Contains(header.Get("Content-Disposition"), "other.png") {
		t.Errorf("the name is not overridden: %v", header)
	}
	status, header, body = alice.Raw("GET", thumbnails+"hs2.test/"+mediaID+"?width=32&height=32&method=crop", nil)
	if small, err := png.DecodeConfig(bytes.NewReader(body)); status != 200 || err != nil || small.Width != 32 {
		t.Errorf("the thumbnail is %d %v %v %v", status, header, small, err)
	}
	if asked.Load() != 1 {
		t.Errorf("the file came %d times", asked.Load())
	}
	alice.Refused("GET", downloads+"hs2.test/nothing", nil, 404, "M_NOT_FOUND")
	alice.Refused("GET", downloads+"hs9.test/nothing", nil, 502, "M_UNKNOWN")
	for _, bad := range []string{"hs2.test/..%2f..%2febb.db", "hs2.test/%2e%2e", "..%2f..%2fetc/passwd", "hs2.test%2fx/" + mediaID} {
		if status, _, raw := alice.Raw("GET", downloads+bad, nil); status != 404 && status != 400 {
			t.Errorf("%s: %d %s", bad, status, raw)
		}
	}
	// the deprecated endpoints are disabled
	alice.Refused("GET", "/_matrix/media/v3/download/hs2.test/"+mediaID, nil, 404, "M_NOT_FOUND")
}

// All requests for a file that is being downloaded share one download.
func TestConcurrentRequestsForAFileShareOneDownload(t *testing.T) {
	net, alice, bob := pair(t)
	mediaID := upload(t, bob, "a", []byte("the file"))
	asked := count(net, "/media/download/")
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if status, _, body := alice.Raw("GET", downloads+"hs2.test/"+mediaID, nil); status != 200 || string(body) != "the file" {
				t.Errorf("%d %s", status, body)
			}
		})
	}
	all.Wait()
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
}

// mediaFiles lists the media files of a server. They are encrypted, so their content does not identify them.
func mediaFiles(t *testing.T, s *testserver.Server) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(s.Dir, "media"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestUnusedFilesOfOtherServersAreRemoved(t *testing.T) {
	net, alice, bob := pair(t)
	mediaID := upload(t, bob, "a", []byte("what nobody looks at"))
	asked := count(net, "/media/download/")
	alice.Raw("GET", downloads+"hs2.test/"+mediaID, nil)
	s := net.Servers[0]
	if kept := mediaFiles(t, s); len(kept) != 1 {
		t.Fatalf("kept in %v", kept)
	}
	s.Advance(31 * 24 * time.Hour)
	// old files are removed to make room for a new one
	alice.Raw("GET", downloads+"hs2.test/"+upload(t, bob, "b", []byte("another")), nil)
	if kept := mediaFiles(t, s); len(kept) != 1 {
		t.Errorf("a month later there is more than the new file: %v", kept)
	}
	if status, _, body := alice.Raw("GET", downloads+"hs2.test/"+mediaID, nil); status != 200 || string(body) != "what nobody looks at" || asked.Load() != 3 {
		t.Errorf("%d %s after %d requests", status, body, asked.Load())
	}
}

func TestTheCacheOfOtherServersFilesIsBounded(t *testing.T) {
	net := testserver.Federation(t, 2, func(_ int, cfg *config.Config) {
		cfg.Media.MaxRemoteSize, cfg.Media.RemoteCacheSize = 1000, 2500
	})
	alice, bob := net.Servers[0].Register("alice"), net.Servers[1].Register("bob")
	text := func(i int) string { return strings.Repeat(fmt.Sprintf("file %d. ", i), 100) } // 800 bytes
	var ids []string
	for i := range 4 {
		ids = append(ids, upload(t, bob, "a", []byte(text(i))))
		alice.Raw("GET", downloads+"hs2.test/"+ids[i], nil)
		net.Servers[0].Advance(time.Minute)
	}
	asked := count(net, "/media/download/")
	for i, want := range map[int]int32{3: 0, 0: 1} { // the newest is kept, and the oldest is not
		before := asked.Load()
		alice.Raw("GET", downloads+"hs2.test/"+ids[i], nil)
		if got := asked.Load() - before; got != want {
			t.Errorf("file %d of 4: the other server was asked %d times, want %d", i+1, got, want)
		}
	}
	if kept := mediaFiles(t, net.Servers[0]); len(kept) > 3 { // of some 800 bytes, in a cache of 2,500
		t.Errorf("the cache has %d files: %v", len(kept), kept)
	}
	alice.Refused("GET", downloads+"hs2.test/"+upload(t, bob, "a", make([]byte, 1001)), nil, 502, "M_TOO_LARGE")
}

func TestRequestsWaitForAReservedFileOfAnotherServer(t *testing.T) {
	_, alice, bob := pair(t)
	uri, _ := bob.Do("POST", "/_matrix/media/v1/create", nil)["content_uri"].(string)
	mediaID := uri[strings.LastIndex(uri, "/")+1:]
	alice.Refused("GET", downloads+"hs2.test/"+mediaID+"?timeout_ms=1", nil, 504, "M_NOT_YET_UPLOADED")
	bob.Do("PUT", "/_matrix/media/v3/upload/hs2.test/"+mediaID, []byte("late"))
	if _, _, body := alice.Raw("GET", downloads+"hs2.test/"+mediaID, nil); string(body) != "late" {
		t.Errorf("got %s", body)
	}
}

// hostileMedia are malicious responses to requests for files.
var hostileMedia = map[string]func(w http.ResponseWriter){
	"plain":    func(w http.ResponseWriter) { io.WriteString(w, "no parts") },
	"boundary": func(w http.ResponseWriter) { w.Header().Set("Content-Type", "multipart/mixed") },
	"onepart":  func(w http.ResponseWriter) { parts(w, "--b\r\n\r\n{}\r\n--b--\r\n") },
	"cut": func(w http.ResponseWriter) {
		parts(w, "--b\r\n\r\n{}\r\n--b\r\nContent-Type: image/png\r\n\r\nhalf of")
	},
	"describe": func(w http.ResponseWriter) {
		parts(w, "--b\r\n\r\n"+strings.Repeat("x", 1<<20)+"\r\n--b\r\n\r\nfile\r\n--b--\r\n")
	},
	"header": func(w http.ResponseWriter) {
		parts(w, "--b\r\nA: "+strings.Repeat("x", 12<<20)+"\r\n\r\n{}\r\n--b--\r\n")
	},
	"cleartext": func(w http.ResponseWriter) {
		parts(w, "--b\r\n\r\n{}\r\n--b\r\nLocation: http://hs2.test:8448/x\r\n\r\n\r\n--b--\r\n")
	},
	"file": func(w http.ResponseWriter) {
		parts(w, "--b\r\n\r\n{}\r\n--b\r\nLocation: file:///etc/passwd\r\n\r\n\r\n--b--\r\n")
	},
	"nowhere": func(w http.ResponseWriter) {
		parts(w, "--b\r\n\r\n{}\r\n--b\r\nLocation: https://nowhere.test/\r\n\r\n\r\n--b--\r\n")
	},
	"loop": func(w http.ResponseWriter) {
		parts(w, "--b\r\n\r\n{}\r\n--b\r\nLocation: https://evil.test:8448/again\r\n\r\n\r\n--b--\r\n")
	},
	"endless": func(w http.ResponseWriter) {
		parts(w, "--b\r\n\r\n{}\r\n--b\r\n\r\n")
		for chunk := make([]byte, 1<<16); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	},
}

func parts(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "multipart/mixed; boundary=b")
	io.WriteString(w, body)
}

// CVE-2021-21274, CVE-2024-52805 and similar: processing a response of another server has a bounded cost, and the
// response is not passed on.
func TestHostileAnswersToRequestsForFiles(t *testing.T) {
	net := testserver.Federation(t, 1, func(_ int, cfg *config.Config) { cfg.Media.MaxRemoteSize = 1 << 20 })
	alice := net.Servers[0].Register("alice")
	var hops int
	net.Serve("evil.test", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		switch f := hostileMedia[kind]; {
		case kind == "again":
			hops++
			http.Redirect(w, r, "https://evil.test:8448/again", http.StatusFound)
		case kind == "token":
			w.WriteHeader(401)
			io.WriteString(w, `{"errcode":"M_UNKNOWN_TOKEN","error":"go away","soft_logout":true}`)
		case f != nil:
			f(w)
		default:
			w.WriteHeader(404)
		}
	}))
	alice.Refused("GET", downloads+"evil.test/token", nil, 404, "M_NOT_FOUND") // M_UNKNOWN_TOKEN would sign alice out
	for kind := range hostileMedia {
		status, _, raw := alice.Raw("GET", downloads+"evil.test/"+kind, nil)
		if status != 502 {
			t.Errorf("%s: %d %.200s", kind, status, raw)
		}
	}
	if hops > 2 {
		t.Errorf("%d redirects were followed", hops)
	}
}

// A server without the signed endpoint is asked through the old one. A redirect to another location is followed.
func TestFilesFromOldServersAndFromElsewhere(t *testing.T) {
	net := testserver.Federation(t, 1, nil)
	alice := net.Servers[0].Register("alice")
	net.Serve("old.test", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/_matrix/media/v3/download/old.test/") && r.URL.Query().Get("allow_remote") == "false" && r.Header.Get("Authorization") == "":
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Disposition", `attachment; filename="old.txt"`)
			io.WriteString(w, "an old file")
		case strings.HasSuffix(r.URL.Path, "/elsewhere"):
			parts(w, "--b\r\n\r\n{}\r\n--b\r\nLocation: https://old.test:8448/store\r\n\r\n\r\n--b--\r\n")
		case r.URL.Path == "/store" && r.Header.Get("Authorization") == "":
			io.WriteString(w, "a file of the store")
		case strings.HasSuffix(r.URL.Path, "/media/download/abc"):
			// a response that servers with the endpoint never send
			http.Error(w, "what origin?", http.StatusBadRequest)
		default:
			http.NotFound(w, r)
		}
	}))
	_, header, body := alice.Raw("GET", downloads+"old.test/abc", nil)
	if string(body) != "an old file" || !strings.HasPrefix(header.Get("Content-Type"), "text/plain") || !strings.Contains(header.Get("Content-Disposition"), "old.txt") {
		t.Errorf("%v %s", header, body)
	}
	if _, _, body = alice.Raw("GET", downloads+"old.test/elsewhere", nil); string(body) != "a file of the store" {
		t.Errorf("got %s", body)
	}
}
