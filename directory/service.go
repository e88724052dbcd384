// Package directory is what people see of rooms before they are in them: the room directory, aliases, room summaries
// and the hierarchy of spaces, for clients and for other servers. It is built on package rooms, from whose memory most
// of it is answered; what this server does not know it asks of other servers, whose answers are remembered for a while.
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

// The types of events that summaries are made from, and the type of a room that is a space.
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

// AppServices are the application services, which create the aliases in their namespaces when somebody asks for them.
// It is implemented by appservice.Registry.
type AppServices interface {
	rooms.Namespaces
	// ManagesAlias reports whether the requester is an application service with the alias in its namespaces.
	ManagesAlias(who ident.Requester, alias id.RoomAlias) bool
	// QueryAlias has an alias created that does not exist, and reports whether it may exist now.
	QueryAlias(ctx context.Context, alias id.RoomAlias) bool
}

// Options is what a Service is made of.
type Options struct {
	DB     *storage.DB
	Server string // this server's name
	Rooms  *rooms.Service
	Remote Remote           // nil: no other server is asked
	Apps   AppServices      // nil: there are no application services
	Cache  keyed.Budget     // bounds the answers of other servers that are remembered
	Now    func() time.Time // nil: the real time
	Log    *slog.Logger
}

// Service is safe for concurrent use.
type Service struct {
	db     *storage.DB
	server string
	rooms  *rooms.Service
	remote Remote
	apps   AppServices
	log    *slog.Logger

	spaces *keyed.Memo[spaceKey, *remoteSpace] // what other servers answer
}

// New returns a Service for the rooms of another one.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{
		db: o.DB, server: o.Server, rooms: o.Rooms, remote: o.Remote, apps: o.Apps, log: o.Log,
		spaces: newSpaces(o.Cache.Entries(maxRemoteSpaces), o.Now),
	}
}
