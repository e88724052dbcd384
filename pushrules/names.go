package pushrules

import (
	"slices"
	"strings"
	"unicode/utf8"

	"maunium.net/go/mautrix/id"
)

// Names finds those of a room's local members whose display names stand in a text, without trying every name. It is not
// safe for concurrent use. A nil *Names ignores what it is told and finds nobody.
type Names struct {
	byToken map[string][]person // the first token of the name → who has such a name
	tokens  map[int64]string    // user nid → the token that the user is under
}

type person struct {
	nid  int64
	id   id.UserID
	name string // in lower case
}

// NewNames returns an index of no names.
func NewNames() *Names { return &Names{byToken: map[string][]person{}, tokens: map[int64]string{}} }

// Set makes known what a user is called now.
func (n *Names) Set(nid int64, user id.UserID, name string) {
	if n == nil {
		return
	}
	n.Drop(nid)
	name = strings.ToLower(name)
	if name == "" || len(name) > maxPattern {
		return
	}
	token := firstToken(name)
	n.tokens[nid] = token
	n.byToken[token] = append(n.byToken[token], person{nid, user, name})
}

// Drop forgets a user.
func (n *Names) Drop(nid int64) {
	if n == nil {
		return
	}
	token, known := n.tokens[nid]
	if !known {
		return
	}
	delete(n.tokens, nid)
	n.byToken[token] = slices.DeleteFunc(n.byToken[token], func(p person) bool { return p.nid == nid })
	if len(n.byToken[token]) == 0 {
		delete(n.byToken, token)
	}
}

// Size is about how many bytes the index takes.
func (n *Names) Size() int64 {
	if n == nil {
		return 0
	}
	return int64(len(n.tokens)) * 200
}

// maxNameTries bounds the names that are compared with one text: hundreds of people may be called alike, and a text may
// repeat what their names begin with. 20,000 comparisons take about a millisecond.
const maxNameTries = 20_000

// In calls f for every user whose display name stands in a text, between word boundaries. The text is in lower case. A
// user may be found several times.
func (n *Names) In(text string, f func(nid int64, user id.UserID)) {
	if n == nil || len(n.byToken) == 0 {
		return
	}
	tries := maxNameTries
	for at := 0; at < len(text); {
		token := firstToken(text[at:])
		for _, p := range n.byToken[token] {
			if tries--; tries < 0 {
				return
			}
			if strings.HasPrefix(text[at:], p.name) && boundary(text, at+len(p.name)) {
				f(p.nid, p.id)
			}
		}
		at += len(token)
	}
}

// firstToken is the run of word characters that a text begins with, or its first other character. A name that stands
// between word boundaries begins where a token does.
func firstToken(text string) string {
	i := 0
	for i < len(text) && wordByte(text[i]) {
		i++
	}
	if i == 0 {
		_, i = utf8.DecodeRuneInString(text)
	}
	return text[:i]
}
