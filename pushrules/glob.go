package pushrules

import (
	"strings"
	"unicode/utf8"
)

// maxPattern bounds a glob pattern, in bytes.
const maxPattern = 512

// glob is a pattern in which `*` matches any number of characters and `?` matches one. It ignores case.
//
// A pattern with wildcards is compiled to a nondeterministic automaton. State i means that the first i characters of
// the pattern, not counting stars, have matched. A set of states is a bit set, so matching takes one pass over the text
// for any pattern.
//
// Spec: appendices#glob-style-matching
type glob struct {
	plain string // the lower-case pattern if it has no wildcards

	wild  bool
	steps int               // the final state: the number of characters in the pattern, not counting stars
	loops []uint64          // states with a star, which stay active on any character
	any   []uint64          // states that any character advances: those at a `?`
	next  map[rune][]uint64 // states that a character of the pattern leads to, including any
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
	for _, states := range g.next {
		for i := range states {
			states[i] |= g.any[i]
		}
	}
	return g
}

func setBit(set []uint64, i int)      { set[i/64] |= 1 << (i % 64) }
func hasBit(set []uint64, i int) bool { return set[i/64]>>(i%64)&1 == 1 }

// whole reports whether the pattern matches an entire lower-case text.
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

// word reports whether the pattern matches some part of a lower-case text. The part must start and end at word
// boundaries.
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

// advance updates the active states for the next character and reports whether any is left.
func (g *glob) advance(at []uint64, c rune) (alive bool) {
	states, ok := g.next[c]
	if !ok {
		states = g.any
	}
	carry := uint64(0)
	for i, w := range at {
		moved := w & states[i]
		at[i] = moved<<1 | carry | w&g.loops[i]
		carry = moved >> 63
		alive = alive || at[i] != 0
	}
	return alive
}

// boundary reports whether offset i of a text is a word boundary: the start or end of the text, or next to a character
// outside [A-Za-z0-9_].
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

// Glob is a pattern that matches whole texts, such as an entry of a server access control list.
type Glob struct{ g *glob }

// CompileGlob compiles a pattern with the wildcards `*` and `?`, which ignores case. A pattern of more than maxPattern
// bytes matches nothing: its automaton would take memory in proportion to the square of its length.
func CompileGlob(pattern string) Glob {
	if len(pattern) > maxPattern {
		return Glob{}
	}
	return Glob{compileGlob(pattern)}
}

// Size estimates the memory that the pattern takes.
func (g Glob) Size() int64 {
	if g.g == nil {
		return 0
	}
	return int64(160 + len(g.g.plain) + len(g.g.next)*(64+8*len(g.g.any)))
}

// Match reports whether the pattern matches the whole text.
func (g Glob) Match(text string) bool { return g.g != nil && g.g.whole(strings.ToLower(text)) }
