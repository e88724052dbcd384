package specindex

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ebb/httpapi"
)

// Check compares the page with the route tables and, if openapi is not nil, with the operations of the specification.
// Every served operation must be listed, every operation listed as working must be served, and no operation listed as
// No may be served.
func Check(index *Index, routes []httpapi.Route, openapi []Operation) []error {
	problems := checkRoutes(index, routes)
	if openapi != nil {
		problems = append(problems, CheckSpec(index, openapi)...)
	}
	return problems
}

func checkRoutes(index *Index, routes []httpapi.Route) (problems []error) {
	served := map[string]httpapi.Route{}
	for _, r := range routes {
		for i, path := range append([]string{r.Path}, r.Aliases...) {
			key := Operation{Method: r.Method, Path: path}.key()
			if _, twice := served[key]; twice {
				problems = append(problems, fmt.Errorf("%s is routed twice", key))
			}
			served[key] = r
			if i == 0 || mustBeListed(path) {
				problems = append(problems, listed(index, r, path)...)
			}
		}
	}
	for _, e := range index.Entries {
		route, works := served[e.key()]
		switch {
		case e.Status == No && works && route.OperationID == e.ID:
			problems = append(problems, fmt.Errorf("%s says No, but is served", e))
		case e.Status != No && !works && !e.outgoing():
			problems = append(problems, fmt.Errorf("%s says %s, but no route serves it", e, e.Status))
		}
	}
	return problems
}

// mustBeListed reports whether the page must list an alias. It must list unstable and vendor-specific names, but not
// older versions of a listed operation.
func mustBeListed(alias string) bool {
	return strings.Contains(alias, "/unstable/") || !strings.HasPrefix(alias, "/_matrix/")
}

// listed returns the errors in the page that concern one path of a route.
func listed(index *Index, r httpapi.Route, path string) []error {
	key := Operation{Method: r.Method, Path: path}.key()
	var others []error // two operations of the specification may share a path
	for _, e := range index.Entries {
		if e.key() == key && e.ID == r.OperationID {
			return nil
		}
		if e.key() == key {
			others = append(others, fmt.Errorf("%s: the route calls it %q", e, r.OperationID))
		}
	}
	if others != nil {
		return others
	}
	return []error{fmt.Errorf("%s %s (%s) is served, but not listed", r.Method, path, r.OperationID)}
}

// CheckSpec compares the first section with the OpenAPI files, in both directions.
func CheckSpec(index *Index, openapi []Operation) (problems []error) {
	known := map[string]Operation{}
	for _, o := range openapi {
		known[o.ID+" "+o.key()] = o
	}
	for _, e := range index.Entries {
		o, ok := known[e.ID+" "+e.key()]
		delete(known, e.ID+" "+e.key())
		switch {
		case ok && e.Beyond:
			problems = append(problems, fmt.Errorf("%s stands in the second section, but is specified", e))
		case !ok && !e.Beyond:
			problems = append(problems, fmt.Errorf("%s is not specified: it belongs in the second section", e))
		case ok && o != e.Operation:
			problems = append(problems, fmt.Errorf("%s: the specification says %s %s in %s", e, o.ID, o.Path, o.File))
		}
	}
	for _, o := range openapi {
		if _, left := known[o.ID+" "+o.key()]; left {
			problems = append(problems, fmt.Errorf("%s %s (%s, %s) is missing", o.Method, o.Path, o.ID, o.File))
		}
	}
	return problems
}

// CheckTests returns an error for each entry whose test does not exist. tests is the result of Tests.
func CheckTests(index *Index, tests map[string]bool, root string) (problems []error) {
	for _, e := range index.Entries {
		if e.Test == "" {
			continue
		}
		if strings.HasSuffix(e.Test, ".mjs") {
			if _, err := os.Stat(filepath.Join(root, e.Test)); err != nil {
				problems = append(problems, fmt.Errorf("%s names a script that is not there: %s", e, e.Test))
			}
			continue
		}
		if !tests[e.Test] {
			problems = append(problems, fmt.Errorf("%s names a test that does not exist: %s", e, e.Test))
		}
	}
	return problems
}
