package httpapi

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/mux"

	"ebb/telemetry"
)

// The APIs that a listener can serve.
const (
	apiClient     = "client"
	apiFederation = "federation"
	apiAdmin      = "admin"
	apiMetrics    = "metrics"
)

// apiOf maps path prefixes to APIs. Paths that match none belong to the client API.
var apiOf = []struct {
	prefix string
	apis   []string
}{
	{"/_matrix/federation/", []string{apiFederation}},
	{"/_matrix/key/", []string{apiFederation}},
	{"/.well-known/matrix/server", []string{apiFederation, apiClient}},
	{"/_synapse/admin/", []string{apiAdmin}},
	{"/_ebb/admin/", []string{apiAdmin}},
}

func serves(set []string, api string) bool { return set == nil || slices.Contains(set, api) }

func servesPath(set []string, path string) bool {
	for _, a := range apiOf {
		if strings.HasPrefix(path, a.prefix) {
			return slices.ContainsFunc(a.apis, func(api string) bool { return serves(set, api) })
		}
	}
	return serves(set, apiClient)
}

// router finds the route of a request. Paths without variables are in a map; other paths are in one gorilla/mux router
// per group. A mux router tries its routes one after the other: in a flat list of 200 routes, the last one would cost
// 90 µs, and even among the 40 below /rooms 25 µs.
type router struct {
	plain  map[plainRoute]*served
	groups map[group]*mux.Router
}

// plainRoute is a path without variables.
type plainRoute struct{ method, path string }

// group identifies a set of routes by two parts of their paths: the prefix, which is the segments before the first
// variable, and the word, which is the segment after that variable. For example,
// /_matrix/client/v3/rooms/{roomId}/state/{eventType} has the prefix /_matrix/client/v3/rooms and the word state. The
// prefix has at most maxPrefix segments and never all segments of the path. The word is "" if there is no such segment
// or if it is a variable too.
type group struct{ prefix, word string }

// maxPrefix bounds the segments in a group's prefix; /_matrix/client/v3/rooms has four.
const maxPrefix = 4

func newRouter(routes []Route) router {
	r := router{map[plainRoute]*served{}, map[group]*mux.Router{}}
	for i := range routes {
		for _, path := range append([]string{routes[i].Path}, routes[i].Aliases...) {
			r.add(path, newServed(&routes[i]))
		}
	}
	return r
}

// add registers a route at a path. Paths without variables are also added to the groups, which tell a wrong method from
// an unknown path.
func (r router) add(path string, s *served) {
	methods := methodsOf(s.Method)
	if !strings.Contains(path, "{") {
		for _, method := range methods {
			r.plain[plainRoute{method, path}] = s
		}
	}
	g := groupOf(path)
	if r.groups[g] == nil {
		r.groups[g] = mux.NewRouter().SkipClean(true).UseEncodedPath()
	}
	r.groups[g].Handle(path, s).Methods(methods...)
}

func groupOf(path string) group {
	literal, _, _ := strings.Cut(path, "{")
	ends := prefixEnds(literal)
	g := group{prefix: path[:ends[len(ends)-1]]}
	if word := wordAfter(path, len(g.prefix)); !strings.HasPrefix(word, "{") {
		g.word = word
	}
	return g
}

// find returns the route of a request and its path parameters, still escaped. It tries groups with longer prefixes
// first. The mux routers are used only for matching: their ServeHTTP would copy the request twice to pass on the same
// results.
func (rs router) find(r *http.Request) (route *served, vars map[string]string, wrongMethod bool) {
	path := r.URL.EscapedPath()
	if s := rs.plain[plainRoute{r.Method, path}]; s != nil {
		return s, nil, false
	}
	for _, end := range slices.Backward(prefixEnds(path)) {
		for _, word := range []string{wordAfter(path, end), ""} {
			mx := rs.groups[group{path[:end], word}]
			if mx == nil {
				continue
			}
			var m mux.RouteMatch
			if mx.Match(r, &m) {
				route, _ = m.Handler.(*served)
				return route, m.Vars, false
			}
			wrongMethod = wrongMethod || errors.Is(m.MatchErr, mux.ErrMethodMismatch)
		}
	}
	return nil, nil, wrongMethod
}

// prefixEnds returns the positions in path at which a prefix may end, starting with the empty prefix.
func prefixEnds(path string) []int {
	ends := make([]int, 0, maxPrefix+1)
	for i := 0; i < len(path) && len(ends) <= maxPrefix; i++ {
		if path[i] == '/' {
			ends = append(ends, i)
		}
	}
	return ends
}

// wordAfter returns the second segment after the prefix path[:end].
func wordAfter(path string, end int) string {
	_, rest, _ := strings.Cut(path[end+1:], "/")
	word, _, _ := strings.Cut(rest, "/")
	return word
}

func methodsOf(method string) []string {
	if method == http.MethodGet {
		return []string{http.MethodGet, http.MethodHead}
	}
	return []string{method}
}

// served is a route as it is registered at one of its paths, together with its metrics.
type served struct {
	*Route
	// once creates the metrics at the first request; otherwise hundreds of routes would have empty series.
	once    sync.Once
	seconds telemetry.Histogram
	fine    telemetry.Counter // responses with status 200
}

func newServed(r *Route) *served {
	c := *r
	if c.MaxBody == 0 {
		c.MaxBody = DefaultMaxBody
	}
	return &served{Route: &c}
}

// ServeHTTP is never called. It makes served an http.Handler, which mux stores and router.find converts back.
func (*served) ServeHTTP(http.ResponseWriter, *http.Request) {}

var (
	requests       = telemetry.NewCounterVec("ebb_http_requests_total", "Requests by route, status and error code.", "method", "route", "status", "errcode")
	requestSeconds = telemetry.NewHistogramVec("ebb_http_request_seconds", "Time to answer, waiting for news included, by route.", telemetry.Seconds(), "method", "route")
)

func (s *served) observe(status int, errcode string, took time.Duration) {
	s.once.Do(func() {
		s.seconds, s.fine = requestSeconds.WithLabelValues(s.Method, s.Path), requests.WithLabelValues(s.Method, s.Path, "200", "")
	})
	s.seconds.Observe(took.Seconds())
	if status == http.StatusOK {
		s.fine.Inc()
		return
	}
	requests.WithLabelValues(s.Method, s.Path, strconv.Itoa(status), errcode).Inc()
}
