package server_test

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3" // the tests read the database themselves

	"ebb/config"
	"ebb/internal/testserver"
)

// searcher is a user who searches and sends numbered messages.
type searcher struct {
	*testserver.Client
	t *testing.T
	n int
}

func newSearcher(t *testing.T, s *testserver.Server, name string) *searcher {
	return &searcher{Client: s.Register(name), t: t}
}

func (c *searcher) createRoom(content obj) string {
	c.t.Helper()
	return c.Do("POST", "/v3/createRoom", content)["room_id"].(string)
}

func (c *searcher) join(room string) { c.Do("POST", "/v3/join/"+url.PathEscape(room), nil) }

func (c *searcher) send(room string, content obj) string {
	c.t.Helper()
	c.n++
	return c.Do("PUT", fmt.Sprintf("/v3/rooms/%s/send/m.room.message/%s%d", url.PathEscape(room), c.User, c.n), content)["event_id"].(string)
}

func (c *searcher) say(room, body string) string {
	c.t.Helper()
	return c.send(room, obj{"msgtype": "m.text", "body": body})
}

func (c *searcher) edit(room, event, body string) string {
	c.t.Helper()
	return c.send(room, obj{
		"msgtype": "m.text", "body": "* " + body, "m.new_content": obj{"msgtype": "m.text", "body": body},
		"m.relates_to": obj{"rel_type": "m.replace", "event_id": event},
	})
}

func (c *searcher) state(room, typ string, content obj) string {
	c.t.Helper()
	return c.Do("PUT", fmt.Sprintf("/v3/rooms/%s/state/%s", url.PathEscape(room), typ), content)["event_id"].(string)
}

func (c *searcher) redact(room, event string) {
	c.t.Helper()
	c.n++
	c.Do("PUT", fmt.Sprintf("/v3/rooms/%s/redact/%s/r%d", url.PathEscape(room), url.PathEscape(event), c.n), obj{})
}

// search returns room_events from the response to a search.
func (c *searcher) search(term string, more obj, nextBatch ...string) obj {
	c.t.Helper()
	criteria := obj{"search_term": term}
	for k, v := range more {
		criteria[k] = v
	}
	path := "/v3/search"
	for _, token := range nextBatch {
		path += "?next_batch=" + url.QueryEscape(token)
	}
	answer := c.Do("POST", path, obj{"search_categories": obj{"room_events": criteria}})
	return get(answer, "search_categories", "room_events").(obj)
}

// found returns the IDs of the events that a search finds, in order.
func (c *searcher) found(term string, more obj) (ids []string) {
	c.t.Helper()
	return idsOf(c.search(term, more))
}

func idsOf(answer obj) []string {
	ids := []string{}
	for _, id := range each(list(answer, "results"), "result", "event_id") {
		ids = append(ids, id.(string))
	}
	return ids
}

// finds checks the results of a search, in any order.
func (c *searcher) finds(term string, want ...string) {
	c.t.Helper()
	got := c.found(term, obj{"filter": obj{"limit": 100}})
	slices.Sort(got)
	want = slices.Clone(want)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		c.t.Errorf("a search for %q finds %v, want %v", term, got, want)
	}
}

// indexed runs a test three times: with the events in the tail of the index, in the blocks of the index, and in turn in
// one and in the other.
func indexed(t *testing.T, f func(t *testing.T, s *testserver.Server, flush func())) {
	t.Helper()
	for name, often := range map[string]int{"in the tail": 0, "in blocks": 1, "in both": 2} {
		t.Run(name, func(t *testing.T) {
			s, calls := testserver.New(t, nil), 0
			f(t, s, func() {
				if calls++; often > 0 && calls%often == often-1 {
					flushIndex(t, s)
				}
			})
		})
	}
}

// flushIndex moves all events to blocks of the index.
func flushIndex(t *testing.T, s *testserver.Server) {
	t.Helper()
	if err := s.SearchIndex().CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.SearchIndex().Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestSearchFindsMessagesByTheirWords(t *testing.T) {
	indexed(t, func(t *testing.T, s *testserver.Server, flush func()) {
		alice, bob := newSearcher(t, s, "alice"), newSearcher(t, s, "bob")
		room := alice.createRoom(obj{"preset": "public_chat", "name": "Kitchen talk", "topic": "All about soup"})
		hello := alice.say(room, "Hello, Wörld!")
		cjk := alice.say(room, "東京タワーに行きました")
		long := alice.say(room, "hello to everybody who has come here today to listen to the world")
		bob.say(bob.createRoom(obj{}), "hello world of bob")
		flush()
		alice.finds("world", hello, long)
		alice.finds("WÖRLD hello", hello, long)
		alice.finds("wor")
		alice.finds("hello missing")
		alice.finds("東京", cjk)
		alice.finds("京タ", cjk)
		alice.finds("東タ")
		alice.finds("塔")
		alice.finds(`"hello world"`, hello)
		alice.finds("")
		alice.finds("?!")
		bob.finds("wörld hello missing")
		if got := bob.found("everybody", nil); len(got) > 0 { // bob is not in the room
			t.Errorf("a stranger finds %v", got)
		}

		if got := alice.found("world", nil); !slices.Equal(got, []string{hello, long}) {
			t.Errorf("by rank the short message is not first: %v", got)
		}
		if got := alice.found("world", obj{"order_by": "recent"}); !slices.Equal(got, []string{long, hello}) {
			t.Errorf("by age the newest message is not first: %v", got)
		}
		answer := alice.search("world", nil)
		if answer["count"] != 2.0 || !slices.Contains(list(answer, "highlights"), any("Wörld")) || !slices.Contains(list(answer, "highlights"), any("world")) {
			t.Errorf("count %v, highlights %v", answer["count"], answer["highlights"])
		}
		ranks := each(list(answer, "results"), "rank")
		if ranks[0].(float64) <= ranks[1].(float64) {
			t.Errorf("ranks %v", ranks)
		}
	})
}

func TestSearchKeysSelectTheTextThatIsSearched(t *testing.T) {
	indexed(t, func(t *testing.T, s *testserver.Server, flush func()) {
		alice := newSearcher(t, s, "alice")
		room := alice.createRoom(obj{})
		name := alice.state(room, "m.room.name", obj{"name": "Garden party"})
		topic := alice.state(room, "m.room.topic", obj{"topic": "A garden"})
		body := alice.say(room, "In the garden")
		flush()
		alice.finds("garden", name, topic, body)
		for key, want := range map[string]string{"content.name": name, "content.topic": topic, "content.body": body} {
			if got := alice.found("garden", obj{"keys": []string{key}}); !slices.Equal(got, []string{want}) {
				t.Errorf("%s finds %v, want %v", key, got, want)
			}
		}
		alice.state(room, "m.room.name", obj{"name": "Hall"})
		alice.finds("garden", name, topic, body) // the former name is part of the history
	})
}

func TestSearchFiltersEvents(t *testing.T) {
	indexed(t, func(t *testing.T, s *testserver.Server, flush func()) {
		alice, bob := newSearcher(t, s, "alice"), newSearcher(t, s, "bob")
		one, two := alice.createRoom(obj{"preset": "public_chat"}), alice.createRoom(obj{"preset": "public_chat"})
		bob.join(one)
		a := alice.say(one, "apple")
		b := bob.say(one, "apple pie")
		c := alice.send(two, obj{"msgtype": "m.image", "body": "apple.png", "url": "mxc://test/x"})
		flush()
		for _, tc := range []struct {
			filter obj
			want   []string
		}{
			{obj{}, []string{a, b, c}},
			{obj{"senders": []string{alice.User}}, []string{a, c}},
			{obj{"not_senders": []string{alice.User}}, []string{b}},
			{obj{"rooms": []string{two}}, []string{c}},
			{obj{"not_rooms": []string{two}}, []string{a, b}},
			{obj{"rooms": []string{}}, nil},
			{obj{"rooms": []string{"!unknown:test"}}, nil},
			{obj{"types": []string{"m.room.message"}}, []string{a, b, c}},
			{obj{"types": []string{"m.room.n*"}}, nil},
			{obj{"not_types": []string{"m.*"}}, nil},
			{obj{"contains_url": true}, []string{c}},
			{obj{"contains_url": false}, []string{a, b}},
		} {
			got := alice.found("apple", obj{"filter": tc.filter})
			slices.Sort(got)
			slices.Sort(tc.want)
			if !slices.Equal(got, tc.want) {
				t.Errorf("filter %v finds %v, want %v", tc.filter, got, tc.want)
			}
		}
	})
}

func TestSearchFindsTheNewestTextOfEditedMessages(t *testing.T) {
	indexed(t, func(t *testing.T, s *testserver.Server, flush func()) {
		alice, bob := newSearcher(t, s, "alice"), newSearcher(t, s, "bob")
		room := alice.createRoom(obj{"preset": "public_chat"})
		bob.join(room)
		event := alice.say(room, "first draft")
		flush()
		s.Advance(time.Second)
		alice.edit(room, event, "second draft")
		flush()
		bob.finds("first")
		bob.finds("second", event)
		bob.finds("draft", event)
		s.Advance(time.Second)
		last := alice.edit(room, event, "third version")
		bob.edit(room, event, "stolen text") // the edit is not by the sender of the event
		flush()
		bob.finds("second")
		bob.finds("draft")
		bob.finds("stolen")
		result := list(bob.search("third", nil), "results")
		if len(result) != 1 || get(result[0], "result", "event_id") != event || get(result[0], "result", "content", "body") != "first draft" ||
			get(result[0], "result", "unsigned", "m.relations", "m.replace", "event_id") != last {
			t.Errorf("the result for an edited message is %v", result)
		}
		alice.redact(room, last)
		flush()
		bob.finds("third")
		bob.finds("second", event)
		alice.redact(room, event)
		flush()
		bob.finds("second")
		bob.finds("draft")
	})
}

func TestEditsAndRedactionsOfMessagesInBlocksAreSearchedWhileTheyAreInTheTail(t *testing.T) {
	s := testserver.New(t, nil)
	alice := newSearcher(t, s, "alice")
	room := alice.createRoom(obj{})
	edited, redacted, both := alice.say(room, "apple edited"), alice.say(room, "apple redacted"), alice.say(room, "apple both")
	flushIndex(t, s)
	alice.edit(room, edited, "pear edited")
	edit := alice.edit(room, both, "pear both")
	alice.redact(room, redacted)
	check := func() {
		t.Helper()
		alice.finds("apple")
		alice.finds("redacted")
		alice.finds("pear", edited, both)
	}
	check()
	flushIndex(t, s)
	check()
	alice.redact(room, edit)
	alice.finds("apple", both)
	alice.finds("pear", edited)
	alice.edit(room, both, "quince both")
	flushIndex(t, s)
	alice.finds("apple")
	alice.finds("quince", both)
	alice.redact(room, both)
	alice.finds("quince")
	alice.finds("both")
}

func TestSearchFindsHistoryThatWasFetchedFromAnotherServer(t *testing.T) {
	n := testserver.Federation(t, 2, nil)
	alice, bob := newSearcher(t, n.Servers[0], "alice"), newSearcher(t, n.Servers[1], "bob")
	room := alice.createRoom(obj{"preset": "public_chat"})
	first, second := alice.say(room, "needle first"), alice.say(room, "needle second")
	third := alice.edit(room, first, "needle third")
	for i := range 30 { // the join brings the newest ones with it
		alice.say(room, fmt.Sprint("hay ", i))
	}
	bob.Do("POST", "/v3/join/"+url.PathEscape(room)+"?via="+alice.Server().Name(), nil)
	last := bob.say(room, "needle last")
	bob.finds("needle", last)
	flushIndex(t, n.Servers[1])
	seen := map[string]bool{}
	for from, pages := "", 0; pages < 20 && !seen[first]; pages++ {
		page := bob.Do("GET", "/v3/rooms/"+url.PathEscape(room)+"/messages?dir=b&limit=100"+from, nil)
		for _, id := range each(list(page, "chunk"), "event_id") {
			seen[id.(string)] = true
		}
		if end, more := page["end"].(string); more {
			from = "&from=" + url.QueryEscape(end)
		}
	}
	if !seen[first] || !seen[third] {
		t.Fatal("the history was not fetched")
	}
	for _, when := range []string{"in the tail", "in blocks"} {
		// By age: what was fetched later is older all the same.
		if got := bob.found("needle", obj{"order_by": "recent"}); !slices.Equal(got, []string{last, second, first}) {
			t.Errorf("%s: found %v, want %v", when, got, []string{last, second, first})
		}
		bob.finds("third", first)
		bob.finds("first")
		flushIndex(t, n.Servers[1])
	}
}

func TestSearchSkipsRedactedExpiredAndEncryptedEvents(t *testing.T) {
	indexed(t, func(t *testing.T, s *testserver.Server, flush func()) {
		alice := newSearcher(t, s, "alice")
		room := alice.createRoom(obj{})
		secret := alice.say(room, "the secret word")
		kept := alice.say(room, "another word")
		flush()
		alice.redact(room, secret)
		alice.finds("word", kept)
		alice.state(room, "m.room.retention", obj{"max_lifetime": 60_000})
		s.Advance(30 * time.Second)
		newer := alice.say(room, "a newer word")
		flush()
		alice.finds("word", kept, newer)
		s.Advance(31 * time.Second)
		alice.finds("word", newer)
		if got := alice.search("word", nil)["count"]; got != 1.0 {
			t.Errorf("an expired message is counted: %v", got)
		}
		if _, err := s.Control(t.Context(), "purge now", nil); err != nil {
			t.Fatal(err)
		}
		flush()
		alice.finds("word", newer)

		alice.n++
		alice.Do("PUT", "/v3/rooms/"+url.PathEscape(room)+"/send/m.room.encrypted/e1", obj{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "word", "body": "word"})
		flush()
		alice.finds("word", newer)
	})
}

func TestSearchFindsOnlyWhatTheUserMaySee(t *testing.T) {
	indexed(t, func(t *testing.T, s *testserver.Server, flush func()) {
		alice, bob, carol := newSearcher(t, s, "alice"), newSearcher(t, s, "bob"), newSearcher(t, s, "carol")
		room := alice.createRoom(obj{"preset": "public_chat"})
		shared := alice.say(room, "needle shared")
		alice.state(room, "m.room.history_visibility", obj{"history_visibility": "joined"})
		hidden := alice.say(room, "needle hidden")
		bob.join(room)
		seen := alice.say(room, "needle seen")
		bob.Do("POST", "/v3/rooms/"+url.PathEscape(room)+"/leave", nil)
		after := alice.say(room, "needle after")
		flush()
		alice.finds("needle", shared, hidden, seen, after)
		bob.finds("needle", shared, seen)
		if got := bob.search("needle", nil)["count"]; got != 2.0 {
			t.Errorf("messages that the user may not see are counted: %v", got)
		}
		carol.finds("needle")
		bob.Do("POST", "/v3/rooms/"+url.PathEscape(room)+"/forget", nil)
		bob.finds("needle")
	})
}

func TestSearchLeavesOutIgnoredUsers(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := newSearcher(t, s, "alice"), newSearcher(t, s, "bob")
	room := alice.createRoom(obj{"preset": "public_chat"})
	bob.join(room)
	mine, his := alice.say(room, "needle"), bob.say(room, "needle too")
	alice.finds("needle", mine, his)
	alice.Do("PUT", "/v3/user/"+alice.User+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{bob.User: obj{}}})
	alice.finds("needle", mine)
}

func TestSearchIncludesThePredecessorsOfUpgradedRooms(t *testing.T) {
	s := testserver.New(t, nil)
	alice := newSearcher(t, s, "alice")
	old := alice.createRoom(obj{"preset": "public_chat"})
	before := alice.say(old, "needle before")
	room := alice.Do("POST", "/v3/rooms/"+url.PathEscape(old)+"/upgrade", obj{"new_version": "11"})["replacement_room"].(string)
	after := alice.say(room, "needle after")
	got := alice.found("needle", obj{"filter": obj{"rooms": []string{room}}, "order_by": "recent"})
	if !slices.Equal(got, []string{after, before}) {
		t.Errorf("a search in the new room finds %v, want %v", got, []string{after, before})
	}
	if got := alice.found("needle", obj{"filter": obj{"rooms": []string{old}}}); !slices.Equal(got, []string{before}) {
		t.Errorf("a search in the old room finds %v", got)
	}
}

func TestSearchReturnsTheContextOfResults(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := newSearcher(t, s, "alice"), newSearcher(t, s, "bob")
	room := alice.createRoom(obj{"preset": "public_chat"})
	bob.join(room)
	var ids []string
	for i := range 8 {
		ids = append(ids, bob.say(room, fmt.Sprintf("message %d", i)))
	}
	alice.Do("PUT", "/v3/profile/"+alice.User+"/displayname", obj{"displayname": "Alice A."})
	needle := alice.say(room, "needle")
	for i := 8; i < 16; i++ {
		ids = append(ids, bob.say(room, fmt.Sprintf("message %d", i)))
	}
	answer := alice.search("needle", obj{"event_context": obj{"before_limit": 3, "after_limit": 2, "include_profile": true}, "include_state": true})
	around := get(list(answer, "results")[0], "context")
	if get(list(answer, "results")[0], "result", "event_id") != needle {
		t.Fatal("the message is not found")
	}
	before := each(list(around, "events_before"), "type")
	if len(before) != 3 || before[0] != "m.room.member" || get(list(around, "events_before")[1], "event_id") != ids[7] {
		t.Errorf("before: %v", list(around, "events_before"))
	}
	if got := each(list(around, "events_after"), "event_id"); !slices.Equal(got, []any{ids[8], ids[9]}) {
		t.Errorf("after: %v", got)
	}
	if get(around, "profile_info", alice.User, "displayname") != "Alice A." || get(around, "profile_info", bob.User, "displayname") != "bob" {
		t.Errorf("profiles: %v", get(around, "profile_info"))
	}
	for _, end := range []string{"start", "end"} {
		dir := map[string]string{"start": "b", "end": "f"}[end]
		page := alice.Do("GET", "/v3/rooms/"+url.PathEscape(room)+"/messages?limit=1&dir="+dir+"&from="+get(around, end).(string), nil)
		want := map[string]string{"start": ids[5], "end": ids[10]}[end]
		if first := list(page, "chunk"); len(first) != 1 || get(first[0], "event_id") != want {
			t.Errorf("from %s comes %v, want %v", end, first, want)
		}
	}
	types := each(list(answer, "state", room), "type")
	if !slices.Contains(types, any("m.room.create")) || !slices.Contains(types, any("m.room.join_rules")) {
		t.Errorf("state of the room: %v", types)
	}
	around = get(list(alice.search("needle", obj{"event_context": obj{}}), "results")[0], "context")
	if len(list(around, "events_before")) != 5 || len(list(around, "events_after")) != 5 || get(around, "profile_info") != nil {
		t.Errorf("by default the context is %v", around)
	}
	if get(list(alice.search("needle", nil), "results")[0], "context") != nil {
		t.Error("a context comes without being asked for")
	}
}

func TestSearchPagesHaveEveryResultOnce(t *testing.T) {
	indexed(t, func(t *testing.T, s *testserver.Server, flush func()) {
		alice, bob := newSearcher(t, s, "alice"), newSearcher(t, s, "bob")
		one, two := alice.createRoom(obj{"preset": "public_chat"}), alice.createRoom(obj{"preset": "public_chat"})
		bob.join(one)
		var sent []string
		for i := range 23 {
			room, c := one, alice
			switch i % 3 {
			case 0:
				room = two
			case 1:
				c = bob
			}
			sent = append(sent, c.say(room, "needle"+strings.Repeat(" x", i%5)))
		}
		flush()
		for _, order := range []string{"recent", "rank"} {
			want := alice.found("needle", obj{"order_by": order, "filter": obj{"limit": 100}})
			if order == "recent" {
				if newest := slices.Clone(sent); !slices.Equal(want, reversed(newest)) {
					t.Errorf("by age a search finds %v, want %v", want, newest)
				}
			}
			got := searchPages(t, alice, one, obj{"order_by": order, "filter": obj{"limit": 4}, "groupings": obj{"group_by": []obj{{"key": "room_id"}, {"key": "sender"}}}}, len(want))
			if !slices.Equal(got, want) {
				t.Errorf("pages by %s have %v, want %v", order, got, want)
			}
		}
	})
}

func reversed(list []string) []string {
	slices.Reverse(list)
	return list
}

// searchPages returns the results of all pages of a search. Messages that arrive meanwhile must not shift the pages.
func searchPages(t *testing.T, c *searcher, room string, criteria obj, count int) (got []string) {
	t.Helper()
	var tokens []string
	for range 20 {
		answer := c.search("needle", criteria, tokens...)
		if answer["count"] != float64(count) {
			t.Errorf("count is %v, want %d", answer["count"], count)
		}
		got = append(got, idsOf(answer)...)
		checkGroups(t, c, criteria, answer)
		next, more := answer["next_batch"].(string)
		if !more {
			return got
		}
		tokens = []string{next}
		c.redact(room, c.say(room, "needle in between"))
	}
	t.Error("the pages do not end")
	return got
}

// checkGroups checks that the groups of a page list its results, and that a group's own next_batch pages through the
// results of that group only.
func checkGroups(t *testing.T, c *searcher, criteria, answer obj) {
	t.Helper()
	for kind, member := range map[string]string{"room_id": "room_id", "sender": "sender"} {
		var grouped []string
		for key, group := range get(answer, "groups", kind).(obj) {
			for _, id := range list(group, "results") {
				grouped = append(grouped, id.(string))
			}
			next, more := get(group, "next_batch").(string)
			if !more {
				continue
			}
			for _, r := range list(c.search("needle", criteria, next), "results") {
				if get(r, "result", member) != key || slices.Contains(idsOf(answer), get(r, "result", "event_id").(string)) {
					t.Errorf("the next page of %s has %v", key, r)
				}
			}
		}
		all := idsOf(answer)
		slices.Sort(all)
		slices.Sort(grouped)
		if !slices.Equal(all, grouped) {
			t.Errorf("the groups by %s have %v, the page %v", kind, grouped, all)
		}
	}
}

func TestSearchRefusesInvalidRequests(t *testing.T) {
	s := testserver.New(t, nil)
	alice := newSearcher(t, s, "alice")
	room := alice.createRoom(obj{})
	for range 3 {
		alice.say(room, "needle")
	}
	next := alice.search("needle", obj{"filter": obj{"limit": 1}})["next_batch"].(string)
	ask := func(criteria any) obj { return obj{"search_categories": obj{"room_events": criteria}} }
	for _, tc := range []struct {
		query string
		body  any
		code  string
	}{
		{"", nil, "M_MISSING_PARAM"},
		{"", obj{}, "M_MISSING_PARAM"},
		{"", obj{"search_categories": 3}, "M_BAD_JSON"},
		{"", ask(obj{}), "M_MISSING_PARAM"},
		{"", ask(obj{"search_term": 7}), "M_BAD_JSON"},
		{"", ask(obj{"search_term": strings.Repeat("x", 5000)}), "M_INVALID_PARAM"},
		{"", ask(obj{"search_term": strings.Repeat("x ", 1000)}), "M_INVALID_PARAM"},
		{"", ask(obj{"search_term": "x", "keys": []string{"content.formatted_body"}}), "M_INVALID_PARAM"},
		{"", ask(obj{"search_term": "x", "order_by": "size"}), "M_INVALID_PARAM"},
		{"", ask(obj{"search_term": "x", "filter": obj{"limit": -1}}), "M_INVALID_PARAM"},
		{"", ask(obj{"search_term": "x", "filter": obj{"rooms": []string{"nonsense"}}}), "M_INVALID_PARAM"},
		{"", ask(obj{"search_term": "x", "filter": obj{"types": 1}}), "M_INVALID_PARAM"},
		{"", ask(obj{"search_term": "x", "event_context": obj{"before_limit": -1}}), "M_INVALID_PARAM"},
		{"", ask(obj{"search_term": "x", "groupings": obj{"group_by": []obj{{"key": "colour"}}}}), "M_INVALID_PARAM"},
		{"?next_batch=nonsense", ask(obj{"search_term": "needle"}), "M_INVALID_PARAM"},
		{"?next_batch=" + next + "x", ask(obj{"search_term": "needle"}), "M_INVALID_PARAM"},
		{"?next_batch=" + next[:len(next)-4], ask(obj{"search_term": "needle"}), "M_INVALID_PARAM"},
		{"?next_batch=" + next, ask(obj{"search_term": "needle", "order_by": "recent"}), "M_INVALID_PARAM"},
		{"?next_batch=bnVsbA", ask(obj{"search_term": "needle"}), ""},
	} {
		status, _, raw := alice.Raw("POST", "/v3/search"+tc.query, tc.body)
		if tc.code == "" {
			if status >= 500 {
				t.Errorf("%s: %d %s", tc.query, status, raw)
			}
			continue
		}
		if status != 400 || !strings.Contains(string(raw), tc.code) {
			t.Errorf("%s %.60v: %d %s, want %s", tc.query, tc.body, status, raw, tc.code)
		}
	}
	if got := alice.Do("POST", "/v3/search", obj{"search_categories": obj{}}); get(got, "search_categories", "room_events") != nil {
		t.Errorf("without criteria the answer is %v", got)
	}
	alice.Server().Anonymous().Refused("POST", "/v3/search", ask(obj{"search_term": "x"}), 401, "M_MISSING_TOKEN")
}

func TestSearchCanBeSwitchedOff(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) { c.Search.Enabled = false })
	alice := newSearcher(t, s, "alice")
	alice.Refused("POST", "/v3/search", obj{"search_categories": obj{"room_events": obj{"search_term": "x"}}}, 400, "M_UNKNOWN")
}

// The index contains no words, only hashes of them. Those of purged messages must not remain in any file either.
func TestPurgedMessagesLeaveNothingInTheIndexOnDisk(t *testing.T) {
	s := testserver.New(t, nil)
	alice := newSearcher(t, s, "alice")
	room := alice.createRoom(obj{})
	for i := range 60 {
		alice.say(room, fmt.Sprintf("message %d tidewater%d with words%d of%d its own%d", i, i*7, i*11, i*13, i*17))
	}
	index := s.SearchIndex()
	for _, do := range []func(context.Context) error{index.CatchUp, index.Flush} {
		if err := do(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	pieces := indexBytes(t, s)
	if len(pieces) < 2 {
		t.Fatalf("the index has %d rows: the test proves nothing", len(pieces))
	}
	alice.finds("tidewater7", alice.found("tidewater7", nil)...)
	alice.state(room, "m.room.retention", obj{"max_lifetime": 60_000})
	s.Advance(2 * time.Minute)
	alice.say(room, "the graph goes on")
	if _, err := s.Control(t.Context(), "purge now", nil); err != nil {
		t.Fatal(err)
	}
	for _, piece := range pieces {
		if files := s.FilesWith(piece); len(files) > 0 {
			t.Errorf("%v still have %d bytes of the index", files, len(piece))
		}
	}
	alice.finds("tidewater7")
}

// indexBytes returns parts of rows of the search index, as they appear in the database file or in its log.
func indexBytes(t *testing.T, s *testserver.Server) (pieces []string) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(s.Dir, "ebb.db")+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(t.Context(), `SELECT data FROM search_parts`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var data []byte
		if err := rows.Scan(&data); err != nil {
			t.Fatal(err)
		}
		if len(data) >= 48 {
			if piece := string(data[16:48]); len(s.FilesWith(piece)) > 0 {
				pieces = append(pieces, piece)
			}
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return pieces
}

// The searches of one user run one after another, and only a few may wait.
func TestSearchesOfOneUserAreBounded(t *testing.T) {
	s := testserver.New(t, nil)
	alice := newSearcher(t, s, "alice")
	room := alice.createRoom(obj{})
	for range 50 {
		alice.say(room, strings.Repeat("needle ", 200))
	}
	body := obj{"search_categories": obj{"room_events": obj{"search_term": strings.Repeat("needle needles ", 30)}}}
	var group sync.WaitGroup
	for range 40 {
		group.Go(func() {
			status, _, raw := alice.Raw("POST", "/v3/search", body)
			if status != 200 && (status != 429 || !strings.Contains(string(raw), "M_LIMIT_EXCEEDED")) {
				t.Errorf("%d %s", status, raw)
			}
		})
	}
	group.Wait()
	alice.finds("needle missing")
}
