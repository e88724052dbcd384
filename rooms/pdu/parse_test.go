package pdu

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
)

// Before room version 11 other servers count characters: rooms hold events that a limit of bytes would cut off.
func TestLimitOfBytesBeginsWithVersion11(t *testing.T) {
	s := specKey(t)
	eachVersion(t, func(t *testing.T, v *Version) {
		kind := Kind(0)
		if v.ByteLimits {
			kind = TooLarge
		}
		raw := mustBuild(t, v, message(v), s).JSON()
		for _, characters := range []int{128, MaxIDLength} {
			wantKind(t, v, with(t, raw, "state_key", `"`+strings.Repeat("é", characters)+`"`), kind)
		}
		reference := `"$` + strings.Repeat("x", MaxIDLength-1) + `"`
		longer := `"$` + strings.Repeat("x", MaxIDLength) + `"`
		if v.EventIDFormat == EventIDFromServer {
			reference, longer = "["+reference+",{}]", "["+longer+",{}]"
		}
		wantKind(t, v, with(t, raw, "prev_events", "["+reference+"]"), 0)
		wantKind(t, v, with(t, raw, "prev_events", "["+longer+"]"), BadID)
	})
}

func TestParseRefusesMalformedMembers(t *testing.T) {
	s := specKey(t)
	long := `"` + strings.Repeat("x", 256) + `"`
	list := func(n int, entry string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(entry+",", n), ",") + "]"
	}
	for name, c := range map[string]struct {
		key, value string // value "" removes the member
		kind       Kind
	}{
		"no type":              {"type", ``, BadShape},
		"type number":          {"type", `1`, BadShape},
		"long type":            {"type", long, TooLarge},
		"NUL in type":          {"type", `"a\u0000"`, BadID},
		"no sender":            {"sender", ``, BadShape},
		"sender list":          {"sender", `["@u:domain"]`, BadShape},
		"sender without sigil": {"sender", `"u:domain"`, BadID},
		"sender no server":     {"sender", `"@u"`, BadID},
		"sender bad server":    {"sender", `"@u:do main"`, BadID},
		"sender NUL":           {"sender", `"@u\u0000:domain"`, BadID},
		"long sender":          {"sender", `"@` + long[1:len(long)-1] + `:domain"`, TooLarge},
		"no room":              {"room_id", ``, BadID},
		"room null":            {"room_id", `null`, BadShape},
		"room alias":           {"room_id", `"#room:domain"`, BadID},
		"long room":            {"room_id", `"!` + long[1:len(long)-1] + `:domain"`, TooLarge},
		"state key number":     {"state_key", `1`, BadShape},
		"state key null":       {"state_key", `null`, BadShape},
		"long state key":       {"state_key", long, TooLarge},
		"long unicode key":     {"state_key", `"` + strings.Repeat("é", 256) + `"`, TooLarge},
		"NUL in state key":     {"state_key", `"\u0000"`, BadID},
		"no content":           {"content", ``, BadShape},
		"content null":         {"content", `null`, BadShape},
		"content list":         {"content", `[]`, BadShape},
		"no depth":             {"depth", ``, BadShape},
		"depth string":         {"depth", `"1"`, BadShape},
		"no timestamp":         {"origin_server_ts", ``, BadShape},
		"timestamp bool":       {"origin_server_ts", `true`, BadShape},
		"no hashes":            {"hashes", ``, BadShape},
		"hashes list":          {"hashes", `[]`, BadShape},
		"no signatures":        {"signatures", ``, BadShape},
		"signatures list":      {"signatures", `[]`, BadShape},
		"signatures flat":      {"signatures", `{"domain":"x"}`, BadShape},
		"signature number":     {"signatures", `{"domain":{"ed25519:1":1}}`, BadShape},
		"no prev_events":       {"prev_events", ``, BadShape},
		"prev_events object":   {"prev_events", `{}`, BadShape},
		"prev_events numbers":  {"prev_events", `[1]`, BadShape},
		"prev_events nested":   {"prev_events", `[["$a:domain"]]`, BadShape},
		"no auth_events":       {"auth_events", ``, BadShape},
		"auth_events null":     {"auth_events", `null`, BadShape},
		"long redacts":         {"content", `{"redacts":` + long + `}`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, v *Version) {
				raw := mustBuild(t, v, message(v), s).JSON()
				if c.value == "" {
					raw = canonjson.Without(raw, c.key)
				} else {
					raw = with(t, raw, c.key, c.value)
				}
				wantKind(t, v, raw, c.kind)
			})
		})
	}
	eachVersion(t, func(t *testing.T, v *Version) {
		good, bad, wrongForm := `"$a"`, `"a"`, `["$a",{}]`
		if v.EventIDFormat == EventIDFromServer {
			good, bad, wrongForm = `["$a:domain",{"sha256":"x"}]`, `["a:domain",{}]`, `"$a:domain"`
		}
		raw := mustBuild(t, v, message(v), s).JSON()
		wantKind(t, v, with(t, raw, "prev_events", list(20, good)), 0)
		wantKind(t, v, with(t, raw, "prev_events", list(21, good)), BadShape)
		wantKind(t, v, with(t, raw, "auth_events", list(10, good)), 0)
		wantKind(t, v, with(t, raw, "auth_events", list(11, good)), BadShape)
		wantKind(t, v, with(t, raw, "auth_events", list(1, wrongForm)), BadShape)
		wantKind(t, v, with(t, raw, "prev_events", list(1, bad)), BadID)
		wantKind(t, v, with(t, raw, "prev_events", list(1, strings.Replace(good, "$a", "$a\\u0000", 1))), BadID)
		wantKind(t, v, with(t, raw, "prev_events", list(1, strings.Replace(good, "$a", "$"+strings.Repeat("a", 255), 1))), BadID)
	})
}

// wantKind wants Parse to fail with that kind of error, with 0 to succeed.
func wantKind(t *testing.T, v *Version, raw []byte, kind Kind) {
	t.Helper()
	e, err := Parse(v, raw)
	var bad *Error
	switch {
	case kind == 0 && err != nil:
		t.Errorf("%.200s: %v", raw, err)
	case kind != 0 && (!errors.As(err, &bad) || bad.Kind != kind):
		t.Errorf("%.200s: %v, %v; want kind %d", raw, e, err, kind)
	}
}

func TestParseRefusesTextThatIsNoObject(t *testing.T) {
	huge := bytes.Repeat([]byte(" "), 100<<20)
	eachVersion(t, func(t *testing.T, v *Version) {
		for _, raw := range []string{``, `null`, `1`, `"x"`, `[]`, `{`, `{}{}`, "\xff", strings.Repeat("[", 100_000)} {
			wantKind(t, v, []byte(raw), BadJSON)
		}
		wantKind(t, v, huge, TooLarge)
	})
}

func TestParseIsStrictFromVersion6On(t *testing.T) {
	s := specKey(t)
	eachVersion(t, func(t *testing.T, v *Version) {
		raw := mustBuild(t, v, message(v), s).JSON()
		for _, change := range []string{`"content":{"a":1.5}`, `"content":{"a":{"b":1,"b":2}}`, `"depth":9007199254740992`, `"depth":1e3`, `"unsigned":{"age":0.5}`} {
			key, value, _ := strings.Cut(change, ":")
			kind := Kind(0)
			if v.StrictCanonicalJSON {
				kind = BadJSON
			}
			wantKind(t, v, with(t, raw, strings.Trim(key, `"`), value), kind)
		}
	})
}

// In room versions that permit such numbers, a depth beyond all bounds is the greatest there is.
func TestDepthBeyondBoundsIsClamped(t *testing.T) {
	s, v := specKey(t), versionOf(t, "5")
	raw := mustBuild(t, v, message(v), s).JSON()
	for text, want := range map[string]int64{
		"9223372036854775807": 1<<63 - 1, "9223372036854775808": 1<<63 - 1, "1e300": 1<<63 - 1, "1e999": 1<<63 - 1, "-1": 0, "-1e300": 0, "10.9": 10, "1e2": 100, "-0": 0,
	} {
		e, err := Parse(v, with(t, raw, "depth", text))
		if err != nil || e.Depth() != want {
			t.Errorf("depth %s is %d, %v; want %d", text, e.Depth(), err, want)
		}
	}
}

func TestSizeLimitCountsTheCanonicalForm(t *testing.T) {
	s, v := specKey(t), versionOf(t, "12")
	p := message(v)
	p.Content = contentOf(40_000)
	raw := mustBuild(t, v, p, s).JSON()
	wantKind(t, v, append(raw[:len(raw):len(raw)], strings.Repeat(" ", MaxSize)...), 0)
	wantKind(t, v, append(raw[:len(raw):len(raw)], strings.Repeat(" ", maxRawSize-len(raw))...), 0)
	wantKind(t, v, append(raw[:len(raw):len(raw)], strings.Repeat(" ", maxRawSize-len(raw)+1)...), TooLarge)
	wantKind(t, v, with(t, raw, "unsigned", `{"a":"`+strings.Repeat("x", 30_000)+`"}`), TooLarge)
}

func TestUnsignedIsKeptApart(t *testing.T) {
	s := specKey(t)
	eachVersion(t, func(t *testing.T, v *Version) {
		built := mustBuild(t, v, message(v), s)
		e, err := Parse(v, with(t, built.JSON(), "unsigned", `{"age":5}`))
		if err != nil {
			t.Fatal(err)
		}
		if string(e.Unsigned()) != `{"age":5}` || string(e.JSON()) != string(built.JSON()) || e.ID() != built.ID() || !e.CheckContentHash() {
			t.Errorf("unsigned %s, event %s with id %s", e.Unsigned(), e.JSON(), e.ID())
		}
		if built.Unsigned() != nil {
			t.Errorf("a new event has unsigned %s", built.Unsigned())
		}
	})
}

func TestEscapedTextsAreRead(t *testing.T) {
	v := versionOf(t, "12")
	raw := with(t, mustBuild(t, v, message(v), specKey(t)).JSON(), "type", `"m\u002eroom\u002emessage\n\ud83d\ude00"`)
	e, err := Parse(v, raw)
	if err != nil || e.Type() != "m.room.message\n😀" {
		t.Errorf("type %q, %v", e.Type(), err)
	}
}

func TestEventIDOfOldVersionsIsChecked(t *testing.T) {
	s := specKey(t)
	for _, room := range []id.RoomVersion{"1", "2"} {
		v := versionOf(t, room)
		raw := mustBuild(t, v, message(v), s).JSON()
		wantKind(t, v, canonjson.Without(raw, "event_id"), BadID)
		for text, kind := range map[string]Kind{
			`1`: BadID, `""`: BadID, `"e:domain"`: BadID, `"$e"`: BadID, `"$e:"`: BadID, `"$e\u0000:domain"`: BadID,
			`"$` + strings.Repeat("e", 255) + `:domain"`: TooLarge, `"$e:domain"`: 0, `"$\u0000:domain"`: BadID,
			`"$` + strings.Repeat("e", MaxIDLength-len("$:domain")) + `:domain"`: 0,
		} {
			wantKind(t, v, with(t, raw, "event_id", text), kind)
		}
	}
}

// ParseStored does not validate its bytes, so a damaged database must not lead to more than missing values.
func TestDamagedReferencesAndNumbersAreEmpty(t *testing.T) {
	for _, raw := range []string{``, `[]`, `["$a"`, `[[]]`, `[1]`, `["$a",[]]`, `{}`} {
		if ids := references([]byte(raw)); ids != nil {
			t.Errorf("references(%s) = %q", raw, ids)
		}
	}
	for raw, want := range map[string]int64{``: 0, `NaN`: 0, `x`: 0, `"1"`: 0, `-9223372036854775808`: -1 << 63, `-1e300`: -1 << 63, `2.9`: 2} {
		if got := integer([]byte(raw)); got != want {
			t.Errorf("integer(%s) = %d, want %d", raw, got, want)
		}
	}
}

func TestStateKeyOfOneEntryOfTheState(t *testing.T) {
	v := versionOf(t, "12")
	for raw, want := range map[string]bool{
		`{"type":"t","state_key":"k"}`: true, `{"type":"t","state_key":""}`: false, `{"type":"u","state_key":"k"}`: false, `{"type":"t"}`: false,
	} {
		e, err := ParseStored(v, "$e", []byte(raw))
		if err != nil || e.IsStateKey("t", "k") != want {
			t.Errorf("%s: %v, %v", raw, e.IsStateKey("t", "k"), err)
		}
	}
	e, err := ParseStored(v, "$e", []byte(`{"type":"t"}`))
	if err != nil || e.IsStateKey("t", "") {
		t.Errorf("an event without state_key is the state with an empty one: %v", err)
	}
}

func TestRoomOfAVersion12CreateEventIsItsID(t *testing.T) {
	s, v := specKey(t), versionOf(t, "12")
	p, key := message(v), ""
	p.Type, p.StateKey, p.RoomID = typeCreate, &key, ""
	e := mustBuild(t, v, p, s)
	if e.RoomID() != id.RoomID("!"+e.ID()[1:]) || e.HasRoomID() {
		t.Errorf("event %s, room %s", e.ID(), e.RoomID())
	}
	stored, err := ParseStored(v, e.ID(), e.JSON())
	if err != nil || stored.RoomID() != e.RoomID() {
		t.Errorf("stored: room %s, %v", stored.RoomID(), err)
	}
	named, err := Parse(v, with(t, e.JSON(), "room_id", `"!QsfBjbeyKnZoYXVYvUtWMDMQEEYwCKTY2rcHLBMpFVE"`))
	if err != nil || !named.HasRoomID() {
		t.Errorf("create event with a room_id: %v", err)
	}
}

func TestParseStoredTakesTheIDAsGivenAndChecksNothing(t *testing.T) {
	v := versionOf(t, "12")
	e, err := ParseStored(v, "$any", []byte(` {"type": "t", "content": {"a" : 1.5}, "unsigned": {}} `))
	if err != nil || e.ID() != "$any" || e.Type() != "t" || string(e.JSON()) != `{"type":"t","content":{"a" : 1.5}}` {
		t.Errorf("%+v, %v", e, err)
	}
	for _, raw := range []string{``, `[]`, `{"a":`} {
		var bad *Error
		if _, err := ParseStored(v, "$any", []byte(raw)); !errors.As(err, &bad) || bad.Kind != BadJSON {
			t.Errorf("ParseStored(%q): %v", raw, err)
		}
	}
}

func TestParseLenientTakesTheIDFromTheEvent(t *testing.T) {
	v := versionOf(t, "11")
	e, err := ParseLenient(v, []byte(`{"event_id":"CREATE","type":"m.room.create","state_key":"","sender":"@a:x","room_id":"!r:x","content":{},
		"prev_events":["A","B"],"auth_events":[["C",{}]],"depth":2,"origin_server_ts":3}`))
	if err != nil || e.ID() != "CREATE" || len(e.PrevEvents()) != 2 || e.PrevEvents()[1] != "B" || e.AuthEvents()[0] != "C" || !e.IsStateKey(typeCreate, "") {
		t.Errorf("%+v, %v", e, err)
	}
	for raw, kind := range map[string]Kind{`{"type":"t"}`: BadShape, `{"event_id":1}`: BadShape, `[]`: BadJSON, `{`: BadJSON} {
		var bad *Error
		if _, err := ParseLenient(v, []byte(raw)); !errors.As(err, &bad) || bad.Kind != kind {
			t.Errorf("ParseLenient(%s): %v", raw, err)
		}
	}
}
