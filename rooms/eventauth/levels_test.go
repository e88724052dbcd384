package eventauth

import (
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

func BenchmarkCheckMessage(b *testing.B) {
	v := version(b, "12")
	auth, event := Compile(v, buildState(b, v, nil)), build(b, v, message(bob, "m.room.message"))
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
}
