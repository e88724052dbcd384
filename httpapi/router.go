package httpapi

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"ebb/telemetry"
)

// The APIs that a listener may serve.
const (
	apiClient     = "client"
	apiFederation = "federation"
	apiAdmin      = "admin"
	apiMetrics    = "metrics"
)

// apiOf says which API a path belongs to, by its first segments; what is not listed is for clients.
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

// router is a gorilla/mux router for each group of routes, by the literal beginning of their paths: mux tries routes one
// after the other, and the last of a flat list of 200 costs 90 µs.
type router map[string]*mux.Router

func newRouter(routes []Route) router {
	groups := router{}
	for i := range routes {
		for _, path := range append([]string{routes[i].Path}, routes[i].Aliases...) {
			group := groupOf(path)
			if groups[group] == nil {
				groups[group] = mux.NewRouter().SkipClean(true).UseEncodedPath()
			}
			groups[group].Handle(path, newServed(&routes[i])).Methods(methodsOf(routes[i].Method)...)
		}
	}
	return groups
}

// find looks up the route of a request and its path parameters, still escaped: groups with longer beginnings first. The
// routers only find: their ServeHTTP would copy the request twice to tell the handler what is returned here.
func (groups router) find(r *http.Request) (route *served, vars map[string]string, wrongMethod bool) {
	path := r.URL.EscapedPath()
	for _, end := range slices.Backward(segmentEnds(path)) {
		group := groups[path[:end]]
		if group == nil {
			continue
		}
		var m mux.RouteMatch
		if group.Match(r, &m) {
			route, _ = m.Handler.(*served)
			return route, m.Vars, false
		}
		wrongMethod = wrongMethod || errors.Is(m.MatchErr, mux.ErrMethodMismatch)
	}
	return nil, nil, wrongMethod
}

// maxGroup is how many segments the beginning of a group may have: /_matrix/client/v3/rooms has four.
const maxGroup = 4

// segmentEnds are where the beginnings of a path end that may be a group's, the empty one first.
func segmentEnds(path string) []int {
	ends := make([]int, 0, maxGroup+1)
	for i := 0; i < len(path) && len(ends) <= maxGroup; i++ {
		if path[i] == '/' {
			ends = append(ends, i)
		}
	}
	return ends
}

func methodsOf(method string) []string {
	if method == http.MethodGet {
		return []string{http.MethodGet, http.MethodHead}
	}
	return []string{method}
}

// groupOf is the longest beginning of a template by whole segments, at most maxGroup, that has no variable and leaves a
// rest.
func groupOf(path string) string {
	literal, _, _ := strings.Cut(path, "{")
	ends := segmentEnds(literal)
	return path[:ends[len(ends)-1]]
}

// served is a route at one of its paths, with its metrics.
type served struct {
	*Route
	seconds telemetry.Histogram
	fine    telemetry.Counter // answers with 200
}

func newServed(r *Route) *served {
	c := *r
	if c.MaxBody == 0 {
		c.MaxBody = DefaultMaxBody
	}
	return &served{Route: &c, seconds: requestSeconds.WithLabelValues(c.Method, c.Path), fine: requests.WithLabelValues(c.Method, c.Path, "200", "")}
}

// ServeHTTP makes a served an http.Handler, which is what the router holds; router.find takes it out again.
func (*served) ServeHTTP(http.ResponseWriter, *http.Request) {}

var (
	requests       = telemetry.NewCounterVec("ebb_http_requests_total", "Requests by route, status and error code.", "method", "route", "status", "errcode")
	requestSeconds = telemetry.NewHistogramVec("ebb_http_request_seconds", "Time to answer, waiting for news included, by route.", telemetry.Seconds(), "method", "route")
)

func (s *served) observe(status int, errcode string, took time.Duration) {
	s.seconds.Observe(took.Seconds())
	if status == http.StatusOK {
		s.fine.Inc()
		return
	}
	requests.WithLabelValues(s.Method, s.Path, strconv.Itoa(status), errcode).Inc()
}
