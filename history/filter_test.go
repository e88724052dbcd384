package history

import (
	"strings"
	"testing"

	"ebb/mxerr"
)

func TestGlobsMatchWholeTypes(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"m.room.message", "m.room.message", true}, {"m.room.message", "m.room.messages", false}, {"m.room.*", "m.room.member", true},
		{"*", "", true}, {"*.member", "m.room.member", true}, {"m.*.m*r", "m.room.member", true}, {"m.*.x", "m.room.member", false},
		{"", "", true}, {"", "a", false}, {"**a**", "bab", true}, {strings.Repeat("*a", 500) + "b", strings.Repeat("a", 2000), false},
	} {
		if got := MatchType(c.pattern, c.text); got != c.want {
			t.Errorf("MatchType(%.20q, %.20q) = %v", c.pattern, c.text, got)
		}
	}
}

func TestMalformedFiltersAreRefused(t *testing.T) {
	many := `["@a:b"` + strings.Repeat(`,"@a:b"`, maxFilterList) + `]`
	for _, text := range []string{
		`x`, `[]`, `"a"`, `{"limit":-1}`, `{"limit":1e9999}`, `{"limit":"3"}`, `{"types":"m.room.message"}`, `{"types":[1]}`,
		`{"senders":["bob"]}`, `{"not_rooms":["#a:b"]}`, `{"senders":` + many + `}`, `{"contains_url":"yes"}`,
		strings.Repeat(`{"a":`, 1000) + `1` + strings.Repeat(`}`, 1000), `{"types":["` + strings.Repeat("a", maxFilterSize) + `"]}`,
	} {
		if _, err := ParseEventFilter(text); mxerr.Code(err) != mxerr.CodeInvalidParam {
			t.Errorf("%.60s: %v", text, err)
		}
	}
}

func TestAbsentListLetsEverythingThroughAndEmptyOneNothing(t *testing.T) {
	for text, want := range map[string]bool{
		``: true, `{}`: true, `{"rooms":null}`: true, `{"rooms":[]}`: false, `{"rooms":["!a:b"]}`: true, `{"rooms":["!x:b"]}`: false,
		`{"not_rooms":["!a:b"]}`: false, `{"rooms":["!a:b"],"not_rooms":["!a:b"]}`: false,
	} {
		f, err := ParseEventFilter(text)
		if err != nil || f.room("!a:b") != want {
			t.Errorf("%s: %v, %v", text, f.room("!a:b"), err)
		}
	}
}
