package storage_test

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ebb/storage"
	"ebb/storage/storagetest"
)

// packageQueries finds the SQL in this package's source: every constant expression passed to exec, each, one or
// collect. A list of placeholders that is built at run time is represented by "(NULL)".
func packageQueries(t *testing.T) map[string]token.Position {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}}
	// Constants can be folded without the imports, so unresolved names do not matter.
	lenient := types.Config{Error: func(error) {}, Importer: nothing{}}
	_, _ = lenient.Check("ebb/storage", set, files, info)

	values := variables(info, files)
	queries := map[string]token.Position{}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if arg := queryArgument(call); arg != nil {
					if text, ok := fold(info, values, arg); ok {
						queries[text] = set.Position(call.Pos())
					}
				}
			}
			return true
		})
	}
	return queries
}

type nothing struct{}

func (nothing) Import(path string) (*types.Package, error) {
	p := types.NewPackage(path, filepath.Base(path))
	p.MarkComplete()
	return p, nil
}

// queryArgument returns the SQL argument of tx.exec(sql, …), tx.each(f, sql, …), one(tx, f, sql, …) or collect(tx, f,
// sql, …).
func queryArgument(call *ast.CallExpr) ast.Expr {
	index := map[string]int{"exec": 0, "each": 1, "one": 2, "collect": 2}
	name := ""
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		if x, ok := f.X.(*ast.Ident); ok && x.Name == "tx" {
			name = f.Sel.Name
		}
	case *ast.Ident:
		name = f.Name
	}
	if i, ok := index[name]; ok && len(call.Args) > i {
		return call.Args[i]
	}
	return nil
}

// variables returns the initial values of the package's variables.
func variables(info *types.Info, files []*ast.File) map[types.Object]ast.Expr {
	values := map[types.Object]ast.Expr{}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Names) == len(spec.Values) {
				for i, name := range spec.Names {
					values[info.Defs[name]] = spec.Values[i]
				}
			}
			return true
		})
	}
	return values
}

// fold evaluates an expression that builds a query from constants, variables and conditions on flags.
func fold(info *types.Info, values map[types.Object]ast.Expr, e ast.Expr) (string, bool) {
	if v := info.Types[e].Value; v != nil && v.Kind() == constant.String {
		return constant.StringVal(v), true
	}
	switch e := e.(type) {
	case *ast.BinaryExpr:
		left, ok1 := fold(info, values, e.X)
		right, ok2 := fold(info, values, e.Y)
		return left + right, ok1 && ok2 && e.Op == token.ADD
	case *ast.Ident:
		if e.Name == "list" {
			return "(NULL)", true
		}
		if value := values[info.Uses[e]]; value != nil {
			return fold(info, values, value)
		}
	case *ast.CallExpr:
		if f, ok := e.Fun.(*ast.Ident); ok && f.Name == "flagsAre" {
			of, set := info.Types[e.Args[0]].Value, info.Types[e.Args[1]].Value
			return "flags & " + of.ExactString() + " = " + set.ExactString(), true
		}
	}
	return "", false
}

func TestEveryQueryIsUnderstoodByBothDatabases(t *testing.T) {
	queries := packageQueries(t)
	if len(queries) < 20 {
		t.Fatalf("only %d queries found", len(queries))
	}
	texts := make([]string, 0, len(queries))
	for q := range queries {
		texts = append(texts, q)
	}
	slices.Sort(texts)
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		for _, q := range texts {
			if err := storage.Prepare(db, q); err != nil {
				t.Errorf("%s: %v", queries[q], err)
			}
		}
		t.Logf("%d queries", len(texts))
	})
}

// planOf returns how SQLite would run a query.
func planOf(t *testing.T, tx *storage.Tx, query string) (plan string) {
	t.Helper()
	ok(t, tx.Each(func(r storage.Row) error {
		var n, parent, unused int64
		var step string
		err := r.Scan(&n, &parent, &unused, &step)
		plan += step + "\n"
		return err
	}, `EXPLAIN QUERY PLAN `+query, make([]any, strings.Count(query, "$"))...))
	return plan
}

// Otherwise every search for an event by its ID would scan its room.
func TestEventsAreFoundByTheirIDs(t *testing.T) {
	db := storagetest.Open(t, storage.Config{})
	ok(t, db.Read(t.Context(), func(tx *storage.Tx) error {
		for _, q := range storage.FindsByID {
			if plan := planOf(t, tx, q); !strings.Contains(plan, "events_by_id") {
				t.Errorf("%s\n%s", q, plan)
			}
		}
		return nil
	}))
}

// If a page needed a sort, each page of a list would read all of its rows.
func TestPagesOfListsAreFoundByAnIndex(t *testing.T) {
	db := storagetest.Open(t, storage.Config{})
	ok(t, db.Read(t.Context(), func(tx *storage.Tx) error {
		for q, index := range storage.Paged {
			if plan := planOf(t, tx, q); !strings.Contains(plan, index) || strings.Contains(plan, "B-TREE") || strings.Contains(plan, "SCAN") {
				t.Errorf("%s\n%s", q, plan)
			}
		}
		return nil
	}))
}
