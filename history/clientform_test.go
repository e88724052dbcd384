package history

import (
	"ebb/ident"
	"ebb/rooms"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
	"ebb/rooms/pdu"
)

func TestTransactionIDIsForTheSendingDeviceOnly(t *testing.T) {
	l := newLibrary(t)
	phone, laptop, bob := l.user("alice"), l.user("alice"), l.user("bob")
	room := l.room(phone, "shared")
	l.join(bob, room)
	e := l.say(phone, room, "hello")
	txn := fmt.Sprint("txn", l.txn)
	for _, c := range []struct {
		who  ident.Requester
		want string
	}{{phone, txn}, {laptop, ""}, {bob, ""}} {
		if got := l.get(c.who, room, e).Unsigned.TransactionID; got != c.want {
			t.Errorf("%s: transaction_id %q, want %q", c.who.UserID, got, c.want)
		}
		events, _ := l.messages(c.who, room, PageRequest{Backwards: true, Limit: 1})
		if got := events[0].Unsigned.TransactionID; got != c.want {
			t.Errorf("%s in messages: transaction_id %q, want %q", c.who.UserID, got, c.want)
		}
	}
}

func TestAgeIsTheTimeSinceTheEventWasSent(t *testing.T) {
	l := newLibrary(t)
	alice := l.user("alice")
	room := l.room(alice, "shared")
	e := l.say(alice, room, "hello")
	l.now = l.now.Add(1500 * time.Millisecond)
	if age := l.get(alice, room, e).Unsigned.Age; age == nil || *age != 1500 {
		t.Errorf("age %v", age)
	}
}

func TestReplacedStateIsToldAndItsContentToWhoCouldSeeIt(t *testing.T) {
	onBoth(t, replacedStateIsToldAndItsContentToWhoCouldSeeIt)
}

func replacedStateIsToldAndItsContentToWhoCouldSeeIt(t *testing.T, l *library) {
	alice, bob := l.user("alice"), l.user("bob")
	room := l.room(alice, "joined")
	first := l.state(alice, room, "m.room.topic", "", `{"topic":"one"}`)
	l.join(bob, room)
	second := l.state(alice, room, "m.room.topic", "", `{"topic":"two"}`)
	third := l.state(alice, room, "m.room.topic", "", `{"topic":"three"}`)
	if u := l.get(alice, room, first).Unsigned; u.ReplacesState != "" || u.PrevContent != nil {
		t.Errorf("the first topic replaces %q", u.ReplacesState)
	}
	if u := l.get(alice, room, second).Unsigned; u.ReplacesState != first || u.PrevContent["topic"] != "one" {
		t.Errorf("for alice the second topic replaces %q, %v", u.ReplacesState, u.PrevContent)
	}
	if u := l.get(bob, room, second).Unsigned; u.ReplacesState != first || u.PrevContent != nil {
		t.Errorf("for bob the second topic replaces %q, %v", u.ReplacesState, u.PrevContent)
	}
	if u := l.get(bob, room, third).Unsigned; u.ReplacesState != second || u.PrevContent["topic"] != "two" {
		t.Errorf("for bob the third topic replaces %q, %v", u.ReplacesState, u.PrevContent)
	}
}

func TestRedactedEventsNameTheirRedactionInEveryRoomVersion(t *testing.T) {
	for _, version := range pdu.Versions() {
		l := newLibrary(t)
		alice := l.user("alice")
		room, err := l.rooms.Create(t.Context(), alice, rooms.CreateRoom{RoomVersion: version})
		l.check(err)
		e := l.say(alice, room, "oops")
		redaction, err := l.rooms.Redact(t.Context(), alice, room, e, "typo", nil)
		l.check(err)
		got := l.get(alice, room, e)
		if len(got.Content) != 0 || got.Unsigned.Because == nil || got.Unsigned.Because.EventID != redaction || got.Unsigned.Because.RoomID != "" {
			t.Errorf("version %s: %+v", version, got)
			continue
		}
		for _, r := range []clientEvent{*got.Unsigned.Because, l.get(alice, room, redaction)} {
			if r.Redacts != e || r.Content["redacts"] != string(e) || r.Content["reason"] != "typo" {
				t.Errorf("version %s: the redaction names %q and %v", version, r.Redacts, r.Content)
			}
		}
		if create := l.get(alice, room, l.createID(alice, room)); create.RoomID != room {
			t.Errorf("version %s: the create event is of room %q", version, create.RoomID)
		}
	}
}

func TestLatestValidEditIsBundled(t *testing.T) { onBoth(t, latestValidEditIsBundled) }

func latestValidEditIsBundled(t *testing.T, l *library) {
	alice, bob := l.user("alice"), l.user("bob")
	room := l.room(alice, "shared")
	l.join(bob, room)
	e := l.say(alice, room, "original")
	l.relate(alice, room, relReplace, e, "first")
	second := l.relate(alice, room, relReplace, e, "second")
	l.relate(bob, room, relReplace, e, "not bob's to edit")
	l.send(alice, room, "m.sticker", `{"m.new_content":{},"m.relates_to":{"rel_type":"m.replace","event_id":"`+string(e)+`"}}`)
	l.send(alice, room, "m.room.message", `{"body":"no new content","m.relates_to":{"rel_type":"m.replace","event_id":"`+string(e)+`"}}`)
	edit := func() string {
		got := l.get(bob, room, e)
		if got.RoomID != room {
			t.Errorf("room_id %q", got.RoomID)
		}
		if got.Unsigned.Relations.Replace == nil {
			return ""
		}
		return got.Unsigned.Relations.Replace.body()
	}
	if l.get(bob, room, e).body() != "original" || edit() != "second" {
		t.Errorf("edited to %q", edit())
	}
	l.relate(alice, room, relReplace, second, "an edit of the edit")
	if edit() != "second" {
		t.Errorf("after an edit of the edit: %q", edit())
	}
	_, err := l.rooms.Redact(t.Context(), alice, room, second, "", nil)
	l.check(err)
	if edit() != "first" {
		t.Errorf("after its redaction: %q", edit())
	}
	_, err = l.rooms.Redact(t.Context(), alice, room, e, "", nil)
	l.check(err)
	if edit() != "" {
		t.Errorf("a redacted event is edited to %q", edit())
	}
}

func TestEditsOfTheSameMomentAreOrderedByID(t *testing.T) {
	l := newLibrary(t)
	alice := l.user("alice")
	room := l.room(alice, "shared")
	e := l.say(alice, room, "original")
	var edits []string
	for i := range 6 {
		l.now = l.now.Add(-time.Second) // send adds the second again
		edits = append(edits, string(l.relate(alice, room, relReplace, e, fmt.Sprint(i))))
	}
	if got := l.get(alice, room, e).Unsigned.Relations.Replace; got == nil || string(got.EventID) != slices.Max(edits) {
		t.Errorf("%+v, want %s", got, slices.Max(edits))
	}
}

func TestThreadsAndReferencesAreBundled(t *testing.T) { onBoth(t, threadsAndReferencesAreBundled) }

func threadsAndReferencesAreBundled(t *testing.T, l *library) {
	alice, bob, carol := l.user("alice"), l.user("bob"), l.user("carol")
	room := l.room(alice, "shared")
	l.join(bob, room)
	l.join(carol, room)
	root := l.say(alice, room, "root")
	l.relate(bob, room, relThread, root, "one")
	two := l.relate(alice, room, relThread, root, "two")
	l.relate(alice, room, relReplace, two, "two, edited")
	ref := l.relate(carol, room, relReference, root, "see there")
	got := l.get(bob, room, root).Unsigned.Relations
	if th := got.Thread; th == nil || th.Count != 2 || !th.Participated || th.Latest.EventID != two || th.Latest.Unsigned.Relations.Replace == nil {
		t.Errorf("thread: %+v", th)
	}
	if got.Reference == nil || len(got.Reference.Chunk) != 1 || got.Reference.Chunk[0].EventID != ref {
		t.Errorf("references: %+v", got.Reference)
	}
	for who, want := range map[ident.Requester]bool{alice: true, bob: true, carol: false} {
		if p := l.get(who, room, root).Unsigned.Relations.Thread.Participated; p != want {
			t.Errorf("%s participated: %v", who.UserID, p)
		}
	}
	l.ignore(bob, alice)
	if l.mayGet(bob, room, root) {
		t.Error("the root of an ignored user is given")
	}
	l.ignore(carol, bob)
	if th := l.get(carol, room, root).Unsigned.Relations.Thread; th == nil || th.Count != 1 {
		t.Errorf("without the replies of the ignored: %+v", th)
	}
	l.ignore(carol, bob, alice)
	page, err := l.svc.Threads(t.Context(), room, carol, ThreadsRequest{Limit: 5})
	l.check(err)
	if len(page.Chunk) != 0 {
		t.Errorf("a thread of ignored users alone: %s", page.Chunk)
	}
	_, err = l.rooms.Redact(t.Context(), alice, room, two, "", nil)
	l.check(err)
	if th := l.get(alice, room, root).Unsigned.Relations.Thread; th == nil || th.Count != 1 || th.Latest.body() != "one" {
		t.Errorf("after a redacted reply: %+v", th)
	}
}

func TestThreadsAreOrderedByTheirLatestReplies(t *testing.T) {
	onBoth(t, threadsAreOrderedByTheirLatestReplies)
}

func threadsAreOrderedByTheirLatestReplies(t *testing.T, l *library) {
	alice, bob := l.user("alice"), l.user("bob")
	room := l.room(alice, "shared")
	l.join(bob, room)
	a, b, c := l.say(alice, room, "a"), l.say(alice, room, "b"), l.say(bob, room, "c")
	l.say(alice, room, "no thread")
	for _, root := range []id.EventID{a, b, c} {
		l.relate(alice, room, relThread, root, "reply")
	}
	l.relate(alice, room, relThread, a, "again")
	list := func(req ThreadsRequest, who ident.Requester) (roots []id.EventID) {
		req.Limit = 1
		for range 10 {
			page, err := l.svc.Threads(t.Context(), room, who, req)
			l.check(err)
			roots = append(roots, eventIDs(l.parseAll(page.Chunk))...)
			if req.From = page.NextBatch; req.From == "" {
				return roots
			}
		}
		t.Error("no end")
		return roots
	}
	if got := list(ThreadsRequest{}, bob); !slices.Equal(got, []id.EventID{a, c, b}) {
		t.Errorf("all: %v", got)
	}
	if got := list(ThreadsRequest{Participated: true}, bob); !slices.Equal(got, []id.EventID{c}) {
		t.Errorf("bob's: %v", got)
	}
	l.relate(bob, room, relThread, b, "bob too")
	if got := list(ThreadsRequest{Participated: true}, bob); !slices.Equal(got, []id.EventID{b, c}) {
		t.Errorf("bob's, later: %v", got)
	}
	l.ignore(bob, alice)
	page, err := l.svc.Threads(t.Context(), room, bob, ThreadsRequest{Limit: 10})
	l.check(err)
	roots := l.parseAll(page.Chunk)
	if len(roots) != 1 || roots[0].EventID != b || len(roots[0].Content) != 0 || roots[0].Unsigned.Relations.Thread.Latest.body() != "bob too" {
		t.Errorf("a root of an ignored user with a reply of another: %s", page.Chunk)
	}
	relations, err := l.svc.Relations(t.Context(), room, b, bob, RelationsRequest{RelType: relThread, Limit: 10})
	l.check(err)
	if replies := l.parseAll(relations.Chunk); len(replies) != 1 || replies[0].body() != "bob too" {
		t.Errorf("the replies to a root that /threads lists: %s", relations.Chunk)
	}
}

func TestRelationsArePagedFilteredAndFollowed(t *testing.T) {
	onBoth(t, relationsArePagedFilteredAndFollowed)
}

func relationsArePagedFilteredAndFollowed(t *testing.T, l *library) {
	alice, bob := l.user("alice"), l.user("bob")
	room := l.room(alice, "shared")
	l.join(bob, room)
	root := l.say(alice, room, "root")
	var replies []id.EventID
	for i := range 7 {
		replies = append(replies, l.relate(alice, room, relThread, root, fmt.Sprint("reply ", i)))
	}
	note := func(to id.EventID) id.EventID {
		return l.send(bob, room, "m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"`+string(to)+`","key":"+1"}}`)
	}
	direct := note(root)
	second := note(replies[0])
	third := l.relate(alice, room, relReference, second, "third")
	fourth := l.relate(alice, room, relReference, third, "fourth")
	list := func(req RelationsRequest) (found []id.EventID) {
		if req.Limit == 0 {
			req.Limit = 2
		}
		for range 20 {
			page, err := l.svc.Relations(t.Context(), room, root, bob, req)
			l.check(err)
			if want := map[bool]int{true: relationDepth}[req.Recurse]; page.RecursionDepth != want {
				t.Errorf("recursion depth %d", page.RecursionDepth)
			}
			found = append(found, eventIDs(l.parseAll(page.Chunk))...)
			if req.From = page.NextBatch; req.From == "" {
				return found
			}
		}
		t.Error("no end")
		return found
	}
	newestFirst := slices.Clone(replies)
	slices.Reverse(newestFirst)
	for _, c := range []struct {
		name string
		req  RelationsRequest
		want []id.EventID
	}{
		{"all", RelationsRequest{}, append([]id.EventID{direct}, newestFirst...)},
		{"oldest first", RelationsRequest{Forwards: true}, append(slices.Clone(replies), direct)},
		{"of a type", RelationsRequest{RelType: relThread, Limit: 100}, newestFirst},
		{"of an event type", RelationsRequest{RelType: "m.annotation", EventType: "m.reaction"}, []id.EventID{direct}},
		{"of no type", RelationsRequest{RelType: "m.annotation", EventType: "m.room.message"}, nil},
		{"followed", RelationsRequest{Recurse: true, Forwards: true}, append(slices.Clone(replies), direct, second, third)},
		{"followed, of a type", RelationsRequest{Recurse: true, RelType: "m.annotation"}, []id.EventID{second, direct}},
	} {
		if got := list(c.req); !slices.Equal(got, c.want) {
			t.Errorf("%s: %d events %v, want %v", c.name, len(got), got, c.want)
		}
	}
	if got := list(RelationsRequest{Recurse: true}); slices.Contains(got, fourth) {
		t.Error("followed beyond the depth")
	}
	_, err := l.rooms.Redact(t.Context(), bob, room, direct, "", nil)
	l.check(err)
	if got := list(RelationsRequest{RelType: "m.annotation"}); len(got) != 0 {
		t.Errorf("a redacted reaction is still related: %v", got)
	}
	if _, err := l.svc.Relations(t.Context(), room, "$none", bob, RelationsRequest{Limit: 1}); mxerr.Code(err) != mxerr.CodeNotFound {
		t.Errorf("relations of nothing: %v", err)
	}
}

func TestContextGivesNeighboursTokensAndState(t *testing.T) {
	l := newLibrary(t)
	alice, bob, carol := l.user("alice"), l.user("bob"), l.user("carol")
	room := l.room(alice, "shared")
	l.join(bob, room)
	l.join(carol, room)
	l.state(alice, room, "m.room.topic", "", `{"topic":"old"}`)
	var sent []id.EventID
	for i := range 9 {
		sent = append(sent, l.say(bob, room, fmt.Sprint(i)))
	}
	l.state(alice, room, "m.room.topic", "", `{"topic":"new"}`)
	around, err := l.svc.EventContext(t.Context(), room, sent[4], alice, 5, EventFilter{LazyLoadMembers: true})
	l.check(err)
	l.same("before", bodies(l.parseAll(around.EventsBefore)), []string{"3", "2"})
	l.same("after", bodies(l.parseAll(around.EventsAfter)), []string{"5", "6", "7"})
	if l.parse(around.Event).EventID != sent[4] {
		t.Errorf("%s", around.Event)
	}
	members, topic := 0, ""
	for _, e := range l.parseAll(around.State) {
		switch e.Type {
		case typeMember:
			members++
		case "m.room.topic":
			topic, _ = e.Content["topic"].(string)
		}
	}
	if members != 1 || topic != "old" {
		t.Errorf("state has %d members and the topic %q", members, topic)
	}
	events, _ := l.messages(alice, room, PageRequest{From: around.Start, Backwards: true, Limit: 2})
	l.same("from start", bodies(events), []string{"1", "0"})
	events, _ = l.messages(alice, room, PageRequest{From: around.End, Limit: 1})
	l.same("from end", bodies(events), []string{"8"})
	none, err := l.svc.EventContext(t.Context(), room, sent[4], alice, 0, EventFilter{})
	l.check(err)
	if len(none.EventsBefore)+len(none.EventsAfter) != 0 || l.parse(none.Event).EventID != sent[4] {
		t.Errorf("limit 0: %+v", none)
	}
	members = 0
	for _, e := range l.parseAll(none.State) {
		if e.Type == typeMember {
			members++
		}
	}
	if members != 3 {
		t.Errorf("all members are %d", members)
	}
}

func TestMembersNowThenAndAsTheyWereAtALeave(t *testing.T) {
	onBoth(t, membersNowThenAndAsTheyWereAtALeave)
}

func membersNowThenAndAsTheyWereAtALeave(t *testing.T, l *library) {
	alice, bob, carol, dave := l.user("alice"), l.user("bob"), l.user("carol"), l.user("dave")
	room := l.room(alice, "joined")
	l.join(bob, room)
	early := TimelineToken(l.lastOrder(room))
	l.join(carol, room)
	l.check(l.rooms.Invite(t.Context(), alice, room, dave.UserID, ""))
	l.state(alice, room, "m.room.name", "", `{"name":"old"}`)
	l.leave(bob, room)
	l.leave(carol, room)
	l.state(alice, room, "m.room.name", "", `{"name":"new"}`)
	list := func(who ident.Requester, req MembersRequest) (got []string) {
		forms, err := l.svc.GetMembers(t.Context(), room, who, req)
		l.check(err)
		for _, e := range l.parseAll(forms) {
			user, _, _ := strings.Cut((*e.StateKey)[1:], ":")
			got = append(got, fmt.Sprint(user, " ", e.Content["membership"]))
		}
		slices.Sort(got)
		return got
	}
	l.same("now", list(alice, MembersRequest{}), []string{"alice join", "bob leave", "carol leave", "dave invite"})
	l.same("joined", list(alice, MembersRequest{Membership: rooms.Join}), []string{"alice join"})
	l.same("not left", list(alice, MembersRequest{NotMembership: rooms.Leave}), []string{"alice join", "dave invite"})
	l.same("left or not invited", list(alice, MembersRequest{Membership: rooms.Leave, NotMembership: rooms.Invite}), []string{"alice join", "bob leave", "carol leave"})
	l.same("then", list(alice, MembersRequest{At: early}), []string{"alice join", "bob join"})
	l.same("before the room", list(alice, MembersRequest{At: "t0"}), []string{"alice join"})
	l.same("for bob", list(bob, MembersRequest{}), []string{"alice join", "bob leave", "carol join", "dave invite"})
	l.same("for bob, then", list(bob, MembersRequest{At: early}), []string{"alice join", "bob join"})
	for who, want := range map[ident.Requester]string{alice: `{"name":"new"}`, bob: `{"name":"old"}`} {
		content, err := l.svc.StateEvent(t.Context(), room, "m.room.name", "", who, false)
		l.check(err)
		if string(content) != want {
			t.Errorf("%s: the name is %s", who.UserID, content)
		}
		state, err := l.svc.RoomState(t.Context(), room, who)
		l.check(err)
		if !slices.ContainsFunc(l.parseAll(state), func(e clientEvent) bool {
			name, _ := json.Marshal(e.Content)
			return e.Type == "m.room.name" && string(name) == want
		}) {
			t.Errorf("%s: the state lacks the name %s", who.UserID, want)
		}
	}
	whole, err := l.svc.StateEvent(t.Context(), room, typeMember, string(carol.UserID), alice, true)
	l.check(err)
	if e := l.parse(whole); e.Sender != carol.UserID || e.Content["membership"] != rooms.Leave {
		t.Errorf("%s", whole)
	}
	if _, err := l.svc.StateEvent(t.Context(), room, "m.none", "", alice, false); mxerr.Code(err) != mxerr.CodeNotFound {
		t.Errorf("state that is not there: %v", err)
	}
}

func TestJoinedMembersHaveTheirProfiles(t *testing.T) {
	l := newLibrary(t)
	alice, bob, carol := l.user("alice"), l.user("bob"), l.user("carol")
	room := l.room(alice, "shared")
	l.join(bob, room)
	l.join(carol, room)
	l.leave(carol, room)
	l.state(bob, room, typeMember, string(bob.UserID), `{"membership":"join","displayname":"Bob \"B\"","avatar_url":"mxc://here/b"}`)
	got, err := l.svc.JoinedMembers(t.Context(), room, alice)
	l.check(err)
	var members map[id.UserID]map[string]*string
	if err := json.Unmarshal(got, &members); err != nil {
		t.Fatal(err)
	}
	if len(members) != 2 || *members[bob.UserID]["display_name"] != `Bob "B"` || *members[bob.UserID]["avatar_url"] != "mxc://here/b" {
		t.Errorf("%s", got)
	}
	if name, present := members[alice.UserID]["display_name"]; !present || name == nil || *name != "" {
		t.Errorf("without a name: %s", got)
	}
	if _, err := l.svc.JoinedMembers(t.Context(), room, carol); mxerr.Code(err) != mxerr.CodeForbidden {
		t.Errorf("one who has left: %v", err)
	}
}

func TestEventsAreFoundByTime(t *testing.T) { onBoth(t, eventsAreFoundByTime) }

func eventsAreFoundByTime(t *testing.T, l *library) {
	alice := l.user("alice")
	room := l.room(alice, "shared")
	start := l.now
	sent := map[int64]id.EventID{}
	for i := range 200 {
		e := l.say(alice, room, fmt.Sprint(i))
		sent[int64(i+1)] = e
	}
	at := func(offset time.Duration, backwards bool) id.EventID {
		e, ts, err := l.svc.TimestampToEvent(t.Context(), room, alice, start.Add(offset), backwards)
		if mxerr.Code(err) == mxerr.CodeNotFound {
			return ""
		}
		l.check(err)
		if found := l.get(alice, room, e); found.TS != ts {
			t.Errorf("%s: %d, want %d", e, ts, found.TS)
		}
		return e
	}
	for _, c := range []struct {
		offset    time.Duration
		backwards bool
		want      id.EventID
	}{
		{100 * time.Second, false, sent[100]}, {100 * time.Second, true, sent[100]},
		{100*time.Second + 1*time.Millisecond, false, sent[101]}, {100*time.Second + 1*time.Millisecond, true, sent[100]},
		{time.Hour, false, ""}, {time.Hour, true, sent[200]},
		{-time.Hour, true, ""}, {-time.Hour, false, l.createID(alice, room)},
		{200 * time.Second, false, sent[200]},
	} {
		if got := at(c.offset, c.backwards); got != c.want {
			t.Errorf("%v, backwards %v: %s, want %s", c.offset, c.backwards, got, c.want)
		}
	}
}

func TestJoinedRoomsAreListed(t *testing.T) { onBoth(t, joinedRoomsAreListed) }

func joinedRoomsAreListed(t *testing.T, l *library) {
	alice, bob := l.user("alice"), l.user("bob")
	one, two := l.room(alice, "shared"), l.room(alice, "shared")
	l.join(bob, one)
	l.join(bob, two)
	l.leave(bob, one)
	got, err := l.rooms.JoinedRooms(t.Context(), bob.UserNID)
	l.check(err)
	if !slices.Equal(got, []string{string(two)}) {
		t.Errorf("%v", got)
	}
}
