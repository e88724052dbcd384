package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testName finds `package.TestName` in docs/clients.md; a package deeper than one folder is written with slashes.
var testName = regexp.MustCompile("`([a-z0-9/]+)\\.(Test[A-Za-z0-9]+)`")

func TestPageOnClientsNamesTestsThatExist(t *testing.T) {
	text := page(t, "clients.md")
	found := testName.FindAllStringSubmatch(text, -1)
	if len(found) < 40 {
		t.Errorf("only %d tests are named", len(found))
	}
	sources := map[string]string{}
	for _, name := range found {
		folder := name[1]
		if sources[folder] == "" {
			sources[folder] = testSources(t, folder)
		}
		if !strings.Contains(sources[folder], "\nfunc "+name[2]+"(t *testing.T)") {
			t.Errorf("there is no %s.%s", folder, name[2])
		}
	}
	for row := range strings.Lines(text) {
		if strings.HasPrefix(row, "| ") && !strings.HasPrefix(row, "| What") && !strings.HasPrefix(row, "| -") && !testName.MatchString(row) {
			t.Errorf("no test proves %s", row)
		}
	}
}

// testSources are the test files of a folder, one after the other.
func testSources(t *testing.T, folder string) string {
	t.Helper()
	files, err := filepath.Glob("../../" + folder + "/*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests in %s: %v", folder, err)
	}
	var all strings.Builder
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(raw)
	}
	return all.String()
}
