package feed_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// stick sends a message that is sticky for a time.
func (u *user) stick(room id.RoomID, text string, d time.Duration) id.EventID {
	u.w.t.Helper()
	body, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	ms := d.Milliseconds()
	eventID, err := u.w.Send(u.w.t.Context(), rooms.NewEvent{Room: room, Sender: u.Requester, Type: "m.room.message", Content: body, StickyMS: &ms})
	u.must(err)
	return eventID
}

// stuck is an answer's sticky events by room, as clients read it.
func (a answer) stuck(t testing.TB, room id.RoomID) (events []ev) {
	t.Helper()
	var x struct {
		Rooms struct {
			Join map[id.RoomID]struct {
				Sticky *list `json:"msc4354_sticky"`
			} `json:"join"`
		} `json:"rooms"`
	}
	if err := json.Unmarshal([]byte(a.raw), &x); err != nil {
		t.Fatal(err)
	}
	if l := x.Rooms.Join[room].Sticky; l != nil {
		if events = l.Events; len(events) == 0 {
			t.Errorf("an empty section: %s", a.raw)
		}
	}
	return events
}

// ttl returns for how many milliseconds the client is told that an event is sticky, -1 for not at all.
func (e ev) ttl(t testing.TB) int64 {
	t.Helper()
	var unsigned struct {
		TTL *int64 `json:"msc4354_sticky_duration_ttl_ms"`
	}
	if err := json.Unmarshal(e.Unsigned, &unsigned); err != nil {
		t.Fatal(err)
	}
	if unsigned.TTL == nil {
		return -1
	}
	return *unsigned.TTL
}

func want(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) && len(got)+len(want) > 0 {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

const shortTimeline = `{"room":{"timeline":{"limit":1}}}`

func TestStickyEventsReachClientsPastTheEndOfTheTimeline(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	bob.filter = shortTimeline
	bob.sync()
	alice.stick(room, "old", 10*time.Minute)
	a := bob.sync()
	want(t, "a sticky event in the timeline is", bodies(a.Rooms.Join[room].Timeline.Events), "old")
	want(t, "and not sent twice", bodies(a.stuck(t, room)))
	if ttl := a.Rooms.Join[room].Timeline.Events[0].ttl(t); ttl != 600_000 {
		t.Errorf("its time is %d ms", ttl)
	}
	alice.stick(room, "sticky", 10*time.Minute)
	alice.say(room, "gone")
	alice.stick(room, "short", time.Minute)
	alice.say(room, "newest")
	w.pass(30 * time.Second)
	before := bob.since
	a = bob.sync()
	want(t, "after a gap the timeline is", bodies(a.Rooms.Join[room].Timeline.Events), "newest")
	want(t, "and sticky are", bodies(a.stuck(t, room)), "sticky", "short")
	if first, second := a.stuck(t, room)[0].ttl(t), a.stuck(t, room)[1].ttl(t); first != 570_000 || second != 30_000 {
		t.Errorf("the times are %d and %d ms", first, second)
	}
	if !strings.Contains(a.raw, `"msc4354_sticky":{"duration_ms":600000}`) || strings.Contains(a.raw, `"msc4354_sticky":{"events":[]`) {
		t.Errorf("the answer is %s", a.raw)
	}
	if a := bob.sync(); len(a.Rooms.Join) != 0 {
		t.Errorf("nothing happened, but: %s", a.raw)
	}
	w.pass(31 * time.Second)
	want(t, "a minute later sticky are", bodies(bob.syncFrom(before).stuck(t, room)), "sticky")
	want(t, "in a first answer", bodies(bob.syncFrom("").stuck(t, room)), "old", "sticky")
	w.pass(time.Hour)
	want(t, "an hour later", bodies(bob.syncFrom(before).stuck(t, room)))
	want(t, "and in a first answer", bodies(bob.syncFrom("").stuck(t, room)))
}

func TestStickyEventsThatAFilterTakesOutOfTheTimelineAreSent(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	bob.filter = `{"room":{"timeline":{"types":["m.room.name"]},"state":{"types":[],"lazy_load_members":true}}}`
	bob.sync()
	alice.stick(room, "sticky", time.Minute)
	want(t, "filtered out are", bodies(bob.sync().stuck(t, room)), "sticky")
	bob.filter = `{"room":{"timeline":{"not_rooms":["` + string(room) + `"]}}}`
	alice.stick(room, "other", time.Minute)
	want(t, "in a room without timeline", bodies(bob.sync().stuck(t, room)), "other")
	bob.filter = `{"room":{"not_rooms":["` + string(room) + `"]}}`
	alice.stick(room, "unwanted", time.Minute)
	if a := bob.sync(); strings.Contains(a.raw, "unwanted") {
		t.Errorf("a room that the filter excludes: %s", a.raw)
	}
	bob.filter = `{"event_fields":["content.body"],"room":{"timeline":{"limit":0}}}`
	if a := bob.syncFrom(""); !strings.Contains(a.raw, `"msc4354_sticky":{"events":[{"content":{"body":"sticky"}},{"content":{"body":"other"}},`) {
		t.Errorf("some members only: %s", a.raw)
	}
	bob.filter = `{"event_format":"federation","room":{"timeline":{"limit":0}}}`
	if a := bob.syncFrom(""); len(a.stuck(t, room)) != 3 || !strings.Contains(a.raw, `"prev_events"`) {
		t.Errorf("the federation format: %s", a.raw)
	}
}

// With lazy loading, a client needs the member events of those who sent what it shows.
func TestSendersOfStickyEventsAreKnown(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	bob.stick(room, "sticky", time.Minute)
	for range 3 {
		alice.say(room, "more")
	}
	carol := w.user("carol")
	carol.join(room)
	carol.filter = `{"room":{"timeline":{"limit":1},"state":{"lazy_load_members":true}}}`
	a := carol.sync()
	want(t, "sticky are", bodies(a.stuck(t, room)), "sticky")
	if !slices.Contains(a.Rooms.Join[room].State.of("m.room.member"), "@bob join") {
		t.Errorf("the state has %v", a.Rooms.Join[room].State.of("m.room.member"))
	}
}

func TestWhoJoinsGetsStickyEventsWhateverTheHistoryVisibility(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	alice.send(room, "m.room.history_visibility", `{"history_visibility":"joined"}`, "")
	sticky := alice.stick(room, "sticky", time.Minute)
	alice.say(room, "secret")
	bob.filter = shortTimeline
	c := bob.sliding(stickyRooms)
	bob.sync()
	c.next()
	bob.join(room)
	a := bob.sync()
	want(t, "a member who joined gets", bodies(a.stuck(t, room)), "sticky")
	s := c.next()
	want(t, "and by sliding sync", bodies(s.stuck(t, room).Events), "sticky")
	if strings.Contains(a.raw+s.raw, "secret") {
		t.Errorf("an event from before the join: %s %s", a.raw, s.raw)
	}
	if _, err := w.history.GetEvent(t.Context(), room, sticky, bob.Requester); err != nil {
		t.Errorf("the event itself: %v", err)
	}
	w.pass(time.Minute)
	if _, err := w.history.GetEvent(t.Context(), room, sticky, bob.Requester); err == nil {
		t.Error("an event that is not sticky any more is shown to a member who joined later")
	}
	carol := w.user("carol")
	carol.join(room)
	want(t, "after that", bodies(carol.sync().stuck(t, room)))
	alice.stick(room, "for members", time.Minute)
	dora := w.user("dora")
	if _, err := w.history.GetEvent(t.Context(), room, sticky, dora.Requester); err == nil {
		t.Error("somebody who is not in the room sees a sticky event")
	}
	bob.leave(room)
	alice.stick(room, "too late", time.Minute)
	if a := bob.sync(); strings.Contains(a.raw, "too late") {
		t.Errorf("who left gets %s", a.raw)
	}
}

func TestIgnoredRedactedAndExpiredStickyEventsAreNotSent(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	w.pass(time.Second)
	alice.stick(room, "kept", time.Hour)
	redacted := alice.stick(room, "redacted", time.Hour)
	mallory := w.user("mallory")
	mallory.join(room)
	mallory.stick(room, "ignored", time.Hour)
	_, err := w.Redact(t.Context(), alice.Requester, room, redacted, "", nil)
	alice.must(err)
	bob.accountData("", "m.ignored_user_list", `{"ignored_users":{"@mallory:test.example":{}}}`)
	bob.filter = shortTimeline
	want(t, "sticky are", bodies(bob.sync().stuck(t, room)), "kept")
	c := bob.sliding(stickyRooms)
	want(t, "and by sliding sync", bodies(c.next().stuck(t, room).Events), "kept")
	alice.send(room, "m.room.retention", `{"max_lifetime":60000}`, "")
	w.pass(2 * time.Minute)
	want(t, "after their lifetime in the room", bodies(bob.syncFrom("").stuck(t, room)))
	want(t, "and by sliding sync", bodies(bob.sliding(strings.Replace(stickyRooms, "{", `{"conn_id":"x",`, 1)).next().stuck(t, room).Events))
}

// More sticky events than one answer holds come with the next ones, also across a restart, and none is lost.
func TestManyStickyEventsComeInSeveralAnswers(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol := w.user("alice"), w.user("bob"), w.user("carol")
	var wanted []string
	var all []id.RoomID
	for r := range 3 {
		room := alice.create("public_chat")
		all = append(all, room)
		bob.join(room)
		carol.join(room)
		for n := range 90 {
			sender := alice
			if n%2 == 1 {
				sender = carol
			}
			text := fmt.Sprint(r, " ", n)
			sender.stick(room, text, time.Hour)
			wanted = append(wanted, text)
		}
		alice.say(room, "newest")
	}
	bob.filter = `{"room":{"timeline":{"limit":1}}}`
	var got []string
	for i := range 4 {
		a := bob.sync()
		page := 0
		for _, room := range all {
			list := bodies(a.stuck(t, room))
			got, page = append(got, list...), page+len(list)
		}
		if i < 2 && page != 100 || i == 2 && page != 70 || i == 3 && page != 0 {
			t.Errorf("answer %d has %d sticky events", i, page)
		}
		if i == 0 {
			w.restart()
		}
	}
	want(t, "in all there were", got, wanted...)
}

func TestALongPollIsWokenByAStickyEvent(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	bob.filter = `{"room":{"timeline":{"types":[]},"state":{"types":[]}}}`
	bob.sync()
	p := bob.park()
	alice.stick(room, "sticky", time.Minute)
	want(t, "woken by", bodies(p.wait().stuck(t, room)), "sticky")
}

func TestStickyEventsSurviveARestart(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	bob.filter = shortTimeline
	bob.sync()
	alice.stick(room, "sticky", 10*time.Minute)
	alice.stick(room, "short", time.Minute)
	alice.say(room, "newest")
	w.restart()
	w.pass(time.Minute)
	want(t, "after a restart", bodies(bob.sync().stuck(t, room)), "sticky")
}

func TestWhatIsNotStickyAnyMoreIsForgotten(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	alice.stick(room, "short", time.Minute)
	alice.stick(room, "long", time.Hour)
	rows := func() (n int) {
		err := w.db.Read(t.Context(), func(tx *storage.Tx) error {
			list, err := tx.StickyEvents([]ident.RoomNID{w.room(room).NID()}, 0, 1<<60, 0, 99)
			n = len(list)
			return err
		})
		alice.must(err)
		return n
	}
	w.pass(time.Minute)
	alice.must(w.PruneSticky(t.Context()))
	if n := rows(); n != 1 || !w.Sticky().Any() {
		t.Errorf("after a minute %d rows are left", n)
	}
	w.pass(time.Hour)
	alice.must(w.PruneSticky(t.Context()))
	if n := rows(); n != 0 || w.Sticky().Any() {
		t.Errorf("after an hour %d rows are left", n)
	}
}

// room returns a room.
func (w *world) room(room id.RoomID) *rooms.Room {
	w.t.Helper()
	r, err := w.Room(w.t.Context(), room)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// stuckRooms is the extension of sticky events in an answer of sliding sync.
type stuckRooms struct {
	NextBatch string             `json:"next_batch"`
	Rooms     map[id.RoomID]list `json:"rooms"`
	there     bool
}

func (a slid) sticky(t testing.TB) (x stuckRooms) {
	t.Helper()
	var all struct {
		Extensions struct {
			Sticky *stuckRooms `json:"org.matrix.msc4354.sticky_events"`
		} `json:"extensions"`
	}
	if err := json.Unmarshal([]byte(a.raw), &all); err != nil {
		t.Fatal(err)
	}
	if s := all.Extensions.Sticky; s != nil {
		x, x.there = *s, true
	}
	return x
}

func (a slid) stuck(t testing.TB, room id.RoomID) list { return a.sticky(t).Rooms[room] }

const stickyRooms = `{"lists":{"all":{"ranges":[[0,99]],"timeline_limit":1,"required_state":[]}},"extensions":{"org.matrix.msc4354.sticky_events":{"enabled":true}}}`

// stickySince sets since of the extension, and returns the client.
func (c *sliding) stickySince(token string) *sliding {
	c.body = strings.Replace(stickyRooms, `"enabled":true`, `"enabled":true,"since":"`+token+`"`, 1)
	return c
}

func TestSlidingStickyEventsArePagedByTheirToken(t *testing.T) {
	for _, merged := range []bool{false, true} {
		t.Run(fmt.Sprint("merged ", merged), func(t *testing.T) {
			w := newWorld(t)
			alice, bob := w.user("alice"), w.user("bob")
			room := alice.create("public_chat")
			bob.join(room)
			for _, text := range []string{"one", "two", "three"} {
				alice.stick(room, text, 10*time.Minute)
			}
			alice.say(room, "newest")
			c := bob.sliding(strings.Replace(stickyRooms, `"enabled":true`, `"enabled":true,"limit":2`, 1))
			if c.merged = merged; merged {
				c.body = strings.NewReplacer(`"ranges":[[0,99]]`, `"range":[0,99]`, `"required_state":[]`, `"required_state":{}`).Replace(c.body)
			}
			a := c.next()
			want(t, "the first page is", bodies(a.stuck(t, room).Events), "one", "two")
			if ttl := a.stuck(t, room).Events[0].ttl(t); ttl != 600_000 {
				t.Errorf("the time is %d ms", ttl)
			}
			first := a.sticky(t).NextBatch
			plain := c.body
			want(t, "a lost page comes again", bodies(c.next().stuck(t, room).Events), "one", "two")
			c.body = strings.Replace(plain, `"enabled":true`, `"enabled":true,"since":"`+first+`"`, 1)
			a = c.next()
			want(t, "the second page is", bodies(a.stuck(t, room).Events), "three")
			c.body = strings.Replace(plain, `"enabled":true`, `"enabled":true,"since":"`+a.sticky(t).NextBatch+`"`, 1)
			if a := c.next(); a.sticky(t).there {
				t.Errorf("nothing happened, but: %s", a.raw)
			}
			p := c.park()
			alice.stick(room, "four", time.Minute)
			a = p.wait()
			if r := a.Rooms[room]; !slices.Equal(bodies(r.Timeline), []string{"four"}) || r.Timeline[0].ttl(t) != 60_000 || len(a.sticky(t).Rooms) != 0 {
				t.Errorf("a sticky event in the timeline: %s", a.raw)
			}
			if next := a.sticky(t).NextBatch; next == "" {
				t.Error("the token does not move on")
			}
		})
	}
}

func TestSlidingStickyEventsComeFromRoomsOutOfRange(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	far, near, other := alice.create("public_chat"), alice.create("public_chat"), alice.createTyped("m.space")
	for _, room := range []id.RoomID{far, near, other} {
		bob.join(room)
	}
	c := bob.sliding(`{"lists":{"top":{"ranges":[[0,0]],"timeline_limit":1,"required_state":[],"filters":{"not_room_types":["m.space"]}}},` +
		`"extensions":{"org.matrix.msc4354.sticky_events":{"enabled":true}}}`)
	c.next()
	alice.stick(far, "far", time.Minute)
	alice.say(near, "near")
	alice.stick(other, "other", time.Minute)
	a := c.next()
	want(t, "out of range", bodies(a.stuck(t, far).Events), "far")
	if _, shown := a.Rooms[far]; shown || strings.Contains(a.raw, `"other"`) {
		t.Errorf("rooms that are not asked for: %s", a.raw)
	}
	c.body = `{"room_subscriptions":{"` + string(other) + `":{"timeline_limit":0,"required_state":[]}},` +
		`"extensions":{"org.matrix.msc4354.sticky_events":{"enabled":true,"since":"` + a.sticky(t).NextBatch + `"}}}`
	want(t, "a room that the client subscribes to", bodies(c.next().stuck(t, other).Events), "other")
}

func TestSlidingStickyTokensAreChecked(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	alice.stick(room, "sticky", time.Minute)
	alice.say(room, "newest")
	for _, token := range []string{"", "st1_", "st1_x", "st1_5_5", "st1_5_6", "st1_-1", "st1_05", "5", "st1_5_", "st1_5_4_3", "s1_5"} {
		if _, err := alice.sliding("").stickySince(token).try("", 0); err == nil {
			t.Errorf("%q is a token", token)
		}
	}
	// From a database that was restored from an older backup.
	a := alice.sliding("").stickySince("st1_999999999999").next()
	want(t, "with a token from the future", bodies(a.stuck(t, room).Events), "sticky")
	for limit, n := range map[string]int{"-5": 1, "0": 1, "1": 1, "1000000": 1} {
		c := alice.sliding(strings.Replace(stickyRooms, `"enabled":true`, `"enabled":true,"limit":`+limit, 1))
		if got := len(c.next().stuck(t, room).Events); got != n {
			t.Errorf("with the limit %s there are %d", limit, got)
		}
	}
}
