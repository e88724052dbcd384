package feed_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accountdata"
	"ebb/e2ee"
	"ebb/feed"
	"ebb/history"
	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/sharing"
	"ebb/storage"
	"ebb/wake"
)

// world is a server without HTTP: a real database, rooms and the feed, with a clock that only the test moves.
type world struct {
	t    testing.TB
	dir  string
	db   *storage.DB
	hub  *wake.Hub
	e2ee *e2ee.Service
	*rooms.Service
	data    *accountdata.Service
	history *history.Service
	feed    *feed.Service

	statements atomic.Int64 // executed by the database

	mu     sync.Mutex
	now    time.Time
	timers []*timer
}

// timer is the timeout of a parked request: it ends when the clock has moved far enough.
type timer struct {
	at time.Time
	f  func()
}

// readConns is small so that a test can hold all connections.
const readConns = 3

const server = "test.example"

func newWorld(t testing.TB) *world {
	w := &world{t: t, dir: t.TempDir(), now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
	w.start()
	t.Cleanup(func() { _ = w.db.Close() })
	return w
}

// start opens the database and makes the services, as the server does when it starts.
func (w *world) start() {
	w.t.Helper()
	db, err := storage.Open(w.t.Context(), storage.Config{DSN: "sqlite:" + filepath.Join(w.dir, "ebb.db"), Now: w.clock, ReadConns: readConns, OnStatement: func(context.Context, string) { w.statements.Add(1) }})
	if err != nil {
		w.t.Fatal(err)
	}
	w.db, w.hub = db, wake.New()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	commits := rooms.NewCommits()
	w.Service, err = rooms.New(w.t.Context(), rooms.Options{
		DB: db, Server: server, Signer: pdu.Signer{Server: server, KeyID: "ed25519:1", Key: key}, Hub: w.hub, Now: w.clock,
		Log: slog.New(slog.DiscardHandler), Commits: commits,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.data = accountdata.New(accountdata.Options{DB: db, Rooms: w.Service, Commits: commits})
	w.history = history.New(history.Options{DB: db, Rooms: w.Service, AccountData: w.data, Commits: commits, Now: w.clock})
	w.e2ee = e2ee.New(e2ee.Options{DB: db, Server: server, Hub: w.hub, Rooms: sharing.New(w.Service, w.hub), Now: w.clock, Log: slog.New(slog.DiscardHandler)})
	w.feed = feed.New(feed.Options{
		DB: db, Rooms: w.Service, AccountData: w.data, History: w.history, Commits: commits, E2EE: w.e2ee, Hub: w.hub, Now: w.clock, Log: slog.New(slog.DiscardHandler), AfterFunc: w.afterFunc,
	})
}

// restart ends the server and starts it again on the same database.
func (w *world) restart() {
	w.t.Helper()
	if err := w.db.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.start()
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// pass moves the clock.
func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	w.now = w.now.Add(d)
	var due []*timer
	w.timers = slices.DeleteFunc(w.timers, func(t *timer) bool {
		if w.now.Before(t.at) {
			return false
		}
		due = append(due, t)
		return true
	})
	w.mu.Unlock()
	for _, t := range due {
		t.f()
	}
	w.feed.Tick(w.t.Context())
}

func (w *world) afterFunc(d time.Duration, f func()) (stop func() bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := &timer{at: w.now.Add(d), f: f}
	w.timers = append(w.timers, t)
	return func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		before := len(w.timers)
		w.timers = slices.DeleteFunc(w.timers, func(o *timer) bool { return o == t })
		return len(w.timers) < before
	}
}

// user is a local user with one device.
type user struct {
	w *world
	ident.Requester
	filter string
	since  string
}

func (w *world) user(name string) *user {
	w.t.Helper()
	u := &user{w: w, Requester: ident.Requester{UserID: id.UserID("@" + name + ":" + server)}}
	err := w.db.Write(w.t.Context(), func(tx *storage.Tx) (err error) {
		if u.UserNID, err = tx.UserNID(string(u.UserID)); err == nil {
			u.DeviceNID = ident.DeviceNID(tx.NextPos())
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

func (u *user) must(err error) {
	u.w.t.Helper()
	if err != nil {
		u.w.t.Fatalf("%s: %v", u.UserID, err)
	}
}

// send sends an event of any type; with a key, a state event.
func (u *user) send(room id.RoomID, typ, content string, key ...string) id.EventID {
	u.w.t.Helper()
	e := rooms.NewEvent{Room: room, Sender: u.Requester, Type: typ, Content: json.RawMessage(content)}
	if len(key) > 0 {
		e.StateKey = &key[0]
	}
	eventID, err := u.w.Send(u.w.t.Context(), e)
	u.must(err)
	return eventID
}

// say sends a message.
func (u *user) say(room id.RoomID, text string) id.EventID {
	u.w.t.Helper()
	body, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	return u.send(room, "m.room.message", string(body))
}

// answer is an answer of /sync as clients read it.
type answer struct {
	raw       string
	NextBatch string `json:"next_batch"`
	Rooms     struct {
		Join   map[id.RoomID]joined `json:"join"`
		Leave  map[id.RoomID]joined `json:"leave"`
		Invite map[id.RoomID]struct {
			InviteState list `json:"invite_state"`
		} `json:"invite"`
		Knock map[id.RoomID]struct {
			KnockState list `json:"knock_state"`
		} `json:"knock"`
	} `json:"rooms"`
	Presence    list `json:"presence"`
	AccountData list `json:"account_data"`
	ToDevice    list `json:"to_device"`
	DeviceLists struct {
		Changed []id.UserID `json:"changed"`
		Left    []id.UserID `json:"left"`
	} `json:"device_lists"`
	Counts   map[string]int `json:"device_one_time_keys_count"`
	Fallback []string       `json:"device_unused_fallback_key_types"`
}

type list struct {
	Events []ev `json:"events"`
}

type joined struct {
	Summary struct {
		Heroes  []id.UserID `json:"m.heroes"`
		Joined  *int        `json:"m.joined_member_count"`
		Invited *int        `json:"m.invited_member_count"`
	} `json:"summary"`
	State         *list `json:"state"`
	StateAfter    *list `json:"state_after"`
	UnstableAfter *list `json:"org.matrix.msc4222.state_after"`
	Timeline      struct {
		list
		Limited   bool   `json:"limited"`
		PrevBatch string `json:"prev_batch"`
	} `json:"timeline"`
	Ephemeral   list `json:"ephemeral"`
	AccountData list `json:"account_data"`
}

type ev struct {
	Type     string          `json:"type"`
	EventID  id.EventID      `json:"event_id"`
	Sender   id.UserID       `json:"sender"`
	StateKey *string         `json:"state_key"`
	Content  json.RawMessage `json:"content"`
	Unsigned json.RawMessage `json:"unsigned"`
}

// String returns a short form of an event.
func (e ev) String() string {
	var c struct {
		Body       string `json:"body"`
		Membership string `json:"membership"`
		Name       string `json:"name"`
		Topic      string `json:"topic"`
	}
	_ = json.Unmarshal(e.Content, &c)
	text := c.Body + c.Membership + c.Name + c.Topic
	if e.StateKey != nil && *e.StateKey != "" {
		text = strings.TrimSuffix(*e.StateKey, ":"+server) + " " + text
	}
	return strings.TrimSpace(text)
}

// of returns the events of a type in short form, in their order.
func (l list) of(typ string) []string {
	out := []string{}
	for _, e := range l.Events {
		if e.Type == typ {
			out = append(out, e.String())
		}
	}
	return out
}

func (l list) types() (out []string) {
	for _, e := range l.Events {
		out = append(out, e.Type)
	}
	return out
}

// sync requests what is new since the user's last token, without waiting.
func (u *user) sync(change ...func(*feed.SyncRequest)) answer {
	u.w.t.Helper()
	a := u.syncFrom(u.since, change...)
	u.since = a.NextBatch
	return a
}

func (u *user) syncFrom(since string, change ...func(*feed.SyncRequest)) answer {
	u.w.t.Helper()
	q := feed.SyncRequest{Requester: u.Requester, Since: since, Filter: u.filter, SetPresence: "offline"}
	for _, f := range change {
		f(&q)
	}
	raw, err := u.w.feed.Sync(u.w.t.Context(), &q)
	u.must(err)
	return u.read(raw)
}

func (u *user) read(raw json.RawMessage) answer {
	u.w.t.Helper()
	a := answer{raw: string(raw)}
	if err := json.Unmarshal(raw, &a); err != nil {
		u.w.t.Fatalf("the answer is not JSON: %v\n%s", err, raw)
	}
	if a.NextBatch == "" {
		u.w.t.Fatalf("no next_batch in %s", raw)
	}
	return a
}

// parked is a long poll in progress.
type parked struct {
	u    *user
	done chan struct{}
	raw  json.RawMessage
	err  error
}

// park starts a long poll from the user's last token and returns once it is parked.
func (u *user) park(change ...func(*feed.SyncRequest)) *parked {
	u.w.t.Helper()
	q := feed.SyncRequest{Requester: u.Requester, Since: u.since, Filter: u.filter, SetPresence: "offline", Timeout: 30 * time.Second}
	for _, f := range change {
		f(&q)
	}
	p := &parked{u: u, done: make(chan struct{})}
	before := u.w.hub.Parked()
	go func() {
		defer close(p.done)
		p.raw, p.err = u.w.feed.Sync(u.w.t.Context(), &q)
	}()
	for u.w.hub.Parked() == before {
		select {
		case <-p.done:
			return p
		case <-time.After(time.Millisecond):
		}
	}
	return p
}

// wait returns the answer of a long poll that should end now.
func (p *parked) wait() answer {
	p.u.w.t.Helper()
	ctx, cancel := context.WithTimeout(p.u.w.t.Context(), 10*time.Second)
	defer cancel()
	select {
	case <-p.done:
	case <-ctx.Done():
		p.u.w.t.Fatal("the long poll was not woken")
	}
	p.u.must(p.err)
	a := p.u.read(p.raw)
	p.u.since = a.NextBatch
	return a
}
