package server_test

import (
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3" // the tests read the database themselves

	"ebb/config"
	"ebb/internal/testserver"
	"ebb/storage"
)

// hungWord is in every message that expires in the test below, and replacedWord in state that is replaced.
const (
	hungWord     = "guillemot9045"
	replacedWord = "fulmar2217"
)

// hangings is a room in which messages expire after a minute, with everything that hangs on them. Its second server, a
// push gateway and an application service get nothing until the end.
type hangings struct {
	*testing.T
	net               *testserver.Network
	s                 *testserver.Server // the first server, which is examined
	alice, bob, carol *testserver.Client // carol is on the second server
	outside           *outsiders
	room, base        string
	calm              string // the path of a room in which nothing expires
	n                 int
}

func newHangings(t *testing.T) *hangings {
	h := &hangings{T: t, outside: newOutsiders(t)}
	bridge := filepath.Join(t.TempDir(), "bridge.yaml")
	registration := fmt.Sprintf("id: bridge\nurl: %s\nas_token: as\nhs_token: hs\nsender_localpart: bridgebot\nnamespaces:\n  users: [{exclusive: false, regex: '@.*'}]\n", h.outside.url)
	if err := os.WriteFile(bridge, []byte(registration), 0o600); err != nil {
		t.Fatal(err)
	}
	h.net = testserver.Federation(t, 2, func(i int, c *config.Config) {
		c.Push.AllowPrivateGateways = true
		c.Retention.Redacted, c.Retention.SupersededState = config.Duration(time.Hour), true
		if i == 0 {
			c.Appservices = []string{bridge}
		}
	})
	h.s = h.net.Servers[0]
	h.alice, h.bob, h.carol = h.s.Register("alice"), h.s.Register("bob"), h.net.Servers[1].Register("carol")
	h.bob.Do("POST", "/v3/pushers/set", obj{"kind": "http", "app_id": "a", "pushkey": "k", "app_display_name": "a", "device_display_name": "d", "lang": "en",
		"data": obj{"url": h.outside.url + "/_matrix/push/v1/notify"}})
	h.room = h.alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat", "topic": replacedWord})["room_id"].(string)
	h.base = "/v3/rooms/" + url.PathEscape(h.room)
	calm := h.alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	h.calm = "/v3/rooms/" + url.PathEscape(calm)
	h.alice.Do("PUT", h.base+"/state/m.room.retention", obj{"max_lifetime": 60_000})
	for _, c := range []*testserver.Client{h.bob, h.carol} {
		for _, room := range []string{h.room, calm} {
			c.Do("POST", "/v3/join/"+url.PathEscape(room)+"?via=hs1.test", obj{})
		}
	}
	h.s.Notify()
	h.net.Cut("hs1.test", "hs2.test")
	return h
}

// send sends a message of alice with additional content, and returns its ID.
func (h *hangings) send(more obj, query string) string {
	h.Helper()
	h.n++
	content := obj{"msgtype": "m.text", "body": fmt.Sprint(hungWord, " ", h.n)}
	for k, v := range more {
		content[k] = v
	}
	id, _ := h.alice.Do("PUT", fmt.Sprintf("%s/send/m.room.message/h%d%s", h.base, h.n, query), content)["event_id"].(string)
	return id // "" of a delayed event
}

// advance advances the clocks of both servers.
func (h *hangings) advance(d time.Duration) {
	for _, s := range h.net.Servers {
		s.Advance(d)
	}
}

// count returns the result of a query that counts rows.
func (h *hangings) count(query string, args ...any) (n int) {
	h.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(h.s.Dir, "ebb.db")+"?mode=ro")
	if err != nil {
		h.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.QueryRowContext(h.Context(), query, args...).Scan(&n); err != nil {
		h.Fatal(err)
	}
	return n
}

// table returns a function that counts the rows of a table.
func table(name string) func(h *hangings) int {
	return func(h *hangings) int { return h.count(`SELECT count(*) FROM ` + name) }
}

// hanging is something that hangs on an event.
type hanging struct {
	name string // as in storage.Dependents, or what else
	put  func(h *hangings)
	left func(h *hangings) int // how much of it there is
}

// everyHanging has a row for each of storage.Dependents, and for what else the text of a message could be in. Rejected,
// soft-failed and undecided events are tested in package rooms, since no client can make them. Responses to transaction
// IDs (client_txns) have no text; they go after two days.
var everyHanging = []hanging{
	{"delayed events", func(h *hangings) {
		h.send(nil, "?org.matrix.msc4140.delay=1000")
		h.advance(2 * time.Second)
		if err := h.s.SendDelayed(h.Context()); err != nil {
			h.Fatal(err)
		}
	}, func(h *hangings) int {
		return h.count(`SELECT count(*) FROM events WHERE json LIKE '%' || ? || '%'`, hungWord)
	}},
	{"receipts", func(h *hangings) {
		h.bob.Do("POST", h.base+"/receipt/m.read/"+url.PathEscape(h.send(nil, "")), obj{})
	}, func(h *hangings) int { return h.count(`SELECT count(*) FROM receipts WHERE event_id <> ''`) }},
	{"threads", nil, table("threads")},
	{"thread subscriptions", func(h *hangings) {
		root := h.send(nil, "")
		h.send(obj{"m.relates_to": obj{"rel_type": "m.thread", "event_id": root}}, "")
		h.bob.Do("PUT", "/unstable/io.element.msc4306/rooms/"+url.PathEscape(h.room)+"/thread/"+url.PathEscape(root)+"/subscription", obj{})
	}, table("thread_subscriptions")},
	{"relations", func(h *hangings) {
		h.send(obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": h.send(nil, ""), "key": hungWord}}, "")
	}, func(h *hangings) int {
		return h.count(`SELECT count(*) FROM relations WHERE rel_type = 'm.annotation'`)
	}},
	{"reports", func(h *hangings) {
		h.bob.Do("POST", h.base+"/report/"+url.PathEscape(h.send(nil, "")), obj{"reason": "spam"})
	}, table("report_events")},
	{"notifications", func(h *hangings) {
		h.send(obj{"m.mentions": obj{"user_ids": []string{h.bob.User}}}, "")
	}, func(h *hangings) int {
		return h.count(`SELECT count(*) FROM event_push WHERE position NOT IN (SELECT position FROM events WHERE json LIKE '%a reply%')`)
	}},
	{"unread counts", nil, func(h *hangings) int {
		n, _ := testserver.Get(h.bob.Do("GET", "/v3/sync", nil), "rooms", "join", h.room, "unread_notifications", "highlight_count").(float64)
		return int(n)
	}},
	{"sticky events", func(h *hangings) { h.send(nil, stickyParam+"3600000") }, table("sticky_events")},
	{"self-destruction", func(h *hangings) {
		h.send(obj{"m.self_destruct_after": h.s.Now().Add(time.Hour).UnixMilli()}, "")
	}, table("self_destructs")},
	{"media", func(h *hangings) {
		h.send(obj{"msgtype": "m.image", "url": upload(h.alice, pngImage(h.T, 40))}, "")
	}, func(h *hangings) int {
		return h.count(`SELECT (SELECT count(*) FROM media_refs) + (SELECT count(*) FROM media) + (SELECT count(*) FROM media_files)`) + mediaFiles(h.T, h.s)
	}},
	{"originals", func(h *hangings) {
		h.alice.Do("PUT", h.base+"/redact/"+url.PathEscape(h.send(nil, ""))+"/r", obj{"reason": hungWord})
	}, func(h *hangings) int {
		return h.count(`SELECT count(*) FROM originals WHERE position NOT IN (SELECT position FROM events WHERE state_key IS NOT NULL)`)
	}},
	{"the reason of a redaction", func(h *hangings) {
		note := h.alice.Do("PUT", h.base+"/state/org.example.note", obj{"text": "a note"})["event_id"].(string)
		h.alice.Do("PUT", h.base+"/redact/"+url.PathEscape(note)+"/n", obj{"reason": hungWord})
	}, func(h *hangings) int {
		_, _, raw := h.bob.Raw("GET", h.base+"/state", nil)
		if !strings.Contains(string(raw), "org.example.note") {
			h.Error("the redacted state event is gone")
		}
		return strings.Count(string(raw), hungWord)
	}},
	{"m.fully_read markers", func(h *hangings) {
		h.bob.Do("POST", h.base+"/read_markers", obj{"m.fully_read": h.send(nil, "")})
	}, func(h *hangings) int { return h.count(`SELECT count(*) FROM account_data WHERE type = 'm.fully_read'`) }},
	{"search terms", func(h *hangings) {
		h.send(nil, "")
	}, func(h *hangings) int {
		found, _ := testserver.Get(h.bob.Do("POST", "/v3/search", obj{"search_categories": obj{"room_events": obj{"search_term": hungWord}}}), "search_categories", "room_events", "count").(float64)
		return int(found) + h.count(`SELECT count(*) FROM search_blocks WHERE stale > 0`)
	}},
	{"replaced state", func(h *hangings) {
		h.alice.Do("PUT", h.base+"/state/m.room.topic", obj{"topic": "another topic"})
	}, func(h *hangings) int {
		return h.count(`SELECT count(*) FROM events WHERE json LIKE ?`, "%"+replacedWord+"%")
	}},
	{"replies in a thread", func(h *hangings) { // the root expires, and the reply stays
		reply := obj{"msgtype": "m.text", "body": "a reply", "m.relates_to": obj{"rel_type": "m.thread", "event_id": h.send(nil, "")}}
		h.advance(30 * time.Second)
		h.alice.Do("PUT", h.base+"/send/m.room.message/reply", reply)
	}, func(h *hangings) int {
		return h.count(`SELECT count(*) FROM events WHERE thread_root > 0 AND json LIKE '%a reply%'`)
	}},
	{"exports", func(h *hangings) { built(h.T, h.s, "alice") }, func(h *hangings) int {
		_, _ = download(h.T, h.s, "alice") // which notices sooner than the next sweep that the export has ended
		files, err := filepath.Glob(filepath.Join(h.s.Dir, "exports", "*"))
		if err != nil {
			h.Fatal(err)
		}
		return len(files)
	}},
	{"files", nil, func(h *hangings) int {
		return len(h.s.FilesWith(hungWord)) + len(h.s.FilesWith(replacedWord))
	}},
}

func TestEverythingThatHangsOnAnEventIsPurgedWithIt(t *testing.T) {
	for _, name := range storage.Dependents() {
		if !slices.ContainsFunc(everyHanging, func(x hanging) bool { return x.name == name }) {
			t.Errorf("%q of storage.Dependents has no row in this test", name)
		}
	}
	h := newHangings(t)
	for _, x := range everyHanging {
		if x.put != nil {
			x.put(h)
		}
	}
	for _, x := range everyHanging {
		if x.left(h) == 0 {
			t.Errorf("%s: there is nothing before the purge, so the test proves nothing", x.name)
		}
	}
	h.advance(31 * time.Second)
	h.alice.Do("PUT", h.base+"/send/m.room.message/newest", obj{"msgtype": "m.text", "body": "stays"})
	purge(t, h.s)
	for _, x := range everyHanging {
		if n := x.left(h); n != 0 {
			t.Errorf("%s: %d are left after the purge", x.name, n)
		}
	}
	h.queues()
}

// queues lets the second server, the push gateway and the application service get what waits for them, and fails the
// test if an expired message is among it.
func (h *hangings) queues() {
	h.Helper()
	h.outside.open.Store(true)
	h.net.Heal()
	h.alice.Do("PUT", h.calm+"/send/m.room.message/last", obj{"msgtype": "m.text", "body": "the last one", "m.mentions": obj{"user_ids": []string{h.bob.User}}})
	attempt := 0
	eventually(h, time.Minute, "all of them get the last message", func() bool {
		if attempt++; attempt%50 == 0 { // after failures, the server waits by its clock
			h.advance(30 * time.Second)
		}
		got := strings.Join(h.outside.received(), "\n")
		_, _, there := h.carol.Raw("GET", h.calm+"/messages?dir=b", nil)
		return strings.Contains(got, "/_matrix/push/v1/notify") && strings.Contains(got, "/transactions/") && strings.Count(got, "the last one") >= 2 &&
			strings.Contains(string(there), "the last one")
	})
	if got := strings.Join(h.outside.received(), "\n"); strings.Contains(got, hungWord) {
		h.Errorf("the push gateway or the application service got an expired message: %s", got)
	}
	if files := h.net.Servers[1].FilesWith(hungWord); len(files) > 0 {
		h.Errorf("%v of the second server have an expired message", files)
	}
}
