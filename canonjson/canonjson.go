// Package canonjson turns JSON text into Matrix canonical JSON and reads members out of JSON objects without decoding
// them into maps.
//
// Canonical JSON is what is hashed and signed: sorted keys, no insignificant space, the shortest string escapes and
// integers only. [Canonical] is the door for hostile text: whatever it returns is well-formed and bounded in depth, so
// that [Get], [Each] and [Without], which only look for the bounds of values, may be used on it. The package knows
// nothing of events; hashes and signatures are in rooms/pdu.
//
// Spec: appendices#canonical-json
package canonjson

import (
	"errors"
	"fmt"
)

const (
	// MaxDepth is how deep arrays and objects may nest. 100: more than any event or key object in use, and few
	// enough stack frames that a hostile body costs nothing.
	MaxDepth = 100

	// maxEnvelopeDepth is that of encoding/json.
	maxEnvelopeDepth = 10_000

	// maxMembers is how many members the open objects of an envelope may have together. 250,000: a list of the devices of a
	// hundred thousand users needs fewer, and they take 12 MB while they are sorted.
	maxMembers = 250_000

	// MaxInt is the largest integer of canonical JSON, 2^53-1; the smallest is -MaxInt.
	MaxInt = 1<<53 - 1
)

var (
	// ErrSyntax is wrapped by errors about text that is not JSON at all (or nests too deep).
	ErrSyntax = errors.New("not valid JSON")

	// ErrNotCanonical is wrapped by errors about JSON that has no strict canonical form.
	ErrNotCanonical = errors.New("not canonical JSON")
)

// Error says what is wrong with a JSON text and where. It wraps ErrSyntax or ErrNotCanonical.
type Error struct {
	Kind   error  // ErrSyntax or ErrNotCanonical
	Offset int    // byte offset in the text
	Msg    string // for the sender's eyes; quotes at most a few dozen bytes of the text
}

func (e *Error) Error() string { return fmt.Sprintf("%v: %s at byte %d", e.Kind, e.Msg, e.Offset) }

// Unwrap returns the kind.
func (e *Error) Unwrap() error { return e.Kind }

// Canonical checks that raw is one JSON value and returns its canonical encoding in new memory.
//
// Strict is the rule of room version 6 and later and of everything that Ebb signs: numbers with a fraction or an
// exponent, integers beyond ±MaxInt and duplicate keys are refused. Without it a number keeps its text, save that an
// integer written with an exponent is written out, and of duplicate keys the last one counts. -0 becomes 0 either way.
// Strings with a lone surrogate have no UTF-8 form and are always refused.
func Canonical(raw []byte, strict bool) ([]byte, error) {
	return AppendCanonical(make([]byte, 0, len(raw)), raw, strict)
}

// AppendCanonical is Canonical that appends to dst; on an error dst's content is what it was.
func AppendCanonical(dst, raw []byte, strict bool) ([]byte, error) {
	return appendCanonical(encoder{src: raw, strict: strict, dst: dst})
}

// AppendEnvelope is a lenient AppendCanonical for JSON that contains other JSON, such as a request with events. It may nest as deep as
// encoding/json allows, since one bad event must not spoil the request; the memory it needs is a few times the length of raw. If check is
// not nil, it is called from time to time, and an error from it ends the work.
func AppendEnvelope(dst, raw []byte, check func() error) ([]byte, error) {
	return appendCanonical(encoder{src: raw, lenient: true, check: check, dst: dst})
}

func appendCanonical(e encoder) ([]byte, error) {
	dst := e.dst
	e.members = e.few[:0]
	if err := e.document(); err != nil {
		return dst, err
	}
	return e.dst, nil
}
