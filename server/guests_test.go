package server_test

import (
	"fmt"
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
)

// guest registers a guest.
func guest(t *testing.T, s *testserver.Server) *device {
	t.Helper()
	d := &device{Client: s.Anonymous(), t: t}
	answer := d.Do("POST", "/v3/register?kind=guest", obj{"initial_device_display_name": "kiosk", "username": "ignored", "device_id": "IGNORED", "password": "ignored"})
	d.User, _ = answer["user_id"].(string)
	d.DeviceID, _ = answer["device_id"].(string)
	d.Token, _ = answer["access_token"].(string)
	if d.Token == "" || d.DeviceID == "IGNORED" || d.User == "@ignored:test" {
		t.Fatalf("the registration of a guest returns %v", answer)
	}
	return d
}

func withGuests(c *config.Config) { c.Registration.Guests = true }

func TestGuestsJoinOnlyRoomsThatAllowThem(t *testing.T) {
	s := testserver.New(t, withGuests)
	alice, g := signUp(t, s, "alice"), guest(t, s)
	if who := g.Do("GET", "/v3/account/whoami", nil); who["is_guest"] != true || who["device_id"] != g.DeviceID {
		t.Errorf("whoami returns %v, want a guest on the same device", who)
	}
	state := func(access string) []obj {
		return []obj{{"type": "m.room.guest_access", "content": obj{"guest_access": access}}}
	}
	open, _ := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat", "initial_state": state("can_join")})["room_id"].(string)
	closed, _ := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	g.Refused("POST", "/v3/rooms/"+closed+"/join", obj{}, 403, "M_GUEST_ACCESS_FORBIDDEN")
	g.Refused("POST", "/v3/join/"+closed, obj{}, 403, "M_GUEST_ACCESS_FORBIDDEN")
	g.Refused("PUT", "/v3/rooms/"+closed+"/state/m.room.member/"+g.User, obj{"membership": "join"}, 403, "M_GUEST_ACCESS_FORBIDDEN")
	g.Refused("POST", "/v3/join/!elsewhere:example.org", obj{}, 403, "M_GUEST_ACCESS_FORBIDDEN")

	base := "/v3/rooms/" + open
	g.Do("POST", base+"/join", obj{})
	said := g.say(base, "hello from a guest")
	if got := alice.Do("GET", base+"/event/"+said, nil); get(got, "content", "body") != "hello from a guest" {
		t.Errorf("the message of the guest is %v", got)
	}
	later := g.Do("PUT", delayedPath+"/rooms/"+open+"/delayed_event/m.room.message/later", obj{"delay_ms": 5_000, "content": obj{"msgtype": "m.text", "body": "bye"}})
	if got := list(g.Do("GET", delayedPath+"/delayed_events", nil), "delayed_events"); len(got) != 1 {
		t.Errorf("the delayed events of the guest are %v", got)
	}
	if got := g.Do("GET", fmt.Sprint(delayedPath, "/delayed_events/", later["delay_id"]), nil); get(got, "content", "body") != "bye" {
		t.Errorf("the delayed event of the guest is %v", got)
	}
	g.Refused("PUT", base+"/state/m.room.member/"+alice.User, obj{"membership": "invite"}, 403, "M_GUEST_ACCESS_FORBIDDEN")
	alice.Do("PUT", base+"/state/m.room.guest_access", obj{"guest_access": "forbidden"})
	g.Refused("PUT", base+"/send/m.room.message/9", obj{"msgtype": "m.text", "body": "x"}, 403, "M_GUEST_ACCESS_FORBIDDEN")
	g.Do("PUT", base+"/state/m.room.member/"+g.User, obj{"membership": "leave"})
	g.Refused("POST", base+"/join", obj{}, 403, "M_GUEST_ACCESS_FORBIDDEN")
}

func TestGuestsCallOnlyTheOperationsForGuests(t *testing.T) {
	s := testserver.New(t, withGuests)
	alice, g := signUp(t, s, "alice"), guest(t, s)
	room, _ := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat", "initial_state": []obj{
		{"type": "m.room.history_visibility", "content": obj{"history_visibility": "world_readable"}},
		{"type": "m.room.guest_access", "content": obj{"guest_access": "can_join"}},
	}})["room_id"].(string)
	base := "/v3/rooms/" + room
	event := alice.say(base, "for everybody")
	for _, path := range []string{
		"/v3/sync", base + "/state", base + "/members", base + "/messages?dir=b", base + "/event/" + event, base + "/context/" + event, base + "/initialSync",
		base + "/state/m.room.create/", "/v3/events?timeout=0&room_id=" + room, "/v3/devices", "/v3/devices/" + g.DeviceID, "/v3/profile/" + alice.User, "/versions",
	} {
		if status, _, raw := g.Raw("GET", path, nil); status != 200 {
			t.Errorf("GET %s of a guest: %d %s", path, status, raw)
		}
	}
	g.Do("POST", base+"/join", obj{})
	body := obj{"room_subscriptions": obj{room: obj{"timeline_limit": 10, "required_state": []any{}}}}
	a := g.Do("POST", "/unstable/org.matrix.simplified_msc3575/sync", body)
	if timeline, _ := get(a, "rooms", room, "timeline").([]any); len(timeline) == 0 {
		t.Errorf("sliding sync of a guest returns no timeline: %v", a)
	}
	body["room_subscriptions"] = obj{room: obj{"timeline_limit": 10, "required_state": obj{}}}
	a = g.Do("POST", "/v4/sync", body)
	if timeline, _ := get(a, "rooms", room, "timeline").([]any); len(timeline) == 0 {
		t.Errorf("sliding sync of a guest, in its merged form, returns no timeline: %v", a)
	}
	g.Do("PUT", "/v3/devices/"+g.DeviceID, obj{"display_name": "x"})
	g.Do("PUT", "/v3/profile/"+g.User+"/displayname", obj{"displayname": "Visitor"})
	g.Do("POST", "/v3/keys/upload", obj{})
	g.Do("POST", "/v3/keys/query", obj{"device_keys": obj{}})
	g.Do("POST", "/v3/keys/claim", obj{"one_time_keys": obj{}})
	g.Do("PUT", "/v3/sendToDevice/m.x/1", obj{"messages": obj{}})
	for _, c := range []struct {
		method, path string
		body         any
	}{
		{"POST", "/v3/createRoom", obj{}},
		{"PUT", "/v3/profile/" + g.User + "/avatar_url", obj{"avatar_url": ""}},
		{"POST", base + "/invite", obj{"user_id": alice.User}},
		{"POST", base + "/report", obj{"reason": "x"}},
		{"POST", "/v3/user_directory/search", obj{"search_term": "a"}},
		{"GET", "/v3/joined_rooms", nil},
		{"GET", "/v3/pushrules/", nil},
		{"PUT", "/v3/user/" + g.User + "/account_data/m.x", obj{}},
		{"POST", "/_matrix/media/v3/upload", []byte("x")},
		{"POST", "/v3/account/deactivate", obj{}},
		{"GET", "/v3/admin/whois/" + g.User, nil},
	} {
		g.Refused(c.method, c.path, c.body, 403, "M_GUEST_ACCESS_FORBIDDEN")
	}
	together(nil, alice, signUp(t, s, "bob"))
	if found := alice.Do("POST", "/v3/user_directory/search", obj{"search_term": "visitor"}); len(list(found, "results")) != 0 {
		t.Errorf("the user directory finds guests: %v", found)
	}
	g.Do("POST", "/v3/logout", obj{})
}

func TestGuestsBecomeUsersWithTheirToken(t *testing.T) {
	s := testserver.New(t, withGuests)
	g, other := guest(t, s), guest(t, s)
	name := g.User[1 : len(g.User)-len(":test")]
	body := func(change obj) obj {
		b := obj{"username": name, "password": testserver.Password(), "guest_access_token": g.Token, "auth": obj{"type": "m.login.dummy"}}
		for k, v := range change {
			b[k] = v
		}
		return b
	}
	anyone := s.Anonymous()
	anyone.Refused("POST", "/v3/register", body(obj{"guest_access_token": other.Token}), 403, "M_FORBIDDEN")
	anyone.Refused("POST", "/v3/register", body(obj{"guest_access_token": "nonsense"}), 401, "M_UNKNOWN_TOKEN")
	anyone.Refused("POST", "/v3/register", body(obj{"guest_access_token": ""}), 400, "M_USER_IN_USE")
	anyone.Refused("POST", "/v3/register", obj{"guest_access_token": g.Token, "password": "x"}, 400, "M_MISSING_PARAM")
	if got := anyone.Do("POST", "/v3/register", body(nil)); got["user_id"] != g.User || got["access_token"] == g.Token {
		t.Errorf("the upgrade returns %v, want the same user and a new token", got)
	}
	if who := g.Do("GET", "/v3/account/whoami", nil); who["is_guest"] != false {
		t.Errorf("the old session is still that of a guest: %v", who)
	}
	g.Do("POST", "/v3/createRoom", obj{})
	s.Login(g.User)
	anyone.Refused("POST", "/v3/register", body(nil), 403, "M_FORBIDDEN") // the account is no longer a guest
}

func TestGuestsAreRefusedIfSwitchedOff(t *testing.T) {
	s := testserver.New(t, nil)
	s.Anonymous().Refused("POST", "/v3/register?kind=guest", obj{}, 403, "M_GUEST_ACCESS_FORBIDDEN")
	s.Anonymous().Refused("POST", "/v3/register?kind=robot", obj{}, 400, "M_INVALID_PARAM")
}

func TestGuestAccountsAreLimitedPerNetwork(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) {
		c.Registration.Guests, c.RateLimits.Enabled, c.RateLimits.Registrations = true, true, config.Bucket{PerSecond: 0.01, Burst: 3}
	})
	var got []int
	for range 4 {
		status, _, _ := s.Anonymous().Raw("POST", "/v3/register?kind=guest", obj{})
		got = append(got, status)
	}
	if fmt.Sprint(got) != "[200 200 200 429]" {
		t.Errorf("the statuses of four registrations of guests from one network are %v, want the last to be 429", got)
	}
}

func TestAStageOfAnUnknownSessionCompletesNothing(t *testing.T) {
	s := testserver.New(t, nil)
	s.Anonymous().Refused("POST", "/v3/register", obj{"username": "x", "password": testserver.Password(), "auth": obj{"type": "m.login.dummy", "session": "unknown"}}, 401, "M_FORBIDDEN")
}
