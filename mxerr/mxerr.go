// Package mxerr defines the errors that services return to the HTTP APIs. Each has an error code of the specification,
// an HTTP status, a message for the client, and a cause for the log only. Only httpapi turns them into responses.
package mxerr

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"
)

// These are the error codes that Ebb uses. Spec: client-server-api#standard-error-response
const (
	CodeAppserviceLogin         = "M_APPSERVICE_LOGIN_UNSUPPORTED"
	CodeBadAlias                = "M_BAD_ALIAS"
	CodeBadJSON                 = "M_BAD_JSON"
	CodeBadState                = "M_BAD_STATE"
	CodeBadStatus               = "M_BAD_STATUS"
	CodeCannotLeaveNotices      = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"
	CodeCannotOverwriteMedia    = "M_CANNOT_OVERWRITE_MEDIA"
	CodeConnectionFailed        = "M_CONNECTION_FAILED"
	CodeConnectionTimeout       = "M_CONNECTION_TIMEOUT"
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
	CodeServerNotTrusted        = "M_SERVER_NOT_TRUSTED"
	CodeSessionNotValidated     = "M_SESSION_NOT_VALIDATED"
	CodeThreepidAuthFailed      = "M_THREEPID_AUTH_FAILED"
	CodeThreepidDenied          = "M_THREEPID_DENIED"
	CodeThreepidInUse           = "M_THREEPID_IN_USE"
	CodeThreepidMedium          = "M_THREEPID_MEDIUM_NOT_SUPPORTED"
	CodeThreepidNotFound        = "M_THREEPID_NOT_FOUND"
	CodeTooLarge                = "M_TOO_LARGE"
	CodeUnableToAuthoriseJoin   = "M_UNABLE_TO_AUTHORISE_JOIN"
	CodeUnableToGrantJoin       = "M_UNABLE_TO_GRANT_JOIN"
	CodeUnauthorized            = "M_UNAUTHORIZED"
	CodeUnknown                 = "M_UNKNOWN"
	CodeUnknownDevice           = "M_UNKNOWN_DEVICE"
	CodeUnknownPos              = "M_UNKNOWN_POS"
	CodeUnknownToken            = "M_UNKNOWN_TOKEN"
	CodeUnrecognized            = "M_UNRECOGNIZED"
	CodeUnsupportedRoomVersion  = "M_UNSUPPORTED_ROOM_VERSION"
	CodeURLNotSet               = "M_URL_NOT_SET"
	CodeUserDeactivated         = "M_USER_DEACTIVATED"
	CodeUserInUse               = "M_USER_IN_USE"
	CodeUserLocked              = "M_USER_LOCKED"
	CodeUserSuspended           = "M_USER_SUSPENDED"
	CodeWeakPassword            = "M_WEAK_PASSWORD"
	CodeWrongRoomKeysVersion    = "M_WRONG_ROOM_KEYS_VERSION"
)

// Error is an error that is sent to a client or another server. It is immutable; With and Because return copies.
type Error struct {
	Code   string
	Status int            // HTTP status
	Msg    string         // for the client, without internal details
	Extra  map[string]any // additional members of the JSON response
	Relays bool           // whether another server has chosen Code
	cause  error
}

// New returns an error with any code; the common codes have their own constructors.
func New(status int, code, format string, args ...any) *Error {
	return &Error{Code: code, Status: status, Msg: fmt.Sprintf(format, args...)}
}

// Relayed returns an error that another server has returned, and that is passed on with its code.
func Relayed(status int, code, format string, args ...any) *Error {
	e := New(status, code, format, args...)
	e.Relays = true
	return e
}

// Error returns the text for the log, which includes the cause.
func (e *Error) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Msg, e.cause)
	}
	return e.Code + ": " + e.Msg
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// With returns a copy with an additional field in the JSON response.
func (e *Error) With(key string, value any) *Error {
	c := *e
	c.Extra = maps.Clone(e.Extra)
	if c.Extra == nil {
		c.Extra = map[string]any{}
	}
	c.Extra[key] = value
	return &c
}

// Because returns a copy with a cause, which the client does not see.
func (e *Error) Because(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// Code returns the error code of err, or "" if it has none.
func Code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Forbidden returns a 403 M_FORBIDDEN.
func Forbidden(format string, args ...any) *Error {
	return New(http.StatusForbidden, CodeForbidden, format, args...)
}

// NotFound returns a 404 M_NOT_FOUND.
func NotFound(format string, args ...any) *Error {
	return New(http.StatusNotFound, CodeNotFound, format, args...)
}

// Unrecognized returns a 404 M_UNRECOGNIZED, for unknown endpoints.
func Unrecognized() *Error {
	return New(http.StatusNotFound, CodeUnrecognized, "Unrecognized request")
}

// BadJSON returns a 400 M_BAD_JSON, for valid JSON that does not have the form required by the specification.
func BadJSON(format string, args ...any) *Error {
	return New(http.StatusBadRequest, CodeBadJSON, format, args...)
}

// NotJSON returns a 400 M_NOT_JSON.
func NotJSON(format string, args ...any) *Error {
	return New(http.StatusBadRequest, CodeNotJSON, format, args...)
}

// BadRequest returns a 400 with the given error code.
func BadRequest(code, format string, args ...any) *Error {
	return New(http.StatusBadRequest, code, format, args...)
}

// InvalidParam returns a 400 M_INVALID_PARAM.
func InvalidParam(format string, args ...any) *Error {
	return New(http.StatusBadRequest, CodeInvalidParam, format, args...)
}

// MissingParam returns a 400 M_MISSING_PARAM.
func MissingParam(format string, args ...any) *Error {
	return New(http.StatusBadRequest, CodeMissingParam, format, args...)
}

// TooLarge returns a 413 M_TOO_LARGE.
func TooLarge(format string, args ...any) *Error {
	return New(http.StatusRequestEntityTooLarge, CodeTooLarge, format, args...)
}

// LimitExceeded returns a 429 M_LIMIT_EXCEEDED; httpapi adds the Retry-After header.
func LimitExceeded(retryAfter time.Duration) *Error {
	return New(http.StatusTooManyRequests, CodeLimitExceeded, "Too many requests").With("retry_after_ms", max(retryAfter.Milliseconds(), 1))
}

// UnknownToken returns a 401 M_UNKNOWN_TOKEN. soft means that the client can refresh its token or log in again without
// losing its keys.
func UnknownToken(soft bool) *Error {
	e := New(http.StatusUnauthorized, CodeUnknownToken, "Unknown access token")
	if soft {
		return e.With("soft_logout", true)
	}
	return e
}

// UserLocked returns a 401 M_USER_LOCKED. The soft logout makes clients keep their keys until the account is unlocked.
func UserLocked() *Error {
	return New(http.StatusUnauthorized, CodeUserLocked, "This account has been locked; ask the administrator of your server").With("soft_logout", true)
}

// UserSuspended returns a 403 M_USER_SUSPENDED.
func UserSuspended() *Error {
	return New(http.StatusForbidden, CodeUserSuspended, "Your account is suspended: you can read, but not do this; ask the administrator of your server")
}

// GuestAccessForbidden returns a 403 M_GUEST_ACCESS_FORBIDDEN.
func GuestAccessForbidden(format string, args ...any) *Error {
	return New(http.StatusForbidden, CodeGuestAccessForbidden, format, args...)
}

// MissingToken returns a 401 M_MISSING_TOKEN.
func MissingToken() *Error {
	return New(http.StatusUnauthorized, CodeMissingToken, "Missing access token")
}
