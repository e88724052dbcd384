// Package mxc finds the media to which texts refer by mxc:// URIs.
package mxc

import (
	"bytes"
	"encoding/json"
	"slices"
)

// maxMediaRefs bounds the references that are stored for one text. An image pack with as many images as fit into an
// event has fewer.
const maxMediaRefs = 1000

// Name identifies media. Server is "" for media of this server.
type Name struct{ Server, ID string }

var scheme = []byte("mxc://")

// Any reports whether a text may refer to media.
func Any(text []byte) bool { return bytes.Contains(text, scheme) }

// In returns the media to which a text refers, each once, and at most maxMediaRefs. The text is canonical JSON, in
// which no character of an mxc URI is escaped. own is the name of this server.
func In(text []byte, own string) (found []Name) {
	seen := map[Name]bool{}
	for len(found) < maxMediaRefs {
		at := bytes.Index(text, scheme)
		if at < 0 {
			break
		}
		text = text[at+len(scheme):]
		server := text[:prefixOf(text, isServerNameByte)]
		rest := text[len(server):]
		if len(server) == 0 || len(rest) == 0 || rest[0] != '/' {
			continue
		}
		mediaID := rest[1 : 1+prefixOf(rest[1:], isMediaIDByte)]
		if len(mediaID) == 0 || len(mediaID) > maxMediaID || len(server) > maxMediaID {
			continue
		}
		name := Name{Server: string(server), ID: string(mediaID)}
		if name.Server == own {
			name.Server = ""
		}
		if !seen[name] {
			seen[name] = true
			found = append(found, name)
		}
	}
	return found
}

// maxMediaID is the length of the longest media ID, and of the longest server name, that counts as a reference.
const maxMediaID = 255

// prefixOf returns the length of the longest prefix of text whose bytes all satisfy is.
func prefixOf(text []byte, is func(byte) bool) int {
	if at := slices.IndexFunc(text, func(c byte) bool { return !is(c) }); at >= 0 {
		return at
	}
	return len(text)
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isMediaIDByte(c byte) bool { return isAlphanumeric(c) || c == '-' || c == '_' }

func isServerNameByte(c byte) bool {
	return isAlphanumeric(c) || c == '.' || c == '-' || c == ':' || c == '[' || c == ']'
}

// Unescaped returns the given JSON without escapes in mxc URIs. Account data and profiles are stored as clients send
// them, and some clients escape slashes.
func Unescaped(text string) []byte {
	raw := []byte(text)
	if !bytes.Contains(raw, []byte(`\`)) {
		return raw
	}
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return raw
	}
	plain, err := json.Marshal(v)
	if err != nil {
		return raw
	}
	return plain
}
