package server_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

// Words that the test looks for. Every message that is going to expire contains one of them, in its content, its type
// or its transaction ID.
const (
	goneEverywhere = "tidewater7713" // in rooms whose policy is known to every server
	goneHere       = "ebbmark4401"   // in rooms whose policy only the first server has
	heldWord       = "quayside2290"  // in messages that a legal hold on the first server covers; every server knows their policy
	takenBack      = "driftwood9152" // in messages that are redacted or destroy themselves, in the room without a policy
	erasedWord     = "lapwing5518"   // in what a user has sent about whom everything is erased
	stays          = "anchorage"     // in messages that stay
)

// The messages of the first half have expired at halfway, and all of them at the end. Lifetimes are 20 to 29 minutes.
const (
	secondHalf = 18 * time.Minute
	halfway    = 32 * time.Minute
	horizon    = 52 * time.Minute
	keptFor    = 10 * time.Minute // how long the first server keeps the originals of redacted messages
)

// fadingRoom is a room in which messages expire.
type fadingRoom struct {
	id          string
	word        string // in every message that expires
	sender      []*testserver.Client
	events      []string // that expire, in order
	first       int      // how many of them were sent in the first half
	firstLiving int      // the same of those that stay
	living      []string // that stay
	private     bool
}

// fadingWorld performs random actions on three servers. Messages are sent on the first two; the third one joins at the
// end.
type fadingWorld struct {
	*testing.T
	r                        *rand.Rand
	net                      *testserver.Network
	hs1, hs2                 *testserver.Server
	admin, alice, bob, carol *testserver.Client
	erin                     *testserver.Client // on whom there is a legal hold
	second                   *testserver.Client // an administrator, who is in no room
	frank                    *testserver.Client // about whom everything is erased
	erased                   map[string]bool    // the servers on which that has been done
	holds                    []any              // the numbers of the legal holds
	heldTexts                []string           // what held messages contain
	heldFile                 string
	rooms                    []*fadingRoom
	calm                     *fadingRoom // a room without a policy
	taken                    []string    // redacted messages in it
	since                    map[*testserver.Client]string
	outside                  *outsiders
	n                        int
	begun                    time.Time
	half                     string // "a" or "b", part of every message
	gone                     map[string]bool
	reported                 map[string]bool // failures, each of which is reported once
	shown                    map[string]bool // operations that have shown a message before it expired
	succeeded                map[string]bool // operations that have succeeded
	postgres                 bool            // the databases are on PostgreSQL, with encrypted messages
	keys                     []messageKey    // on PostgreSQL, of messages that expire
}

// outsiders records what a push gateway and an application service are sent. Both refuse everything until they are
// opened.
type outsiders struct {
	url  string
	open atomic.Bool

	mu  sync.Mutex
	got []string // guarded by mu
}

func newOutsiders(t *testing.T) *outsiders {
	o := &outsiders{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		if !o.open.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		o.mu.Lock()
		o.got = append(o.got, r.URL.Path+" "+string(raw))
		o.mu.Unlock()
		_, _ = io.WriteString(w, "{}")
	}))
	t.Cleanup(s.Close)
	o.url = s.URL
	return o
}

func (o *outsiders) received() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.got)
}

func newFadingWorld(t *testing.T, seed uint64, postgres bool) *fadingWorld {
	w := &fadingWorld{
		T: t, postgres: postgres, r: rand.New(rand.NewPCG(seed, 12)), outside: newOutsiders(t), since: map[*testserver.Client]string{}, gone: map[string]bool{},
		erased: map[string]bool{}, reported: map[string]bool{}, half: "a", shown: map[string]bool{}, succeeded: map[string]bool{},
	}
	bridge := filepath.Join(t.TempDir(), "bridge.yaml")
	registration := fmt.Sprintf("id: bridge\nurl: %s\nas_token: as\nhs_token: hs\nsender_localpart: bridgebot\nnamespaces:\n  users: [{exclusive: false, regex: '@.*'}]\n", w.outside.url)
	if err := os.WriteFile(bridge, []byte(registration), 0o600); err != nil {
		t.Fatal(err)
	}
	w.net = testserver.Federation(t, 3, func(i int, c *config.Config) {
		c.Push.AllowPrivateGateways = true
		if i == 0 {
			c.Appservices = []string{bridge}
			c.Retention.Redacted = config.Duration(keptFor)
		}
		if postgres {
			testserver.OnPostgres(t, c)
		}
	})
	w.hs1, w.hs2 = w.net.Servers[0], w.net.Servers[1]
	w.admin, w.alice, w.bob, w.carol = w.hs1.Register("admin"), w.hs1.Register("alice"), w.hs1.Register("bob"), w.hs2.Register("carol")
	w.control("user admin", obj{"user": w.admin.User, "admin": true})
	w.bob.Do("POST", "/v3/pushers/set", obj{"kind": "http", "app_id": "a", "pushkey": "k", "app_display_name": "a", "device_display_name": "d", "lang": "en",
		"data": obj{"url": w.outside.url + "/_matrix/push/v1/notify"}})
	w.erin, w.second = w.hs1.Register("erin"), w.hs1.Register("second")
	w.control("user admin", obj{"user": w.second.User, "admin": true})
	for i := range 4 {
		w.rooms = append(w.rooms, w.room(i))
	}
	w.hold()
	w.calm = w.room(-1)
	w.befriend()
	for _, c := range []*testserver.Client{w.alice, w.bob, w.carol, w.admin} {
		w.since[c] = c.Do("GET", "/v3/sync", nil)["next_batch"].(string)
	}
	w.begun = w.hs1.Now()
	return w
}

// hold adds legal holds on a room and on a user, whose messages it sends to the other rooms with a known policy.
func (w *fadingWorld) hold() {
	w.Helper()
	held := w.rooms[2]
	held.word = heldWord
	for _, r := range w.rooms[:2] {
		if r.private {
			w.alice.Do("POST", "/v3/rooms/"+url.PathEscape(r.id)+"/invite", obj{"user_id": w.erin.User})
		}
		w.erin.Do("POST", "/v3/join/"+url.PathEscape(r.id), obj{})
		r.sender = append(r.sender, w.erin)
	}
	for _, on := range []obj{{"room": held.id}, {"user": w.erin.User}} {
		on["reason"], on["review"] = "case 7", inOneYear(w.hs1)
		w.holds = append(w.holds, w.admin.Do("POST", holdsPath, on)["id"])
	}
}

// befriend lets a user send something to the room without a policy who will be erased.
func (w *fadingWorld) befriend() {
	w.Helper()
	w.frank = w.hs1.Register("frank")
	path := "/v3/rooms/" + url.PathEscape(w.calm.id)
	if w.calm.private { // before there is a name, since other servers keep the name in an invite, which frank cannot redact
		w.alice.Do("POST", path+"/invite", obj{"user_id": w.frank.User})
	}
	if !w.postgres { // which keeps deleted profiles in its log
		w.frank.Do("PUT", "/v3/profile/"+url.PathEscape(w.frank.User)+"/displayname", obj{"displayname": erasedWord})
	}
	w.frank.Do("POST", "/v3/join/"+url.PathEscape(w.calm.id), obj{"reason": erasedWord})
	for i := range 5 {
		w.frank.Do("PUT", fmt.Sprintf("%s/send/m.room.message/f%d", path, i), obj{"msgtype": "m.image", "body": erasedWord, "url": upload(w.frank, pngImage(w.T, 50+i))})
	}
}

// erase erases everything about that user on the first server.
func (w *fadingWorld) erase() {
	w.Helper()
	w.control("user erase", obj{"user": w.frank.User, "everything": true})
	w.eventuallyAfterPauses("everything about a user is erased", func() bool {
		return result(w.T, w.hs1, "user erasure", obj{"user": w.frank.User})["finished"] != nil
	})
	w.erased["hs1.test"] = true
}

// files sends an image that a hold covers, and one that none covers.
func (w *fadingWorld) files() {
	w.Helper()
	w.heldFile = upload(w.alice, pngImage(w.T, 30))
	for r, uri := range map[*fadingRoom]string{w.rooms[2]: w.heldFile, w.rooms[0]: upload(w.alice, pngImage(w.T, 40))} {
		w.n++
		w.send(w.alice, r, "m.room.message", obj{"msgtype": "m.image", "body": w.text(w.alice, r), "url": uri})
	}
}

// takeBack redacts a message with a file of the first server, and one of each of the other users, in the room without
// a policy.
func (w *fadingWorld) takeBack() {
	w.Helper()
	base := "/v3/rooms/" + url.PathEscape(w.calm.id)
	for i, c := range w.calm.sender {
		w.n++
		message := obj{"msgtype": "m.text", "body": fmt.Sprint(takenBack, w.half, " ", w.n, ".")}
		if c == w.alice {
			message["msgtype"], message["url"] = "m.image", upload(c, pngImage(w.T, 50+i))
		}
		event, _ := c.Do("PUT", fmt.Sprintf("%s/send/m.room.message/taken-%d", base, w.n), message)["event_id"].(string)
		w.eventually("the message arrives", func() bool { // otherwise the first server may get it in its redacted form only
			_, _, raw := w.alice.Raw("GET", base+"/event/"+url.PathEscape(event), nil)
			return strings.Contains(string(raw), takenBack)
		})
		c.Do("PUT", fmt.Sprintf("%s/redact/%s/back-%d", base, url.PathEscape(event), w.n), obj{})
		w.calm.events, w.taken = append(w.calm.events, event), append(w.taken, event)
		w.eventually("the redaction arrives", func() bool {
			status, _, raw := w.alice.Raw("GET", base+"/event/"+url.PathEscape(event), nil)
			return status == http.StatusOK && strings.Contains(string(raw), "redacted_because")
		})
	}
}

// vanish sends a message of each user that destroys itself within the next minutes to the room without a policy.
func (w *fadingWorld) vanish() {
	w.Helper()
	base := "/v3/rooms/" + url.PathEscape(w.calm.id)
	for _, c := range w.calm.sender {
		w.n++
		event, _ := c.Do("PUT", fmt.Sprintf("%s/send/m.room.message/vanishing-%d", base, w.n), obj{
			"msgtype": "m.text", "body": fmt.Sprint(takenBack, w.half, " ", w.n, "."), "m.self_destruct_after": w.hs1.Now().Add(5 * time.Minute).UnixMilli(),
		})["event_id"].(string)
		w.eventually("the message arrives that destroys itself", func() bool {
			_, _, raw := w.alice.Raw("GET", base+"/event/"+url.PathEscape(event), nil)
			return strings.Contains(string(raw), takenBack)
		})
	}
}

// destroy has the first two servers destroy the messages that are due.
func (w *fadingWorld) destroy() {
	w.Helper()
	for _, s := range []*testserver.Server{w.hs1, w.hs2} {
		if err := s.DestroyDue(w.Context()); err != nil {
			w.Fatal(err)
		}
	}
}

// originals fails the test unless moderators of the first server can read the messages of the second half that were
// redacted, and not those of the first half.
func (w *fadingWorld) originals() {
	w.Helper()
	for i, event := range w.taken {
		path := "/v3/rooms/" + url.PathEscape(w.calm.id) + "/event/" + url.PathEscape(event) + unredacted
		_, _, raw := w.alice.Raw("GET", path, nil)
		if second := i >= len(w.taken)/2; strings.Contains(string(raw), takenBack+"b") != second || strings.Contains(string(raw), contentDeleted) == second {
			w.Errorf("redacted message %d of %d: a moderator gets %s", i+1, len(w.taken), raw)
		}
		if strings.Contains(string(raw), takenBack+"b") && !w.postgres && len(w.hs1.FilesWith(takenBack+"b")) == 0 {
			w.Error("the search through the files does not find the originals of redacted messages")
		}
	}
}

// preserved fails the test if anything is missing on disk that a hold covers, or if a file is left that none covers. On
// PostgreSQL it does not look for the texts, which are encrypted.
func (w *fadingWorld) preserved(when string) {
	w.Helper()
	for _, text := range w.heldTexts {
		if !w.postgres && len(w.hs1.FilesWith(text)) == 0 {
			w.Errorf("%s: %q is not on disk although a legal hold covers it", when, text)
		}
	}
	if n := mediaFiles(w.T, w.hs1); n != 1 {
		w.Errorf("%s: %d media files are left, want the one that a legal hold covers", when, n)
	}
	if served(w.alice, w.heldFile) {
		w.Errorf("%s: the file of a held message that has expired is served", when)
	}
}

// lift lifts the holds. The next purge removes what they have kept.
func (w *fadingWorld) lift() {
	w.Helper()
	for _, hold := range w.holds {
		lift(w.admin, w.second, hold)
	}
	w.purge()
	w.onDisk(w.hs1, goneEverywhere, goneHere, heldWord)
	if n := mediaFiles(w.T, w.hs1); n != 0 {
		w.Errorf("after the legal holds were lifted, %d media files are left", n)
	}
}

func (w *fadingWorld) control(name string, args obj) any {
	w.Helper()
	raw, err := json.Marshal(args)
	if err != nil {
		w.Fatal(err)
	}
	answer, err := w.hs1.Control(w.Context(), name, raw)
	if err != nil {
		w.Fatalf("%s: %v", name, err)
	}
	return answer
}

// room creates a room with a random policy; without one if i is negative.
func (w *fadingWorld) room(i int) *fadingRoom {
	w.Helper()
	r := &fadingRoom{word: goneEverywhere, private: w.r.IntN(2) == 0}
	body := obj{"preset": "public_chat", "room_version": []string{"10", "11", "12"}[w.r.IntN(3)], "name": "room"}
	if r.private {
		body["preset"], body["invite"] = "private_chat", []string{w.bob.User, w.carol.User, w.admin.User}
	}
	initial := []obj{{"type": "m.room.history_visibility", "state_key": "", "content": obj{"history_visibility": []string{"joined", "invited", "shared", "world_readable"}[w.r.IntN(4)]}}}
	if w.r.IntN(3) == 0 {
		initial = append(initial, obj{"type": "m.room.encryption", "state_key": "", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}})
	}
	body["initial_state"] = initial
	r.id, _ = w.alice.Do("POST", "/v3/createRoom", body)["room_id"].(string)
	for _, c := range []*testserver.Client{w.bob, w.admin, w.carol} {
		w.eventually("the invite arrives", func() bool {
			status, _, _ := c.Raw("POST", "/v3/join/"+url.PathEscape(r.id)+"?server_name=hs1.test", obj{})
			return status == http.StatusOK
		})
	}
	r.sender = []*testserver.Client{w.alice, w.bob, w.carol}
	lifetime := 60_000 * (20 + w.r.IntN(10))
	switch {
	case i < 0:
		r.word = stays
	case i == 3: // at least one in every world
		r.word = goneHere
		w.control("room retention set", obj{"room": r.id, "max_lifetime_ms": lifetime})
	default:
		typ := []string{"m.room.retention", "org.matrix.msc1763.retention"}[w.r.IntN(2)]
		w.alice.Do("PUT", "/v3/rooms/"+url.PathEscape(r.id)+"/state/"+typ, obj{"max_lifetime": lifetime})
	}
	return r
}

// eventually waits for something that other servers do.
func (w *fadingWorld) eventually(what string, f func() bool) {
	w.Helper()
	eventually(w.T, 30*time.Second, what, f)
}

// send sends an event and records that it will expire, or that it stays if the room has no policy.
func (w *fadingWorld) send(c *testserver.Client, r *fadingRoom, typ string, content obj) string {
	w.Helper()
	w.n++
	path := fmt.Sprintf("/v3/rooms/%s/send/%s/%s%s-%d", url.PathEscape(r.id), typ, w.word(c, r), w.half, w.n)
	if w.r.IntN(20) == 0 && !strings.Contains(typ, "encrypted") {
		path += stickyParam + "60000"
	}
	status, _, raw := c.Raw("PUT", path, content)
	if status != http.StatusOK { // such as a thread that starts at a reply
		return ""
	}
	event, _ := decode(w.T, raw)["event_id"].(string)
	if r == w.calm {
		r.living = append(r.living, event)
		return event
	}
	r.events, w.gone[event] = append(r.events, event), true
	if body, _ := content["body"].(string); strings.HasPrefix(body, heldWord) {
		w.heldTexts = append(w.heldTexts, body)
	}
	return event
}

// word returns the word that messages of a user in a room contain.
func (w *fadingWorld) word(c *testserver.Client, r *fadingRoom) string {
	if c == w.erin && r != w.calm {
		return heldWord
	}
	return r.word
}

func (w *fadingWorld) text(c *testserver.Client, r *fadingRoom) string {
	return fmt.Sprint(w.word(c, r), w.half, " ", w.n, ".")
}

// act performs one random action.
func (w *fadingWorld) act() {
	w.Helper()
	r := w.rooms[w.r.IntN(len(w.rooms))]
	if w.r.IntN(6) == 0 {
		r = w.calm
	}
	c := r.sender[w.r.IntN(len(r.sender))]
	some := ""
	if all := append(slices.Clone(r.events), r.living...); len(all) > 0 {
		some = all[w.r.IntN(len(all))]
	}
	base := "/v3/rooms/" + url.PathEscape(r.id)
	message := obj{"msgtype": "m.text", "body": w.text(c, r)}
	switch k := w.r.IntN(24); {
	case k < 8 || some == "":
		w.send(c, r, "m.room.message", message)
	case k < 10:
		message["m.mentions"] = obj{"user_ids": []string{w.bob.User, w.alice.User}}
		w.send(c, r, "m.room.message", message)
	case k < 12:
		message["m.relates_to"] = obj{"rel_type": "m.thread", "event_id": some}
		w.send(c, r, "m.room.message", message)
	case k < 14:
		message["m.new_content"], message["m.relates_to"] = obj{"msgtype": "m.text", "body": w.text(c, r)}, obj{"rel_type": "m.replace", "event_id": some}
		w.send(c, r, "m.room.message", message)
	case k < 15:
		w.send(c, r, "m.reaction", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": some, "key": w.text(c, r)}})
	case k < 16:
		w.send(c, r, "m.room.encrypted", obj{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": w.text(c, r), "session_id": "s"})
	case k < 17 && r != w.calm:
		w.send(c, r, "org.example."+w.word(c, r)+w.half, obj{"x": w.text(c, r)})
		w.send(c, r, "m.room.message", message)
	case k < 18 && r != w.calm:
		w.redact(c, r, some)
	case k < 20:
		c.Raw("POST", base+"/receipt/m.read/"+url.PathEscape(some), obj{})
		c.Raw("POST", base+"/read_markers", obj{"m.fully_read": some})
	case k < 21:
		c.Raw("PUT", base+"/state/m.room.topic", obj{"topic": "a topic stays"})
	case k < 22:
		c.Raw("POST", base+"/report/"+url.PathEscape(some), obj{"reason": "spam"})
		c.Raw("PUT", "/unstable/io.element.msc4306/rooms/"+url.PathEscape(r.id)+"/thread/"+url.PathEscape(some)+"/subscription", obj{})
	case k < 23:
		w.delay(r)
	default:
		w.wait(time.Duration(w.r.IntN(2000)) * time.Millisecond)
	}
}

// redact redacts an event, unless it has not arrived yet: a redaction by somebody who may not redact it would be
// accepted then, and never shown.
func (w *fadingWorld) redact(c *testserver.Client, r *fadingRoom, event string) {
	if status, _, _ := c.Raw("GET", "/v3/rooms/"+url.PathEscape(r.id)+"/event/"+url.PathEscape(event), nil); status != http.StatusOK {
		return
	}
	w.n++
	status, _, raw := c.Raw("PUT", fmt.Sprintf("/v3/rooms/%s/redact/%s/%s%s-%d", url.PathEscape(r.id), url.PathEscape(event), w.word(c, r), w.half, w.n), obj{"reason": w.text(c, r)})
	if event, _ := decode(w.T, raw)["event_id"].(string); status == http.StatusOK {
		r.events, w.gone[event] = append(r.events, event), true
	}
}

// delay sends a message through a delayed event.
func (w *fadingWorld) delay(r *fadingRoom) {
	if r == w.calm {
		return
	}
	w.n++
	w.alice.Do("PUT", fmt.Sprintf("/v3/rooms/%s/send/m.room.message/%s%s-%d?org.matrix.msc4140.delay=1000", url.PathEscape(r.id), r.word, w.half, w.n), obj{"msgtype": "m.text", "body": w.text(w.alice, r)})
	w.wait(2 * time.Second)
	if err := w.hs1.SendDelayed(w.Context()); err != nil {
		w.Fatal(err)
	}
}

// wait advances the clocks of all servers.
func (w *fadingWorld) wait(d time.Duration) {
	for _, s := range w.net.Servers {
		s.Advance(d)
	}
}

// until advances the clocks to a time after the beginning.
func (w *fadingWorld) until(d time.Duration) { w.wait(w.begun.Add(d).Sub(w.hs1.Now())) }

// restart restarts the first server.
func (w *fadingWorld) restart() {
	w.net.Stop(0)
	w.net.Start(0)
}

// settle waits until the first two servers have what the other one has sent, and agree on the state of the rooms.
func (w *fadingWorld) settle() {
	w.Helper()
	for _, r := range append(slices.Clone(w.rooms), w.calm) {
		all := slices.Concat(r.events[r.first:], r.living[r.firstLiving:])
		for _, s := range []*testserver.Client{w.alice, w.carol} {
			w.eventually("every server has every event", func() bool {
				for _, event := range all {
					status, _, _ := s.Raw("GET", "/v3/rooms/"+url.PathEscape(r.id)+"/event/"+url.PathEscape(event), nil)
					if status != http.StatusOK {
						return false
					}
				}
				return true
			})
		}
	}
	w.eventually("the servers agree on the state", func() bool { return maps.Equal(w.state(w.alice), w.state(w.carol)) })
}

// ids returns the rooms and their events that are crawled: a sample of those that expire, with the first and the last.
func (w *fadingWorld) ids(rooms []*fadingRoom, sample int) (ids []string, events map[string][]string) {
	events = map[string][]string{}
	for _, r := range rooms {
		ids = append(ids, r.id)
		list := r.events
		for len(list) > max(sample, 2) {
			i := 1 + w.r.IntN(len(list)-2)
			list = slices.Delete(slices.Clone(list), i, i+1)
		}
		events[r.id] = append(slices.Clone(list), r.living...)[:len(list)]
	}
	return ids, events
}

// crawlAs crawls a server as one of its users.
func (w *fadingWorld) crawlAs(c *testserver.Client, rooms []*fadingRoom, sample int, f func(crawled)) {
	w.Helper()
	ids, events := w.ids(rooms, sample)
	(&crawl{t: w, s: c.Server(), as: c, rooms: ids, events: events, values: crawlValues(c.User, w.since[c], rooms[0].word)}).run(f)
}

func (w *fadingWorld) crawlFrom(peer, s *testserver.Server, rooms []*fadingRoom, sample int, f func(crawled)) {
	w.Helper()
	ids, events := w.ids(rooms, sample)
	(&crawl{t: w, s: s, peer: peer, rooms: ids, events: events, values: crawlValues(w.alice.User, "", rooms[0].word)}).run(f)
}

// crawlReads lists the operations that read, with their paths. The crawl fills it from the routes of the server.
var crawlReads = map[string]string{}

// before crawls while everything is visible, so that the test knows which operations can show messages.
func (w *fadingWorld) before() {
	w.Helper()
	for _, route := range w.hs1.Routes() {
		if _, reads := crawlBodies[route.OperationID]; !route.Page && (reads || route.Method == http.MethodGet) {
			crawlReads[route.OperationID] = route.Path
		}
	}
	note := func(r crawled) {
		w.succeeded[r.operation] = w.succeeded[r.operation] || r.status < 300
		w.shown[r.operation] = w.shown[r.operation] || strings.Contains(string(r.raw), goneEverywhere) || strings.Contains(string(r.raw), goneHere)
	}
	w.crawlAs(w.alice, w.rooms, 3, note)
	if files := exportedWith(w.T, w.hs1, withConversations); !anyContains(files, goneEverywhere) || !anyContains(files, goneHere) {
		w.Error("an export shows no message before it expires: exports prove nothing")
	}
	builtWith(w.T, w.hs1, withConversations) // which is looked at when its messages have expired
	w.crawlAs(w.admin, w.rooms[:1], 2, note)
	w.crawlFrom(w.hs2, w.hs1, w.rooms, 2, note)
}

// shared returns the rooms whose policy every server knows.
func (w *fadingWorld) shared() []*fadingRoom { return w.rooms[:3] }

// hidden fails the test if an expired message is visible anywhere.
func (w *fadingWorld) hidden(when string, clients ...*testserver.Client) {
	w.Helper()
	forbidden := func(words ...string) func(crawled) {
		return func(r crawled) {
			if r.status >= 500 && r.status != http.StatusBadGateway {
				w.report(r.operation+" fails", "%s: %s: %d %s", when, r.request, r.status, r.raw)
			}
			for _, word := range words {
				if echo := strings.Count(r.request, word); strings.Count(string(r.raw), word) > echo {
					w.report(r.operation+" shows an expired message", "%s: %s: %.1500s", when, r.request, around(r.raw, word))
				}
			}
		}
	}
	everywhere, here := w.words()
	all := append(slices.Clone(everywhere), here)
	if w.erased["hs1.test"] {
		all = append(all, erasedWord)
	}
	if w.erased["hs2.test"] {
		everywhere = append(everywhere, erasedWord)
	}
	for _, c := range clients {
		rooms, check := append(slices.Clone(w.rooms), w.calm), forbidden(all...)
		if c.Server() != w.hs1 {
			rooms, check = append(slices.Clone(w.shared()), w.calm), forbidden(everywhere...)
		}
		w.crawlAs(c, rooms, 4, func(r crawled) {
			check(r)
			for _, place := range mentions(r.raw, w.goneFor(rooms)) {
				if r.status < 300 {
					w.report(r.operation+" names an expired event at "+place, "%s: %s: %.1500s", when, r.request, r.raw)
				}
			}
		})
	}
	w.crawlFrom(w.hs2, w.hs1, append(slices.Clone(w.rooms), w.calm), 4, forbiddenContent(w, when, all...))
	w.crawlFrom(w.hs1, w.hs2, w.shared(), 4, forbiddenContent(w, when, everywhere...))
	w.exports(when, all...)
	for _, command := range []string{"report list", "room list"} {
		if raw, _ := json.Marshal(w.control(command, obj{})); containsAny(string(raw), all) {
			w.Errorf("%s: ebb %s shows %s", when, command, raw)
		}
	}
}

// exports fails the test if an export that was made earlier, or is made now, contains one of the words.
func (w *fadingWorld) exports(when string, words ...string) {
	w.Helper()
	if archive, err := download(w.T, w.hs1, "alice"); err == nil {
		w.noneIn(when+", in an earlier export", unzip(w.T, archive), words)
	}
	w.noneIn(when+", in an export", exportedWith(w.T, w.hs1, withConversations), words)
	builtWith(w.T, w.hs1, withConversations)
}

// noneIn fails the test if one of the files contains one of the words, or names an event that has expired.
func (w *fadingWorld) noneIn(where string, files map[string]string, words []string) {
	w.Helper()
	for name, content := range files {
		for _, word := range words {
			if word == takenBack && name == "originals.json" && !w.passed(horizon) {
				word += "a" // the originals of the second half are still kept for moderators
			}
			if strings.Contains(content, word) {
				w.report("an export shows an expired message", "%s: %s: %.1500s", where, name, around([]byte(content), word))
			}
		}
		if place := mentions([]byte(content), w.goneFor(w.rooms)); strings.HasSuffix(name, ".json") && name != "reports.json" && name != "audit.json" && len(place) > 0 {
			w.report("an export names an expired event", "%s: %s: %v", where, name, place)
		}
	}
}

// report fails the test with a finding, unless the same one was reported already.
func (w *fadingWorld) report(finding, details string, args ...any) {
	w.Helper()
	if !w.reported[finding] {
		w.reported[finding] = true
		w.Errorf("%s: %s", finding, fmt.Sprintf(details, args...))
	}
}

// around returns the part of a response around a word.
func around(raw []byte, word string) string {
	i := strings.Index(string(raw), word)
	return string(raw[max(0, i-700):min(len(raw), i+400)])
}

// forbiddenContent checks responses for other servers. They need the skeletons of expired messages, with their types.
func forbiddenContent(w *fadingWorld, when string, words ...string) func(crawled) {
	return func(r crawled) {
		if r.status >= 500 && r.status != http.StatusBadGateway {
			w.report(r.operation+" fails", "%s: %s: %d %s", when, r.request, r.status, r.raw)
		}
		for _, word := range words {
			if strings.Contains(strings.ReplaceAll(string(r.raw), "org.example."+word, ""), word) {
				w.report(r.operation+" gives another server an expired message", "%s: %s: %.1500s", when, r.request, around(r.raw, word))
			}
		}
	}
}

// words returns the words that no response may contain now, of any server and of the first one.
func (w *fadingWorld) words() (everywhere []string, here string) {
	half := "a"
	if w.passed(horizon) {
		half = ""
	}
	return []string{goneEverywhere + half, heldWord + half, takenBack}, goneHere + half
}

func containsAny(text string, words []string) bool {
	return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(text, word) })
}

func (w *fadingWorld) passed(d time.Duration) bool { return w.hs1.Now().Sub(w.begun) >= d }

func (w *fadingWorld) goneFor(rooms []*fadingRoom) map[string]bool {
	out := map[string]bool{}
	for _, r := range rooms {
		events := r.events
		if r == w.calm {
			continue
		}
		if !w.passed(horizon) {
			events = events[:r.first]
		}
		for _, event := range events {
			out[event] = true
		}
	}
	return out
}

// unread fails the test if rooms in which everything has expired are unread.
func (w *fadingWorld) unread(when string) {
	w.Helper()
	for _, c := range []*testserver.Client{w.alice, w.bob, w.admin} {
		answer := c.Do("GET", "/v3/sync", nil)
		sliding := c.Do("POST", "/unstable/org.matrix.simplified_msc3575/sync", json.RawMessage(crawlBodies["slidingSyncUnstable"][0]))
		for _, r := range w.rooms {
			notify, highlight := get(answer, "rooms", "join", r.id, "unread_notifications", "notification_count"), get(answer, "rooms", "join", r.id, "unread_notifications", "highlight_count")
			slid := get(sliding, "rooms", r.id, "notification_count")
			if notify != 0.0 || highlight != 0.0 || slid != nil && slid != 0.0 {
				w.Errorf("%s: %s has %v and %v unread messages in %s, in sliding sync %v", when, c.User, notify, highlight, r.id, slid)
			}
		}
	}
}

// state returns the state of every room, by room.
func (w *fadingWorld) state(c *testserver.Client) map[string]string {
	out := map[string]string{}
	for _, r := range append(slices.Clone(w.rooms), w.calm) {
		_, _, raw := c.Raw("GET", "/v3/rooms/"+url.PathEscape(r.id)+"/state", nil)
		var events []struct {
			ID string `json:"event_id"`
		}
		if err := json.Unmarshal(raw, &events); err != nil {
			w.Fatalf("%v: %s", err, raw)
		}
		var ids []string
		for _, e := range events {
			ids = append(ids, e.ID)
		}
		slices.Sort(ids)
		out[r.id] = strings.Join(ids, " ")
	}
	return out
}

// whole fails the test if anything is missing that stays.
func (w *fadingWorld) whole(when string, c *testserver.Client) {
	w.Helper()
	for _, r := range append(slices.Clone(w.rooms), w.calm) {
		var page obj
		w.eventually("the room's history arrives", func() bool {
			page = c.Do("GET", "/v3/rooms/"+url.PathEscape(r.id)+"/messages?dir=b&limit=1000", nil)
			return len(list(page, "chunk")) > 0
		})
		found := map[string]bool{}
		for _, e := range list(page, "chunk") {
			found[fmt.Sprint(get(e, "event_id"))] = true
		}
		for _, event := range r.living {
			if !found[event] {
				w.Errorf("%s: %s is missing for %s in %s", when, event, c.User, r.id)
			}
		}
	}
}

// stored fails the test if the search through the files would not find the messages before they are purged. On
// PostgreSQL, it fails the test if they are there, since they are encrypted.
func (w *fadingWorld) stored() {
	w.Helper()
	if w.postgres {
		w.encrypted()
		return
	}
	if len(w.hs1.FilesWith(goneEverywhere)) == 0 || len(w.hs1.FilesWith(goneHere)) == 0 || len(w.hs1.FilesWith(erasedWord)) == 0 {
		w.Fatal("the files do not contain the messages in the first place")
	}
}

// onDisk fails the test if a file of a server contains a word.
func (w *fadingWorld) onDisk(s *testserver.Server, words ...string) {
	w.Helper()
	for _, word := range words {
		files := s.FilesWith(word)
		if w.postgres {
			files = append(files, w.postgresFiles(word)...)
		}
		if len(files) != 0 {
			w.Errorf("after the purge %v of %s contain an expired message (%s)", files, s.Name(), word)
		}
	}
}

// anchor sends a message that stays to every room.
func (w *fadingWorld) anchor() {
	for _, r := range w.rooms {
		w.n++
		r.living = append(r.living, w.alice.Do("PUT", fmt.Sprintf("/v3/rooms/%s/send/m.room.message/%s-%d", url.PathEscape(r.id), stays, w.n), obj{"msgtype": "m.text", "body": stays})["event_id"].(string))
	}
}

func (w *fadingWorld) purge() {
	w.Helper()
	for _, s := range []*testserver.Server{w.hs1, w.hs2} {
		var args json.RawMessage
		if w.postgres { // the keys of rooms in which something stays are otherwise destroyed within a day
			args = json.RawMessage(`{"all":true}`)
		}
		if _, err := s.Control(w.Context(), "purge now", args); err != nil {
			w.Fatal(err)
		}
	}
}

// live performs the random actions, with a restart and a search index that has been written to disk, and ends with
// messages that wait for a server that is away.
func (w *fadingWorld) live() {
	w.Helper()
	for _, w.half = range []string{"a", "b"} {
		for range 45 {
			w.act()
		}
		w.takeBack()
		w.vanish()
		if err := w.hs1.SearchIndex().Flush(w.Context()); err != nil {
			w.Fatal(err)
		}
		w.restart()
		w.settle()
		if w.half == "a" {
			w.files()
			for _, r := range append(slices.Clone(w.rooms), w.calm) {
				r.first, r.firstLiving = len(r.events), len(r.living)
			}
			w.until(secondHalf)
		}
	}
	w.before()
	w.originals()
	w.recordKeys()
	w.net.Cut("hs1.test", "hs2.test")
	for _, r := range w.rooms {
		w.send(w.alice, r, "m.room.message", obj{"msgtype": "m.text", "body": w.text(w.alice, r)})
	}
	w.until(halfway)
	w.destroy()
	w.hidden("at halfway", w.alice, w.carol)
}

// tap records what servers send one another.
func (w *fadingWorld) tap() (sent func() []string) {
	var mu sync.Mutex
	var all []string
	w.net.Intercept(func(rw http.ResponseWriter, r *http.Request, _ string, next http.Handler) {
		raw, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(raw)))
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		mu.Lock()
		all = append(all, r.URL.Path+" "+string(raw)+" → "+rec.Body.String())
		mu.Unlock()
		for k, v := range rec.Header() {
			rw.Header()[k] = v
		}
		rw.WriteHeader(rec.Code)
		_, _ = rw.Write(rec.Body.Bytes())
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// crawlMustShow lists the operations that show messages. Each must do so in the crawl before the messages expire, since
// otherwise the crawl afterwards proves nothing.
var crawlMustShow = strings.Fields(`sync getRoomEvents getEventContext getOneRoomEvent getOneEvent peekEvents initialSync roomInitialSync
	getRelatingEvents getThreadRoots search slidingSync slidingSyncUnstable backfillRoom getMissingPreviousEvents getEvent`)

// TestExpiredMessagesAreNowhere lets random messages on federating servers expire. Then no operation that reads shows
// them, no client has unread messages, and no server, application service or push gateway is sent them. After a purge,
// no file contains them, while everything else is as before. What legal holds cover stays on disk until they are
// lifted, and what was redacted, or has destroyed itself, until its time is over. All that a user has sent about whom
// everything was erased is gone too, in a room without a policy.
func TestExpiredMessagesAreNowhere(t *testing.T) { messagesExpire(t, false) }

// TestExpiredMessagesAreNowhereOnPostgreSQL is the same with databases on PostgreSQL. Their tables, indexes and logs
// never contain the messages in plain text, and the purge destroys the keys under which they are encrypted there.
func TestExpiredMessagesAreNowhereOnPostgreSQL(t *testing.T) { messagesExpire(t, true) }

func messagesExpire(t *testing.T, postgres bool) {
	t.Helper()
	seeds := uint64(1)
	if os.Getenv("EBB_TEST_LONG") != "" {
		seeds = 12
	}
	shown, succeeded := map[string]bool{}, map[string]bool{}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w := newFadingWorld(t, seed, postgres)
			w.shown, w.succeeded = shown, succeeded
			w.expire()
		})
	}
	if len(succeeded) == 0 {
		return // every world was skipped or failed at once
	}
	for operation, path := range crawlReads {
		if !succeeded[operation] && !crawlNoEvents.MatchString(path) {
			t.Errorf("%s (%s) never succeeds: the crawl does not know how to call it", operation, path)
		}
	}
	for _, operation := range crawlMustShow {
		if !shown[operation] {
			t.Errorf("%s shows no message before it expires: the crawl proves nothing", operation)
		}
	}
}

// expire lets the messages of a world expire and looks for them everywhere.
func (w *fadingWorld) expire() {
	w.Helper()
	w.live()
	w.stored()
	w.erase()
	state := w.state(w.alice)

	w.until(horizon)
	sent := w.tap()
	w.unread("after the horizon")
	w.hidden("after the horizon", w.alice, w.bob, w.admin, w.carol)
	w.outside.open.Store(true)
	w.net.Heal()
	w.anchor()
	w.arrives()

	w.purge()
	w.onDisk(w.hs1, goneEverywhere, goneHere, takenBack, erasedWord)
	w.onDisk(w.hs2, goneEverywhere, heldWord, takenBack, erasedWord)
	w.preserved("after the purge")
	w.keysGone()
	w.hidden("after the purge", w.alice, w.carol)
	w.whole("after the purge", w.alice)
	if now := w.state(w.alice); !slices.Equal(valuesOf(now), valuesOf(state)) {
		w.Errorf("the state has changed: %v, was %v", now, state)
	}
	w.join()
	w.restart()
	w.hidden("after a restart", w.alice)
	w.whole("after a restart", w.bob)
	w.preserved("after a restart")
	w.lift()
	w.whole("after the legal holds were lifted", w.alice)
	w.outsidersSaw(sent())
}

// eventuallyAfterPauses is eventually for what may first be tried again after a pause: it advances the clocks. On a
// busy machine, it takes a while until they have advanced far enough.
func (w *fadingWorld) eventuallyAfterPauses(what string, f func() bool) {
	w.Helper()
	attempt := 0
	eventually(w.T, 2*time.Minute, what, func() bool {
		if attempt++; attempt%50 == 0 && attempt < 1200 {
			w.wait(30 * time.Second)
		}
		return f()
	})
}

// arrives waits until the other server has received what stays, and the redactions of the erased user.
func (w *fadingWorld) arrives() {
	w.Helper()
	w.eventuallyAfterPauses("the other server receives what stays", func() bool {
		for _, r := range w.rooms {
			_, _, raw := w.carol.Raw("GET", "/v3/rooms/"+url.PathEscape(r.id)+"/event/"+url.PathEscape(r.living[0]), nil)
			if !strings.Contains(string(raw), stays) {
				return false
			}
		}
		_, _, raw := w.carol.Raw("GET", "/v3/rooms/"+url.PathEscape(w.calm.id)+"/messages?dir=b&limit=1000", nil)
		return !strings.Contains(string(raw), erasedWord)
	})
	w.erased["hs2.test"] = true
}

// join lets a user of a third server join the public rooms, and read what stays.
func (w *fadingWorld) join() {
	w.Helper()
	third := w.net.Servers[2]
	dave := third.Register("dave")
	for _, r := range w.rooms {
		if r.private {
			continue
		}
		dave.Do("POST", "/v3/join/"+url.PathEscape(r.id)+"?server_name=hs1.test", obj{})
		dave.Do("GET", "/v3/rooms/"+url.PathEscape(r.id)+"/messages?dir=b&limit=100", nil)
		event := tell(dave, r.id, stays)
		w.eventually("the message of the new server arrives", func() bool {
			status, _, _ := w.alice.Raw("GET", "/v3/rooms/"+url.PathEscape(r.id)+"/event/"+url.PathEscape(event), nil)
			return status == http.StatusOK
		})
		r.living = append(r.living, event)
	}
	w.onDisk(third, goneEverywhere, erasedWord) // the second server has what is gone on the first one, and may give it away
}

// outsidersSaw fails the test if a server, an application service or a push gateway was sent an expired message.
func (w *fadingWorld) outsidersSaw(servers []string) {
	w.Helper()
	w.eventuallyAfterPauses("the application service and the gateway receive what stays", func() bool {
		all := strings.Join(w.outside.received(), "\n")
		return strings.Contains(all, "/transactions/") && strings.Contains(all, "/notify") && strings.Contains(all, stays)
	})
	for _, text := range w.outside.received() {
		_, body, _ := strings.Cut(text, " ")
		if containsAny(text, []string{goneEverywhere, goneHere, heldWord, takenBack, erasedWord}) || len(mentions([]byte(body), w.gone)) > 0 {
			w.Errorf("an application service or a gateway was sent an expired message: %.3000s", text)
		}
	}
	for _, text := range servers {
		text = strings.NewReplacer("org.example."+goneEverywhere, "", "org.example."+heldWord, "").Replace(text)
		if containsAny(text, []string{goneEverywhere, heldWord, takenBack, erasedWord}) {
			w.Errorf("a server was sent an expired message: %.3000s", text)
		}
	}
}

func valuesOf(m map[string]string) (out []string) {
	for _, v := range m {
		out = append(out, v)
	}
	slices.Sort(out)
	return out
}
