package mxc_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"ebb/storage/mxc"
)

func TestMediaAreFoundInTexts(t *testing.T) {
	for text, want := range map[string][]mxc.Name{
		`{"url":"mxc://here/a"}`: {{"", "a"}},
		`{"url":"mxc://there:8448/a_-9","b":"mxc://here/a mxc://here/a"}`: {{"there:8448", "a_-9"}, {"", "a"}},
		`<img src="mxc://[::1]/x">`:                                       {{"[::1]", "x"}},
		`mxc:// mxc:///a mxc://here mxc://here/ mxc://here/?`:             nil,
		`mxc://` + strings.Repeat("x", 256) + `/a`:                        nil,
		`mxc://here/` + strings.Repeat("x", 256):                          nil,
		`{"url":"https://here/a"}`:                                        nil,
	} {
		if got := mxc.In([]byte(text), "here"); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
		if mxc.Any([]byte(text)) != strings.Contains(text, "mxc://") {
			t.Errorf("%s: wrong result of Any", text)
		}
	}
	var many strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&many, "mxc://here/%d ", i)
	}
	if n := len(mxc.In([]byte(many.String()), "here")); n != 1000 {
		t.Errorf("%d of 2000 media are found, want the bound", n)
	}
	if got := mxc.In(mxc.Unescaped(`{"url":"mxc:\/\/here\/a"}`), "here"); len(got) != 1 {
		t.Errorf("with escaped slashes: %v", got)
	}
}
