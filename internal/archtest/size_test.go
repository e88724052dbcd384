package archtest

import (
	"bytes"
	"path"
	"testing"
)

// maxPackageLines is the maximum number of lines in a package, without tests. A package that outgrows it usually has
// some files that need little of the rest; move these to a package of their own.
const maxPackageLines = 13_500

// maxStorageLines is the same for package storage, which is a flat list of statements and has a file for each subject.
// Parting it would export how a transaction runs its statements.
const maxStorageLines = 15_900

func TestNoPackageIsTooLarge(t *testing.T) {
	lines := map[string]int{}
	program(t, func(file string, text []byte) { lines[path.Dir(file)] += bytes.Count(text, []byte("\n")) })
	for pkg, n := range lines {
		most := maxPackageLines
		if pkg == "storage" {
			most = maxStorageLines
		}
		if n > most {
			t.Errorf("%s has %d lines; the most is %d", pkg, n, most)
		}
	}
	if lines["rooms"] < 1000 {
		t.Errorf("rooms has only %d lines: the test does not find the packages", lines["rooms"])
	}
}
