package server_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"ebb/internal/testserver"
)

// town is a set of federating servers with one user on each: alice, bob and carol.
type town struct {
	*testing.T
	net   *testserver.Network
	users []*testserver.Client
}

func newTown(t *testing.T, n int) *town {
	t.Helper()
	w := &town{T: t, net: testserver.Federation(t, n, nil)}
	for i, name := range []string{"alice", "bob", "carol"}[:n] {
		w.users = append(w.users, w.net.Servers[i].Register(name))
	}
	return w
}

func (w *town) create(c *testserver.Client, body map[string]any) string {
	w.Helper()
	room, _ := c.Do("POST", "/v3/createRoom", body)["room_id"].(string)
	return room
}

// join joins a room through hs1.test.
func (w *town) join(c *testserver.Client, room string) {
	w.Helper()
	c.Do("POST", "/v3/join/"+url.PathEscape(room)+"?via=hs1.test", map[string]any{})
}

// eventually calls f until it returns true, which takes a while because other servers must receive events first.
func (w *town) eventually(what string, f func() bool) {
	w.Helper()
	eventually(w.T, 10*time.Second, what, f)
}

// eventually calls f until it returns true, for something that other goroutines do. The test fails if that takes longer
// than a time.
func eventually(t testing.TB, within time.Duration, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// membership returns the membership of user as the server of the client as sees it, or "".
func (w *town) membership(as *testserver.Client, room, user string) string {
	w.Helper()
	status, _, raw := as.Raw("GET", "/v3/rooms/"+url.PathEscape(room)+"/state/m.room.member/"+url.PathEscape(user), nil)
	var content struct{ Membership string }
	if status == http.StatusOK && json.Unmarshal(raw, &content) != nil {
		w.Fatalf("%s", raw)
	}
	return content.Membership
}

// section returns the entry for a room in one section of a first /sync, or nil.
func section(c *testserver.Client, section, room string) map[string]any {
	entry, _ := testserver.Get(c.Do("GET", "/v3/sync", nil), "rooms", section, room).(map[string]any)
	return entry
}

// stateIn returns a state event from a list in a /sync response.
func stateIn(list any, typ, key string) map[string]any {
	events, _ := list.([]any)
	for _, e := range events {
		if e, _ := e.(map[string]any); e["type"] == typ && e["state_key"] == key {
			return e
		}
	}
	return nil
}

var roomVersions = []string{"1", "2", "3", "6", "7", "10", "11", "12"}

func TestRoomOfAnotherServerIsJoinedAndUsed(t *testing.T) {
	w := newTown(t, 2)
	alice, bob := w.users[0], w.users[1]
	for _, version := range roomVersions {
		t.Run("version "+version, func(t *testing.T) {
			w.T = t
			room := w.create(alice, map[string]any{"preset": "public_chat", "name": "Kitchen", "room_version": version})
			w.join(bob, room)
			joined := section(bob, "join", room)
			if n := testserver.Get(joined, "summary", "m.joined_member_count"); n != 2.0 {
				t.Errorf("to bob the room has %v joined members, want 2", n)
			}
			if e := stateIn(testserver.Get(joined, "state", "events"), "m.room.name", ""); testserver.Get(e, "content", "name") != "Kitchen" {
				t.Errorf("bob gets the name as %v, want Kitchen", e)
			}
			if m := w.membership(alice, room, bob.User); m != "join" {
				t.Errorf("on alice's server bob's membership is %q, want join", m)
			}
			bob.Do("PUT", "/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/1", map[string]any{"msgtype": "m.text", "body": "from bob " + version})
			alice.Do("PUT", "/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/1"+version, map[string]any{"msgtype": "m.text", "body": "from alice " + version})
			for _, c := range w.users {
				for _, text := range []string{"from bob " + version, "from alice " + version} {
					w.eventually(text+" for "+c.User, func() bool {
						_, _, raw := c.Raw("GET", "/v3/rooms/"+url.PathEscape(room)+"/messages?dir=b&limit=10", nil)
						return strings.Contains(string(raw), text)
					})
				}
			}
			bob.Do("POST", "/v3/rooms/"+url.PathEscape(room)+"/leave", map[string]any{"reason": "done"})
			w.eventually("bob's leave", func() bool { return w.membership(alice, room, bob.User) == "leave" })
			w.join(bob, room) // bob joins again
			w.eventually("bob's return", func() bool { return w.membership(alice, room, bob.User) == "join" })
			if m := w.membership(bob, room, bob.User); m != "join" {
				t.Errorf("on bob's server his membership is %q, want join", m)
			}
		})
	}
}

func TestInviteOfAnotherServerIsShownAcceptedRejectedAndRevoked(t *testing.T) {
	w := newTown(t, 2)
	alice, bob := w.users[0], w.users[1]
	for _, version := range roomVersions {
		t.Run("version "+version, func(t *testing.T) {
			w.T = t
			room := w.create(alice, map[string]any{"name": "Kitchen", "room_version": version, "invite": []string{bob.User}, "is_direct": true})
			path := "/v3/rooms/" + url.PathEscape(room)
			invited := func() map[string]any { return section(bob, "invite", room) }
			shown := testserver.Get(invited(), "invite_state", "events")
			for _, want := range [][2]string{{"m.room.create", ""}, {"m.room.name", ""}, {"m.room.join_rules", ""}, {"m.room.member", alice.User}, {"m.room.member", bob.User}} {
				e := stateIn(shown, want[0], want[1])
				if e == nil || e["event_id"] != nil || e["signatures"] != nil {
					t.Errorf("the stripped state of the invite has %v for %v, want a stripped event", e, want)
				}
			}
			if direct := testserver.Get(stateIn(shown, "m.room.member", bob.User), "content", "is_direct"); direct != true {
				t.Errorf("is_direct of the invite is %v, want true", direct)
			}
			bob.Do("POST", path+"/leave", map[string]any{})
			if invited() != nil {
				t.Error("the rejected invite is still in /sync")
			}
			w.eventually("bob's rejection", func() bool { return w.membership(alice, room, bob.User) == "leave" })

			alice.Do("POST", path+"/invite", map[string]any{"user_id": bob.User, "reason": "come"})
			if e := stateIn(testserver.Get(invited(), "invite_state", "events"), "m.room.member", bob.User); testserver.Get(e, "content", "reason") != "come" {
				t.Errorf("the member event of the second invite is %v", e)
			}
			alice.Do("POST", path+"/kick", map[string]any{"user_id": bob.User})
			w.eventually("the withdrawal", func() bool { return invited() == nil })

			alice.Do("POST", path+"/invite", map[string]any{"user_id": bob.User})
			bob.Do("POST", path+"/join", map[string]any{})
			if m := w.membership(alice, room, bob.User); m != "join" {
				t.Errorf("on alice's server bob's membership is %q, want join", m)
			}
			var joined map[string]any
			w.eventually("the members of the room", func() bool { // without which this client does not get the room
				joined = section(bob, "join", room)
				return joined != nil
			})
			if e := stateIn(testserver.Get(joined, "timeline", "events"), "m.room.member", bob.User); testserver.Get(e, "unsigned", "prev_content", "membership") != "invite" {
				t.Errorf("bob's join is %v, want the previous membership invite", e)
			}
		})
	}
}

func TestKnockOnARoomOfAnotherServer(t *testing.T) {
	w := newTown(t, 2)
	alice, bob := w.users[0], w.users[1]
	for _, version := range []string{"7", "10", "12"} {
		t.Run("version "+version, func(t *testing.T) {
			w.T = t
			room := w.create(alice, map[string]any{"name": "Kitchen", "room_version": version, "initial_state": []any{
				map[string]any{"type": "m.room.join_rules", "state_key": "", "content": map[string]any{"join_rule": "knock"}},
			}})
			path := "/v3/rooms/" + url.PathEscape(room)
			knock := func() {
				t.Helper()
				bob.Do("POST", "/v3/knock/"+url.PathEscape(room)+"?via=hs1.test", map[string]any{"reason": "it is me"})
				if m := w.membership(alice, room, bob.User); m != "knock" {
					t.Fatalf("on alice's server bob's membership is %q, want knock", m)
				}
			}
			knocked := func() map[string]any { return section(bob, "knock", room) }
			knock()
			shown := testserver.Get(knocked(), "knock_state", "events")
			for _, want := range [][2]string{{"m.room.create", ""}, {"m.room.name", ""}, {"m.room.member", bob.User}} {
				if e := stateIn(shown, want[0], want[1]); e == nil || e["event_id"] != nil || e["signatures"] != nil {
					t.Errorf("the stripped state of the knock has %v for %v, want a stripped event", e, want)
				}
			}
			bob.Do("POST", path+"/leave", map[string]any{})
			w.eventually("the knock's end", func() bool { return w.membership(alice, room, bob.User) == "leave" })
			if knocked() != nil {
				t.Error("the retracted knock is still in /sync")
			}
			knock()
			alice.Do("POST", path+"/kick", map[string]any{"user_id": bob.User})
			w.eventually("the refusal", func() bool { return knocked() == nil })
			knock()
			alice.Do("POST", path+"/invite", map[string]any{"user_id": bob.User})
			if knocked() != nil || section(bob, "invite", room) == nil {
				t.Error("/sync has the knock, or lacks the invite that followed it")
			}
			bob.Do("POST", path+"/join", map[string]any{})
			if m := w.membership(alice, room, bob.User); m != "join" {
				t.Errorf("on alice's server bob's membership is %q, want join", m)
			}
		})
	}
}
