package fedclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"ebb/mxerr"
)

// These errors say why a request has no valid response.
var (
	ErrUnreachable = errors.New("the server cannot be reached")
	ErrBadAnswer   = errors.New("the response of the server is not valid")
	// ErrNoServer means that no server can have a name. Errors that wrap it wrap ErrUnreachable too.
	ErrNoServer = fmt.Errorf("%w: no server can have that name", ErrUnreachable)
)

// RemoteError is a response of another server with a status other than 200.
type RemoteError struct {
	Server     string
	Status     int
	Code       string // errcode; empty if the response was not a standard Matrix error
	Msg        string
	RetryAfter time.Duration // 0 if not given
	Extra      map[string]json.RawMessage
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("%s answered %d %s: %.200s", e.Server, e.Status, e.Code, e.Msg)
}

const maxRetryAfter = time.Hour // bounds the delay that a server can ask for

func readError(server string, status int, body []byte, header http.Header) *RemoteError {
	e := &RemoteError{Server: server, Status: status}
	if seconds, err := strconv.Atoi(header.Get("Retry-After")); err == nil && seconds > 0 {
		e.RetryAfter = min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	if json.Unmarshal(body, &e.Extra) != nil {
		return e
	}
	_ = json.Unmarshal(e.Extra["errcode"], &e.Code) // stays empty if the member is not a string
	_ = json.Unmarshal(e.Extra["error"], &e.Msg)
	return e
}

// relayedStatus maps error codes of other servers to the status that this server's clients receive. Errors with other
// codes keep their status.
var relayedStatus = map[string]int{
	mxerr.CodeForbidden: http.StatusForbidden, mxerr.CodeNotFound: http.StatusNotFound, mxerr.CodeIncompatibleRoomVersion: http.StatusBadRequest,
	mxerr.CodeUnsupportedRoomVersion: http.StatusBadRequest, mxerr.CodeTooLarge: http.StatusRequestEntityTooLarge, mxerr.CodeInvalidParam: http.StatusBadRequest,
	mxerr.CodeBadState: http.StatusBadRequest, mxerr.CodeLimitExceeded: http.StatusTooManyRequests, mxerr.CodeNotYetUploaded: http.StatusGatewayTimeout,
	mxerr.CodeUnableToAuthoriseJoin: http.StatusBadRequest, mxerr.CodeUnableToGrantJoin: http.StatusBadRequest, mxerr.CodeInviteBlocked: http.StatusForbidden,
}

// notRelayed lists codes that a client would take to refer to its own session, to its account or to this server.
var notRelayed = map[string]bool{
	mxerr.CodeUnknownToken: true, mxerr.CodeMissingToken: true, mxerr.CodeUnauthorized: true, mxerr.CodeUnrecognized: true,
	mxerr.CodeUserDeactivated: true, mxerr.CodeGuestAccessForbidden: true, mxerr.CodeNotJSON: true, "M_USER_LOCKED": true, "M_USER_SUSPENDED": true,
	"M_CONSENT_NOT_GIVEN": true, "M_RESOURCE_LIMIT_EXCEEDED": true, "M_USER_LIMIT_EXCEEDED": true, "M_SERVER_NOT_TRUSTED": true,
}

// maxRelayedCode bounds the length of another server's error code that is passed on to clients, in bytes.
const maxRelayedCode = 100

// relayable reports whether the error may be passed on to clients unchanged, and returns the status to use.
func (e *RemoteError) relayable() (status int, ok bool) {
	status = relayedStatus[e.Code]
	if status == 0 {
		status = e.Status
	}
	refusal := e.Status >= 400 && (e.Status < 500 || e.Status == relayedStatus[e.Code])
	return status, refusal && isErrorCode(e.Code) && !notRelayed[e.Code] && status != http.StatusUnauthorized
}

// isErrorCode reports whether text has the form of an error code, such as M_FORBIDDEN or ORG.EXAMPLE.TOO_LATE.
// Spec: client-server-api#standard-error-response
func isErrorCode(text string) bool {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_."
	return text != "" && len(text) <= maxRelayedCode && strings.Trim(text, allowed) == "" && text[0] >= 'A'
}

// maxRelayed bounds another server's error message that is passed on to clients, in bytes.
const maxRelayed = 500

// busyPause is the Retry-After that is sent when too many responses are in memory.
const busyPause = 5 * time.Second

// Relay converts the error of a request to another server into an error for a client. If the other server refused the
// request, Relay passes its error on. Other failures become a 502, except when no server with that name can exist
// (404), when this server has too many responses in memory (429), or when err is an error of this server for clients
// already.
func Relay(err error) error {
	var remote *RemoteError
	if errors.As(err, &remote) {
		if status, ok := remote.relayable(); ok {
			return remote.relay(status).Because(err)
		}
	}
	var own *mxerr.Error
	switch {
	case err == nil, errors.As(err, &own):
		return err
	case errors.Is(err, ErrNoServer):
		return mxerr.NotFound("That is not a valid server name").Because(err)
	case errors.Is(err, ErrBusy):
		return mxerr.LimitExceeded(busyPause).Because(err)
	}
	return mxerr.New(http.StatusBadGateway, mxerr.CodeUnknown, "The other server sent no valid response; try again later").Because(err)
}

func (e *RemoteError) relay(status int) *mxerr.Error {
	out := mxerr.Relayed(status, e.Code, "%s", cut(e.Msg))
	var version string
	switch {
	case e.RetryAfter > 0:
		return out.With("retry_after_ms", e.RetryAfter.Milliseconds())
	case e.Code == mxerr.CodeIncompatibleRoomVersion && json.Unmarshal(e.Extra["room_version"], &version) == nil:
		return out.With("room_version", cut(version))
	}
	return out
}

// cut truncates text to maxRelayed bytes.
func cut(text string) string { return strings.ToValidUTF8(text[:min(len(text), maxRelayed)], "") }
