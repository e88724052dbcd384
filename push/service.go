// Package push notifies users of events through push gateways, the HTTP services of those who make their apps, and by
// e-mail. Which events notify whom is decided when an event is stored (pushrules): this package finds out who has
// pushers, and delivers.
//
// The rooms.Commit of an event wakes the dispatcher (dispatch.go), which adds the event's position to the queues of the
// members' pushers → a worker of the pusher's gateway (gateway.go) takes the pusher's next event (serve.go), and checks
// by the unread counts of package history whether the user still is to be notified of it (notification.go) → it sends
// the event as the pusher wants it → once a second it is stored how far all pushers have been served (progress.go).
//
// No row is written for an event and a pusher. One position, meta.pushed, says up to where everybody has been served;
// only a pusher whose gateway does not respond has a position of its own, and what it has missed is read from the
// timelines of the user's rooms. After a crash, gateways get what was sent in the last second again, and know it by the
// event IDs.
//
// E-mails need no queue (email.go): each is a digest of what has notified the user since the last one and is unread.
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
	Commits     *rooms.Commits // the commits of Rooms
	Client      *http.Client   // for gateways: bounded, and without redirects (NewClient)
	// AllowPrivate allows http, as for gateways in the server's own network.
	AllowPrivate bool
	// CountRooms makes the badge the number of rooms with unread messages instead of the number of unread messages.
	CountRooms bool
	Email      EmailOptions
	Cache      keyed.Budget     // bounds the caches
	Now        func() time.Time // nil: time.Now
	Log        *slog.Logger     // nil: nothing is logged
}

const (
	// maxTargets bounds the pushers whose rows are cached.
	maxTargets = 5000
	// maxBadges bounds the users whose unread counts are cached.
	maxBadges = 10_000
	// maxNews bounds the commits that wait for the dispatcher. Beyond it, it reads the events from the database.
	maxNews = 1000
	// storeEvery bounds the period whose deliveries may be repeated after a crash. It is also how often it is checked
	// whether a failing gateway may be tried again.
	storeEvery = time.Second
	// grace is how long requests in progress may take when the server stops.
	grace = 2 * time.Second
)

var pushes = telemetry.NewCounterVec("ebb_pushes_total",
	"Notifications for push gateways, by outcome (sent, badge, failed, rejected, read, expired, old).", "outcome")

var emails = telemetry.NewCounter("ebb_push_emails_total", "E-mails that were sent about unread messages.")

// Service implements the package. It is safe for concurrent use.
type Service struct {
	opts    Options
	db      *storage.DB
	now     func() time.Time
	log     *slog.Logger
	targets *keyed.Map[ident.PusherNID, *target]
	badges  *keyed.Map[ident.UserNID, *badge]
	active  atomic.Int64  // the number of enabled pushers
	wake    chan struct{} // wakes the dispatcher
	// emailTick makes it be checked whether e-mails are due.
	emailTick chan struct{}
	workers   sync.WaitGroup

	// mu guards the fields below, and those of the users, pushers and gateways; a leaf lock.
	mu       sync.Mutex
	ctx      context.Context // the context of Run; nil while Run is not running
	sending  context.Context // the context of requests, which ends a little later
	loaded   bool            // the pushers have been read
	news     []*rooms.Commit // not dispatched yet, oldest first
	missed   bool            // news was full: events after pushed have to be read from the database
	pushed   storage.Pos     // all events up to here have been dispatched
	stored   storage.Pos     // the stored value of pushed
	users    map[ident.UserNID]*user
	pushers  map[ident.PusherNID]*pusher
	gateways map[string]*gateway      // by origin
	emailers map[ident.PusherNID]bool // the enabled e-mail pushers
	pending  map[*pusher]bool         // something waits for them, or did so when they were last stored
	proven   pool                     // for gateways that have just responded quickly
	doubtful pool                     // for the others
}

// user is a local user with at least one enabled pusher.
type user struct {
	nid     ident.UserNID
	id      string
	pushers []*pusher
}

// New makes a Service; Run starts it.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		opts: o, db: o.DB, now: o.Now, log: o.Log, wake: make(chan struct{}, 1), emailTick: make(chan struct{}, 1),
		targets: keyed.NewMap[ident.PusherNID, *target](o.Cache.Entries(maxTargets)), badges: keyed.NewMap[ident.UserNID, *badge](o.Cache.Entries(maxBadges)),
		users: map[ident.UserNID]*user{}, pushers: map[ident.PusherNID]*pusher{}, gateways: map[string]*gateway{}, emailers: map[ident.PusherNID]bool{}, pending: map[*pusher]bool{},
		proven: pool{free: maxProven}, doubtful: pool{free: maxDoubtful},
	}
	o.Commits.Subscribe(s.committed)
	return s
}

// Run delivers until ctx ends. What is still pending then is delivered after the next start.
func (s *Service) Run(ctx context.Context) error {
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	if err := s.load(ctx, sending); err != nil {
		if ctx.Err() != nil { // the server is stopped right after its start
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

// apply applies committed changes of pushers to the index. It runs in the committer.
func (s *Service) apply(c *changes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, nid := range c.removed {
		s.forget(nid)
	}
	if c.set != nil {
		s.note(c.set)
	}
}

// note adds a pusher to the index, or changes it there. The caller holds mu.
func (s *Service) note(row *storage.PusherRow) {
	s.targets.Forget(row.NID)
	if !row.Enabled || row.Kind != kindHTTP {
		s.forget(row.NID)
		if row.Enabled {
			s.emailers[row.NID] = true
		}
		return
	}
	if s.loaded && s.active.Load() == 0 {
		s.pushed = max(s.pushed, row.Delivered) // nothing was dispatched while there were no pushers
	}
	p := s.pushers[row.NID]
	if p == nil {
		p = &pusher{nid: row.NID, device: row.Device, user: s.userOf(row), seen: row.Delivered, stored: row.PusherProgress}
		if !s.loaded {
			p.shown = unknownBadge // of before the start
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

// userOf returns the user of a pusher. The caller holds mu.
func (s *Service) userOf(row *storage.PusherRow) *user {
	u := s.users[row.User]
	if u == nil {
		u = &user{nid: row.User, id: row.UserID}
		s.users[row.User] = u
	}
	return u
}

// forget removes a pusher from the index. A request for it that is in progress goes on. The caller holds mu.
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

// AccountLocked has the pushers of a user read again, because the account was locked or unlocked.
func (s *Service) AccountLocked(user ident.UserNID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[user]; u != nil {
		for _, p := range u.pushers {
			s.targets.Forget(p.nid)
		}
	}
}

// DeviceGone prepares for the deletion of a device, within its write. From now on the row of each of its pushers is
// read before every delivery, since the write deletes them or fails.
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
