package pushrules

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// matchesNaively implements the definition of a glob, in exponential time. p and t are runes; ? matches any one, and *
// any number.
func matchesNaively(p, t []rune) bool {
	switch {
	case len(p) == 0:
		return len(t) == 0
	case p[0] == '*':
		return matchesNaively(p[1:], t) || len(t) > 0 && matchesNaively(p, t[1:])
	case len(t) == 0:
		return false
	}
	return (p[0] == '?' || p[0] == t[0]) && matchesNaively(p[1:], t[1:])
}

// wordNaively tries every part of the text between two boundaries.
func wordNaively(p, text string) bool {
	t := []rune(text)
	word := func(c rune) bool { return c < 128 && wordByte(byte(c)) }
	boundary := func(i int) bool { return i == 0 || i == len(t) || !word(t[i-1]) || !word(t[i]) }
	for i := range len(t) + 1 {
		for j := i; j <= len(t); j++ {
			if boundary(i) && boundary(j) && matchesNaively([]rune(p), t[i:j]) {
				return true
			}
		}
	}
	return false
}

func TestGlobAgreesWithItsDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	text := func(alphabet []rune, longest int) string {
		out := make([]rune, r.IntN(longest+1))
		for i := range out {
			out[i] = alphabet[r.IntN(len(alphabet))]
		}
		return string(out)
	}
	hits := [4]int{}
	for range 60_000 {
		pattern, s := text([]rune("ab*?é_ "), 6), text([]rune("abé_ -"), 8)
		g := compileGlob(pattern)
		if got, want := g.whole(s), matchesNaively([]rune(pattern), []rune(s)); got != want {
			t.Fatalf("%q matches %q: %v", pattern, s, got)
		} else if got {
			hits[0]++
		}
		if pattern == "" {
			continue // an empty keyword never matches
		}
		if got, want := g.word(s), wordNaively(pattern, s); got != want {
			t.Fatalf("%q is a word of %q: %v", pattern, s, got)
		} else if got {
			hits[1]++
		}
	}
	if hits[0] < 500 || hits[1] < 500 {
		t.Fatalf("too few matches to tell: %v", hits)
	}
}

func TestWordsEndAtNonWordCharacters(t *testing.T) {
	const inWords = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
	for c := range byte(128) {
		if got, want := containsWord("x"+string(rune(c)), "x"), !strings.ContainsRune(inWords, rune(c)); got != want {
			t.Errorf("x is a word before %q: %v", c, got)
		}
	}
}

func TestWordsThatMayBeLocalparts(t *testing.T) {
	for word, want := range map[string]bool{"a0z9": true, "0a9z": true, "_x": true, "é": false, "`": false, "{": false, ":": false} {
		if got := slices.Contains(slices.Collect(localparts(word)), word); got != want {
			t.Errorf("%q may be one: %v", word, got)
		}
	}
	for text, want := range map[string][]string{
		"hello bob.": {"hello", "bob", "bob."}, "-a.b-, ...": {"a.b", "-a.b-", "..."}, "": nil,
		strings.Repeat("a ", maxWords) + "b": slices.Repeat([]string{"a"}, maxWords),
	} {
		if got := slices.Collect(localparts(text)); !slices.Equal(got, want) {
			t.Errorf("%.20q: %.80q", text, got)
		}
	}
	for range localparts("bob. x") {
		break // the sequence stops when its consumer does
	}
}

func TestGlobOfMoreThan64Characters(t *testing.T) {
	pattern := strings.Repeat("ab?", 60) + "*z" // 181 steps: three words
	g := compileGlob(pattern)
	body := strings.Repeat("abx", 60)
	for text, want := range map[string]bool{body + "z": true, body + "--z": true, body: false, body[1:] + "z": false, "": false} {
		if got := g.whole(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
		if got := g.word("so " + text + " it is"); got != want {
			t.Errorf("word %q: %v", text, got)
		}
	}
}

func TestGlobIgnoresCase(t *testing.T) {
	if !compileGlob("LUNC?*").whole("lunch plans") || !compileGlob("EX*PLE").word("an example event") || !compileGlob("ex*ple").word("an exciting triple-whammy") {
		t.Error("the examples of the specification do not match")
	}
	if compileGlob("lunc?*").whole(" lunch") || compileGlob("lunc?*").whole("lunc") || compileGlob("cake").word("cakes") || compileGlob("cake").word("_cake") {
		t.Error("a counter-example matches")
	}
}

// The automaton of such a pattern would take gigabytes.
func TestGlobThatIsTooLongMatchesNothing(t *testing.T) {
	text := strings.Repeat("a", maxPattern)
	for pattern, want := range map[string]bool{text: true, text[1:] + "*": true, text + "a": false, text + "*": false} {
		g := CompileGlob(pattern)
		if g.Match(pattern) != want || (g.Size() > 0) != want || g.Size() > 1024 {
			t.Errorf("%d bytes: %v, which takes %d bytes", len(pattern), g.Match(pattern), g.Size())
		}
	}
}

// These patterns and texts would keep a backtracking matcher busy practically for ever.
func TestHostileGlobIsLinear(t *testing.T) {
	text := strings.Repeat("a ", 32<<10)
	start := time.Now()
	for _, pattern := range []string{
		strings.Repeat("a*", 255) + "b", strings.Repeat("*a", 255) + "b", strings.Repeat("?*", 255) + "b", strings.Repeat("*?a", 170) + "b",
	} {
		g := compileGlob(pattern)
		if g.whole(text) || g.word(text) {
			t.Errorf("%.10q matches", pattern)
		}
	}
	if took := time.Since(start); took > 5*time.Second { // measured: 20 ms
		t.Errorf("took %v", took)
	}
}
