package storagetest

import (
	"errors"
	"io"
	"os"
	"strconv"
	"syscall"
	"testing"
)

// TinyDisk returns a folder on a separate disk of the given size. It skips the test if no such disk can be mounted.
func TinyDisk(t testing.TB, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	if os.Getuid() != 0 {
		t.Skip("SKIP full disk: only root can mount a small tmpfs")
	}
	if err := syscall.Mount("ebb-test", dir, "tmpfs", 0, "size="+strconv.Itoa(bytes)); err != nil {
		t.Skip("SKIP full disk: no tmpfs can be mounted: " + err.Error())
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Fill writes a file that takes all the space on its disk.
func Fill(t testing.TB, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := io.Copy(f, zeros{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
