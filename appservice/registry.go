// Package appservice serves application services, such as bridges and bots. It manages their registrations and
// namespaces, sends requests to them, and delivers events and other news.
//
// Registry holds the registrations. It uses no database, so that packages of lower rank can use it, through interfaces
// of their own, to find out what is reserved for an application service.
//
// Service delivers events. A rooms.Commit that concerns an application service adds positions of events to the queue of
// its worker (committed). The worker reads the events in their current form, stores what the next transaction will
// contain, sends it, and stores its progress (worker.deliver).
package appservice

import (
	"crypto/sha256"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/config"
	"ebb/ident"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/rooms"
)

// Registry holds the registered application services and sends requests to them. It is safe for concurrent use.
type Registry struct {
	server string
	now    func() time.Time
	log    *slog.Logger
	http   *http.Client
	apps   atomic.Pointer[apps]

	protocols *keyed.Memo[protocolKey, *Protocol] // descriptions of third-party protocols by application services
}

// apps is a set of registrations.
type apps struct {
	list    []*app
	byToken map[tokenKey]*app
	byID    map[string]*app
}

// tokenKey is the hash of an access token. Looking tokens up by hash prevents an attacker from learning, by timing, how
// much of a guess is right.
type tokenKey [sha256.Size]byte

// app is a registered application service.
type app struct {
	config.AppService
	sender id.UserID
	server string
	compat compat
	// queries has a value for each query in progress. queryLogged is when an unanswered one was logged last, in ns.
	queries     chan struct{}
	queryLogged atomic.Int64
}

// NewRegistry returns a Registry with the application services of a configuration.
func NewRegistry(cfg *config.Config, now func() time.Time, log *slog.Logger) (*Registry, error) {
	r := &Registry{server: cfg.ServerName, now: now, log: log, http: newHTTPClient(), protocols: newProtocols(now)}
	r.apps.Store(&apps{})
	return r, r.load(cfg)
}

// load replaces the registrations by those that the configuration names. If one of them is invalid, nothing changes.
func (r *Registry) load(cfg *config.Config) error {
	registrations, mistakes := cfg.AppServices()
	if err := mistakes.Err(); err != nil {
		return err
	}
	next := &apps{byToken: map[tokenKey]*app{}, byID: map[string]*app{}}
	for _, one := range registrations {
		a := &app{AppService: one, sender: id.NewUserID(one.SenderLocalpart, r.server), server: r.server, queries: make(chan struct{}, maxQueries)}
		next.list = append(next.list, a)
		next.byToken[sha256.Sum256([]byte(one.ASToken))], next.byID[one.ID] = a, a
	}
	r.apps.Store(next)
	r.protocols.ForgetFunc(func(protocolKey) bool { return true })
	return nil
}

func (r *Registry) all() []*app { return r.apps.Load().list }

// byToken returns the application service with the given access token, or nil.
func (r *Registry) byToken(token string) *app {
	known := r.apps.Load().byToken
	if len(known) == 0 {
		return nil
	}
	return known[sha256.Sum256([]byte(token))]
}

// Any reports whether any application service is registered. A nil Registry has none.
func (r *Registry) Any() bool { return r != nil && len(r.all()) > 0 }

// ServiceOf returns a requester with the ID of the application service that has the given access token, and whether its
// requests are rate-limited. It returns false if no application service has the token.
func (r *Registry) ServiceOf(token string) (service ident.Requester, ok bool) {
	a := r.byToken(token)
	if a == nil {
		return service, false
	}
	return ident.Requester{AppService: a.ID, RateLimited: a.RateLimited}, true
}

// CannotSignIn reports whether an application service has declared that it manages devices without signing in.
func (r *Registry) CannotSignIn(service string) bool {
	a := r.apps.Load().byID[service]
	return a != nil && a.NoLogin
}

// matches reports whether an ID is in one of the namespaces.
func matches(list []config.Namespace, text string) bool {
	return slices.ContainsFunc(list, func(n config.Namespace) bool { return n.Pattern.MatchString(text) })
}

// reserves reports whether an ID is in one of the exclusive namespaces.
func reserves(list []config.Namespace, text string) bool {
	return slices.ContainsFunc(list, func(n config.Namespace) bool { return n.Exclusive && n.Pattern.MatchString(text) })
}

// owns reports whether a local user is the sender of the application service or in its namespaces.
func (a *app) owns(user id.UserID) bool {
	return user == a.sender || ident.ServerOf(user) == a.server && matches(a.Users, string(user))
}

func (a *app) ownsID(user string) bool { return a.owns(id.UserID(user)) }

// reservesUser reports whether the user ID may be used by this application service only.
func (a *app) reservesUser(user id.UserID) bool {
	return user == a.sender || ident.ServerOf(user) == a.server && reserves(a.Users, string(user))
}

// ExclusiveUser reports whether a local user may not be registered or signed in by the given application service, or by
// anybody else if service is empty. That is so if the user is in an exclusive namespace of another application service,
// or outside the namespaces of service.
func (r *Registry) ExclusiveUser(service, localpart string) bool {
	user := id.NewUserID(localpart, r.server)
	for _, a := range r.all() {
		if a.ID == service {
			if !a.owns(user) {
				return true
			}
		} else if a.reservesUser(user) {
			return true
		}
	}
	return false
}

// Owns reports whether a local user belongs to an application service: as its sender, or by its namespaces.
func (r *Registry) Owns(user id.UserID) bool {
	return slices.ContainsFunc(r.all(), func(a *app) bool { return a.owns(user) })
}

// MemberIn returns a user of an application service who is joined to a room, or "" if there is none.
func (r *Registry) MemberIn(service string, room *rooms.Room) id.UserID {
	a := r.apps.Load().byID[service]
	if a == nil {
		return ""
	}
	for m := range room.EachLocal() {
		if a.owns(m.User) {
			return m.User
		}
	}
	return ""
}

// MayUseAlias returns an error if the requester may not create or delete a local alias, because it is in an exclusive
// namespace of another application service or outside the namespaces of the requesting one.
//
// Errors: M_EXCLUSIVE.
func (r *Registry) MayUseAlias(who ident.Requester, alias id.RoomAlias) error {
	for _, a := range r.all() {
		switch {
		case a.ID == who.AppService && !matches(a.Aliases, string(alias)):
			return mxerr.New(http.StatusBadRequest, mxerr.CodeExclusive, "The alias %s is outside the namespaces of the application service", alias)
		case a.ID != who.AppService && reserves(a.Aliases, string(alias)):
			return mxerr.New(http.StatusBadRequest, mxerr.CodeExclusive, "The alias %s is reserved for an application service", alias)
		}
	}
	return nil
}

// ManagesAlias reports whether the requester is an application service that has an alias in its namespaces. It may then
// delete the alias, no matter who created it.
func (r *Registry) ManagesAlias(who ident.Requester, alias id.RoomAlias) bool {
	a := r.apps.Load().byID[who.AppService]
	return a != nil && matches(a.Aliases, string(alias))
}
