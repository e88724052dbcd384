package canonjson

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

const sample = ` { "a" : 1 , "s" : "x\"}\\" , "o" : {"a":[1,"]"]} , "k\u0065y" : [ ] , "n":null,"a":2 } `

func TestEachWalksOverMembersInOrder(t *testing.T) {
	var got []string
	err := Each([]byte(sample), func(key string, raw []byte) error {
		got = append(got, key+"="+string(raw))
		return nil
	})
	want := []string{`a=1`, `s="x\"}\\"`, `o={"a":[1,"]"]}`, `key=[ ]`, `n=null`, `a=2`}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestEachStopsAtTheFirstError(t *testing.T) {
	stop, calls := errors.New("stop"), 0
	err := Each([]byte(sample), func(string, []byte) error { calls++; return stop })
	if err != stop || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

func TestNonObjectsAreAnErrorForEachAndEmptyForOthers(t *testing.T) {
	for _, in := range []string{``, ` `, `1`, `[]`, `"{}"`, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a" 1}`, `{a:1}`, `{"a":[1}`, `{"a":"x}`, `{"a":1,}`, `["b":1}`, `{"a":1{"b":2}`, `{"a":1]`, `{"a":1 "b":2}`, `{"a":[1`, `{"a":{"b":1`, `{"a":["x`} {
		err := Each([]byte(in), func(string, []byte) error { return nil })
		if !errors.Is(err, ErrSyntax) {
			t.Errorf("Each(%q): %v", in, err)
		}
		if raw, ok := Get([]byte(in), "c"); ok {
			t.Errorf("Get(%q) = %s", in, raw)
		}
		if got := string(Without([]byte(in), "a", "b")); got != "{}" {
			t.Errorf("Without(%q) = %s", in, got)
		}
	}
}

func TestGetFindsOneMember(t *testing.T) {
	for key, want := range map[string]string{"a": "1", "s": `"x\"}\\"`, "o": `{"a":[1,"]"]}`, "key": "[ ]", "n": "null"} {
		if raw, ok := Get([]byte(sample), key); !ok || string(raw) != want {
			t.Errorf("Get(%q) = %s, %v; want %s", key, raw, ok, want)
		}
	}
	for in, key := range map[string]string{`{"a":"","b":0}`: "b", `{"":0}`: "", `{"\u0061":0}`: "a", `{"\"a":1,"\"":0}`: `"`} {
		if raw, ok := Get([]byte(in), key); !ok || string(raw) != "0" {
			t.Errorf("Get(%s, %q) = %s, %v", in, key, raw, ok)
		}
	}
	if raw, ok := Get([]byte(`{"\u0061":0}`), `\u0061`); ok {
		t.Errorf("a key is found by its escape: %s", raw)
	}
	for _, key := range []string{"", "A", `k\u0065y`, "x"} {
		if raw, ok := Get([]byte(sample), key); ok {
			t.Errorf("Get(%q) = %s", key, raw)
		}
	}
}

func TestWithoutDropsMembersAndKeepsTheRest(t *testing.T) {
	got := string(Without([]byte(sample), "a", "key", "missing"))
	if want := `{"s":"x\"}\\","o":{"a":[1,"]"]},"n":null}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := string(Without([]byte(`{"a":1}`), "a")); got != "{}" {
		t.Errorf("got %s", got)
	}
}

func TestAppendWithKeepsTheOrderOfKeys(t *testing.T) {
	for _, c := range []struct{ obj, key, want string }{
		{`{}`, "b", `x{"b":0}`},
		{`{"a":1}`, "b", `x{"a":1,"b":0}`},
		{`{"c":1}`, "b", `x{"b":0,"c":1}`},
		{`{"a":1,"c":1}`, "b", `x{"a":1,"b":0,"c":1}`},
		{`{"a":1,"b":[1,2],"c":1}`, "b", `x{"a":1,"b":0,"c":1}`},
		{`{"a!":1,"a#":1}`, `a"`, `x{"a!":1,"a\"":0,"a#":1}`},
	} {
		if got := string(AppendWith([]byte("x"), []byte(c.obj), c.key, []byte("0"))); got != c.want {
			t.Errorf("AppendWith(%s, %s) = %s, want %s", c.obj, c.key, got, c.want)
		}
	}
}

func TestElementsSplitsArrays(t *testing.T) {
	for in, want := range map[string]string{
		`[]`: "[]", ` [ 1 , "a,]" , [2,3] , {"a":[]} ] `: `[1 "a,]" [2,3] {"a":[]}]`,
	} {
		values, ok := Elements([]byte(in))
		texts := make([]string, len(values))
		for i, v := range values {
			texts[i] = string(v)
		}
		if got := fmt.Sprint(texts); !ok || got != want {
			t.Errorf("Elements(%s) = %s, %v; want %s", in, got, ok, want)
		}
	}
	for _, in := range []string{``, `{}`, `1`, `[`, `[1`, `[1,`, `[1 2]`, `[,]`, `["a]`} {
		if values, ok := Elements([]byte(in)); ok {
			t.Errorf("Elements(%q) = %s", in, values)
		}
	}
}

func TestUnquoteResolvesEscapes(t *testing.T) {
	for in, want := range map[string]string{`""`: "", `"abc"`: "abc", `"a\n\u00e9\ud83d\ude00\/"`: "a\né😀/", `"\\"`: `\`} {
		if got, ok := Unquote([]byte(in)); !ok || got != want {
			t.Errorf("Unquote(%s) = %q, %v; want %q", in, got, ok, want)
		}
	}
	for _, in := range []string{``, `"`, `1`, `null`, `{}`, `abc"`} {
		if got, ok := Unquote([]byte(in)); ok {
			t.Errorf("Unquote(%s) = %q", in, got)
		}
	}
}

func TestIntReadsIntegersOnly(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "-5": -5, "9223372036854775807": 1<<63 - 1, "-9223372036854775808": -1 << 63} {
		if got, ok := Int([]byte(in)); !ok || got != want {
			t.Errorf("Int(%s) = %d, %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "+1", "1.0", "1e3", `"1"`, "null", "9223372036854775808", "1_000"} {
		if got, ok := Int([]byte(in)); ok {
			t.Errorf("Int(%s) = %d", in, got)
		}
	}
}

func TestAppendStringEscapesAndReplacesInvalidUTF8(t *testing.T) {
	for in, want := range map[string]string{
		"": `""`, "a\"\\\x00\n\x1f\x7f/<é😀": `"a\"\\\u0000\n\u001f` + "\x7f" + `/<é😀"`,
		"a\xffb\xed\xa0\x80": `"a` + "\ufffdb\ufffd\ufffd\ufffd" + `"`, "\ufffd": `"` + "\ufffd" + `"`,
	} {
		got := string(AppendString(nil, in))
		if got != want {
			t.Errorf("AppendString(%q) = %s, want %s", in, got, want)
		}
		if back, ok := Unquote([]byte(got)); !ok || back != strings.ToValidUTF8(in, "\ufffd") && !strings.Contains(in, "\xed") {
			t.Errorf("Unquote(%s) = %q", got, back)
		}
	}
}

// The functions only look for bounds, but for any input they end and do not panic.
func FuzzScan(f *testing.F) {
	f.Add([]byte(sample), "a")
	f.Add([]byte(`{"a\"b":"\\\"","c":[{"d":"]"}]}`), `a"b`)
	f.Fuzz(func(t *testing.T, raw []byte, key string) {
		_, _ = Elements(raw)
		canonical, err := Canonical(raw, false)
		if err != nil {
			_ = Each(raw, func(string, []byte) error { return nil })
			Get(raw, key)
			Without(raw, key)
			return
		}
		if canonical[0] != '{' {
			return
		}
		with, err := Canonical(AppendWith(nil, canonical, key, []byte(`"v"`)), false)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := Get(with, strings.ToValidUTF8(key, "\ufffd")); !strings.Contains(key, "\ufffd") && key == strings.ToValidUTF8(key, "") && (!ok || string(got) != `"v"`) {
			t.Fatalf("Get(%s, %q) = %s, %v", with, key, got, ok)
		}
		if _, ok := Get(Without(with, key), key); ok {
			t.Fatalf("Without(%s, %q) left it", with, key)
		}
	})
}
