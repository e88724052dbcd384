package rooms

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/storage"
)

// text describes a commit in one line. Of events it contains only the types.
func (c *Commit) text() string {
	var out []string
	note := func(is bool, what string) {
		if is {
			out = append(out, what)
		}
	}
	note(c.Created, "created")
	note(c.Entered, "entered")
	note(c.Rejudged, "rejudged")
	note(c.Completed != 0, "completed")
	note(c.Retention, "retention")
	note(c.Published, "published")
	for _, e := range c.Events {
		text := "event " + e.Type()
		if e.Past {
			text += " past"
		}
		if e.Outgoing {
			slices.Sort(e.Servers)
			text += fmt.Sprint(" to ", e.Servers)
		}
		out = append(out, text)
	}
	for _, m := range c.Members {
		out = append(out, fmt.Sprintf("member %s %s>%s", m.User, m.From, m.To))
		note(m.Local, "local")
	}
	note(len(c.Redacted) > 0, fmt.Sprint("redacted ", len(c.Redacted)))
	note(len(c.Revealed) > 0, fmt.Sprint("revealed ", len(c.Revealed)))
	note(len(c.Rejected) > 0, fmt.Sprint("rejected ", len(c.Rejected)))
	note(len(c.Purged) > 0, fmt.Sprint("purged ", len(c.Purged)))
	for _, r := range c.Receipts {
		out = append(out, fmt.Sprintf("receipt %s %s", r.Type, r.User))
		note(r.Local, "local")
	}
	for _, a := range c.AccountData {
		out = append(out, "account data "+a.Type)
		note(a.Room != 0, "of a room")
	}
	note(len(c.Forgotten) > 0, "forgotten")
	note(len(c.Erased) > 0, "erased")
	return strings.Join(out, ", ")
}

// hears returns the commits of a server while f runs. It waits until commits that other goroutines make because of f
// have arrived, too.
func (h *house) hears(f func()) (texts []string) {
	h.Helper()
	var mu sync.Mutex
	h.listen(func(c *Commit) {
		mu.Lock()
		defer mu.Unlock()
		texts = append(texts, c.text())
	})
	f()
	h.listen(func(*Commit) {})
	mu.Lock()
	defer mu.Unlock()
	return texts
}

func (h *house) wantCommits(what string, f func(), want ...string) {
	h.Helper()
	if got := h.hears(f); !slices.Equal(got, want) {
		h.Errorf("%s: the commits are\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestCommitsOfALocalRoom(t *testing.T) {
	h := oneHouse(t)
	ctx := t.Context()
	alice, bob := h.user("alice"), h.user("bob")
	var room, next id.RoomID
	var said id.EventID
	for _, c := range []struct {
		what string
		do   func()
		want []string
	}{
		{"create", func() { room = h.create(alice, CreateRoom{Preset: "public_chat", Visibility: "public"}) }, []string{
			"created, published, event m.room.create, event m.room.member, event m.room.power_levels, event m.room.join_rules, " +
				"event m.room.history_visibility, member @alice:here >join, local",
		}},
		{"join", func() { h.ok(h.svc.Join(ctx, bob, room, "")) }, []string{"event m.room.member, member @bob:here >join, local"}},
		{"join again", func() { h.ok(h.svc.Join(ctx, bob, room, "")) }, nil},
		{"send", func() { said = h.say(bob, room, "hello") }, []string{"event m.room.message"}},
		{"receipt", func() { h.ok(h.reads().SetReceipts(ctx, room, alice, said, ReadReceipt)) }, []string{"receipt m.read @alice:here, local"}},
		{"receipt again", func() { h.ok(h.reads().SetReceipts(ctx, room, alice, said, ReadReceipt)) }, nil},
		{"markers", func() {
			h.ok(h.reads().SetReceipts(ctx, room, bob, said, FullyRead, PrivateReadReceipt))
		}, []string{"receipt m.read.private @bob:here, local, account data m.fully_read, of a room"}},
		{"redaction", func() {
			must(h.svc.Redact(ctx, bob, room, said, "", nil))
		}, []string{"event m.room.redaction, redacted 1"}},
		{"kick", func() { h.ok(h.svc.Kick(ctx, alice, room, bob.UserID, "")) }, []string{"event m.room.member, member @bob:here join>leave, local"}},
		{"forget", func() { h.ok(h.svc.Forget(ctx, bob, room)) }, []string{"forgotten"}},
		{"tag", func() { h.ok(h.reads().PutTag(ctx, room, alice.UserNID, "u.x", `{}`)) }, []string{"account data m.tag, of a room"}},
		{"the same tag", func() { h.ok(h.reads().PutTag(ctx, room, alice.UserNID, "u.x", `{}`)) }, nil},
		{"account data", func() { h.ok(h.reads().SetAccountData(ctx, "", alice.UserNID, "x", `{"y":1}`)) }, []string{"account data x"}},
		{"override", func() { h.keep(room, time.Minute) }, []string{"retention"}},
		{"purge", func() { h.now = h.now.Add(time.Hour); h.say(alice, room, "new"); h.purge(room) }, []string{"event m.room.message", "purged 2"}},
		{"unpublish", func() { h.ok(h.svc.SetPublished(ctx, room, false)) }, []string{"published"}},
		{"upgrade", func() { next = must(h.svc.Upgrade(ctx, alice, room, id.RoomV11, nil)) }, []string{
			"created, event m.room.create, event m.room.member, event m.room.power_levels, event m.room.guest_access, event m.room.history_visibility, event m.room.join_rules, " +
				"member @alice:here >join, local",
			"published, event m.room.tombstone, event m.room.power_levels",
			"retention",
			"account data m.tag, of a room",
		}},
		{"leave", func() { h.ok(h.svc.Leave(ctx, alice, next, "")) }, []string{"event m.room.member, member @alice:here join>leave, local"}},
		{"erasure", func() { h.ok(h.svc.Erase(ctx, bob.UserNID)) }, []string{"erased"}},
	} {
		h.wantCommits(c.what, c.do, c.want...)
	}
}

func TestCommitsOfARoomOfOtherServers(t *testing.T) {
	e := newEarly(t)
	d := e.d.house
	d.wantCommits("join through another server", func() { e.d.joinVia(e.dora, e.room, "a") }, "entered, event m.room.member, member @dora:d >join, local")
	e.deliver()
	d.wantCommits("send", func() { e.d.say(e.dora, e.room, "hello") }, "event m.room.message to [a b evil]")
	e.deliver()
	d.wantCommits("a message of another server", func() { e.a.say(e.alice, e.room, "hello"); e.deliver() }, "event m.room.message, member @alice:a >join") // the event cites her member event
	said := e.b.say(e.bob, e.room, "hello")
	e.deliver()
	d.wantCommits("completion", func() { e.d.complete(e.room) }, "rejudged, completed, member @mallory:evil >join, member @trudy:evil >leave")
	d.wantCommits("a receipt of another server", func() {
		d.ok(d.reads().ReceiveReceipts(t.Context(), "b", json.RawMessage(fmt.Sprintf(`{%q:{"m.read":{%q:{"event_ids":[%q],"data":{"ts":1}}}}}`, e.room, e.bob.UserID, said))))
	}, "receipt m.read @bob:b")
	carol := e.b.user("carol")
	d.wantCommits("a join of another server", func() { e.b.ok(e.b.svc.Join(t.Context(), carol, e.room, "")); e.deliver() },
		"event m.room.member, member @carol:b >join")
	d.wantCommits("a leave of another server", func() { e.b.ok(e.b.svc.Leave(t.Context(), e.bob, e.room, "")); e.deliver() },
		"event m.room.member, member @bob:b join>leave")
	history := strings.Split(strings.Join(d.hears(func() { e.d.pages(e.dora, e.room, 100) }), ", "), ", ") // in one commit or in several
	want := historyOf(e)
	slices.Sort(history)
	slices.Sort(want)
	if !slices.Equal(history, want) {
		t.Errorf("history: the commits have %q, want %q", history, want)
	}
}

// historyOf lists the events that server d does not have, because they are older than dora's join.
func historyOf(e *early) (texts []string) {
	e.Helper()
	join := e.a.position(e.room, e.d.joinOf(e.room, e.dora).ID())
	for _, x := range e.a.timeline(e.room) {
		if x.Pos < join {
			texts = append(texts, "event "+x.Type()+" past")
		}
	}
	return texts
}

func TestCommitsOfAnInviteToARoomOfAnotherServer(t *testing.T) {
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	alice, bob := a.user("alice"), b.user("bob")
	room := a.create(alice, CreateRoom{Preset: "private_chat"})
	b.wantCommits("invite", func() { a.ok(a.svc.Invite(t.Context(), alice, room, bob.UserID, "")) }, "event m.room.member, member @bob:b >invite, local")
	b.wantCommits("decline", func() { b.ok(b.svc.Leave(t.Context(), bob, room, "")) }, "event m.room.member, member @bob:b invite>leave, local")
}

func TestCommitOfADecision(t *testing.T) {
	l := withoutKey(t, id.RoomV11)
	l.dead.say(l.carol, l.room, "nobody can tell")
	l.n.deliver()
	l.good.say(l.alice, l.room, "follows it")
	l.n.deliver()
	delete(l.n.blind, "here dead")
	l.wantCommits("decision", func() { l.ok(l.svc.decideAll(t.Context())) }, "rejudged, event m.room.message")
}

func TestFailedWritesMakeNoCommits(t *testing.T) {
	h := oneHouse(t)
	alice := h.user("alice")
	room := h.public(alice)
	h.wantCommits("a failed write", func() {
		if err := h.sendFailing(t.Context(), alice, room); err == nil {
			t.Error("the write succeeds although a failure was injected")
		}
	})
	h.wantCommits("a refused event", func() {
		if _, err := h.trySend(h.user("eve"), room, "m.room.message", `{"body":"x"}`); err == nil {
			t.Error("a user who is not in the room can send an event")
		}
	})
	h.wantCommits("what is sent after it", func() { h.say(alice, room, "hello") }, "event m.room.message")
}

// With many concurrent senders, the commits that a listener receives for a room must contain the timeline with each
// event once, and the events must be in memory by then.
func TestCommitsOfARoomArriveInOrder(t *testing.T) {
	h := oneHouse(t)
	rooms := []id.RoomID{h.public(h.user("alice")), h.public(h.user("alice"))}
	heard := map[id.RoomID][]storage.Pos{}
	var last storage.Pos
	h.listen(func(c *Commit) { // listeners are called in the committer, one commit after the other
		for _, e := range c.Events {
			if e.Pos <= last {
				t.Errorf("the event at position %d is delivered after the one at %d", e.Pos, last)
			}
			last = e.Pos
			heard[c.Room.ID()] = append(heard[c.Room.ID()], e.Pos)
			if c.Room.recentEvent(e.ID()) == nil || c.Room.Last() < e.Pos {
				t.Errorf("the event at position %d is delivered before the room has it in memory", e.Pos)
			}
		}
	})
	var senders sync.WaitGroup
	for i := range 8 {
		senders.Go(func() {
			for n := range 20 {
				if _, err := h.trySend(h.user("alice"), rooms[(i+n)%2], "m.room.message", `{"body":"x"}`); err != nil {
					t.Error(err)
				}
			}
		})
	}
	senders.Wait()
	h.db.Announced()
	for _, room := range rooms {
		timeline := h.timeline(room)
		var want []storage.Pos
		for _, e := range timeline[len(timeline)-80:] {
			want = append(want, e.Pos)
		}
		if !slices.Equal(heard[room], want) {
			t.Errorf("the commits have the events %v, the timeline has %v", heard[room], want)
		}
	}
}

// A client that is woken must find everything up to date: unread counts, rooms, and the data of other services.
func TestClientsAreWokenAfterAllListeners(t *testing.T) {
	h := oneHouse(t)
	alice, bob := h.user("alice"), h.user("bob")
	room := h.public(alice)
	must(h.svc.Memberships(t.Context(), bob.UserNID)) // makes the service keep his memberships up to date from now on
	sub := h.svc.opts.Hub.Watch(bob.UserNID, bob.DeviceNID)
	defer sub.Close()
	heard := 0
	h.listen(func(c *Commit) {
		heard++
		if own, inRooms := sub.News(); own+inRooms > 0 {
			t.Errorf("bob is woken before the last listener is called: %s", c.text())
		}
		if list, ok := h.svc.own.lists.Peek(bob.UserNID); !ok || len(list) != 1 || list[0].Membership != Join {
			t.Errorf("when the services get the commit, bob's list of rooms is %v, want one with bob joined", list)
		}
	})
	h.ok(h.svc.Join(t.Context(), bob, room, ""))
	h.db.Announced()
	if own, _ := sub.News(); own == 0 || heard != 1 {
		t.Errorf("bob has %d wake-ups, want at least 1; the listener got %d commits, want 1", own, heard)
	}
}

func TestAListenerThatPanicsStopsNoOtherListener(t *testing.T) {
	h := oneHouse(t)
	alice, bob := h.user("alice"), h.user("bob")
	room := h.public(alice)
	sub := h.svc.opts.Hub.Watch(bob.UserNID, bob.DeviceNID)
	defer sub.Close()
	must(h.svc.Memberships(t.Context(), bob.UserNID)) // in memory, kept up to date by a listener
	h.listen(func(*Commit) { panic("a fault") })
	heard := 0
	h.listen(func(*Commit) { heard++ })
	h.ok(h.svc.Join(t.Context(), bob, room, ""))
	h.db.Announced()
	if own, _ := sub.News(); own == 0 || heard != 1 {
		t.Errorf("bob has %d wake-ups, want at least 1; the listener after the one that panics got %d commits, want 1", own, heard)
	}
	if r := h.room(room); r.Membership(bob.UserID) != Join {
		t.Error("the join is not in the room's state")
	}
}

func TestNobodySubscribesAfterTheFirstCommit(t *testing.T) {
	commits := NewCommits()
	h := oneHouse(t, func(o *Options) { o.Commits = commits })
	h.public(h.user("alice"))
	defer func() {
		if recover() == nil {
			t.Error("a listener can subscribe after the first commit")
		}
	}()
	commits.Subscribe(func(*Commit) {})
}
