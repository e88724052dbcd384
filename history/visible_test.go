package history

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

func TestHistoryVisibilityHoldsOnEveryRead(t *testing.T) {
	// what bob may read: he is invited after "before", joins after "invited", leaves after "joined" and returns after
	// "left"
	for visibility, want := range map[string][]string{
		"world_readable": {"before", "invited", "joined", "left", "back"},
		"shared":         {"before", "invited", "joined", "left", "back"},
		"invited":        {"invited", "joined", "back"},
		"joined":         {"joined", "back"},
	} {
		t.Run(visibility, func(t *testing.T) {
			l := newLibrary(t)
			alice, bob := l.user("alice"), l.user("bob")
			room := l.room(alice, visibility)
			sent := map[string]id.EventID{}
			say := func(text string) { sent[text] = l.say(alice, room, text) }
			say("before")
			l.check(l.rooms.Invite(t.Context(), alice, room, bob.UserID, ""))
			say("invited")
			l.join(bob, room)
			say("joined")
			l.leave(bob, room)
			say("left")
			l.join(bob, room)
			say("back")

			events, _ := l.messages(bob, room, PageRequest{})
			l.same("messages", bodies(events), want)
			for text, e := range sent {
				if got, should := l.mayGet(bob, room, e), slices.Contains(want, text); got != should {
					t.Errorf("event %q: %v", text, got)
				}
				_, err := l.svc.EventContext(t.Context(), room, e, bob, 10, EventFilter{})
				if (err == nil) != slices.Contains(want, text) {
					t.Errorf("context of %q: %v", text, err)
				}
			}
		})
	}
}

func TestFormerMembersReadWhatTheyCouldUntilTheyLeft(t *testing.T) {
	for visibility, want := range map[string][]string{
		"shared": {"before", "joined"},
		"joined": {"joined"},
	} {
		l := newLibrary(t)
		alice, bob := l.user("alice"), l.user("bob")
		room := l.room(alice, visibility)
		l.say(alice, room, "before")
		l.join(bob, room)
		l.say(alice, room, "joined")
		l.leave(bob, room)
		token := TimelineToken(l.lastOrder(room))
		l.say(alice, room, "left")
		l.check(l.rooms.Ban(t.Context(), alice, room, bob.UserID, ""))
		l.say(alice, room, "banned")

		events, _ := l.messages(bob, room, PageRequest{})
		l.same(visibility, bodies(events), want)
		events, page := l.messages(bob, room, PageRequest{From: token})
		if visibility == "joined" && len(bodies(events)) > 0 || page.End != "" {
			t.Errorf("%s: %d events after the leave", visibility, len(events))
		}
	}
}

func (l *library) lastOrder(room id.RoomID) ident.Order {
	l.t.Helper()
	r, err := l.rooms.Room(l.t.Context(), room)
	l.check(err)
	return r.LastOrder()
}

func TestStrangersReadNothing(t *testing.T) {
	l := newLibrary(t)
	alice, eve := l.user("alice"), l.user("eve")
	room := l.room(alice, "shared")
	e := l.say(alice, room, "secret")
	l.relate(alice, room, relThread, e, "secret too")
	for name, who := range map[string]ident.Requester{"stranger": eve, "invited": l.invited(alice, room), "declined": l.declined(alice, room)} {
		for what, err := range l.readAll(who, room, e) {
			want := mxerr.CodeForbidden
			if what == "event" || what == "context" || what == "relations" {
				want = mxerr.CodeNotFound
			}
			if mxerr.Code(err) != want {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
	for what, err := range l.readAll(alice, "!nowhere:here", e) {
		if c := mxerr.Code(err); c != mxerr.CodeForbidden && c != mxerr.CodeNotFound {
			t.Errorf("a room that is none, %s: %v", what, err)
		}
	}
}

func (l *library) invited(by ident.Requester, room id.RoomID) ident.Requester {
	l.t.Helper()
	s := l.user("invited")
	l.check(l.rooms.Invite(l.t.Context(), by, room, s.UserID, ""))
	return s
}

func (l *library) declined(by ident.Requester, room id.RoomID) ident.Requester {
	l.t.Helper()
	s := l.user("declined")
	l.check(l.rooms.Invite(l.t.Context(), by, room, s.UserID, ""))
	l.leave(s, room)
	return s
}

// readAll reads an event in every possible way and returns the errors.
func (l *library) readAll(who ident.Requester, room id.RoomID, e id.EventID) map[string]error {
	ctx, to, errs := l.t.Context(), who, map[string]error{}
	_, errs["messages"] = l.svc.Messages(ctx, room, to, PageRequest{Limit: 10})
	_, errs["event"] = l.svc.GetEvent(ctx, room, e, to)
	_, errs["context"] = l.svc.EventContext(ctx, room, e, to, 10, EventFilter{})
	_, errs["relations"] = l.svc.Relations(ctx, room, e, to, RelationsRequest{Limit: 10})
	_, errs["threads"] = l.svc.Threads(ctx, room, to, ThreadsRequest{Limit: 10})
	_, errs["state"] = l.svc.RoomState(ctx, room, to)
	_, errs["state entry"] = l.svc.StateEvent(ctx, room, "m.room.create", "", to, false)
	_, errs["members"] = l.svc.GetMembers(ctx, room, to, MembersRequest{})
	_, errs["joined members"] = l.svc.JoinedMembers(ctx, room, to)
	_, _, errs["time"] = l.svc.TimestampToEvent(ctx, room, to, l.now, true)
	return errs
}

func TestAnybodyReadsWhereAnybodyMay(t *testing.T) {
	l := newLibrary(t)
	alice, eve := l.user("alice"), l.user("eve")
	room := l.room(alice, "world_readable")
	e := l.say(alice, room, "hello")
	for what, err := range l.readAll(eve, room, e) {
		if what == "joined members" {
			if mxerr.Code(err) != mxerr.CodeForbidden {
				t.Errorf("%s: %v", what, err)
			}
		} else if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	l.state(alice, room, typeHistoryVisibility, "", `{"history_visibility":"shared"}`)
	l.say(alice, room, "now private")
	if _, err := l.svc.Messages(t.Context(), room, eve, PageRequest{Limit: 10}); mxerr.Code(err) != mxerr.CodeForbidden {
		t.Errorf("after the room closed: %v", err)
	}
}

func TestForgottenRoomsAreClosed(t *testing.T) { onBoth(t, forgottenRoomsAreClosed) }

func forgottenRoomsAreClosed(t *testing.T, l *library) {
	alice, bob := l.user("alice"), l.user("bob")
	room := l.room(alice, "shared")
	l.join(bob, room)
	e := l.say(alice, room, "hello")
	l.leave(bob, room)
	if _, err := l.svc.Messages(t.Context(), room, bob, PageRequest{Limit: 10}); err != nil {
		t.Fatal(err)
	}
	l.check(l.rooms.Forget(t.Context(), bob, room))
	for what, err := range l.readAll(bob, room, e) {
		if c := mxerr.Code(err); c != mxerr.CodeForbidden && c != mxerr.CodeNotFound {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestMembershipOfTheReaderStandsOnEveryEvent(t *testing.T) {
	l := newLibrary(t)
	alice, bob := l.user("alice"), l.user("bob")
	room := l.room(alice, "shared")
	l.say(alice, room, "one")
	l.check(l.rooms.Invite(t.Context(), alice, room, bob.UserID, ""))
	l.say(alice, room, "two")
	l.join(bob, room)
	l.say(alice, room, "three")
	events, _ := l.messages(bob, room, PageRequest{})
	want := rooms.Leave
	for _, e := range events {
		if e.Type == typeMember && *e.StateKey == string(bob.UserID) {
			want, _ = e.Content["membership"].(string)
		}
		if e.Unsigned.Membership != want {
			t.Errorf("%s %s: membership is %q, want %q", e.Type, e.body(), e.Unsigned.Membership, want)
		}
	}
	if want != rooms.Join {
		t.Error("bob's join is not there")
	}
}

func TestIgnoredUsersMessagesAreHiddenAndTheirStateIsNot(t *testing.T) {
	l := newLibrary(t)
	alice, bob := l.user("alice"), l.user("bob")
	room := l.room(alice, "shared")
	l.join(bob, room)
	e := l.say(bob, room, "spam")
	l.say(alice, room, "fine")
	l.ignore(alice, bob)
	events, _ := l.messages(alice, room, PageRequest{})
	l.same("ignoring", bodies(events), []string{"fine"})
	if l.mayGet(alice, room, e) {
		t.Error("the event of an ignored user is given by its id")
	}
	if !slices.ContainsFunc(events, func(e clientEvent) bool { return e.Type == typeMember && e.Sender == bob.UserID }) {
		t.Error("the ignored user's join is missing")
	}
	l.ignore(alice)
	events, _ = l.messages(alice, room, PageRequest{})
	l.same("no longer ignoring", bodies(events), []string{"spam", "fine"})
}

func TestNobodyIgnoresThemselves(t *testing.T) {
	l := newLibrary(t)
	alice, bob := l.user("alice"), l.user("bob")
	room := l.room(alice, "shared")
	l.join(bob, room)
	l.say(bob, room, "spam")
	e := l.say(alice, room, "mine")
	l.ignore(alice, alice, bob)
	events, _ := l.messages(alice, room, PageRequest{})
	l.same("one's own message", bodies(events), []string{"mine"})
	if !l.mayGet(alice, room, e) {
		t.Error("one's own message is not given by its ID")
	}
	list, err := l.data.Ignores(t.Context(), nil, alice.UserNID)
	if l.check(err); len(list) != 1 {
		t.Errorf("ignored: %v, want bob", list)
	}
}

func TestErasedUsersAreRedactedForUsersWhoJoinLater(t *testing.T) {
	onBoth(t, erasedUsersAreRedactedForWhoJoinsLater)
}

func erasedUsersAreRedactedForWhoJoinsLater(t *testing.T, l *library) {
	alice, bob, carol := l.user("alice"), l.user("bob"), l.user("carol")
	room := l.room(alice, "shared")
	before := l.say(alice, room, "before bob")
	l.join(bob, room)
	l.say(alice, room, "with bob")
	edited := l.relate(alice, room, relReplace, before, "edited")
	l.check(l.rooms.Erase(t.Context(), alice.UserNID))
	l.join(carol, room)
	events, _ := l.messages(bob, room, PageRequest{})
	l.same("bob was there", bodies(events), []string{"before bob", "with bob", "edited"})
	events, page := l.messages(carol, room, PageRequest{})
	l.same("carol came later", bodies(events), []string{"", "", ""})
	for _, form := range append(page.Chunk, l.form(carol, room, before), l.form(carol, room, edited)) {
		if strings.Contains(string(form), "bob") && strings.Contains(string(form), `"body"`) {
			t.Errorf("leaks: %s", form)
		}
	}
	l.restart()
	events, _ = l.messages(carol, room, PageRequest{})
	l.same("after a restart", bodies(events), []string{"", "", ""})
}

func (l *library) form(s ident.Requester, room id.RoomID, e id.EventID) json.RawMessage {
	l.t.Helper()
	form, err := l.svc.GetEvent(l.t.Context(), room, e, s)
	l.check(err)
	return form
}

func TestExpiredEventsAreNowhereAndNeverEndAPage(t *testing.T) {
	onBoth(t, expiredEventsAreNowhereAndNeverEndAPage)
}

func expiredEventsAreNowhereAndNeverEndAPage(t *testing.T, l *library) {
	alice, bob := l.user("alice"), l.user("bob")
	room := l.room(alice, "shared", rooms.InitialState{Type: "m.room.retention", Content: json.RawMessage(`{"max_lifetime":86400000}`)})
	l.join(bob, room)
	first := l.say(alice, room, "early")
	root := l.say(alice, room, "root")
	l.relate(alice, room, relThread, root, "marker thread")
	l.relate(alice, room, relReplace, root, "marker edit")
	l.relate(alice, room, relReference, root, "marker reference")
	redacted := l.say(alice, room, "redacted")
	for range 300 {
		l.say(alice, room, "marker")
	}
	topic := l.state(alice, room, "m.room.topic", "", `{"topic":"kept"}`)
	l.now = l.now.Add(23 * time.Hour)
	fresh := l.say(alice, room, "fresh")
	_, err := l.rooms.Redact(t.Context(), alice, room, redacted, "reason", nil)
	l.check(err)
	reply := l.relate(alice, room, relThread, root, "fresh reply")
	l.now = l.now.Add(2 * time.Hour)

	var all strings.Builder
	var got []id.EventID
	from := ""
	for range 50 {
		events, p := l.messages(bob, room, PageRequest{From: from, Backwards: true, Limit: 5})
		if len(events) < 5 && p.End != "" {
			t.Errorf("a page of %d events is not the last", len(events))
		}
		got = append(got, eventIDs(events)...)
		for _, f := range p.Chunk {
			all.Write(f)
		}
		if from = p.End; from == "" {
			break
		}
	}
	if from != "" || len(got) == 0 || got[len(got)-1] != l.createID(bob, room) || !slices.Contains(got, topic) || !slices.Contains(got, fresh) {
		t.Errorf("%d events, ending in %q", len(got), from)
	}
	for what, value := range map[string]any{
		"context": l.try(l.svc.EventContext(t.Context(), room, fresh, bob, 20, EventFilter{})),
		"threads": l.try(l.svc.Threads(t.Context(), room, bob, ThreadsRequest{Limit: 10})),
		"state":   l.try(l.svc.RoomState(t.Context(), room, bob)),
		"time":    l.try2(l.svc.TimestampToEvent(t.Context(), room, bob, time.UnixMilli(0), false)),
		"reply":   l.try(l.svc.GetEvent(t.Context(), room, reply, bob)),
	} {
		text, _ := json.Marshal(value)
		all.Write(text)
		if strings.Contains(string(text), string(root)) && what == "threads" {
			t.Errorf("%s names the expired root: %s", what, text)
		}
	}
	if strings.Contains(all.String(), "marker") || strings.Contains(all.String(), string(first)) {
		t.Error("something expired was given")
	}
	for _, e := range []id.EventID{first, root, redacted} {
		if l.mayGet(bob, room, e) {
			t.Errorf("%s is given", e)
		}
		for what, err := range l.readAll(bob, room, e) {
			if (what == "context" || what == "relations") && mxerr.Code(err) != mxerr.CodeNotFound {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
}

func (l *library) try(v any, err error) any {
	l.t.Helper()
	l.check(err)
	return v
}

func (l *library) try2(v, _ any, err error) any {
	l.t.Helper()
	l.check(err)
	return v
}

func (l *library) createID(s ident.Requester, room id.RoomID) id.EventID {
	l.t.Helper()
	form, err := l.svc.StateEvent(l.t.Context(), room, "m.room.create", "", s, true)
	l.check(err)
	return l.parse(form).EventID
}

func TestThreadOfWhichTheRepliesExpiredIsNone(t *testing.T) {
	onBoth(t, threadOfWhichTheRepliesExpiredIsNone)
}

func threadOfWhichTheRepliesExpiredIsNone(t *testing.T, l *library) {
	alice := l.user("alice")
	room := l.room(alice, "shared")
	root := l.say(alice, room, "root")
	l.now = l.now.Add(-48 * time.Hour)
	l.relate(alice, room, relThread, root, "old")
	l.now = l.now.Add(48 * time.Hour)
	l.state(alice, room, "m.room.retention", "", `{"max_lifetime":86400000}`)
	if e := l.get(alice, room, root); e.Unsigned.Relations.Thread != nil {
		t.Error("the thread is still summed up")
	}
	page, err := l.svc.Threads(t.Context(), room, alice, ThreadsRequest{Limit: 10})
	l.check(err)
	if len(page.Chunk) != 0 {
		t.Errorf("%s", page.Chunk)
	}
}

// TestNewEventsNeedNoDatabase keeps the only read connection busy while a client's events are written.
func TestNewEventsNeedNoDatabase(t *testing.T) {
	l := newLibrary(t)
	alice, bob := l.user("alice"), l.user("bob")
	room := l.room(alice, "joined")
	l.join(bob, room)
	l.say(alice, room, "hello")
	r, err := l.rooms.Room(t.Context(), room)
	l.check(err)
	since := l.db.Settled() - 1
	if _, err := l.svc.Visible(t.Context(), nil, r, bob, nil); err != nil { // loads what is cached of bob
		t.Fatal(err)
	}
	news, ok := r.Recent(since)
	if !ok || len(news) != 1 {
		t.Fatalf("%d events, %v", len(news), ok)
	}
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // no read can begin
	go func() {
		defer close(done)
		view := l.svc.View(r, bob)
		seen, err := view.Visible(ctx, nil, news)
		if err != nil || len(seen) != 1 {
			t.Errorf("%d events, %v", len(seen), err)
			return
		}
		form, err := view.Append(ctx, nil, nil, seen, FormOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		if e := l.parse(form); e.body() != "hello" || e.RoomID != "" || e.Unsigned.Membership != rooms.Join {
			t.Errorf("%s", form)
		}
	}()
	<-done
	err = l.db.Read(ctx, func(tx *storage.Tx) error {
		_, _, err := tx.EventAt(1)
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a read could have been made: %v", err)
	}
}
