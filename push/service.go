// Package push notifies users of events through push gateways, which are HTTP services run by the authors of apps, and
// by e-mail. Package pushrules decides whom an event notifies when the event is stored; this package finds the pushers
// and delivers.
//
// The rooms.Commit of an event wakes the dispatcher (dispatch.go), which adds the event's position to the queues of the
// members' pushers. A worker of the pusher's gateway (gateway.go) takes the next event of the pusher (serve.go), asks
// package history whether the event is still unread (notification.go), and sends a notification in the format that the
// pusher asked for. Once a second, the positions up to which the pushers have been served are stored (progress.go).
//
// No row is written for each event and pusher. A single position, meta.pushed, records up to where all pushers have
// been served. Only a pusher whose gateway does not respond has a position of its own; the events that it missed are
// read from the timelines of the user's rooms. After a crash, gateways receive the notifications of the last second
// again and can recognise them by their event IDs.
//
// E-mails need no queue (email.go): each is a digest of the unread events that have notified the user since the last
// one.
package push

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ebb/accountdata"
	"ebb/history"
	"ebb/ident"
	"ebb/keyed"
	"ebb/pushrules"
	"ebb/rooms"
	"ebb/storage"
	"ebb/telemetry"
)

// Options are the dependencies and settings of a Service.
type Options struct {
	DB          *storage.DB
	Rooms       *rooms.Service
	History     *history.Service
	AccountData *accountdata.Service
	Rules       *pushrules.Rules
	Commits     *rooms.Commits // the commits of the Rooms
	Client      *http.Client   // for requests to gateways, made by NewClient
	// AllowPrivate allows URLs with http, for gateways in the server's own network.
	AllowPrivate bool
	// EventIDOnly sends push gateways only the IDs of event and room, whatever format a pusher has, and e-mails that
	// only count messages.
	EventIDOnly bool
	// CountRooms makes the badge count rooms with unread messages instead of messages.
	CountRooms bool
	Email      EmailOptions
	Cache      keyed.Budget     // bounds the caches
	Now        func() time.Time // nil means time.Now
	Log        *slog.Logger     // nil disables logging
}

const (
	// maxTargets bounds the cached targets, in bytes. The usual one has 600.
	maxTargets = 4 << 20
	// maxBadges bounds the users whose unread counts are cached.
	maxBadges = 10_000
	// maxNews bounds the commits that wait for the dispatcher. Once it is exceeded, the events are read from the
	// database.
	maxNews = 1000
	// storeEvery is the interval at which progress is stored, so that at most the deliveries of one interval are
	// repeated after a crash. Failing gateways are checked for a due retry at the same interval.
	storeEvery = time.Second
	// grace is how long requests in progress may still take when the server stops.
	grace = 2 * time.Second
)

var pushes = telemetry.NewCounterVec("ebb_pushes_total",
	"Notifications for push gateways, by outcome (sent, badge, failed, rejected, read, expired, old).", "outcome")

var emails = telemetry.NewCounter("ebb_push_emails_total", "E-mails that were sent about unread messages.")

// Service manages pushers and delivers notifications. It is safe for concurrent use.
type Service struct {
	opts    Options
	db      *storage.DB
	now     func() time.Time
	log     *slog.Logger
	targets *keyed.Map[ident.PusherNID, *target]
	badges  *keyed.Map[ident.UserNID, *badge]
	active  atomic.Int64  // the number of enabled pushers
	wake    chan struct{} // wakes the dispatcher
	// emailTick triggers a check for due e-mails.
	emailTick chan struct{}
	workers   sync.WaitGroup

	// mu guards the fields below and the contents of users, pushers and gateways; a leaf lock.
	mu       sync.Mutex
	ctx      context.Context // the context of Run; nil while Run is not running
	sending  context.Context // the context of requests, which ends a little later than ctx
	loaded   bool            // whether the pushers have been read
	news     []*rooms.Commit // commits not yet dispatched, oldest first
	missed   bool            // whether news was full, so that events after pushed have to be read from the database
	pushed   storage.Pos     // the position up to which all events have been dispatched
	stored   storage.Pos     // the stored value of pushed
	users    map[ident.UserNID]*user
	pushers  map[ident.PusherNID]*pusher
	gateways map[string]*gateway      // by origin
	emailers map[ident.PusherNID]bool // the enabled e-mail pushers
	pending  map[*pusher]bool         // have something to deliver, or had at the last store
	proven   pool                     // limits workers for gateways whose last response came quickly
	doubtful pool                     // limits workers for the other gateways
	// fewer has the rooms in which messages were redacted or removed since the last tick, so that fewer may be unread.
	fewer map[ident.RoomNID]*rooms.Room
}

// user is a local user with at least one enabled pusher.
type user struct {
	nid     ident.UserNID
	id      string
	pushers []*pusher
}

// New returns a Service, which Run starts.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		opts: o, db: o.DB, now: o.Now, log: o.Log, wake: make(chan struct{}, 1), emailTick: make(chan struct{}, 1),
		targets: keyed.NewSizedMap(o.Cache.Bytes(maxTargets), func(_ ident.PusherNID, t *target) int64 { return t.size() }), badges: keyed.NewMap[ident.UserNID, *badge](o.Cache.Entries(maxBadges)),
		users: map[ident.UserNID]*user{}, pushers: map[ident.PusherNID]*pusher{}, gateways: map[string]*gateway{}, emailers: map[ident.PusherNID]bool{}, pending: map[*pusher]bool{},
		fewer: map[ident.RoomNID]*rooms.Room{}, proven: pool{free: maxProven}, doubtful: pool{free: maxDoubtful},
	}
	o.Commits.Subscribe(s.committed)
	return s
}

// Run delivers notifications until ctx ends. Those still pending are delivered after the next start.
func (s *Service) Run(ctx context.Context) error {
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	if err := s.load(ctx, sending); err != nil {
		if ctx.Err() != nil { // the server was stopped right after its start
			return nil
		}
		return err
	}
	dispatcher := make(chan struct{})
	go func() {
		defer close(dispatcher)
		s.dispatchAll(ctx)
	}()
	if s.opts.Email.Mailer != nil {
		s.workers.Go(func() { s.sendEmails(ctx) })
	}
	tick := time.NewTicker(storeEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
			s.tick(ctx)
		case <-ctx.Done():
		}
	}
	<-dispatcher
	s.mu.Lock()
	s.ctx = nil
	s.mu.Unlock()
	s.workers.Wait()
	s.opts.Client.CloseIdleConnections()
	if err := s.store(context.WithoutCancel(ctx)); !errors.Is(err, storage.ErrClosed) {
		return err
	}
	return nil
}

// apply applies the committed changes of pushers to the index. It runs in the committer.
func (s *Service) apply(c *changes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, nid := range c.removed {
		s.forget(nid)
	}
	if c.set != nil {
		s.index(c.set)
	}
}

// index adds a pusher to the index or updates it there. The caller holds mu.
func (s *Service) index(row *storage.PusherRow) {
	s.targets.Forget(row.NID)
	if !row.Enabled || row.Kind != kindHTTP {
		s.forget(row.NID)
		if row.Enabled {
			s.emailers[row.NID] = true
		}
		return
	}
	if s.loaded && s.active.Load() == 0 {
		s.pushed = max(s.pushed, row.Delivered) // nothing is dispatched while there are no pushers
	}
	p := s.pushers[row.NID]
	if p == nil {
		p = &pusher{nid: row.NID, device: row.Device, user: s.userOf(row), seen: row.Delivered, stored: row.PusherProgress}
		if !s.loaded {
			p.shown = unknownBadge // of events before the start
		}
		if row.Pending {
			p.missed, p.badgeDue = true, true
		} else {
			p.seen = max(p.seen, s.pushed)
		}
		p.user.pushers = append(p.user.pushers, p)
		s.pushers[row.NID] = p
		s.active.Add(1)
	}
	p.device, p.retry = row.Device, keyed.Retry{Failures: row.Failures, At: time.UnixMilli(row.RetryTS)}
	if g := s.gatewayOf(row); p.gateway != g {
		s.move(p, g)
	}
	s.ready(p)
}

// userOf returns the index entry of a pusher's user, creating it if necessary. The caller holds mu.
func (s *Service) userOf(row *storage.PusherRow) *user {
	u := s.users[row.User]
	if u == nil {
		u = &user{nid: row.User, id: row.UserID}
		s.users[row.User] = u
	}
	return u
}

// forget removes a pusher from the index. A request in progress for it is not cancelled. The caller holds mu.
func (s *Service) forget(nid ident.PusherNID) {
	s.targets.Forget(nid)
	delete(s.emailers, nid)
	p := s.pushers[nid]
	if p == nil {
		return
	}
	p.gone = true
	delete(s.pushers, nid)
	delete(s.pending, p)
	s.active.Add(-1)
	s.move(p, nil)
	p.user.pushers = slices.DeleteFunc(p.user.pushers, func(other *pusher) bool { return other == p })
	if len(p.user.pushers) == 0 {
		delete(s.users, p.user.nid)
	}
}

// AccountLocked drops the cached rows of a user's pushers, because the account was locked or unlocked.
func (s *Service) AccountLocked(user ident.UserNID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[user]; u != nil {
		for _, p := range u.pushers {
			s.targets.Forget(p.nid)
		}
	}
}

// DeviceGone marks the pushers of a device that is being deleted. From then on, their rows are read before every
// delivery, because the write that deletes the device may still fail. It is called within that write.
func (s *Service) DeviceGone(user ident.UserNID, device ident.DeviceNID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[user]
	if u == nil {
		return
	}
	for _, p := range u.pushers {
		if p.device == device {
			p.doubtful = true
			s.targets.Forget(p.nid)
		}
	}
}
