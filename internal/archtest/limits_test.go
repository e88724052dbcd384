package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	named = regexp.MustCompile("`([a-z0-9/]+\\.[A-Za-z]\\w*)`")
	bound = regexp.MustCompile(`^[mM]ax[A-Z]`)
)

func TestLimitsPageListsEveryBound(t *testing.T) {
	page, err := os.ReadFile("../../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	all := declared(t, "../..")
	listed := map[string]bool{}
	for _, m := range named.FindAllSubmatch(page, -1) {
		listed[string(m[1])] = true
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		if dir, _, _ := strings.Cut(name, "."); !all[name] && dirExists(filepath.Join("../..", dir)) && !configKey(name) {
			t.Errorf("docs/limits.md names %s, which is not in the code", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if _, ident, _ := strings.Cut(name, "."); bound.MatchString(ident) && !listed[name] {
			t.Errorf("docs/limits.md does not list %s", name)
		}
	}
}

// configKey reports whether a name is a configuration key, such as media.max_upload_size, rather than a constant, such
// as media.maxWait.
func configKey(name string) bool { return strings.Contains(name, "_") }

func dirExists(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && info.IsDir()
}

// declared returns the constants and functions of the program, as FOLDER.name.
func declared(t *testing.T, root string) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "node_modules", "testdata", "internal", "test", "tools", "cmd", "storagetest"}, d.Name()):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch d := n.(type) {
			case *ast.GenDecl:
				return d.Tok == token.CONST
			case *ast.ValueSpec:
				for _, name := range d.Names {
					all[filepath.ToSlash(dir)+"."+name.Name] = true
				}
			case *ast.FuncDecl:
				all[filepath.ToSlash(dir)+"."+d.Name.Name] = true
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
