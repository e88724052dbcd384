package feed_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/history"
	"ebb/mxerr"
)

// bodies returns the messages of a timeline.
func bodies(events []ev) []string { return list{events}.of("m.room.message") }

// window is a request for the rooms of a range.
func window(from, to int) string {
	return fmt.Sprintf(`{"lists":{"all":{"ranges":[[%d,%d]],"timeline_limit":1,"required_state":[]}}}`, from, to)
}

func TestSlidingRangeHasTheRoomsWithTheNewestEvents(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	var made []id.RoomID
	for range 5 {
		made = append(made, alice.create("public_chat"))
	}
	c := alice.sliding(window(0, 1))
	a := c.next()
	if len(a.Rooms) != 2 || a.Lists["all"].Count != 5 || !a.Rooms[made[4]].Initial || !a.Rooms[made[3]].Initial {
		t.Errorf("first: %s", a.raw)
	}
	alice.say(made[0], "up")
	if a = c.next(); len(a.Rooms) != 1 || !a.Rooms[made[0]].Initial {
		t.Errorf("the room that came into the range: %s", a.raw)
	}
	c.body = window(0, 4)
	if a = c.next(); len(a.Rooms) != 2 || !a.Rooms[made[1]].Initial || !a.Rooms[made[2]].Initial {
		t.Errorf("the wider range has rooms that were sent, or lacks some: %s", a.raw)
	}
}

func TestSlidingRoomOutOfRangeIsCaughtUpWhenItComesBack(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	first, second := alice.create("public_chat"), alice.create("public_chat")
	c := alice.sliding(strings.Replace(window(0, 1), `"timeline_limit":1`, `"timeline_limit":10`, 1))
	c.next()
	c.body = `{"room_subscriptions":{"` + string(second) + `":{"timeline_limit":10}}}`
	alice.say(first, "unseen")
	alice.send(first, "m.room.name", `{"name":"unseen"}`, "")
	if a := c.next(); len(a.Rooms) != 0 {
		t.Fatalf("a room that nothing asks for: %s", a.raw)
	}
	alice.say(second, "seen")
	c.next()
	alice.say(second, "seen too")
	c.next()
	w.restart()
	c.body = `{"room_subscriptions":{"` + string(first) + `":{"timeline_limit":10}}}`
	r := c.next().Rooms[first]
	if r.Initial || r.Name == nil || *r.Name != "unseen" {
		t.Errorf("%+v", r)
	}
	same(t, "messages", bodies(r.Timeline), []string{"unseen"})
}

func TestSlidingLostAnswerIsGivenAgain(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	c := alice.sliding(window(0, 0))
	c.next()
	other := alice.create("public_chat") // takes the place of the first
	alice.say(room, "first again")
	for range 3 {
		a := c.again()
		same(t, "messages", bodies(a.Rooms[room].Timeline), []string{"first again"})
	}
	c.body = window(0, 1)
	for i := range 3 {
		a := c.again()
		if !a.Rooms[other].Initial || len(a.Rooms) != 2 {
			t.Errorf("%d: %s", i, a.raw)
		}
	}
	w.restart()
	if a := c.next(); !a.Rooms[other].Initial || len(a.Rooms) != 2 {
		t.Errorf("after a restart: %s", a.raw)
	}
	if a := c.next(); len(a.Rooms) != 0 {
		t.Errorf("confirmed, and yet: %s", a.raw)
	}
}

func TestSlidingPosOfAnotherConnectionIsUnknown(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	alice.create("public_chat")
	c := alice.sliding(allRooms)
	old := c.next().Pos
	refused := func(what string, c *sliding, pos string) {
		t.Helper()
		if _, err := c.try(pos, 0); mxerr.Code(err) != "M_UNKNOWN_POS" {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("another user", bob.sliding(allRooms), old)
	refused("another conn_id", alice.sliding(strings.Replace(allRooms, "{", `{"conn_id":"b",`, 1)), old)
	device := *alice
	device.DeviceNID++
	refused("another device", device.sliding(allRooms), old)
	for _, pos := range []string{"x", "0", "s1_5_0_0_0_0", old + "0", "s1_999999999_p_0_0_0_1_1", strings.Replace(old, "s1_", "s1_0", 1)} {
		refused(pos, c, pos)
	}
	again := alice.sliding(allRooms)
	again.next()
	refused("a connection that was begun anew", c, old)
	again.next()
	var status int
	if _, err := c.try(old, 0); err != nil {
		status = err.(*mxerr.Error).Status
	}
	if status != http.StatusBadRequest {
		t.Errorf("status %d", status)
	}
}

func TestSlidingConnectionsOfADeviceAreBoundedAndExpire(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	alice.create("public_chat")
	var all []*sliding
	for i := range 17 {
		c := alice.sliding(strings.Replace(allRooms, "{", fmt.Sprintf(`{"conn_id":"%d",`, i), 1))
		c.next()
		w.pass(time.Second)
		all = append(all, c)
	}
	if _, err := all[0].try(all[0].pos, 0); mxerr.Code(err) != "M_UNKNOWN_POS" {
		t.Errorf("the oldest of 17: %v", err)
	}
	all[16].next()
	w.pass(29 * 24 * time.Hour)
	all[16].next()
	w.pass(2 * 24 * time.Hour)
	if _, err := all[5].try(all[5].pos, 0); mxerr.Code(err) != "M_UNKNOWN_POS" {
		t.Errorf("not used for a month: %v", err)
	}
	all[16].next()
}

// aliceWith returns a user who has said the numbers from 0 on in a room.
func (w *world) aliceWith(messages int) (*user, id.RoomID) {
	alice := w.user("alice")
	room := alice.create("public_chat")
	for i := range messages {
		alice.say(room, fmt.Sprint(i))
	}
	return alice, room
}

func TestSlidingTimelineThatGrowsHasOlderEventsAtOnce(t *testing.T) {
	w := newWorld(t)
	alice, room := w.aliceWith(5)
	c := alice.sliding(window(0, 9))
	r := c.next().Rooms[room]
	same(t, "first", bodies(r.Timeline), []string{"4"})
	if !r.Limited {
		t.Error("not limited")
	}
	c.body = strings.Replace(window(0, 9), `"timeline_limit":1`, `"timeline_limit":3`, 1)
	a, err := c.try(c.pos, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	r = a.Rooms[room]
	same(t, "grown", bodies(r.Timeline), []string{"2", "3", "4"})
	if !r.Expanded || r.Initial || !r.Limited || r.NumLive != 0 {
		t.Errorf("%s", a.raw)
	}
	c.pos = a.Pos
	if a := c.next(); len(a.Rooms) != 0 {
		t.Errorf("once is enough: %s", a.raw)
	}
	c.body = window(0, 9)
	c.next()
	c.body = strings.Replace(window(0, 9), `"timeline_limit":1`, `"timeline_limit":3`, 1)
	if a := c.next(); len(a.Rooms) != 0 {
		t.Errorf("the client has these events: %s", a.raw)
	}
	c.body = window(0, 9)
	for i := range 5 {
		alice.say(room, fmt.Sprint("new ", i))
	}
	same(t, "gap", bodies(c.next().Rooms[room].Timeline), []string{"new 4"})
	c.body = strings.Replace(window(0, 9), `"timeline_limit":1`, `"timeline_limit":3`, 1)
	if r := c.next().Rooms[room]; !r.Expanded || len(r.Timeline) != 3 {
		t.Errorf("the client lacks events: %+v", r)
	}
}

func TestSlidingTimelineThatIsCompleteIsNotSentAgainWhenTheLimitGrows(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	all := func(limit string) string {
		return strings.Replace(window(0, 9), `"timeline_limit":1`, `"timeline_limit":`+limit, 1)
	}
	c := alice.sliding(all("50"))
	if r := c.next().Rooms[room]; r.Limited {
		t.Fatalf("the room has more than 50 events: %+v", r)
	}
	c.body = all("100")
	if a := c.next(); len(a.Rooms) != 0 {
		t.Errorf("the client has every event: %s", a.raw)
	}
	alice.say(room, "new")
	if r := c.next().Rooms[room]; r.Expanded || len(r.Timeline) != 1 {
		t.Errorf("one event is new: %+v", r)
	}
	d := alice.sliding(strings.Replace(all("1"), "{", `{"conn_id":"d",`, 1))
	d.next()
	d.body = strings.Replace(all("50"), "{", `{"conn_id":"d",`, 1)
	if r := d.next().Rooms[room]; !r.Expanded || r.Limited {
		t.Errorf("the client lacks events: %+v", r)
	}
	d.body = strings.Replace(all("100"), "{", `{"conn_id":"d",`, 1)
	if a := d.next(); len(a.Rooms) != 0 {
		t.Errorf("the client has every event now: %s", a.raw)
	}
}

func TestSlidingPrevBatchAndPosLeadToOlderMessages(t *testing.T) {
	w := newWorld(t)
	alice, room := w.aliceWith(4)
	c := alice.sliding(window(0, 9))
	a := c.next()
	alice.say(room, "later")
	for token, want := range map[string]string{a.Rooms[room].PrevBatch: `"body":"2"`, a.Pos: `"body":"3"`} {
		page, err := w.history.Messages(t.Context(), room, alice.Requester, history.PageRequest{From: token, Backwards: true, Limit: 1})
		if err != nil || len(page.Chunk) != 1 || !strings.Contains(string(page.Chunk[0]), want) {
			t.Errorf("%s: %s, %v", token, page.Chunk, err)
		}
	}
}

func TestSlidingInviteHasStrippedStateAndTheJoinedRoomIsNew(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	c, v4 := bob.sliding(allRooms), bob.sliding(`{"conn_id":"4","lists":{"all":{"timeline_limit":10,"required_state":{}}}}`)
	v4.merged = true
	c.next()
	v4.next()
	room := alice.create("private_chat")
	alice.send(room, "m.room.name", `{"name":"Secret"}`, "")
	alice.invite(room, bob)
	a := c.next()
	r := a.Rooms[room]
	if !r.Initial || len(r.Timeline)+len(r.State) > 0 || r.Name != nil || r.Joined != nil || a.Lists["all"].Count != 1 {
		t.Errorf("invite: %s", a.raw)
	}
	if got := (list{r.InviteState}); !slices.Equal(got.of("m.room.name"), []string{"Secret"}) || !slices.Contains(got.of("m.room.member"), "@bob invite") {
		t.Errorf("stripped state: %s", a.raw)
	}
	if r := v4.next().Rooms[room]; r.Membership != "invite" || !slices.Equal(r.Lists, []string{"all"}) || len(r.Stripped) != len(a.Rooms[room].InviteState) || r.InviteState != nil {
		t.Errorf("merged form: %+v", r)
	}
	if a := c.next(); len(a.Rooms) != 0 {
		t.Errorf("once is enough: %s", a.raw)
	}
	bob.join(room)
	if r := c.next().Rooms[room]; !r.Initial || r.Name == nil || *r.Name != "Secret" || *r.Joined != 2 {
		t.Errorf("joined: %+v", r)
	}
	if r := v4.next().Rooms[room]; r.Membership != "join" || !r.Initial {
		t.Errorf("merged form: %+v", r)
	}
}

func TestSlidingRejectedAndRevokedInvitesEnd(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	c, v4 := bob.sliding(allRooms), bob.sliding(`{"conn_id":"4","lists":{"all":{"timeline_limit":10,"required_state":{}}}}`)
	v4.merged = true
	c.next()
	v4.next()
	one, two := alice.create("private_chat"), alice.create("private_chat")
	alice.invite(one, bob)
	alice.invite(two, bob)
	c.next()
	v4.next()
	bob.leave(one)
	alice.kick(two, bob)
	merged := v4.next()
	for _, room := range []id.RoomID{one, two} {
		r := merged.Rooms[room]
		if got := (list{r.Stripped}).of("m.room.member"); r.Membership != "leave" || !slices.Equal(got, []string{"@bob leave"}) || len(r.State)+len(r.Timeline) > 0 {
			t.Errorf("merged form, of a room that the user was never in: %s", merged.raw)
		}
	}
	if a := v4.next(); len(a.Rooms) != 0 {
		t.Errorf("merged form, once is enough: %s", a.raw)
	}
	a := c.next()
	for _, room := range []id.RoomID{one, two} {
		r := a.Rooms[room]
		if got := (list{r.State}).of("m.room.member"); !slices.Equal(got, []string{"@bob leave"}) {
			t.Errorf("state %v", got)
		}
		if got := (list{r.Timeline}).of("m.room.member"); !slices.Equal(got, []string{"@bob leave"}) || len(r.Timeline) != 1 {
			t.Errorf("timeline %v", got)
		}
	}
	if a := c.next(); len(a.Rooms) != 0 || a.Lists["all"].Count != 0 {
		t.Errorf("they are over: %s", a.raw)
	}
	if a := bob.sliding(allRooms).next(); len(a.Rooms) != 0 {
		t.Errorf("a new connection has rooms that the user was never in: %s", a.raw)
	}
}

func TestSlidingKickIsShownAndNothingAfterIt(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	c := bob.sliding(allRooms)
	c.next()
	alice.say(room, "before")
	alice.kick(room, bob)
	alice.say(room, "after")
	alice.send(room, "m.room.name", `{"name":"after"}`, "")
	a := c.next()
	r := a.Rooms[room]
	same(t, "messages", bodies(r.Timeline), []string{"before"})
	if got := (list{r.State}).of("m.room.member"); !slices.Contains(got, "@bob leave") || strings.Contains(a.raw, "after") || r.Initial {
		t.Errorf("%s", a.raw)
	}
	alice.say(room, "later")
	if a := c.next(); len(a.Rooms) != 0 {
		t.Errorf("a leak: %s", a.raw)
	}
	fresh := bob.sliding(strings.Replace(allRooms, "{", `{"conn_id":"fresh",`, 1)).next()
	r = fresh.Rooms[room]
	if fresh.Lists["all"].Count != 1 || !r.Initial || strings.Contains(fresh.raw, "after") || !slices.Contains(bodies(r.Timeline), "before") {
		t.Errorf("a kick on a new connection: %s", fresh.raw)
	}
	w.forget(bob, room)
	if a := c.next(); a.Lists["all"].Count != 0 || len(a.Rooms) != 0 {
		t.Errorf("forgotten, but still in the list: %s", a.raw)
	}
	bob.join(room)
	if r := c.next().Rooms[room]; !r.Initial || r.Name == nil {
		t.Errorf("back: %+v", r)
	}
}

func TestSlidingRoomThatTheUserLeftIsShownOnlyToWhoHasIt(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room, banned := alice.create("public_chat"), alice.create("public_chat")
	bob.join(room)
	c := bob.sliding(allRooms)
	v4 := bob.sliding(`{"conn_id":"4","lists":{"all":{"timeline_limit":10,"required_state":{}}}}`)
	v4.merged = true
	c.next()
	v4.next()
	bob.leave(room)
	alice.ban(banned, bob)
	alice.say(room, "after")
	for _, c := range []*sliding{c, v4} {
		a := c.next()
		if r := a.Rooms[room]; !slices.Contains(list{r.State}.of("m.room.member"), "@bob leave") || strings.Contains(a.raw, "after") || len(a.Rooms) != 1 {
			t.Errorf("left: %s", a.raw)
		}
	}
	if a := c.next(); a.Lists["all"].Count != 0 || len(a.Rooms) != 0 {
		t.Errorf("deployed: %s", a.raw)
	}
	if a := v4.next(); a.Lists["all"].Count != 1 || len(a.Rooms) != 0 {
		t.Errorf("merged: %s", a.raw)
	}
	if a := bob.sliding(strings.Replace(allRooms, "{", `{"conn_id":"fresh",`, 1)).next(); len(a.Rooms) != 0 {
		t.Errorf("fresh: %s", a.raw)
	}
}

func TestSlidingRoomKeepsItsNameWhenARemovedUserIsBannedOrUnbanned(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	alice.send(room, "m.room.name", `{"name":"Harbour"}`, "")
	bob.join(room)
	c := bob.sliding(`{"lists":{"all":{"ranges":[[0,9]],"timeline_limit":10,"required_state":[["m.room.name",""],["m.room.member","$ME"]]}}}`)
	v4 := bob.sliding(`{"conn_id":"4","lists":{"all":{"timeline_limit":10,"required_state":{}}}}`)
	v4.merged = true
	c.next()
	v4.next()
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() { alice.kick(room, bob) }, "@bob leave"},
		{func() { alice.ban(room, bob) }, "@bob ban"},
		{func() { alice.must(w.Unban(t.Context(), alice.Requester, room, bob.UserID, "")) }, "@bob leave"},
	} {
		step.do()
		alice.send(room, "m.room.name", `{"name":"secret"}`, "")
		for _, c := range []*sliding{c, v4} {
			a := c.next()
			r := a.Rooms[room]
			if members := (list{r.Timeline}).of("m.room.member"); len(members) == 0 || members[len(members)-1] != step.want {
				t.Errorf("want %s in %s", step.want, a.raw)
			}
			if r.Initial && (r.Name == nil || *r.Name != "Harbour") || strings.Contains(a.raw, "secret") || r.NumLive != 1 {
				t.Errorf("after %s: %s", step.want, a.raw)
			}
			if again := c.next(); len(again.Rooms) != 0 {
				t.Errorf("again: %s", again.raw)
			}
		}
	}
}

func TestSlidingSubscriptionShowsNothingOfARoomThatTheUserIsNotIn(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	c := bob.sliding(`{"room_subscriptions":{"` + string(room) + `":{"timeline_limit":10,"required_state":[["*","*"]]},"!none:test":{"timeline_limit":1},"x":{"timeline_limit":1}}}`)
	if a := c.next(); len(a.Rooms) != 0 {
		t.Errorf("%s", a.raw)
	}
	bob.join(room)
	if a := c.next(); !a.Rooms[room].Initial {
		t.Errorf("%s", a.raw)
	}
}

func TestSlidingLongPollIsWokenByARoomInRangeOnly(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	in, out := alice.create("public_chat"), alice.create("public_chat")
	c := alice.sliding(`{"room_subscriptions":{"` + string(in) + `":{"timeline_limit":10}},"extensions":{"typing":{"enabled":true}}}`)
	c.next()
	p := c.park()
	alice.say(out, "unseen")
	select {
	case <-p.done:
		t.Fatalf("woken by a room that nothing asks for: %s %v", p.raw.raw, p.err)
	case <-time.After(20 * time.Millisecond):
	}
	alice.say(in, "seen")
	same(t, "messages", bodies(p.wait().Rooms[in].Timeline), []string{"seen"})
	p = c.park()
	w.pass(31 * time.Second)
	if a := p.wait(); len(a.Rooms) != 0 || a.Pos == "" {
		t.Errorf("timeout: %s", a.raw)
	}
	// The room that was out of range is not forgotten while the client goes on.
	c.body = `{"room_subscriptions":{"` + string(out) + `":{"timeline_limit":10}}}`
	same(t, "messages", bodies(c.next().Rooms[out].Timeline), []string{"unseen"})
}

func TestSlidingMessagesOfIgnoredUsersAndExpiredOnesAreNotShown(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	c := alice.sliding(allRooms)
	c.next()
	alice.accountData("", "m.ignored_user_list", `{"ignored_users":{"@bob:test.example":{}}}`)
	bob.say(room, "ignored")
	if a := c.next(); strings.Contains(a.raw, "ignored") {
		t.Errorf("%s", a.raw)
	}
	alice.send(room, "m.room.retention", `{"max_lifetime":86400000}`, "")
	alice.say(room, "expired")
	p := c.again()
	if !strings.Contains(p.raw, "expired") {
		t.Fatalf("%s", p.raw)
	}
	w.pass(25 * time.Hour)
	if a := c.again(); strings.Contains(a.raw, "expired") {
		t.Errorf("%s", a.raw)
	}
	if a := alice.sliding(strings.Replace(allRooms, "{", `{"conn_id":"fresh",`, 1)).next(); strings.Contains(a.raw, `"expired"`) || strings.Contains(a.raw, `"ignored"`) {
		t.Errorf("%s", a.raw)
	}
	inviter := bob.create("private_chat")
	bob.invite(inviter, alice)
	if a := c.next(); len(a.Rooms[inviter].InviteState) > 0 || a.Lists["all"].Count != 1 {
		t.Errorf("an invite of an ignored user: %s", a.raw)
	}
}
