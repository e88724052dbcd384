package appservice

import (
	"context"
	"errors"
	"net/url"
	"time"

	"maunium.net/go/mautrix/id"
)

// maxQueryTime bounds how long a request for a user or an alias waits for an application service to create it.
const maxQueryTime = 20 * time.Second

// maxQueries bounds the queries in progress to one application service, since anybody can cause them by asking for the
// profiles of users that do not exist. The other connections stay free for transactions.
const maxQueries = connections / 2

// queryLogPause is the pause between two log lines about queries to which an application service did not answer.
const queryLogPause = time.Minute

// QueryUser asks the application services that have an unknown local user in their namespaces whether the user exists,
// so that they can create it. It reports whether one of them confirmed that the user exists.
// Spec: application-service-api#get_matrixappv1usersuserid
func (r *Registry) QueryUser(ctx context.Context, user id.UserID) bool {
	return r.query(ctx, "/users/"+url.PathEscape(string(user)), func(a *app) bool { return user != a.sender && a.owns(user) })
}

// QueryAlias asks the application services that have an unknown local alias in their namespaces whether it exists, so
// that they can create it. It reports whether one of them confirmed that the alias exists.
// Spec: application-service-api#get_matrixappv1roomsroomalias
func (r *Registry) QueryAlias(ctx context.Context, alias id.RoomAlias) bool {
	return r.query(ctx, "/rooms/"+url.PathEscape(string(alias)), func(a *app) bool { return matches(a.Aliases, string(alias)) })
}

func (r *Registry) query(ctx context.Context, path string, concerned func(*app) bool) bool {
	for _, a := range r.all() {
		if a.URL == "" || !concerned(a) {
			continue
		}
		if r.exists(ctx, a, path) {
			return true
		}
	}
	return false
}

// exists asks one application service whether a user or an alias exists.
func (r *Registry) exists(ctx context.Context, a *app, path string) bool {
	ctx, cancel := context.WithTimeout(ctx, maxQueryTime)
	defer cancel()
	select {
	case a.queries <- struct{}{}:
		defer func() { <-a.queries }()
	case <-ctx.Done():
		return false
	}
	_, err := r.do(ctx, a, call{method: "GET", path: "/_matrix/app/v1" + path, legacy: path})
	var refused *statusError
	now, last := r.now().UnixNano(), a.queryLogged.Load()
	if err != nil && !errors.As(err, &refused) && now-last >= int64(queryLogPause) && a.queryLogged.CompareAndSwap(last, now) {
		r.log.InfoContext(ctx, "an application service did not answer a query", "appservice", a.ID, "err", err)
	}
	return err == nil
}
