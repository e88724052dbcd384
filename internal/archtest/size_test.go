package archtest

import (
	"bytes"
	"path"
	"testing"
)

// maxPackageLines bounds the lines of a package's own files, without tests. A package that outgrows it has a family of
// files that needs little of the rest: move that into a package of its own.
const maxPackageLines = 13_000

func TestNoPackageIsTooLarge(t *testing.T) {
	lines := map[string]int{}
	program(t, func(file string, text []byte) { lines[path.Dir(file)] += bytes.Count(text, []byte("\n")) })
	for pkg, n := range lines {
		if n > maxPackageLines {
			t.Errorf("%s has %d lines; the most is %d", pkg, n, maxPackageLines)
		}
	}
	if lines["rooms"] < 1000 {
		t.Errorf("rooms has only %d lines: the test does not find the packages", lines["rooms"])
	}
}
