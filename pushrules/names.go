package pushrules

import (
	"slices"
	"strings"
	"unicode/utf8"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
)

// Names is an index of the display names of a room's local members. It finds the names that occur in a text without
// trying every name. It is not safe for concurrent use. A nil *Names ignores changes and finds nobody.
type Names struct {
	byToken map[string][]person      // people by the first token of their names
	tokens  map[ident.UserNID]string // the first token of a user's name, by user nid
}

type person struct {
	nid  ident.UserNID
	id   id.UserID
	name string // in lower case
}

// NewNames returns an empty index.
func NewNames() *Names {
	return &Names{byToken: map[string][]person{}, tokens: map[ident.UserNID]string{}}
}

// Set replaces a user's display name. An empty or very long name is not indexed.
func (n *Names) Set(nid ident.UserNID, user id.UserID, name string) {
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

// Drop removes a user from the index.
func (n *Names) Drop(nid ident.UserNID) {
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

// Size returns the approximate memory use of the index in bytes.
func (n *Names) Size() int64 {
	if n == nil {
		return 0
	}
	return int64(len(n.tokens)) * nameSize
}

// nameSize is the approximate memory use of one name, in bytes.
const nameSize = 200

// maxNameTries bounds how many names are compared with one text. Many names may begin with the same token, and a text
// may repeat that token many times. 20,000 comparisons take about a millisecond.
const maxNameTries = 20_000

// In calls f for every user whose display name occurs in a lower-case text between word boundaries. It may call f
// several times for the same user.
func (n *Names) In(text string, f func(nid ident.UserNID, user id.UserID)) {
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

// firstToken returns the run of word characters at the start of a text, or its first character if that is not a word
// character. A name that begins at a word boundary begins where a token begins.
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
