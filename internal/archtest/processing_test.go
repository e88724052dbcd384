package archtest

import (
	"regexp"
	"strings"
	"testing"
)

// Every table and file that docs/storage.md lists has one purpose there, from which the record of processing is made.
func TestStoragePageGivesEveryTableAndFileOnePurpose(t *testing.T) {
	text := page(t, "storage.md")
	before, rest, found := strings.Cut(text, "\n## What it is for\n")
	if !found {
		t.Fatal("docs/storage.md has no section on purposes")
	}
	section, after, _ := strings.Cut(rest, "\n## ")
	purposes := map[string]int{}
	for _, row := range regexp.MustCompile("(?m)^\\| [^|`-][^|]* \\|.*\\| (`[^|]*) \\|$").FindAllStringSubmatch(section, -1) {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			purposes[name[1]]++
		}
	}
	stored := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| [^|]* \\| [^|]* \\|$").FindAllStringSubmatch(before+after, -1)
	if len(stored) < 100 {
		t.Fatalf("docs/storage.md lists only %d tables and files", len(stored))
	}
	for _, row := range stored {
		if n := purposes[row[1]]; n != 1 {
			t.Errorf("%s has %d purposes in docs/storage.md: add it to one row of \"What it is for\"", row[1], n)
		}
		delete(purposes, row[1])
	}
	for name := range purposes {
		t.Errorf("docs/storage.md gives a purpose to %s, which it does not list", name)
	}
}
