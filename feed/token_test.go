package feed

import (
	"math"
	"testing"
)

func TestTokenSurvivesItsText(t *testing.T) {
	for _, want := range []Token{
		{},
		{Pos: 1, Epoch: 2, Typing: 3, Presence: 4, ToDevice: 1, Sticky: 1},
		{Pos: 9, Epoch: 2, ToDevice: 7, Sticky: 9}, {Pos: 9, Epoch: 2, ToDevice: 9, Sticky: 7}, {Pos: 9, Epoch: 2, ToDevice: 7, Sticky: 8},
		{Pos: 77, Epoch: 1, Typing: 5, Active: true, Presence: 6, Chain: 0xabc, ToDevice: 70},
		{Pos: math.MaxInt64, Epoch: math.MaxUint32, Typing: math.MaxInt64, Active: true, Presence: math.MaxInt64, Chain: math.MaxUint32},
	} {
		got, err := ParseToken(text(want))
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v; want %+v", text(want), got, err, want)
		}
		if len(text(want)) > maxTokenLength {
			t.Errorf("%s has %d bytes, more than ParseToken reads", text(want), len(text(want)))
		}
	}
}

// text returns the text of a token.
func text(tok Token) string { return string(tok.append(nil)) }

func TestGarbageIsNoToken(t *testing.T) {
	for _, text := range []string{
		"", "s1_", "s1", "t5", "s1_1_2_3_4", "s1_1_2_3_4_5_6", "s1_5_2_3_4_5_5", "s1_5_2_3_4_5_-1", "s1_5_2_3_4_5_1_5", "s1_5_2_3_4_5_1_6", "s1_5_2_3_4_5_1_-1", "s1_5_2_3_4_5_1_1_1", "s2_1_2_3_4_5", "s1_-1_2_3_4_5", "s1_1_2_-3_4_5", "s1_01_2_3_4_5", "s1_+1_2_3_4_5",
		"s1_1_FF_3_4_5", "s1_1_100000000_3_4_5", "s1_99999999999999999999_1_1_1_1", "s1_1_1_1aa_1_1", "s1_1_1_a_1_1", " s1_1_2_3_4_5", "s1_1_2_3_4_5\n",
		"s1_1_2_3_4_5\x00", "s1_1_2_3_4_100000000", "s72594_4483_1934", "s1_" + string(make([]byte, 1<<16)),
	} {
		if tok, err := ParseToken(text); err == nil {
			t.Errorf("%.40q was read as %+v", text, tok)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	for _, seed := range []string{"s1_1_2_3_4_5", "s1_9_2_3_4_5_6", "s1_9_2_3_4_5_6_7", "s1_12_ff_3a_4_5", "s1__", "t12", "s1_0_0_0_0_0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, given string) {
		if tok, err := ParseToken(given); err == nil && text(tok) != given {
			t.Fatalf("%q was read as %+v, whose text is %q", given, tok, text(tok))
		}
	})
}
