package canonjson

import (
	"bytes"
	"math"
	"strconv"
	"unicode/utf8"
)

// encoder reads src once and writes its canonical form to dst with members in the order of the text, so that sorted
// input takes one pass. A small object whose members are out of order is rewritten when it ends. A larger one is
// recorded in unsorted, and the large ones are sorted together in a second pass at the end, because rewriting them one
// by one would copy the innermost object once for each object around it.
type encoder struct {
	src      []byte
	pos      int
	strict   bool
	lenient  bool         // whether to allow maxEnvelopeDepth
	check    func() error // called at intervals; an error stops the encoding; may be nil
	checked  int          // the offset in src at which check was last called
	dst      []byte
	members  []member // stack of the members read so far of all objects that have not ended
	unsorted []object
	order    []span // members of the objects in unsorted, in the order of their keys
	scratch  []byte
	few      [24]member // initial storage of members, so that typical events need no allocation
}

const (
	// maxText keeps offsets in dst within 32 bits, even if numbers with an exponent become longer.
	maxText = 512 << 20
	// checkEvery is the number of bytes read between two calls of check.
	checkEvery = 256 << 10
)

// member is a member of an object in dst. Its quoted key is dst[start:keyEnd], and its value ends at end.
type member struct{ start, keyEnd, end uint32 }

func (e *encoder) document() error {
	if len(e.src) > maxText {
		return e.syntax("text too long")
	}
	if !utf8.Valid(e.src) {
		return e.syntax("invalid UTF-8")
	}
	from := len(e.dst)
	if err := e.value(0); err != nil {
		return err
	}
	if e.space(); e.pos < len(e.src) {
		return e.syntax("text after the value")
	}
	if len(e.unsorted) > 0 {
		e.sortObjects(from)
	}
	return nil
}

// value reads one value. depth is the number of arrays and objects around it.
func (e *encoder) value(depth int) error {
	e.space()
	switch c := e.peek(); {
	case c == '"':
		return e.text()
	case c == '{' || c == '[':
		if depth >= MaxDepth && !e.lenient || depth >= maxEnvelopeDepth {
			return e.syntax("nested too deep")
		}
		if err := e.interrupted(); err != nil {
			return err
		}
		if c == '{' {
			return e.object(depth + 1)
		}
		return e.array(depth + 1)
	case c == '-' || c >= '0' && c <= '9':
		return e.number()
	case c == 't':
		return e.literal("true")
	case c == 'f':
		return e.literal("false")
	case c == 'n':
		return e.literal("null")
	}
	return e.syntax("expected a value")
}

// interrupted calls check if checkEvery bytes have been read since the last call.
func (e *encoder) interrupted() error {
	if e.check == nil || e.pos-e.checked < checkEvery {
		return nil
	}
	e.checked = e.pos
	return e.check()
}

func (e *encoder) object(depth int) error {
	start := len(e.dst)
	e.copyByte()
	base, sorted := len(e.members), true
	for e.space(); e.peek() != '}'; e.space() {
		if err := e.separator(len(e.members) > base); err != nil {
			return err
		}
		m, err := e.member(depth)
		if err != nil {
			return err
		}
		if n := len(e.members); n > base && sorted {
			sorted = compareKeys(e.key(e.members[n-1]), e.key(m)) < 0
		}
		if e.members = append(e.members, m); e.lenient && len(e.members) > maxMembers {
			return e.syntax("too many members")
		}
	}
	e.copyByte()
	if !sorted {
		if err := e.sort(start, e.members[base:]); err != nil {
			return err
		}
	}
	e.members = e.members[:base]
	return nil
}

// member reads a key, the colon and a value.
func (e *encoder) member(depth int) (member, error) {
	m := member{start: uint32(len(e.dst))}
	if e.space(); e.peek() != '"' {
		return m, e.syntax("expected a key")
	}
	if err := e.text(); err != nil {
		return m, err
	}
	m.keyEnd = uint32(len(e.dst))
	if e.space(); e.peek() != ':' {
		return m, e.syntax("expected ':'")
	}
	e.copyByte()
	err := e.value(depth)
	m.end = uint32(len(e.dst))
	return m, err
}

func (e *encoder) array(depth int) error {
	e.copyByte()
	notFirst := false
	for e.space(); e.peek() != ']'; e.space() {
		if err := e.separator(notFirst); err != nil {
			return err
		}
		if err := e.value(depth); err != nil {
			return err
		}
		notFirst = true
	}
	e.copyByte()
	return nil
}

// separator reads the comma that precedes every item but the first. notFirst reports whether there was an item before.
func (e *encoder) separator(notFirst bool) error {
	if !notFirst {
		return nil
	}
	if e.peek() != ',' {
		return e.syntax("expected ',' or the end of the object or array")
	}
	e.copyByte()
	return nil
}

// text reads a string and writes it with the canonical escapes.
func (e *encoder) text() error {
	e.dst = append(e.dst, '"')
	e.pos++
	for {
		run := e.pos
		for e.pos < len(e.src) && plain[e.src[e.pos]] {
			e.pos++
		}
		e.dst = append(e.dst, e.src[run:e.pos]...)
		switch e.peek() {
		case '"':
			e.copyByte()
			return nil
		case '\\':
			r, n := unescapeOne(e.src[e.pos:])
			if n == 0 {
				return e.syntax("bad escape in a string")
			}
			e.pos += n
			e.dst = appendRune(e.dst, r)
		default:
			return e.syntax("unfinished string or bare control character")
		}
	}
}

func (e *encoder) literal(word string) error {
	if !bytes.HasPrefix(e.src[e.pos:], []byte(word)) {
		return e.syntax("expected a value")
	}
	e.dst = append(e.dst, word...)
	e.pos += len(word)
	return nil
}

func (e *encoder) number() error {
	start := e.pos
	if e.peek() == '-' {
		e.pos++
	}
	switch digits := e.digits(); {
	case digits == 0:
		return e.syntax("expected a digit")
	case digits > 1 && e.src[e.pos-digits] == '0':
		return e.syntax("number with leading zero")
	}
	fraction, exponent := false, false
	if e.peek() == '.' {
		fraction = true
		if e.pos++; e.digits() == 0 {
			return e.syntax("expected a digit")
		}
	}
	if c := e.peek(); c == 'e' || c == 'E' {
		exponent = true
		if e.pos++; e.peek() == '+' || e.peek() == '-' {
			e.pos++
		}
		if e.digits() == 0 {
			return e.syntax("expected a digit")
		}
	}
	return e.writeNumber(e.src[start:e.pos], fraction, exponent)
}

// writeNumber writes a number whose syntax has been checked.
func (e *encoder) writeNumber(text []byte, fraction, exponent bool) error {
	switch {
	case e.strict && (fraction || exponent):
		return e.refuse("number " + excerpt(text) + " is not a plain integer")
	case string(text) == "-0":
		text = text[1:]
	case e.strict && !inRange(text):
		return e.refuse("integer " + excerpt(text) + " is beyond 2^53-1")
	case exponent && !fraction:
		if n, ok := wholeNumber(text); ok {
			e.dst = strconv.AppendInt(e.dst, n, 10)
			return nil
		}
	}
	e.dst = append(e.dst, text...)
	return nil
}

// digits skips digits and returns their number.
func (e *encoder) digits() int {
	start := e.pos
	for e.pos < len(e.src) && e.src[e.pos] >= '0' && e.src[e.pos] <= '9' {
		e.pos++
	}
	return e.pos - start
}

func inRange(text []byte) bool {
	if len(text) > len("-9007199254740991") {
		return false
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	return err == nil && n >= -MaxInt && n <= MaxInt
}

// wholeNumber returns the value of a number with an exponent. It returns false unless that is an integer within
// ±MaxInt.
func wholeNumber(text []byte) (int64, bool) {
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > MaxInt {
		return 0, false
	}
	return int64(f), f != 0 || !bytes.ContainsAny(text[:bytes.IndexAny(text, "eE")], "123456789")
}

// space skips whitespace.
func (e *encoder) space() { e.pos = skipSpace(e.src, e.pos) }

// peek returns the next byte, or 0 at the end of the text. A NUL byte in the text is a syntax error everywhere, so
// callers need not distinguish the two.
func (e *encoder) peek() byte {
	if e.pos < len(e.src) {
		return e.src[e.pos]
	}
	return 0
}

// copyByte copies one byte of syntax to dst.
func (e *encoder) copyByte() {
	e.dst = append(e.dst, e.src[e.pos])
	e.pos++
}

func (e *encoder) syntax(msg string) error { return &Error{Kind: ErrSyntax, Offset: e.pos, Msg: msg} }

func (e *encoder) refuse(msg string) error {
	return &Error{Kind: ErrNotCanonical, Offset: e.pos, Msg: msg}
}

// excerpt shortens text for an error message.
func excerpt(text []byte) string {
	const limit = 64
	if len(text) <= limit {
		return string(text)
	}
	return string(bytes.ToValidUTF8(text[:limit], nil)) + "…"
}
