package bodykeys

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Probe creates a key, reads it and destroys it again, and returns how long creating it took. The error says why that
// is not possible.
func (f *Folder) Probe() (took time.Duration, err error) {
	start := time.Now()
	id, err := f.New()
	took = time.Since(start)
	if err != nil {
		return took, err
	}
	if _, err := f.Key(id); err != nil {
		return took, err
	}
	return took, f.Destroy(id)
}

// Exposed returns the path of the folder, or of a file that holds a key, if others than its owner may use it. The
// result is "" if there is none. It examines the first key of each of the folders for files.
func (f *Folder) Exposed() (string, error) {
	if open, err := exposed(f.path); open || err != nil {
		return f.path, err
	}
	folders, err := filepath.Glob(filepath.Join(f.path, "??"))
	for _, dir := range folders {
		path, found, err := firstOf(dir)
		if err != nil {
			return "", err
		}
		if !found {
			continue
		}
		if open, err := exposed(path); open && err == nil { // a key that has been destroyed meanwhile is no error
			return path, nil
		}
	}
	return "", err
}

func exposed(path string) (bool, error) {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Perm()&0o077 != 0, err
}

// firstOf returns the path of an arbitrary file of a folder.
func firstOf(dir string) (path string, found bool, err error) {
	d, err := os.Open(dir)
	if err != nil {
		return "", false, err
	}
	defer func() { _ = d.Close() }() // it was only read
	names, _ := d.Readdirnames(1)    // io.EOF if there is none
	if len(names) == 0 {
		return "", false, nil
	}
	return filepath.Join(dir, names[0]), true, nil
}

// Types of file systems (statfs(2)).
const (
	tmpfs     = 0x01021994
	ramfs     = 0x858458f6
	overlayfs = 0x794c7630
)

// Volatile says why a file system does not keep the files of a folder, or "" if it does.
func Volatile(path string) (string, error) {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(path, &disk); err != nil {
		return "", fmt.Errorf("examine the file system of %s: %w", path, err)
	}
	switch uint32(disk.Type) {
	case tmpfs, ramfs:
		return "is in memory, so all keys are lost when this machine restarts", nil
	case overlayfs:
		return "is in the writable layer of a container, so all keys are lost when the container is replaced", nil
	}
	return "", nil
}
