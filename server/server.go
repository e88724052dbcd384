// Package server puts the program together: it builds the services on one database, builds the APIs on the services,
// and serves the APIs on the configured addresses. The command and the in-process tests both use it.
package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/accounts/rendezvous"
	"ebb/adminapi"
	"ebb/appservice"
	"ebb/audit"
	"ebb/clientapi"
	"ebb/config"
	"ebb/fedclient"
	"ebb/federation"
	"ebb/httpapi"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/netguard"
	"ebb/search"
	"ebb/storage"
	"ebb/storage/shares"
	"ebb/web"
)

// Options holds settings that only tests and the benchmark change; a real server uses the zero value.
type Options struct {
	Version     string
	Now         func() time.Time                                        // nil for the system's clock
	Timer       func(d time.Duration) (c <-chan time.Time, stop func()) // used by background work; nil for real time
	CommitDelay time.Duration                                           // artificial delay of every commit
	// Called before every statement of a transaction; see storage.Config. May be nil.
	OnStatement func(ctx context.Context, query string)
	Log         *slog.Logger       // nil for no log
	MFA         *gate.Policy       // instead of that of the configuration; nil: that one
	ChangeRPID  bool               // Run accepts that passkeys of another auth.passkeys.rp_id stop working
	Resolver    fedclient.Resolver // looks up the names of other servers; nil for the system's resolver
	Dial        netguard.DialFunc  // connects to other servers; nil for the network
	HashCommand []string           // starts a program that hashes passwords; see hashing.NewProcesses

	restoring bool                 // the server is opened by Restore
	elapsed   func() time.Duration // monotonic time, which unlike the system's clock nobody can set
}

func (o *Options) setDefaults() {
	if o.Now == nil {
		start := time.Now()
		o.Now, o.elapsed = time.Now, func() time.Duration { return time.Since(start) }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Server is an open server. New opens it, Run serves requests, and Close closes it.
type Server struct {
	cfg     *config.Config
	opt     Options
	svc     *services
	api     *clientapi.API
	web     *web.Pages
	admin   *adminapi.API
	fed     *federation.API
	limiter *httpapi.Limiter
	memory  *httpapi.Memory // shared by the requests on all addresses
	health  *health

	// mu guards certificates, which Run loads and Reload reloads; a leaf lock.
	mu           sync.Mutex
	certificates []*httpapi.Certificate
}

// New opens the database and builds the services, but accepts no connections yet.
func New(ctx context.Context, cfg *config.Config, o Options) (*Server, error) {
	o.setDefaults()
	svc, err := open(ctx, cfg, o)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, opt: o, svc: svc, limiter: httpapi.NewLimiter(limits(cfg.RateLimits), o.Now), memory: httpapi.NewMemory()}
	s.health = &health{db: svc.db, cfg: cfg, opt: &s.opt}
	s.api = clientapi.New(clientapi.API{
		Config: cfg, Now: o.Now, Log: o.Log, Identity: svc.identity, Accounts: svc.accounts, OAuth: svc.oauth, Upstream: svc.upstream, Rendezvous: rendezvous.New(o.Now), Rooms: svc.rooms, AccountData: svc.accountData, Receipts: svc.receipts, History: svc.history, Directory: svc.directory, Feed: svc.feed, E2EE: svc.e2ee, Push: svc.push, Pushers: svc.pushers, Media: svc.media, Moderation: svc.moderation, Holds: svc.holds, Services: svc.registry, Delayed: svc.delayed, Redactions: svc.redactions, Previews: svc.previews,
	})
	s.web = web.New(web.Options{Server: cfg.ServerName, PublicURL: cfg.PublicURL, DB: svc.db, Accounts: svc.accounts, Notices: svc.notices, Gate: svc.gate, Identity: svc.identity, Factors: svc.factors, OAuth: svc.oauth, Upstream: svc.upstream, Media: svc.media, Export: svc.export, Holds: svc.holds, Redactions: svc.redactions, HelpPage: cfg.WellKnown.SupportPage, Now: o.Now, Log: o.Log})
	s.fed = federation.New(federation.API{
		Server: cfg.ServerName, Version: o.Version, Rooms: svc.rooms, History: svc.history, Directory: svc.directory, Accounts: svc.accounts, E2EE: svc.e2ee, Media: svc.media, Keys: svc.keys,
		EDUs: svc.edus(), Now: o.Now, Log: o.Log,
	})
	s.admin = adminapi.New(adminapi.API{Config: cfg, Accounts: svc.accounts, Factors: svc.factors, Rooms: svc.rooms, History: svc.history, Directory: svc.directory, Moderation: svc.moderation, Media: svc.media, Redactions: svc.redactions, Erasure: svc.erasure, Retention: svc.retention, Outbox: svc.outbox, Apps: svc.apps, Mail: svc.mail, Signing: svc.signing, Secrets: svc.secrets, Audit: svc.audit, Notices: svc.notices, Export: svc.export, Holds: svc.holds, Deletions: svc.deletions, DB: svc.db, Now: o.Now, Log: o.Log})
	return s, nil
}

// Close closes the database of a Server whose Run was never called.
func (s *Server) Close() error {
	s.svc.export.Close()
	if s.svc.ledger != nil {
		if err := s.svc.ledger.Write(context.Background()); err != nil {
			s.opt.Log.Warn("Cannot write the ledger; the next start tries again", "file", s.cfg.Backup.Ledger, "err", err)
		}
	}
	return s.svc.db.Close()
}

// Routes returns every operation that an address can serve.
func (s *Server) Routes() []httpapi.Route {
	all := slices.Concat(s.api.Routes(), s.web.Routes(), s.admin.Routes())
	if s.cfg.Federation.Enabled {
		all = append(all, s.fed.Routes()...)
	}
	return all
}

// Handler returns the handler of an address that serves the given APIs (client, federation, admin, metrics).
func (s *Server) Handler(serve ...string) http.Handler {
	o := httpapi.Options{
		Routes: s.Routes(), Serve: serve, Authenticate: s.authenticate, Administer: s.svc.accounts.Administer, Service: s.svc.registry.ServiceOf, AuthenticateServer: s.authenticateServer, Unknown: s.unknown, Healthy: s.health.ok,
		TrustedProxies: s.proxies(), Log: s.opt.Log, Reading: shares.Requested, Signing: audit.WithNetwork, Memory: s.memory,
	}
	if s.cfg.RateLimits.Enabled {
		o.Limit, o.Requests = s.limiter.Limit, s.cfg.RateLimits.Connections
	}
	return httpapi.New(o)
}

func (s *Server) authenticate(ctx context.Context, token string, r *httpapi.Request) (ident.Requester, error) {
	if s.svc.registry.Any() {
		if who, ok, err := s.svc.apps.Authenticate(ctx, token, assertion(r)); ok {
			return who, err
		}
	}
	return s.svc.accounts.Authenticate(ctx, token, r.ClientAddr, r.UserAgent())
}

// assertion returns the identity that an application service asserts in the parameters of a request.
// Spec: application-service-api#identity-assertion
func assertion(r *httpapi.Request) appservice.Assertion {
	device := cmp.Or(r.Query("device_id"), r.Query("org.matrix.msc3202.device_id"))
	return appservice.Assertion{User: id.UserID(r.Query("user_id")), Device: id.DeviceID(device), Addr: r.ClientAddr, Agent: r.UserAgent()}
}

// authenticateServer verifies the signature of a request from another server.
func (s *Server) authenticateServer(r *httpapi.Request) (httpapi.Signature, error) {
	claim, err := s.svc.keys.Claim(r.Context(), r.Header)
	if err != nil {
		return nil, unauthorized(err)
	}
	return func(body []byte) (string, error) {
		if err := claim.Verify(r.Context(), r.Method, r.URL.RequestURI(), body); err != nil {
			return "", unauthorized(err)
		}
		s.svc.outbox.Heard(claim.Origin)
		return claim.Origin, nil
	}, nil
}

// unauthorized returns the error for a request without a valid signature.
func unauthorized(err error) error {
	switch {
	case errors.Is(err, fedclient.ErrKeptOut):
		return mxerr.Forbidden("This server does not federate with yours").Because(err)
	case errors.Is(err, fedclient.ErrNoKey):
		err = fmt.Errorf("%w: %w", httpapi.ErrNoKey, err)
		return mxerr.New(http.StatusUnauthorized, mxerr.CodeUnauthorized, "The key that signed the request could not be fetched from your server").Because(err)
	case errors.Is(err, fedclient.ErrUnauthorized):
		return mxerr.New(http.StatusUnauthorized, mxerr.CodeUnauthorized, "The request has no valid signature of your server").Because(err)
	}
	return err
}

// unknown converts an error that is not meant for clients: known system errors get a message that explains them, and
// any other error becomes an internal error.
func (s *Server) unknown(err error) *mxerr.Error {
	if errors.Is(err, storage.ErrFull) {
		return mxerr.New(http.StatusInsufficientStorage, mxerr.CodeUnknown, "The server's disk is full. Nothing can be stored until the administrator frees space; reading still works").Because(err)
	}
	if errors.Is(err, storage.ErrKeys) {
		return mxerr.New(http.StatusServiceUnavailable, mxerr.CodeUnknown, "The server cannot use the keys of its messages at the moment; its administrator finds out why by ebb doctor").Because(err)
	}
	if errors.Is(err, storage.ErrAway) {
		return mxerr.New(http.StatusServiceUnavailable, mxerr.CodeUnknown, "The server cannot reach its database at the moment").Because(err)
	}
	return mxerr.New(http.StatusInternalServerError, mxerr.CodeUnknown, "Internal server error").Because(err)
}

func (s *Server) proxies() (out []netip.Prefix) {
	for _, text := range s.cfg.TrustedProxies {
		if p, err := config.ParseNetwork(text); err == nil { // Validate has already reported invalid ones
			out = append(out, p)
		}
	}
	return out
}

// Run serves requests until ctx ends, then shuts down gracefully and closes the database.
func (s *Server) Run(ctx context.Context) error {
	err := s.run(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) { // it was stopped while it started
		err = nil
	}
	return errors.Join(err, s.Close())
}

func (s *Server) run(ctx context.Context) error {
	buildInfo.WithLabelValues(s.opt.Version, runtime.Version()).Set(1)
	if err := s.svc.factors.CheckRPID(ctx, s.opt.ChangeRPID); err != nil {
		return err
	}
	if err := s.svc.factors.Reseal(ctx); err != nil { // in case a crash has interrupted the command keys rotate
		return err
	}
	control, err := adminapi.Listen(ctx, s.cfg.Dir())
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	draining, drain := context.WithCancel(ctx)
	defer drain()
	front, err := s.front(drain)
	if err != nil {
		return errors.Join(err, control.Close(), adminapi.Remove(s.cfg.Dir()))
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.serveControl(ctx, control) })
	g.Go(func() error { return s.svc.feed.Run(draining) })
	if s.cfg.Federation.Enabled {
		g.Go(func() error { return s.svc.outbox.Run(ctx) })
		g.Go(func() error { return s.fed.Run(ctx) })
		g.Go(func() error { return s.svc.rooms.CompleteRooms(ctx) })
		g.Go(func() error { return s.svc.rooms.RepairRooms(ctx) })
		g.Go(func() error { return s.svc.rooms.DecideEvents(ctx) })
	}
	for _, job := range []func(context.Context) error{s.svc.accounts.Run, s.svc.audit.Run, s.svc.notices.Run, s.svc.guests.Run, s.svc.retention.Run, s.svc.e2ee.Run, s.svc.media.Run, s.svc.pushers.Run, s.svc.apps.Run, s.svc.delayed.Run, s.svc.redactions.Run, s.svc.erasure.Run, s.svc.export.Run, s.svc.db.TendKeys, s.prune, s.measure} {
		g.Go(func() error { return job(ctx) })
	}
	if s.svc.ledger != nil {
		g.Go(func() error { return s.svc.ledger.Run(ctx) })
	}
	if s.svc.oauth != nil {
		g.Go(func() error { return s.svc.oauth.Run(ctx) })
	}
	g.Go(func() error { return s.index(ctx) })
	g.Go(func() error {
		defer stop()
		return front.Run(ctx)
	})
	err = g.Wait()
	s.opt.Log.Info("ebb has stopped")
	return errors.Join(err, adminapi.Remove(s.cfg.Dir()))
}

// index keeps the search index up to date, or deletes the index if search is switched off.
func (s *Server) index(ctx context.Context) error {
	if s.svc.search != nil {
		return s.svc.search.Run(ctx)
	}
	if err := search.Clear(ctx, s.svc.db); err != nil && ctx.Err() == nil {
		s.opt.Log.Warn("cannot delete the search index; the next start tries again", "err", err)
	}
	return nil
}

// Notify delivers push notifications until ctx ends. It is for a Server whose Run was never called.
func (s *Server) Notify(ctx context.Context) error { return s.svc.pushers.Run(ctx) }

// DeliverNotices delivers the server notices that are waiting. It is for a Server whose Run was never called.
func (s *Server) DeliverNotices(ctx context.Context) error {
	_, err := s.svc.notices.SendMail(ctx)
	return errors.Join(s.svc.notices.Deliver(ctx), err)
}

// Erase carries out the requests to redact users' own messages and the erasures of users, until none is left or all
// wait for legal holds. It is for a Server whose Run was never called.
func (s *Server) Erase(ctx context.Context) error {
	for redacting, erasing := true, true; redacting || erasing; {
		var err, stepErr error
		_, redacting, err = s.svc.redactions.StepOwn(ctx)
		erasing, stepErr = s.svc.erasure.Step(ctx)
		if err := errors.Join(err, stepErr); err != nil {
			return err
		}
	}
	return nil
}

// Remote returns the client with which this server sends requests to other servers.
func (s *Server) Remote() *fedclient.Client { return s.svc.remote }

// Heard records that another server can be reached again. Events that wait for it are then sent at once.
func (s *Server) Heard(server string) { s.svc.outbox.Heard(server) }

// front returns the listeners for all configured addresses.
func (s *Server) front(drain func()) (httpapi.Front, error) {
	f := httpapi.Front{Log: s.opt.Log, Drain: drain, Ready: func(addresses []net.Addr) {
		s.opt.Log.Info("ebb accepts requests", "version", s.opt.Version, "server_name", s.cfg.ServerName, "addresses", addresses)
	}}
	if s.cfg.RateLimits.Enabled {
		f.Connections, f.TrustedProxies = s.cfg.RateLimits.Connections, s.proxies()
	}
	byACME := acmeConfig(s.cfg)
	for _, c := range s.cfg.Listen {
		l := httpapi.Listener{Address: c.Address, Handler: s.Handler(c.Serve...)}
		switch {
		case c.TLS.Certificate != "":
			cert, err := httpapi.NewCertificate(s.cfg.File(c.TLS.Certificate), s.cfg.File(c.TLS.PrivateKey), s.opt.Log)
			if err != nil {
				return f, fmt.Errorf("certificate of %s: %w", c.Address, err)
			}
			s.mu.Lock()
			s.certificates = append(s.certificates, cert)
			s.mu.Unlock()
			l.TLS = cert.TLS()
		case len(c.TLS.ACMEHosts) > 0:
			l.TLS = byACME
		}
		f.Listeners = append(f.Listeners, l)
	}
	return f, nil
}

// controlGrace is how long a running command of the command line may continue after the server has begun to stop.
const controlGrace = 5 * time.Second

func (s *Server) serveControl(ctx context.Context, l net.Listener) error {
	server := &http.Server{Handler: s.admin.Control(), ReadHeaderTimeout: controlGrace}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), controlGrace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		_ = server.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// prune deletes once an hour what has expired: old transaction IDs, records of events that are no longer sticky, old
// receipts, link previews, and what package lifetimes lists.
func (s *Server) prune(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		for _, of := range []struct {
			what string
			do   func(context.Context) error
		}{
			{"old transaction IDs", s.svc.rooms.PruneTxns}, {"the records of events that are not sticky any more", s.svc.rooms.PruneSticky},
			{"old receipts of deletions", s.svc.deletions.Prune}, {"expired link previews", s.prunePreviews}, {"what people stored and nobody needs any more", s.svc.lifetimes.Sweep},
		} {
			if err := of.do(ctx); err != nil && ctx.Err() == nil {
				s.opt.Log.Error("cannot delete "+of.what+"; the next try is in an hour", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Control runs a command of the command line as if it had arrived on the control socket of a running server.
func (s *Server) Control(ctx context.Context, name string, args json.RawMessage) (any, error) {
	return s.admin.Run(ctx, name, args)
}
