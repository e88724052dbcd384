// Package directory provides what people can see of rooms before they join: the room directory, aliases, room summaries
// and the hierarchy of spaces, for clients and for other servers. It answers mostly from the memory of package rooms.
// About rooms that this server does not know, it asks other servers and caches their responses for a while.
//
// It writes only aliases. Whether a room is published, and its m.room.canonical_alias, are changed by methods of
// rooms.Service, because rooms is the only writer of rooms.
package directory

import (
	"context"
	"log/slog"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/keyed"
	"ebb/rooms"
	"ebb/storage"
)

// These are the types of events from which summaries are made, and the room type of a space.
const (
	typeCreate            = "m.room.create"
	typeName              = "m.room.name"
	typeTopic             = "m.room.topic"
	typeAvatar            = "m.room.avatar"
	typeCanonicalAlias    = "m.room.canonical_alias"
	typeJoinRules         = "m.room.join_rules"
	typeHistoryVisibility = "m.room.history_visibility"
	typeGuestAccess       = "m.room.guest_access"
	typeEncryption        = "m.room.encryption"
	typeSpaceChild        = "m.space.child"

	roomTypeSpace = "m.space"
)

// AppServices are the application services, which may create aliases in their namespaces on demand. appservice.Registry
// implements it.
type AppServices interface {
	rooms.Namespaces
	// ManagesAlias reports whether the requester is an application service that has the alias in its namespaces.
	ManagesAlias(who ident.Requester, alias id.RoomAlias) bool
	// QueryAlias asks application services to create an alias that does not exist, and reports whether it may exist
	// now.
	QueryAlias(ctx context.Context, alias id.RoomAlias) bool
}

// Administrators are the administrators of the server. accounts.Service implements it.
type Administrators interface {
	// Administer returns an error unless the requester may act as an administrator now.
	Administer(ctx context.Context, who ident.Requester) error
}

// Options are the dependencies and settings of a Service.
type Options struct {
	DB     *storage.DB
	Server string // this server's name
	Rooms  *rooms.Service
	Admins Administrators
	Remote Remote           // nil means that no other server is asked
	Apps   AppServices      // nil means that there are no application services
	Cache  keyed.Budget     // bounds the cached responses of other servers, and descriptions of published rooms
	Now    func() time.Time // nil means time.Now
	// Commits tells which descriptions are out of date.
	Commits *rooms.Commits
	Log     *slog.Logger
}

// Service manages aliases and provides the room directory, summaries and hierarchies. It is safe for concurrent use.
type Service struct {
	db     *storage.DB
	server string
	rooms  *rooms.Service
	admins Administrators
	remote Remote
	apps   AppServices
	log    *slog.Logger

	spaces       *keyed.Memo[spaceKey, *remoteSpace]      // responses of other servers
	descriptions *keyed.Memo[ident.RoomNID, *description] // of published rooms
	strangers    chan struct{}                            // has a value while a query of a stranger is answered
}

// New returns a Service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		db: o.DB, server: o.Server, rooms: o.Rooms, admins: o.Admins, remote: o.Remote, apps: o.Apps, log: o.Log,
		spaces: newSpaces(o.Cache.Bytes(maxRemoteSpaces), o.Now), descriptions: newDescriptions(o.Cache.Bytes(maxDescriptions)), strangers: make(chan struct{}, strangersAtOnce),
	}
	o.Commits.Subscribe(s.committed)
	return s
}

// orAdministrator returns nil if the requester may act as an administrator now. It returns refused for users who are
// not administrators.
func (s *Service) orAdministrator(ctx context.Context, who ident.Requester, refused error) error {
	if !who.IsAdmin {
		return refused
	}
	return s.admins.Administer(ctx, who)
}
