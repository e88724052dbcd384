// Package rooms is the only writer of timelines and state, and keeps the rooms in use in memory. Packages history and
// directory, which are built on this one, serve reads by clients and other servers.
//
// A write passes through these steps: a method of Service calls change; under the room's lock a batch of events is
// built on the provisional head, checked and queued as one storage.Write; the lock is released; the write commits; its
// Committed hook applies the batch to the committed head, which is all that readers see, and delivers a Commit to the
// listeners, the last of which wakes waiting syncs; the method returns. If a queued write fails, later writes of the
// room notice it by the generation in the room's row, and are built again on the head in the database.
package rooms

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/deletions"
	"ebb/ident"
	"ebb/keyed"
	"ebb/pushrules"
	"ebb/rooms/encryption"
	"ebb/rooms/expiry"
	"ebb/rooms/graph"
	"ebb/rooms/invites"
	"ebb/rooms/legalhold"
	"ebb/rooms/parking"
	"ebb/rooms/pdu"
	"ebb/rooms/roomcache"
	"ebb/rooms/signatures"
	"ebb/rooms/sticky"
	"ebb/rooms/txns"
	"ebb/rooms/workers"
	"ebb/storage"
	"ebb/wake"
)

// Push applies push rules. It is implemented by pushrules.Rules.
type Push interface {
	// Evaluate returns the outcome of an event for the members. It must be fast, because it runs under the room's lock.
	Evaluate(e *pdu.Event, room pushrules.RoomInfo) pushrules.Outcome
	// Follow copies a user's push rules for a room to the room that replaces it.
	Follow(ctx context.Context, nid ident.UserNID, user id.UserID, from, to id.RoomID) error
}

// Profile is the profile in a user's member events.
type Profile struct{ DisplayName, AvatarURL string }

// Retention is the server's policy on how long messages are kept.
type Retention struct {
	Default expiry.Policy   // for rooms without a policy of their own
	ByKind  expiry.Defaults // the same for rooms of certain kinds, before Default
	Limits  expiry.Limits

	Redacted time.Duration // how long the originals of redacted events are kept, and moderators can read them

	SupersededState bool // whether a purge also removes the content of old state that newer state has replaced
}

// Namespaces checks names against those reserved for application services. It is implemented by appservice.Registry.
type Namespaces interface {
	// MayUseAlias returns M_EXCLUSIVE if the requester may not create or delete an alias of this server.
	MayUseAlias(who ident.Requester, alias id.RoomAlias) error
}

// Options configures a Service.
type Options struct {
	DB             *storage.DB
	Server         string // this server's name
	Signer         pdu.SignerSource
	Hub            *wake.Hub
	Push           Push // nil: events cause no notifications
	Now            func() time.Time
	Retention      Retention
	Encryption     encryption.Policy
	Deletions      *deletions.Log // makes receipts of purges; nil: there are none
	Commits        *Commits       // delivers commits to listeners; nil: there are none
	CacheBytes     int64          // memory budget for rooms in use; 0: 128 MiB
	Cache          keyed.Budget   // memory budget of the other caches
	Log            *slog.Logger
	DefaultVersion id.RoomVersion // used if a request to create a room has none; "" is pdu.Default
	// Profile returns the profile of a local user; nil: all profiles are empty.
	Profile func(ctx context.Context, user id.UserID) (Profile, error)
	// Remote and Keys send requests to other servers; nil: federation is off.
	Remote Remote
	Keys   signatures.Keys
	// Namespaces are the names reserved for application services; nil: none.
	Namespaces Namespaces
	// NoticeSender is the user who sends server notices; "": nobody. Its invites can be neither blocked nor rejected.
	NoticeSender id.UserID
	// PolicyServers is asked about events of rooms with a policy server; nil: policy servers are ignored.
	PolicyServers signatures.PolicyServers
}

// Service reads and writes rooms. It is safe for concurrent use.
type Service struct {
	opts Options
	db   *storage.DB
	log  *slog.Logger

	// loading is held while a room is loaded from the database. It is locked before the lock of cache.
	loading sync.Mutex
	cache   *roomcache.Cache[Room]
	users   *keyed.Map[id.UserID, ident.UserNID] // numbers of users
	own     membershipCache
	txns    *txns.Table

	partials  *workers.Set
	briefWait time.Duration // see the constant

	joining  *keyed.Semaphore[id.RoomID] // one join of a room through other servers at a time
	parking  *parking.Lot
	verifier *signatures.Verifier

	toDecide  chan ident.RoomNID // rooms with undecided events that have received events
	toReadmit chan ident.RoomNID // rooms with soft-failed sticky events whose state has changed
	sticky    sticky.Table

	lastCreated atomic.Int64 // ms; see createTime

	erased  erasures
	holds   legalhold.Set
	threads threadCache
	invites *invites.Policy
}

// New returns a Service. Rooms are loaded when they are first used.
func New(ctx context.Context, o Options) (*Service, error) {
	if o.DefaultVersion == "" {
		o.DefaultVersion = pdu.Default
	}
	if _, ok := pdu.VersionOf(o.DefaultVersion); !ok {
		return nil, fmt.Errorf("rooms: unknown default room version %q", o.DefaultVersion)
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 128 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		opts: o, db: o.DB, log: o.Log, parking: parking.NewLot(), txns: txns.New(o.DB, o.Now), partials: workers.New(partialGauge), invites: invites.NewPolicy(o.DB, o.Server, o.Cache), verifier: signatures.NewVerifier(o.Server, o.Signer, o.Keys), briefWait: briefWait,
		users: keyed.NewMap[id.UserID, ident.UserNID](o.Cache.Entries(maxCachedUsers)), joining: keyed.NewSemaphore[id.RoomID](1, 0),
		toDecide: make(chan ident.RoomNID, maxToDecide), toReadmit: make(chan ident.RoomNID, maxToDecide),
	}
	if s.opts.Commits == nil {
		s.opts.Commits = NewCommits()
	}
	s.opts.Commits.own(s)
	s.cache = roomcache.New(o.CacheBytes, roomcache.Entry[Room]{Size: (*Room).size, Used: func(r *Room) int64 { return r.used.Load() }, Retire: (*Room).retire})
	s.own.init(o.Cache.Bytes(maxCachedMemberships))
	s.threads.init(o.Cache.Entries(maxCachedThreads))
	if err := s.erased.load(ctx, o.DB); err != nil {
		return nil, fmt.Errorf("rooms: read erased users: %w", err)
	}
	if err := s.holds.Load(ctx, o.DB); err != nil {
		return nil, fmt.Errorf("rooms: read legal holds: %w", err)
	}
	if err := s.sticky.Load(ctx, o.DB, o.Now().UnixMilli()); err != nil {
		return nil, fmt.Errorf("rooms: read sticky events: %w", err)
	}
	return s, nil
}

// RetentionPolicy returns the server's policy on how long messages are kept.
func (s *Service) RetentionPolicy() Retention { return s.opts.Retention }

// Server returns this server's name.
func (s *Service) Server() string { return s.opts.Server }

// IsLocal reports whether a user belongs to this server.
func (s *Service) IsLocal(user id.UserID) bool { return ident.ServerOf(user) == s.opts.Server }

// Approximate sizes in memory, for the budget.
const (
	roomBytes   = 4 << 10
	memberBytes = 256
)

func (r *Room) size() int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	events := graph.Size(maps.Values(r.head.state)) + graph.Size(slices.Values(r.head.ring)) + r.memberEvents.Load()
	return roomBytes + events + memberBytes*int64(len(r.head.members)) + r.head.names.Size()
}

// retire marks a room as evicted and returns true, unless the room has queued writes or is being written.
func (r *Room) retire() bool {
	if !r.writer.TryLock() {
		return false
	}
	defer r.writer.Unlock()
	for _, slot := range []chan struct{}{r.fetching, r.receiving} {
		select {
		case slot <- struct{}{}:
			defer func() { <-slot }()
		default:
			return false
		}
	}
	if !r.idle() {
		return false
	}
	r.next.retired = true
	return true
}
