package server_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"ebb/internal/testserver"
)

// syncing is a client that syncs with a filter and keeps its token.
type syncing struct {
	*testserver.Client
	filter, since string
}

func (c *syncing) sync(extra string) map[string]any {
	answer := c.Do("GET", "/v3/sync?filter="+url.QueryEscape(c.filter)+"&since="+c.since+extra, nil)
	c.since = answer["next_batch"].(string)
	return answer
}

func TestProfileChangesReachUsersWhoShareARoom(t *testing.T) {
	for _, name := range []string{"", "org.matrix.msc4429."} {
		t.Run("names of "+name, func(t *testing.T) {
			h := newThreads(t)
			section := name + "users"
			bob := &syncing{Client: h.bob, filter: `{"` + name + `profile_fields":{"ids":["m.status","org.example.x"]}}`}
			set := func(c *testserver.Client, field string, value any) {
				c.Do("PUT", "/v3/profile/"+c.User+"/"+field, obj{field: value})
			}
			status := func(answer map[string]any, c *testserver.Client) any {
				return testserver.Get(answer, section, c.User, "profile_updates", "m.status", "text")
			}
			set(h.alice, "m.status", obj{"text": "at sea", "emoji": "🌊"})
			stranger := h.Register("stranger")
			set(stranger, "m.status", obj{"text": "away", "emoji": "🌴"})

			if answer := bob.sync(""); status(answer, h.alice) != "at sea" || len(answer[section].(map[string]any)) != 1 {
				t.Fatalf("a first answer has %v", answer[section])
			}
			if answer := bob.sync(""); answer[section] != nil {
				t.Fatalf("without a change: %v", answer[section])
			}
			set(h.alice, "m.status", obj{"text": "in port", "emoji": "⚓"})
			set(h.alice, "m.tz", "Europe/Berlin") // the filter does not ask for it
			set(h.bob, "org.example.x", []int{1})
			answer := bob.sync("")
			if status(answer, h.alice) != "in port" || len(testserver.Get(answer, section, h.alice.User, "profile_updates").(map[string]any)) != 1 ||
				fmt.Sprint(testserver.Get(answer, section, h.bob.User, "profile_updates", "org.example.x")) != "[1]" {
				t.Errorf("after changes: %v", answer[section])
			}
			h.alice.Do("DELETE", "/v3/profile/"+h.alice.User+"/m.status", nil)
			answer = bob.sync("")
			if updates, _ := testserver.Get(answer, section, h.alice.User, "profile_updates").(map[string]any); len(updates) != 1 || updates["m.status"] != nil {
				t.Errorf("after a deletion: %v", answer[section])
			}
			// When a user joins a shared room, the profile is sent; when the user leaves, it is removed.
			stranger.Do("POST", "/v3/join/"+url.PathEscape(h.room), nil)
			if answer := bob.sync(""); status(answer, stranger) != "away" {
				t.Errorf("after a join: %v", answer[section])
			}
			stranger.Do("POST", "/v3/rooms/"+url.PathEscape(h.room)+"/leave", nil)
			answer = bob.sync("")
			entry, ok := testserver.Get(answer, section, stranger.User).(map[string]any)
			if updates, there := entry["profile_updates"]; !ok || !there || updates != nil {
				t.Errorf("after a leave: %v", answer[section])
			}
			set(stranger, "m.status", obj{"text": "back", "emoji": "🌴"})
			if answer := bob.sync(""); answer[section] != nil {
				t.Errorf("a stranger's change: %v", answer[section])
			}
			// Fields that the client asks for later come with full_state.
			bob.filter = `{"` + name + `profile_fields":{"ids":["m.status","m.tz"]}}`
			if tz := testserver.Get(bob.sync("&full_state=true"), section, h.alice.User, "profile_updates", "m.tz"); tz != "Europe/Berlin" {
				t.Errorf("with full_state, alice's m.tz is %v", tz)
			}
			if answer := h.alice.Do("GET", "/v3/sync", nil); answer["users"] != nil || answer["org.matrix.msc4429.users"] != nil {
				t.Error("a client that did not ask gets profiles")
			}
		})
	}
}

// The changes of strangers alone exceed what one query reads.
func TestProfileChangesAreNotLostAmongThoseOfStrangers(t *testing.T) {
	h := newThreads(t)
	bob := &syncing{Client: h.bob, filter: `{"profile_fields":{"ids":["m.status"]}}`}
	bob.sync("")
	stranger := h.Register("stranger")
	for i := range 300 {
		stranger.Do("PUT", fmt.Sprintf("/v3/profile/%s/org.example.f%d", stranger.User, i), obj{fmt.Sprintf("org.example.f%d", i): i})
		h.alice.Do("PUT", fmt.Sprintf("/v3/profile/%s/org.example.f%d", h.alice.User, i), obj{fmt.Sprintf("org.example.f%d", i): i})
	}
	h.alice.Do("PUT", "/v3/profile/"+h.alice.User+"/m.status", obj{"m.status": obj{"text": "last", "emoji": ""}})
	if got := testserver.Get(bob.sync(""), "users", h.alice.User, "profile_updates", "m.status", "text"); got != "last" {
		t.Errorf("alice's status is %v", got)
	}
}

func TestAWaitingSyncIsWokenByAProfileChange(t *testing.T) {
	h := newThreads(t)
	bob := &syncing{Client: h.bob, filter: `{"profile_fields":{"ids":["m.status"]}}`}
	bob.sync("")
	got := make(chan map[string]any, 1)
	go func() { got <- bob.sync("&timeout=60000") }()
	for text := 0; ; text++ {
		h.alice.Do("PUT", "/v3/profile/"+h.alice.User+"/m.status", obj{"m.status": obj{"text": "changed", "emoji": ""}})
		select {
		case answer := <-got:
			if testserver.Get(answer, "users", h.alice.User, "profile_updates", "m.status", "text") != "changed" {
				t.Errorf("the answer is %v", answer)
			}
			return
		default:
		}
		if text > 2000 {
			t.Fatal("the waiting /sync is not woken")
		}
	}
}

func TestAStatusIsShortAndWellFormed(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	for _, field := range []string{"m.status", "org.matrix.msc4426.status"} {
		path := "/v3/profile/" + alice.User + "/" + field
		alice.Do("PUT", path, obj{field: obj{"text": strings.Repeat("x", 256), "emoji": "🏃", "org.example.more": 1}})
		alice.Refused("PUT", path, obj{field: obj{"text": strings.Repeat("x", 257), "emoji": "🏃"}}, 400, "M_TOO_LARGE")
		alice.Refused("PUT", path, obj{field: obj{"text": "x", "emoji": strings.Repeat("🏃", 9)}}, 400, "M_TOO_LARGE")
		alice.Refused("PUT", path, obj{field: obj{"text": "x"}}, 400, "M_INVALID_PARAM")
		alice.Refused("PUT", path, obj{field: "x"}, 400, "M_INVALID_PARAM")
		if got := testserver.Get(alice.Do("GET", path, nil), field, "emoji"); got != "🏃" {
			t.Errorf("%s is %v", field, got)
		}
	}
	for _, field := range []string{"m.call", "org.matrix.msc4426.call"} {
		path := "/v3/profile/" + alice.User + "/" + field
		alice.Do("PUT", path, obj{field: obj{"call_joined_ts": 1770140640}})
		alice.Do("PUT", path, obj{field: obj{}})
		alice.Refused("PUT", path, obj{field: obj{"call_joined_ts": "now"}}, 400, "M_INVALID_PARAM")
		alice.Refused("PUT", path, obj{field: []int{}}, 400, "M_INVALID_PARAM")
	}
}

func TestLazyLoadingReturnsTheProfilesOfSenders(t *testing.T) {
	h := newThreads(t)
	carol := h.Register("carol")
	carol.Do("POST", "/v3/join/"+url.PathEscape(h.room), nil)
	for _, c := range []*testserver.Client{h.alice, carol} {
		c.Do("PUT", "/v3/profile/"+c.User+"/m.status", obj{"m.status": obj{"text": c.User, "emoji": ""}})
	}
	h.alice.Do("PUT", "/v3/rooms/"+url.PathEscape(h.room)+"/state/m.room.name", obj{"name": "so that it needs no heroes"})
	h.says(h.alice, "", "hello", nil)
	bob := &syncing{Client: h.bob, filter: `{"room":{"timeline":{"limit":1},"state":{"lazy_load_members":true}},"profile_fields":{"ids":["m.status"]}}`}
	if users, _ := bob.sync("")["users"].(map[string]any); len(users) != 1 || users[h.alice.User] == nil {
		t.Errorf("the first answer has the profiles %v", users)
	}
	h.says(carol, "", "me too", nil)
	if users, _ := bob.sync("")["users"].(map[string]any); len(users) != 1 || users[carol.User] == nil {
		t.Errorf("after carol's message: %v", users)
	}
	h.says(carol, "", "and again", nil)
	if answer := bob.sync(""); answer["users"] != nil {
		t.Errorf("after another one: %v", answer["users"])
	}
}
