package handshake_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
	"ebb/rooms/handshake"
	"ebb/rooms/pdu"
)

const room = id.RoomID("!r:a")

var signer = pdu.Signer{Server: "a", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))}

// event builds an event of room version 10; key is "" for an event that is no state event, and "-" for an empty one.
func event(t *testing.T, typ, key string, sender id.UserID, content string, auth ...*pdu.Event) *pdu.Event {
	t.Helper()
	v, _ := pdu.VersionOf("10")
	p := pdu.Proto{RoomID: room, Type: typ, Sender: sender, Content: json.RawMessage(content), Depth: 1, OriginServerTS: 1}
	switch key {
	case "":
	case "-":
		p.StateKey = new(string)
	default:
		p.StateKey = &key
	}
	for _, a := range auth {
		p.AuthEvents = append(p.AuthEvents, a.ID())
		p.PrevEvents, p.Depth = []id.EventID{a.ID()}, 2
	}
	e, err := pdu.Build(v, p, signer)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func member(t *testing.T, key string, sender id.UserID, membership string, auth ...*pdu.Event) *pdu.Event {
	t.Helper()
	return event(t, "m.room.member", key, sender, fmt.Sprintf(`{"membership":%q}`, membership), auth...)
}

func TestCheck(t *testing.T) {
	knock := member(t, "@u:b", "@u:b", "knock")
	asked := handshake.Request{Origin: "b", Room: room, Event: knock.ID(), Membership: "knock"}
	for _, c := range []struct {
		why    string
		event  *pdu.Event
		change func(*handshake.Request)
		code   string
	}{
		{"as announced", knock, nil, ""},
		{"another room", knock, func(r *handshake.Request) { r.Room = "!other:a" }, mxerr.CodeInvalidParam},
		{"another event", knock, func(r *handshake.Request) { r.Event = "$other" }, mxerr.CodeInvalidParam},
		{"another membership", knock, func(r *handshake.Request) { r.Membership = "join" }, mxerr.CodeInvalidParam},
		{"another server's user", knock, func(r *handshake.Request) { r.Origin = "c" }, mxerr.CodeForbidden},
		{"a server that is only a part of the name", knock, func(r *handshake.Request) { r.Origin = "b:8448" }, mxerr.CodeForbidden},
		{"somebody else's membership", member(t, "@v:b", "@u:b", "knock"), nil, mxerr.CodeInvalidParam},
		{"no state event", event(t, "m.room.member", "", "@u:b", `{"membership":"knock"}`), nil, mxerr.CodeInvalidParam},
		{"another type", event(t, "m.room.name", "@u:b", "@u:b", `{"membership":"knock"}`), nil, mxerr.CodeInvalidParam},
		{"a membership that is no string", event(t, "m.room.member", "@u:b", "@u:b", `{"membership":["knock"]}`), nil, mxerr.CodeInvalidParam},
	} {
		r := asked
		r.Event = c.event.ID()
		if c.change != nil {
			c.change(&r)
		}
		if err := handshake.Check(c.event, r); mxerr.Code(err) != c.code {
			t.Errorf("%s: %v", c.why, err)
		}
	}
}

func TestCheckInvite(t *testing.T) {
	for _, c := range []struct {
		why    string
		event  *pdu.Event
		origin string
		code   string
	}{
		{"an invite", member(t, "@u:here", "@v:b", "invite"), "b", ""},
		{"a kick", member(t, "@u:here", "@v:b", "leave"), "b", mxerr.CodeInvalidParam},
		{"no state event", event(t, "m.room.member", "", "@v:b", `{"membership":"invite"}`), "b", mxerr.CodeInvalidParam},
		{"in another server's name", member(t, "@u:here", "@v:b", "invite"), "c", mxerr.CodeForbidden},
	} {
		if err := handshake.CheckInvite(c.event, handshake.Request{Origin: c.origin, Room: room, Event: c.event.ID()}); mxerr.Code(err) != c.code {
			t.Errorf("%s: %v", c.why, err)
		}
	}
}

func TestCheckTemplate(t *testing.T) {
	good := pdu.TemplateContent{
		RoomID: room, Type: "m.room.member", Sender: "@u:b", StateKey: "@u:b", Content: json.RawMessage(`{"membership":"join"}`),
		PrevEvents: []id.EventID{"$p"}, AuthEvents: []id.EventID{"$a"},
	}
	for why, change := range map[string]func(*pdu.TemplateContent){
		"":                   func(*pdu.TemplateContent) {},
		"another room":       func(c *pdu.TemplateContent) { c.RoomID = "!other:a" },
		"no room":            func(c *pdu.TemplateContent) { c.RoomID = "" },
		"another type":       func(c *pdu.TemplateContent) { c.Type = "m.room.name" },
		"another sender":     func(c *pdu.TemplateContent) { c.Sender = "@v:b" },
		"another user":       func(c *pdu.TemplateContent) { c.StateKey = "@v:b" },
		"another membership": func(c *pdu.TemplateContent) { c.Content = json.RawMessage(`{"membership":"leave"}`) },
		"no content":         func(c *pdu.TemplateContent) { c.Content = nil },
		"no previous events": func(c *pdu.TemplateContent) { c.PrevEvents = nil },
		"no auth events":     func(c *pdu.TemplateContent) { c.AuthEvents = nil },
	} {
		given := good
		change(&given)
		if err := handshake.CheckTemplate(&given, room, "@u:b", "join"); (err == nil) != (why == "") {
			t.Errorf("%q: %v", why, err)
		}
	}
}

func TestTheStateOfAJoinMustAllowIt(t *testing.T) {
	create := event(t, "m.room.create", "-", "@creator:a", `{"creator":"@creator:a","room_version":"10"}`)
	creator := member(t, "@creator:a", "@creator:a", "join", create)
	rules := event(t, "m.room.join_rules", "-", "@creator:a", `{"join_rule":"public"}`, create, creator)
	join := member(t, "@u:b", "@u:b", "join", create, rules)
	ban := member(t, "@u:b", "@creator:a", "ban", create, creator)
	private := event(t, "m.room.join_rules", "-", "@creator:a", `{"join_rule":"invite"}`, create, creator)
	for _, c := range []struct {
		why   string
		state []*pdu.Event
		ok    bool
	}{
		{"a public room", []*pdu.Event{create, creator, rules}, true},
		{"an event that is no state event is ignored", []*pdu.Event{create, creator, rules, event(t, "m.room.message", "", "@creator:a", `{}`, create)}, true},
		{"no state", nil, false},
		{"no create event", []*pdu.Event{creator, rules}, false},
		{"two events for one entry", []*pdu.Event{create, creator, rules, private}, false},
		{"another room version", []*pdu.Event{event(t, "m.room.create", "-", "@creator:a", `{"creator":"@creator:a","room_version":"9"}`), creator, rules}, false},
		{"room version 1, which is not stated", []*pdu.Event{event(t, "m.room.create", "-", "@creator:a", `{"creator":"@creator:a"}`), creator, rules}, false},
		{"a create event that is not allowed", []*pdu.Event{event(t, "m.room.create", "-", "@creator:a", `{"room_version":"10"}`), creator, rules}, false},
		{"invited users only", []*pdu.Event{create, creator, private}, false},
		{"a ban", []*pdu.Event{create, creator, rules, ban}, false},
	} {
		if err := handshake.CheckJoinState(join, c.state); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.why, err)
		}
	}
}

func TestCitedMembersAreAddedToAStateWithoutMembers(t *testing.T) {
	create := event(t, "m.room.create", "-", "@creator:a", `{"creator":"@creator:a","room_version":"10"}`)
	creator := member(t, "@creator:a", "@creator:a", "join", create)
	invite := member(t, "@u:b", "@creator:a", "invite", create, creator)
	other := member(t, "@other:a", "@other:a", "join", create)
	join := member(t, "@u:b", "@u:b", "join", create, invite, creator)
	chain := []*pdu.Event{create, creator, invite, other}
	got := handshake.WithCited(join, []*pdu.Event{create}, chain)
	if !slices.Equal(got, []*pdu.Event{create, creator, invite}) {
		t.Errorf("%d events", len(got))
	}
	newer := member(t, "@creator:a", "@creator:a", "leave", create, creator)
	if got := handshake.WithCited(join, []*pdu.Event{create, newer}, chain); !slices.Equal(got, []*pdu.Event{create, newer, invite}) {
		t.Error("a member of the state was replaced by the one that the join cites")
	}
}

func stripped(typ, content string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"type":%q,"state_key":"","sender":"@u:b","content":%s}`, typ, content))
}

func TestSplitStripped(t *testing.T) {
	full := event(t, "m.room.name", "-", "@u:b", `{"name":"N"}`).JSON()
	plain, signedOnly := stripped("m.room.name", `{"name":"N"}`), json.RawMessage(`{"type":"t","state_key":"","sender":"@u:b","content":{},"signatures":{}}`)
	shown, pdus, err := handshake.SplitStripped([]json.RawMessage{plain, full, signedOnly})
	if err != nil || len(shown) != 2 || len(pdus) != 1 || !bytes.Equal(pdus[0], full) {
		t.Errorf("%s, %s, %v", shown, pdus, err)
	}
	many := slices.Repeat([]json.RawMessage{plain}, 101)
	for why, c := range map[string]struct {
		events []json.RawMessage
		code   string
	}{
		"nothing":                    {nil, ""},
		"a hundred events":           {many[:100], ""},
		"more than a hundred":        {many, mxerr.CodeTooLarge},
		"too many bytes":             {slices.Repeat([]json.RawMessage{stripped("t", `{"a":"`+strings.Repeat("a", 60<<10)+`"}`)}, 9), mxerr.CodeTooLarge},
		"not an object":              {[]json.RawMessage{[]byte(`"m.room.name"`)}, mxerr.CodeInvalidParam},
		"null":                       {[]json.RawMessage{[]byte(`null`)}, mxerr.CodeInvalidParam},
		"invalid JSON":               {[]json.RawMessage{[]byte(`{"type":"t","state_key":"","sender":"@u:b","content":{"a":}}`)}, mxerr.CodeInvalidParam},
		"no state key":               {[]json.RawMessage{[]byte(`{"type":"t","sender":"@u:b","content":{}}`)}, mxerr.CodeInvalidParam},
		"a type that is no string":   {[]json.RawMessage{[]byte(`{"type":1,"state_key":"","sender":"@u:b","content":{}}`)}, mxerr.CodeInvalidParam},
		"content that is no object":  {[]json.RawMessage{[]byte(`{"type":"t","state_key":"","sender":"@u:b","content":[]}`)}, mxerr.CodeInvalidParam},
		"a valid one and an invalid": {[]json.RawMessage{plain, []byte(`{}`)}, mxerr.CodeInvalidParam},
	} {
		if _, _, err := handshake.SplitStripped(c.events); mxerr.Code(err) != c.code {
			t.Errorf("%s: %v", why, err)
		}
	}
}

func TestTheMostImportantStrippedEventsAreKept(t *testing.T) {
	large := stripped("org.example.large", `{"a":"`+strings.Repeat("a", 50<<10)+`"}`)
	other := stripped("org.example.large", `{"a":"`+strings.Repeat("b", 50<<10)+`"}`)
	name, create := stripped("m.room.name", `{"name":"N"}`), stripped("m.room.create", `{}`)
	var types []string
	for _, raw := range handshake.KeepStripped([]json.RawMessage{large, name, other, create, []byte(`{}`)}) {
		types = append(types, handshake.TypeOf(raw))
	}
	if got := strings.Join(types, " "); got != "m.room.create m.room.name org.example.large " {
		t.Errorf("%q", got)
	}
}

func TestThirdPartyInvitesAreForTheSignedUser(t *testing.T) {
	for _, c := range []struct {
		invitee id.UserID
		signed  string
		ok      bool
	}{
		{"@u:b", `{"mxid":"@u:b","token":"t","signatures":{}}`, true},
		{"@v:b", `{"mxid":"@u:b"}`, false}, {"@u:b", `{"mxid":["@u:b"]}`, false}, {"@u:b", `{}`, false}, {"", `{}`, false},
		{"u", `{"mxid":"u"}`, false}, {"@u:b", `null`, false}, {"@u:b", ``, false}, {"@u:b", `[]`, false},
	} {
		invite := handshake.ThirdPartyInvite{Room: room, Sender: "@s:a", Invitee: c.invitee, Signed: json.RawMessage(c.signed)}
		if err := invite.Check(); (err == nil) != c.ok {
			t.Errorf("%s, %s: %v", c.invitee, c.signed, err)
		}
	}
}
