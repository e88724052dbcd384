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

// Why a request has no answer.
var (
	ErrUnreachable = errors.New("the server cannot be reached")
	ErrBadAnswer   = errors.New("the server's answer cannot be understood")
)

// RemoteError is what another server answered instead of 200.
type RemoteError struct {
	Server     string
	Status     int
	Code       string // "" where it was no error of the specification
	Msg        string
	RetryAfter time.Duration // 0: it did not say
	Extra      map[string]json.RawMessage
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("%s answered %d %s: %.200s", e.Server, e.Status, e.Code, e.Msg)
}

const maxRetryAfter = time.Hour // of what a server may ask for

func readError(server string, status int, body []byte, header http.Header) *RemoteError {
	e := &RemoteError{Server: server, Status: status}
	if seconds, err := strconv.Atoi(header.Get("Retry-After")); err == nil && seconds > 0 {
		e.RetryAfter = min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	if json.Unmarshal(body, &e.Extra) != nil {
		return e
	}
	_ = json.Unmarshal(e.Extra["errcode"], &e.Code) // "" where it is none
	_ = json.Unmarshal(e.Extra["error"], &e.Msg)
	return e
}

// relayed are the errors that this server's clients may get as another server said them, with the status that they have here.
// Most others would mean something else to them: M_UNKNOWN_TOKEN would sign them out.
var relayed = map[string]int{
	mxerr.CodeForbidden: http.StatusForbidden, mxerr.CodeNotFound: http.StatusNotFound, mxerr.CodeIncompatibleRoomVersion: http.StatusBadRequest,
	mxerr.CodeUnsupportedRoomVersion: http.StatusBadRequest, mxerr.CodeTooLarge: http.StatusRequestEntityTooLarge, mxerr.CodeInvalidParam: http.StatusBadRequest,
	mxerr.CodeBadState: http.StatusBadRequest, mxerr.CodeLimitExceeded: http.StatusTooManyRequests, mxerr.CodeNotYetUploaded: http.StatusGatewayTimeout,
	"M_UNABLE_TO_AUTHORISE_JOIN": http.StatusBadRequest, "M_UNABLE_TO_GRANT_JOIN": http.StatusBadRequest, "M_INVITE_BLOCKED": http.StatusForbidden,
}

// maxRelayed bounds the text of another server that clients get, in bytes.
const maxRelayed = 500

// Relay is the error of another server as a client of this one gets it. What is not for clients becomes a 502.
func Relay(err error) error {
	var remote *RemoteError
	if errors.As(err, &remote) && relayed[remote.Code] != 0 && remote.Status >= 400 && (remote.Status < 500 || remote.Status == relayed[remote.Code]) {
		return remote.relay().Because(err)
	}
	var own *mxerr.Error
	if err == nil || errors.As(err, &own) {
		return err
	}
	return mxerr.New(http.StatusBadGateway, mxerr.CodeUnknown, "The other server did not answer as it should").Because(err)
}

func (e *RemoteError) relay() *mxerr.Error {
	out := mxerr.New(relayed[e.Code], e.Code, "%s", cut(e.Msg))
	var version string
	switch {
	case e.RetryAfter > 0:
		return out.With("retry_after_ms", e.RetryAfter.Milliseconds())
	case e.Code == mxerr.CodeIncompatibleRoomVersion && json.Unmarshal(e.Extra["room_version"], &version) == nil:
		return out.With("room_version", cut(version))
	}
	return out
}

// cut bounds a text by maxRelayed.
func cut(text string) string { return strings.ToValidUTF8(text[:min(len(text), maxRelayed)], "") }
