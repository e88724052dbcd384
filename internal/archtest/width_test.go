package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// maxWidth is the maximum width of a comment or a line of prose in columns. A tab counts as four.
const maxWidth = 120

// Two files of this width fit on a screen side by side. Code may be wider.
func TestCommentsAndPagesHaveOneWidth(t *testing.T) {
	seen := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git"):
			return fs.SkipDir
		}
		isProse := commentLine
		switch filepath.Ext(path) {
		case ".go":
		case ".md":
			isProse = pageLine
		default:
			return nil
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		example := false
		for i, line := range strings.Split(string(raw), "\n") {
			if strings.HasPrefix(line, "```") {
				example = !example
			}
			if example || !isProse(line) {
				continue
			}
			seen++
			if width := utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    ")); width > maxWidth {
				t.Errorf("%s:%d is %d columns wide", path, i+1, width)
			}
		}
		return nil
	})
	if err != nil || seen < 1000 {
		t.Fatalf("%d lines were read, %v", seen, err)
	}
}

// commentLine reports whether a line of code is prose in a comment, rather than a directive or an example.
func commentLine(line string) bool {
	text, ok := strings.CutPrefix(strings.TrimLeft(line, "\t"), "// ")
	return ok && !strings.HasPrefix(text, " ") && !strings.HasPrefix(text, "\t") && !strings.HasPrefix(text, "Spec: ")
}

// pageLine reports whether a line of a page is prose, rather than a table, a heading or an example.
func pageLine(line string) bool {
	return line != "" && !strings.HasPrefix(line, "|") && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "    ")
}
