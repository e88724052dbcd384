// Package filelock keeps two processes from using one database file.
package filelock

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"ebb/config"
)

// ErrInUse means that another process has the database open.
var ErrInUse = errors.New("another process uses this database")

// Lock keeps other processes from opening an SQLite database, since two committers on one file would corrupt
// positions and caches. The kernel releases the lock when the process ends for whatever reason. The file remains,
// because removing it would let two processes lock different files of the same name.
type Lock struct{ f *os.File }

// Take locks a file, which it creates if it does not exist.
func Take(path string) (Lock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return Lock{}, fmt.Errorf("open the lock file of the database: %w%s", err, config.OwnerOf(err))
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		err = fmt.Errorf("%w: %s is locked%s; a server is already running on this data_dir", ErrInUse, path, owner(f))
		return Lock{}, errors.Join(err, f.Close())
	}
	// The process ID only informs people, so a full disk must not keep Ebb from starting.
	_ = f.Truncate(0)
	_, _ = f.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
	return Lock{f}, nil
}

// owner returns the text " by process N" for the process that wrote its ID into a lock file, "" if there is none.
func owner(f *os.File) string {
	b, err := io.ReadAll(io.LimitReader(f, 20))
	if _, convErr := strconv.Atoi(strings.TrimSpace(string(b))); err != nil || convErr != nil {
		return ""
	}
	return " by process " + strings.TrimSpace(string(b))
}

// Release ends the lock. The zero Lock locks nothing.
func (l Lock) Release() error {
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}
