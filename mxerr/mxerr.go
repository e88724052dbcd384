// Package mxerr is the error vocabulary between the services and the HTTP doors: an error code of the specification, a
// status, a text for the peer, and a cause that only the log sees. Only httpapi turns it into an answer.
package mxerr

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"
)

// The error codes that Ebb tells apart. Spec: client-server-api#standard-error-response
const (
	CodeBadAlias                = "M_BAD_ALIAS"
	CodeBadJSON                 = "M_BAD_JSON"
	CodeBadState                = "M_BAD_STATE"
	CodeCannotOverwriteMedia    = "M_CANNOT_OVERWRITE_MEDIA"
	CodeDuplicateAnnotation     = "M_DUPLICATE_ANNOTATION"
	CodeExclusive               = "M_EXCLUSIVE"
	CodeForbidden               = "M_FORBIDDEN"
	CodeGuestAccessForbidden    = "M_GUEST_ACCESS_FORBIDDEN"
	CodeIncompatibleRoomVersion = "M_INCOMPATIBLE_ROOM_VERSION"
	CodeInvalidParam            = "M_INVALID_PARAM"
	CodeInvalidRoomState        = "M_INVALID_ROOM_STATE"
	CodeInvalidSignature        = "M_INVALID_SIGNATURE"
	CodeInvalidUsername         = "M_INVALID_USERNAME"
	CodeInviteBlocked           = "M_INVITE_BLOCKED"
	CodeLimitExceeded           = "M_LIMIT_EXCEEDED"
	CodeMissingParam            = "M_MISSING_PARAM"
	CodeMissingToken            = "M_MISSING_TOKEN"
	CodeNotFound                = "M_NOT_FOUND"
	CodeNotJSON                 = "M_NOT_JSON"
	CodeNotYetUploaded          = "M_NOT_YET_UPLOADED"
	CodeRoomInUse               = "M_ROOM_IN_USE"
	CodeTooLarge                = "M_TOO_LARGE"
	CodeUnableToAuthoriseJoin   = "M_UNABLE_TO_AUTHORISE_JOIN"
	CodeUnableToGrantJoin       = "M_UNABLE_TO_GRANT_JOIN"
	CodeUnauthorized            = "M_UNAUTHORIZED"
	CodeUnknown                 = "M_UNKNOWN"
	CodeUnknownToken            = "M_UNKNOWN_TOKEN"
	CodeUnrecognized            = "M_UNRECOGNIZED"
	CodeUnsupportedRoomVersion  = "M_UNSUPPORTED_ROOM_VERSION"
	CodeUserDeactivated         = "M_USER_DEACTIVATED"
	CodeUserInUse               = "M_USER_IN_USE"
	CodeWeakPassword            = "M_WEAK_PASSWORD"
	CodeWrongRoomKeysVersion    = "M_WRONG_ROOM_KEYS_VERSION"
)

// Error is what a peer is told. Values are not changed once made; With and Because return copies.
type Error struct {
	Code   string
	Status int            // HTTP
	Msg    string         // for the peer: nothing internal
	Extra  map[string]any // further members of the JSON answer
	cause  error
}

// New makes an error for codes that have no constructor of their own.
func New(status int, code, format string, args ...any) *Error {
	return &Error{Code: code, Status: status, Msg: fmt.Sprintf(format, args...)}
}

// Error is for the log: it includes the cause.
func (e *Error) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Msg, e.cause)
	}
	return e.Code + ": " + e.Msg
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.cause }

// With adds a member to the JSON answer.
func (e *Error) With(key string, value any) *Error {
	c := *e
	c.Extra = maps.Clone(e.Extra)
	if c.Extra == nil {
		c.Extra = map[string]any{}
	}
	c.Extra[key] = value
	return &c
}

// Because attaches the cause, which the peer does not see.
func (e *Error) Because(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// Code is the error code inside err, "" where there is none.
func Code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Forbidden is 403 M_FORBIDDEN.
func Forbidden(format string, args ...any) *Error {
	return New(http.StatusForbidden, CodeForbidden, format, args...)
}

// NotFound is 404 M_NOT_FOUND.
func NotFound(format string, args ...any) *Error {
	return New(http.StatusNotFound, CodeNotFound, format, args...)
}

// Unrecognized is 404 M_UNRECOGNIZED: no such endpoint.
func Unrecognized() *Error {
	return New(http.StatusNotFound, CodeUnrecognized, "Unrecognized request")
}

// BadJSON is 400 M_BAD_JSON: JSON, but not of the documented shape.
func BadJSON(format string, args ...any) *Error {
	return New(http.StatusBadRequest, CodeBadJSON, format, args...)
}

// NotJSON is 400 M_NOT_JSON.
func NotJSON(format string, args ...any) *Error {
	return New(http.StatusBadRequest, CodeNotJSON, format, args...)
}

// InvalidParam is 400 M_INVALID_PARAM.
func InvalidParam(format string, args ...any) *Error {
	return New(http.StatusBadRequest, CodeInvalidParam, format, args...)
}

// MissingParam is 400 M_MISSING_PARAM.
func MissingParam(format string, args ...any) *Error {
	return New(http.StatusBadRequest, CodeMissingParam, format, args...)
}

// TooLarge is 413 M_TOO_LARGE.
func TooLarge(format string, args ...any) *Error {
	return New(http.StatusRequestEntityTooLarge, CodeTooLarge, format, args...)
}

// LimitExceeded is 429 M_LIMIT_EXCEEDED; httpapi adds Retry-After.
func LimitExceeded(retryAfter time.Duration) *Error {
	return New(http.StatusTooManyRequests, CodeLimitExceeded, "Too many requests").With("retry_after_ms", max(retryAfter.Milliseconds(), 1))
}

// UnknownToken is 401 M_UNKNOWN_TOKEN; soft tells the client to refresh or log in again without losing its keys.
func UnknownToken(soft bool) *Error {
	e := New(http.StatusUnauthorized, CodeUnknownToken, "Unknown access token")
	if soft {
		return e.With("soft_logout", true)
	}
	return e
}

// MissingToken is 401 M_MISSING_TOKEN.
func MissingToken() *Error {
	return New(http.StatusUnauthorized, CodeMissingToken, "Missing access token")
}
