package push_test

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"testing"
	"time"

	"ebb/internal/testserver"
)

// notified returns the IDs of the events that notified a user, newest first. It reads page by page.
func notified(c *testserver.Client, query string) (ids []string) {
	for from, first := "", true; first || from != ""; first = false {
		page := c.Do("GET", "/v3/notifications?"+query+"&from="+url.QueryEscape(from), nil)
		for _, n := range page["notifications"].([]any) {
			ids = append(ids, testserver.Get(n, "event", "event_id").(string))
		}
		from, _ = page["next_token"].(string)
	}
	return ids
}

func TestNotificationsListWhatNotifiedTheUser(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := s.Register("alice"), s.Register("bob")
	one, two := room(bob, nil, alice), room(bob, nil, alice)
	if got := alice.Do("GET", "/v3/notifications", nil); !reflect.DeepEqual(got, object{"notifications": []any{}}) {
		t.Errorf("before any message: %v", got)
	}
	first := say(bob, one, "first", nil)
	say(bob, one, "a notice", object{"msgtype": "m.notice"})
	mentioned := say(bob, two, "alice", mention(alice))
	say(alice, two, "own", nil)
	s.Advance(time.Second)
	last := say(bob, one, "last", nil)
	alice.Do("POST", "/v3/rooms/"+one+"/receipt/m.read/"+first, object{})

	page := alice.Do("GET", "/v3/notifications?limit=2", nil)
	newest := testserver.Get(page, "notifications", 0).(object)
	event := newest["event"].(object)
	if event["event_id"] != last || event["type"] != "m.room.message" || event["sender"] != bob.User || testserver.Get(event, "content", "body") != "last" || event["room_id"] != nil {
		t.Errorf("the event is %v", event)
	}
	delete(newest, "event")
	want := object{"actions": []any{"notify", object{"set_tweak": "sound", "value": "default"}}, "read": false, "room_id": one, "ts": float64(s.Now().UnixMilli())}
	if !reflect.DeepEqual(newest, want) {
		t.Errorf("got %v\nwant %v", newest, want)
	}
	second := testserver.Get(page, "notifications", 1).(object)
	highlight := object{"set_tweak": "highlight"}
	if second["read"] != true || !slices.ContainsFunc(second["actions"].([]any), func(a any) bool { return reflect.DeepEqual(a, highlight) }) {
		t.Errorf("the mention is %v", second)
	}
	third := testserver.Get(alice.Do("GET", "/v3/notifications?limit=2&from="+page["next_token"].(string), nil), "notifications", 0).(object)
	if testserver.Get(third, "event", "event_id") != first || third["read"] != true {
		t.Errorf("the second page begins with %v", third)
	}
	for query, want := range map[string][]string{"": {last, mentioned, first}, "limit=1": {last, mentioned, first}, "only=highlight": {mentioned}, "limit=1&only=highlight": {mentioned}} {
		if got := notified(alice, query); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	alice.Refused("GET", "/v3/notifications?from=nonsense", nil, 400, "M_INVALID_PARAM")
	alice.Refused("GET", "/v3/notifications?limit=-1", nil, 400, "M_INVALID_PARAM")
	s.Anonymous().Refused("GET", "/v3/notifications", nil, 401, "M_MISSING_TOKEN")
}

func TestNotificationsOmitEventsThatAreNoLongerVisible(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob, eve := s.Register("alice"), s.Register("bob"), s.Register("eve")
	expiring := room(bob, object{"initial_state": []object{{"type": "m.room.retention", "state_key": "", "content": object{"max_lifetime": 60_000}}}}, alice)
	kept, left, ignored := room(bob, nil, alice), room(bob, nil, alice), room(eve, nil, alice)
	say(bob, expiring, "expired", mention(alice))
	redacted := say(bob, kept, "redacted", mention(alice))
	say(bob, left, "left", mention(alice))
	say(eve, ignored, "ignored", mention(alice))
	want := say(bob, kept, "kept", mention(alice))
	if got := notified(alice, ""); len(got) != 5 {
		t.Fatalf("at first: %v", got)
	}
	bob.Do("PUT", "/v3/rooms/"+kept+"/redact/"+redacted+"/x", object{})
	alice.Do("POST", "/v3/rooms/"+left+"/leave", object{})
	alice.Do("PUT", "/v3/user/"+alice.User+"/account_data/m.ignored_user_list", object{"ignored_users": object{eve.User: object{}}})
	s.Advance(2 * time.Minute)
	for _, query := range []string{"", "only=highlight", "limit=1"} {
		if got := notified(alice, query); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %v, want %s", query, got, want)
		}
	}
}

func TestNotificationsListInvitesUntilTheyAreAnswered(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob, carol := s.Register("alice"), s.Register("bob"), s.Register("carol")
	joined := room(bob, nil, alice)
	invited := func(by *testserver.Client) (id string, invite func() string) {
		id = room(by, object{"invite": []string{alice.User}})
		return id, func() string {
			for _, n := range alice.Do("GET", "/v3/notifications", nil)["notifications"].([]any) {
				if testserver.Get(n, "room_id") == id {
					return testserver.Get(n, "event", "event_id").(string)
				}
			}
			return ""
		}
	}
	alice.Do("PUT", "/v3/user/"+alice.User+"/account_data/org.matrix.msc4155.invite_permission_config", object{"ignored_users": []string{carol.User}})
	first := say(bob, joined, "first", nil)
	accepted, idOfAccepted := invited(bob)
	second := say(bob, joined, "second", nil)
	rejected, idOfRejected := invited(bob)
	_, idOfUnwanted := invited(carol)
	one, two := idOfAccepted(), idOfRejected()
	if one == "" || two == "" || idOfUnwanted() != "" {
		t.Fatalf("the invites are %q and %q, and %q of an ignored user", one, two, idOfUnwanted())
	}
	newest := testserver.Get(alice.Do("GET", "/v3/notifications?limit=2", nil), "notifications", 0).(object)
	if newest["room_id"] != rejected || newest["read"] != false || testserver.Get(newest, "event", "content", "membership") != "invite" || testserver.Get(newest, "event", "state_key") != alice.User {
		t.Errorf("the newest notification is %v", newest)
	}
	for _, query := range []string{"", "limit=1", "limit=2", "limit=3"} {
		if got, want := notified(alice, query), []string{two, second, one, first}; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	if got := notified(alice, "only=highlight"); len(got) != 0 {
		t.Errorf("highlights: %v", got)
	}
	alice.Do("POST", "/v3/join/"+url.PathEscape(accepted), nil)
	alice.Do("POST", "/v3/rooms/"+url.PathEscape(rejected)+"/leave", nil)
	if got, want := notified(alice, ""), []string{second, first}; !slices.Equal(got, want) {
		t.Errorf("after the answers: %v, want %v", got, want)
	}
}

// Events that did not notify the user are skipped, however many there are between two notifications.
func TestNotificationsAreFoundBehindManyEvents(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := s.Register("alice"), s.Register("bob")
	quiet, elsewhere := room(bob, nil, alice), room(bob, nil)
	first := say(bob, quiet, "first", nil)
	for i := range 300 {
		say(bob, elsewhere, fmt.Sprint("elsewhere ", i), nil)
		say(bob, quiet, fmt.Sprint("notice ", i), object{"msgtype": "m.notice"})
	}
	if got := notified(alice, ""); !slices.Equal(got, []string{first}) {
		t.Errorf("%v, want %s", got, first)
	}
}
