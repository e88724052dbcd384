package newroom_test

import (
	"encoding/json"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
	"ebb/rooms/newroom"
	"ebb/rooms/pdu"
)

const (
	alice = id.UserID("@alice:x")
	bob   = id.UserID("@bob:x")
)

func plan(version id.RoomVersion, r newroom.Request) *newroom.Plan {
	v, _ := pdu.VersionOf(version)
	return &newroom.Plan{Request: &r, Version: v, Creator: alice, Invited: []id.UserID{bob}}
}

func TestCreateContent(t *testing.T) {
	for _, c := range []struct {
		why     string
		version id.RoomVersion
		preset  string
		given   string
		want    string // the content, or an error code
	}{
		{"nothing given", "10", newroom.Private, ``, `{"creator":"@alice:x","room_version":"10"}`},
		{"null is nothing", "10", newroom.Private, `null`, `{"creator":"@alice:x","room_version":"10"}`},
		{"the sender is the creator since room version 11", "11", newroom.Private, `{"creator":"@bob:x"}`, `{"room_version":"11"}`},
		{"clients cannot choose the creator or the version", "10", newroom.Private, `{"creator":"@bob:x","room_version":"1"}`, `{"creator":"@alice:x","room_version":"10"}`},
		{"other members stay", "10", newroom.Private, `{"type":"m.space","m.federate":false}`, `{"creator":"@alice:x","m.federate":false,"room_version":"10","type":"m.space"}`},
		{"m.federate must be a boolean", "10", newroom.Private, `{"m.federate":"false"}`, mxerr.CodeBadJSON},
		{"not an object", "10", newroom.Private, `[]`, mxerr.CodeBadJSON},
		{"creators mean nothing before room version 12", "11", newroom.Trusted, `{"additional_creators":["@carol:x"]}`, `{"additional_creators":["@carol:x"],"room_version":"11"}`},
		{"a trusted chat makes the invited users creators", "12", newroom.Trusted, ``, `{"additional_creators":["@bob:x"],"room_version":"12"}`},
		{"a private chat does not", "12", newroom.Private, ``, `{"room_version":"12"}`},
		{"each creator once, and not the sender", "12", newroom.Trusted, `{"additional_creators":["@bob:x","@alice:x","@carol:x","@carol:x"]}`, `{"additional_creators":["@bob:x","@carol:x"],"room_version":"12"}`},
		{"an empty list is left out", "12", newroom.Private, `{"additional_creators":[]}`, `{"room_version":"12"}`},
		{"creators must be user IDs", "12", newroom.Private, `{"additional_creators":["bob"]}`, mxerr.CodeInvalidParam},
		{"creators must be a list", "12", newroom.Private, `{"additional_creators":"@bob:x"}`, mxerr.CodeInvalidParam},
	} {
		content, err := plan(c.version, newroom.Request{Preset: c.preset, CreationContent: json.RawMessage(c.given)}).CreateContent()
		got, _ := json.Marshal(content)
		if err != nil {
			got = []byte(mxerr.Code(err))
		}
		if string(got) != c.want {
			t.Errorf("%s: %s (%v), want %s", c.why, got, err, c.want)
		}
	}
}

// text returns state events in one line each.
func text(events []newroom.StateEvent) string {
	var lines []string
	for _, e := range events {
		lines = append(lines, strings.TrimPrefix(e.Type, "m.room.")+"|"+e.StateKey+"|"+string(e.Content))
	}
	return strings.Join(lines[1:], "\n") // without the power levels
}

func TestStateFollowsThePresetAndTheOrderOfTheSpecification(t *testing.T) {
	given := func(typ, key, content string) newroom.StateEvent {
		return newroom.StateEvent{Type: typ, StateKey: key, Content: json.RawMessage(content)}
	}
	for _, c := range []struct {
		why  string
		req  newroom.Request
		want []string
	}{
		{"a private chat", newroom.Request{Preset: newroom.Private}, []string{
			`join_rules||{"join_rule":"invite"}`, `history_visibility||{"history_visibility":"shared"}`, `guest_access||{"guest_access":"can_join"}`,
		}},
		{"a public chat", newroom.Request{Preset: newroom.Public}, []string{
			`join_rules||{"join_rule":"public"}`, `history_visibility||{"history_visibility":"shared"}`,
		}},
		{"initial_state replaces the preset's state", newroom.Request{Preset: newroom.Private, InitialState: []newroom.StateEvent{
			given("m.room.join_rules", "", `{"join_rule":"knock"}`), given("m.room.guest_access", "", `{"guest_access":"forbidden"}`),
		}}, []string{
			`history_visibility||{"history_visibility":"shared"}`, `join_rules||{"join_rule":"knock"}`, `guest_access||{"guest_access":"forbidden"}`,
		}},
		{"unless it has a state key", newroom.Request{Preset: newroom.Public, InitialState: []newroom.StateEvent{given("m.room.join_rules", "x", `{}`)}}, []string{
			`join_rules||{"join_rule":"public"}`, `history_visibility||{"history_visibility":"shared"}`, `join_rules|x|{}`,
		}},
		{"name and topic replace those of initial_state", newroom.Request{Preset: newroom.Public, Name: `A "name"`, Topic: "T", InitialState: []newroom.StateEvent{
			given("m.room.topic", "", `{"topic":"other"}`), given("m.room.name", "", `{"name":"other"}`), given("m.room.name", "x", `{}`),
		}}, []string{
			`join_rules||{"join_rule":"public"}`, `history_visibility||{"history_visibility":"shared"}`, `name|x|{}`, `name||{"name":"A \"name\""}`,
			`topic||{"m.topic":{"m.text":[{"body":"T"}]},"topic":"T"}`,
		}},
	} {
		events, err := plan("11", c.req).State()
		if err != nil {
			t.Fatalf("%s: %v", c.why, err)
		}
		if got, want := text(events), strings.Join(c.want, "\n"); got != want || events[0].Type != "m.room.power_levels" {
			t.Errorf("%s:\n%s\nwant\n%s", c.why, got, want)
		}
	}
	p := plan("11", newroom.Request{Preset: newroom.Private})
	p.Alias = "#a:x"
	if events, err := p.State(); err != nil || !strings.HasPrefix(text(events), `canonical_alias||{"alias":"#a:x"}`) {
		t.Errorf("the alias: %v\n%s", err, text(events))
	}
}

func TestPowerLevels(t *testing.T) {
	type levels struct {
		Users  map[id.UserID]int
		Invite int
		Events map[string]int
	}
	of := func(p *newroom.Plan) (l levels, err error) {
		events, err := p.State()
		if err == nil {
			err = json.Unmarshal(events[0].Content, &l)
		}
		return l, err
	}
	for _, c := range []struct {
		version            id.RoomVersion
		preset             string
		alice, bob, invite int
		tombstone          int
	}{
		{"11", newroom.Private, 100, 0, 0, 100}, {"11", newroom.Trusted, 100, 100, 0, 100}, {"11", newroom.Public, 100, 0, 50, 100},
		{"12", newroom.Trusted, 0, 0, 0, newroom.AboveAdministrators}, // creators have no level
	} {
		l, err := of(plan(c.version, newroom.Request{Preset: c.preset}))
		if err != nil || l.Users[alice] != c.alice || l.Users[bob] != c.bob || l.Invite != c.invite || l.Events["m.room.tombstone"] != c.tombstone {
			t.Errorf("%s %s: %+v, %v", c.version, c.preset, l, err)
		}
	}
	over := newroom.Request{Preset: newroom.Private, PowerLevelOverride: json.RawMessage(`{"invite":7,"users":{"@bob:x":9}}`)}
	if l, err := of(plan("11", over)); err != nil || l.Invite != 7 || l.Users[bob] != 9 || l.Users[alice] != 0 || l.Events["m.room.name"] != 50 {
		t.Errorf("an override replaces whole members: %+v, %v", l, err)
	}
	p := plan("11", over)
	p.PowerLevels = json.RawMessage(`{"invite":3}`)
	if l, err := of(p); err != nil || l.Invite != 3 || len(l.Users) != 0 {
		t.Errorf("initial_state takes precedence: %+v, %v", l, err)
	}
	if _, err := of(plan("11", newroom.Request{Preset: newroom.Private, PowerLevelOverride: json.RawMessage(`[]`)})); mxerr.Code(err) != mxerr.CodeBadJSON {
		t.Errorf("an override that is no object: %v", err)
	}
}
