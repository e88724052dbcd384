package server_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

// reports returns the output of `ebb report list`.
func reports(t *testing.T, s *testserver.Server) []any {
	t.Helper()
	raw, err := json.Marshal(control(t, s, "report list", obj{}))
	if err != nil {
		t.Fatal(err)
	}
	var page obj
	if err := json.Unmarshal(raw, &page); err != nil {
		t.Fatal(err)
	}
	return list(page, "items")
}

func TestReportsReachTheAdministratorsWithTheReportedContent(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob, eve := signUp(t, s, "alice"), signUp(t, s, "bob"), signUp(t, s, "eve")
	room, base := together(obj{"name": "Den of spam"}, alice, bob)
	event := bob.say(base, "buy this")
	alice.Do("POST", base+"/report/"+event, obj{"reason": "spam", "score": -100})
	eve.Do("POST", base+"/report", obj{"reason": "seen in a directory"}) // the reporter need not be a member
	alice.Do("POST", "/v3/users/"+bob.User+"/report", obj{"reason": ""})

	got := reports(t, s)
	if len(got) != 3 {
		t.Fatalf("%d reports are listed, want 3: %v", len(got), got)
	}
	first := got[0]
	if get(first, "reporter") != alice.User || get(first, "event") != event || get(first, "room") != room || get(first, "user") != bob.User ||
		get(first, "reason") != "spam" || get(first, "content", 0, "content", "body") != "buy this" || get(first, "time") != s.Now().Format(time.RFC3339) {
		t.Errorf("the report of the event is %v", first)
	}
	if r := got[1]; get(r, "reporter") != eve.User || get(r, "room") != room || get(r, "event") != nil || get(r, "content", 0, "content", "name") != "Den of spam" {
		t.Errorf("the report of the room is %v", r)
	}
	if r := got[2]; get(r, "user") != bob.User || get(r, "room") != nil || get(r, "profile", "displayname") != "bob" {
		t.Errorf("the report of the user is %v", r)
	}
}

func TestReportsDoNotRevealWhatExists(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	_, base := together(nil, alice, alice)
	event := alice.say(base, "private")
	bob.Refused("POST", base+"/report/"+event, obj{"reason": "x"}, 404, "M_NOT_FOUND") // bob is not a member
	alice.Refused("POST", base+"/report/$nothing", obj{"reason": "x"}, 404, "M_NOT_FOUND")
	alice.Refused("POST", "/v3/rooms/!nowhere:test/report/"+event, obj{}, 404, "M_NOT_FOUND")
	same := func(paths ...string) {
		t.Helper()
		var answers []string
		for _, p := range paths {
			status, _, raw := bob.Raw("POST", p, obj{"reason": "x"})
			answers = append(answers, fmt.Sprint(status, string(raw)))
		}
		for _, a := range answers {
			if a != "200{}" {
				t.Errorf("%v: reports of existing and of unknown things get %v, want 200 and {} for all", paths, answers)
			}
		}
	}
	same("/v3/users/"+alice.User+"/report", "/v3/users/@nobody:test/report", "/v3/users/@nobody:elsewhere.org/report")
	same(base+"/report", "/v3/rooms/!nowhere:test/report")
	bob.Refused("POST", base+"/report", obj{}, 400, "M_MISSING_PARAM")
	bob.Refused("POST", "/v3/users/"+alice.User+"/report", obj{"reason": 5}, 400, "M_BAD_JSON")
	bob.Refused("POST", "/v3/users/alice/report", obj{"reason": "x"}, 400, "M_INVALID_PARAM")
	bob.Refused("POST", "/v3/users/"+alice.User+"/report", obj{"reason": strings.Repeat("x", 5000)}, 400, "M_INVALID_PARAM")
	s.Anonymous().Refused("POST", base+"/report", obj{"reason": "x"}, 401, "M_MISSING_TOKEN")
}

func TestReportsKeepNoRedactedOrExpiredContent(t *testing.T) {
	const marker = "heronwater-5512"
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	_, base := together(nil, alice, bob)
	alice.Do("PUT", base+"/state/m.room.retention", obj{"max_lifetime": 60_000})
	redacted, expired := bob.say(base, marker+" 1"), bob.say(base, marker+" 2")
	for _, e := range []string{redacted, expired} {
		alice.Do("POST", base+"/report/"+e, obj{"reason": "x"})
	}
	if got := fmt.Sprint(reports(t, s)); strings.Count(got, marker) != 2 {
		t.Fatalf("the reports are %s", got)
	}
	bob.Do("PUT", base+"/redact/"+redacted+"/1", obj{})
	got := reports(t, s)
	if strings.Contains(fmt.Sprint(got[0]), marker) || get(got[0], "content", 0, "event_id") != redacted {
		t.Errorf("after the redaction the report is %v", got[0])
	}
	s.Advance(2 * time.Minute)
	if got := fmt.Sprint(reports(t, s)); strings.Contains(got, marker) {
		t.Errorf("after the message has expired the reports are %s", got)
	}
	control(t, s, "purge now", obj{})
	if files := s.FilesWith(marker); len(files) > 0 {
		t.Errorf("after the purge the text is in %v", files)
	}
	if got := reports(t, s); len(got) != 2 || get(got[1], "event") != expired || get(got[1], "content") != nil {
		t.Errorf("after the purge the reports are %v", got)
	}
	alice.Do("POST", "/v3/users/"+bob.User+"/report", obj{"reason": "x"})
	bob.Do("POST", "/v3/account/deactivate", obj{"erase": true, "auth": obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": bob.User}, "password": testserver.Password()}})
	if got := reports(t, s); len(got) != 3 || get(got[2], "profile") != nil {
		t.Errorf("after the reported user is erased the reports are %v", got)
	}
}

func TestReportsAreLimitedInRateAndNumber(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) { c.RateLimits.Enabled = true })
	alice := signUp(t, s, "alice")
	limited := 0
	for range 25 {
		if status, _, _ := alice.Raw("POST", "/v3/users/@spam:test/report", obj{"reason": "x"}); status == 429 {
			limited++
		}
	}
	if limited != 5 {
		t.Errorf("%d of 25 reports sent at once are refused, want 5", limited)
	}
	for range 250 {
		s.Advance(11 * time.Second)
		alice.Do("POST", "/v3/users/@spam:test/report", obj{"reason": fmt.Sprint("the last is ", s.Now().Unix())})
	}
	raw, err := json.Marshal(control(t, s, "report list", obj{"limit": 100}))
	if err != nil {
		t.Fatal(err)
	}
	var page obj
	total := 0
	for {
		if err := json.Unmarshal(raw, &page); err != nil {
			t.Fatal(err)
		}
		items := list(page, "items")
		total += len(items)
		next, _ := page["next"].(string)
		if next == "" {
			last, _ := get(items[len(items)-1], "reason").(string)
			if last != fmt.Sprint("the last is ", s.Now().Unix()) {
				t.Errorf("the last report is %q", last)
			}
			break
		}
		page = obj{}
		if raw, err = json.Marshal(control(t, s, "report list", obj{"limit": 100, "after": next})); err != nil {
			t.Fatal(err)
		}
	}
	if total != 200 {
		t.Errorf("%d reports of one user are kept, want 200", total)
	}
}

// Reports about what a legal hold covers are evidence: neither their number nor the erasure of their reporter removes
// them, until the hold is lifted.
func TestReportsOfHeldMessagesAreKept(t *testing.T) {
	s := testserver.New(t, nil)
	first, second := admins(t, s)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	room, base := together(nil, alice, bob)
	event := bob.say(base, "evidence")
	hold := first.Do("POST", holdsPath, obj{"room": room, "reason": "x", "review": inOneYear(s)})["id"]
	alice.Do("POST", base+"/report/"+event, obj{"reason": "held-report"})
	for range 201 {
		alice.Do("POST", "/v3/users/@spam:test/report", obj{"reason": "spam"})
	}
	kept := func() (found bool, n int) {
		t.Helper()
		for args := (obj{"limit": 1000}); ; {
			raw, err := json.Marshal(control(t, s, "report list", args))
			if err != nil {
				t.Fatal(err)
			}
			page := decode(t, raw)
			for _, r := range list(page, "items") {
				found, n = found || get(r, "reason") == "held-report", n+1
			}
			if page["next"] == nil {
				return found, n
			}
			args["after"] = page["next"]
		}
	}
	if found, n := kept(); !found || n != 201 {
		t.Errorf("the report of the held message is there: %v, among %d reports; want it and 200 others", found, n)
	}
	eraseAccount(alice.Client)
	if found, n := kept(); !found || n != 1 {
		t.Errorf("after the reporter was erased it is there: %v, among %d reports; want only it", found, n)
	}
	lift(first, second, hold)
	if found, n := kept(); found || n != 0 {
		t.Errorf("after the hold was lifted it is there: %v, among %d reports", found, n)
	}
}
