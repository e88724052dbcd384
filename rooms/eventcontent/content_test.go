package eventcontent_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/eventcontent"
)

func TestAliases(t *testing.T) {
	for content, want := range map[string]string{
		`{}`:                                 "[]",
		`{"alias":"#a:x","alt_aliases":[]}`:  "#a:x []",
		`{"alias":null,"alt_aliases":null}`:  "[]",
		`{"alt_aliases":["#b:x","#c:x"]}`:    "[#b:x #c:x]",
		`{"ALIAS":"#a:x","Alt_Aliases":[1]}`: "[]", // other implementations do not read these
		`{"alias":1}`:                        "error",
		`{"alt_aliases":"#b:x"}`:             "error",
		`{"alt_aliases":["#b:x",1]}`:         "error",
		`[]`:                                 "error",
	} {
		var a eventcontent.Aliases
		got := "error"
		if json.Unmarshal([]byte(content), &a) == nil {
			got = strings.TrimSpace(fmt.Sprint(a.Alias, " ", a.AltAliases))
		}
		if got != want {
			t.Errorf("%s: %s, want %s", content, got, want)
		}
	}
}

func TestWithoutAlias(t *testing.T) {
	for _, c := range []struct{ content, want string }{
		{`{"alias":"#a:x"}`, `{}`},
		{`{"alias":"#a:x","org.example":{"b":[1]}}`, `{"org.example":{"b":[1]}}`},
		{`{"alias":"#b:x","alt_aliases":["#a:x","#c:x","#a:x"]}`, `{"alias":"#b:x","alt_aliases":["#c:x"]}`},
		{`{"alias":"#a:x","alt_aliases":["#a:x"]}`, `{}`},
		{`{"alias":"#A:x","alt_aliases":["#c:x"]}`, ""},
		{`{}`, ""},
		{`{"alias":1}`, ""},
		{`null`, ""},
		{`{"alias":"#a:x","alt_aliases":[1]}`, ""},
	} {
		out, changed := eventcontent.WithoutAlias([]byte(c.content), "#a:x")
		if changed != (c.want != "") || changed && string(out) != c.want {
			t.Errorf("%s: %s, %v; want %s", c.content, out, changed, c.want)
		}
	}
}

func TestAllowedRooms(t *testing.T) {
	many := `{"allow":[` + strings.TrimSuffix(strings.Repeat(`{"type":"m.room_membership","room_id":"!r:x"},`, 101), ",") + `]}`
	for _, c := range []struct {
		content string
		want    []id.RoomID
	}{
		{`{"allow":[{"type":"m.room_membership","room_id":"!a:x"},{"type":"m.room_membership","room_id":"!b:x"}]}`, []id.RoomID{"!a:x", "!b:x"}},
		{`{"allow":[{"type":"org.example.age","room_id":"!a:x"},{"room_id":"!b:x"}]}`, nil},
		{`{"allow":[{"type":"m.room_membership"},{"type":"m.room_membership","room_id":5},{"type":"m.room_membership","room_id":"#a:x"}]}`, nil},
		{`{"allow":[null,"!a:x",[],{"type":"m.room_membership","room_id":"!a:x"}]}`, []id.RoomID{"!a:x"}},
		{`{"allow":{"type":"m.room_membership","room_id":"!a:x"}}`, nil},
		{`{}`, nil},
		{many, slices.Repeat([]id.RoomID{"!r:x"}, 100)},
	} {
		if got := eventcontent.AllowedRooms([]byte(c.content)); !slices.Equal(got, c.want) {
			t.Errorf("%.200s: %v, want %v", c.content, got, c.want)
		}
	}
}

func TestWithProfile(t *testing.T) {
	const before = `{"membership":"join","displayname":"Old","avatar_url":"mxc://x/old","reason":"hello","join_authorised_via_users_server":"@a:x","is_direct":true,"org.example":[1]}`
	for _, c := range []struct{ name, avatar, want string }{
		{"New \"one\"", "mxc://x/new", `{"avatar_url":"mxc://x/new","displayname":"New \"one\"","is_direct":true,"membership":"join","org.example":[1]}`},
		{"", "", `{"is_direct":true,"membership":"join","org.example":[1]}`},
	} {
		if got, err := eventcontent.WithProfile([]byte(before), c.name, c.avatar); string(got) != c.want || err != nil {
			t.Errorf("%q %q: %s, %v; want %s", c.name, c.avatar, got, err, c.want)
		}
	}
	if _, err := eventcontent.WithProfile([]byte(`[]`), "a", ""); err == nil {
		t.Error("content that is no object was changed")
	}
}
