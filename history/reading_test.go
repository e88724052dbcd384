package history

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accountdata"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/receipts"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/rooms/txns"
	"ebb/storage"
	"ebb/storage/storagetest"
	"ebb/wake"
)

// library is a server with rooms to read, on a real database, with a clock that only the test advances.
type library struct {
	t     testing.TB
	db    *storage.DB
	rooms *rooms.Service
	data  *accountdata.Service
	svc   *Service
	now   time.Time
	tick  time.Duration // how far the clock advances before each event
	txn   int
	with  []func(*rooms.Options)
}

func newLibrary(t testing.TB, with ...func(*rooms.Options)) *library {
	return openLibrary(t, storagetest.Open(t, storage.Config{}), with...)
}

// onBoth runs a test on SQLite and, where there is a server, on PostgreSQL.
func onBoth(t *testing.T, f func(t *testing.T, l *library)) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) { f(t, openLibrary(t, db)) })
}

func openLibrary(t testing.TB, db *storage.DB, with ...func(*rooms.Options)) *library {
	l := &library{t: t, db: db, now: time.UnixMilli(1_750_000_000_000), tick: time.Second, with: with}
	l.restart()
	return l
}

// restart starts the services again: everything in memory is read from the database.
func (l *library) restart() {
	l.t.Helper()
	l.rooms, l.data, l.svc = l.open()
}

// open starts further services on the same database.
func (l *library) open() (*rooms.Service, *accountdata.Service, *Service) {
	l.t.Helper()
	o := rooms.Options{
		DB: l.db, Server: "here", Hub: wake.New(), Commits: rooms.NewCommits(), Now: func() time.Time { return l.now },
		Signer: pdu.Signer{Server: "here", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))},
	}
	for _, f := range l.with {
		f(&o)
	}
	writer, err := rooms.New(l.t.Context(), o)
	l.check(err)
	data := accountdata.New(accountdata.Options{DB: l.db, Rooms: writer, Commits: o.Commits})
	return writer, data, New(Options{DB: l.db, Rooms: writer, AccountData: data, Commits: o.Commits, Now: o.Now})
}

// anew returns a new service as after a restart.
func (l *library) anew() *Service {
	l.t.Helper()
	_, _, svc := l.open()
	return svc
}

// setReceipt sets a receipt of a user.
func (l *library) setReceipt(who ident.Requester, room id.RoomID, typ string, event id.EventID, thread string) {
	l.t.Helper()
	l.check(receipts.New(l.rooms, func() time.Time { return l.now }).Set(l.t.Context(), who, room, receipts.Marker{Type: typ, Event: event, Thread: thread}))
}

// load returns a room in memory.
func (l *library) load(roomID id.RoomID) *rooms.Room {
	l.t.Helper()
	r, err := l.rooms.Room(l.t.Context(), roomID)
	l.check(err)
	return r
}

// public creates a public room and lets members join it.
func (l *library) public(s ident.Requester, members ...ident.Requester) id.RoomID {
	l.t.Helper()
	room := l.room(s, "shared")
	for _, m := range members {
		l.join(m, room)
	}
	return room
}

func (l *library) check(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// user signs a user in; every call creates another device.
func (l *library) user(name string) ident.Requester {
	l.t.Helper()
	user := id.UserID("@" + name + ":here")
	nid, err := l.rooms.UserNID(l.t.Context(), user)
	l.check(err)
	l.txn++
	return ident.Requester{UserNID: nid, UserID: user, DeviceNID: ident.DeviceNID(1_000_000 + l.txn)}
}

func (l *library) room(creator ident.Requester, visibility string, more ...rooms.InitialState) id.RoomID {
	l.t.Helper()
	state := append([]rooms.InitialState{{Type: typeHistoryVisibility, Content: json.RawMessage(`{"history_visibility":"` + visibility + `"}`)}}, more...)
	room, err := l.rooms.Create(l.t.Context(), creator, rooms.CreateRoom{Preset: "public_chat", InitialState: state})
	l.check(err)
	return room
}

func (l *library) join(s ident.Requester, room id.RoomID) {
	l.t.Helper()
	l.check(l.rooms.Join(l.t.Context(), s, room, ""))
}

func (l *library) leave(s ident.Requester, room id.RoomID) {
	l.t.Helper()
	l.check(l.rooms.Leave(l.t.Context(), s, room, ""))
}

// send sends an event.
func (l *library) send(s ident.Requester, room id.RoomID, typ, content string) id.EventID {
	l.t.Helper()
	l.now = l.now.Add(l.tick)
	l.txn++
	e, err := l.rooms.Send(l.t.Context(), rooms.NewEvent{
		Room: room, Sender: s, Type: typ, Content: json.RawMessage(content), Txn: &txns.Txn{Path: "/send", ID: fmt.Sprint("txn", l.txn)},
	})
	l.check(err)
	return e
}

func (l *library) say(s ident.Requester, room id.RoomID, text string) id.EventID {
	l.t.Helper()
	return l.send(s, room, "m.room.message", `{"msgtype":"m.text","body":"`+text+`"}`)
}

// relate sends an event that relates to another one.
func (l *library) relate(s ident.Requester, room id.RoomID, relType string, to id.EventID, text string) id.EventID {
	l.t.Helper()
	more := ""
	if relType == relReplace {
		more = `"m.new_content":{"msgtype":"m.text","body":"` + text + `"},`
	}
	return l.send(s, room, "m.room.message",
		`{"msgtype":"m.text","body":"`+text+`",`+more+`"m.relates_to":{"rel_type":"`+relType+`","event_id":"`+string(to)+`"}}`)
}

func (l *library) state(s ident.Requester, room id.RoomID, typ, key, content string) id.EventID {
	l.t.Helper()
	l.now = l.now.Add(l.tick)
	e, err := l.rooms.Send(l.t.Context(), rooms.NewEvent{Room: room, Sender: s, Type: typ, StateKey: &key, Content: json.RawMessage(content)})
	l.check(err)
	return e
}

// ignore makes a user ignore others.
func (l *library) ignore(s ident.Requester, others ...ident.Requester) {
	l.t.Helper()
	list := map[id.UserID]struct{}{}
	for _, o := range others {
		list[o.UserID] = struct{}{}
	}
	content, err := json.Marshal(map[string]any{"ignored_users": list})
	l.check(err)
	l.check(l.data.Set(l.t.Context(), s.UserNID, "", "m.ignored_user_list", content))
}

func (l *library) get(s ident.Requester, room id.RoomID, e id.EventID) clientEvent {
	l.t.Helper()
	form, err := l.svc.GetEvent(l.t.Context(), room, e, s)
	l.check(err)
	return l.parse(form)
}

func (l *library) mayGet(s ident.Requester, room id.RoomID, e id.EventID) bool {
	l.t.Helper()
	_, err := l.svc.GetEvent(l.t.Context(), room, e, s)
	if err != nil && mxerr.Code(err) != mxerr.CodeNotFound {
		l.t.Fatal(err)
	}
	return err == nil
}

// clientEvent is an event in the form for clients.
type clientEvent struct {
	EventID  id.EventID     `json:"event_id"`
	RoomID   id.RoomID      `json:"room_id"`
	Type     string         `json:"type"`
	Sender   id.UserID      `json:"sender"`
	StateKey *string        `json:"state_key"`
	TS       int64          `json:"origin_server_ts"`
	Redacts  id.EventID     `json:"redacts"`
	Content  map[string]any `json:"content"`
	Unsigned struct {
		Age           *int64          `json:"age"`
		Membership    string          `json:"membership"`
		TransactionID string          `json:"transaction_id"`
		PrevContent   map[string]any  `json:"prev_content"`
		ReplacesState id.EventID      `json:"replaces_state"`
		Because       *clientEvent    `json:"redacted_because"`
		Relations     clientRelations `json:"m.relations"`
	} `json:"unsigned"`
}

type clientRelations struct {
	Replace   *clientEvent `json:"m.replace"`
	Reference *struct {
		Chunk []struct {
			EventID id.EventID `json:"event_id"`
		} `json:"chunk"`
	} `json:"m.reference"`
	Thread *struct {
		Latest       clientEvent `json:"latest_event"`
		Count        int         `json:"count"`
		Participated bool        `json:"current_user_participated"`
	} `json:"m.thread"`
}

func (e clientEvent) body() string {
	s, _ := e.Content["body"].(string)
	return s
}

func (l *library) parse(form json.RawMessage) (e clientEvent) {
	l.t.Helper()
	if err := json.Unmarshal(form, &e); err != nil {
		l.t.Fatalf("%v in %s", err, form)
	}
	return e
}

func (l *library) parseAll(forms []json.RawMessage) []clientEvent {
	l.t.Helper()
	out := make([]clientEvent, len(forms))
	for i, f := range forms {
		out[i] = l.parse(f)
	}
	return out
}

func (l *library) messages(s ident.Requester, room id.RoomID, req PageRequest) ([]clientEvent, Page) {
	l.t.Helper()
	if req.Limit == 0 {
		req.Limit = MaxPage
	}
	p, err := l.svc.Messages(l.t.Context(), room, s, req)
	l.check(err)
	return l.parseAll(p.Chunk), p
}

// bodies returns the texts of the messages among events.
func bodies(events []clientEvent) []string {
	out := []string{}
	for _, e := range events {
		if e.Type == "m.room.message" {
			out = append(out, e.body())
		}
	}
	return out
}

func eventIDs(events []clientEvent) []id.EventID {
	out := make([]id.EventID, len(events))
	for i, e := range events {
		out[i] = e.EventID
	}
	return out
}

func (l *library) same(what string, got, want []string) {
	l.t.Helper()
	if !slices.Equal(got, want) {
		l.t.Errorf("%s: %s, want %s", what, strings.Join(got, " "), strings.Join(want, " "))
	}
}

func TestPagesJoinWithoutGapOrRepeatBothWays(t *testing.T) {
	onBoth(t, pagesJoinWithoutGapOrRepeatBothWays)
}

func pagesJoinWithoutGapOrRepeatBothWays(t *testing.T, l *library) {
	alice := l.user("alice")
	room := l.room(alice, "shared")
	for i := range 57 {
		l.say(alice, room, fmt.Sprint(i))
	}
	whole, page := l.messages(alice, room, PageRequest{})
	if page.End != "" || whole[0].Type != "m.room.create" || len(whole) < 60 {
		t.Fatalf("dir=f without from gives %d events, the first %s, end %q", len(whole), whole[0].Type, page.End)
	}
	want := eventIDs(whole)
	for _, backwards := range []bool{false, true} {
		var got []id.EventID
		from := ""
		for range len(want) {
			events, p := l.messages(alice, room, PageRequest{From: from, Backwards: backwards, Limit: 10})
			got = append(got, eventIDs(events)...)
			if from != "" && p.Start != from {
				t.Errorf("start is %q, from was %q", p.Start, from)
			}
			if from = p.End; from == "" {
				break
			}
		}
		if backwards {
			slices.Reverse(got)
		}
		if !slices.Equal(got, want) {
			t.Errorf("backwards %v: %d events, want %d in order", backwards, len(got), len(want))
		}
	}
}

func TestTokensWorkInBothDirections(t *testing.T) { onBoth(t, tokensWorkInBothDirections) }

func tokensWorkInBothDirections(t *testing.T, l *library) {
	alice := l.user("alice")
	room := l.room(alice, "shared")
	l.say(alice, room, "0")
	r, err := l.rooms.Room(t.Context(), room)
	l.check(err)
	nextBatch := fmt.Sprintf("s1_%d_0_0_0_0", l.db.Settled())
	l.say(alice, room, "1")
	l.say(alice, room, "2")
	second := TimelineToken(r.LastOrder() - 1) // a prev_batch just before event 2
	for _, c := range []struct {
		name string
		req  PageRequest
		want []string
	}{
		{"forwards from next_batch", PageRequest{From: nextBatch}, []string{"1", "2"}},
		{"backwards from next_batch", PageRequest{From: nextBatch, Backwards: true}, []string{"0"}},
		{"forwards from prev_batch", PageRequest{From: second}, []string{"2"}},
		{"backwards from prev_batch", PageRequest{From: second, Backwards: true}, []string{"1", "0"}},
		{"forwards up to prev_batch", PageRequest{From: nextBatch, To: second}, []string{"1"}},
		{"backwards down to next_batch", PageRequest{To: nextBatch, Backwards: true}, []string{"2", "1"}},
		{"the wrong way round", PageRequest{From: second, To: nextBatch}, []string{}},
	} {
		events, page := l.messages(alice, room, c.req)
		l.same(c.name, bodies(events), c.want)
		if page.End != "" {
			t.Errorf("%s: the end is not the end", c.name)
		}
	}
}

func TestLimitZeroKeepsThePlace(t *testing.T) {
	l := newLibrary(t)
	alice := l.user("alice")
	room := l.room(alice, "shared")
	page, err := l.svc.Messages(t.Context(), room, alice, PageRequest{Backwards: true})
	l.check(err)
	if len(page.Chunk) != 0 || page.End != page.Start {
		t.Errorf("%d events, %q to %q", len(page.Chunk), page.Start, page.End)
	}
}

func TestFiltersSelectEventsAndStillFillPages(t *testing.T) {
	l := newLibrary(t)
	alice, bob := l.user("alice"), l.user("bob")
	room := l.room(alice, "shared")
	l.join(bob, room)
	for i := range 40 {
		l.say(alice, room, fmt.Sprint("a", i))
	}
	l.say(bob, room, "b0")
	l.send(bob, room, "m.room.message", `{"msgtype":"m.image","body":"b1","url":"mxc://here/1"}`)
	l.send(bob, room, "m.sticker", `{"body":"b2","url":"mxc://here/2"}`)
	for text, want := range map[string][]string{
		`{"senders":["@bob:here"],"types":["m.room.message"]}`:          {"b1", "b0"},
		`{"not_senders":["@alice:here"],"not_types":["m.room.member"]}`: {"b2", "b1", "b0"},
		`{"contains_url":true}`:                      {"b2", "b1"},
		`{"contains_url":true,"types":["m.room.*"]}`: {"b1"},
		`{"types":[]}`:                               {},
		`{"not_rooms":["` + string(room) + `"]}`:     {},
		`{"contains_url":false,"senders":["@bob:here"],"types":["*"],"not_types":["m.room.member"]}`: {"b0"},
	} {
		filter, err := ParseEventFilter(text)
		l.check(err)
		var got []string
		from := ""
		for range 20 {
			events, p := l.messages(bob, room, PageRequest{From: from, Backwards: true, Limit: 1, Filter: filter})
			for _, e := range events {
				got = append(got, e.body())
			}
			if from = p.End; from == "" {
				break
			}
		}
		if from != "" {
			t.Errorf("%s: no end", text)
		}
		l.same(text, got, want)
	}
}

func TestLazyLoadedMembersAreThoseOfTheSenders(t *testing.T) {
	l := newLibrary(t)
	alice, bob, carol := l.user("alice"), l.user("bob"), l.user("carol")
	room := l.room(alice, "shared")
	l.join(bob, room)
	l.join(carol, room)
	l.say(carol, room, "one")
	r, _ := l.rooms.Room(t.Context(), room)
	middle := TimelineToken(r.LastOrder())
	l.say(bob, room, "two")
	l.state(bob, room, typeMember, string(bob.UserID), `{"membership":"join","displayname":"Bobby"}`)
	lazy := EventFilter{LazyLoadMembers: true}
	for _, c := range []struct {
		req  PageRequest
		want []string
	}{
		{PageRequest{From: middle, Backwards: true, Limit: 1, Filter: lazy}, []string{"@carol:here"}},
		{PageRequest{From: middle, Limit: 1, Filter: lazy}, []string{"@bob:here"}},
		{PageRequest{Backwards: true, Limit: 3, Filter: lazy}, []string{"@bob:here Bobby", "@carol:here"}},
	} {
		_, page := l.messages(alice, room, c.req)
		var got []string
		for _, e := range l.parseAll(page.State) {
			name, _ := e.Content["displayname"].(string)
			got = append(got, strings.TrimSpace(*e.StateKey+" "+name))
		}
		slices.Sort(got)
		l.same("members", got, c.want)
	}
}

func TestTokensThatAreNoneAreRefused(t *testing.T) {
	l := newLibrary(t)
	alice := l.user("alice")
	room := l.room(alice, "shared")
	ctx := context.Background()
	for _, token := range []string{"x", "t-1", "s1_", "t\x00", strings.Repeat("t1", 1000)} {
		_, err1 := l.svc.Messages(ctx, room, alice, PageRequest{From: token})
		_, err2 := l.svc.Messages(ctx, room, alice, PageRequest{To: token})
		_, err3 := l.svc.GetMembers(ctx, room, alice, MembersRequest{At: token})
		_, err4 := l.svc.Threads(ctx, room, alice, ThreadsRequest{From: token, Limit: 1})
		_, err5 := l.svc.Relations(ctx, room, "$x", alice, RelationsRequest{From: token, Limit: 1})
		for _, err := range []error{err1, err2, err3, err4, err5} {
			if mxerr.Code(err) != mxerr.CodeInvalidParam {
				t.Errorf("%.20q: %v", token, err)
			}
		}
	}
}
