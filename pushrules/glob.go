package pushrules

import (
	"strings"
	"unicode/utf8"
)

// maxPattern bounds a glob pattern, in bytes.
const maxPattern = 512

// glob matches with `*` and `?`, without regard to case. A pattern with wildcards is run as a set of the places in it that
// the text so far can have led to, 64 of them to a word: the time is that of one pass over the text, whatever the pattern.
// Spec: appendices#glob-style-matching
type glob struct {
	plain string // the pattern in lower case where it has no wildcards

	wild  bool
	steps int               // characters to match, stars left out
	loops []uint64          // places that a star keeps: any character may follow there
	any   []uint64          // places at a `?`
	next  map[rune][]uint64 // places at a character of the pattern, those of any included
}

func compileGlob(pattern string) *glob {
	pattern = strings.ToLower(pattern)
	if !strings.ContainsAny(pattern, "*?") {
		return &glob{plain: pattern}
	}
	words := utf8.RuneCountInString(pattern)/64 + 1
	g := &glob{wild: true, loops: make([]uint64, words), any: make([]uint64, words), next: map[rune][]uint64{}}
	for _, c := range pattern {
		switch c {
		case '*':
			setBit(g.loops, g.steps)
			continue
		case '?':
			setBit(g.any, g.steps)
		default:
			if g.next[c] == nil {
				g.next[c] = make([]uint64, words)
			}
			setBit(g.next[c], g.steps)
		}
		g.steps++
	}
	for _, places := range g.next {
		for i := range places {
			places[i] |= g.any[i]
		}
	}
	return g
}

func setBit(set []uint64, i int)      { set[i/64] |= 1 << (i % 64) }
func hasBit(set []uint64, i int) bool { return set[i/64]>>(i%64)&1 == 1 }

// whole reports whether the pattern matches all of a text in lower case.
func (g *glob) whole(text string) bool {
	if !g.wild {
		return text == g.plain
	}
	at := make([]uint64, len(g.any))
	setBit(at, 0)
	for _, c := range text {
		if !g.advance(at, c) {
			return false
		}
	}
	return hasBit(at, g.steps)
}

// word reports whether the pattern matches a part of a text in lower case that starts and ends at a word boundary.
func (g *glob) word(text string) bool {
	if !g.wild {
		return containsWord(text, g.plain)
	}
	at := make([]uint64, len(g.any))
	for i, c := range text {
		if boundary(text, i) {
			if setBit(at, 0); hasBit(at, g.steps) {
				return true
			}
		}
		g.advance(at, c)
	}
	return g.steps == 0 || hasBit(at, g.steps)
}

// advance takes one character in and reports whether a match is still possible.
func (g *glob) advance(at []uint64, c rune) (alive bool) {
	places, ok := g.next[c]
	if !ok {
		places = g.any
	}
	carry := uint64(0)
	for i, w := range at {
		moved := w & places[i]
		at[i] = moved<<1 | carry | w&g.loops[i]
		carry = moved >> 63
		alive = alive || at[i] != 0
	}
	return alive
}

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

// Glob is a pattern for whole texts, such as an entry of a server access control list.
type Glob struct{ g *glob }

// CompileGlob reads a pattern with `*` and `?`; upper and lower case are one.
func CompileGlob(pattern string) Glob { return Glob{compileGlob(pattern)} }

// Match tells whether the pattern matches all of a text.
func (g Glob) Match(text string) bool { return g.g.whole(strings.ToLower(text)) }
