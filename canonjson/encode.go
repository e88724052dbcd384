package canonjson

import (
	"bytes"
	"math"
	"strconv"
	"unicode/utf8"
)

// encoder reads src once and writes its canonical form to dst, members in the order of the text, so that sorted input costs one pass. A
// small object whose members are out of order is rewritten when it ends. A larger one is noted in unsorted, and a second pass at the end
// sorts all of these: rewriting each one separately would copy the innermost object once for every object around it.
type encoder struct {
	src      []byte
	pos      int
	strict   bool
	lenient  bool         // nests deeper: see AppendEnvelope
	check    func() error // nil, or asked now and then whether to go on
	checked  int          // where in src check was asked last
	dst      []byte
	members  []member // stack: the members so far of every open object
	unsorted []object
	order    []span // members of the unsorted objects, sorted
	scratch  []byte
	few      [24]member // first memory of members: no allocation for usual events
}

const (
	// maxText keeps offsets within 32 bits, even where numbers with an exponent are written out.
	maxText = 512 << 20
	// checkEvery is how many bytes are read between two calls of check.
	checkEvery = 256 << 10
)

// member is a member of an object in dst: its quoted key is dst[start:keyEnd], its value ends at end.
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

// value reads one value inside depth arrays and objects.
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

// interrupted asks check, if enough was read since it was asked last.
func (e *encoder) interrupted() error {
	if e.check == nil || e.pos-e.checked < checkEvery {
		return nil
	}
	e.checked = e.pos
	return e.check()
}

func (e *encoder) object(depth int) error {
	start := len(e.dst)
	e.take()
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
	e.take()
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
	e.take()
	err := e.value(depth)
	m.end = uint32(len(e.dst))
	return m, err
}

func (e *encoder) array(depth int) error {
	e.take()
	more := false
	for e.space(); e.peek() != ']'; e.space() {
		if err := e.separator(more); err != nil {
			return err
		}
		if err := e.value(depth); err != nil {
			return err
		}
		more = true
	}
	e.take()
	return nil
}

// separator takes the comma before every item but the first.
func (e *encoder) separator(more bool) error {
	if !more {
		return nil
	}
	if e.peek() != ',' {
		return e.syntax("expected ',' or the end of the object or array")
	}
	e.take()
	return nil
}

// text reads a string and writes it with canonical escapes.
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
			e.take()
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

// writeNumber writes a number that is well-formed JSON.
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

// digits skips digits and returns how many there were.
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

// wholeNumber returns the value of a number with an exponent where that is an integer within ±MaxInt.
func wholeNumber(text []byte) (int64, bool) {
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > MaxInt {
		return 0, false
	}
	return int64(f), f != 0 || !bytes.ContainsAny(text[:bytes.IndexAny(text, "eE")], "123456789")
}

// space skips insignificant space.
func (e *encoder) space() { e.pos = skipSpace(e.src, e.pos) }

// peek returns the next byte, 0 at the end; a NUL byte is not part of any JSON syntax, so the two need no telling apart.
func (e *encoder) peek() byte {
	if e.pos < len(e.src) {
		return e.src[e.pos]
	}
	return 0
}

// take copies one byte of syntax to dst.
func (e *encoder) take() {
	e.dst = append(e.dst, e.src[e.pos])
	e.pos++
}

func (e *encoder) syntax(msg string) error { return &Error{Kind: ErrSyntax, Offset: e.pos, Msg: msg} }

func (e *encoder) refuse(msg string) error {
	return &Error{Kind: ErrNotCanonical, Offset: e.pos, Msg: msg}
}

// excerpt bounds what an error says of the text.
func excerpt(text []byte) string {
	const most = 64
	if len(text) <= most {
		return string(text)
	}
	return string(bytes.ToValidUTF8(text[:most], nil)) + "…"
}
