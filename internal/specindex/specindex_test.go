package specindex

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ebb/httpapi"
)

const (
	root = "../.."
	page = root + "/docs/spec-index.txt"
)

var update = flag.Bool("update", false, "put docs/spec-index.txt into order, with what the OpenAPI files have beyond it")

func readPage(t *testing.T) *Index {
	t.Helper()
	f, err := os.Open(page)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	index, err := Parse(f)
	if err != nil {
		t.Fatalf("%s: %v", page, err)
	}
	return index
}

func specification(t *testing.T) []Operation {
	t.Helper()
	dir := os.Getenv("MATRIX_SPEC_DIR")
	if dir == "" {
		t.Skip("MATRIX_SPEC_DIR is not set")
	}
	ops, err := OpenAPI(dir)
	if err != nil {
		t.Fatal(err)
	}
	return ops
}

func TestPageListsEveryOperationOfTheSpecification(t *testing.T) {
	ops := specification(t)
	if *update {
		rewrite(t, ops)
	}
	count := map[string]int{}
	for _, o := range ops {
		count[filepath.Dir(o.File)]++
	}
	for api, want := range map[string]int{"client-server": 166, "server-server": 36, "application-service": 9, "push-gateway": 1} {
		if count[api] != want {
			t.Errorf("%s has %d operations, want %d", api, count[api], want)
		}
	}
	for _, err := range CheckSpec(readPage(t), ops) {
		t.Error(err)
	}
}

// rewrite sorts the first section in the order of the specification and adds missing operations. It does not change the
// second section.
func rewrite(t *testing.T, ops []Operation) {
	t.Helper()
	old := readPage(t)
	sorted := &Index{}
	for _, o := range ops {
		e := Entry{Operation: o, Status: No}
		if i := slices.IndexFunc(old.Entries, func(e Entry) bool { return e.ID == o.ID && e.key() == o.key() }); i >= 0 {
			e.Status, e.Test, e.Note = old.Entries[i].Status, old.Entries[i].Test, old.Entries[i].Note
		}
		sorted.Entries = append(sorted.Entries, e)
	}
	beyond := slices.DeleteFunc(old.Entries, func(e Entry) bool { return !e.Beyond })
	slices.SortStableFunc(beyond, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	sorted.Entries = append(sorted.Entries, beyond...)
	var b strings.Builder
	if err := sorted.Write(&b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestPageNamesTestsThatExist(t *testing.T) {
	tests, err := Tests(root)
	if err != nil {
		t.Fatal(err)
	}
	if !tests["internal/specindex.TestPageNamesTestsThatExist"] {
		t.Fatal("the search does not find this test")
	}
	for _, err := range CheckTests(readPage(t), tests, root) {
		t.Error(err)
	}
}

func TestPageIsUnchangedByParsingAndWriting(t *testing.T) {
	index := readPage(t)
	var b strings.Builder
	if err := index.Write(&b); err != nil {
		t.Fatal(err)
	}
	again, err := Parse(strings.NewReader(b.String()))
	if err != nil || len(again.Entries) != len(index.Entries) {
		t.Fatalf("%d entries become %v: %v", len(index.Entries), again, err)
	}
	for i, e := range again.Entries {
		e.Line = index.Entries[i].Line
		if e != index.Entries[i] {
			t.Errorf("%+v becomes %+v", index.Entries[i], e)
		}
	}
}

func TestInvalidLinesAreRefused(t *testing.T) {
	for _, line := range []string{
		"send PUT /x Yes -",
		"send PUT /x Partial server.TestX",
		"send PUT /x Perhaps -",
		"send put /x No -",
		"send PUT x No -",
		"send PUT /x No",
		"send PUT /a/{x} No -\nsend PUT /a/{y} No -",
	} {
		if _, err := Parse(strings.NewReader(specSection + "\n" + line)); err == nil {
			t.Errorf("%q is accepted", line)
		}
	}
	if _, err := Parse(strings.NewReader("send PUT /x No -")); err == nil {
		t.Error("a line before the first section is accepted")
	}
}

func TestDisagreementsAreFoundBothWays(t *testing.T) {
	index, err := Parse(strings.NewReader(`[specification]
## client-server/a.yaml
getA    GET  /_matrix/client/v3/a/{x} Yes server.TestA
getB    GET  /_matrix/client/v3/b     No  -
getC    GET  /_matrix/client/v3/c     Yes server.TestC
forged  GET  /_matrix/client/v3/f     No  -
notify  POST /_matrix/push/v1/notify  Yes server.TestPush
[beyond]
getU GET /_matrix/client/unstable/u Yes server.TestU
`))
	if err != nil {
		t.Fatal(err)
	}
	routes := []httpapi.Route{
		{Method: "GET", Path: "/_matrix/client/v3/a/{name}", Aliases: []string{"/_matrix/client/r0/a/{x}", "/_matrix/client/unstable/a/{x}"}, OperationID: "getA"},
		{Method: "GET", Path: "/_matrix/client/v3/b", OperationID: "getB"},
		{Method: "GET", Path: "/_matrix/client/v3/d", OperationID: "getD"},
		{Method: "GET", Path: "/_matrix/client/unstable/u", OperationID: "other"},
	}
	openapi := []Operation{
		{"getA", "GET", "/_matrix/client/v3/a/{x}", "client-server/a.yaml"},
		{"getB", "GET", "/_matrix/client/v3/b", "client-server/a.yaml"},
		{"renamed", "GET", "/_matrix/client/v3/c", "client-server/a.yaml"},
		{"notify", "POST", "/_matrix/push/v1/notify", "client-server/a.yaml"},
		{"getE", "GET", "/_matrix/client/v3/e", "client-server/a.yaml"},
	}
	problems := Check(index, routes, openapi)
	for _, want := range []string{
		"GET /_matrix/client/unstable/a/{x} (getA) is served, but not listed",
		"getB GET /_matrix/client/v3/b) says No, but is served",
		"getC GET /_matrix/client/v3/c) says Yes, but no route serves it",
		"GET /_matrix/client/v3/d (getD) is served, but not listed",
		`/_matrix/client/unstable/u): the route calls it "other"`,
		"/_matrix/client/v3/c) is not specified",
		"GET /_matrix/client/v3/c (renamed, client-server/a.yaml) is missing",
		"/_matrix/client/v3/f) is not specified",
		"GET /_matrix/client/v3/e (getE, client-server/a.yaml) is missing",
	} {
		if !slices.ContainsFunc(problems, func(err error) bool { return strings.Contains(err.Error(), want) }) {
			t.Errorf("nobody says %q", want)
		}
	}
	if len(problems) != 9 {
		t.Errorf("%d problems: %v", len(problems), problems)
	}
	if missing := CheckTests(index, map[string]bool{"server.TestA": true, "server.TestC": true, "server.TestU": true}, root); len(missing) != 1 {
		t.Errorf("missing tests: %v", missing)
	}
}
