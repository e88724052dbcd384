package server_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
)

func TestAccountDataIsDeleted(t *testing.T) {
	h := newThreads(t)
	deletion := "/unstable/org.matrix.msc3391/user/" + h.bob.User
	for name, tc := range map[string]struct {
		path string
		find func(answer map[string]any) []any
	}{
		"global": {"/account_data/org.example.x", func(answer map[string]any) []any {
			list, _ := testserver.Get(answer, "account_data", "events").([]any)
			return list
		}},
		"of a room": {"/rooms/" + url.PathEscape(h.room) + "/account_data/org.example.x", func(answer map[string]any) []any {
			list, _ := testserver.Get(answer, "rooms", "join", h.room, "account_data", "events").([]any)
			return list
		}},
	} {
		for how, remove := range map[string]func(){
			"by DELETE":    func() { h.bob.Do("DELETE", deletion+tc.path, nil) },
			"by empty PUT": func() { h.bob.Do("PUT", "/v3/user/"+h.bob.User+tc.path, []byte(" { } ")) },
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				content := func(answer map[string]any) any {
					for _, e := range tc.find(answer) {
						if testserver.Get(e, "type") == "org.example.x" {
							return testserver.Get(e, "content")
						}
					}
					return nil
				}
				path := "/v3/user/" + h.bob.User + tc.path
				h.bob.Do("PUT", path, obj{"x": 1})
				first := h.bob.Do("GET", "/v3/sync", nil)
				if content(first) == nil || h.bob.Do("GET", path, nil)["x"] != 1.0 {
					t.Fatalf("before the deletion a first /sync has the content %v, want the stored one", content(first))
				}
				remove()
				h.bob.Refused("GET", path, nil, 404, "M_NOT_FOUND")
				if got, ok := content(h.bob.Do("GET", "/v3/sync?since="+first["next_batch"].(string), nil)).(map[string]any); !ok || len(got) != 0 {
					t.Errorf("/sync has the content %v for the deleted account data, want {}", got)
				}
				if got := content(h.bob.Do("GET", "/v3/sync", nil)); got != nil {
					t.Errorf("a first /sync has deleted account data: %v", got)
				}
				remove() // repeated
			})
		}
	}
	h.bob.Refused("DELETE", deletion+"/account_data/m.push_rules", nil, 405, "M_BAD_JSON")
	h.bob.Refused("DELETE", "/unstable/org.matrix.msc3391/user/"+h.alice.User+"/account_data/org.example.x", nil, 403, "M_FORBIDDEN")
}

func TestNotificationSettingsAreDeletedWithTheirDevice(t *testing.T) {
	s := testserver.New(t, nil)
	one, two := s.Register("alice"), s.Login("alice")
	path := "/v3/user/" + one.User + "/account_data/org.matrix.msc3890.local_notification_settings."
	one.Do("PUT", path+one.DeviceID, obj{"is_silenced": true})
	one.Do("PUT", path+two.DeviceID, obj{"is_silenced": true})
	since := one.Do("GET", "/v3/sync", nil)["next_batch"].(string)
	two.Do("POST", "/v3/logout", nil)
	one.Refused("GET", path+two.DeviceID, nil, 404, "M_NOT_FOUND")
	one.Do("GET", path+one.DeviceID, nil)
	events, _ := testserver.Get(one.Do("GET", "/v3/sync?since="+since, nil), "account_data", "events").([]any)
	if len(events) != 1 || !strings.HasSuffix(testserver.Get(events[0], "type").(string), two.DeviceID) {
		t.Errorf("/sync has the account data %v, want only the deleted setting of the device that has logged out", events)
	}
}

// ids returns the IDs of a page of events.
func ids(answer map[string]any) (out []string) {
	chunk, _ := answer["chunk"].([]any)
	for _, e := range chunk {
		out = append(out, testserver.Get(e, "event_id").(string))
	}
	return out
}

func TestMessagesAreFilteredByTheirRelation(t *testing.T) {
	h := newThreads(t)
	from := h.bob.Do("GET", "/v3/sync", nil)["next_batch"].(string)
	root := h.says(h.alice, "", "root", nil)
	reply := h.says(h.alice, root, "reply", nil)
	reference := h.says(h.alice, "", "reference", obj{"m.relates_to": obj{"rel_type": "m.reference", "event_id": root}})
	for filter, want := range map[string][]string{
		`{"org.matrix.msc3874.rel_types":["m.thread"]}`:                     {reply},
		`{"rel_types":["m.thread","m.reference"]}`:                          {reply, reference},
		`{"rel_types":[]}`:                                                  nil,
		`{"org.matrix.msc3874.not_rel_types":["m.thread"]}`:                 {root, reference},
		`{"not_rel_types":["m.thread"],"rel_types":["m.thread"]}`:           nil,
		`{"not_rel_types":["m.thread","m.reference"]}`:                      {root},
		`{"types":["m.room.message"],"not_rel_types":["m.annotation"]}`:     {root, reply, reference},
		`{"rel_types":["m.reference"],"types":["m.reaction"]}`:              nil,
		`{"org.matrix.msc3874.rel_types":["m.reference"],"rel_types":null}`: {reference},
	} {
		got := ids(h.bob.Do("GET", "/v3/rooms/"+url.PathEscape(h.room)+"/messages?dir=f&from="+from+"&filter="+url.QueryEscape(filter), nil))
		if !slices.Equal(got, want) {
			t.Errorf("the filter %s returns %d events, want %d: %v", filter, len(got), len(want), got)
		}
	}
	h.bob.Refused("GET", "/v3/rooms/"+url.PathEscape(h.room)+"/messages?dir=f&filter="+url.QueryEscape(`{"rel_types":5}`), nil, 400, "M_INVALID_PARAM")
}

func TestARedactionAlsoRedactsRelatedEvents(t *testing.T) {
	for _, member := range []string{"with_rel_types", "org.matrix.msc3912.with_relations"} {
		h := newThreads(t)
		relate := func(c *testserver.Client, target, rel string) string {
			return h.says(c, "", rel, obj{"m.relates_to": obj{"rel_type": rel, "event_id": target}, "m.new_content": obj{"msgtype": "m.text", "body": "x"}})
		}
		redacted := func(event string) bool {
			return testserver.Get(h.alice.Do("GET", "/v3/rooms/"+url.PathEscape(h.room)+"/event/"+url.PathEscape(event), nil), "unsigned", "redacted_because") != nil
		}
		redact := func(c *testserver.Client, event string, rels ...string) {
			h.sent++
			c.Do("PUT", fmt.Sprintf("/v3/rooms/%s/redact/%s/r%d", url.PathEscape(h.room), url.PathEscape(event), h.sent), obj{member: rels})
		}
		target := h.says(h.bob, "", "target", nil)
		edit, reference, others := relate(h.bob, target, "m.replace"), relate(h.bob, target, "m.reference"), relate(h.alice, target, "m.reference")
		further := relate(h.bob, reference, "m.replace")
		redact(h.bob, target, "m.replace")
		if !redacted(target) || !redacted(edit) || redacted(reference) || redacted(others) {
			t.Fatal("with the target, the edit must be redacted and nothing else")
		}
		second := h.says(h.bob, "", "second", nil)
		own, alices := relate(h.bob, second, "m.reference"), relate(h.alice, second, "m.reference")
		redact(h.bob, second, "*")
		if !redacted(second) || !redacted(own) || redacted(alices) {
			t.Error("bob's request must redact his own events and leave alice's")
		}
		redact(h.alice, reference, "*") // alice is the moderator
		if !redacted(reference) || !redacted(further) {
			t.Error("alice's request must redact all related events")
		}
		stranger := h.says(h.alice, "", "alice's", nil)
		kept := relate(h.bob, stranger, "m.reference")
		h.bob.Refused("PUT", fmt.Sprintf("/v3/rooms/%s/redact/%s/x", url.PathEscape(h.room), url.PathEscape(stranger)), obj{member: []string{"*"}}, 403, "M_FORBIDDEN")
		if redacted(kept) {
			t.Error("a refused request redacts a related event")
		}
	}
}

func TestRTCTransportsComeFromTheConfiguration(t *testing.T) {
	const path, livekit = "/unstable/org.matrix.msc4143/rtc/transports", "https://livekit.example.org"
	s := testserver.New(t, func(c *config.Config) {
		c.Calls.RTCTransports = `[{"type":"livekit","livekit_service_url":"` + livekit + `"}]`
	})
	alice := s.Register("alice")
	for _, path := range []string{path, "/v1/rtc/transports"} {
		if got := testserver.Get(alice.Do("GET", path, nil), "rtc_transports", 0, "livekit_service_url"); got != livekit {
			t.Errorf("%s returns the service URL %v, want %s", path, got, livekit)
		}
		s.Anonymous().Refused("GET", path, nil, 401, "M_MISSING_TOKEN")
	}
	if got := testserver.Get(s.Anonymous().Do("GET", "/.well-known/matrix/client", nil), "org.matrix.msc4143.rtc_foci", 0, "type"); got != "livekit" {
		t.Errorf("the well-known document has the focus type %v, want livekit", got)
	}
	without := testserver.New(t, nil)
	bob := without.Register("bob")
	bob.Refused("GET", path, nil, 404, "M_UNRECOGNIZED")
	for server, claimed := range map[*testserver.Client]bool{alice: true, bob: false} {
		if got := testserver.Get(server.Do("GET", "/versions", nil), "unstable_features", "org.matrix.msc4143"); got != claimed {
			t.Errorf("/versions: %v, want %v", got, claimed)
		}
	}
	if _, there := without.Anonymous().Do("GET", "/.well-known/matrix/client", nil)["org.matrix.msc4143.rtc_foci"]; there {
		t.Error("the well-known document has rtc_foci although none are configured")
	}
	for _, bad := range []string{"x", "{}", `["livekit"]`, `[{"url":"x"}]`} {
		c := config.Default()
		if c.Calls.RTCTransports = bad; c.Validate() == nil {
			t.Errorf("the invalid configuration %s is accepted", bad)
		}
	}
}

func TestRelationsAreServedUnderTheirUnstableNames(t *testing.T) {
	h := newThreads(t)
	root := h.says(h.alice, "", "root", nil)
	first := h.says(h.alice, root, "first", nil)
	second := h.says(h.alice, root, "second", nil)
	edit := h.says(h.alice, "", "edit", obj{"m.relates_to": obj{"rel_type": "m.replace", "event_id": first}, "m.new_content": obj{"msgtype": "m.text", "body": "x"}})
	base := "/v1/rooms/" + url.PathEscape(h.room) + "/relations/" + url.PathEscape(root)
	if got := ids(h.bob.Do("GET", base+"?org.matrix.msc3715.dir=f", nil)); !slices.Equal(got, []string{first, second}) {
		t.Errorf("forwards, the relations are %v, want %v", got, []string{first, second})
	}
	if got := ids(h.bob.Do("GET", base+"?org.matrix.msc3981.recurse=true", nil)); !slices.Equal(got, []string{edit, second, first}) {
		t.Errorf("with recursion, the relations are %v, want %v", got, []string{edit, second, first})
	}
}

// Clients query this to decide whether to show settings for administrators.
func TestAdministratorsSeeWhoIsAnAdministrator(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := s.Register("alice"), s.Register("bob")
	path := func(user string) string { return "/_synapse/admin/v1/users/" + url.PathEscape(user) + "/admin" }
	alice.Refused("GET", path(alice.User), nil, 403, "M_FORBIDDEN")
	s.Anonymous().Refused("GET", path(alice.User), nil, 401, "M_MISSING_TOKEN")
	if _, err := s.Control(t.Context(), "user admin", json.RawMessage(`{"user":"`+alice.User+`","admin":true}`)); err != nil {
		t.Fatal(err)
	}
	if alice.Do("GET", path(alice.User), nil)["admin"] != true || alice.Do("GET", path(bob.User), nil)["admin"] != false {
		t.Error("alice must be an administrator, and bob must not be one")
	}
	alice.Refused("GET", path("@nobody:test"), nil, 404, "M_NOT_FOUND")
}
