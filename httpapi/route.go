// Package httpapi is the HTTP entrance of the server: it routes and authenticates requests, enforces bounds on bodies,
// IDs and rates, decodes JSON, and writes answers and errors in the form that the specification defines. It depends on
// no service: the Authenticate function in its Options resolves access tokens.
//
// A request travels: ServeHTTP → router (grouped by first path segments), CORS or the headers of a page, request ID →
// path and query parameters → authentication → rate limit → bounds on the body → the route's Handler → the answer or
// the error writer → metrics and access log.
package httpapi

import "net/http"

// Auth is the kind of authentication that a route requires.
type Auth uint8

// The kinds of authentication.
const (
	None       Auth = iota // anybody
	Optional               // anybody; a token, if given, must be valid
	Applicant              // anybody; the token of an application service is recognised, and makes it the requester without a user
	User                   // an access token
	Admin                  // an administrator's access token
	AppService             // an application service's token
	Homeserver             // another homeserver, by its signature on the request
)

// Rate is a class of requests that share a rate limit per user, or per network for requesters who are not signed in.
type Rate uint8

// The classes; config.RateLimits has their numbers.
const (
	Unlimited     Rate = iota
	Reads              // history, state, members, relations, directories
	Sends              // events, receipts, typing, account data, push rules, keys and their backup
	Logins             // wrong passwords and tokens
	Registrations      // new accounts
	Joins              // joins, invites, room creation
	Invites            // by a user of another server, or to one user from the users of a server
	ServerInvites      // by all users of a server together
	Uploads            // media
	KeyClaim           // one-time keys
	Heartbeats         // restarts of delayed events
	Lookups            // lookups for unauthenticated requesters that make this server query others
	AllLookups         // all Lookups together
	Reports            // reports to the administrators
	Anonymous          // unauthenticated requests that read the database: login, registration, refresh, server keys
)

// Route is one operation of an API.
type Route struct {
	Method      string
	Path        string   // the specification's template: /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}
	Aliases     []string // equivalent templates: r0, v1, unstable names
	OperationID string
	File        string // the OpenAPI file that describes it, "" if none does
	Auth        Auth
	Rate        Rate
	MaxBody     int64 // bytes; 0: DefaultMaxBody
	Page        bool  // serves HTML to browsers, for errors too, and is closed to scripts of other sites (page.go)
	Locked      bool  // locked accounts may call it
	Guests      bool  // guest accounts may call it; anybody may call routes that need no token
	Acts        bool  // suspended accounts may not call it
	Handler     func(*Request) (any, error)
}

// DefaultMaxBody bounds a request body, in bytes, unless the route sets another bound: a 64 KiB event with room for
// generous escaping.
const DefaultMaxBody = 1 << 20

// Raw is an answer that is not a JSON value with status 200.
type Raw struct {
	Status      int    // 0: 200
	ContentType string // "": application/json
	Header      http.Header
	Body        []byte
}

// Stream is an answer that the handler writes itself. Errors that occur before the first byte must be returned by the
// handler instead.
type Stream func(w http.ResponseWriter, r *http.Request)
