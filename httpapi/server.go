package httpapi

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"ebb/mxerr"
)

// Options is what a Server is made of.
type Options struct {
	Routes []Route
	// Authenticate says who an access token belongs to: M_UNKNOWN_TOKEN for nobody.
	Authenticate func(ctx context.Context, token string, r *Request) (Requester, error)
	// Limit says how long a request has to wait, 0 for not at all; nil: no limits.
	Limit func(class Rate, who string) time.Duration
	// Unknown turns an error that is no mxerr.Error into one; nil: 500 M_UNKNOWN.
	Unknown func(err error) *mxerr.Error
	// Observe is told of every request; nil: nobody is.
	Observe func(route, method string, status int, errcode string, took time.Duration)
	// TrustedProxies are the peers whose X-Forwarded-For counts.
	TrustedProxies []netip.Prefix
	Now            func() time.Time
	Log            *slog.Logger
}

// Server answers requests by its routes. It is an http.Handler.
type Server struct {
	opt    Options
	router *mux.Router
}

// New builds the router.
func New(o Options) *Server {
	if o.Unknown == nil {
		o.Unknown = func(error) *mxerr.Error { return mxerr.New(500, mxerr.CodeUnknown, "Internal server error") }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{opt: o}
	s.router = s.build(o.Routes)
	return s
}

// build groups routes by their first path segments that hold no variable: gorilla/mux tries routes one after the other,
// and the last of a flat list of 200 costs 90 µs.
func (s *Server) build(routes []Route) *mux.Router {
	byGroup := map[string][]groupedRoute{}
	for i := range routes {
		for _, path := range append([]string{routes[i].Path}, routes[i].Aliases...) {
			group := groupOf(path)
			byGroup[group] = append(byGroup[group], groupedRoute{strings.TrimPrefix(path, group), &routes[i]})
		}
	}
	root := mux.NewRouter().SkipClean(true).UseEncodedPath()
	root.NotFoundHandler = s.plain(func(*Request) (any, error) { return nil, mxerr.Unrecognized() })
	root.MethodNotAllowedHandler = s.plain(func(*Request) (any, error) {
		return nil, mxerr.New(http.StatusMethodNotAllowed, mxerr.CodeUnrecognized, "This endpoint does not know the method")
	})
	names := slices.Sorted(maps.Keys(byGroup))
	for _, group := range slices.Backward(names) { // longer ones before those that begin like them
		sub := root.PathPrefix(group).Subrouter()
		for _, r := range byGroup[group] {
			sub.Handle(r.rest, s.handler(r.route)).Methods(methodsOf(r.route.Method)...)
		}
	}
	return root
}

// groupedRoute is a route with what its path has beyond the group's.
type groupedRoute struct {
	rest  string
	route *Route
}

func methodsOf(method string) []string {
	if method == http.MethodGet {
		return []string{http.MethodGet, http.MethodHead}
	}
	return []string{method}
}

// groupOf is the longest beginning of a template, by whole segments and at most five, that has no variable and leaves a
// rest: /_matrix/client/v3/rooms for the room operations.
func groupOf(path string) string {
	end := 0
	for n, i := 0, 1; i < len(path) && n < 5; i++ {
		if path[i] == '{' {
			break
		}
		if path[i] == '/' {
			end = i
			n++
		}
	}
	return path[:end]
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	cors(w.Header())
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	s.router.ServeHTTP(w, r)
}

// plain is a handler without route.
func (s *Server) plain(h func(*Request) (any, error)) http.Handler {
	return s.handler(&Route{Path: "unmatched", Handler: h})
}

// handler is the way of every request.
func (s *Server) handler(route *Route) http.Handler {
	maxBody := route.MaxBody
	if maxBody == 0 {
		maxBody = DefaultMaxBody
	}
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		r := &Request{Request: hr, RequestID: newRequestID(), ClientAddr: s.clientAddr(hr), maxBody: maxBody, operation: route.OperationID}
		r.Request = hr.WithContext(context.WithValue(hr.Context(), ctxKey{}, r.RequestID))
		defer s.finish(rec, r, route, start)
		defer s.recover(rec, r)
		v, err := s.serve(r, route)
		s.answer(rec, r, v, err)
	})
}

func (s *Server) serve(r *Request, route *Route) (any, error) {
	if err := r.unescapeVars(); err != nil {
		return nil, err
	}
	if err := r.checkQuery(); err != nil {
		return nil, err
	}
	if err := s.authenticate(r, route.Auth); err != nil {
		return nil, err
	}
	if err := s.limit(r, route.Rate); err != nil {
		return nil, err
	}
	return route.Handler(r)
}

func (s *Server) authenticate(r *Request, auth Auth) (err error) {
	if auth == None {
		return nil
	}
	token := r.token()
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
	case auth == Admin && !r.IsAdmin:
		return mxerr.Forbidden("You are not an administrator of this server")
	case auth == AppService && r.AppService == "":
		return mxerr.Forbidden("Only application services may do this")
	}
	return nil
}

func (s *Server) limit(r *Request, class Rate) error {
	if s.opt.Limit == nil || class == Unlimited {
		return nil
	}
	who := string(r.UserID)
	if who == "" {
		who = r.ClientAddr
	}
	if wait := s.opt.Limit(class, who); wait > 0 {
		return mxerr.LimitExceeded(wait)
	}
	return nil
}

// finish records the request.
func (s *Server) finish(rec *recorder, r *Request, route *Route, start time.Time) {
	took := time.Since(start)
	if s.opt.Observe != nil {
		s.opt.Observe(route.Path, r.Method, rec.status, r.errcode, took)
	}
	s.opt.Log.LogAttrs(r.Context(), slog.LevelDebug, "request", slog.String("request", r.RequestID), slog.String("method", r.Method),
		slog.String("route", route.Path), slog.Int("status", rec.status), slog.Duration("took", took), slog.String("user", string(r.UserID)), slog.String("peer", r.ClientAddr))
}

// recover turns a panic into a 500: one request dies, not the server.
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
		s.opt.Log.Error("panic after the answer began", "request", r.RequestID, "err", err)
		panic(http.ErrAbortHandler)
	}
	s.writeError(rec, r, err)
}

// recorder remembers the status of the answer.
type recorder struct {
	http.ResponseWriter
	status int
	wrote  bool
}

func (w *recorder) WriteHeader(status int) {
	if status == 499 { // the peer is gone; net/http refuses nothing, but keep to registered codes
		status = http.StatusBadRequest
	}
	w.status, w.wrote = status, true
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// clientAddr is the address that speaks, seen through the proxies that are trusted.
func (s *Server) clientAddr(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	addr := peer.Addr().Unmap()
	if len(s.opt.TrustedProxies) == 0 || !s.trusted(addr) {
		return addr.String()
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- { // from the nearest; the first that is no proxy of ours is the client
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		if addr = hop.Unmap(); !s.trusted(addr) {
			break
		}
	}
	return addr.String()
}

func (s *Server) trusted(addr netip.Addr) bool {
	for _, p := range s.opt.TrustedProxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

func newRequestID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

func pathUnescape(s string) (string, error) { return url.PathUnescape(s) }
