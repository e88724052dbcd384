package words

import (
	"slices"
	"strings"
	"testing"
)

var testKey = []byte("0123456789abcdef")

func TestTextIsSplitIntoFoldedWords(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"Hello, World!", "hello|world"},
		{"don't foo_bar a-b 3.14", "don|t|foo|bar|a|b|3|14"},
		{"Ünïcödé CAFÉ café", "unicode|cafe|cafe"},
		{"Straße STRASSE", "strasse|strasse"},
		{"Łódź Øre Æsir İstanbul ısı", "lodz|ore|aesir|istanbul|isi"},
		{"ΣΊΣΥΦΟΣ σίσυφος", "σισυφοσ|σισυφοσ"},
		{"Ёлка елка Йод", "елка|елка|иод"},
		{"Ｆｕｌｌ ﬁne", "full|fine"},
		{"مُحَمَّد محمد أحمد", "محمد|محمد|احمد"},
		{"שָׁלוֹם", "שלום"},
		{"हिन्दी हन्द", "हिन्दी|हन्द"}, // marks are vowels here
		{"東京タワー", "東|+京|+タ|+ワ|+ー"},
		{"東京。大阪", "東|+京|大|+阪"},
		{"ｶﾞｽ ガス", "ガ|+ス|ガ|+ス"},
		{"iPhone手机 好", "iphone|手|+机|好"},
		{"한국어를", "한|+국|+어|+를"},
		{"한", "한"}, // written in three parts
		{"สวัสดี", "ส|+วั|+ส|+ดี"},
		{"done 🎉👍🏽!", "done|🎉|👍"},
		{"❤️ ❤", "❤|❤"},
		{"e\u0301te\u0301", "ete"},
		{"\xff\xfeabc\x00def", "abc|def"},
	} {
		var got []string
		var s Scanner
		for s.Reset(c.text); s.Next(); {
			w := string(s.Term)
			if s.Joined {
				w = "+" + w
			}
			got = append(got, w)
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("%q is split into %q, want %q", c.text, got, c.want)
		}
	}
}

func TestNamesThatLookAlikeFoldToTheSame(t *testing.T) {
	for _, c := range [][2]string{{"José  Núñez", "jose nunez"}, {"Ann-Marie", "ann marie"}, {"東京 Bob", "東京 bob"}, {"", ""}} {
		if got := Fold(c[0]); got != c[1] {
			t.Errorf("%q folds to %q, want %q", c[0], got, c[1])
		}
	}
}

func TestQueriesMatchTextWithAllTheirPhrases(t *testing.T) {
	for _, c := range []struct {
		query, text string
		want        bool
	}{
		{"hello", "Hello there", true},
		{"hell", "Hello there", false}, // whole words only
		{"there hello", "Hello there", true},
		{"hello missing", "Hello there", false},
		{`"hello there"`, "Hello, there", true},
		{`"there hello"`, "Hello there", false},
		{`one "b c" two`, "two a b c one", true},
		{`"b c`, "b x c", false}, // the quote is not closed
		{"cafe", "Un CAFÉ", true},
		{"CAFÉ", "cafe", true},
		{"京都", "東京都", true},
		{"東都", "東京都", false},
		{"京 東", "東京", true},
		{"猫", "黒猫が", true},
		{"東京", "東。京", false},
		{"🎉", "done 🎉", true},
		{"", "anything", false},
		{"!!!", "!!!", false},
	} {
		q, ok := Parse(c.query)
		if !ok {
			t.Fatalf("%q has too many words", c.query)
		}
		if got := q.Matcher().Match(c.text); got != c.want {
			t.Errorf("%q matches %q: %v, want %v", c.query, c.text, got, c.want)
		}
	}
}

func TestTextThatMatchesHasTheTermsOfTheQuery(t *testing.T) {
	h := NewHasher(testKey)
	for _, c := range [][2]string{{"hello there", "There: hello!"}, {"京都", "東京都"}, {"猫", "黒猫が"}, {`"b c"`, "a B c"}, {"ﬁne", "FINE"}} {
		q, _ := Parse(c[0])
		terms, _ := h.Terms(nil, c[1])
		for _, term := range q.Terms(h) {
			if !slices.Contains(terms, term) {
				t.Errorf("%q lacks a term of %q", c[1], c[0])
			}
		}
	}
}

func TestHighlightsAreTheWordsAsTheyAreWritten(t *testing.T) {
	q, _ := Parse(`cafe 東京 "au lait"`)
	m := q.Matcher()
	if !m.Match("東京の Café: AU  lait") {
		t.Fatal("no match")
	}
	if want := []string{"cafe", "東京", "au lait", "Café", "AU  lait"}; !slices.Equal(m.Highlights(), want) {
		t.Errorf("highlights are %q, want %q", m.Highlights(), want)
	}
}

func TestQueriesAreBounded(t *testing.T) {
	if _, ok := Parse(strings.Repeat("word ", maxQueryTokens+1)); ok {
		t.Error("a query with too many words is accepted")
	}
	q, ok := Parse(strings.Repeat("abcdefghijklmnopqrstuvwxyz", 1000))
	if !ok || len(q.Terms(NewHasher(testKey))) != 1 {
		t.Error("a query of one long word is refused")
	}
	var many []string
	for i := range maxQueryTokens {
		many = append(many, strings.Repeat("x", i+1))
	}
	if q, ok = Parse(strings.Join(many, " ")); !ok || len(q.Terms(NewHasher(testKey))) != maxQueryTerms {
		t.Error("the terms of a query are not bounded")
	}
}

func TestShortTextsRankAboveLongOnes(t *testing.T) {
	q, _ := Parse("two words")
	h := NewHasher(testKey)
	before := 2.0
	for _, text := range []string{"two words", "two words more", "two words more and more", strings.Repeat("two words ", 40), strings.Repeat("two words ", 4000)} {
		_, size := h.Terms(nil, text)
		if rank := q.Rank(size); rank > before || rank <= 0 || rank > 1 {
			t.Errorf("%d bytes have rank %v, shorter text has %v", len(text), rank, before)
		} else {
			before = rank
		}
	}
}

// Whatever the text is, it is found by each of its own words, by its beginning, and folding is stable.
func FuzzWords(f *testing.F) {
	for _, text := range []string{"Hello, World", "東京タワー", "ｶﾞｽ", "e\u0301", "ßŒİ", "सि", "👩‍👩‍👧", "\xff", "ŉǰΐ", "㎯½ﷺ"} {
		f.Add(text)
	}
	h := NewHasher(testKey)
	f.Fuzz(func(t *testing.T, text string) {
		terms, size := h.Terms(nil, text)
		if !slices.IsSorted(terms) || size >= Sizes {
			t.Fatalf("terms %v, size %d", terms, size)
		}
		var s Scanner
		var own []string
		for s.Reset(text); s.Next(); {
			if s.Start >= s.End || s.End > len(s.Text()) || len(s.Term) == 0 {
				t.Fatalf("token %d to %d of %q", s.Start, s.End, s.Text())
			}
			own = append(own, s.Text()[s.Start:s.End])
		}
		for _, word := range own[:min(len(own), 8)] {
			q, ok := Parse(word)
			if !ok || len(q.phrases) == 0 {
				continue // the word folds to several, or to too many
			}
			if !q.Matcher().Match(text) {
				t.Fatalf("%q does not match %q, which has it", word, text)
			}
			for _, term := range q.Terms(h) {
				if !slices.Contains(terms, term) {
					t.Fatalf("%q lacks the term of %q", text, word)
				}
			}
		}
	})
}

func BenchmarkTerms(b *testing.B) {
	h := NewHasher(testKey)
	for name, text := range map[string]string{
		"latin":  "We could meet at the station at nine and walk from there, if the rain stops.",
		"french": "On pourrait se retrouver à la gare à neuf heures et marcher, si la pluie s'arrête.",
		"cjk":    "雨が止んだら、九時に駅で待ち合わせて、そこから歩いて行きましょう。",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var dst []uint32
			for b.Loop() {
				dst, _ = h.Terms(dst[:0], text)
			}
		})
	}
}
