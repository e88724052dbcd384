package pdu

import "fmt"

// Kind says in which way an event is invalid.
type Kind uint8

// The kinds of errors that Parse and Build return.
const (
	BadJSON      Kind = iota + 1 // not JSON, or not canonical JSON in a room version that requires it
	BadShape                     // a key is missing, or its value has the wrong type or is a list with too many entries
	BadID                        // an ID violates its grammar
	TooLarge                     // the event or one of its values exceeds its size limit
	BadSignature                 // a signature is missing, malformed or wrong
)

// Error describes why an event is invalid. Its message may be shown to the sender.
type Error struct {
	Kind Kind
	Msg  string
	Err  error // the cause, if any
}

func (e *Error) Error() string { return e.Msg }

// Unwrap returns the cause, if any.
func (e *Error) Unwrap() error { return e.Err }

func failf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Msg: fmt.Sprintf(format, args...)}
}

func badJSON(err error) *Error { return &Error{Kind: BadJSON, Msg: err.Error(), Err: err} }
