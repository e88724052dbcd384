package push

import (
	"strings"
	"unicode/utf8"
)

// maxPattern bounds a glob pattern, in bytes.
const maxPattern = 512

// glob matches with `*` and `?`, without regard to case, in time linear in text × the number of stars' restarts (each
// restart moves forward only), never exponential.
// Spec: appendices#glob-style-matching
type glob struct{ pattern string } // lower case

func compileGlob(pattern string) glob { return glob{strings.ToLower(pattern)} }

// whole reports whether the pattern matches all of text.
func (g glob) whole(text string) bool { return globMatch(g.pattern, strings.ToLower(text)) }

// word reports whether the pattern matches a part of text that starts and ends at a word boundary.
func (g glob) word(text string) bool {
	text = strings.ToLower(text)
	if !strings.ContainsAny(g.pattern, "*?") {
		return containsWord(text, g.pattern)
	}
	// A star on either side makes the pattern free to end anywhere; the boundary then follows from the whole match of
	// "pattern surrounded by stars" at each boundary. Starts are bounded, so a long body costs at most maxStarts scans.
	starts := 0
	for i := range len(text) + 1 {
		if !boundary(text, i) {
			continue
		}
		if starts++; starts > maxStarts {
			return false
		}
		if prefixMatch(g.pattern, text[i:], func(end int) bool { return boundary(text, i+end) }) {
			return true
		}
	}
	return false
}

// maxStarts bounds the words of a body at which a pattern with wildcards is tried.
const maxStarts = 2000

// boundary: the start or end of the text, or next to a character outside [A-Za-z0-9_].
func boundary(text string, i int) bool {
	return i == 0 || i == len(text) || !wordByte(text[i-1]) || !wordByte(text[i])
}

func wordByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func containsWord(text, word string) bool {
	if word == "" {
		return false
	}
	for from := 0; ; {
		i := strings.Index(text[from:], word)
		if i < 0 {
			return false
		}
		i += from
		if boundary(text, i) && boundary(text, i+len(word)) {
			return true
		}
		from = i + 1
	}
}

// globMatch is the greedy two-pointer match: on failure only the latest star takes one more character.
func globMatch(pattern, text string) bool {
	p, t, star, mark := 0, 0, -1, 0
	for t < len(text) {
		_, size := utf8.DecodeRuneInString(text[t:])
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && pattern[p] == '?':
			p++
			t += size
		case p < len(pattern) && pattern[p] == text[t]:
			p++
			t++
		case star >= 0:
			_, skip := utf8.DecodeRuneInString(text[mark:])
			mark += skip
			p, t = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// prefixMatch reports whether the pattern matches some beginning of text whose end is accepted. It keeps the set of
// positions of the pattern that are possible, so it is linear in len(text) × len(pattern).
func prefixMatch(pattern, text string, accept func(end int) bool) bool {
	at := make([]bool, len(pattern)+1)
	next := make([]bool, len(pattern)+1)
	at[0] = true
	skipStars(pattern, at)
	for t := 0; ; {
		if at[len(pattern)] && accept(t) {
			return true
		}
		if t >= len(text) {
			return false
		}
		_, size := utf8.DecodeRuneInString(text[t:])
		alive := false
		clear(next)
		for p := range len(pattern) {
			if !at[p] {
				continue
			}
			if n, ok := step(pattern, p, text[t:t+size]); ok {
				next[n], alive = true, true
			}
		}
		if !alive {
			return false
		}
		at, next = next, at
		skipStars(pattern, at)
		t += size
	}
}

// step consumes one character of the text at position p of the pattern.
func step(pattern string, p int, char string) (next int, ok bool) {
	switch {
	case pattern[p] == '*':
		return p, true
	case pattern[p] == '?':
		return p + 1, true
	case strings.HasPrefix(pattern[p:], char):
		return p + len(char), true
	}
	return 0, false
}

func skipStars(pattern string, at []bool) {
	for p := range len(pattern) {
		if at[p] && pattern[p] == '*' {
			at[p+1] = true
		}
	}
}
