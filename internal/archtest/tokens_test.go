package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// makers lists the methods of storage that create tokens with which somebody can act as a user.
var makers = []string{"AddAccessToken", "AddRefreshToken", "AddLoginToken"}

// TestOnlyTheGateMakesTokens fails if a package other than accounts/gate creates access tokens, since every such path
// would have to check again who may log in. It also fails if a statement outside the makers writes to their tables.
func TestOnlyTheGateMakesTokens(t *testing.T) {
	seen := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "node_modules", "testdata"}, d.Name()):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, table := range []string{"access_tokens", "refresh_tokens", "login_tokens"} {
			if n := strings.Count(string(raw), "INTO "+table); n > 0 && (n > 1 || !strings.HasSuffix(path, "storage/tokens.go")) {
				t.Errorf("%s inserts into %s: only storage/tokens.go does, once", path, table)
			}
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, raw, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && slices.Contains(makers, s.Sel.Name) {
				seen++
				if filepath.ToSlash(filepath.Dir(path)) != "../../accounts/gate" {
					t.Errorf("%s uses %s: sign-in goes through accounts/gate, which alone makes tokens", path, s.Sel.Name)
				}
			}
			return true
		})
		return nil
	})
	if err != nil || seen != len(makers) {
		t.Fatalf("%d uses, %v", seen, err)
	}
}
