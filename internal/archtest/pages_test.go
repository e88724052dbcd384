package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func page(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// program calls f for every Go file of the program except tests and development tools.
func program(t *testing.T, f func(path string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "node_modules", "testdata", "internal", "test", "tools", "storagetest"}, d.Name()):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		f(strings.TrimPrefix(filepath.ToSlash(path), "../../"), text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestArchitecturePageListsEveryPackage(t *testing.T) {
	text := page(t, "architecture.md")
	there := map[string]bool{}
	program(t, func(path string, _ []byte) {
		if dir := filepath.ToSlash(filepath.Dir(path)); !there[dir] {
			there[dir] = true
			if !strings.Contains(text, "`"+dir+"`") {
				t.Errorf("docs/architecture.md does not list the package %s", dir)
			}
		}
	})
	for _, row := range regexp.MustCompile(`(?m)^\| (\d) \| ([^|]+) \|`).FindAllStringSubmatch(text, -1) {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[2], -1) {
			r, _ := ruleOf(name[1])
			if !there[name[1]] {
				t.Errorf("docs/architecture.md lists %s, which is no package", name[1])
			} else if want := string('0' + rune(r.rank)); want != row[1] {
				t.Errorf("docs/architecture.md gives %s the rank %s, it has %s", name[1], row[1], want)
			}
		}
	}
}

func TestAdministratorsPageListsEveryMetric(t *testing.T) {
	text := page(t, "admin.md")
	made := regexp.MustCompile(`telemetry\.New\w+\("(ebb_\w+)"`)
	known := map[string]bool{}
	program(t, func(path string, code []byte) {
		for _, m := range made.FindAllSubmatch(code, -1) {
			known[string(m[1])] = true
			if !strings.Contains(text, "`"+string(m[1])+"`") {
				t.Errorf("docs/admin.md does not list the metric %s of %s", m[1], path)
			}
		}
	})
	for _, m := range regexp.MustCompile("`(ebb_\\w+)`").FindAllStringSubmatch(text, -1) {
		if !known[m[1]] {
			t.Errorf("docs/admin.md lists the metric %s, which is not in the code", m[1])
		}
	}
}
