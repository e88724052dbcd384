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

const (
	// paceStep is how much is written to a file before the disk is asked to store it. The server's commits wait for as
	// long as the disk takes to store what it was asked before, and larger steps made the backup no faster.
	paceStep = 256 << 10
	// maxPending bounds the pieces that the disk may still be storing when the next one is written.
	maxPending = 2 * paceStep
	// maxPendingFiles bounds the number of these pieces, and so the files that are open because of them.
	maxPendingFiles = 64
)

// pacer hands all files of a backup to the disk in small steps. Otherwise the commits of the server would wait behind
// what the kernel has kept back, which is written in one go, and its files would be pushed out of memory.
type pacer struct {
	pending []piece // oldest first
	size    int64   // of these
	err     error   // of pieces that are no longer pending
}

// piece is a part of a file that the disk was asked to store.
type piece struct {
	file     *os.File
	at, size int64
	last     bool // whether the file is to be closed
}

// ask makes the disk begin to store a piece, and waits until it has stored older ones.
func (p *pacer) ask(next piece) {
	// Not every file system can do this.
	_ = unix.SyncFileRange(int(next.file.Fd()), next.at, next.size, unix.SYNC_FILE_RANGE_WRITE)
	p.pending, p.size = append(p.pending, next), p.size+next.size
	for p.size > maxPending || len(p.pending) > maxPendingFiles {
		p.await()
	}
}

// await waits until the disk has stored the oldest piece.
func (p *pacer) await() {
	const wait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	oldest := p.pending[0]
	p.pending, p.size = p.pending[1:], p.size-oldest.size
	fd := int(oldest.file.Fd())
	if err := unix.SyncFileRange(fd, oldest.at, oldest.size, wait); errors.Is(err, unix.EIO) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		p.err = errors.Join(p.err, fmt.Errorf("store %s: %w", oldest.file.Name(), err))
	}
	_ = unix.Fadvise(fd, oldest.at, oldest.size, unix.FADV_DONTNEED)
	if oldest.last {
		p.err = errors.Join(p.err, oldest.file.Close())
	}
}

// finish waits for all pieces. It returns an error if one of them could not be stored, or a file could not be closed.
func (p *pacer) finish() error {
	for len(p.pending) > 0 {
		p.await()
	}
	err := p.err
	p.err = nil
	return err
}

// pageSize divides the pieces of a file, so that no page is written twice.
const pageSize = 4 << 10

// pacedFile is a file that a pacer hands to the disk, and closes.
type pacedFile struct {
	file        *os.File
	pace        *pacer
	size, asked int64 // written; and of that, what the disk was asked to store
}

// Write implements io.Writer.
func (f *pacedFile) Write(p []byte) (int, error) {
	n, err := f.file.Write(p)
	if f.size += int64(n); f.size-f.asked >= paceStep {
		end := f.size - f.size%pageSize
		f.pace.ask(piece{file: f.file, at: f.asked, size: end - f.asked})
		f.asked = end
	}
	return n, err
}

// Close hands the rest of the file to the disk. Errors are returned by pacer.finish.
func (f *pacedFile) Close() {
	f.pace.ask(piece{file: f.file, at: f.asked, size: f.size - f.asked, last: true})
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
