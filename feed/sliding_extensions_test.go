package feed_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"
)

func TestSlidingToDeviceMessagesStayUntilTheyAreAcknowledged(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	c := alice.sliding(`{"extensions":{"to_device":{"enabled":true}}}`)
	a := c.next()
	since := a.Extensions.ToDevice.NextBatch
	if since == "" || len(a.Extensions.ToDevice.Events) != 0 {
		t.Errorf("no next_batch: %s", a.raw)
	}
	ask := func(since string, limit int) {
		c.body = fmt.Sprintf(`{"extensions":{"to_device":{"enabled":true,"since":%q,"limit":%d}}}`, since, limit)
	}
	ask(since, 100)
	if got := c.next().Extensions.ToDevice.NextBatch; got != since {
		t.Errorf("next_batch %q, want %q", got, since)
	}
	for i := range 3 {
		w.toDevice(alice, fmt.Sprintf(`{"content":{},"sender":"@b:x","type":"m.%d"}`, i))
	}
	for range 2 { // a client that goes on without acknowledging gets them again
		same(t, "all", list{c.next().Extensions.ToDevice.Events}.types(), []string{"m.0", "m.1", "m.2"})
	}
	if n := w.countToDevice(alice); n != 3 {
		t.Errorf("%d messages are kept", n)
	}
	ask(since, 2)
	a = c.next()
	same(t, "first page", list{a.Extensions.ToDevice.Events}.types(), []string{"m.0", "m.1"})
	ask(a.Extensions.ToDevice.NextBatch, 2)
	a, err := c.try(c.pos, 30*time.Second)
	alice.must(err)
	same(t, "second page", list{a.Extensions.ToDevice.Events}.types(), []string{"m.2"})
	if n := w.countToDevice(alice); n != 1 {
		t.Errorf("%d messages are kept", n)
	}
	ask(a.Extensions.ToDevice.NextBatch, 2)
	c.next()
	if n := w.countToDevice(alice); n != 0 {
		t.Errorf("%d messages are kept", n)
	}
	p := c.park()
	w.toDevice(alice, `{"content":{},"sender":"@b:x","type":"m.late"}`)
	same(t, "by long poll", list{p.wait().Extensions.ToDevice.Events}.types(), []string{"m.late"})
	ask("999999999999", 10)
	same(t, "since of a lost database", list{c.next().Extensions.ToDevice.Events}.types(), []string{"m.late"})
}

func TestSlidingDeviceListsAndKeyCounts(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	c := alice.sliding(`{"extensions":{"e2ee":{"enabled":true}}}`)
	for range 2 {
		a := c.next()
		if e := a.Extensions.E2EE; e == nil || e.Counts["signed_curve25519"] != 0 || len(e.Counts) != 1 || e.Fallback == nil || len(e.Lists.Changed) != 0 {
			t.Errorf("every answer has the counts: %s", a.raw)
		}
	}
	p := c.park()
	bob.join(room)
	same(t, "bob came", p.wait().Extensions.E2EE.Lists.Changed, []id.UserID{bob.UserID})
	w.devicesChanged(bob)
	for range 2 {
		same(t, "bob's devices", c.again().Extensions.E2EE.Lists.Changed, []id.UserID{bob.UserID})
	}
	c.next()
	bob.leave(room)
	same(t, "bob went", c.next().Extensions.E2EE.Lists.Left, []id.UserID{bob.UserID})
}

func TestSlidingAccountData(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	one, two := alice.create("public_chat"), alice.create("public_chat")
	alice.accountData("", "x.global", `{"n":1}`)
	alice.accountData(one, "x.room", `{"n":1}`)
	c := alice.sliding(strings.Replace(subscribed(one, 1, `[]`), `{"room`, `{"extensions":{"account_data":{"enabled":true}},"room`, 1))
	d := c.next().Extensions.AccountData
	same(t, "global", list{d.Global}.types(), []string{"x.global"})
	same(t, "room", list{d.Rooms[one]}.types(), []string{"x.room"})
	if a := c.next(); len(a.Extensions.AccountData.Global) != 0 {
		t.Errorf("once is enough: %s", a.raw)
	}
	p := c.park()
	alice.accountData("", "x.global", `{"n":2}`)
	same(t, "changed", list{p.wait().Extensions.AccountData.Global}.types(), []string{"x.global"})
	alice.accountData(two, "x.room", `{"n":1}`)
	alice.accountData(one, "x.room", `{"n":2}`)
	for range 2 {
		if d := c.again().Extensions.AccountData; len(d.Rooms) != 1 || len(d.Rooms[one]) != 1 {
			t.Errorf("%+v", d)
		}
	}
	c.next()
	with := c.body
	c.body = subscribed(one, 1, `[]`)
	c.next()
	alice.accountData(one, "x.other", `{"n":1}`)
	alice.accountData("", "x.other", `{"n":1}`)
	c.next()
	c.body = with
	d = c.next().Extensions.AccountData
	same(t, "switched on again", list{d.Global}.types(), []string{"x.other"})
	same(t, "of the room", list{d.Rooms[one]}.types(), []string{"x.other"})
	c.body = strings.Replace(with, string(one), string(two), 1)
	same(t, "of a room that is new", list{c.next().Extensions.AccountData.Rooms[two]}.types(), []string{"x.room"})
	alice.accountData(one, "x.other", `{"n":2}`)
	alice.say(two, "news, with which the server stores what the client lacks")
	c.next()
	c.body = with
	same(t, "changed out of sight", list{c.next().Extensions.AccountData.Rooms[one]}.types(), []string{"x.room", "x.other"})
}

func TestSlidingReceipts(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	one, two := alice.create("public_chat"), alice.create("public_chat")
	bob.join(one)
	bob.join(two)
	event := alice.say(one, "1")
	bob.receipt(one, "m.read", event)
	bob.receipt(one, "m.read.private", event)
	c := alice.sliding(`{"lists":{"all":{"ranges":[[0,9]],"timeline_limit":1}},"extensions":{"receipts":{"enabled":true}}}`)
	a := c.next()
	if got := string(a.Extensions.Receipts.Rooms[one].Content); !strings.Contains(got, string(bob.UserID)) || strings.Contains(got, "private") || len(a.Extensions.Receipts.Rooms) != 1 {
		t.Errorf("first: %s", a.raw)
	}
	if a := c.next(); len(a.Extensions.Receipts.Rooms) != 0 {
		t.Errorf("once is enough: %s", a.raw)
	}
	p := c.park()
	bob.receipt(two, "m.read", alice.say(two, "2"))
	a = p.wait()
	if len(a.Extensions.Receipts.Rooms) == 0 { // woken by the message
		a = c.next()
	}
	if len(a.Extensions.Receipts.Rooms) != 1 || a.Extensions.Receipts.Rooms[two].Type != "m.receipt" {
		t.Errorf("new: %s", a.raw)
	}
	c.body = strings.Replace(c.body, `"receipts":{"enabled":true}`, `"receipts":{"enabled":true,"lists":[],"rooms":["`+string(one)+`"]}`, 1)
	next := alice.say(two, "3")
	bob.receipt(two, "m.read", next)
	if a := c.next(); len(a.Extensions.Receipts.Rooms) != 0 {
		t.Errorf("of another room: %s", a.raw)
	}
	c.body = strings.Replace(c.body, `"rooms":["`+string(one)+`"]`, `"rooms":["*"]`, 1)
	if a := c.next(); !strings.Contains(string(a.Extensions.Receipts.Rooms[two].Content), string(next)) {
		t.Errorf("what was missed: %s", a.raw)
	}
}

func TestSlidingReceiptsComeWithTheEventsTheyAreAt(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol := w.user("alice"), w.user("bob"), w.user("carol")
	room := alice.create("public_chat")
	bob.join(room)
	carol.join(room)
	old := alice.say(room, "1")
	bob.receipt(room, "m.read", old)
	alice.receipt(room, "m.read", old)
	carol.receipt(room, "m.read", alice.say(room, "2"))
	ask := func(limit int) string {
		return fmt.Sprintf(`{"lists":{"all":{"ranges":[[0,9]],"timeline_limit":%d}},"extensions":{"receipts":{"enabled":true}}}`, limit)
	}
	c := alice.sliding(ask(1))
	a := c.next()
	got := string(a.Extensions.Receipts.Rooms[room].Content)
	for user, want := range map[id.UserID]bool{alice.UserID: true, bob.UserID: false, carol.UserID: true} {
		if strings.Contains(got, string(user)) != want {
			t.Errorf("with the newest event alone, want the receipts at it and alice's own: %s", a.raw)
		}
	}
	c.body = ask(2)
	if a = c.next(); !strings.Contains(string(a.Extensions.Receipts.Rooms[room].Content), string(bob.UserID)) {
		t.Errorf("with an older event, want the receipt at it: %s", a.raw)
	}
	if a = c.next(); len(a.Extensions.Receipts.Rooms) != 0 {
		t.Errorf("once is enough: %s", a.raw)
	}
	dora := w.user("dora")
	dora.join(room)
	for i := range 3 {
		alice.say(room, fmt.Sprint("new ", i))
	}
	c.next()
	dora.receipt(room, "m.read", old)
	c.body = ask(3)
	a = c.next()
	if got := string(a.Extensions.Receipts.Rooms[room].Content); !strings.Contains(got, string(dora.UserID)) {
		t.Errorf("a new receipt at an event before the timeline that has grown: %s", a.raw)
	}
}

func TestSlidingTyping(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	one, two := alice.create("public_chat"), alice.create("public_chat")
	bob.join(one)
	bob.join(two)
	c := alice.sliding(strings.Replace(subscribed(one, 1, `[]`), `{"room`, `{"extensions":{"typing":{"enabled":true}},"room`, 1))
	c.next()
	typing := func(room id.RoomID, on bool) {
		t.Helper()
		bob.must(w.feed.SetTyping(t.Context(), bob.Requester, room, on, 20*time.Second))
	}
	p := c.park()
	typing(two, true)
	typing(one, true)
	a := p.wait()
	if len(a.Extensions.Typing.Rooms) != 1 || !strings.Contains(string(a.Extensions.Typing.Rooms[one].Content), string(bob.UserID)) {
		t.Errorf("%s", a.raw)
	}
	if a := c.next(); len(a.Extensions.Typing.Rooms) != 0 {
		t.Errorf("once is enough: %s", a.raw)
	}
	c.body = strings.Replace(c.body, string(one), string(two), 1)
	if a := c.next(); !strings.Contains(string(a.Extensions.Typing.Rooms[two].Content), string(bob.UserID)) {
		t.Errorf("a room that is new: %s", a.raw)
	}
	typing(two, false)
	if a := c.next(); string(a.Extensions.Typing.Rooms[two].Content) != `{"user_ids":[]}` {
		t.Errorf("ended: %s", a.raw)
	}
}
