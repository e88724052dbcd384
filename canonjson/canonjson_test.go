package canonjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Spec: appendices#canonical-json, "Examples".
func TestCanonicalMatchesTheSpecification(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`{}`, `{}`},
		{"{\n  \"one\": 1,\n  \"two\": \"Two\"\n}", `{"one":1,"two":"Two"}`},
		{"{\n  \"b\": \"2\",\n  \"a\": \"1\"\n}", `{"a":"1","b":"2"}`},
		{`{"b":"2","a":"1"}`, `{"a":"1","b":"2"}`},
		{`{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {"display_name": "John Doe",
		   "three_pids": [{"medium": "email", "address": "john.doe@example.org"}, {"medium": "msisdn", "address": "123456789"}]}}}`,
			`{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}`},
		{`{"a": "日本語"}`, `{"a":"日本語"}`},
		{`{"本": 2, "日": 1}`, `{"日":1,"本":2}`},
		{`{"a": "\u65E5"}`, `{"a":"日"}`},
		{`{"a": null}`, `{"a":null}`},
		{`{"a": -0, "b": 1e10}`, `{"a":0,"b":10000000000}`},
	} {
		got, err := Canonical([]byte(c.in), false)
		if err != nil || string(got) != c.want {
			t.Errorf("Canonical(%s) = %s, %v; want %s", c.in, got, err, c.want)
		}
	}
}

func TestCanonicalWritesTheShortestForm(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{` [ 1 , 2 ,
			[ ] , { } ] `, `[1,2,[],{}]`},
		{`"\u0000\u0007\u0008\u0009\u000A\u000b\u000c\u000D\u001F\u007f"`, `"\u0000\u0007\b\t\n\u000b\f\r\u001f` + "\x7f" + `"`},
		{`"\/\"\\\u0022\u005c\u2028"`, `"/\"\\\"\\` + "\u2028" + `"`},
		{`"\ud83d\uDE00"`, `"😀"`},
		{`"\u0020\u001f"`, `" \u001f"`},
		{`"\u00aa\u00AA\u00ff\u00FF\u0099"`, `"ªªÿÿ` + "\u0099" + `"`},
		{`{"a\"":1,"a!":2,"a\u0001":3,"a#":4}`, `{"a\u0001":3,"a!":2,"a\"":1,"a#":4}`},
		{`{"\\":1,"]":2,"[":3}`, `{"[":3,"\\":1,"]":2}`},
		{`{"😀":1,"":2}`, `{"":2,"😀":1}`}, // by code point; the order by UTF-16 units would be the opposite
		{`{"z":{"b":1,"a":[{"d":1,"c":2}]},"":0}`, `{"":0,"z":{"a":[{"c":2,"d":1}],"b":1}}`},
		{`-0`, `0`}, {`9007199254740991`, `9007199254740991`}, {`-9007199254740991`, `-9007199254740991`},
		{`true`, `true`}, {"\tfalse\r\n", `false`},
	} {
		for _, strict := range []bool{true, false} {
			got, err := Canonical([]byte(c.in), strict)
			if err != nil || string(got) != c.want {
				t.Errorf("Canonical(%s, %v) = %s, %v; want %s", c.in, strict, got, err, c.want)
			}
		}
	}
}

func TestStrictRefusesWhatLenientKeeps(t *testing.T) {
	for _, c := range []struct{ in, lenient, says string }{
		{`{"a":1.0}`, `{"a":1.0}`, "1.0 is not a plain integer"},
		{`{"a":1.5e3}`, `{"a":1.5e3}`, "1.5e3"},
		{`[1E3]`, `[1000]`, "1E3 is not a plain integer"},
		{`[9007199254740991e0]`, `[9007199254740991]`, "9007199254740991e0"},
		{`[10e-1]`, `[1]`, "10e-1"},
		{`[1e-1]`, `[1e-1]`, "1e-1"},
		{`[1e-400]`, `[1e-400]`, "1e-400"},
		{`[0e5]`, `[0]`, "0e5"},
		{`[1e16]`, `[1e16]`, "1e16"},
		{`[1e400]`, `[1e400]`, "1e400"},
		{`[-0.0]`, `[-0.0]`, "-0.0"},
		{`[9007199254740992]`, `[9007199254740992]`, "2^53-1"},
		{`[-9007199254740992]`, `[-9007199254740992]`, "2^53-1"},
		{`[123456789012345678901234567890]`, `[123456789012345678901234567890]`, "2^53-1"},
		{`{"b":1,"a":2,"b":3}`, `{"a":2,"b":3}`, `duplicate key "b"`},
		{`{"x":[{"a":1,"\u0061":2,"a":3}]}`, `{"x":[{"a":3}]}`, `duplicate key "a"`},
	} {
		got, err := Canonical([]byte(c.in), false)
		if err != nil || string(got) != c.lenient {
			t.Errorf("lenient %s = %s, %v; want %s", c.in, got, err, c.lenient)
		}
		_, err = Canonical([]byte(c.in), true)
		if !errors.Is(err, ErrNotCanonical) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("strict %s: error %v, want one that says %s", c.in, err, c.says)
		}
	}
}

func TestInvalidJSONIsRefused(t *testing.T) {
	for _, in := range []string{
		``, ` `, `{`, `}`, `[`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{,"a":1}`, `{"a":1 "b":2}`, `[1,]`, `[,1]`, `[1 2]`, `[1}`, `{"a":1]`,
		`{a:1}`, `{1:1}`, `01`, `-`, `-01`, `+1`, `.5`, `1.`, `1.e5`, `1e`, `1e+`, `0x1`, `NaN`, `Infinity`, `tru`, `nul`, `True`, `truefalse`,
		`"`, `"abc`, `"\`, `"\"`, `"\x"`, `"\u12"`, `"\u12G4"`, `"\ud800"`, `"\udc00"`, `"\ud800\u0041"`, `"\ud800\ud800"`, `"\ud800x"`, `"\u12`, `"\u123`, `"\ud83dxude00"`, `"\ud83d\ude0"`,
		"\"\n\"", "\"\x00\"", "\x00", "\"\xff\"", "\"\xed\xa0\x80\"", `{}{}`, `{} x`, "{}\x00", `'a'`, `/**/1`, "\ufeff{}",
	} {
		for _, strict := range []bool{true, false} {
			got, err := Canonical(slices.Clip([]byte(in)), strict)
			if !errors.Is(err, ErrSyntax) {
				t.Errorf("Canonical(%q, %v) = %s, %v; want a syntax error", in, strict, got, err)
			}
		}
	}
}

func TestNestingIsBounded(t *testing.T) {
	nest := func(n int, open, shut string) []byte {
		return []byte(strings.Repeat(open, n) + "1" + strings.Repeat(shut, n))
	}
	for _, c := range []struct{ open, shut string }{{"[", "]"}, {`{"a":`, "}"}} {
		if _, err := Canonical(nest(MaxDepth, c.open, c.shut), true); err != nil {
			t.Errorf("%d levels of %s: %v", MaxDepth, c.open, err)
		}
		for _, n := range []int{MaxDepth + 1, 1_000_000} {
			if _, err := Canonical(nest(n, c.open, c.shut), true); !errors.Is(err, ErrSyntax) {
				t.Errorf("%d levels of %s: error %v, want a syntax error", n, c.open, err)
			}
		}
		if _, err := AppendEnvelope(nil, nest(maxEnvelopeDepth, c.open, c.shut), nil); err != nil {
			t.Errorf("%d levels of %s around what is signed: %v", maxEnvelopeDepth, c.open, err)
		}
		if _, err := AppendEnvelope(nil, nest(maxEnvelopeDepth+1, c.open, c.shut), nil); !errors.Is(err, ErrSyntax) {
			t.Errorf("%d levels of %s around what is signed: %v, want a syntax error", maxEnvelopeDepth+1, c.open, err)
		}
	}
}

func TestErrorsQuoteLittleOfTheText(t *testing.T) {
	_, err := Canonical([]byte(`{"`+strings.Repeat("é", 5000)+`":1,"`+strings.Repeat("é", 5000)+`":2}`), true)
	if err == nil || len(err.Error()) > 200 {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
	for length, want := range map[int]string{64: strings.Repeat("7", 64) + " is", 65: strings.Repeat("7", 64) + "… is"} {
		if _, err := Canonical([]byte(strings.Repeat("7", length)), true); err == nil || !strings.Contains(err.Error(), "integer "+want) {
			t.Errorf("an integer of %d digits: %v", length, err)
		}
	}
}

func TestAppendCanonicalKeepsExistingBytes(t *testing.T) {
	got, err := AppendCanonical([]byte(`{"content":`), []byte(`{"b":1,"a":{"d":1,"c":1,"d":2}}`), false)
	if want := `{"content":{"a":{"c":1,"d":2},"b":1}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	got, err = AppendCanonical([]byte(`kept`), []byte(`{"b":1,"a":[}`), true)
	if err == nil || string(got) != "kept" {
		t.Errorf("after an error: %s, %v", got, err)
	}
}

// The encoder gives the same result as a slow one that uses maps, and leaves its own output unchanged.
func TestCanonicalEqualsANaiveEncoderOnRandomValues(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		value := randomValue(rng, 0)
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		want := naive(value)
		got, err := Canonical(text, true)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("Canonical(%s) = %s, %v; want %s", text, got, err, want)
		}
		if again, err := Canonical(got, true); err != nil || !bytes.Equal(again, got) {
			t.Fatalf("not idempotent: %s, then %s, %v", got, again, err)
		}
	}
}

// Large objects are sorted by another algorithm than small ones.
func TestObjectsWithManyMembersAreSorted(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for name, key := range map[string]func() string{
		"random keys":               func() string { return fmt.Sprintf("%x", rng.Uint64()) },
		"short keys":                func() string { return fmt.Sprintf("%x", rng.IntN(1000)) },
		"keys with a common prefix": func() string { return fmt.Sprintf("the same prefix %x", rng.Uint32()) },
		"a few prefixes":            func() string { return fmt.Sprintf("prefix %d %x", rng.IntN(3), rng.Uint32()) },
		"escaped keys":              func() string { return randomKeys[rng.IntN(len(randomKeys))] + fmt.Sprintf("\n%x", rng.Uint32()) },
	} {
		for _, members := range []int{manyMembers - 1, manyMembers, manyMembers + 1, 3 * manyMembers} {
			text, values := []byte("{"), map[string]any{}
			for i := range members {
				k := key()
				if values[k] = json.Number(fmt.Sprint(i)); i > 0 { // of duplicate keys the last one counts
					text = append(text, ',')
				}
				text = fmt.Appendf(AppendString(text, k), ":%d", i)
			}
			got, err := Canonical(append(text, '}'), false)
			if err != nil || !bytes.Equal(got, naive(values)) {
				t.Errorf("%d members, %s: %.200s, %v", members, name, got, err)
			}
		}
	}
}

var randomKeys = []string{"a", "b", "", "a\"", "a\\", "\x01", "é", "日", "😀", "\ue000", "zz", "type", "A", "a/b", "\x7f"}

func randomValue(rng *rand.Rand, depth int) any {
	kind := rng.IntN(7)
	if depth > 4 {
		kind = rng.IntN(5)
	}
	switch kind {
	case 0:
		return nil
	case 1:
		return rng.IntN(2) == 0
	case 2:
		return rng.Int64N(2*MaxInt+1) - MaxInt
	case 3, 4:
		return randomKeys[rng.IntN(len(randomKeys))] + randomKeys[rng.IntN(len(randomKeys))]
	case 5:
		list := make([]any, rng.IntN(4))
		for i := range list {
			list[i] = randomValue(rng, depth+1)
		}
		return list
	}
	object := map[string]any{}
	for range rng.IntN(30) {
		object[randomKeys[rng.IntN(len(randomKeys))]+randomKeys[rng.IntN(len(randomKeys))]] = randomValue(rng, depth+1)
	}
	return object
}

func naive(value any) []byte {
	switch value := value.(type) {
	case string:
		return AppendString(nil, value)
	case []any:
		parts := [][]byte{}
		for _, item := range value {
			parts = append(parts, naive(item))
		}
		return slices.Concat([]byte("["), bytes.Join(parts, []byte(",")), []byte("]"))
	case map[string]any:
		keys := []string{}
		for key := range value {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		parts := [][]byte{}
		for _, key := range keys {
			parts = append(parts, slices.Concat(AppendString(nil, key), []byte(":"), naive(value[key])))
		}
		return slices.Concat([]byte("{"), bytes.Join(parts, []byte(",")), []byte("}"))
	}
	text, _ := json.Marshal(value)
	return text
}

func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{`{}`, `{"b":[1,-0,{"a":"\u00e9\ud83d\ude00"}],"a":null}`, `{"a":1,"a":2}`, `[1e5,1.5,12345678901234567890]`, `"\ud800"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		lenient, err := Canonical(raw, false)
		strict, strictErr := Canonical(raw, true)
		if !bytes.Equal(raw, before) {
			t.Fatal("the input was written to")
		}
		if err != nil {
			if strictErr == nil {
				t.Fatalf("strict accepts what lenient refuses: %v", err)
			}
			return
		}
		if !json.Valid(lenient) || !json.Valid(raw) {
			t.Fatalf("%q is not JSON, made of %q", lenient, raw)
		}
		if again, err := Canonical(lenient, false); err != nil || !bytes.Equal(again, lenient) {
			t.Fatalf("not idempotent: %q, then %q, %v", lenient, again, err)
		}
		if strictErr == nil && !bytes.Equal(strict, lenient) {
			t.Fatalf("strict %q, lenient %q", strict, lenient)
		}
		if strictErr == nil && !bytes.Equal(strict, naive(decode(t, strict))) {
			t.Fatalf("%q is not what a naive encoder writes", strict)
		}
	})
}

func decode(t *testing.T, text []byte) any {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestEnvelopeMayContainNonCanonicalJSON(t *testing.T) {
	deep := []byte(`{"pdus":[` + strings.Repeat(`{"a":`, 500) + `1e999` + strings.Repeat(`}`, 500) + `]}`)
	if got, err := AppendEnvelope(nil, deep, nil); err != nil || !bytes.Equal(got, deep) {
		t.Errorf("%.60s %v", got, err)
	}
	if _, err := Canonical(deep, false); err == nil {
		t.Error("it is canonical by itself")
	}
	endless := strings.Repeat(`[`, 100_000)
	if _, err := AppendEnvelope(nil, []byte(endless), nil); err == nil {
		t.Error("an endless nesting is read")
	}
}
