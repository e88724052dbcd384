package history

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ebb/ident"
	"ebb/rooms"

	"maunium.net/go/mautrix/id"

	"ebb/pushrules"
	"ebb/rooms/expiry"
	"ebb/storage"
	"ebb/storage/pace"
	"ebb/wake"
)

// chronicle is a room's timeline as a list, with the simplest possible computation of unread counts.
type chronicle struct {
	*library
	room    id.RoomID
	users   []ident.Requester
	lines   []line
	ignored map[ident.UserNID]map[ident.UserNID]bool
	reads   map[readKey]int // index of the event
	kept    time.Duration   // 0: for ever
}

type line struct {
	id       id.EventID
	sender   ident.UserNID
	state    bool
	thread   id.EventID // root
	relates  bool
	redacted bool
	class    map[ident.UserNID]pushrules.Class
	at       time.Time
	joins    ident.UserNID // the user who joins with this event
}

type readKey struct {
	user        ident.UserNID
	typ, thread string
}

// naive computes the counts of one user.
func (y *chronicle) naive(user ident.Requester) (u Unread) {
	if y.load(y.room).Membership(user.UserID) != rooms.Join {
		return u
	}
	floor := 0
	for i, l := range y.lines {
		if l.joins == user.UserNID {
			floor = i
		}
	}
	for i, l := range y.lines {
		class := l.class[user.UserNID]
		thread, main := string(l.thread), l.thread == ""
		if main {
			thread = "main"
		}
		expired := func(l line) bool { return y.kept != 0 && !l.state && y.now.Sub(l.at) >= y.kept }
		gone := expired(l)
		if i <= floor || l.redacted || class == 0 || y.ignored[user.UserNID][l.sender] && !l.state || gone || l.sender == user.UserNID {
			continue
		}
		read := false
		for _, typ := range []string{rooms.ReadReceipt, rooms.PrivateReadReceipt} {
			for _, of := range []string{"", thread} {
				at, is := y.reads[readKey{user.UserNID, typ, of}]
				read = read || is && at >= i
			}
		}
		for _, later := range y.lines[i+1:] {
			read = read || later.sender == user.UserNID && later.thread == l.thread
		}
		switch {
		case read:
		case main, slices.ContainsFunc(y.lines, func(root line) bool { return root.id == l.thread && expired(root) }):
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

// compare compares the counts of the service with the naive ones, for all users.
func (y *chronicle) compare(svc *Service, when string) (total int64) {
	y.t.Helper()
	nid := y.load(y.room).NID()
	for _, user := range y.users {
		got, err := svc.Unread(y.t.Context(), nil, user.UserNID, nid)
		y.check(err)
		want := y.naive(user)
		if got.Main != want.Main || !maps.Equal(got.Threads, want.Threads) {
			y.t.Fatalf("%s: %s has %+v, want %+v", when, user.UserID, got, want)
		}
		total += got.Main.Highlight + int64(len(got.Threads))
	}
	return total
}

func (y *chronicle) add(sender ident.Requester, eventID id.EventID, l line) {
	l.id, l.sender, l.at = eventID, sender.UserNID, y.now
	y.lines = append(y.lines, l)
}

// pick returns a random line for which f returns true, -1 if there is none.
func (y *chronicle) pick(r *rand.Rand, f func(line) bool) int {
	for range 20 {
		if i := r.IntN(len(y.lines)); f(y.lines[i]) {
			return i
		}
	}
	return -1
}

// step performs a random action.
func (y *chronicle) step(r *rand.Rand) string {
	who := y.users[r.IntN(len(y.users))]
	if y.load(y.room).Membership(who.UserID) != rooms.Join {
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
		e, err := y.rooms.Redact(y.t.Context(), y.users[0], y.room, y.lines[target].id, "", nil)
		y.check(err)
		y.lines[target].redacted = true
		y.add(y.users[0], e, line{redacted: true})
		return "redaction"
	case n < 20:
		return y.read(r, who)
	case n < 21 && who != y.users[0]:
		y.check(y.rooms.Leave(y.t.Context(), who, y.room, ""))
		y.add(who, y.load(y.room).State(typeMember, string(who.UserID)).ID(), line{state: true})
		return "leave"
	case n < 22:
		y.ignore(r, who)
		return "ignore"
	}
	y.now = y.now.Add(time.Duration(r.IntN(5000)) * time.Millisecond)
	return "time"
}

func (y *chronicle) join(who ident.Requester) {
	y.check(y.rooms.Join(y.t.Context(), who, y.room, ""))
	y.add(who, y.load(y.room).State(typeMember, string(who.UserID)).ID(), line{state: true, joins: who.UserNID})
}

func (y *chronicle) message(r *rand.Rand, who ident.Requester, thread id.EventID, relates string) string {
	content := map[string]any{"msgtype": "m.text", "body": "x", "m.mentions": map[string]any{}}
	if relates != "" {
		content["m.relates_to"] = json.RawMessage("{" + relates + "}")
	}
	class := map[ident.UserNID]pushrules.Class{}
	edit := len(relates) > 0 && relates[12] == 'm' && relates[14] == 'r'
	for _, u := range y.users {
		if class[u.UserNID] = pushrules.Notify; edit {
			class[u.UserNID] = 0
		}
	}
	if mentioned := y.users[r.IntN(len(y.users))]; r.IntN(3) == 0 {
		content["m.mentions"] = map[string]any{"user_ids": []id.UserID{mentioned.UserID}}
		class[mentioned.UserNID] = pushrules.Notify | pushrules.Highlight
	}
	raw, err := json.Marshal(content)
	y.check(err)
	y.add(who, y.send(who, y.room, "m.room.message", string(raw)), line{thread: thread, relates: relates != "", class: class})
	return "message " + relates
}

// read sends a public or private receipt for everything, the main timeline or a thread.
func (y *chronicle) read(r *rand.Rand, who ident.Requester) string {
	i := r.IntN(len(y.lines))
	thread := ""
	if r.IntN(2) == 0 {
		if thread = string(y.lines[i].thread); thread == "" {
			thread = "main"
		}
	}
	typ := []string{rooms.ReadReceipt, rooms.PrivateReadReceipt}[r.IntN(2)]
	y.setReceipt(who, y.room, typ, y.lines[i].id, thread)
	k := readKey{who.UserNID, typ, thread}
	y.reads[k] = max(y.reads[k], i)
	return fmt.Sprintf("%s at %d of %q", typ, i, thread)
}

func (y *chronicle) ignore(r *rand.Rand, who ident.Requester) {
	list, ignored := map[id.UserID]struct{}{}, map[ident.UserNID]bool{}
	for _, u := range y.users {
		if u != who && r.IntN(3) == 0 {
			list[u.UserID], ignored[u.UserNID] = struct{}{}, true
		}
	}
	raw, err := json.Marshal(map[string]any{"ignored_users": list})
	y.check(err)
	y.check(y.data.Set(y.t.Context(), who.UserNID, "", "m.ignored_user_list", raw))
	y.ignored[who.UserNID] = ignored
}

func newChronicle(h *library) *chronicle {
	h.with = append(h.with, func(o *rooms.Options) {
		rules, err := pushrules.New(h.t.Context(), h.db, wake.New(), "here", pushrules.Defaults{Legacy: true})
		h.check(err)
		o.Push = rules
	})
	h.restart()
	y := &chronicle{library: h, users: []ident.Requester{h.user("alice"), h.user("bob"), h.user("carol"), h.user("dave")}, ignored: map[ident.UserNID]map[ident.UserNID]bool{}, reads: map[readKey]int{}}
	for _, u := range y.users {
		h.check(h.data.Set(h.t.Context(), u.UserNID, "", "m.ignored_user_list", json.RawMessage(`{"ignored_users":{}}`)))
	}
	y.room = h.public(y.users[0])
	y.lines = append(y.lines, line{id: h.load(y.room).State("m.room.create", "").ID(), state: true, joins: y.users[0].UserNID, sender: y.users[0].UserNID})
	for _, u := range y.users[1:] {
		y.join(u)
	}
	return y
}

func TestUnreadCountsOfRandomHistories(t *testing.T) {
	onBoth(t, func(_ *testing.T, h *library) {
		var total int64
		var all []*chronicle
		for seed := range uint64(4) {
			r := rand.New(rand.NewPCG(seed, 5))
			y := newChronicle(h)
			if seed%2 == 1 {
				y.kept = time.Minute
				y.state(y.users[0], y.room, "m.room.retention", "", `{"max_lifetime":60000}`)
				y.add(y.users[0], y.load(y.room).State("m.room.retention", "").ID(), line{state: true})
			}
			for i := range 250 {
				what := y.step(r)
				total += y.compare(h.svc, fmt.Sprintf("seed %d step %d, %s", seed, i, what))
				if i%25 == 0 {
					y.compare(h.anew(), fmt.Sprintf("seed %d step %d, after a restart", seed, i))
				}
			}
			all = append(all, y)
			comparePreloaded(all)
		}
		if total < 500 {
			t.Errorf("too little unread to tell: %d", total)
		}
	})
}

// comparePreloaded compares the counts of several rooms that a new service has read together with the naive ones.
func comparePreloaded(all []*chronicle) {
	last := all[len(all)-1]
	last.t.Helper()
	svc := last.anew()
	var nids []ident.RoomNID
	for _, y := range all {
		nids = append(nids, y.load(y.room).NID())
	}
	list, err := svc.rooms.RoomsByNID(last.t.Context(), nids)
	last.check(err)
	for _, user := range last.users {
		last.check(last.db.Read(last.t.Context(), func(tx *storage.Tx) error { return svc.PreloadUnread(tx, user.UserNID, list) }))
	}
	for i, y := range all {
		y.ignored = last.ignored // these lists are for all rooms
		y.compare(svc, fmt.Sprintf("room %d of %d, read together", i, len(all)))
	}
}

func TestExpiredEventsDropOutOfTheCountAndThePurgeLeavesZero(t *testing.T) {
	h := newLibrary(t)
	h.tick = 0
	y := newChronicle(h)
	alice, bob := y.users[0], y.users[1]
	nid := h.load(y.room).NID()
	minute := time.Minute
	h.check(h.rooms.SetRetentionOverride(t.Context(), y.room, &expiry.Policy{Max: &minute}))
	count := func(svc *Service) UnreadCount {
		u, err := svc.Unread(t.Context(), nil, bob.UserNID, nid)
		h.check(err)
		return u.Main
	}
	h.send(alice, y.room, "m.room.message", `{"body":"x","m.mentions":{"user_ids":["@bob:here"]}}`)
	h.now = h.now.Add(30 * time.Second)
	h.say(alice, y.room, "second")
	h.state(alice, y.room, "m.room.tombstone", "", `{"body":"x","replacement_room":"!x:here"}`)
	for _, step := range []struct {
		after time.Duration
		want  UnreadCount
	}{{0, UnreadCount{3, 2}}, {29999 * time.Millisecond, UnreadCount{3, 2}}, {time.Millisecond, UnreadCount{2, 1}}, {30 * time.Second, UnreadCount{1, 1}}} {
		h.now = h.now.Add(step.after)
		for _, svc := range []*Service{h.svc, h.anew()} {
			if got := count(svc); got != step.want {
				t.Errorf("%v later: %+v, want %+v", step.after, got, step.want)
			}
		}
	}
	policy := h.load(y.room).Retention()
	rule, _ := expiry.Standing{Policy: policy, Before: policy}.Rule(h.svc.now())
	_, err := h.rooms.Purge(t.Context(), h.load(y.room), rule, rooms.PurgeCursor{}, pace.Fixed(rooms.PurgeBatch))
	h.check(err)
	for _, svc := range []*Service{h.svc, h.anew()} {
		if got := count(svc); got != (UnreadCount{1, 1}) { // state events stay
			t.Errorf("after the purge: %+v", got)
		}
	}
	h.check(h.rooms.SetRetentionOverride(t.Context(), y.room, nil)) // purged events stay purged
	if got := count(h.svc); got != (UnreadCount{1, 1}) {
		t.Errorf("without a policy after the purge: %+v", got)
	}
}

func TestDisplayNamesInTheTextHighlightAsMembersHaveThemThen(t *testing.T) {
	h := newLibrary(t)
	y := newChronicle(h)
	alice, bob, carol := y.users[0], y.users[1], y.users[2]
	highlights := int64(0)
	says := func(text string, highlight bool) {
		t.Helper()
		if highlight {
			highlights++
		}
		h.say(alice, y.room, text)
		u, err := h.svc.Unread(t.Context(), nil, bob.UserNID, h.load(y.room).NID())
		if h.check(err); u.Main.Highlight != highlights {
			t.Fatalf("after %q: %d highlights, want %d", text, u.Main.Highlight, highlights)
		}
	}
	called := func(who ident.Requester, name string) {
		t.Helper()
		if who == bob { // sending an event marks everything before it as read
			highlights = 0
		}
		h.state(who, y.room, "m.room.member", string(who.UserID), fmt.Sprintf(`{"membership":"join","displayname":%q}`, name))
	}
	says("who is the Builder?", false)
	called(bob, "The Builder")
	says("ask the builder", true)
	called(carol, "The Builder")
	says("ask the builder again", true)
	called(bob, "Bob B")
	says("the builder is another one", false)
	says("this is for Bob b.", true)
	h.restart()
	says("after a restart, Bob B", true)
	h.check(h.rooms.Leave(t.Context(), bob, y.room, ""))
	h.check(h.rooms.Join(t.Context(), bob, y.room, ""))
	highlights = 0
	says("Bob B came back without a name", true) // bob still matches as the localpart
	called(bob, "X Y")
	says("x y has one again", true)
}
