package fedclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
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

// relayed are the errors that this server's clients may get as another server said them. Most others would mean something
// else to them: M_UNKNOWN_TOKEN would sign them out.
var relayed = []string{
	mxerr.CodeForbidden, mxerr.CodeNotFound, mxerr.CodeIncompatibleRoomVersion, mxerr.CodeUnsupportedRoomVersion, mxerr.CodeTooLarge,
	mxerr.CodeBadState, mxerr.CodeLimitExceeded, "M_UNABLE_TO_AUTHORISE_JOIN", "M_UNABLE_TO_GRANT_JOIN", "M_NOT_YET_UPLOADED", "M_INVITE_BLOCKED",
}

// Relay is the error of another server as a client of this one gets it. What is not for clients becomes a 502.
func Relay(err error) error {
	var remote *RemoteError
	if errors.As(err, &remote) && slices.Contains(relayed, remote.Code) && remote.Status >= 400 && remote.Status < 500 {
		told := mxerr.New(remote.Status, remote.Code, "%.500s", remote.Msg).Because(err)
		if version, ok := remote.Extra["room_version"]; ok && remote.Code == mxerr.CodeIncompatibleRoomVersion {
			told = told.With("room_version", version)
		}
		return told
	}
	var own *mxerr.Error
	if err == nil || errors.As(err, &own) {
		return err
	}
	return mxerr.New(http.StatusBadGateway, mxerr.CodeUnknown, "The other server did not answer as it should").Because(err)
}
