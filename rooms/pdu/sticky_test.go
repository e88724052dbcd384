package pdu

import (
	"strings"
	"testing"
	"time"

	"ebb/canonjson"
)

// sticky returns a message that is sticky for some milliseconds.
func sticky(v *Version, ms int64) Proto {
	p := message(v)
	p.StickyMS = &ms
	return p
}

func TestStickyEventsAreBuiltAndReadInEveryVersion(t *testing.T) {
	s := specKey(t)
	eachVersion(t, func(t *testing.T, v *Version) {
		for _, ms := range []int64{0, 1, 3_600_000} {
			built := mustBuild(t, v, sticky(v, ms), s)
			parsed, err := Parse(v, built.JSON())
			if err != nil {
				t.Fatal(err)
			}
			stored, err := ParseStored(v, built.ID(), built.JSON())
			if err != nil {
				t.Fatal(err)
			}
			for what, e := range map[string]*Event{"built": built, "parsed": parsed, "stored": stored} {
				if d, ok := e.Sticky(); !ok || d != time.Duration(ms)*time.Millisecond {
					t.Errorf("%s with %d ms: %v %v", what, ms, d, ok)
				}
			}
			if parsed.ID() != built.ID() || !parsed.CheckContentHash() {
				t.Error("the duration is not part of the hashed event in its canonical form")
			}
			member, _ := canonjson.Get(built.ClientJSON(false), "msc4354_sticky")
			if want, _ := canonjson.Get(built.JSON(), "msc4354_sticky"); string(member) != string(want) || len(want) == 0 {
				t.Errorf("clients get %s", member)
			}
		}
	})
}

func TestRedactionEndsStickinessInEveryVersion(t *testing.T) {
	s := specKey(t)
	eachVersion(t, func(t *testing.T, v *Version) {
		e := mustBuild(t, v, sticky(v, 60_000), s)
		redacted, err := e.Redact()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := redacted.Sticky(); ok || strings.Contains(string(redacted.JSON()), "sticky") || redacted.ID() != e.ID() {
			t.Errorf("the redacted form is %s", redacted.JSON())
		}
	})
}

func TestOnlyValidDurationsMakeAnEventSticky(t *testing.T) {
	v := versionOf(t, "11")
	e := mustBuild(t, v, message(v), specKey(t))
	if _, ok := e.Sticky(); ok || strings.Contains(string(e.ClientJSON(true)), "sticky") {
		t.Error("an ordinary event is sticky")
	}
	for value, want := range map[string]time.Duration{
		`{"duration_ms":1500}`: 1500 * time.Millisecond, `{"duration_ms":0,"x":1}`: 0, `{"duration_ms":3600001}`: time.Hour, `{"duration_ms":9007199254740991}`: time.Hour,
	} {
		got, err := ParseStored(v, e.ID(), with(t, e.JSON(), "msc4354_sticky", value))
		if err != nil {
			t.Fatal(err)
		}
		if d, ok := got.Sticky(); !ok || d != want {
			t.Errorf("%s: %v %v", value, d, ok)
		}
	}
	for _, value := range []string{`{"duration_ms":-1}`, `{"duration_ms":"1000"}`, `{"duration_ms":1.5}`, `{"duration_ms":null}`, `{}`, `[]`, `1000`, `null`, `"x"`} {
		got, err := ParseStored(v, e.ID(), with(t, e.JSON(), "msc4354_sticky", value))
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := got.Sticky(); ok || strings.Contains(string(got.ClientJSON(true)), "sticky") {
			t.Errorf("%s makes an event sticky", value)
		}
	}
}
