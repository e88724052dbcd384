package server_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"ebb/internal/testserver"
)

// mediaModel says what must be there after random operations.
type mediaModel struct {
	t      *testing.T
	s      *testserver.Server
	users  []*testserver.Client
	random *rand.Rand
	rooms  []modelRoom
	files  []*modelFile
	texts  []*modelText
	n      int
}

type modelRoom struct {
	base     string
	lifetime time.Duration // 0: for ever
}

// modelFile is an upload.
type modelFile struct {
	uri, content string
	referenced   bool // something has referred to it
	profiles     int  // profiles that show it
}

// modelText is an event that refers to a file.
type modelText struct {
	room          *modelRoom
	event, marker string
	files         []*modelFile
	sent          time.Time
	isState       bool
	related       bool // to an earlier event
	redacted      bool
}

// lives reports whether clients are shown the event.
func (e *modelText) lives(now time.Time) bool {
	return !e.redacted && (e.isState || e.room.lifetime == 0 || now.Sub(e.sent) < e.room.lifetime)
}

func newMediaModel(t *testing.T, seed uint64) *mediaModel {
	m := &mediaModel{t: t, s: testserver.New(t, nil), random: rand.New(rand.NewPCG(seed, 12))}
	m.users = []*testserver.Client{m.s.Register("alice"), m.s.Register("bob")}
	for _, lifetime := range []time.Duration{0, time.Minute, 5 * time.Minute} {
		alice, bob := m.users[0], m.users[1]
		room := alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat", "power_level_content_override": map[string]any{"users_default": 100}})["room_id"].(string)
		base := "/v3/rooms/" + url.PathEscape(room)
		bob.Do("POST", base+"/join", nil)
		if lifetime > 0 {
			alice.Do("PUT", base+"/state/m.room.retention", map[string]any{"max_lifetime": lifetime.Milliseconds()})
		}
		m.rooms = append(m.rooms, modelRoom{base, lifetime})
	}
	return m
}

// step does one random thing.
func (m *mediaModel) step() {
	m.n++
	switch user := m.users[m.random.IntN(2)]; m.random.IntN(12) {
	case 0:
		m.upload(user)
	case 1, 2, 3, 4:
		m.send(user)
	case 5:
		m.redact(user)
	case 6:
		m.s.Advance(time.Duration(m.random.IntN(50)) * time.Second)
	case 7:
		m.setBanner(user)
	case 8:
		purge(m.t, m.s)
	case 9:
		m.thumbnail(user)
	case 10:
		m.s.Advance(time.Second)
		m.check()
	case 11:
		if m.random.IntN(8) == 0 {
			m.s.Reopen()
		}
	}
}

// upload uploads a new file, or the content of an earlier one once more.
func (m *mediaModel) upload(c *testserver.Client) *modelFile {
	f := &modelFile{content: string(pngImage(m.t, 100+m.n))}
	if len(m.files) > 0 && m.random.IntN(5) == 0 {
		f.content = m.files[m.random.IntN(len(m.files))].content
	}
	f.uri = upload(c, []byte(f.content))
	m.files = append(m.files, f)
	return f
}

// file returns a file that users can still get, often a new one.
func (m *mediaModel) file(c *testserver.Client) *modelFile {
	if len(m.files) > 0 && m.random.IntN(2) == 0 {
		if f := m.files[m.random.IntN(len(m.files))]; m.shown(f) {
			return f
		}
	}
	return m.upload(c)
}

// shown reports whether users must get a file: nothing has ever referred to it, or something that does is shown.
func (m *mediaModel) shown(f *modelFile) bool {
	if !f.referenced || f.profiles > 0 {
		return true
	}
	for _, e := range m.texts {
		if e.lives(m.s.Now()) && contains(e.files, f) {
			return true
		}
	}
	return false
}

func contains(files []*modelFile, f *modelFile) bool {
	for _, other := range files {
		if other == f {
			return true
		}
	}
	return false
}

// send sends a message: an image with a thumbnail, a reply in a thread, an edit, or text with a custom emoji; or a
// state event.
func (m *mediaModel) send(c *testserver.Client) {
	room := &m.rooms[m.random.IntN(len(m.rooms))]
	e := &modelText{room: room, marker: fmt.Sprintf("marker%dx", m.n), files: []*modelFile{m.file(c)}, sent: m.s.Now()}
	content := map[string]any{"msgtype": "m.image", "body": e.marker, "url": e.files[0].uri}
	path := fmt.Sprint(room.base, "/send/m.room.message/", m.n)
	switch m.random.IntN(5) {
	case 0:
		e.files = append(e.files, m.file(c))
		content["info"] = map[string]any{"thumbnail_url": e.files[1].uri}
	case 1, 2:
		if earlier := m.liveIn(room); earlier != nil {
			relation := "m.replace"
			if !earlier.related && m.random.IntN(2) == 0 {
				relation = "m.thread"
			}
			e.related = true
			content["m.relates_to"] = map[string]any{"rel_type": relation, "event_id": earlier.event}
			content["m.new_content"] = map[string]any{"msgtype": "m.image", "body": e.marker, "url": e.files[0].uri}
		}
	case 3:
		content = map[string]any{"msgtype": "m.text", "body": e.marker, "format": "org.matrix.custom.html", "formatted_body": `<img src="` + e.files[0].uri + `">`}
	case 4:
		e.isState = true
		content = map[string]any{"name": e.marker, "images": map[string]any{"x": map[string]any{"url": e.files[0].uri}}}
		path = fmt.Sprint(room.base, "/state/im.ponies.room_emotes/", m.random.IntN(3))
	}
	e.event = c.Do("PUT", path, content)["event_id"].(string)
	for _, f := range e.files {
		f.referenced = true
	}
	m.texts = append(m.texts, e)
}

// liveIn returns a random message of a room that is shown, or nil.
func (m *mediaModel) liveIn(room *modelRoom) *modelText {
	for range 5 {
		if len(m.texts) == 0 {
			return nil
		}
		if e := m.texts[m.random.IntN(len(m.texts))]; e.room == room && !e.isState && e.lives(m.s.Now()) {
			return e
		}
	}
	return nil
}

func (m *mediaModel) redact(c *testserver.Client) {
	if len(m.texts) == 0 {
		return
	}
	if e := m.texts[m.random.IntN(len(m.texts))]; e.lives(m.s.Now()) {
		c.Do("PUT", fmt.Sprint(e.room.base, "/redact/", url.PathEscape(e.event), "/", m.n), map[string]any{})
		e.redacted = true
	}
}

// setBanner shows a file in a field of the profile that no member event has.
func (m *mediaModel) setBanner(c *testserver.Client) {
	f := m.file(c)
	name := fmt.Sprint("com.example.banner", m.n)
	c.Do("PUT", "/v3/profile/"+url.PathEscape(c.User)+"/"+name, map[string]any{name: f.uri})
	f.referenced = true
	f.profiles++
}

func (m *mediaModel) thumbnail(c *testserver.Client) {
	if len(m.files) > 0 {
		f := m.files[m.random.IntN(len(m.files))]
		c.Raw("GET", "/v1/media/thumbnail/"+strings.TrimPrefix(f.uri, "mxc://")+"?width=32&height=32&method=crop", nil)
	}
}

// check compares what users get with the model.
func (m *mediaModel) check() {
	m.t.Helper()
	for _, f := range m.files {
		if want := m.shown(f); served(m.users[0], f.uri) != want {
			m.t.Fatalf("step %d: %s is served: %v, want %v", m.n, f.uri, !want, want)
		}
	}
}

// checkDisk purges, and compares the files of the server with the model. A message that expires just before makes the
// purge empty the write-ahead log, which otherwise may have content that was redacted.
func (m *mediaModel) checkDisk() {
	m.t.Helper()
	m.n++
	m.users[0].Do("PUT", fmt.Sprint(m.rooms[1].base, "/send/m.room.message/", m.n), map[string]any{"msgtype": "m.text", "body": "the last one"})
	m.s.Advance(time.Minute)
	purge(m.t, m.s)
	contents := map[string]bool{}
	for _, f := range m.files {
		if m.shown(f) {
			contents[f.content] = true
		} else if mediaID := f.uri[strings.LastIndexByte(f.uri, '/')+1:]; len(m.s.FilesWith(mediaID)) > 0 {
			m.t.Errorf("the ID of %s is in %v", f.uri, m.s.FilesWith(mediaID))
		}
	}
	if n := m.contentFiles(); n != len(contents) {
		m.t.Errorf("%d files on disk, want %d", n, len(contents))
	}
	for _, e := range m.texts {
		if found := len(m.s.FilesWith(e.marker)) > 0; found && !e.lives(m.s.Now()) {
			m.t.Errorf("%s is in %v: %+v", e.marker, m.s.FilesWith(e.marker), *e)
		} else if !found && e.lives(m.s.Now()) {
			m.t.Errorf("%s is gone", e.marker)
		}
	}
}

// contentFiles counts the files on disk without thumbnails.
func (m *mediaModel) contentFiles() (n int) {
	err := fs.WalkDir(os.DirFS(m.s.Dir+"/media"), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasPrefix(path, "thumb/") {
			n++
		}
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

// TestExpiredAttachmentsGoAndOthersStay does random things in rooms with and without a lifetime, and compares what
// users get and what is on disk with a model.
func TestExpiredAttachmentsGoAndOthersStay(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			m := newMediaModel(t, seed)
			for range 150 {
				m.step()
			}
			m.check()
			m.checkDisk()
			m.s.Advance(time.Hour) // what is left in rooms with a lifetime expires
			m.check()
			m.checkDisk()
		})
	}
}
