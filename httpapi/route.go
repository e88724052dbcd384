// Package httpapi is the door: it finds the handler of a request, knows who asks, keeps bodies, ids and rates within
// bounds, decodes JSON, and writes answers and errors in the one form of the specification. It knows no service: who a
// token belongs to is told by the Authenticate function that it is given.
//
// A request travels: ServeHTTP → router (grouped by first path segments), CORS or the headers of a page, request id → path and query parameters →
// authentication → rate limit → bounds on the body → the route's Handler → the answer or the error writer → metrics and
// access log.
package httpapi

import "net/http"

// Auth says who may call a route.
type Auth uint8

// The kinds of authentication.
const (
	None       Auth = iota // anybody
	Optional               // anybody; a token, if given, must be good
	User                   // an access token
	Admin                  // an access token of an administrator
	AppService             // an application service's token
	Homeserver             // another homeserver, by its signature on the request
)

// Rate is a class of requests that share a rate limit per user, or per address where nobody is signed in.
type Rate uint8

// The classes; config.RateLimits has their numbers.
const (
	Unlimited     Rate = iota
	Reads              // history, state, members, relations, directories
	Sends              // events, receipts, typing, account data, push rules, keys and their backup
	Logins             // wrong passwords and tokens
	Registrations      // new accounts
	Joins              // joins, invites, room creation
	Invites            // by a user of another server, or of one user by the users of a server
	ServerInvites      // by all users of a server
	Uploads            // media
	KeyClaim           // one-time keys
	Lookups            // in which somebody without access token makes this server ask others, by network
	AllLookups         // all of those together
	Anonymous          // what needs no access token and reads the database: signing in, registering, refreshing, keys of servers
)

// Route is one operation of an API.
type Route struct {
	Method      string
	Path        string   // the specification's template: /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}
	Aliases     []string // other templates that mean the same: r0, v1, unstable names
	OperationID string
	File        string // the OpenAPI file that describes it, "" for others
	Auth        Auth
	Rate        Rate
	MaxBody     int64 // bytes; 0: DefaultMaxBody
	Page        bool  // answers people in a browser: HTML, errors too, and not for the scripts of other sites (page.go)
	Handler     func(*Request) (any, error)
}

// DefaultMaxBody bounds a request body where the route does not say otherwise, in bytes: a 64 KiB event with room for
// generous escaping.
const DefaultMaxBody = 1 << 20

// Raw is an answer that is not a 200 with JSON of a value.
type Raw struct {
	Status      int    // 0: 200
	ContentType string // "": application/json
	Header      http.Header
	Body        []byte
}

// Stream is an answer that the handler writes itself; errors before the first byte are the handler's to return instead.
type Stream func(w http.ResponseWriter, r *http.Request)
