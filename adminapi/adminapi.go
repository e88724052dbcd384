// Package adminapi is the interface for administrators. It consists of the control socket, which the command line uses
// while the server is running, and of HTTP routes for scripts that were written for other homeservers.
//
// A command passes from ebb through Client.Call and the control socket to Control, then to a function in commands and
// from there to a service. If no server is running, the command opens the services itself and calls the same function
// through Run.
package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"ebb/accounts"
	"ebb/accounts/factors"
	"ebb/appservice"
	"ebb/audit"
	"ebb/config"
	"ebb/deletions"
	"ebb/directory"
	"ebb/erasure"
	"ebb/export"
	"ebb/fedclient"
	"ebb/history"
	"ebb/holds"
	"ebb/httpapi"
	"ebb/mail"
	"ebb/media"
	"ebb/moderation"
	"ebb/mxerr"
	"ebb/notices"
	"ebb/outbox"
	"ebb/redactions"
	"ebb/retention"
	"ebb/rooms"
	"ebb/secrets"
	"ebb/storage"
)

// API holds the services that administrators use. All fields are required unless their comments say otherwise.
type API struct {
	Config     *config.Config
	Accounts   *accounts.Service
	Factors    *factors.Service
	Rooms      *rooms.Service
	History    *history.Service
	Directory  *directory.Service
	Redactions *redactions.Service
	Erasure    *erasure.Job
	Retention  *retention.Job
	Moderation *moderation.Service
	Media      *media.Service
	Outbox     *outbox.Service
	Apps       *appservice.Service
	Mail       *mail.Sender // nil if the server sends no e-mail
	Signing    *fedclient.SigningKeys
	Secrets    *secrets.Ring
	Audit      *audit.Log
	Notices    *notices.Service
	Holds      *holds.Service
	Deletions  *deletions.Log // nil if no receipts are made
	Export     *export.Service
	DB         *storage.DB
	Now        func() time.Time
	Log        *slog.Logger

	nonces *nonces
	hold   *hold
	secret *atomic.Pointer[string] // the current registration.shared_secret
}

// New returns an API.
func New(a API) *API {
	a.nonces, a.secret, a.hold = newNonces(a.Now), &atomic.Pointer[string]{}, &hold{}
	a.SetSharedSecret(a.Config.Registration.SharedSecret)
	return &a
}

// commands returns the commands of the control socket by name.
func (a *API) commands() map[string]func(ctx context.Context, args json.RawMessage) (any, error) {
	return map[string]func(context.Context, json.RawMessage) (any, error){
		"user add":             decoded(a.userAdd),
		"user list":            decoded(a.userList),
		"user passwd":          decoded(a.userPasswd),
		"user admin":           decoded(a.userAdmin),
		"user deactivate":      decoded(a.userDeactivate),
		"user erase":           decoded(a.userErase),
		"user erasure":         decoded(a.userErasure),
		"user lock":            decoded(a.userLock),
		"user export":          decoded(a.userExport),
		"user export status":   decoded(a.userExportStatus),
		"user export read":     decoded(a.userExportRead),
		"user export drop":     decoded(a.userExportDrop),
		"user redact":          decoded(a.userRedact),
		"user redactions":      decoded(a.userRedactions),
		"user identities":      decoded(a.userIdentities),
		"user link":            decoded(a.userLink),
		"user unlink":          decoded(a.userUnlink),
		"user unlock":          decoded(a.userUnlock),
		"user suspend":         decoded(a.userSuspend),
		"user unsuspend":       decoded(a.userUnsuspend),
		"user mfa":             decoded(a.userMFA),
		"user enrol-link":      decoded(a.userEnrolLink),
		"user enrol-list":      decoded(a.userEnrolList),
		"user enrol-revoke":    decoded(a.userEnrolRevoke),
		"admin recover":        decoded(a.adminRecover),
		"notice send":          decoded(a.noticeSend),
		"token create":         decoded(a.tokenCreate),
		"token issue":          decoded(a.tokenIssue),
		"token issued":         decoded(a.tokenIssued),
		"token withdraw":       decoded(a.tokenWithdraw),
		"token list":           decoded(a.tokenList),
		"token revoke":         decoded(a.tokenRevoke),
		"room list":            decoded(a.roomList),
		"room show":            decoded(a.roomShow),
		"room retention show":  decoded(a.roomRetentionGet),
		"room retention get":   decoded(a.roomRetentionGet), // the former name
		"room retention set":   decoded(a.roomRetentionSet),
		"room retention clear": decoded(a.roomRetentionClear),
		"report list":          decoded(a.reportList),
		"media list":           decoded(a.mediaList),
		"media delete":         decoded(a.mediaDelete),
		"media quarantine":     decoded(a.mediaQuarantine),
		"media gc":             decoded(a.mediaGC),
		"receipts list":        decoded(a.receiptsList),
		"receipts keys":        decoded(a.receiptsKeys),
		"hold add":             decoded(a.holdAdd),
		"hold list":            decoded(a.holdList),
		"hold show":            decoded(a.holdShow),
		"hold review":          decoded(a.holdReview),
		"hold lift":            decoded(a.holdLift),
		"hold export":          decoded(a.holdExport),
		"purge now":            decoded(a.purgeNow),
		"purge status":         decoded(a.purgeStatus),
		"federation status":    decoded(a.federationStatus),
		"federation retry":     decoded(a.federationRetry),
		"email test":           decoded(a.emailTest),
		"appservice list":      decoded(a.appserviceList),
		"appservice ping":      decoded(a.appservicePing),
		"keys list":            decoded(a.keysList),
		"keys rotate":          decoded(a.keysRotate),
		"backup begin":         decoded(a.backupBegin),
		"backup renew":         decoded(a.backupRenew),
		"backup end":           decoded(a.backupEnd),
		"backup policy":        decoded(a.backupPolicy),
	}
}

// decoded converts a function with typed arguments to a command, which decodes its arguments from JSON.
func decoded[T any](f func(context.Context, T) (any, error)) func(context.Context, json.RawMessage) (any, error) {
	return func(ctx context.Context, raw json.RawMessage) (any, error) {
		var args T
		if err := httpapi.DecodeJSON(raw, &args); err != nil {
			return nil, err
		}
		return f(ctx, args)
	}
}

// Run runs a command of the command line.
func (a *API) Run(ctx context.Context, name string, args json.RawMessage) (any, error) {
	return a.run(audit.WithActor(ctx, "command line"), name, args)
}

// run runs a command for the actor of the context.
func (a *API) run(ctx context.Context, name string, args json.RawMessage) (any, error) {
	f, known := a.commands()[name]
	if !known {
		return nil, mxerr.Unrecognized()
	}
	if len(args) == 0 {
		args = json.RawMessage("{}")
	}
	result, err := f(ctx, args)
	if unrecorded := a.record(ctx, name, args, err); err == nil {
		err = unrecorded
	}
	return result, err
}

// reading are the commands that change nothing. All others are recorded in the audit log.
var reading = []string{"user list", "user redactions", "user erasure", "user export status", "user export read", "user export drop", "user enrol-list", "token list", "token issued", "room list", "room show", "room retention show", "room retention get", "purge status", "hold list", "hold show", "receipts list", "receipts keys", "report list", "media list", "federation status", "appservice list", "keys list", "backup renew", "backup end", "backup policy"}

// recorded are the arguments of commands that the audit log shows: none that may be a secret.
var recorded = []string{"user", "room", "server", "uri", "lift", "dry_run", "id", "device", "admin", "erase", "everything", "all", "sign_out", "uses", "expires", "lifetime_ms", "age_ms", "daily", "cancel", "service", "min_lifetime_ms", "max_lifetime_ms", "review"}

// record adds a command to the audit log, whether it has succeeded or not.
func (a *API) record(ctx context.Context, name string, args json.RawMessage, failed error) error {
	if slices.Contains(reading, name) {
		return nil
	}
	given := map[string]any{}
	if err := json.Unmarshal(args, &given); err != nil {
		given = nil // the command has refused these arguments
	}
	var attrs []any
	for _, arg := range recorded {
		if value, ok := given[arg]; ok {
			attrs = append(attrs, arg, value)
		}
	}
	if failed != nil {
		attrs = append(attrs, "error", failed)
	}
	return a.Audit.Record(context.WithoutCancel(ctx), "command: "+name, attrs...)
}

// controlPrefix is the path prefix of commands on the control socket. It is followed by the words of the command's
// name, separated by slashes.
const controlPrefix = "/control/"

// maxControlBody is the maximum size of a command's arguments in bytes.
const maxControlBody = 1 << 20

// Control returns the handler of the control socket.
func (a *API) Control() http.Handler {
	var routes []httpapi.Route
	for name := range a.commands() {
		routes = append(routes, httpapi.Route{
			Method: "POST", Path: controlPrefix + strings.ReplaceAll(name, " ", "/"), OperationID: name, MaxBody: maxControlBody,
			Handler: func(r *httpapi.Request) (any, error) {
				body, err := r.Body()
				if err != nil {
					return nil, err
				}
				result, err := a.Run(r.Context(), name, body)
				if e, ok := result.(*holds.Export); ok && err == nil {
					return a.streamed(e), nil
				}
				return result, err
			},
		})
	}
	slices.SortFunc(routes, func(x, y httpapi.Route) int { return strings.Compare(x.Path, y.Path) })
	return httpapi.New(httpapi.Options{Routes: routes, Log: a.Log})
}

// Call runs a command on the running server and decodes its result. If the server returns an error, it is an
// mxerr.Error.
func (c *Client) Call(ctx context.Context, name string, args, result any) error {
	resp, err := c.post(ctx, name, args)
	if err != nil {
		return err
	}
	err = decodeAnswer(resp, result)
	return errors.Join(err, resp.Body.Close())
}

// post sends a command to the server.
func (c *Client) post(ctx context.Context, name string, args any) (*http.Response, error) {
	body, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control"+controlPrefix+strings.ReplaceAll(name, " ", "/"), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return c.http.Do(req)
}

// Stream runs a command whose result is a file, and writes it to w.
func (c *Client) Stream(ctx context.Context, name string, args any, w io.Writer) error {
	resp, err := c.post(ctx, name, args)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		err = decodeAnswer(resp, nil)
	} else if _, err = io.Copy(w, resp.Body); err != nil {
		err = fmt.Errorf("the server could not write all of it; see its log: %w", err)
	}
	return errors.Join(err, resp.Body.Close())
}

func decodeAnswer(resp *http.Response, result any) error {
	if resp.StatusCode == http.StatusOK {
		return json.NewDecoder(resp.Body).Decode(result)
	}
	var e struct {
		Code string `json:"errcode"`
		Msg  string `json:"error"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil {
		return fmt.Errorf("the server answered %s: %w", resp.Status, err)
	}
	return mxerr.New(resp.StatusCode, e.Code, "%s", e.Msg)
}
