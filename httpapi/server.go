package httpapi

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"runtime/debug"
	runtimepprof "runtime/pprof"
	"strconv"
	"sync/atomic"
	"time"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/telemetry"
)

// Options configures a Server.
type Options struct {
	Routes []Route
	// Serve lists the APIs to serve (client, federation, admin, metrics); nil means all. /health is always served.
	Serve []string
	// Authenticate returns the owner of an access token. It returns M_UNKNOWN_TOKEN if there is none.
	Authenticate func(ctx context.Context, token string, r *Request) (ident.Requester, error)
	// Administer returns an error unless a user may act as an administrator now. If it is nil, nobody may.
	Administer func(ctx context.Context, who ident.Requester) error
	// Service returns the application service to which an access token belongs, or false. If Service is nil, there are
	// no application services.
	Service func(token string) (ident.Requester, bool)
	// AuthenticateServer checks the headers of a request from another homeserver before its body is read. If it is nil,
	// all such requests are refused.
	AuthenticateServer func(r *Request) (Signature, error)
	// Limit returns how long a request has to wait, or 0. If Limit is nil, there are no limits.
	Limit func(class Rate, who string) time.Duration
	// Reading returns the context for a request that may read much, which keeps it from delaying other requests. If
	// Reading is nil, the request's own context is used.
	Reading func(ctx context.Context, who string) context.Context
	// Signing returns the context for a request without an access token, which may sign somebody in, and is given the
	// client's network. If Signing is nil, the request's own context is used.
	Signing func(ctx context.Context, network string) context.Context
	// Requests bounds the concurrent requests per network. 0 means no bounds on concurrent requests, neither per
	// network nor per user.
	Requests int
	// Unknown converts an error that is not an mxerr.Error to one. If Unknown is nil, such errors become 500 M_UNKNOWN.
	Unknown func(err error) *mxerr.Error
	// Healthy reports whether the server is healthy, for /health. If Healthy is nil, the server is always healthy.
	Healthy func() bool
	// Memory counts the memory of bodies and answers. If it is nil, the Server creates its own.
	Memory *Memory
	// TrustedProxies lists the peers whose X-Forwarded-For headers are trusted.
	TrustedProxies []netip.Prefix
	Log            *slog.Logger
}

// Signature checks that a homeserver signed a request with this body, and returns the homeserver's name.
type Signature func(body []byte) (server string, err error)

// Server is an http.Handler that serves requests with the handlers of its routes.
type Server struct {
	opt      Options
	router   *router
	notFound *served
	noMethod *served
	options  *served
	// noPreflight responds to preflights for pages, which scripts of other sites must not use.
	noPreflight *served
	memory      *Memory
	unproved    unproved
	boot        string // a random prefix of request IDs
	count       atomic.Uint64
}

// New returns a Server with its router built.
func New(o Options) *Server {
	if o.Unknown == nil {
		o.Unknown = func(error) *mxerr.Error { return mxerr.New(500, mxerr.CodeUnknown, "Internal server error") }
	}
	if o.Memory == nil {
		o.Memory = NewMemory()
	}
	var boot [3]byte
	_, _ = rand.Read(boot[:]) // never fails (crypto/rand)
	s := &Server{opt: o, boot: hex.EncodeToString(boot[:]) + "-", memory: o.Memory, unproved: newUnproved()}
	s.notFound = newServed(&Route{Path: "unknown", Handler: func(*Request) (any, error) { return nil, mxerr.Unrecognized() }})
	noMethod := func(*Request) (any, error) {
		return nil, mxerr.New(http.StatusMethodNotAllowed, mxerr.CodeUnrecognized, "This endpoint does not support that method")
	}
	s.noMethod = newServed(&Route{Path: "unknown", Handler: noMethod})
	s.noPreflight = newServed(&Route{Path: "preflight", Page: true, Handler: noMethod})
	s.options = newServed(&Route{Path: "preflight", Handler: preflight})
	s.router = newRouter(s.routes())
	return s
}

// routes returns the routes of the configured APIs and those of httpapi itself.
func (s *Server) routes() []Route {
	all := []Route{{Method: http.MethodGet, Path: "/health", Handler: s.health}}
	if serves(s.opt.Serve, apiMetrics) {
		all = append(all, Route{Method: http.MethodGet, Path: "/metrics", Handler: metrics},
			Route{Method: http.MethodGet, Path: "/debug/pprof/{profile}", Auth: Admin, Handler: profile})
	}
	for _, r := range s.opt.Routes {
		if servesPath(s.opt.Serve, r.Path) {
			all = append(all, r)
		}
	}
	return all
}

// health returns only whether the server is healthy, so it needs no token.
func (s *Server) health(*Request) (any, error) {
	if s.opt.Healthy != nil && !s.opt.Healthy() {
		return Raw{Status: http.StatusServiceUnavailable, ContentType: "text/plain", Body: []byte("not ok\n")}, nil
	}
	return Raw{ContentType: "text/plain", Body: []byte("ok\n")}, nil
}

func metrics(*Request) (any, error) {
	return Stream(telemetry.Handler().ServeHTTP), nil
}

// profile serves the endpoints of `go tool pprof` on listeners that serve metrics. It is for administrators only,
// because a profile reveals what the server holds in memory and may slow the server down.
func profile(r *Request) (any, error) {
	switch name := r.Var("profile"); {
	case name == "profile":
		return Stream(pprof.Profile), nil
	case name == "trace":
		return Stream(pprof.Trace), nil
	case runtimepprof.Lookup(name) != nil:
		return Stream(pprof.Handler(name).ServeHTTP), nil
	}
	return nil, mxerr.Unrecognized()
}

// preflight responds to CORS preflights. Browsers may cache the response for 24 h, since it is the same for every path
// and never changes.
func preflight(*Request) (any, error) {
	return Stream(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Access-Control-Max-Age", "86400")
		w.WriteHeader(http.StatusNoContent)
	}), nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	start := time.Now()
	rec := &recorder{ResponseWriter: w, status: http.StatusOK}
	r := s.begin(w, hr)
	r.start = start
	_ = s.complete(rec, r, func() (any, error) {
		v, err := s.serve(w, r)
		if mxerr.Code(err) == mxerr.CodeTooLarge && hr.ContentLength != 0 {
			drain(w, hr.Body, hr)
		}
		if poll, ok := v.(Poll); ok && err == nil {
			return s.awaitOf(w, r, poll)
		}
		return v, err
	})
}

// complete writes the answer that get returns, and ends the request. If get returns errParked, the request goes on
// elsewhere, and complete returns errParked.
func (s *Server) complete(rec *recorder, r *Request, get func() (any, error)) (err error) {
	defer func() {
		if err != errParked { //nolint:errorlint // never wrapped
			s.finish(rec, r)
		}
	}()
	defer s.recover(rec, r)
	v, err := get()
	if err == errParked { //nolint:errorlint // never wrapped
		return err
	}
	s.answer(rec, r, v, err)
	return nil
}

// begin finds the route of a request and sets the headers that every answer has.
func (s *Server) begin(w http.ResponseWriter, hr *http.Request) *Request {
	route, vars := s.find(hr)
	r := &Request{RequestID: s.newRequestID(), ClientAddr: s.clientAddr(hr), limit: s.opt.Limit, memory: s.memory, vars: vars, route: route}
	if route.Page {
		r.Nonce = newNonce()
	}
	r.setHeaders(w.Header())
	r.Request = hr.WithContext(telemetry.WithRequest(hr.Context(), r.RequestID, r.ClientAddr))
	return r
}

// setHeaders sets the headers that every answer has.
func (r *Request) setHeaders(h http.Header) {
	h["X-Request-Id"] = []string{r.RequestID} // helps to find the request in the log
	if r.route.Page {
		pageHeaders(h, r.Nonce)
	} else {
		cors(h)
	}
}

// find returns the route of a request and its path parameters, still escaped. If there is none, it returns a route that
// responds with the error.
func (s *Server) find(r *http.Request) (*served, []pathVar) {
	if r.Method == http.MethodOptions {
		if s.isPage(r) {
			return s.noPreflight, nil
		}
		return s.options, nil
	}
	route, vars, wrongMethod := s.router.find(r)
	switch {
	case wrongMethod:
		return s.noMethod, nil
	case route == nil:
		return s.notFound, nil
	}
	return route, vars
}

// serve performs all checks on a request and calls its handler.
func (s *Server) serve(w http.ResponseWriter, r *Request) (any, error) {
	defer r.releaseBody()
	if err := s.enter(r); err != nil {
		return nil, err
	}
	if err := r.unescapeVars(); err != nil {
		return nil, err
	}
	if err := r.parseQuery(); err != nil {
		return nil, err
	}
	if err := s.authenticate(r); err != nil {
		return nil, err
	}
	if r.UserID != "" {
		if err := s.enter(r); err != nil {
			return nil, err
		}
	}
	if r.route.Auth != Homeserver {
		if err := s.limit(r, r.route.Rate); err != nil {
			return nil, err
		}
		if err := r.boundBody(w, r.route.MaxBody); err != nil {
			return nil, err
		}
		return s.handle(r)
	}
	if err := s.authenticateServer(w, r); err != nil {
		return nil, err
	}
	if err := s.limit(r, r.route.Rate); err != nil { // the requesting server, for which the request counts, is known only now
		return nil, err
	}
	return s.handle(r)
}

// enter counts the request while it is in progress, for its network and, once it is authenticated, for its user. Over
// HTTP/2 one connection carries many requests, and each waiting request costs about 16 KiB.
//
// Errors: M_LIMIT_EXCEEDED.
func (s *Server) enter(r *Request) error {
	if s.opt.Requests == 0 {
		return nil
	}
	requests, who, most := &s.memory.networks, r.Network(), s.opt.Requests
	if r.UserID != "" {
		requests, who, most = &s.memory.users, string(r.UserID), maxUserRequests
	}
	slot, ok := requests.enter(who, most)
	if !ok {
		return mxerr.LimitExceeded(memoryPause)
	}
	if r.places[0] == nil {
		r.places[0] = slot
	} else {
		r.places[1] = slot
	}
	return nil
}

// handle calls the handler. Requests for history, and all reads by other servers, may use only a share of the
// database's capacity. Unauthenticated requests that read it take turns.
func (s *Server) handle(r *Request) (any, error) {
	if ctx := s.reading(r.Context(), r); ctx != r.Context() {
		r.Request = r.Request.WithContext(ctx)
	}
	stranger := r.UserID == "" && r.Server == ""
	if stranger && s.opt.Signing != nil {
		r.Request = r.Request.WithContext(s.opt.Signing(r.Context(), r.Network()))
	}
	if stranger && r.route.Rate == Anonymous {
		release, err := s.memory.turns.take(r.Context())
		if err != nil {
			return nil, err
		}
		defer release()
	}
	return r.route.Handler(r)
}

// reading returns the context for the handler of a request, which is derived from ctx.
func (s *Server) reading(ctx context.Context, r *Request) context.Context {
	reads := r.route.Rate == Reads || r.Server != "" && r.route.Method != http.MethodPut
	if !reads || s.opt.Reading == nil {
		return ctx
	}
	return s.opt.Reading(ctx, r.who())
}

// authenticateServer checks the signature of another homeserver. The signature covers the body, so everything that can
// be checked without the body is checked first.
func (s *Server) authenticateServer(w http.ResponseWriter, r *Request) error {
	if s.opt.AuthenticateServer == nil {
		return mxerr.Unrecognized()
	}
	from := r.Network()
	signature, err := s.claim(from, r)
	if err != nil {
		return err
	}
	if err := r.boundBody(w, r.route.MaxBody); err != nil {
		return err
	}
	body, err := r.Body()
	if err != nil {
		return err
	}
	r.Server, err = signature(body)
	switch {
	case err == nil:
		s.unproved.prove(from)
	case r.Context().Err() == nil:
		s.unproved.failed(from, max(int64(len(body)), leastUnproved))
	}
	return err
}

// claim checks the Authorization headers of a request from another homeserver. The work of fetching that server's key
// is counted for the network, and subtracted again when the key has been found.
func (s *Server) claim(from string, r *Request) (_ Signature, err error) {
	if r.proved, err = s.unproved.admit(from, r.ContentLength); err != nil {
		return nil, err
	}
	if err := s.unproved.begin(from, keyCost); err != nil {
		return nil, err
	}
	signature, err := s.opt.AuthenticateServer(r)
	if !errors.Is(err, ErrNoKey) {
		s.unproved.add(from, -keyCost)
	}
	return signature, err
}

func (s *Server) authenticate(r *Request) (err error) {
	auth := r.route.Auth
	if auth == None || auth == Homeserver {
		return nil
	}
	token := r.Token()
	if auth == Applicant {
		if s.opt.Service != nil && token != "" {
			r.Requester, _ = s.opt.Service(token)
		}
		return nil
	}
	if token == "" {
		if auth == Optional {
			return nil
		}
		return mxerr.MissingToken()
	}
	if r.Requester, err = s.opt.Authenticate(r.Context(), token, r); err != nil {
		return err
	}
	switch {
	case r.Locked && !r.route.Locked:
		return mxerr.UserLocked()
	case r.Guest && auth != Optional && !r.route.Guests:
		return mxerr.GuestAccessForbidden("Guests cannot do this; create an account")
	case r.Suspended && r.route.Acts:
		return mxerr.UserSuspended()
	case auth == Admin && s.opt.Administer == nil:
		return mxerr.Forbidden("This address serves no administrators")
	case auth == Admin:
		return s.opt.Administer(r.Context(), r.Requester)
	case auth == AppService && r.AppService == "":
		return mxerr.Forbidden("Only application services can use this endpoint")
	}
	return nil
}

// limit counts the request for its user or homeserver, or for its network if it is not authenticated.
func (s *Server) limit(r *Request, class Rate) error {
	if class == Unlimited {
		return nil
	}
	return r.Limit(class, r.who())
}

// finish counts and logs the request.
func (s *Server) finish(rec *recorder, r *Request) {
	for _, slot := range r.places {
		if slot != nil {
			slot.Add(-1)
		}
	}
	r.releaseAnswer()
	took := time.Since(r.start)
	r.route.observe(rec.status, r.errcode, took)
	if !s.opt.Log.Enabled(r.Context(), slog.LevelDebug) {
		return
	}
	s.opt.Log.LogAttrs(r.Context(), slog.LevelDebug, "request", slog.String("method", r.Method), slog.String("route", r.route.Path),
		slog.Int("status", rec.status), slog.String("errcode", r.errcode), slog.Duration("took", took),
		slog.String("user", string(r.UserID)), slog.String("device", string(r.DeviceID)))
}

// recover turns a panic into a 500 response, so that only one request fails.
func (s *Server) recover(rec *recorder, r *Request) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler { //nolint:errorlint // the sentinel itself
		panic(v)
	}
	err := fmt.Errorf("panic: %v\n%s", v, debug.Stack())
	if rec.wrote {
		s.opt.Log.ErrorContext(r.Context(), "panic after the response had started", "err", err)
		panic(http.ErrAbortHandler)
	}
	s.writeError(rec, r, err)
}

// newRequestID returns an ID that is unique in the log, even after a restart.
func (s *Server) newRequestID() string {
	return s.boot + strconv.FormatUint(s.count.Add(1), 36)
}
