package pdu

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
)

// What Build makes, Parse takes, with the same id and fields, and its hash and signature hold.
func TestBuiltEventsParse(t *testing.T) {
	s := specKey(t)
	eachVersion(t, func(t *testing.T, v *Version) {
		rng := rand.New(rand.NewPCG(3, 4))
		for range randomEvents() {
			p := randomProto(rng, v)
			built := mustBuild(t, v, p, s)
			parsed, err := Parse(v, built.JSON())
			if err != nil {
				t.Fatalf("Parse(%s): %v", built.JSON(), err)
			}
			for what, e := range map[string]*Event{"built": built, "parsed": parsed} {
				checkFields(t, what, e, p)
				if e.ID() != built.ID() || !e.CheckContentHash() {
					t.Errorf("%s: id %s, want %s; content hash good: %v", what, e.ID(), built.ID(), e.CheckContentHash())
				}
				if err := e.VerifySignature(s.Server, string(s.KeyID), publicKey(s)); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
			if again, err := canonjson.Canonical(built.JSON(), true); err != nil || !bytes.Equal(again, built.JSON()) {
				t.Fatalf("Build made %s, which is not canonical: %v", built.JSON(), err)
			}
		}
	})
}

func checkFields(t *testing.T, what string, e *Event, p Proto) {
	t.Helper()
	key, isState := e.StateKey()
	if isState != (p.StateKey != nil) || isState && key != *p.StateKey {
		t.Errorf("%s: state key %q, %v", what, key, isState)
	}
	if e.Type() != p.Type || e.Sender() != p.Sender || e.Depth() != p.Depth || e.OriginServerTS() != p.OriginServerTS || e.Redacts() != p.Redacts {
		t.Errorf("%s: %s is not %+v", what, e.JSON(), p)
	}
	if !slices.Equal(e.PrevEvents(), p.PrevEvents) || !slices.Equal(e.AuthEvents(), p.AuthEvents) {
		t.Errorf("%s: prev_events %v, auth_events %v", what, e.PrevEvents(), e.AuthEvents())
	}
	switch derived := e.Version().RoomIDIsCreateHash && p.Type == typeCreate; {
	case derived && (string(e.RoomID()) != "!"+string(e.ID()[1:]) || e.HasRoomID()):
		t.Errorf("%s: the room of create event %s is %s", what, e.ID(), e.RoomID())
	case !derived && (e.RoomID() != p.RoomID || !e.HasRoomID()):
		t.Errorf("%s: room %s", what, e.RoomID())
	}
}

// Whatever is changed in an event, either its content hash or its signature no longer holds, and in what a redaction
// keeps it is the signature (and from room version 3 on the id).
func TestTamperedEventsAreFoundOut(t *testing.T) {
	s := specKey(t)
	eachVersion(t, func(t *testing.T, v *Version) {
		e := mustBuild(t, v, message(v), s)
		for key, value := range map[string]string{
			"content": `{"msgtype":"m.text","body":"ho"}`, "sender": `"@v:domain"`, "type": `"m.room.name"`, "state_key": `""`, "depth": `8`,
			"origin_server_ts": `1000001`, "prev_events": `[]`, "auth_events": `[]`, "added": `1`, "hashes": `{"sha256":"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"}`,
		} {
			forged, err := Parse(v, with(t, e.JSON(), key, value))
			if err != nil {
				t.Errorf("%s: %v", key, err)
				continue
			}
			if forged.CheckContentHash() {
				t.Errorf("%s was changed and the content hash holds", key)
			}
			essential := key != "content" && key != "added"
			err = forged.VerifySignature(s.Server, string(s.KeyID), publicKey(s))
			if essential != (err != nil) {
				t.Errorf("%s was changed; signature: %v", key, err)
			}
			if v.EventIDFormat != EventIDFromServer && essential == (forged.ID() == e.ID()) {
				t.Errorf("%s was changed; id %s, before %s", key, forged.ID(), e.ID())
			}
		}
	})
}

func TestBuildRefusesWhatIsNoEvent(t *testing.T) {
	s, long := specKey(t), strings.Repeat("x", 256)
	ids := func(n int) []id.EventID { return slices.Repeat([]id.EventID{"$e:domain"}, n) }
	for name, c := range map[string]struct {
		change func(*Proto)
		kind   Kind
	}{
		"no type":           {func(p *Proto) { p.Type = "" }, BadShape},
		"long type":         {func(p *Proto) { p.Type = long }, TooLarge},
		"NUL in type":       {func(p *Proto) { p.Type = "a\x00" }, BadID},
		"long state key":    {func(p *Proto) { p.StateKey = &long }, TooLarge},
		"long sender":       {func(p *Proto) { p.Sender = id.UserID("@" + long + ":domain") }, TooLarge},
		"sender":            {func(p *Proto) { p.Sender = "u:domain" }, BadID},
		"room":              {func(p *Proto) { p.RoomID = "#room:domain" }, BadID},
		"no content":        {func(p *Proto) { p.Content = nil }, BadJSON},
		"content is a list": {func(p *Proto) { p.Content = json.RawMessage(`[]`) }, BadShape},
		"content is broken": {func(p *Proto) { p.Content = json.RawMessage(`{"a":`) }, BadJSON},
		"two values":        {func(p *Proto) { p.Content = json.RawMessage(`{},"depth":1`) }, BadJSON},
		"21 prev_events":    {func(p *Proto) { p.PrevEvents = ids(21) }, BadShape},
		"11 auth_events":    {func(p *Proto) { p.AuthEvents = ids(11) }, BadShape},
		"content too large": {func(p *Proto) { p.Content = contentOf(MaxSize) }, TooLarge},
		"hopelessly large":  {func(p *Proto) { p.Content = contentOf(maxRawSize) }, TooLarge},
		"long redacts":      {func(p *Proto) { p.Type, p.Redacts = typeRedaction, id.EventID(long) }, TooLarge},
		"deep content": {func(p *Proto) {
			p.Content = json.RawMessage(strings.Repeat(`{"a":`, 101) + "1" + strings.Repeat("}", 101))
		}, BadJSON},
		"invalid UTF-8":      {func(p *Proto) { p.Content = json.RawMessage("{\"a\":\"\xff\"}") }, BadJSON},
		"user without colon": {func(p *Proto) { p.Sender = "@u" }, BadID},
	} {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, v *Version) {
				p := message(v)
				c.change(&p)
				e, err := Build(v, p, s)
				var bad *Error
				if !errors.As(err, &bad) || bad.Kind != c.kind {
					t.Errorf("Build: %v, %v (%T); want kind %d", e, err, err, c.kind)
				}
			})
		})
	}
}

func contentOf(size int) json.RawMessage {
	return json.RawMessage(`{"body":"` + strings.Repeat("x", size) + `"}`)
}

// Strict room versions refuse numbers and keys that old ones must let pass.
func TestContentIsStrictFromVersion6On(t *testing.T) {
	s := specKey(t)
	eachVersion(t, func(t *testing.T, v *Version) {
		for _, content := range []string{`{"a":1.5}`, `{"a":9007199254740992}`, `{"a":1,"a":2}`} {
			p := message(v)
			p.Content = json.RawMessage(content)
			e, err := Build(v, p, s)
			if v.StrictCanonicalJSON != (err != nil) {
				t.Errorf("Build with %s: %v", content, err)
			}
			if err == nil && !e.CheckContentHash() {
				t.Errorf("%s: wrong hash", e.JSON())
			}
		}
	})
}

func TestAnEventMayBeExactlyAsLargeAsTheLimit(t *testing.T) {
	s := specKey(t)
	eachVersion(t, func(t *testing.T, v *Version) {
		p := message(v)
		p.Content = contentOf(0)
		room := MaxSize - len(mustBuild(t, v, p, s).JSON())
		p.Content = contentOf(room)
		e := mustBuild(t, v, p, s)
		if len(e.JSON()) != MaxSize {
			t.Fatalf("event of %d bytes", len(e.JSON()))
		}
		if _, err := Parse(v, e.JSON()); err != nil {
			t.Errorf("Parse: %v", err)
		}
		p.Content = contentOf(room + 1)
		var bad *Error
		if _, err := Build(v, p, s); !errors.As(err, &bad) || bad.Kind != TooLarge {
			t.Errorf("Build of one byte more: %v", err)
		}
	})
}

func TestFieldsMayHave255Bytes(t *testing.T) {
	s, longest := specKey(t), strings.Repeat("x", MaxIDLength)
	eachVersion(t, func(t *testing.T, v *Version) {
		p := message(v)
		p.Type, p.StateKey = longest, &longest
		if _, err := Build(v, p, s); err != nil {
			t.Error(err)
		}
	})
}

func TestListsAndContentMayBeAsLongAsTheirLimits(t *testing.T) {
	s := specKey(t)
	eachVersion(t, func(t *testing.T, v *Version) {
		p := message(v)
		p.PrevEvents = slices.Repeat([]id.EventID{eventID(v, 1)}, MaxPrevEvents)
		p.AuthEvents = slices.Repeat([]id.EventID{eventID(v, 2)}, MaxAuthEvents)
		p.Content = append(json.RawMessage("{}"), bytes.Repeat([]byte(" "), maxRawSize-len("{}"))...)
		if _, err := Build(v, p, s); err != nil {
			t.Error(err)
		}
		p.Content = append(p.Content, ' ')
		var bad *Error
		if _, err := Build(v, p, s); !errors.As(err, &bad) || bad.Kind != TooLarge {
			t.Errorf("content of one byte more: %v", err)
		}
	})
}

// A depth at the limit stays there instead of making the room unusable.
func TestDepthIsClampedToWhatTheVersionCanSay(t *testing.T) {
	s := specKey(t)
	eachVersion(t, func(t *testing.T, v *Version) {
		want := int64(1<<63 - 1)
		if v.StrictCanonicalJSON {
			want = 1<<53 - 1
		}
		for depth, want := range map[int64]int64{-5: 0, 1<<63 - 1: want, want: want} {
			p := message(v)
			p.Depth = depth
			if e := mustBuild(t, v, p, s); e.Depth() != want {
				t.Errorf("depth %d became %d, want %d", depth, e.Depth(), want)
			}
		}
	})
}

func TestRedactionTargetStandsWhereTheVersionHasIt(t *testing.T) {
	s := specKey(t)
	eachVersion(t, func(t *testing.T, v *Version) {
		p := message(v)
		p.Type, p.Redacts, p.Content = typeRedaction, eventID(v, 5), json.RawMessage(`{"reason":"spam"}`)
		e := mustBuild(t, v, p, s)
		_, top := canonjson.Get(e.JSON(), "redacts")
		_, inside := canonjson.Get(e.Content(), "redacts")
		if inside != v.RedactsInContent || top == v.RedactsInContent || e.Redacts() != p.Redacts {
			t.Errorf("%s", e.JSON())
		}
	})
}

func TestEventIDsHaveTheFormOfTheVersion(t *testing.T) {
	s := specKey(t)
	p := Proto{Type: "m.room.message", Sender: "@u:domain", Content: json.RawMessage(`{}`), OriginServerTS: 1}
	eachVersion(t, func(t *testing.T, v *Version) {
		seen := map[id.EventID]bool{}
		odd := false
		p.RoomID = roomID(v)
		for depth := range int64(50) {
			p.Depth = depth
			e := mustBuild(t, v, p, s)
			seen[e.ID()] = true
			odd = odd || strings.ContainsAny(string(e.ID()), "+/")
			switch format := v.EventIDFormat; {
			case format == EventIDFromServer && !validOwnEventID(e.ID()):
				t.Errorf("id %s", e.ID())
			case format != EventIDFromServer && !validHash(string(e.ID()[1:]), format):
				t.Errorf("id %s", e.ID())
			}
			if got, err := EventIDOf(v, e.JSON()); err != nil || got != e.ID() {
				t.Errorf("EventIDOf = %s, %v; want %s", got, err, e.ID())
			}
		}
		if len(seen) != 50 || odd != (v.EventIDFormat == EventIDHash) {
			t.Errorf("%d ids of 50 events; standard base64: %v", len(seen), odd)
		}
	})
}

func TestEventsOfVersions1And2NameReferenceHashes(t *testing.T) {
	s := specKey(t)
	v := versionOf(t, "2")
	before := mustBuild(t, v, message(v), s)
	p := message(v)
	p.PrevEvents, p.AuthEvents = []id.EventID{before.ID()}, []id.EventID{"$unknown:domain"}
	p.ReferenceHash = func(e id.EventID) ([32]byte, bool) { return before.ReferenceHash(), e == before.ID() }
	e := mustBuild(t, v, p, s)
	hash := string(formatID(&Version{EventIDFormat: EventIDHash}, before.ReferenceHash())[1:])
	prev, _ := canonjson.Get(e.JSON(), "prev_events")
	if want := `[["` + string(before.ID()) + `",{"sha256":"` + hash + `"}]]`; string(prev) != want {
		t.Errorf("prev_events %s, want %s", prev, want)
	}
	auth, _ := canonjson.Get(e.JSON(), "auth_events")
	if want := `[["$unknown:domain",{}]]`; string(auth) != want {
		t.Errorf("auth_events %s, want %s", auth, want)
	}
}
