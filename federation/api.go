// Package federation implements the server-server API for requests from other servers. There is one file for each
// OpenAPI file of the specification, and one method for each operation. A handler parses the request, calls one service
// and builds the response. httpapi has verified the request's signature, which identifies the requesting server.
// Requests to other servers are made by package fedclient, and transactions are sent by package outbox.
package federation

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/directory"
	"ebb/e2ee"
	"ebb/fedclient"
	"ebb/history"
	"ebb/httpapi"
	"ebb/media"
	"ebb/mxerr"
	"ebb/rooms"
)

// EDU processes an EDU of one type. Its error is logged but not reported to the sender.
type EDU func(ctx context.Context, origin string, content json.RawMessage) error

// API holds the services behind the server-server API.
type API struct {
	Server    string // this server's name
	Version   string
	Rooms     *rooms.Service
	History   *history.Service
	Directory *directory.Service
	Accounts  *accounts.Service
	E2EE      *e2ee.Service
	Media     *media.Service
	Keys      *fedclient.KeyRing
	EDUs      map[string]EDU // by edu_type
	Now       func() time.Time
	Log       *slog.Logger

	transactions *transactions
	later        *later
}

// New returns an API.
func New(a API) *API {
	a.transactions, a.later = newTransactions(), newLater()
	return &a
}

// Routes returns the routes of all operations.
func (a *API) Routes() []httpapi.Route {
	return slices.Concat(
		a.backfillRoutes(), a.contentRepositoryRoutes(), a.eventAuthRoutes(), a.eventsRoutes(), a.invitesRoutes(), a.joinsRoutes(), a.keysQueryRoutes(), a.keysServerRoutes(),
		a.knocksRoutes(), a.leavingRoutes(), a.openidRoutes(), a.publicRoomsRoutes(), a.queryRoutes(), a.spaceHierarchyRoutes(), a.thirdPartyInviteRoutes(),
		a.transactionsRoutes(), a.userDevicesRoutes(), a.userKeysRoutes(), a.versionRoutes(),
	)
}

const (
	v1 = "/_matrix/federation/v1"
	v2 = "/_matrix/federation/v2"
)

// route returns the route of an operation that requires a signed request.
func route(method, path, operation, file string, h func(*httpapi.Request) (any, error)) httpapi.Route {
	return httpapi.Route{Method: method, Path: path, OperationID: operation, File: file, Auth: httpapi.Homeserver, Handler: h}
}

func roomID(r *httpapi.Request) id.RoomID { return id.RoomID(r.Var("roomId")) }

func eventID(r *httpapi.Request) id.EventID { return id.EventID(r.Var("eventId")) }

// required returns a query parameter, or an error if it is missing.
func required(r *httpapi.Request, name string) (string, error) {
	if v := r.Query(name); v != "" {
		return v, nil
	}
	return "", mxerr.MissingParam("%s is missing", name)
}
