package regular

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestOnlyRegularFilesAreRead(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(
		os.WriteFile(path("file"), []byte("text"), 0o600), os.Symlink("file", path("link")),
		syscall.Mkfifo(path("pipe"), 0o600), os.Symlink("pipe", path("link to a pipe")),
	)
	if err != nil {
		t.Skip("no links or named pipes here: ", err)
	}
	for name, want := range map[string]string{
		path("file"): "", path("link"): "", path("pipe"): "not a regular file", path("link to a pipe"): "not a regular file",
		"/dev/zero": "not a regular file", dir: "is a folder",
	} {
		raw, err := ReadFile(name, 4)
		if want == "" && (err != nil || string(raw) != "text") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %q, %v", name, raw, err)
		}
	}
	if _, err := ReadFile(path("file"), 3); err == nil || !strings.Contains(err.Error(), "more than 3 bytes") {
		t.Errorf("a large file: %v", err)
	}
	if _, err := ReadFile(path("none"), 3); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}
