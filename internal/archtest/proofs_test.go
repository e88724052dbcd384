package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testName matches `package.TestName` in a page. The package's path may contain slashes.
var testName = regexp.MustCompile("`([a-z0-9/]+)\\.(Test[A-Za-z0-9]+)`")

// provedPages lists the pages whose tables name the tests that prove each row, with the minimum number of tests.
var provedPages = map[string]int{"clients.md": 40, "security.md": 50}

func TestPagesNameTestsThatExist(t *testing.T) {
	sources := map[string]string{}
	for name, least := range provedPages {
		text := page(t, name)
		found := testName.FindAllStringSubmatch(text, -1)
		if len(found) < least {
			t.Errorf("%s names only %d tests", name, len(found))
		}
		for _, test := range found {
			folder := test[1]
			if sources[folder] == "" {
				sources[folder] = testSources(t, folder)
			}
			if !strings.Contains(sources[folder], "\nfunc "+test[2]+"(t *testing.T)") {
				t.Errorf("%s: there is no %s.%s", name, folder, test[2])
			}
		}
		for row := range strings.Lines(text) {
			if strings.HasPrefix(row, "| ") && !strings.HasPrefix(row, "| What") && !strings.HasPrefix(row, "| Attack") && !strings.HasPrefix(row, "| -") && !testName.MatchString(row) {
				t.Errorf("%s: no test proves %s", name, row)
			}
		}
	}
}

// testSources returns the concatenated test files of a folder.
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
