package backup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// replaceFile writes a file through a temporary one, so that a crash leaves the former content or the new one.
func replaceFile(path string, content []byte) error {
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return os.Rename(next, path)
}

// syncAll makes everything durable that was written to the file system of a folder. It replaces an fsync for each of
// many files.
func syncAll(dir string) (err error) {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// paceStep is how much of a file is written before the disk is asked to store it.
const paceStep = 8 << 20

// pacedFile is a file of which at most two steps wait to be written to the disk. Otherwise the commits of the server
// would wait behind gigabytes that the kernel has kept back, and its files would be pushed out of memory.
type pacedFile struct {
	*os.File
	size, asked int64 // written; and of that, what the disk was asked to store
}

// Write implements io.Writer.
func (f *pacedFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	if f.size += int64(n); err != nil || f.size-f.asked < paceStep {
		return n, err
	}
	fd, before := int(f.Fd()), max(0, f.asked-paceStep)
	const wait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	// Not every file system can do this, and syncAll reports what cannot be stored.
	_ = unix.SyncFileRange(fd, f.asked, f.size-f.asked, unix.SYNC_FILE_RANGE_WRITE)
	_ = unix.SyncFileRange(fd, before, f.asked-before, wait)
	_ = unix.Fadvise(fd, before, f.asked-before, unix.FADV_DONTNEED)
	f.asked = f.size
	return n, nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// ErrLocked means that another command works on the same folder.
var ErrLocked = errors.New("another backup or restore works on this folder")

// lockDir keeps other commands from working on a folder. The lock ends with the process, or when release is called.
func lockDir(dir string) (release func() error, err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, ErrLocked), f.Close())
	}
	return f.Close, nil
}

// explain adds to an error about a full disk what it means for the backups.
func explain(err error, dir string) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("the disk of %s is full: nothing was added, and the former backups are as they were: %w", dir, err)
	}
	return err
}
