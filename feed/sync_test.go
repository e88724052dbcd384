package feed_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/feed"
	"ebb/history"
	"ebb/ident"
	"ebb/mxerr"
)

func same[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func fullState(q *feed.SyncRequest)  { q.FullState = true }
func stateAfter(q *feed.SyncRequest) { q.StateAfter = true }
func msc4222(q *feed.SyncRequest)    { q.UnstableStateAfter = true }
func filter(f string) func(*feed.SyncRequest) {
	return func(q *feed.SyncRequest) { q.Filter = f }
}

func TestFirstSyncGivesTheRoomAndTheNextOneOnlyWhatIsNew(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	alice.say(room, "one")
	a := alice.sync()
	j, ok := a.Rooms.Join[room]
	if !ok {
		t.Fatalf("the room is missing: %s", a.raw)
	}
	for _, section := range []string{`"timeline":{"events":[`, `"state":{"events":[`, `"ephemeral":{"events":[`, `"account_data":{"events":[`, `"unread_notifications":{`, `"summary":{`} {
		if !strings.Contains(a.raw, section) {
			t.Errorf("%s is missing: %s", section, a.raw)
		}
	}
	same(t, "messages", j.Timeline.of("m.room.message"), []string{"one"})
	if *j.Summary.Joined != 1 || *j.Summary.Invited != 0 {
		t.Errorf("summary: %+v", j.Summary)
	}
	if a := alice.sync(); len(a.Rooms.Join) != 0 {
		t.Errorf("nothing happened, but: %s", a.raw)
	}
	alice.say(room, "two")
	j = alice.sync().Rooms.Join[room]
	same(t, "new", j.Timeline.of("m.room.message"), []string{"two"})
	if j.Timeline.Limited || len(j.State.Events) != 0 {
		t.Errorf("want neither a gap nor state: %+v", j)
	}
}

func TestSameTokenGivesTheSameAnswerAgain(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	since := alice.sync().NextBatch
	alice.say(room, "once")
	for range 2 {
		same(t, "messages", alice.syncFrom(since).Rooms.Join[room].Timeline.of("m.room.message"), []string{"once"})
	}
}

func TestTokenSurvivesARestart(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	alice.sync()
	alice.say(room, "before")
	w.restart()
	alice.say(room, "after")
	same(t, "messages", alice.sync().Rooms.Join[room].Timeline.of("m.room.message"), []string{"before", "after"})
}

func TestTokenThatThisServerDidNotGiveIsRefused(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	alice.create("public_chat")
	for _, since := range []string{"x", "t12", "s1_999999999_0_0_0_0", alice.sync().NextBatch + "x"} {
		_, err := w.feed.Sync(t.Context(), &feed.SyncRequest{Requester: alice.Requester, Since: since})
		if mxerr.Code(err) != "M_INVALID_PARAM" {
			t.Errorf("%q: %v", since, err)
		}
	}
}

func TestGapGivesStateAtItsEndAndATokenToFillIt(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	alice.filter = `{"room":{"timeline":{"limit":3}}}`
	alice.sync()
	alice.send(room, "m.room.topic", `{"topic":"first"}`, "")
	alice.send(room, "m.room.topic", `{"topic":"second"}`, "")
	alice.send(room, "m.room.name", `{"name":"in the gap"}`, "")
	for i := range 5 {
		alice.say(room, fmt.Sprint(i))
	}
	alice.send(room, "m.room.topic", `{"topic":"third"}`, "")
	since := alice.since
	j := alice.sync().Rooms.Join[room]
	if !j.Timeline.Limited {
		t.Error("want limited")
	}
	same(t, "timeline", j.Timeline.of("m.room.message"), []string{"3", "4"})
	same(t, "topic before the timeline", j.State.of("m.room.topic"), []string{"second"})
	same(t, "name", j.State.of("m.room.name"), []string{"in the gap"})
	if len(j.State.Events) != 2 {
		t.Errorf("state: %v", j.State.types())
	}
	page, err := w.history.Messages(t.Context(), room, ident.Requester{UserNID: alice.UserNID, UserID: alice.UserID}, history.PageRequest{From: j.Timeline.PrevBatch, Backwards: true, Limit: 3})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{`"body":"2"`, `"body":"1"`, `"body":"0"`} {
		if !strings.Contains(string(page.Chunk[i]), want) {
			t.Errorf("prev_batch leads to %s, want %s", page.Chunk[i], want)
		}
	}
	after := alice.syncFrom(since, stateAfter).Rooms.Join[room]
	same(t, "topic after the timeline", after.StateAfter.of("m.room.topic"), []string{"third"})
	same(t, "name", after.StateAfter.of("m.room.name"), []string{"in the gap"})
}

func TestStateAfterHasTheNameThatTheClientAskedForEvenWhenEmpty(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	alice.sync()
	alice.say(room, "hi")
	for _, c := range []struct {
		ask                    func(*feed.SyncRequest)
		state, after, unstable bool
	}{{func(*feed.SyncRequest) {}, true, false, false}, {stateAfter, false, true, false}, {msc4222, false, false, true}} {
		j := alice.syncFrom(alice.since, c.ask).Rooms.Join[room]
		if (j.State != nil) != c.state || (j.StateAfter != nil) != c.after || (j.UnstableAfter != nil) != c.unstable {
			t.Errorf("state %v, state_after %v, unstable %v; want %+v", j.State, j.StateAfter, j.UnstableAfter, c)
		}
	}
}

func TestStateAfterHoldsTheStateEventsOfTheTimeline(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	alice.sync()
	alice.send(room, "m.room.topic", `{"topic":"a"}`, "")
	alice.send(room, "m.room.topic", `{"topic":"b"}`, "")
	j := alice.syncFrom(alice.since, msc4222).Rooms.Join[room]
	same(t, "timeline", j.Timeline.of("m.room.topic"), []string{"a", "b"})
	same(t, "state after", j.UnstableAfter.of("m.room.topic"), []string{"b"})
}

func TestOldTokenGetsFullStateOfARoomJoinedSince(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	bob.filter = `{"room":{"timeline":{"limit":2},"state":{"lazy_load_members":true}}}`
	room := alice.create("public_chat")
	alice.send(room, "m.room.name", `{"name":"Ebb"}`, "")
	old := bob.sync().NextBatch
	bob.join(room)
	bob.sync()
	for i := range 4 {
		alice.say(room, fmt.Sprint(i))
		bob.sync()
	}
	j := bob.syncFrom(old).Rooms.Join[room]
	same(t, "timeline", j.Timeline.of("m.room.message"), []string{"2", "3"})
	same(t, "name", j.State.of("m.room.name"), []string{"Ebb"})
	members := j.State.of("m.room.member")
	slices.Sort(members)
	same(t, "members, the user's own among them", members, []string{"@alice join", "@bob join"})
	if !slices.Contains(j.State.types(), "m.room.create") || !j.Timeline.Limited {
		t.Errorf("want full state and a limited timeline: %v", j.State.types())
	}
}

func TestRejoinedRoomGetsFullState(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	bob.sync()
	bob.leave(room)
	if a := bob.sync(); a.Rooms.Leave[room].Timeline.of("m.room.member") == nil || len(a.Rooms.Join) != 0 {
		t.Fatalf("want the room left: %s", a.raw)
	}
	alice.send(room, "m.room.topic", `{"topic":"meanwhile"}`, "")
	bob.join(room)
	bob.filter = `{"room":{"timeline":{"limit":1}}}`
	a := bob.sync()
	if len(a.Rooms.Leave) != 0 {
		t.Errorf("left and joined: %s", a.raw)
	}
	j := a.Rooms.Join[room]
	same(t, "topic", j.State.of("m.room.topic"), []string{"meanwhile"})
	if !slices.Contains(j.State.types(), "m.room.create") {
		t.Errorf("state: %v", j.State.types())
	}
}

func TestFullStateIsGivenOnRequestAtOnce(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	alice.sync()
	j := alice.sync(fullState, func(q *feed.SyncRequest) { q.Timeout = time.Hour }).Rooms.Join[room]
	if !slices.Contains(j.State.types(), "m.room.create") || !slices.Contains(j.State.types(), "m.room.member") || len(j.Timeline.Events) != 0 {
		t.Errorf("want all state and no timeline: %+v", j)
	}
}

func TestLeftRoomShowsWhatHappenedUpToThen(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	bob.sync()
	alice.say(room, "before")
	alice.send(room, "m.room.topic", `{"topic":"before"}`, "")
	bob.leave(room)
	alice.say(room, "after")
	alice.send(room, "m.room.topic", `{"topic":"after"}`, "")
	since := bob.since
	check := func(what string, l joined, ok bool) {
		t.Helper()
		if !ok {
			t.Errorf("%s: the room is missing", what)
			return
		}
		if slices.Contains(l.Timeline.of("m.room.message"), "after") || slices.Contains(l.Timeline.of("m.room.topic"), "after") {
			t.Errorf("%s tells what happened after: %v", what, l.Timeline)
		}
		if !slices.Contains(l.Timeline.of("m.room.message"), "before") || !slices.Contains(l.Timeline.of("m.room.member"), "@bob leave") {
			t.Errorf("%s does not tell what happened before: %v", what, l.Timeline)
		}
		if l.State != nil && slices.Contains(l.State.of("m.room.topic"), "after") {
			t.Errorf("%s has state from after", what)
		}
	}
	a := bob.sync()
	l, ok := a.Rooms.Leave[room]
	check("incremental", l, ok)
	if a := bob.sync(); len(a.Rooms.Leave) != 0 {
		t.Errorf("left twice: %s", a.raw)
	}
	l, ok = bob.syncFrom("", filter(`{"room":{"include_leave":true}}`)).Rooms.Leave[room]
	check("archived", l, ok)
	if a := bob.syncFrom(""); len(a.Rooms.Leave) != 0 {
		t.Errorf("archived rooms come only when asked for: %s", a.raw)
	}
	l = bob.syncFrom("", filter(`{"room":{"include_leave":true,"timeline":{"limit":0}}}`)).Rooms.Leave[room]
	same(t, "topic when leaving", l.State.of("m.room.topic"), []string{"before"})
	if !slices.Contains(l.State.of("m.room.member"), "@bob leave") {
		t.Errorf("members when leaving: %v", l.State.of("m.room.member"))
	}
	l = bob.syncFrom(since, stateAfter).Rooms.Leave[room]
	same(t, "state_after of the left room", l.StateAfter.of("m.room.topic"), []string{"before"})
	u := w.forget(bob, room)
	if a := u.syncFrom("", filter(`{"room":{"include_leave":true}}`)); len(a.Rooms.Leave) != 0 {
		t.Errorf("a forgotten room is shown: %s", a.raw)
	}
}

func TestInitialSyncListsRoomsFromWhichTheUserWasRemoved(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	here := func() id.RoomID {
		room := alice.create("public_chat")
		bob.join(room)
		return room
	}
	banned, kicked, left, unbanned, forgotten, stranger := here(), here(), here(), here(), here(), alice.create("public_chat")
	rescinded := alice.create("private_chat")
	alice.ban(banned, bob)
	alice.kick(kicked, bob)
	bob.leave(left)
	alice.ban(unbanned, bob)
	alice.must(w.Unban(t.Context(), alice.Requester, unbanned, bob.UserID, ""))
	alice.ban(forgotten, bob)
	alice.ban(stranger, bob)
	alice.invite(rescinded, bob)
	alice.kick(rescinded, bob)
	bob = w.forget(bob, forgotten)
	alice.say(banned, "secret")
	a := bob.syncFrom("")
	want := map[id.RoomID]string{banned: "@bob ban", stranger: "@bob ban", kicked: "@bob leave", unbanned: "@bob leave"}
	for room, event := range want {
		if members := a.Rooms.Leave[room].Timeline.of("m.room.member"); len(members) == 0 || members[len(members)-1] != event {
			t.Errorf("members in the timeline of a room with %s: %v", event, members)
		}
	}
	if len(a.Rooms.Leave) != len(want) {
		t.Errorf("%d rooms, want %d: %s", len(a.Rooms.Leave), len(want), a.raw)
	}
	if strings.Contains(a.raw, "secret") {
		t.Error("the banned user sees what was said later")
	}
	if a := bob.syncFrom(a.NextBatch); len(a.Rooms.Leave) != 0 {
		t.Errorf("again: %s", a.raw)
	}
	old, err := w.feed.InitialSync(t.Context(), bob.Requester, 10, false)
	if err != nil || len(old.Rooms) != 0 {
		t.Errorf("/initialSync without archived has %d rooms (%v)", len(old.Rooms), err)
	}
}

func TestRejectedInviteShowsNothingOfTheRoom(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("private_chat")
	alice.say(room, "secret")
	bob.sync()
	alice.invite(room, bob)
	a := bob.sync()
	invite := a.Rooms.Invite[room].InviteState
	for _, typ := range []string{"m.room.create", "m.room.join_rules"} {
		if !slices.Contains(invite.types(), typ) {
			t.Errorf("the invite lacks %s: %v", typ, invite.types())
		}
	}
	same(t, "members of the invite", invite.of("m.room.member"), []string{"@alice join", "@bob invite"})
	if strings.Contains(a.raw, "secret") || invite.Events[0].EventID != "" {
		t.Errorf("the invite shows too much: %s", a.raw)
	}
	if a := bob.sync(); len(a.Rooms.Invite) != 0 {
		t.Errorf("invited twice: %s", a.raw)
	}
	alice.say(room, "more secrets")
	bob.leave(room)
	a = bob.sync()
	l := a.Rooms.Leave[room]
	same(t, "timeline", l.Timeline.of("m.room.member"), []string{"@bob leave"})
	if strings.Contains(a.raw, "secret") || len(l.Timeline.Events) != 1 || len(l.State.Events) != 0 || len(a.DeviceLists.Left) != 0 {
		t.Errorf("want only the leave event: %s", a.raw)
	}
}

func TestKnockIsShownWithStrippedState(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("private_chat")
	alice.send(room, "m.room.join_rules", `{"join_rule":"knock"}`, "")
	alice.send(room, "m.room.name", `{"name":"Ebb"}`, "")
	bob.sync()
	bob.knock(room)
	knock := bob.sync().Rooms.Knock[room].KnockState
	same(t, "name", knock.of("m.room.name"), []string{"Ebb"})
	same(t, "members", knock.of("m.room.member"), []string{"@bob knock"})
}

func TestInviteByAnIgnoredUserIsNotShown(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol := w.user("alice"), w.user("bob"), w.user("carol")
	bob.accountData("", "m.ignored_user_list", `{"ignored_users":{"@alice:`+server+`":{}}}`)
	bob.sync()
	ignored, shown := alice.create("private_chat"), carol.create("private_chat")
	alice.invite(ignored, bob)
	carol.invite(shown, bob)
	a := bob.sync()
	if _, ok := a.Rooms.Invite[ignored]; ok {
		t.Error("the invite of an ignored user is shown")
	}
	if _, ok := a.Rooms.Invite[shown]; !ok {
		t.Error("the other invite is missing")
	}
}

func TestBanEndsTheRoomAndALongPoll(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	bob.sync()
	p := bob.park()
	alice.ban(room, bob)
	a := p.wait()
	same(t, "timeline", a.Rooms.Leave[room].Timeline.of("m.room.member"), []string{"@bob ban"})
	alice.say(room, "gone")
	if a := bob.sync(); strings.Contains(a.raw, "gone") || len(a.Rooms.Join)+len(a.Rooms.Leave) != 0 {
		t.Errorf("the banned user hears more: %s", a.raw)
	}
}

func TestSummaryTellsHeroesAndCountsWhenMembersChange(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol := w.user("alice"), w.user("bob"), w.user("carol")
	alice.filter = `{"room":{"state":{"lazy_load_members":true}}}`
	room := alice.create("public_chat")
	alice.sync()
	bob.join(room)
	alice.invite(room, carol)
	j := alice.sync().Rooms.Join[room]
	same(t, "heroes", j.Summary.Heroes, []id.UserID{bob.UserID, carol.UserID})
	if *j.Summary.Joined != 2 || *j.Summary.Invited != 1 {
		t.Errorf("%d joined, %d invited", *j.Summary.Joined, *j.Summary.Invited)
	}
	alice.say(room, "hi")
	if j := alice.sync().Rooms.Join[room]; j.Summary.Heroes != nil || j.Summary.Joined != nil {
		t.Errorf("the summary is told without a change: %+v", j.Summary)
	}
	for i := range 12 {
		alice.say(room, fmt.Sprint(i))
	}
	members := alice.syncFrom("").Rooms.Join[room].State.of("m.room.member")
	slices.Sort(members)
	same(t, "members under lazy loading: oneself, the sender, the heroes", members, []string{"@alice join", "@bob join", "@carol invite"})
	bob.leave(room)
	carol.leave(room)
	same(t, "former members as heroes", alice.syncFrom("").Rooms.Join[room].Summary.Heroes, []id.UserID{bob.UserID, carol.UserID})
	alice.send(room, "m.room.name", `{"name":"Ebb"}`, "")
	if h := alice.syncFrom("").Rooms.Join[room].Summary.Heroes; h != nil {
		t.Errorf("a room with a name needs no heroes: %v", h)
	}
}

func TestLazyLoadingGivesEachSenderOnce(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol := w.user("alice"), w.user("bob"), w.user("carol")
	alice.filter = `{"room":{"timeline":{"limit":1},"state":{"lazy_load_members":true}}}`
	room := alice.create("public_chat")
	bob.join(room)
	carol.join(room)
	alice.send(room, "m.room.name", `{"name":"Ebb"}`, "")
	same(t, "first sync", alice.sync().Rooms.Join[room].State.of("m.room.member"), []string{"@alice join"})
	bob.say(room, "1")
	since := alice.since
	same(t, "bob is new", alice.sync().Rooms.Join[room].State.of("m.room.member"), []string{"@bob join"})
	same(t, "the answer was lost", alice.syncFrom(since).Rooms.Join[room].State.of("m.room.member"), []string{"@bob join"})
	bob.say(room, "2")
	same(t, "bob is known", alice.sync().Rooms.Join[room].State.of("m.room.member"), []string{})
	redundant := filter(`{"room":{"state":{"lazy_load_members":true,"include_redundant_members":true}}}`)
	bob.say(room, "3")
	same(t, "redundant", alice.syncFrom(alice.since, redundant).Rooms.Join[room].State.of("m.room.member"), []string{"@bob join"})
	same(t, "another chain", alice.syncFrom(alice.syncFrom("").NextBatch).Rooms.Join[room].Timeline.of("m.room.message"), []string{})
	alice.sync()
	bob.send(room, "m.room.member", `{"membership":"join","displayname":"Bob"}`, string(bob.UserID))
	carol.say(room, "4")
	members := alice.sync().Rooms.Join[room].State.of("m.room.member")
	slices.Sort(members)
	same(t, "changes in a gap are told, whoever speaks", members, []string{"@bob join", "@carol join"})
}

func TestLazyLoadingUnderStateAfterHasEverySender(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	j := alice.sync(filter(`{"room":{"state":{"lazy_load_members":true}}}`), stateAfter).Rooms.Join[room]
	members := j.StateAfter.of("m.room.member")
	slices.Sort(members)
	same(t, "members", members, []string{"@alice join", "@bob join"})
}

func TestFiltersAreHonoured(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room, other := alice.create("public_chat"), alice.create("public_chat")
	bob.join(room)
	alice.sync()
	alice.say(room, "by alice")
	bob.say(room, "by bob")
	alice.send(room, "m.room.topic", `{"topic":"t"}`, "")
	alice.send(room, "m.sticker", `{"url":"mxc://x/y","body":"sticker"}`)
	alice.accountData("", "global", `{"n":1}`)
	alice.accountData(room, "m.tag", `{"tags":{}}`)
	alice.say(other, "elsewhere")
	for f, want := range map[string][]string{
		`{}`: {"by alice", "by bob", "t", "sticker"},
		`{"room":{"timeline":{"types":["m.room.message"]}}}`:                  {"by alice", "by bob"},
		`{"room":{"timeline":{"types":["m.room.*"]}}}`:                        {"by alice", "by bob", "t"},
		`{"room":{"timeline":{"not_types":["m.room.mess*"]}}}`:                {"t", "sticker"},
		`{"room":{"timeline":{"senders":["@bob:` + server + `"]}}}`:           {"by bob"},
		`{"room":{"timeline":{"not_senders":["@bob:` + server + `"]}}}`:       {"by alice", "t", "sticker"},
		`{"room":{"timeline":{"contains_url":true}}}`:                         {"sticker"},
		`{"room":{"timeline":{"contains_url":false}}}`:                        {"by alice", "by bob", "t"},
		`{"room":{"timeline":{"not_rooms":["` + string(room) + `"]}}}`:        {},
		`{"room":{"timeline":{"rooms":["` + string(other) + `"]}}}`:           {},
		`{"room":{"timeline":{"limit":1,"types":["m.room.message"]}}}`:        {"by bob"},
		`{"room":{"timeline":{"types":[]}}}`:                                  {},
		`{"event_fields":["content.body","content.topic","type"]}`:            {"by alice", "by bob", "t", "sticker"},
		`{"room":{"not_rooms":["` + string(other) + `"]}}`:                    {"by alice", "by bob", "t", "sticker"},
		`{"room":{"rooms":["` + string(room) + `","` + string(other) + `"]}}`: {"by alice", "by bob", "t", "sticker"},
	} {
		got := []string{}
		for _, e := range alice.syncFrom(alice.since, filter(f)).Rooms.Join[room].Timeline.Events {
			got = append(got, e.String())
		}
		same(t, f, got, want)
	}
	for f, want := range map[string]int{
		`{}`: 2, `{"room":{"not_rooms":["` + string(other) + `"]}}`: 1, `{"room":{"rooms":[]}}`: 0,
		`{"room":{"rooms":["` + string(room) + `"],"not_rooms":["` + string(room) + `"]}}`: 0,
	} {
		if got := len(alice.syncFrom(alice.since, filter(f)).Rooms.Join); got != want {
			t.Errorf("%s: %d rooms, want %d", f, got, want)
		}
	}
	for f, want := range map[string][2]int{
		`{}`: {1, 1}, `{"account_data":{"types":[]}}`: {0, 1}, `{"account_data":{"not_types":["glo*"]}}`: {0, 1},
		`{"room":{"account_data":{"not_types":["m.tag"]}}}`: {1, 0}, `{"room":{"account_data":{"not_rooms":["` + string(room) + `"]}}}`: {1, 0},
	} {
		a := alice.syncFrom(alice.since, filter(f))
		if got := [2]int{len(a.AccountData.Events), len(a.Rooms.Join[room].AccountData.Events)}; got != want {
			t.Errorf("%s: %v account data, want %v", f, got, want)
		}
	}
	a := alice.syncFrom("", filter(`{"room":{"state":{"types":["m.room.create"]}}}`))
	same(t, "state by type", a.Rooms.Join[other].State.types(), []string{})
	a = alice.syncFrom("", filter(`{"room":{"timeline":{"limit":0},"state":{"types":["m.room.create"]}}}`))
	same(t, "state by type", a.Rooms.Join[other].State.types(), []string{"m.room.create"})
	if !a.Rooms.Join[other].Timeline.Limited {
		t.Error("a timeline without events of a room that has some is limited")
	}
	a = alice.syncFrom(alice.since, filter(`{"event_format":"federation","room":{"timeline":{"types":["m.sticker"]}}}`))
	if !strings.Contains(a.raw, `"auth_events"`) {
		t.Errorf("want the federation format: %s", a.raw)
	}
}

func TestStoredFilterIsKeptVerbatimAndUsed(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	const verbatim = `{ "room": {"timeline":{"limit":1}},   "x.unknown" : 1.50 }`
	filterID, err := w.feed.DefineFilter(t.Context(), alice.UserNID, []byte(verbatim))
	alice.must(err)
	again, err := w.feed.DefineFilter(t.Context(), alice.UserNID, []byte(verbatim))
	if alice.must(err); again != filterID || strings.HasPrefix(filterID, "{") {
		t.Errorf("ids %q and %q for the same filter", filterID, again)
	}
	raw, err := w.feed.StoredFilter(t.Context(), alice.UserNID, filterID)
	if alice.must(err); string(raw) != verbatim {
		t.Errorf("%s, want %s", raw, verbatim)
	}
	if _, err := w.feed.StoredFilter(t.Context(), bob.UserNID, filterID); mxerr.Code(err) != "M_NOT_FOUND" {
		t.Errorf("bob reads alice's filter: %v", err)
	}
	room := alice.create("public_chat")
	for range 2 {
		if n := len(alice.syncFrom("", filter(filterID)).Rooms.Join[room].Timeline.Events); n != 1 {
			t.Errorf("%d events in spite of the filter", n)
		}
		w.restart()
	}
	for _, f := range []string{"12345", "x", "{", `{"room":1}`} {
		if _, err := w.feed.Sync(t.Context(), &feed.SyncRequest{Requester: alice.Requester, Filter: f}); mxerr.Code(err) != "M_INVALID_PARAM" {
			t.Errorf("%q: %v", f, err)
		}
	}
}

func TestLongPollEndsWithAnEventOrTheTimeout(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	bob.join(room)
	bob.sync()
	p := bob.park()
	alice.say(room, "wake up")
	same(t, "woken", p.wait().Rooms.Join[room].Timeline.of("m.room.message"), []string{"wake up"})
	p = bob.park()
	elsewhere := alice.create("public_chat")
	alice.say(elsewhere, "not for bob")
	select {
	case <-p.done:
		t.Fatalf("ended by nothing: %s", p.raw)
	default:
	}
	w.pass(31 * time.Second)
	a := p.wait()
	if len(a.Rooms.Join) != 0 {
		t.Errorf("want nothing: %s", a.raw)
	}
}

func TestRetentionHidesExpiredEventsFromSync(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	alice.send(room, "m.room.retention", `{"max_lifetime":60000}`, "")
	bob.join(room)
	bob.sync()
	since := bob.since
	alice.say(room, "perishable")
	same(t, "while it lives", bob.syncFrom(since).Rooms.Join[room].Timeline.of("m.room.message"), []string{"perishable"})
	w.pass(61 * time.Second)
	for _, from := range []string{since, ""} {
		if a := bob.syncFrom(from); strings.Contains(a.raw, "perishable") {
			t.Errorf("an expired message is given: %s", a.raw)
		}
	}
}

func TestIdleSyncTouchesNoTable(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	alice.say(room, "hi")
	alice.sync()
	alice.sync()
	release := w.holdReaders()
	defer release()
	if a := alice.sync(); len(a.Rooms.Join) != 0 || a.Fallback == nil || a.Counts == nil {
		t.Errorf("want nothing but the key counts: %s", a.raw)
	}
}
