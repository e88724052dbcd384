package words

import (
	"slices"
	"strings"
)

const (
	// maxQueryTokens bounds the words of a query, since each is compared with every word of a text.
	maxQueryTokens = 64
	// maxQueryTerms bounds the terms that are looked up in the index. If a query has more, the others are only compared
	// with the text.
	maxQueryTerms = 16
	// maxHighlights bounds the words that are returned to be highlighted.
	maxHighlights = 100
)

// Query matches the texts that contain all of its phrases. It is immutable.
type Query struct {
	phrases []phrase
	tokens  int
	shown   []string // the words as the user wrote them
}

// phrase is a list of tokens that must follow each other in a text: a single word, several words in quotes, or joined
// characters (see Scanner.Joined).
type phrase []token

type token struct {
	text   string
	joined bool
}

// Parse parses a query. Words in double quotes must follow each other. It returns false if there are too many words.
func Parse(text string) (*Query, bool) {
	q := &Query{}
	var s Scanner
	for i, part := range strings.Split(text, `"`) {
		quoted := i%2 == 1
		begin := true
		for s.Reset(part); s.Next(); begin = false {
			if begin || !quoted && !s.Joined {
				q.phrases = append(q.phrases, nil)
				q.shown = append(q.shown, s.Text()[s.Start:s.End])
			} else {
				last := &q.shown[len(q.shown)-1]
				q.shown[len(q.shown)-1] = between(*last, s.Joined, s.Text()[s.Start:s.End])
			}
			last := len(q.phrases) - 1
			q.phrases[last] = append(q.phrases[last], token{string(s.Term), s.Joined})
			if q.tokens++; q.tokens > maxQueryTokens {
				return nil, false
			}
		}
	}
	return q, true
}

func between(before string, joined bool, after string) string {
	if joined {
		return before + after
	}
	return before + " " + after
}

// Terms returns terms that every matching text has, at most maxQueryTerms. For joined characters it returns the terms
// of the pairs rather than those of the single characters.
func (q *Query) Terms(h *Hasher) []uint32 {
	var out []uint32
	add := func(word string) {
		if t := h.term([]byte(word)); !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	for _, p := range q.phrases {
		for i, t := range p {
			if t.joined && i > 0 {
				add(p[i-1].text + t.text)
			} else if i+1 == len(p) || !p[i+1].joined {
				add(t.text)
			}
		}
	}
	return out[:min(len(out), maxQueryTerms)]
}

// Matcher decides which texts match a query, and collects the words to highlight in them. It must be used by one
// goroutine only.
type Matcher struct {
	q     *Query
	scan  Scanner
	found []token
	spans [][2]int
	seen  map[string]bool // highlights so far
	words []string
}

// Matcher returns a Matcher for the query. Its Highlights begin with the words of the query.
func (q *Query) Matcher() *Matcher {
	m := &Matcher{q: q, seen: map[string]bool{}}
	for _, w := range q.shown {
		m.highlight(w)
	}
	return m
}

// Match reports whether a text contains all phrases of the query. If so, it adds the phrases to Highlights as the text
// spells them.
func (m *Matcher) Match(text string) bool {
	m.found, m.spans = m.found[:0], m.spans[:0]
	for m.scan.Reset(text); m.scan.Next(); {
		m.found = append(m.found, token{string(m.scan.Term), m.scan.Joined})
		m.spans = append(m.spans, [2]int{m.scan.Start, m.scan.End})
	}
	at := make([]int, len(m.q.phrases))
	for i, p := range m.q.phrases {
		if at[i] = p.in(m.found); at[i] < 0 {
			return false
		}
	}
	for i, p := range m.q.phrases {
		m.highlight(m.scan.Text()[m.spans[at[i]][0]:m.spans[at[i]+len(p)-1][1]])
	}
	return len(m.q.phrases) > 0
}

// in returns the index in tokens at which the phrase occurs first, or -1 if it does not occur.
func (p phrase) in(tokens []token) int {
	for i := 0; i+len(p) <= len(tokens); i++ {
		if p.begins(tokens[i:]) {
			return i
		}
	}
	return -1
}

func (p phrase) begins(tokens []token) bool {
	for i, t := range p {
		if tokens[i].text != t.text || i > 0 && t.joined && !tokens[i].joined {
			return false
		}
	}
	return true
}

func (m *Matcher) highlight(word string) {
	if len(m.words) < maxHighlights && !m.seen[word] {
		m.seen[word] = true
		m.words = append(m.words, word)
	}
}

// Highlights returns the words of the query, followed by the spellings in which they occurred in matching texts.
func (m *Matcher) Highlights() []string { return m.words }
