// Package clientapi implements the client-server API: one file per OpenAPI file of the specification, one method per
// operation. A handler parses the request, calls one service and builds the response; the services decide what is
// allowed.
package clientapi

import (
	"cmp"
	"encoding/json"
	"log/slog"
	"slices"
	"time"

	"ebb/accountdata"
	"ebb/accounts"
	"ebb/accounts/oauth"
	"ebb/accounts/rendezvous"
	"ebb/accounts/upstream"
	"ebb/appservice"
	"ebb/config"
	"ebb/delayed"
	"ebb/directory"
	"ebb/e2ee"
	"ebb/feed"
	"ebb/history"
	"ebb/holds"
	"ebb/httpapi"
	"ebb/identity"
	"ebb/media"
	"ebb/moderation"
	"ebb/mxerr"
	"ebb/preview"
	"ebb/push"
	"ebb/pushrules"
	"ebb/receipts"
	"ebb/redactions"
	"ebb/rooms"
)

// API holds the services behind the client-server API. All fields are required unless their comments say otherwise.
type API struct {
	Config      *config.Config
	Accounts    *accounts.Service
	Rooms       *rooms.Service
	AccountData *accountdata.Service
	Receipts    *receipts.Service
	History     *history.Service
	Directory   *directory.Service
	Feed        *feed.Service
	E2EE        *e2ee.Service
	Push        *pushrules.Rules
	Pushers     *push.Service
	Media       *media.Service
	Moderation  *moderation.Service
	Holds       *holds.Service
	Services    *appservice.Registry
	Delayed     *delayed.Service
	Redactions  *redactions.Service
	Previews    *preview.Service // nil if previews are off
	Identity    *identity.Client
	OAuth       *oauth.Service // nil if OAuth 2.0 is off
	Upstream    *upstream.Service
	Rendezvous  *rendezvous.Service
	Now         func() time.Time
	Log         *slog.Logger
}

// New returns an API.
func New(a API) *API { return &a }

// Routes returns the routes of all operations.
func (a *API) Routes() []httpapi.Route {
	return byStanding(slices.Concat(
		a.accountDataRoutes(), a.accountDeactivationRoutes(), a.adminRoutes(), a.administrativeContactRoutes(), a.appserviceRoutes(), a.authedContentRepoRoutes(),
		a.banningRoutes(), a.capabilitiesRoutes(), a.contentRepoRoutes(), a.createRoomRoutes(), a.crossSigningRoutes(), a.dehydratedDeviceRoutes(),
		a.delayedEventRoutes(), a.deviceManagementRoutes(), a.directoryRoutes(), a.eventContextRoutes(), a.filterRoutes(), a.invitingRoutes(),
		a.joiningRoutes(), a.keyBackupRoutes(), a.keysRoutes(), a.kickingRoutes(), a.knockingRoutes(), a.leavingRoutes(),
		a.listJoinedRoomsRoutes(), a.listPublicRoomsRoutes(), a.loginRoutes(), a.loginTokenRoutes(), a.logoutRoutes(),
		a.messageLifetimeRoutes(), a.messagePaginationRoutes(), a.mutualRoomsRoutes(), a.notificationsRoutes(), a.oauthRoutes(), a.oldSyncRoutes(), a.openidRoutes(), a.passwordManagementRoutes(), a.peekingEventsRoutes(), a.presenceRoutes(), a.profileRoutes(), a.pusherRoutes(),
		a.pushrulesRoutes(), a.readMarkersRoutes(), a.receiptsRoutes(), a.redactionRoutes(), a.refreshRoutes(),
		a.registrationRoutes(), a.registrationTokensRoutes(), a.relationsRoutes(), a.rendezvousRoutes(), a.reportContentRoutes(), a.retentionRoutes(), a.roomEventByTimestampRoutes(),
		a.roomInitialSyncRoutes(), a.roomSendRoutes(), a.roomStateRoutes(), a.roomSummaryRoutes(), a.roomUpgradesRoutes(), a.roomsRoutes(), a.rtcTransportsRoutes(), a.searchRoutes(), a.slidingSyncRoutes(), a.spaceHierarchyRoutes(), a.supportRoutes(), a.syncRoutes(),
		a.tagsRoutes(), a.thirdPartyLookupRoutes(), a.threadSubscriptionRoutes(), a.threadsListRoutes(), a.toDeviceRoutes(), a.typingRoutes(),
		a.urlPreviewRoutes(), a.usersRoutes(), a.versionsRoutes(), a.voipRoutes(), a.wellknownRoutes(), a.whoamiRoutes(),
	))
}

// interactiveAuth returns an error unless the user has confirmed the operation with the account's password. It is for
// operations that must not be possible with only an access token. Requests of application services are exempt, because
// their users have no passwords.
// Spec: client-server-api#user-interactive-authentication-api
func (a *API) interactiveAuth(r *httpapi.Request, operation string) error {
	if r.AppService != "" {
		return nil
	}
	body, err := members(r)
	if err != nil {
		return err
	}
	return a.Accounts.Confirm(r.Context(), accounts.Asked{Operation: operation, Requester: r.Requester, Body: body, Target: cmp.Or(r.Var("deviceId"), r.Var("roomId"))})
}

// members decodes the body, which must be a JSON object, and returns its fields.
func members(r *httpapi.Request) (map[string]json.RawMessage, error) {
	var body map[string]json.RawMessage
	err := r.Decode(&body)
	return body, err
}

// missing returns the error for a request that lacks the field or parameter with the given name.
func missing(what string) error { return mxerr.MissingParam("%s is missing", what) }
