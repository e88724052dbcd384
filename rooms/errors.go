package rooms

import (
	"errors"
	"net/http"

	"ebb/mxerr"
	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"
)

// errNeedTx means that memory does not have the answer, and a database read is needed.
var errNeedTx = errors.New("a database read is needed")

// authError turns a rejection by the authorisation rules into an error for the client.
func authError(err error) error {
	var r *eventauth.Rejection
	if errors.As(err, &r) {
		return mxerr.Forbidden("The room's rules do not allow this: %s", r.Msg).Because(err)
	}
	return err
}

// buildError turns an error from building an event into one for the client.
func buildError(err error) error {
	var p *pdu.Error
	switch {
	case !errors.As(err, &p):
		return err
	case p.Kind == pdu.TooLarge:
		return mxerr.TooLarge("%s", p.Msg).Because(err)
	default:
		return mxerr.BadJSON("%s", p.Msg).Because(err)
	}
}

// ErrNoRoom is returned, possibly wrapped, for a room that this server does not know.
var ErrNoRoom error = mxerr.NotFound("There is no such room on this server")

var (
	// errOutside is returned to other servers for a room in which no user of this server is joined.
	errOutside error = mxerr.NotFound("This server is not in the room")
)

// unknownIsForbidden hides from users who are not in a room whether it exists.
func unknownIsForbidden(err error) error {
	if errors.Is(err, ErrNoRoom) || errors.Is(err, errOutside) {
		return mxerr.Forbidden("You are not in this room").Because(err)
	}
	return err
}

func errNotInRoom() error { return mxerr.Forbidden("You are not in this room") }

// errRemote returns the error for requests that need another server while federation is disabled.
func errRemote(what string) error {
	return mxerr.Forbidden("%s is on another server, and federation is disabled on this server", what)
}

func badRequest(code, format string, args ...any) error {
	return mxerr.New(http.StatusBadRequest, code, format, args...)
}
