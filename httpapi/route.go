// Package httpapi is the HTTP layer of the server. It routes and authenticates requests, enforces bounds on bodies, IDs
// and rates, decodes JSON, and writes answers and errors in the form that the specification defines. It does not depend
// on any service: the function Authenticate in its Options resolves access tokens.
//
// A request passes through ServeHTTP, the router, CORS or the headers of a page, and the request ID; then path and
// query parameters are parsed, the requester is authenticated, rate limits and the bounds on the body are applied, and
// the route's Handler is called. Finally the answer or the error is written, and metrics and the access log are
// updated.
package httpapi

import (
	"net/http"

	"ebb/mxerr"
)

// Auth is the kind of authentication that a route requires.
type Auth uint8

// The kinds of authentication.
const (
	None       Auth = iota // anybody may call it
	Optional               // anybody; a token that is given must be valid
	Applicant              // anybody; if the token of an application service is given, the requester is that service without a user
	User                   // a user's access token
	Admin                  // an administrator's access token, if Options.Administer allows it
	AppService             // an application service's token
	Homeserver             // another homeserver, authenticated by its signature
)

// Rate is a class of requests that share a rate limit. Limits are counted per user, or per network for unauthenticated
// requesters.
type Rate uint8

// The classes of requests. Their limits are set in config.RateLimits.
const (
	Unlimited     Rate = iota
	Reads              // history, state, members, relations, directories
	Sends              // events, receipts, typing, account data, push rules, keys and their backup
	Logins             // wrong passwords and tokens
	Registrations      // new accounts
	Joins              // joins, invites, room creation
	Invites            // invites by a user of another server, or invites to one user by users of one server
	ServerInvites      // invites by all users of one server
	Uploads            // media
	KeyClaim           // one-time keys
	Heartbeats         // restarts of delayed events
	Lookups            // lookups that unauthenticated clients cause this server to send to other servers
	AllLookups         // all Lookups together
	NewClients         // OAuth 2.0 clients that are not registered yet
	Reports            // reports to the administrators
	Anonymous          // unauthenticated requests that read the database: login, registration, refresh, server keys
)

// Route is one operation of an API.
type Route struct {
	Method      string
	Path        string   // template of the specification: /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}
	Aliases     []string // equivalent templates: r0, v1 and unstable names
	OperationID string
	File        string // the OpenAPI file that describes the operation, or ""
	Auth        Auth
	Rate        Rate
	MaxBody     int64                       // in bytes; 0 means DefaultMaxBody
	Page        bool                        // serves HTML to browsers, also for errors, and is closed to scripts of other sites (page.go)
	Locked      bool                        // locked accounts may call it
	Guests      bool                        // guests may call it; for routes that require a token
	Acts        bool                        // suspended accounts may not call it
	Handler     func(*Request) (any, error) // the answer: a Raw, a Stream, a Poll, or what is encoded as JSON
	ErrorBody   func(*mxerr.Error) []byte   // the body of error responses; nil: that of the Matrix specification
}

// DefaultMaxBody is the maximum size of a request body in bytes, unless the route has another bound. It is enough for a
// 64 KiB event with many escape sequences.
const DefaultMaxBody = 1 << 20

// Raw is an answer for which a handler chooses the status, the headers or the content type. Any other answer is JSON
// with status 200.
type Raw struct {
	Status      int    // 0 means 200
	ContentType string // "" means application/json
	Header      http.Header
	Body        []byte
}

// Stream is an answer that the handler writes itself. The handler must return errors that occur before the first byte
// instead of writing them.
type Stream func(w http.ResponseWriter, r *http.Request)
