package push_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

func TestNotificationHasEveryField(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice, bob := l.Register("alice"), l.Register("bob")
	room := room(bob, object{"name": "The room", "room_alias_name": "room"}, alice, l.Register("carol"))
	bob.Do("PUT", "/v3/profile/"+bob.User+"/displayname", object{"displayname": "Bob B."})
	set(alice, g.pusher("key", nil))
	first := say(bob, room, "hello", nil)
	n := g.event()
	unread, want := int64(1), notification{
		EventID: first, RoomID: room, Type: "m.room.message", Sender: bob.User, SenderDisplayName: "Bob B.", RoomName: "The room", RoomAlias: "#room:test", Prio: "low",
		Content: object{"msgtype": "m.text", "body": "hello"},
	}
	devices := n.Devices
	if len(devices) != 1 || devices[0].AppID != "org.example.app" || devices[0].Pushkey != "key" || devices[0].PushkeyTS != l.Now().Unix() ||
		!reflect.DeepEqual(devices[0].Data, object{"custom": object{"a": 1.0}}) || devices[0].Tweaks != nil {
		t.Errorf("devices: %+v", devices)
	}
	n.Devices, want.Counts = nil, &counts{Unread: &unread}
	if !reflect.DeepEqual(n, want) {
		t.Errorf("got %+v\nwant %+v", n, want)
	}

	say(bob, room, "alice!", mention(alice))
	n = g.event()
	if tweaks := n.Devices[0].Tweaks; n.Prio != "high" || tweaks["highlight"] != true || tweaks["sound"] != "default" || *n.Counts.Unread != 2 {
		t.Errorf("a mention: %+v", n)
	}
	if n.UserIsTarget != nil {
		t.Errorf("user_is_target of a message is %v", *n.UserIsTarget)
	}
}

func TestInviteNotifiesTheInvitedUser(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice, bob := l.Register("alice"), l.Register("bob")
	set(alice, g.pusher("key", nil))
	id := room(bob, object{"name": "Come in", "invite": []string{alice.User}})
	n := g.event()
	if n.RoomID != id || n.Type != "m.room.member" || n.Content["membership"] != "invite" || n.UserIsTarget == nil || !*n.UserIsTarget || n.Sender != bob.User ||
		n.RoomName != "Come in" || n.Prio != "high" || n.Devices[0].Tweaks["sound"] != "default" {
		t.Errorf("%+v", n)
	}
}

func TestBadgeCountsInvites(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice, bob := l.Register("alice"), l.Register("bob")
	set(alice, g.pusher("key", nil))
	first := room(bob, object{"invite": []string{alice.User}})
	if n := g.event(); n.RoomID != first || *n.Counts.Unread != 1 {
		t.Errorf("after one invite: %+v", n)
	}
	second := room(bob, object{"invite": []string{alice.User}})
	if n := g.event(); n.RoomID != second || *n.Counts.Unread != 2 {
		t.Errorf("after two invites: %+v", n)
	}
	alice.Do("POST", "/v3/join/"+url.PathEscape(first), nil)
	if got := g.badge(); got != 1 {
		t.Errorf("after one was accepted: %d", got)
	}
	alice.Do("POST", "/v3/rooms/"+url.PathEscape(second)+"/leave", nil)
	if got := g.badge(); got != 0 {
		t.Errorf("after the other was rejected: %d", got)
	}
}

func TestInviteThatTheUserDoesNotWantToSeeNotifiesNobody(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice, bob, carol := l.Register("alice"), l.Register("bob"), l.Register("carol")
	alice.Do("PUT", "/v3/user/"+alice.User+"/account_data/org.matrix.msc4155.invite_permission_config", object{"ignored_users": []string{bob.User}})
	set(alice, g.pusher("key", nil))
	room(bob, object{"invite": []string{alice.User}})
	wanted := room(carol, object{"invite": []string{alice.User}})
	if n := g.event(); n.RoomID != wanted || *n.Counts.Unread != 1 {
		t.Errorf("got %+v, want the invite to %s alone", n, wanted)
	}
}

func TestEventIDOnlySendsNoContentToTheGateway(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice, bob := l.Register("alice"), l.Register("bob")
	room := room(bob, object{"name": "Secret"}, alice)
	set(alice, g.pusher("key", object{"data": object{"url": g.url, "format": "event_id_only", "default_payload": object{"aps": object{}}}}))
	id := say(bob, room, "hello", mention(alice))
	n := g.event()
	if !reflect.DeepEqual(n.Devices[0].Data, object{"format": "event_id_only", "default_payload": object{"aps": object{}}}) || n.Devices[0].Tweaks != nil || *n.Counts.Unread != 1 {
		t.Errorf("devices: %+v", n.Devices)
	}
	n.Devices, n.Counts = nil, nil
	if want := (notification{EventID: id, RoomID: room, Prio: "high"}); !reflect.DeepEqual(n, want) {
		t.Errorf("got %+v, want %+v", n, want)
	}
}

func TestServerCanSendEventIDsOnlyToEveryGateway(t *testing.T) {
	l := newLab(t, func(cfg *config.Config) { cfg.Push.EventIDOnly = true })
	g := newGateway(t, nil)
	alice, bob := l.Register("alice"), l.Register("bob")
	shared := room(bob, object{"name": "Secret", "topic": "Secret"}, alice)
	set(alice, g.pusher("key", nil))
	id := say(bob, shared, "hello", mention(alice))
	n := g.event()
	if n.Devices[0].Tweaks != nil || *n.Counts.Unread != 1 {
		t.Errorf("devices: %+v", n.Devices)
	}
	n.Devices, n.Counts = nil, nil
	if want := (notification{EventID: id, RoomID: shared, Prio: "high"}); !reflect.DeepEqual(n, want) {
		t.Errorf("got %+v, want %+v", n, want)
	}
	invited := room(bob, object{"name": "Secret", "invite": []string{alice.User}})
	if n = g.event(); n.RoomID != invited || n.Type != "" || n.Sender != "" || n.SenderDisplayName != "" || n.RoomName != "" || n.Content != nil || n.UserIsTarget != nil {
		t.Errorf("the notification of an invite contains more than IDs: %+v", n)
	}
}

func TestClientThatCountsItselfGetsNoCounts(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice, bob := l.Register("alice"), l.Register("bob")
	room := room(bob, nil, alice)
	set(alice, g.pusher("data", object{"data": object{"url": g.url, "org.matrix.msc4076.disable_badge_count": true}}))
	set(alice, g.pusher("pusher", object{"org.matrix.msc4076.disable_badge_count": true}))
	id := say(bob, room, "hello", nil)
	for range 2 {
		if n := g.event(); n.Counts != nil || n.EventID != id {
			t.Errorf("%+v", n)
		}
	}
	alice.Do("POST", "/v3/rooms/"+room+"/receipt/m.read/"+id, object{})
	second := say(bob, room, "again", nil)
	for range 2 { // and no notification for the receipt
		if n := g.next(); n.EventID != second {
			t.Errorf("%+v", n)
		}
	}
}

func TestBadgeFollowsReadingOnEveryDevice(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice, bob := l.Register("alice"), l.Register("bob")
	one, two := room(bob, nil, alice), room(bob, nil, alice)
	set(alice, g.pusher("key", nil))
	var last string
	for i := range 3 {
		last = say(bob, one, fmt.Sprint("message ", i), nil)
		if n := g.event(); *n.Counts.Unread != int64(i+1) {
			t.Errorf("message %d: %d unread", i, *n.Counts.Unread)
		}
	}
	other := say(bob, two, "elsewhere", nil)
	if n := g.event(); *n.Counts.Unread != 4 {
		t.Errorf("another room: %d unread", *n.Counts.Unread)
	}
	alice.Do("POST", "/v3/rooms/"+one+"/receipt/m.read.private/"+last, object{})
	if n := g.badge(); n != 1 {
		t.Errorf("after reading one room: %d", n)
	}
	alice.Do("POST", "/v3/rooms/"+two+"/receipt/m.read/"+other, object{})
	if n := g.badge(); n != 0 {
		t.Errorf("after reading both: %d", n)
	}
	say(bob, one, "a last one", nil)
	g.event()
	say(alice, one, "an answer", nil)
	if n := g.badge(); n != 0 {
		t.Errorf("after answering: %d", n)
	}
}

func TestBadgeReachesEveryPusherOfAUser(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice, bob := l.Register("alice"), l.Register("bob")
	id, keys := room(bob, nil, alice), []string{"phone", "tablet", "watch"}
	for _, key := range keys {
		set(alice, g.pusher(key, nil))
	}
	for i := range 10 {
		last := say(bob, id, fmt.Sprint("message ", i), nil)
		for range keys {
			if n := g.event(); *n.Counts.Unread != 1 {
				t.Errorf("a message: %+v has another count", n)
			}
		}
		alice.Do("POST", "/v3/rooms/"+id+"/receipt/m.read/"+last, object{})
		reached := map[string]bool{}
		for range keys {
			n := g.next()
			reached[n.Devices[0].Pushkey] = n.EventID == "" && *n.Counts.Unread == 0
		}
		for _, key := range keys {
			if !reached[key] {
				t.Errorf("%s was not sent that nothing is unread", key)
			}
		}
	}
}

func TestBadgeFollowsReadingWhileANotificationIsOnItsWay(t *testing.T) {
	l := newLab(t, nil)
	alice, bob, carol := l.Register("alice"), l.Register("bob"), l.Register("carol")
	id, elsewhere := room(bob, nil, alice), room(bob, nil, carol)
	others := newGateway(t, nil)
	set(carol, others.pusher("carol", nil))
	g := newGateway(t, func(w http.ResponseWriter, n notification) {
		if n.EventID != "" {
			alice.Do("POST", "/v3/rooms/"+id+"/receipt/m.read/"+n.EventID, object{})
			say(bob, elsewhere, "later", nil)
			others.event() // so the receipt has been dispatched
		}
		_, _ = io.WriteString(w, `{"rejected":[]}`)
	})
	set(alice, g.pusher("alice", nil))
	say(bob, id, "a message", nil)
	if n := g.event(); *n.Counts.Unread != 1 {
		t.Errorf("a message: %+v", n)
	}
	if n := g.badge(); n != 0 {
		t.Errorf("after it was read: %d", n)
	}
}

func TestBadgeCanCountRooms(t *testing.T) {
	l := newLab(t, func(cfg *config.Config) { cfg.Push.CountRooms = true })
	g := newGateway(t, nil)
	alice, bob := l.Register("alice"), l.Register("bob")
	one, two := room(bob, nil, alice), room(bob, nil, alice)
	set(alice, g.pusher("key", nil))
	for i, c := range []struct {
		room string
		want int64
	}{{one, 1}, {one, 1}, {two, 2}} {
		say(bob, c.room, "hello", nil)
		if n := g.event(); *n.Counts.Unread != c.want {
			t.Errorf("message %d: %d unread, want %d", i, *n.Counts.Unread, c.want)
		}
	}
}

func TestPushRulesDecideWhoIsNotified(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice, bob := l.Register("alice"), l.Register("bob")
	muted, loud := room(bob, nil, alice), room(bob, nil, alice, l.Register("carol"))
	alice.Do("PUT", "/v3/pushrules/global/room/"+muted, object{"actions": []any{}})
	alice.Do("PUT", "/v3/pushrules/global/room/"+loud, object{"actions": []any{"notify", object{"set_tweak": "sound", "value": "horn.wav"}, object{"set_tweak": "x", "value": 1}}})
	set(alice, g.pusher("key", nil))
	set(bob, g.pusher("bob", nil))
	say(bob, muted, "muted", nil)
	say(bob, loud, "a notice", object{"msgtype": "m.notice"}) // suppressed by the default rules
	id := say(bob, loud, "loud", nil)
	if n := g.next(); n.EventID != id || !reflect.DeepEqual(n.Devices[0].Tweaks, object{"sound": "horn.wav", "x": 1.0}) || n.Prio != "high" {
		t.Errorf("%+v", n)
	}
}

func TestRejectedPushkeyDeletesItsPusher(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, func(w http.ResponseWriter, n notification) {
		if n.Devices[0].Pushkey == "good" { // whose answer may come before the other notification is sent
			_, _ = io.WriteString(w, `{"rejected":["of somebody else"]}`)
			return
		}
		_, _ = io.WriteString(w, `{"rejected":["bad","of somebody else"]}`)
	})
	alice, bob := l.Register("alice"), l.Register("bob")
	room := room(bob, nil, alice)
	set(alice, g.pusher("bad", nil))
	set(alice, g.pusher("good", nil))
	set(bob, g.pusher("of somebody else", nil))
	say(bob, room, "hello", nil)
	g.event()
	g.event()
	id := say(bob, room, "again", nil)
	if n := g.event(); n.EventID != id || n.Devices[0].Pushkey != "good" {
		t.Errorf("%+v", n)
	}
	if a, b := pushkeys(alice), pushkeys(bob); len(a) != 1 || a[0] != "good" || len(b) != 1 {
		t.Errorf("pushers are %v and %v", a, b)
	}
}

// refusing returns a gateway that responds with the given status until the returned switch is set.
func refusing(t *testing.T, status int) (*gateway, *atomic.Bool) {
	t.Helper()
	works := &atomic.Bool{}
	g := newGateway(t, func(w http.ResponseWriter, _ notification) {
		if works.Load() {
			_, _ = io.WriteString(w, `{"rejected":[]}`)
			return
		}
		w.WriteHeader(status)
	})
	return g, works
}

func TestDeliveryIsRetriedAfterARestart(t *testing.T) {
	l := newLab(t, nil)
	g, works := refusing(t, 502)
	alice, bob := l.Register("alice"), l.Register("bob")
	room := room(bob, nil, alice)
	set(alice, g.pusher("key", nil))
	var want []string
	for i := range 3 {
		want = append(want, say(bob, room, fmt.Sprint("message ", i), nil))
	}
	if n := g.next(); n.EventID != want[0] {
		t.Fatalf("%+v, want %s", n, want[0])
	}
	l.stop()
	for i := range 70 { // more than fit into a queue, while nothing is delivered
		want = append(want, say(bob, room, fmt.Sprint("later ", i), nil))
	}
	l.Reopen()
	works.Store(true)
	l.stop = l.Notify()
	for i, id := range want {
		if n := g.retried(l.Server); n.EventID != id {
			t.Fatalf("notification %d is about %s, want %s", i, n.EventID, id)
		}
	}
	l.restart()
	id := say(bob, room, "new", nil)
	if n := g.event(); n.EventID != id {
		t.Errorf("after another restart: %+v, want %s", n, id)
	}
}

func TestReadRedactedAndExpiredEventsAreNotSent(t *testing.T) {
	l := newLab(t, nil)
	g, works := refusing(t, 503)
	alice, bob := l.Register("alice"), l.Register("bob")
	read, redacted := room(bob, nil, alice), room(bob, nil, alice)
	expired := room(bob, object{"initial_state": []object{{"type": "m.room.retention", "state_key": "", "content": object{"max_lifetime": 60_000}}}}, alice)
	left, kept := room(bob, nil, alice), room(bob, nil, alice)
	ignored := room(l.Register("eve"), nil, alice)
	set(alice, g.pusher("key", nil))
	seen := say(bob, read, "read", nil)
	g.next() // refused
	gone := say(bob, redacted, "redacted", nil)
	say(bob, expired, "expired", nil)
	say(bob, left, "left", nil)
	say(l.Login("@eve:test"), ignored, "ignored", nil)
	want := say(bob, kept, "kept", nil)
	alice.Do("POST", "/v3/rooms/"+read+"/receipt/m.read/"+seen, object{})
	bob.Do("PUT", "/v3/rooms/"+redacted+"/redact/"+gone+"/x", object{})
	alice.Do("POST", "/v3/rooms/"+left+"/leave", object{})
	alice.Do("PUT", "/v3/user/"+alice.User+"/account_data/m.ignored_user_list", object{"ignored_users": object{"@eve:test": object{}}})
	l.Advance(time.Minute) // the message has expired
	works.Store(true)
	if n := g.retried(l.Server); n.EventID != want {
		t.Errorf("notified of %+v, want %s", n, want)
	}
}

// What has expired or was redacted is not counted any more, and the phone does not show it until the next message.
func TestTheBadgeDoesNotCountWhatIsGone(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice, bob := l.Register("alice"), l.Register("bob")
	expiring := room(bob, object{"initial_state": []object{{"type": "m.room.retention", "state_key": "", "content": object{"max_lifetime": 60_000}}}}, alice)
	other := room(bob, nil, alice)
	set(alice, g.pusher("key", nil))
	says := func(room string, want int64) (event string) {
		t.Helper()
		event = say(bob, room, "hello", nil)
		if n := g.event(); n.EventID != event || *n.Counts.Unread != want {
			t.Errorf("with a message there are %d unread, want %d", *n.Counts.Unread, want)
		}
		return event
	}
	says(expiring, 1)
	says(expiring, 2)
	l.Advance(time.Minute)
	redacted := says(other, 1)
	bob.Do("PUT", "/v3/rooms/"+other+"/redact/"+redacted+"/x", object{})
	if n := g.badge(); n != 0 {
		t.Errorf("after the redaction the phone shows %d", n)
	}
	says(expiring, 1)
	l.Advance(time.Minute)
	if _, err := l.Control(t.Context(), "purge now", nil); err != nil {
		t.Fatal(err)
	}
	if n := g.badge(); n != 0 {
		t.Errorf("after the purge the phone shows %d", n)
	}
}

func TestOldEventsAreNoLongerSent(t *testing.T) {
	l := newLab(t, nil)
	g, works := refusing(t, 500)
	alice, bob := l.Register("alice"), l.Register("bob")
	room := room(bob, nil, alice)
	set(alice, g.pusher("key", nil))
	say(bob, room, "old", nil)
	g.next()
	l.Advance(25 * time.Hour)
	works.Store(true)
	id := say(bob, room, "new", nil)
	if n := g.retried(l.Server); n.EventID != id || *n.Counts.Unread != 2 {
		t.Errorf("%+v, want %s", n, id)
	}
}

func TestEventsFromBeforeThePusherAreNotSent(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice, bob := l.Register("alice"), l.Register("bob")
	room := room(bob, nil, alice)
	say(bob, room, "before", nil)
	set(alice, g.pusher("key", nil))
	l.restart()
	id := say(bob, room, "after", nil)
	if n := g.event(); n.EventID != id {
		t.Errorf("%+v, want %s", n, id)
	}
}

// A gateway that hangs, is closed, sends garbage, redirects into the local network or sends an endless response does
// not delay any other gateway.
func TestBadGatewaysDoNotDelayOthers(t *testing.T) {
	l := newLab(t, nil)
	good := newGateway(t, nil)
	hang := make(chan struct{})
	redirected := make(chan struct{}, 1)
	bad := map[string]http.HandlerFunc{
		"hangs": func(http.ResponseWriter, *http.Request) { <-hang },
		"answers garbage": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "<html>"+strings.Repeat("x", 1<<20))
		},
		"answers another type": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"rejected":{"a":1}}`) },
		"redirects": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/redirected", http.StatusTemporaryRedirect)
		},
		"never ends": func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-hang
		},
	}
	alice, bob := l.Register("alice"), l.Register("bob")
	room := room(bob, nil, alice)
	asked := map[string]chan struct{}{}
	for name, h := range bad {
		ask := make(chan struct{}, 100)
		asked[name] = ask
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/redirected" {
				redirected <- struct{}{}
				return
			}
			ask <- struct{}{}
			h(w, r)
		}))
		t.Cleanup(s.Close)
		for i := range 5 {
			set(alice, (&gateway{url: s.URL + "/_matrix/push/v1/notify"}).pusher(fmt.Sprint(name, i), nil))
		}
	}
	t.Cleanup(func() { close(hang) }) // runs before the servers are closed
	set(alice, (&gateway{url: "http://127.0.0.1:1/_matrix/push/v1/notify"}).pusher("closed", nil))
	set(alice, good.pusher("good", nil))
	for i := range 20 {
		id := say(bob, room, fmt.Sprint("message ", i), nil)
		if n := good.event(); n.EventID != id {
			t.Errorf("message %d: %+v", i, n)
		}
	}
	for name, ask := range asked {
		<-ask
		if len(pushkeys(alice)) != 27 {
			t.Errorf("the gateway that %s has ended its pushers", name)
		}
	}
	select {
	case <-redirected:
		t.Error("a redirect was followed")
	default:
	}
}

func TestAddressOfAGatewayIsCheckedWhenItIsDialled(t *testing.T) {
	s := testserver.New(t, nil)
	s.Notify()
	inside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dialled := make(chan net.Conn, 10)
	go func() {
		for {
			conn, err := inside.Accept()
			if err != nil {
				return
			}
			dialled <- conn
		}
	}()
	t.Cleanup(func() { _ = inside.Close() })
	alice, bob := s.Register("alice"), s.Register("bob")
	room := room(bob, nil, alice)
	set(alice, (&gateway{url: "https://" + inside.Addr().String() + "/_matrix/push/v1/notify"}).pusher("key", nil))
	before := failures(t, s)
	say(bob, room, "hello", nil)
	for deadline := time.Now().Add(20 * time.Second); failures(t, s) == before; {
		if time.Now().After(deadline) {
			t.Fatal("no delivery was tried")
		}
	}
	if len(dialled) > 0 {
		t.Error("a private address was dialled")
	}
}

// failures returns the metric line that counts failed deliveries.
func failures(t *testing.T, s *testserver.Server) string {
	t.Helper()
	resp, err := http.Get(s.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, `ebb_pushes_total{outcome="failed"}`) {
			return line
		}
	}
	return ""
}

func TestLockedAccountIsNotNotified(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice, bob, admin := l.Register("alice"), l.Register("bob"), l.Register("admin")
	if _, err := l.Control(t.Context(), "user admin", fmt.Appendf(nil, `{"user":%q,"admin":true}`, admin.User)); err != nil {
		t.Fatal(err)
	}
	room := room(bob, nil, alice, admin)
	set(alice, g.pusher("alice", nil))
	set(admin, g.pusher("admin", nil))
	next := func(want map[string]string) { // expects events by pushkey
		got := map[string]string{}
		for range want {
			n := g.event()
			got[n.Devices[0].Pushkey] = n.EventID
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	first := say(bob, room, "before", nil)
	next(map[string]string{"alice": first, "admin": first})
	admin.Do("PUT", "/v1/admin/lock/"+alice.User, object{"locked": true})
	next(map[string]string{"admin": say(bob, room, "locked", nil)})
	admin.Do("PUT", "/v1/admin/lock/"+alice.User, object{"locked": false})
	last := say(bob, room, "after", nil)
	next(map[string]string{"alice": last, "admin": last})
}

func TestSendAccessesNoPushersInTheDatabase(t *testing.T) {
	s := testserver.New(t, nil) // nothing is delivered, so that only the send itself is observed
	bob := s.Register("bob")
	var members []*testserver.Client
	for i := range 5 {
		members = append(members, s.Register(fmt.Sprint("user", i)))
	}
	room := room(bob, nil, members...)
	say(bob, room, "the first one loads what a send needs", nil)
	without := s.Statements(func() { say(bob, room, "without pushers", nil) })
	g := &gateway{url: "https://push.example.org/_matrix/push/v1/notify"}
	for _, c := range members {
		set(c, g.pusher(c.User, nil))
	}
	with := s.Statements(func() { say(bob, room, "with pushers", nil) })
	if len(with) == 0 || !slices.Equal(with, without) {
		t.Errorf("with pushers a send runs\n%s\nand without\n%s", strings.Join(with, "\n"), strings.Join(without, "\n"))
	}
}
