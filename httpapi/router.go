package httpapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

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

// router finds the route of a request in a tree of path segments. The time this takes does not depend on the number of
// routes.
type router struct{ root node }

// node is the position in the tree after a number of segments.
type node struct {
	literal  map[string]*node // by the next segment
	variable *node            // after any other segment that is not empty; nil if no path has a variable there
	routes   map[string]*end  // the routes whose paths end here, by method
}

// end is a route at one of its paths.
type end struct {
	*served
	names []string // of the path's variables, in order
}

// pathVar is a path parameter.
type pathVar struct{ name, value string }

func newRouter(routes []Route) *router {
	r := &router{}
	for i := range routes {
		for _, path := range append([]string{routes[i].Path}, routes[i].Aliases...) {
			r.add(path, newServed(&routes[i]))
		}
	}
	return r
}

// add registers a route at a path. It panics if another route has the same method and path.
func (rs *router) add(path string, s *served) {
	n, e := &rs.root, &end{served: s}
	for segment := range strings.SplitSeq(path[1:], "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			e.names = append(e.names, strings.TrimSuffix(name, "}"))
		}
		n = n.grow(segment)
	}
	if n.routes == nil {
		n.routes = map[string]*end{}
	}
	for _, method := range methodsOf(s.Method) {
		if n.routes[method] != nil {
			panic("httpapi: there are two routes for " + method + " " + path)
		}
		n.routes[method] = e
	}
}

// grow returns the node after a segment of a route's path and creates it if necessary.
func (n *node) grow(segment string) *node {
	if strings.HasPrefix(segment, "{") {
		if n.variable == nil {
			n.variable = &node{}
		}
		return n.variable
	}
	next := n.literal[segment]
	if next == nil {
		next = &node{}
		if n.literal == nil {
			n.literal = map[string]*node{}
		}
		n.literal[segment] = next
	}
	return next
}

// find returns the route of a request and its path parameters, still escaped. If all routes that match the path have
// other methods, wrongMethod is true.
func (rs *router) find(r *http.Request) (route *served, vars []pathVar, wrongMethod bool) {
	path := r.URL.EscapedPath()
	if !strings.HasPrefix(path, "/") {
		return nil, nil, false
	}
	return rs.root.find(r.Method, path, 0)
}

// find finds the route for the rest of a path, which is empty or begins with a slash, after the given number of
// variables. A literal segment of a route's path has precedence over a variable.
func (n *node) find(method, path string, before int) (route *served, vars []pathVar, wrongMethod bool) {
	if path == "" {
		e := n.routes[method]
		if e == nil {
			return nil, nil, n.routes != nil
		}
		vars = make([]pathVar, len(e.names))
		for i, name := range e.names {
			vars[i].name = name
		}
		return e.served, vars, false
	}
	segment, rest := path[1:], ""
	if i := strings.IndexByte(segment, '/'); i >= 0 {
		segment, rest = segment[:i], segment[i:]
	}
	if next := n.literal[segment]; next != nil {
		if route, vars, wrongMethod = next.find(method, rest, before); route != nil {
			return route, vars, false
		}
	}
	if n.variable == nil || segment == "" {
		return nil, nil, wrongMethod
	}
	route, vars, wrong := n.variable.find(method, rest, before+1)
	if route == nil {
		return nil, nil, wrongMethod || wrong
	}
	vars[before].value = segment
	return route, vars, false
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
