package history

import (
	"math"
	"testing"

	"ebb/ident"
	"ebb/mxerr"
)

func TestTokensOfTimelineAndSyncPointIntoTheSameTimeline(t *testing.T) {
	for text, want := range map[string]ident.Order{
		TimelineToken(0):             0,
		TimelineToken(65536*7 - 1):   65536*7 - 1,
		TimelineToken(math.MaxInt64): math.MaxInt64,
		"s1_7_0_0_0_0":               65536 * 7, // just after the event at position 7
		"s1_0_ffffffff_12a_3_1":      0,
		"s1_140737488355327_0_0_0_0": 140737488355327 * 65536,
	} {
		if got, err := ParseToken(text); err != nil || got != want {
			t.Errorf("ParseToken(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}

func TestGarbledTokensAreRefused(t *testing.T) {
	for _, text := range []string{
		"", "t", "t-1", "t+1", "tx", "t1.5", "t 1", "t99999999999999999999", "s1_", "s1_x_0", "s1_-3_0", "s1_140737488355328_0",
		"s2_1_0_0_0_0", "x1", "t1\x00", "s1_1_" + string(make([]byte, 300)),
	} {
		if _, err := ParseToken(text); mxerr.Code(err) != mxerr.CodeInvalidParam {
			t.Errorf("ParseToken(%q): %v", text, err)
		}
	}
}

func TestWindowIsWhatLiesBetweenTwoTokens(t *testing.T) {
	for _, c := range []struct {
		from, to  string
		backwards bool
		want      window
	}{
		{"", "", true, everything()},
		{"t9", "", true, window{0, 9}},
		{"t9", "t4", true, window{4, 9}},
		{"t4", "t9", false, window{4, 9}},
		{"t4", "", false, window{4, math.MaxInt64}},
		{"t9", "t4", false, window{9, 4}},
	} {
		if got, err := parseWindow(c.from, c.to, c.backwards); err != nil || got != c.want {
			t.Errorf("%+v: %+v, %v", c, got, err)
		}
	}
	if w, _ := parseWindow("t9", "t4", false); !w.empty() {
		t.Error("a window that ends before it begins is not empty")
	}
}

func FuzzParseToken(f *testing.F) {
	for _, seed := range []string{"t12", "s1_3_0_0_0_0", "", "t", "s1__"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		order, err := ParseToken(text)
		if err == nil && order < 0 {
			t.Fatalf("%q is %d", text, order)
		}
	})
}
