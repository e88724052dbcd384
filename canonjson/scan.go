package canonjson

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// Each calls f for each member of the object obj, in the order of the text, with its key and the bytes of its value. It
// stops at the first error from f and returns it. Key and value share memory with obj, which must not be modified while
// either is in use. Each does not validate values. If obj is not an object, it returns an error that wraps ErrSyntax.
func Each(obj []byte, f func(key string, raw []byte) error) error {
	s := scanner{src: obj}
	for s.next() {
		key, _ := Unquote(s.key)
		if err := f(key, s.value); err != nil {
			return err
		}
	}
	return s.err()
}

// Get returns the value of a member of the object obj, sharing its memory. It returns false if there is no such member
// or obj is not an object. If a key occurs more than once, Get returns the first value.
func Get(obj []byte, key string) (raw json.RawMessage, ok bool) {
	s := scanner{src: obj}
	for s.next() {
		if keyIs(s.key, key) {
			return s.value, true
		}
	}
	return nil, false
}

// Without returns a copy of the object obj without the given keys. The other members keep their text and order. If obj
// is not an object, Without returns an empty object.
func Without(obj []byte, keys ...string) []byte {
	out := append(make([]byte, 0, len(obj)), '{')
	s := scanner{src: obj}
	for s.next() {
		if !keyIn(s.key, keys) {
			out = appendMember(out, s.key, s.value)
		}
	}
	return append(out, '}')
}

// AppendWith appends to dst the canonical object obj with the member key set to value, which must be canonical too. The
// result is canonical.
func AppendWith(dst, obj []byte, key string, value []byte) []byte {
	dst = append(dst, '{')
	written := false
	quoted := AppendString(make([]byte, 0, 64), key)
	s := scanner{src: obj}
	for s.next() {
		if !written {
			order := compareKeys(quoted[1:len(quoted)-1], s.key[1:len(s.key)-1])
			if order <= 0 {
				dst, written = appendMember(dst, quoted, value), true
			}
			if order == 0 {
				continue // value replaces it
			}
		}
		dst = appendMember(dst, s.key, s.value)
	}
	if !written {
		dst = appendMember(dst, quoted, value)
	}
	return append(dst, '}')
}

// appendMember appends a member to the object at the end of dst, which has no closing brace yet.
func appendMember(dst, quotedKey, value []byte) []byte {
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	return append(append(append(dst, quotedKey...), ':'), value...)
}

// Elements returns the values of the array arr, sharing its memory. It returns false if arr is not an array.
func Elements(arr []byte) (values []json.RawMessage, ok bool) {
	pos := skipSpace(arr, 0)
	if pos >= len(arr) || arr[pos] != '[' {
		return nil, false
	}
	for pos = skipSpace(arr, pos+1); pos < len(arr) && arr[pos] != ']'; pos = skipSpace(arr, pos) {
		if len(values) > 0 {
			if arr[pos] != ',' {
				return nil, false
			}
			pos = skipSpace(arr, pos+1)
		}
		end := valueEnd(arr, pos)
		if end == -1 {
			return nil, false
		}
		values, pos = append(values, arr[pos:end:end]), end
	}
	return values, pos < len(arr)
}

// IsObject reports whether raw begins like a JSON object. It does not check that raw is valid.
func IsObject(raw []byte) bool {
	pos := skipSpace(raw, 0)
	return pos < len(raw) && raw[pos] == '{'
}

// String returns the value of a JSON string, or "" for any other value. The result may share memory with raw, like the
// result of Unquote.
func String(raw []byte) string {
	if s, ok := Unquote(raw); ok {
		return s
	}
	return ""
}

// Int returns the value of a JSON integer. It returns false for any other value and for integers beyond 64 bits.
func Int(raw []byte) (int64, bool) {
	if len(raw) == 0 || raw[0] == '+' || len(raw) > len("-9223372036854775808") {
		return 0, false
	}
	n, err := strconv.ParseInt(view(raw), 10, 64)
	return n, err == nil
}

// scanner iterates over the members of an object.
type scanner struct {
	src        []byte
	pos        int
	key, value []byte // the current member; the key includes its quotes
	bad        bool   // whether src is not an object
	begun      bool   // whether the opening brace has been read
}

// next advances to the next member and reports whether there is one.
func (s *scanner) next() bool {
	s.pos = skipSpace(s.src, s.pos)
	if s.pos >= len(s.src) {
		s.bad = true
		return false
	}
	c := s.src[s.pos]
	switch {
	case !s.begun && c == '{':
		s.begun = true
		s.pos = skipSpace(s.src, s.pos+1)
		if s.pos < len(s.src) && s.src[s.pos] == '}' {
			return false
		}
	case s.begun && c == ',':
		s.pos = skipSpace(s.src, s.pos+1)
	default:
		s.bad = !s.begun || c != '}'
		return false
	}
	s.bad = !s.member()
	return !s.bad
}

func (s *scanner) member() bool {
	keyEnd := stringEnd(s.src, s.pos)
	if keyEnd == -1 {
		return false
	}
	s.key = s.src[s.pos:keyEnd]
	colon := skipSpace(s.src, keyEnd)
	if colon >= len(s.src) || s.src[colon] != ':' {
		return false
	}
	start := skipSpace(s.src, colon+1)
	end := valueEnd(s.src, start)
	if end == -1 {
		return false
	}
	s.value, s.pos = s.src[start:end:end], end
	return true
}

func (s *scanner) err() error {
	if s.bad {
		return &Error{Kind: ErrSyntax, Offset: s.pos, Msg: "expected an object"}
	}
	return nil
}

// keyIs reports whether a quoted key stands for key.
func keyIs(quoted []byte, key string) bool {
	inside := quoted[1 : len(quoted)-1]
	return string(inside) == key && bytes.IndexByte(inside, '\\') < 0 ||
		bytes.IndexByte(inside, '\\') >= 0 && string(unescape(inside)) == key
}

func keyIn(quoted []byte, keys []string) bool {
	for _, key := range keys {
		if keyIs(quoted, key) {
			return true
		}
	}
	return false
}

func skipSpace(src []byte, pos int) int {
	for pos < len(src) && (src[pos] == ' ' || src[pos] == '\n' || src[pos] == '\t' || src[pos] == '\r') {
		pos++
	}
	return pos
}

// valueEnd returns the offset after the value at pos, or -1 if there is no complete value.
func valueEnd(src []byte, pos int) int {
	if pos >= len(src) {
		return -1
	}
	switch src[pos] {
	case '"':
		return stringEnd(src, pos)
	case '{', '[':
		return nestedEnd(src, pos)
	}
	end := pos
	for end < len(src) && !endsScalar(src[end]) {
		end++
	}
	if end == pos {
		return -1
	}
	return end
}

func endsScalar(c byte) bool {
	switch c {
	case ',', '}', ']', ':', '"', '{', '[', ' ', '\n', '\t', '\r':
		return true
	}
	return false
}

// nestedEnd returns the offset after the object or array at pos, or -1 if it does not end.
func nestedEnd(src []byte, pos int) int {
	for depth := 0; pos < len(src); pos++ {
		switch src[pos] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return pos + 1
			}
		case '"':
			end := stringEnd(src, pos)
			if end == -1 {
				return -1
			}
			pos = end - 1
		}
	}
	return -1
}

// stringEnd returns the offset after the closing quote of the string at pos, or -1 if there is no complete string.
func stringEnd(src []byte, pos int) int {
	if pos >= len(src) || src[pos] != '"' {
		return -1
	}
	for i := pos + 1; ; {
		n := bytes.IndexByte(src[i:], '"')
		if n < 0 {
			return -1
		}
		quote := i + n
		backslashes := 0
		for src[quote-1-backslashes] == '\\' {
			backslashes++
		}
		if backslashes%2 == 0 {
			return quote + 1
		}
		i = quote + 1
	}
}
