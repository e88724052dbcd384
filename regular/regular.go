// Package regular opens files that must be regular. Whoever opens a named pipe waits until somebody opens its other
// end, and a device may have no end, so that a server which expects a file there would never start.
package regular

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// ErrOther means that a path leads to something other than a regular file.
var ErrOther = errors.New("not a regular file")

// Open opens a regular file for reading.
//
// Errors: ErrOther.
func Open(path string) (*os.File, error) {
	// O_NONBLOCK: open does not wait for the other end of a pipe. It has no effect on regular files.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = fmt.Errorf("%w: %s is a folder", ErrOther, path)
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%w: %s, and reading it could block", ErrOther, path)
	default:
		return f, nil
	}
	return nil, errors.Join(err, f.Close())
}

// ReadFile reads a regular file of at most limit bytes.
//
// Errors: ErrOther.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		raw, err = nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return raw, errors.Join(err, f.Close())
}
