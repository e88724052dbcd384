package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"ebb/config"
)

// codeBlocks returns the indented blocks of a page without their indentation.
func codeBlocks(t *testing.T, name string) (blocks []string) {
	t.Helper()
	raw, err := os.ReadFile("../../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile(`(?m)(^    .*\n)+`).FindAllString(string(raw), -1) {
		blocks = append(blocks, strings.ReplaceAll("\n"+block, "\n    ", "\n")[1:])
	}
	return blocks
}

func TestCommandsOfTheAdministratorsPageParse(t *testing.T) {
	found := 0
	comment := regexp.MustCompile(`\s+#.*|\s<.*|'`)
	for _, block := range codeBlocks(t, "admin.md") {
		for line := range strings.Lines(block) {
			words := strings.Fields(comment.ReplaceAllString(line, ""))
			if len(words) == 0 || words[0] != "ebb" {
				continue
			}
			found++
			c, rest := find(words[1:])
			if c == nil {
				t.Errorf("docs/admin.md has an unknown command: %s", line)
				continue
			}
			inv := &invocation{flags: newFlags(c.name)}
			inv.configFlag()
			c.setup(inv)
			if err := inv.parse(rest); err != nil {
				t.Errorf("docs/admin.md: %s: %v", line, err)
			}
		}
	}
	if found < 10 {
		t.Errorf("docs/admin.md has only %d commands", found)
	}
}

func TestConfigurationsOfTheAdministratorsPageAreValid(t *testing.T) {
	found := 0
	for _, block := range codeBlocks(t, "admin.md") {
		if !regexp.MustCompile(`^(listen|retention):\n`).MatchString(block) {
			continue
		}
		found++
		path := filepath.Join(t.TempDir(), "ebb.yaml")
		if !strings.Contains(block, "server_name:") {
			block += "server_name: example.org\n"
		}
		if err := os.WriteFile(path, []byte(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Load(path); err != nil {
			t.Errorf("docs/admin.md has\n%s\nwhich is wrong: %v", block, err)
		}
	}
	if found < 2 {
		t.Errorf("docs/admin.md has only %d configurations", found)
	}
}
