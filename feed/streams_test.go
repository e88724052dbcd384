package feed_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/feed"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Tests of what /sync has besides timelines: account data, receipts, typing, presence, to-device messages, device
// lists.

func TestAccountDataIsTold(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	alice.accountData("", "org.example", `{"n":1}`)
	a := alice.sync()
	same(t, "global", a.AccountData.types(), []string{"org.example"})
	alice.accountData(room, "org.example", `{"n":2}`)
	a = alice.sync()
	same(t, "of the room", a.Rooms.Join[room].AccountData.types(), []string{"org.example"})
	if len(a.AccountData.Events) != 0 {
		t.Error("told twice")
	}
	if a := alice.sync(); len(a.Rooms.Join) != 0 || len(a.AccountData.Events) != 0 {
		t.Errorf("told twice: %s", a.raw)
	}
	p := alice.park()
	alice.accountData("", "org.example", `{"n":2}`)
	same(t, "by long poll", p.wait().AccountData.types(), []string{"org.example"})
}

func TestTypingIsToldToTheRoom(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol := w.user("alice"), w.user("bob"), w.user("carol")
	room := alice.create("public_chat")
	bob.join(room)
	bob.sync()
	typing := func(on bool) {
		alice.must(w.feed.SetTyping(t.Context(), alice.Requester, room, on, 20*time.Second))
	}
	p := bob.park()
	typing(true)
	same(t, "typing", p.wait().Rooms.Join[room].Ephemeral.ids(t), []string{"@alice:" + server})
	p = bob.park()
	w.pass(21 * time.Second)
	same(t, "timed out", p.wait().Rooms.Join[room].Ephemeral.ids(t), []string{})
	typing(true)
	bob.sync()
	typing(false)
	same(t, "stopped", bob.sync().Rooms.Join[room].Ephemeral.ids(t), []string{})
	typing(true)
	bob.sync()
	w.restart()
	same(t, "cleared by a restart", bob.sync().Rooms.Join[room].Ephemeral.ids(t), []string{})
	if a := bob.sync(); len(a.Rooms.Join) != 0 {
		t.Errorf("cleared twice: %s", a.raw)
	}
	if err := w.feed.SetTyping(t.Context(), carol.Requester, room, true, 0); mxerr.Code(err) != "M_FORBIDDEN" {
		t.Errorf("carol types in a room that she is not in: %v", err)
	}
	alice.must(w.feed.SetTyping(t.Context(), alice.Requester, room, true, 0))
	if a := bob.sync(filter(`{"room":{"ephemeral":{"not_types":["m.typing"]}}}`)); len(a.Rooms.Join) != 0 {
		t.Errorf("typing in spite of the filter: %s", a.raw)
	}
}

func TestReceiptsAreToldAndPrivateOnesOnlyToTheirOwner(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	first, second := alice.say(room, "1"), alice.say(room, "2")
	alice.sync()
	bob.sync()
	bob.receipt(room, "m.read", first)
	bob.receipt(room, "m.read.private", second)
	see := func(u *user) []string {
		var out []string
		for _, e := range u.sync().Rooms.Join[room].Ephemeral.Events {
			for _, c := range []struct{ name, event, typ string }{
				{"public", string(first), `"m.read":`}, {"private", string(second), `"m.read.private":`},
			} {
				if strings.Contains(string(e.Content), c.event) && strings.Contains(string(e.Content), c.typ) {
					out = append(out, c.name)
				}
			}
			if strings.Contains(string(e.Content), "room_id") {
				t.Errorf("a receipt names its room: %s", e.Content)
			}
		}
		return out
	}
	same(t, "alice", see(alice), []string{"public"})
	same(t, "bob", see(bob), []string{"public", "private"})
	same(t, "again", see(bob), nil)
	bob.since = ""
	same(t, "a first sync", see(bob), []string{"public", "private"})
}

func TestPresenceIsToldToThoseWhoShareARoom(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol := w.user("alice"), w.user("bob"), w.user("carol")
	room := alice.create("public_chat")
	bob.join(room)
	status := "at sea"
	for _, u := range []*user{alice, bob, carol} {
		u.sync()
	}
	p := bob.park()
	alice.must(w.feed.SetPresence(t.Context(), alice.Requester, "online", &status))
	w.pass(time.Second)
	a := p.wait()
	if len(a.Presence.Events) != 1 || a.Presence.Events[0].Sender != alice.UserID || !strings.Contains(string(a.Presence.Events[0].Content), `"status_msg":"at sea"`) {
		t.Errorf("bob is told %s", a.raw)
	}
	if a := carol.sync(); len(a.Presence.Events) != 0 {
		t.Errorf("carol is told %s", a.raw)
	}
	if a := bob.sync(); len(a.Presence.Events) != 0 {
		t.Errorf("told twice: %s", a.raw)
	}
	if _, err := w.feed.Presence(t.Context(), carol.Requester, alice.UserID); mxerr.Code(err) != "M_FORBIDDEN" {
		t.Errorf("carol reads alice's presence: %v", err)
	}
	carol.join(room)
	if a := carol.sync(); len(a.Presence.Events) == 0 {
		t.Errorf("who joins is told who is there: %s", a.raw)
	}
	w.pass(time.Minute)
	a = bob.sync()
	if len(a.Presence.Events) != 1 || !strings.Contains(string(a.Presence.Events[0].Content), `"offline"`) {
		t.Errorf("alice went silent, bob is told %s", a.raw)
	}
	alice.sync(func(q *feed.SyncRequest) { q.SetPresence = "unavailable" })
	if a := bob.sync(); len(a.Presence.Events) != 1 || !strings.Contains(string(a.Presence.Events[0].Content), `"unavailable"`) {
		t.Errorf("set by sync: %s", a.raw)
	}
	_, err := w.feed.Sync(t.Context(), &feed.SyncRequest{Requester: alice.Requester, SetPresence: "dancing"})
	if mxerr.Code(err) != "M_INVALID_PARAM" {
		t.Errorf("an unknown presence: %v", err)
	}
}

func TestOwnPresenceWakesTheUserWhoThenReadsNothing(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	alice.sync()
	alice.sync()
	online := func(q *feed.SyncRequest) { q.SetPresence = "online" }
	if a := alice.sync(online); len(a.Presence.Events) != 1 || a.Presence.Events[0].Sender != alice.UserID {
		t.Errorf("presence: %s", a.raw)
	}
	var woken atomic.Bool
	other := w.hub.Park(alice.UserNID, 0, func() { woken.Store(true) }) // another device
	defer other.Close()
	w.pass(time.Second)
	if !woken.Load() {
		t.Error("another device of the user is not woken")
	}
	w.statements.Store(0)
	alice.sync(online)
	if n := w.statements.Load(); n > 0 {
		t.Errorf("%d statements, although only the presence has changed", n)
	}
}

func TestPresenceOfBeforeARestartIsTakenBack(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	bob.sync()
	alice.must(w.feed.SetPresence(t.Context(), alice.Requester, "online", nil))
	if a := bob.sync(); !strings.Contains(a.raw, `"presence":"online"`) {
		t.Fatalf("bob is told %s", a.raw)
	}
	w.restart()
	a := bob.sync()
	if i := slices.IndexFunc(a.Presence.Events, func(e ev) bool { return e.Sender == alice.UserID }); i < 0 || !strings.Contains(string(a.Presence.Events[i].Content), `"offline"`) {
		t.Errorf("bob still believes that alice is here: %s", a.raw)
	}
	if a := bob.sync(); len(a.Presence.Events) != 0 {
		t.Errorf("told twice: %s", a.raw)
	}
}

func TestWhoSendsIsNotIdle(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	online := func(q *feed.SyncRequest) { q.SetPresence = "online" }
	see := func(what, want string) {
		t.Helper()
		alice.sync(online)
		raw, err := w.feed.Presence(t.Context(), bob.Requester, alice.UserID)
		if bob.must(err); !strings.Contains(string(raw), `"presence":"`+want+`"`) {
			t.Errorf("%s: %s, want %s", what, raw, want)
		}
	}
	see("at first", "online")
	for range 15 {
		w.pass(20 * time.Second)
		alice.sync(online)
	}
	w.pass(time.Second)
	see("five minutes later", "unavailable")
	alice.say(room, "still here")
	see("after a message", "online")
}

func TestToDeviceMessagesStayUntilTheNextTokenConfirmsThem(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	w.toDevice(alice, `{"content":{"n":1},"sender":"@b:x","type":"m.x"}`)
	first := alice.sync()
	same(t, "before the first sync", first.ToDevice.types(), []string{"m.x"})
	since := alice.since
	w.toDevice(alice, `{"content":{"n":2},"sender":"@b:x","type":"m.y"}`)
	for range 2 {
		same(t, "the same token again", alice.syncFrom(since).ToDevice.types(), []string{"m.y"})
	}
	alice.sync()
	if a := alice.sync(); len(a.ToDevice.Events) != 0 {
		t.Errorf("given twice: %s", a.raw)
	}
	p := alice.park()
	w.toDevice(alice, `{"content":{},"sender":"@b:x","type":"m.z"}`)
	same(t, "by long poll", p.wait().ToDevice.types(), []string{"m.z"})
	w.restart()
	for range 2 {
		alice.sync()
	}
	if n := w.countToDevice(alice); n != 0 {
		t.Errorf("%d confirmed messages are kept", n)
	}
}

func TestManyToDeviceMessagesComeInOrderAndEachOnce(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	alice.sync()
	var want []string
	for i := range 700 {
		want = append(want, fmt.Sprintf("m.%d", i))
		w.toDevice(alice, fmt.Sprintf(`{"content":{},"sender":"@b:x","type":"m.%d"}`, i))
	}
	var got []string
	for range 5 {
		got = append(got, alice.sync().ToDevice.types()...)
		alice.syncFrom(alice.since) // an answer that is lost
	}
	same(t, "messages", got, want)
}

// The database is changed as state resolution changes it; package rooms has the test that it does so.
func TestAMemberWhomStateResolutionDeletesIsInDeviceListsLeft(t *testing.T) {
	for _, gap := range []bool{false, true} {
		w := newWorld(t)
		alice, bob, carol := w.user("alice"), w.user("bob"), w.user("carol")
		room := alice.create("public_chat")
		other := alice.create("public_chat")
		bob.join(room)
		carol.join(room)
		carol.join(other)
		alice.sync()
		r, err := w.Room(t.Context(), room)
		alice.must(err)
		alice.must(w.db.Write(t.Context(), func(tx *storage.Tx) error {
			for _, gone := range []*user{bob, carol} {
				if err := tx.DeleteMembership(gone.UserNID, r.NID()); err != nil {
					return err
				}
				if err := tx.DeleteCurrentState(r.NID(), "m.room.member", string(gone.UserID), tx.NextPos()); err != nil {
					return err
				}
			}
			return nil
		}))
		w.restart()
		says := 1
		if gap {
			says = 200 // more than there are in memory
		}
		for i := range says {
			alice.say(room, fmt.Sprint("message ", i))
		}
		same(t, fmt.Sprint("with a gap: ", gap), alice.sync().DeviceLists.Left, []id.UserID{bob.UserID}) // carol is in the other room
		same(t, "once", alice.sync().DeviceLists.Left, nil)
	}
}

func TestDeviceListsFollowSharedRooms(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol := w.user("alice"), w.user("bob"), w.user("carol")
	room, other := alice.create("public_chat"), alice.create("public_chat")
	alice.sync()
	bob.sync()
	before := alice.since
	bob.join(room)
	same(t, "alice: bob came", alice.sync().DeviceLists.Changed, []id.UserID{bob.UserID})
	same(t, "bob: alice is there", bob.sync().DeviceLists.Changed, []id.UserID{alice.UserID})
	bob.send(room, "m.room.member", `{"membership":"join","displayname":"B"}`, string(bob.UserID))
	same(t, "a new name is no new device", alice.sync().DeviceLists.Changed, nil)
	w.devicesChanged(bob)
	w.devicesChanged(carol)
	same(t, "bob's devices changed", alice.sync().DeviceLists.Changed, []id.UserID{bob.UserID})
	same(t, "one's own too", bob.sync().DeviceLists.Changed, []id.UserID{bob.UserID})
	bob.join(other)
	alice.sync()
	bob.leave(room)
	if a := alice.sync(); len(a.DeviceLists.Left)+len(a.DeviceLists.Changed) != 0 {
		t.Errorf("they still share a room: %s", a.raw)
	}
	between := alice.since
	bob.leave(other)
	for range 2 {
		same(t, "bob went", alice.syncFrom(between).DeviceLists.Left, []id.UserID{bob.UserID})
	}
	alice.sync()
	bob.since = between
	same(t, "bob: alice is out of sight", bob.sync().DeviceLists.Left, []id.UserID{alice.UserID})
	changed, left, err := w.feed.DeviceChanges(t.Context(), alice.Requester, before, alice.since)
	alice.must(err)
	same(t, "keys/changes: changed", changed, nil)
	same(t, "keys/changes: left", left, []id.UserID{bob.UserID})
}

// changingDevices calls change before it lists device changes: after the position up to which an answer goes was set.
type changingDevices struct {
	feed.E2EE
	change func()
}

func (c changingDevices) DeviceListChanges(tx *storage.Tx, user ident.UserNID, since, upTo storage.Pos) ([]ident.UserNID, error) {
	c.change()
	return c.E2EE.DeviceListChanges(tx, user, since, upTo)
}

func TestDeviceChangesListUsersWhoseDevicesChangeMeanwhile(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	bob.join(alice.create("public_chat"))
	alice.sync()
	bob.sync()
	before := alice.since
	w.devicesChanged(bob)
	same(t, "sync", alice.sync().DeviceLists.Changed, []id.UserID{bob.UserID})
	w.feed = feed.New(feed.Options{
		DB: w.db, Rooms: w.Service, AccountData: w.data, History: w.history, Hub: w.hub, Now: w.clock, Log: slog.New(slog.DiscardHandler),
		E2EE: changingDevices{w.e2ee, func() { w.devicesChanged(bob) }},
	})
	changed, _, err := w.feed.DeviceChanges(t.Context(), alice.Requester, before, alice.since)
	alice.must(err)
	same(t, "keys/changes", changed, []id.UserID{bob.UserID})
}

func TestTypingEndsWithTheMembership(t *testing.T) {
	for name, end := range map[string]func(alice, bob *user, room id.RoomID){
		"leave": func(_, bob *user, room id.RoomID) { bob.leave(room) },
		"kick": func(alice, bob *user, room id.RoomID) {
			alice.must(alice.w.Kick(t.Context(), alice.Requester, room, bob.UserID, ""))
		},
		"ban": func(alice, bob *user, room id.RoomID) { alice.ban(room, bob) },
	} {
		w := newWorld(t)
		alice, bob := w.user("alice"), w.user("bob")
		room := alice.create("public_chat")
		bob.join(room)
		alice.sync()
		bob.must(w.feed.SetTyping(t.Context(), bob.Requester, room, true, time.Minute))
		same(t, "typing", alice.sync().Rooms.Join[room].Ephemeral.ids(t), []string{string(bob.UserID)})
		p := alice.park()
		end(alice, bob, room)
		if got := p.wait().Rooms.Join[room].Ephemeral.ids(t); got == nil || len(got) != 0 {
			t.Errorf("after the %s: %v type, want nobody", name, got)
		}
		if name == "ban" {
			continue
		}
		bob.join(room)
		if got := alice.syncFrom("").Rooms.Join[room].Ephemeral.ids(t); len(got) != 0 {
			t.Errorf("bob is back after the %s, and %v type", name, got)
		}
	}
}

func TestOneDoesNotIgnoreOneself(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	alice.accountData("", "m.ignored_user_list", `{"ignored_users":{"@alice:`+server+`":{}}}`)
	alice.sync()
	alice.say(room, "mine")
	same(t, "timeline", alice.sync().Rooms.Join[room].Timeline.of("m.room.message"), []string{"mine"})
}
