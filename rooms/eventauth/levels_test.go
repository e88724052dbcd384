package eventauth

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

func version(t testing.TB, name id.RoomVersion) *pdu.Version {
	t.Helper()
	v, ok := pdu.VersionOf(name)
	if !ok {
		t.Fatalf("version %s is not known", name)
	}
	return v
}

func TestLevelsDefaultWhereNothingIsGiven(t *testing.T) {
	forVersions(t, func(t *testing.T, n int, v *pdu.Version) {
		create := build(t, v, baseState(v)[0])
		for name, p := range map[string]*PowerLevels{
			"without event": Levels(v, create, nil),
			"empty event":   Levels(v, create, build(t, v, levels(`{}`))),
			"no create":     Levels(v, nil, nil),
		} {
			got := [...]int64{p.Invite, p.Kick, p.Ban, p.Redact, p.StateDefault, p.EventsDefault, p.UsersDefault, p.UserLevel(bob), p.EventLevel("x", true), p.EventLevel("x", false), p.Notification("room")}
			if want := [...]int64{0, 50, 50, 50, 50, 0, 0, 0, 50, 0, 50}; got != want {
				t.Errorf("%s: levels %v, want %v", name, got, want)
			}
		}
		want := int64(100)
		if n >= 12 {
			want = Infinite
		}
		if got := Levels(v, create, nil).UserLevel(alice); got != want {
			t.Errorf("creator without power levels has %d, want %d", got, want)
		}
		if got, want := Levels(v, create, build(t, v, levels(`{}`))).UserLevel(alice), map[bool]int64{true: Infinite}[n >= 12]; got != want {
			t.Errorf("creator with power levels has %d, want %d", got, want)
		}
	})
}

func TestCreatorIsTheOneThatTheVersionSays(t *testing.T) {
	forVersions(t, func(t *testing.T, n int, v *pdu.Version) {
		create := build(t, v, newCreate(`{"creator":"@bob:b","additional_creators":["@carol:c"]}`))
		p := Levels(v, create, nil)
		powerful := map[id.UserID]bool{bob: n <= 10, alice: n >= 11, carol: n >= 12}
		for user, want := range powerful {
			if got := p.UserLevel(user) >= 100; got != want {
				t.Errorf("%s has power: %v, want %v", user, got, want)
			}
			if p.IsCreator(user) != (want && n >= 12) {
				t.Errorf("IsCreator(%s) = %v", user, p.IsCreator(user))
			}
		}
	})
}

func TestGivenLevelsAreRead(t *testing.T) {
	p := Levels(version(t, "11"), nil, build(t, version(t, "11"), levels(`{"invite":1,"kick":2,"ban":3,"redact":4,
		"state_default":5,"events_default":6,"users_default":7,"users":{"@bob:b":-8},"events":{"x":9},"notifications":{"room":10},"other":"11"}`)))
	got := [...]int64{p.Invite, p.Kick, p.Ban, p.Redact, p.EventLevel("y", true), p.EventLevel("y", false), p.UserLevel(carol), p.UserLevel(bob), p.EventLevel("x", false), p.Notification("room")}
	if want := [...]int64{1, 2, 3, 4, 5, 6, 7, -8, 9, 10}; got != want {
		t.Errorf("levels %v, want %v", got, want)
	}
}

// TestOneLevelIsReadAsTheVersionSays goes through the forms of a level; -1 stands for one that is not read.
func TestOneLevelIsReadAsTheVersionSays(t *testing.T) {
	const no = -1
	for _, tc := range []struct {
		text          string
		v1, v6, v10up int64
	}{
		{`50`, 50, 50, 50},
		{`"50"`, 50, 50, no},
		{`"00050"`, 50, 50, no},
		{`" \t+50\n"`, 50, 50, no},
		{`"-0"`, 0, 0, no},
		{`"5_0"`, no, no, no},
		{`"0x10"`, no, no, no},
		{`"1e2"`, no, no, no},
		{`""`, no, no, no},
		{`"+"`, no, no, no},
		{`"- 1"`, no, no, no},
		{`50.57`, 50, no, no},
		{`0.9e1`, 9, no, no},
		{`1e400`, no, no, no},
		{`1e300`, maxLevel, no, no},
		{`4611686018427387904.0`, maxLevel, no, no}, // 2^62: floats up to it are exact
		{`4611686018427387903`, 1<<62 - 1, 1<<62 - 1, 1<<62 - 1},
		{`-4611686018427387904.0`, -maxLevel, no, no},
		{`-99999999999999999999`, -maxLevel, -maxLevel, -maxLevel},
		{`99999999999999999999`, maxLevel, maxLevel, maxLevel},
		{`9223372036854775807`, maxLevel, maxLevel, maxLevel},
		{`"99999999999999999999"`, maxLevel, maxLevel, no},
		{`true`, no, no, no},
		{`null`, no, no, no},
		{`[50]`, no, no, no},
		{`{"a":50}`, no, no, no},
	} {
		for name, want := range map[id.RoomVersion]int64{"1": tc.v1, "5": tc.v1, "6": tc.v6, "9": tc.v6, "10": tc.v10up, "12": tc.v10up} {
			var beyond bool
			got, ok := levelReader{version(t, name), &beyond}.level([]byte(tc.text))
			if !ok {
				got = no
			}
			if got != want {
				t.Errorf("version %s reads %s as %d, want %d", name, tc.text, got, want)
			}
		}
	}
}

func TestNoEventGivesInfinitePower(t *testing.T) {
	v := version(t, "1")
	p := Levels(v, nil, build(t, v, levels(`{"users":{"@bob:b":1e300,"@carol:c":9223372036854775807,"@gone:b":"9223372036854775808"}}`)))
	for _, user := range []id.UserID{bob, carol, gone} {
		if level := p.UserLevel(user); level >= Infinite || level < 1<<60 {
			t.Errorf("%s has %d", user, level)
		}
	}
}

func TestLevelContentKeepsWhatItReads(t *testing.T) {
	const given = `{"ban":60,"events":{"x":70},"kick":"40","notifications":{"room":20},"org.example":[1],"users":{"@bob:b":80,"@carol:c":-9007199254740993},"users_default":9007199254740993}`
	c := ReadLevelContent(version(t, "5"), []byte(given))
	if c.LevelOf(bob) != 80 || c.LevelOf(gone) != 9007199254740993 || c.Highest() != 9007199254740993 || c.Required() != 9007199254740993 {
		t.Errorf("bob %d, gone %d, highest %d, required %d", c.LevelOf(bob), c.LevelOf(gone), c.Highest(), c.Required())
	}
	delete(c.Named, "users_default")
	if c.LevelOf(gone) != 0 || c.Highest() != 80 || c.Required() != 70 {
		t.Errorf("without users_default: gone %d, highest %d, required %d", c.LevelOf(gone), c.Highest(), c.Required())
	}
	const want = `{"ban":60,"events":{"x":70},"kick":40,"notifications":{"room":20},"org.example":[1],"users":{"@bob:b":80,"@carol:c":-9007199254740991}}`
	if got, err := c.JSON(); err != nil || string(got) != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
	c = ReadLevelContent(version(t, "10"), []byte(`{"kick":"40","users":5}`)) // levels of another form count as missing
	c.Users[bob], c.Events["x"] = 1, 2
	if got, err := c.JSON(); err != nil || string(got) != `{"events":{"x":2},"users":{"@bob:b":1}}` || c.Required() != 50 {
		t.Errorf("%s, %v, required %d", got, err, c.Required())
	}
}

func TestOnlyEd25519SignaturesCountForAThirdPartyInvite(t *testing.T) {
	key := testKey(1)
	message := []byte(`{"token":"t"}`)
	right := base64.RawStdEncoding.EncodeToString(ed25519.Sign(key, message))
	signed := func(signatures string) []byte { return []byte(`{"signatures":{"x":{` + signatures + `}},"token":"t"}`) }
	keys := []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}
	for signatures, want := range map[string]bool{
		`"ed25519:1":"` + right + `"`: true, `"ed448:1":"` + right + `"`: false, `"ed25519:1":"` + right[4:] + `"`: false, `"ed25519:1":5`: false, ``: false,
	} {
		if got := signedByAny(signed(signatures), keys); got != want {
			t.Errorf("{%s}: %v", signatures, got)
		}
	}
	if signedByAny([]byte(`{"token":"t"}`), keys) || signedByAny([]byte(`{"signatures":5,"token":"t"}`), keys) || signedByAny(signed(`"ed25519:1":"`+right+`"`), nil) {
		t.Error("an object without signatures, or without keys to check them, is signed")
	}
	wrong := base64.RawStdEncoding.EncodeToString(ed25519.Sign(key, []byte("x")))
	for tries, want := range map[int]bool{maxTries: true, maxTries + 1: false} {
		var signatures strings.Builder
		for i := range tries - 1 {
			fmt.Fprintf(&signatures, `"ed25519:%04d":"%s",`, i, wrong)
		}
		if got := signedByAny(signed(signatures.String()+`"ed25519:z":"`+right+`"`), keys); got != want {
			t.Errorf("the right signature is number %d: %v", tries, got)
		}
	}
}

func BenchmarkCheckMessage(b *testing.B) {
	v := version(b, "12")
	auth, event := withLevels(v, buildState(b, v, nil)), build(b, v, message(bob, "m.room.message"))
	b.ReportAllocs()
	for b.Loop() {
		if err := Check(v, event, auth); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckMessageReadingLevels(b *testing.B) {
	v := version(b, "12")
	auth, event := buildState(b, v, nil), build(b, v, message(bob, "m.room.message"))
	b.ReportAllocs()
	for b.Loop() {
		if err := Check(v, event, auth); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAuthKeys(b *testing.B) {
	v := version(b, "12")
	event := build(b, v, message(bob, "m.room.message"))
	b.ReportAllocs()
	for b.Loop() {
		if len(AuthKeys(v, event)) != 2 {
			b.Fatal("wrong number of keys")
		}
	}
}

func TestUserIDsHaveAtMost255Bytes(t *testing.T) {
	longest := "@" + strings.Repeat("a", pdu.MaxIDLength-len("@:b")) + ":b"
	if !looksLikeUser(longest) || looksLikeUser("@a"+longest[1:]) {
		t.Error("the longest user id is not one of 255 bytes")
	}
	if looksLikeUser("@a\x00:b") {
		t.Error("a user id contains NUL")
	}
}
