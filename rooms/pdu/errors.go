package pdu

import "fmt"

// Kind says in what way an event is unfit.
type Kind uint8

// The kinds of errors that Parse and Build return.
const (
	BadJSON      Kind = iota + 1 // not JSON, or not canonical JSON where the room version demands that
	BadShape                     // a member is missing, of the wrong type or too long a list
	BadID                        // an id breaks its grammar
	TooLarge                     // the event or one of its members exceeds its size limit
	BadSignature                 // a signature is missing, malformed or wrong
)

// Error is why an event is unfit. Its message may be shown to the sender.
type Error struct {
	Kind Kind
	Msg  string
	Err  error // the cause, if any
}

func (e *Error) Error() string { return e.Msg }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func failf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Msg: fmt.Sprintf(format, args...)}
}

func badJSON(err error) *Error { return &Error{Kind: BadJSON, Msg: err.Error(), Err: err} }
