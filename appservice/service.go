package appservice

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"maunium.net/go/mautrix/id"

	"ebb/config"
	"ebb/history"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
	"ebb/wake"
)

// Accounts manages local users; accounts.Service implements it.
type Accounts interface {
	// Assume returns the requester for a user and, unless device is empty, for one of the user's devices.
	Assume(ctx context.Context, user id.UserID, device id.DeviceID, addr, userAgent string) (ident.Requester, error)
	// EnsureUser creates a user if it does not exist.
	EnsureUser(ctx context.Context, localpart string) error
}

// Options are the dependencies of a Service.
type Options struct {
	*Registry
	DB       *storage.DB
	Accounts Accounts
	Rooms    *rooms.Service
	History  *history.Service
	Commits  *rooms.Commits // for subscribing to the events to deliver
	Hub      *wake.Hub      // for observing users with new to-device messages
	Log      *slog.Logger
}

// Service delivers events to application services while Run runs. It is safe for concurrent use.
type Service struct {
	opts Options
	*Registry

	workers atomic.Pointer[[]*worker]
	newest  atomic.Int64 // position of the newest committed event
	group   sync.WaitGroup

	// mu guards the field below, and changes of the set of workers.
	mu  sync.Mutex
	ctx context.Context // the context of Run; nil while it does not run
}

// New returns a Service. It creates the sender accounts of the application services.
func New(ctx context.Context, o Options) (*Service, error) {
	s := &Service{opts: o, Registry: o.Registry}
	s.workers.Store(&[]*worker{})
	if err := s.ensureSenders(ctx); err != nil {
		return nil, err
	}
	if err := s.updateWorkers(ctx); err != nil {
		return nil, err
	}
	o.Commits.Subscribe(s.committed)
	o.Hub.Observe(s.NoteNews)
	return s, nil
}

// Reload replaces the registrations by those that a configuration names. If one of them is invalid, nothing changes.
func (s *Service) Reload(ctx context.Context, cfg *config.Config) error {
	if err := s.load(cfg); err != nil {
		return err
	}
	if err := s.ensureSenders(ctx); err != nil {
		return err
	}
	return s.updateWorkers(ctx)
}

func (s *Service) ensureSenders(ctx context.Context) (err error) {
	for _, a := range s.all() {
		err = errors.Join(err, s.opts.Accounts.EnsureUser(ctx, a.SenderLocalpart))
	}
	return err
}

func (s *Service) working() []*worker { return *s.workers.Load() }

// updateWorkers makes a worker for each new application service with an address; it delivers what happens from now on.
// A worker that exists continues with the new registration. If the application service is no longer registered, its
// worker is stopped and its progress is deleted.
func (s *Service) updateWorkers(ctx context.Context) error {
	rows, err := s.rows(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var next []*worker
	for _, a := range s.all() {
		if a.URL == "" {
			continue
		}
		w := s.workerOf(a.ID)
		if w == nil {
			w = newWorker(s, a, rows[a.ID])
			s.start(w)
		} else {
			w.app.Store(a)
			w.fallBehind()
		}
		next = append(next, w)
	}
	for _, w := range s.working() {
		if !slices.Contains(next, w) && w.stop != nil {
			w.stop()
		}
	}
	s.workers.Store(&next)
	return nil
}

// workerOf returns the worker of an application service, or nil.
func (s *Service) workerOf(app string) *worker {
	for _, w := range s.working() {
		if w.app.Load().ID == app {
			return w
		}
	}
	return nil
}

// rows returns the stored progress of the registered application services.
func (s *Service) rows(ctx context.Context) (map[string]storage.AppService, error) {
	rows := map[string]storage.AppService{}
	err := s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		stored, err := tx.AppServices()
		if err != nil {
			return err
		}
		known := s.apps.Load().byID
		for _, row := range stored {
			if rows[row.ID] = row; known[row.ID] == nil {
				err = errors.Join(err, tx.DeleteAppService(row.ID))
			}
		}
		now := s.opts.DB.Settled()
		for name := range known {
			if _, ok := rows[name]; !ok {
				rows[name] = storage.AppService{ID: name, Position: now, Devices: now}
				err = errors.Join(err, tx.SetAppService(rows[name]))
			}
		}
		return err
	})
	return rows, err
}

// start starts the goroutine of a worker if Run is running. The caller holds mu.
func (s *Service) start(w *worker) {
	if s.ctx == nil || s.ctx.Err() != nil {
		return
	}
	ctx, stop := context.WithCancel(s.ctx)
	w.stop = stop
	s.group.Go(func() { w.run(ctx) })
}

// Run delivers until ctx ends. Events not delivered by then are delivered after the next start.
func (s *Service) Run(ctx context.Context) error {
	s.mu.Lock()
	s.ctx = ctx
	for _, w := range s.working() {
		s.start(w)
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock() // wait for a worker that is being started; none is started after ctx has ended
	defer s.mu.Unlock()
	s.group.Wait()
	return nil
}

// committed is a rooms.Listener that passes each commit to the workers.
func (s *Service) committed(c *rooms.Commit) {
	workers := s.working()
	if len(workers) == 0 {
		return
	}
	if n := len(c.Events); n > 0 {
		s.newest.Store(int64(c.Events[n-1].Pos))
	}
	for _, w := range workers {
		w.committed(c)
	}
}

// Assertion is the identity that an application service asserts in a request.
// Spec: application-service-api#identity-assertion
type Assertion struct {
	User   id.UserID   // empty means the sender of the registration
	Device id.DeviceID // may be empty
	Addr   string      // address of the client
	Agent  string      // User-Agent of the client
}

// Authenticate returns the requester for a request with the access token of an application service, which acts as one
// of its users. It returns false if no application service has the token.
//
// Errors: M_FORBIDDEN if the user does not exist or is outside the namespaces, M_USER_DEACTIVATED, M_UNKNOWN_DEVICE.
func (s *Service) Authenticate(ctx context.Context, token string, as Assertion) (who ident.Requester, ok bool, err error) {
	a := s.byToken(token)
	if a == nil {
		return who, false, nil
	}
	if w := s.workerOf(a.ID); w != nil {
		w.contacted()
	}
	if as.User == "" {
		as.User = a.sender
	}
	if !a.owns(as.User) {
		return who, true, mxerr.Forbidden("The application service cannot act as %s, who is outside its namespaces", as.User)
	}
	if who, err = s.opts.Accounts.Assume(ctx, as.User, as.Device, as.Addr, as.Agent); err != nil {
		return ident.Requester{}, true, err
	}
	who.AppService, who.RateLimited = a.ID, a.RateLimited && as.User != a.sender
	return who, true, nil
}
