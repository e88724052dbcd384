package feed

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"ebb/history"
)

func mustFilter(t testing.TB, raw string) *Filter {
	t.Helper()
	f, err := ParseFilter([]byte(raw))
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return f
}

func TestFilterOfWrongShapeIsRefused(t *testing.T) {
	for _, raw := range []string{
		``, `[]`, `"x"`, `null`, `{`, `{}{}`,
		`{"presence":"x"}`, `{"room":"x"}`, `{"room":{"timeline":"x"}}`, `{"room":{"state":[]}}`, `{"room":{"ephemeral":1}}`,
		`{"room":{"account_data":true}}`, `{"account_data":"x"}`,
		`{"room":{"timeline":{"rooms":"x"}}}`, `{"room":{"timeline":{"not_rooms":{}}}}`, `{"room":{"timeline":{"senders":"x"}}}`,
		`{"room":{"timeline":{"not_senders":1}}}`, `{"room":{"timeline":{"types":"x"}}}`, `{"room":{"timeline":{"not_types":"x"}}}`,
		`{"room":{"timeline":{"types":[1]}}}`, `{"room":{"timeline":{"rooms":["not_a_room_id"]}}}`, `{"room":{"rooms":[""]}}`,
		`{"room":{"timeline":{"senders":["not_a_sender_id"]}}}`, `{"room":{"timeline":{"limit":"1"}}}`, `{"room":{"timeline":{"limit":1.5}}}`,
		`{"room":{"timeline":{"limit":-1}}}`, `{"room":{"timeline":{"limit":99999999999999999999}}}`,
		`{"room":{"state":{"lazy_load_members":1}}}`, `{"room":{"state":{"lazy_load_members":"true"}}}`, `{"room":{"include_leave":"yes"}}`,
		`{"event_format":"xml"}`, `{"event_format":1}`, `{"event_fields":"type"}`, `{"event_fields":[1]}`,
		`{"room":{"timeline":{"types":[` + strings.Repeat(`"a",`, maxFilterList) + `"a"]}}}`,
		`{"event_fields":[` + strings.Repeat(`"a",`, maxFieldPaths) + `"a"]}`,
		`{"x":"` + strings.Repeat("a", MaxFilterSize) + `"}`,
	} {
		if _, err := ParseFilter([]byte(raw)); err == nil {
			t.Errorf("%.80s was accepted", raw)
		}
	}
}

func TestFilterSelectsEvents(t *testing.T) {
	for _, c := range []struct {
		filter, typ, sender, content string
		want                         bool
	}{
		{`{}`, "m.room.message", "@a:x", `{}`, true},
		{`{"types":["m.room.*"]}`, "m.room.message", "@a:x", `{}`, true},
		{`{"types":["m.room.*"]}`, "m.reaction", "@a:x", `{}`, false},
		{`{"types":["*"],"not_types":["m.room.*"]}`, "m.room.message", "@a:x", `{}`, false},
		{`{"types":["m.*.message"]}`, "m.room.message", "@a:x", `{}`, true},
		{`{"types":[]}`, "m.room.message", "@a:x", `{}`, false},
		{`{"types":null}`, "m.room.message", "@a:x", `{}`, true},
		{`{"senders":["@a:x"]}`, "m.room.message", "@a:x", `{}`, true},
		{`{"senders":["@a:x"]}`, "m.room.message", "@b:x", `{}`, false},
		{`{"senders":["@a:x"],"not_senders":["@a:x"]}`, "m.room.message", "@a:x", `{}`, false},
		{`{"senders":[]}`, "m.room.message", "@a:x", `{}`, false},
		{`{"contains_url":true}`, "m.room.message", "@a:x", `{"url":"mxc://a/b"}`, true},
		{`{"contains_url":true}`, "m.room.message", "@a:x", `{"body":"url"}`, false},
		{`{"contains_url":false}`, "m.room.message", "@a:x", `{"url":"mxc://a/b"}`, false},
		{`{"contains_url":false}`, "m.room.message", "@a:x", `{}`, true},
	} {
		f := mustFilter(t, `{"room":{"timeline":`+c.filter+`}}`)
		if got := f.Room.Timeline.event(c.typ, c.sender, []byte(c.content)); got != c.want {
			t.Errorf("%s on %s by %s with %s: %v, want %v", c.filter, c.typ, c.sender, c.content, got, c.want)
		}
	}
}

func TestFilterSelectsRooms(t *testing.T) {
	f := mustFilter(t, `{"room":{"rooms":["!a:x","!b:x"],"not_rooms":["!b:x"],"timeline":{"rooms":[]},"state":{"not_rooms":["!a:x"]}}}`)
	if !f.Room.room("!a:x") || f.Room.room("!b:x") || f.Room.room("!c:x") {
		t.Error("want only !a:x of the rooms")
	}
	if f.Room.Timeline.room("!a:x") || f.Room.State.room("!a:x") || !f.Room.Ephemeral.room("!a:x") {
		t.Error("want neither timeline nor state of !a:x, but its ephemeral events")
	}
}

func TestTimelineLimitHasDefaultAndMaximum(t *testing.T) {
	for raw, want := range map[string]int{
		`{}`: defaultTimelineLimit, `{"room":{"timeline":{"limit":0}}}`: 0, `{"room":{"timeline":{"limit":7}}}`: 7,
		`{"room":{"timeline":{"limit":1000000}}}`: maxTimelineLimit,
	} {
		if got := mustFilter(t, raw).timelineLimit(); got != want {
			t.Errorf("%s: %d, want %d", raw, got, want)
		}
	}
}

func TestEventFieldsKeepOnlyWhatIsNamed(t *testing.T) {
	const event = `{"content":{"body":"hi","info":{"w":1,"h":2},"m.relates_to":{"event_id":"$x"}},"sender":"@a:x","type":"m.room.message","unsigned":{"age":1}}`
	for fields, want := range map[string]string{
		`["type","sender"]`:                       `{"sender":"@a:x","type":"m.room.message"}`,
		`["content.body"]`:                        `{"content":{"body":"hi"}}`,
		`["content"]`:                             `{"content":{"body":"hi","info":{"w":1,"h":2},"m.relates_to":{"event_id":"$x"}}}`,
		`["content.body","content"]`:              `{"content":{"body":"hi","info":{"w":1,"h":2},"m.relates_to":{"event_id":"$x"}}}`,
		`["content.info.w","type"]`:               `{"content":{"info":{"w":1}},"type":"m.room.message"}`,
		`["content.m\\.relates_to.event_id"]`:     `{"content":{"m.relates_to":{"event_id":"$x"}}}`,
		`["nothing","content.none","type.x", ""]`: `{}`,
		`[]`: `{}`,
	} {
		f := mustFilter(t, `{"event_fields":`+fields+`}`)
		if got := string(selectFields(nil, []byte(event), f.EventFields)); got != want {
			t.Errorf("%s: %s, want %s", fields, got, want)
		}
	}
}

func TestGlobTakesBoundedTime(t *testing.T) {
	start := time.Now()
	if history.MatchType(strings.Repeat("*a", 500)+"b", strings.Repeat("a", 500)) {
		t.Fatal("must not match")
	}
	if d := time.Since(start); d > time.Second {
		t.Fatalf("took %v", d)
	}
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{{"*", "", true}, {"", "", true}, {"", "a", false}, {"a*", "a", true}, {"*a", "ba", true}, {"a*c", "abcbc", true}, {"a*c", "ab", false}, {"**", "x", true}} {
		if history.MatchType(c.pattern, c.text) != c.want {
			t.Errorf("%q on %q: want %v", c.pattern, c.text, c.want)
		}
	}
}

func FuzzParseFilter(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"room":{"timeline":{"limit":10,"types":["m.*"]},"state":{"lazy_load_members":true}}}`, `{"event_fields":["content.body","a\\.b"]}`,
	} {
		f.Add([]byte(seed))
	}
	const event = `{"content":{"body":"hi"},"type":"m.x"}`
	f.Fuzz(func(t *testing.T, raw []byte) {
		filter, err := ParseFilter(raw)
		if err != nil {
			return
		}
		if n := filter.timelineLimit(); n < 0 || n > maxTimelineLimit {
			t.Fatalf("limit %d", n)
		}
		filter.Room.Timeline.event("m.room.message", "@a:x", []byte(`{"url":"x"}`))
		if filter.EventFields != nil {
			if out := selectFields(nil, []byte(event), filter.EventFields); !json.Valid(out) {
				t.Fatalf("event_fields made %s", out)
			}
		}
	})
}
