package rooms

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/pushrules"
	"ebb/rooms/expiry"
	"ebb/wake"
)

// history is a room's timeline as a list, with what it means for unread counts told in the simplest way.
type history struct {
	*house
	room    id.RoomID
	users   []Sender
	lines   []line
	ignored map[int64]map[int64]bool
	reads   map[readKey]int // index of the event
	kept    time.Duration   // 0: for ever
}

type line struct {
	id       id.EventID
	sender   int64
	state    bool
	thread   id.EventID // root
	relates  bool
	redacted bool
	class    map[int64]pushrules.Class
	at       time.Time
	joins    int64 // the user whose join it is
}

type readKey struct {
	user        int64
	typ, thread string
}

// naive counts for one user.
func (y *history) naive(user Sender) (u Unread) {
	if y.house.room(y.room).Membership(user.ID) != Join {
		return u
	}
	floor := 0
	for i, l := range y.lines {
		if l.joins == user.NID {
			floor = i
		}
	}
	for i, l := range y.lines {
		class := l.class[user.NID]
		thread, main := string(l.thread), l.thread == ""
		if main {
			thread = mainThread
		}
		gone := y.kept != 0 && !l.state && y.now.Sub(l.at) >= y.kept
		if i <= floor || l.redacted || class == 0 || y.ignored[user.NID][l.sender] && !l.state || gone || l.sender == user.NID {
			continue
		}
		read := false
		for _, typ := range []string{ReadReceipt, PrivateReadReceipt} {
			for _, of := range []string{"", thread} {
				at, is := y.reads[readKey{user.NID, typ, of}]
				read = read || is && at >= i
			}
		}
		for _, later := range y.lines[i+1:] {
			read = read || later.sender == user.NID && later.thread == l.thread
		}
		switch {
		case read:
		case main:
			u.Main.add(class)
		default:
			if u.Threads == nil {
				u.Threads = map[id.EventID]UnreadCount{}
			}
			c := u.Threads[l.thread]
			c.add(class)
			u.Threads[l.thread] = c
		}
	}
	return u
}

// check compares what the service counts with the naive count, for everybody.
func (y *history) check(svc *Service, when string) (total int64) {
	y.Helper()
	nid := y.house.room(y.room).NID()
	for _, user := range y.users {
		got, err := svc.Unread(y.Context(), nil, user.NID, nid)
		y.ok(err)
		want := y.naive(user)
		if got.Main != want.Main || !maps.Equal(got.Threads, want.Threads) {
			y.Fatalf("%s: %s has %+v, want %+v", when, user.ID, got, want)
		}
		total += got.Main.Highlight + int64(len(got.Threads))
	}
	return total
}

func (y *history) add(sender Sender, eventID id.EventID, l line) {
	l.id, l.sender, l.at = eventID, sender.NID, y.now
	y.lines = append(y.lines, l)
}

// pick chooses a line for which f holds, -1 for none.
func (y *history) pick(r *rand.Rand, f func(line) bool) int {
	for range 20 {
		if i := r.IntN(len(y.lines)); f(y.lines[i]) {
			return i
		}
	}
	return -1
}

// step does something by chance.
func (y *history) step(r *rand.Rand) string {
	who := y.users[r.IntN(len(y.users))]
	if y.house.room(y.room).Membership(who.ID) != Join {
		y.join(who)
		return "join"
	}
	target := y.pick(r, func(l line) bool { return !l.state && !l.redacted })
	switch n := r.IntN(24); {
	case n < 6 || target < 0:
		return y.message(r, who, "", "")
	case n < 10:
		root := y.pick(r, func(l line) bool { return !l.relates && !l.redacted && !l.state })
		if root < 0 {
			return "nothing"
		}
		return y.message(r, who, y.lines[root].id, fmt.Sprintf(`"rel_type":"m.thread","event_id":%q`, y.lines[root].id))
	case n < 11:
		return y.message(r, who, y.lines[target].thread, fmt.Sprintf(`"rel_type":"m.replace","event_id":%q`, y.lines[target].id))
	case n < 12:
		e := y.send(who, y.room, "m.reaction", fmt.Sprintf(`{"m.relates_to":{"rel_type":"m.annotation","event_id":%q,"key":%q}}`, y.lines[target].id, fmt.Sprint(len(y.lines))))
		y.add(who, e, line{thread: y.lines[target].thread, relates: true})
		return "reaction"
	case n < 14:
		e := must(y.svc.Redact(y.Context(), y.users[0], y.room, y.lines[target].id, "", nil))
		y.lines[target].redacted = true
		y.add(y.users[0], e, line{redacted: true})
		return "redaction"
	case n < 20:
		return y.read(r, who)
	case n < 21 && who != y.users[0]:
		y.ok(y.svc.Leave(y.Context(), who, y.room, ""))
		y.add(who, y.house.room(y.room).State(typeMember, string(who.ID)).ID(), line{state: true})
		return "leave"
	case n < 22:
		y.ignore(r, who)
		return "ignore"
	}
	y.now = y.now.Add(time.Duration(r.IntN(5000)) * time.Millisecond)
	return "time"
}

func (y *history) join(who Sender) {
	y.ok(y.svc.Join(y.Context(), who, y.room, ""))
	y.add(who, y.house.room(y.room).State(typeMember, string(who.ID)).ID(), line{state: true, joins: who.NID})
}

func (y *history) message(r *rand.Rand, who Sender, thread id.EventID, relates string) string {
	content := map[string]any{"msgtype": "m.text", "body": "x", "m.mentions": map[string]any{}}
	if relates != "" {
		content["m.relates_to"] = json.RawMessage("{" + relates + "}")
	}
	class := map[int64]pushrules.Class{}
	edit := len(relates) > 0 && relates[12] == 'm' && relates[14] == 'r'
	for _, u := range y.users {
		if class[u.NID] = pushrules.Notify; edit {
			class[u.NID] = 0
		}
	}
	if mentioned := y.users[r.IntN(len(y.users))]; r.IntN(3) == 0 {
		content["m.mentions"] = map[string]any{"user_ids": []id.UserID{mentioned.ID}}
		class[mentioned.NID] = pushrules.Notify | pushrules.Highlight
	}
	raw, err := json.Marshal(content)
	y.ok(err)
	y.add(who, y.send(who, y.room, "m.room.message", string(raw)), line{thread: thread, relates: relates != "", class: class})
	return "message " + relates
}

// read sends a receipt: public or private, of everything, the main timeline or a thread.
func (y *history) read(r *rand.Rand, who Sender) string {
	i := r.IntN(len(y.lines))
	thread := ""
	if r.IntN(2) == 0 {
		if thread = string(y.lines[i].thread); thread == "" {
			thread = mainThread
		}
	}
	typ := []string{ReadReceipt, PrivateReadReceipt}[r.IntN(2)]
	y.ok(y.svc.SetReceipt(y.Context(), who, y.room, typ, y.lines[i].id, thread))
	k := readKey{who.NID, typ, thread}
	y.reads[k] = max(y.reads[k], i)
	return fmt.Sprintf("%s at %d of %q", typ, i, thread)
}

func (y *history) ignore(r *rand.Rand, who Sender) {
	list, ignored := map[id.UserID]struct{}{}, map[int64]bool{}
	for _, u := range y.users {
		if u != who && r.IntN(3) == 0 {
			list[u.ID], ignored[u.NID] = struct{}{}, true
		}
	}
	raw, err := json.Marshal(map[string]any{"ignored_users": list})
	y.ok(err)
	y.ok(y.svc.SetAccountData(y.Context(), who.NID, "", "m.ignored_user_list", raw))
	y.ignored[who.NID] = ignored
}

func newHistory(h *house) *history {
	h.with = append(h.with, func(o *Options) {
		rules, err := pushrules.New(h.Context(), h.db, wake.New(), "here", true)
		h.ok(err)
		o.Push = rules
	})
	h.svc = h.open()
	y := &history{house: h, users: []Sender{h.user("alice"), h.user("bob"), h.user("carol"), h.user("dave")}, ignored: map[int64]map[int64]bool{}, reads: map[readKey]int{}}
	for _, u := range y.users {
		h.ok(h.svc.SetAccountData(h.Context(), u.NID, "", "m.ignored_user_list", json.RawMessage(`{"ignored_users":{}}`)))
	}
	y.room = h.public(y.users[0])
	y.lines = append(y.lines, line{id: h.timeline(y.room)[0].ID(), state: true, joins: y.users[0].NID, sender: y.users[0].NID})
	for _, u := range y.users[1:] {
		y.join(u)
	}
	return y
}

func TestUnreadCountsOfRandomHistories(t *testing.T) {
	eachHouse(t, func(h *house) {
		var total int64
		for seed := range uint64(4) {
			r := rand.New(rand.NewPCG(seed, 5))
			y := newHistory(h)
			if seed%2 == 1 {
				y.kept = time.Minute
				y.set(y.users[0], y.room, "m.room.retention", "", `{"max_lifetime":60000}`)
				y.add(y.users[0], y.house.room(y.room).State("m.room.retention", "").ID(), line{state: true})
			}
			for i := range 250 {
				what := y.step(r)
				total += y.check(h.svc, fmt.Sprintf("seed %d step %d, %s", seed, i, what))
				if i%25 == 0 {
					y.check(h.open(), fmt.Sprintf("seed %d step %d, after a restart", seed, i))
				}
			}
		}
		if total < 500 {
			t.Errorf("too little unread to tell: %d", total)
		}
	})
}

func TestExpiredEventsDropOutOfTheCountAndThePurgeLeavesZero(t *testing.T) {
	h := oneHouse(t)
	y := newHistory(h)
	alice, bob := y.users[0], y.users[1]
	nid := h.room(y.room).NID()
	minute := time.Minute
	h.ok(h.svc.SetRetentionOverride(t.Context(), y.room, &expiry.Policy{Max: &minute}))
	count := func(svc *Service) UnreadCount {
		u, err := svc.Unread(t.Context(), nil, bob.NID, nid)
		h.ok(err)
		return u.Main
	}
	h.send(alice, y.room, "m.room.message", `{"body":"x","m.mentions":{"user_ids":["@bob:here"]}}`)
	h.now = h.now.Add(30 * time.Second)
	h.say(alice, y.room, "second")
	h.set(alice, y.room, "m.room.tombstone", "", `{"body":"x","replacement_room":"!x:here"}`)
	for _, step := range []struct {
		after time.Duration
		want  UnreadCount
	}{{0, UnreadCount{3, 2}}, {29999 * time.Millisecond, UnreadCount{3, 2}}, {time.Millisecond, UnreadCount{2, 1}}, {30 * time.Second, UnreadCount{1, 1}}} {
		h.now = h.now.Add(step.after)
		for _, svc := range []*Service{h.svc, h.open()} {
			if got := count(svc); got != step.want {
				t.Errorf("%v later: %+v, want %+v", step.after, got, step.want)
			}
		}
	}
	_, _, _, err := h.svc.Purge(t.Context(), h.room(y.room), h.svc.Now(), 0)
	h.ok(err)
	for _, svc := range []*Service{h.svc, h.open()} {
		if got := count(svc); got != (UnreadCount{1, 1}) { // state stays
			t.Errorf("after the purge: %+v", got)
		}
	}
	h.ok(h.svc.SetRetentionOverride(t.Context(), y.room, nil)) // purged is purged
	if got := count(h.svc); got != (UnreadCount{1, 1}) {
		t.Errorf("without a policy after the purge: %+v", got)
	}
}

func TestDisplayNamesInTheTextHighlightAsMembersHaveThemThen(t *testing.T) {
	h := oneHouse(t)
	y := newHistory(h)
	alice, bob, carol := y.users[0], y.users[1], y.users[2]
	highlights := int64(0)
	says := func(text string, highlight bool) {
		t.Helper()
		if highlight {
			highlights++
		}
		h.say(alice, y.room, text)
		u, err := h.svc.Unread(t.Context(), nil, bob.NID, h.room(y.room).NID())
		if h.ok(err); u.Main.Highlight != highlights {
			t.Fatalf("after %q: %d highlights, want %d", text, u.Main.Highlight, highlights)
		}
	}
	called := func(who Sender, name string) {
		t.Helper()
		if who == bob { // who sends something has read everything
			highlights = 0
		}
		h.set(who, y.room, "m.room.member", string(who.ID), fmt.Sprintf(`{"membership":"join","displayname":%q}`, name))
	}
	says("who is the Builder?", false)
	called(bob, "The Builder")
	says("ask the builder", true)
	called(carol, "The Builder")
	says("ask the builder again", true)
	called(bob, "Bob B")
	says("the builder is another one", false)
	says("this is for Bob b.", true)
	h.svc = h.open()
	says("after a restart, Bob B", true)
	h.ok(h.svc.Leave(t.Context(), bob, y.room, ""))
	h.ok(h.svc.Join(t.Context(), bob, y.room, ""))
	highlights = 0
	says("Bob B came back without a name", true) // bob is the localpart
	called(bob, "X Y")
	says("x y has one again", true)
}
