// Package canonjson encodes Matrix canonical JSON and reads members of JSON objects without decoding them into maps.
//
// Canonical JSON is the form that is hashed and signed: keys are sorted, there is no insignificant whitespace, strings
// use the shortest escapes, and numbers are integers. [Canonical] accepts untrusted text. Its result is well-formed and
// has a bounded depth. [Get], [Each] and [Without] find where values begin and end but do not validate them, so they
// are meant for results of Canonical. The package has no knowledge of events; hashes and signatures are in rooms/pdu.
//
// Spec: appendices#canonical-json
package canonjson

import (
	"errors"
	"fmt"
)

const (
	// MaxDepth is how deeply arrays and objects may be nested. No event or key object in use comes near 100, and the
	// recursion for a hostile body of that depth costs nothing.
	MaxDepth = 100

	// maxEnvelopeDepth is the maximum depth of encoding/json.
	maxEnvelopeDepth = 10_000

	// maxMembers bounds the members that the encoder holds at a time: those of all objects that it has begun and not
	// finished. A list of the devices of 100,000 users has fewer than 250,000, and sorting these takes 12 MB.
	maxMembers = 250_000

	// MaxInt is the largest integer of canonical JSON, 2^53-1; the smallest is -MaxInt.
	MaxInt = 1<<53 - 1
)

var (
	// ErrSyntax is wrapped by errors about text that is not JSON or that is nested too deeply.
	ErrSyntax = errors.New("not valid JSON")

	// ErrNotCanonical is wrapped by errors about JSON that has no strict canonical form.
	ErrNotCanonical = errors.New("not canonical JSON")
)

// Error describes what is wrong with a JSON text and where. It wraps ErrSyntax or ErrNotCanonical.
type Error struct {
	Kind   error  // ErrSyntax or ErrNotCanonical
	Offset int    // byte offset in the text
	Msg    string // may be shown to the sender; quotes at most a few dozen bytes of the text
}

func (e *Error) Error() string { return fmt.Sprintf("%v: %s at byte %d", e.Kind, e.Msg, e.Offset) }

// Unwrap returns e.Kind.
func (e *Error) Unwrap() error { return e.Kind }

// Canonical checks that raw is one JSON value and returns its canonical encoding in new memory.
//
// In strict mode, which applies to room version 6 and later and to everything that Ebb signs, numbers with a fraction
// or an exponent, integers beyond ±MaxInt and duplicate keys are errors. Otherwise numbers keep their text, except that
// an integer with an exponent is written without it, and the last of duplicate keys counts. In both modes -0 becomes 0,
// and strings with a lone surrogate, which have no UTF-8 form, are errors.
func Canonical(raw []byte, strict bool) ([]byte, error) {
	return AppendCanonical(make([]byte, 0, len(raw)), raw, strict)
}

// AppendCanonical is like Canonical but appends the encoding to dst. On an error it returns dst unchanged.
func AppendCanonical(dst, raw []byte, strict bool) ([]byte, error) {
	return appendCanonical(encoder{src: raw, strict: strict, dst: dst})
}

// AppendEnvelope is like AppendCanonical in lenient mode, for JSON that contains other JSON, such as a request that
// contains events. It allows the nesting depth of encoding/json, so that one event that is nested too deeply does not
// invalidate the whole request. It needs memory of a few times the length of raw. If check is not nil, it is called at
// intervals, and encoding stops with the error that it returns.
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
