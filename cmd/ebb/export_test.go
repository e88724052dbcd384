package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAccountIsExportedWithAndWithoutARunningServer(t *testing.T) {
	s, _ := houses(t)
	cfg, dir := "--config="+s.config, t.TempDir()
	first, second := filepath.Join(dir, "first.zip"), filepath.Join(dir, "second.zip")
	_, key, _ := strings.Cut(strings.TrimSpace(must(t, "", "user", "export", "--out", first, "alice", cfg)), "(ebb export verify): ")
	s.serve(t)
	must(t, "", "user", "export", "--with-conversations", "--out", second, "@alice:test", cfg)
	for _, file := range []string{first, second} {
		if out := must(t, "", "export", "verify", "--key", key, file); !strings.Contains(out, "about @alice:test are as test has exported them") {
			t.Errorf("%s: %s", file, out)
		}
		must(t, "", "export", "verify", cfg, file)
	}
	raw, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	write(t, second, string(raw[:len(raw)/2])+"x"+string(raw[len(raw)/2+1:]))
	refusedWith(t, exitRefused, "", "", "export", "verify", "--key", key, second)
	refusedWith(t, exitFailed, "exists", "", "user", "export", "--out", first, "alice", cfg)
	refusedWith(t, exitRefused, "", "", "user", "export", "--out", filepath.Join(dir, "none.zip"), "nobody", cfg)
	if _, err := os.Stat(filepath.Join(dir, "none.zip")); err == nil {
		t.Error("a failed export leaves a file")
	}
}
