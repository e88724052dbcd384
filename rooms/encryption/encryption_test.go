package encryption_test

import (
	"encoding/json"
	"strings"
	"testing"

	"ebb/mxerr"
	"ebb/rooms/encryption"
	"ebb/rooms/newroom"
)

const (
	megolm  = `{"algorithm":"m.megolm.v1.aes-sha2"}`
	another = `{"algorithm":"org.example.plain"}`
)

func TestApply(t *testing.T) {
	state := func(content, key string) []newroom.StateEvent {
		return []newroom.StateEvent{{Type: "m.room.encryption", StateKey: key, Content: json.RawMessage(content)}}
	}
	for _, c := range []struct {
		why, force, forbid string
		req                newroom.Request
		roomType           string
		want               string // the algorithm of the room, "" for none, or "refused"
	}{
		{why: "no policy", req: newroom.Request{Preset: newroom.Private}},
		{why: "no policy keeps what is asked for", req: newroom.Request{Preset: newroom.Private, InitialState: state(another, "")}, want: "org.example.plain"},
		{why: "forced", force: "private", req: newroom.Request{Preset: newroom.Private}, want: "m.megolm.v1.aes-sha2"},
		{why: "another kind is forced", force: "private", req: newroom.Request{Preset: newroom.Public}},
		{why: "a direct room is private too", force: "private", req: newroom.Request{Preset: newroom.Trusted}, want: "m.megolm.v1.aes-sha2"},
		{why: "is_direct makes a public room direct", force: "direct", req: newroom.Request{Preset: newroom.Public, IsDirect: true}, want: "m.megolm.v1.aes-sha2"},
		{why: "a private room is not direct", force: "direct", req: newroom.Request{Preset: newroom.Private}},
		{why: "spaces are not encrypted", force: "private", req: newroom.Request{Preset: newroom.Private}, roomType: `"m.space"`},
		{why: "other types are", force: "private", req: newroom.Request{Preset: newroom.Private}, roomType: `"org.example.game"`, want: "m.megolm.v1.aes-sha2"},
		{why: "another algorithm is refused", force: "private", req: newroom.Request{Preset: newroom.Private, InitialState: state(another, "")}, want: "refused"},
		{why: "an event with a state key does not encrypt", force: "private", req: newroom.Request{Preset: newroom.Private, InitialState: state(megolm, "x")}, want: "m.megolm.v1.aes-sha2"},
		{why: "forbidden", forbid: "public", req: newroom.Request{Preset: newroom.Public, InitialState: state(megolm, "")}, want: "refused"},
		{why: "forbidden, and not asked for", forbid: "public", req: newroom.Request{Preset: newroom.Public}},
		{why: "forced takes precedence over forbidden", force: "direct", forbid: "private", req: newroom.Request{Preset: newroom.Trusted}, want: "m.megolm.v1.aes-sha2"},
		{why: "a space is not forced, and so forbidden", force: "private", forbid: "private", req: newroom.Request{Preset: newroom.Private, InitialState: state(megolm, "")}, roomType: `"m.space"`, want: "refused"},
	} {
		given := len(c.req.InitialState)
		before := append([]newroom.StateEvent(nil), c.req.InitialState...)
		p := encryption.Policy{Force: strings.Fields(c.force), Forbid: strings.Fields(c.forbid)}
		err := p.Apply(&c.req, []byte(c.roomType))
		got := ""
		for _, e := range c.req.InitialState {
			if e.Type == "m.room.encryption" && e.StateKey == "" {
				var content struct{ Algorithm string }
				if json.Unmarshal(e.Content, &content) != nil {
					t.Errorf("%s: invalid content %s", c.why, e.Content)
				}
				got = content.Algorithm
			}
		}
		if err != nil {
			if got = "refused"; mxerr.Code(err) != mxerr.CodeForbidden || len(c.req.InitialState) != given {
				t.Errorf("%s: %v, and %d initial events", c.why, err, len(c.req.InitialState))
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.why, got, c.want)
		}
		for i, e := range before {
			if c.req.InitialState[i].Type != e.Type || string(c.req.InitialState[i].Content) != string(e.Content) {
				t.Errorf("%s: the given state has changed", c.why)
			}
		}
	}
}

func TestMayEnable(t *testing.T) {
	for _, c := range []struct {
		force, forbid, joinRule string
		want                    bool
	}{
		{"", "", "invite", true}, {"", "public", "public", false}, {"", "public", "invite", true}, {"", "public", "knock", true},
		{"", "private", "restricted", false}, {"", "private", "public", true}, {"private", "private", "invite", true}, {"", "direct", "invite", true},
	} {
		p := encryption.Policy{Force: strings.Fields(c.force), Forbid: strings.Fields(c.forbid)}
		if err := p.MayEnable(c.joinRule); (err == nil) != c.want {
			t.Errorf("forced %q, forbidden %q, join rule %s: %v", c.force, c.forbid, c.joinRule, err)
		}
	}
}

func TestMaySend(t *testing.T) {
	for _, c := range []struct {
		typ, content string
		refused      bool
	}{
		{"m.room.message", `{"msgtype":"m.text","body":"secret"}`, true},
		{"m.room.message", `{}`, true},
		{"m.room.message", `{"msgtype":"m.key.verification.request"}`, false},
		{"m.room.message", `{"msgtype":["m.key.verification.request"]}`, true},
		{"m.sticker", `{}`, true},
		{"m.poll.start", `{}`, true},
		{"m.room.encrypted", `{}`, false},
		{"m.reaction", `{}`, false},
		{"m.room.redaction", `{}`, false},
		{"m.call.invite", `{}`, false},
		{"m.key.verification.ready", `{}`, false},
		{"org.example.unknown", `{}`, false},
	} {
		p := encryption.Policy{RefusePlaintext: true}
		if err := p.MaySend(c.typ, []byte(c.content)); (err != nil) != c.refused {
			t.Errorf("%s with %s: %v", c.typ, c.content, err)
		}
		if err := (&encryption.Policy{}).MaySend(c.typ, []byte(c.content)); err != nil {
			t.Errorf("without the policy, %s with %s: %v", c.typ, c.content, err)
		}
	}
}
