package media

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ebb/rooms"
	"ebb/storage"
)

// unlinkBatch is how many files are removed from disk before that is recorded. It is at most the length of a list in a
// query of storage.
const unlinkBatch = 500

// committed is the Listener that wakes Run when a commit may have deleted media.
func (s *Service) committed(c *rooms.Commit) {
	if c.Originals || len(c.Purged)+len(c.Redacted)+len(c.Erased)+len(c.Holds) > 0 {
		s.wakeUp()
	}
}

// unlinkPause is how long Run waits for further files before it removes those of a commit. A pass syncs the folders of
// the files and writes to the database: when each step of a purge was followed by one, the purge took these writes for
// those of users, gave way to them, and removed a third as many files a second.
const unlinkPause = 200 * time.Millisecond

// gatherUnlinks waits for unlinkPause, or until ctx ends.
func gatherUnlinks(ctx context.Context) {
	timer := time.NewTimer(unlinkPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// wakeUp makes Run remove files.
func (s *Service) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default: // Run has not yet seen the last one
	}
}

// Unlink removes the files of deleted media from disk. The rows and keys of these files are gone already; the queue of
// their names makes sure that a crash leaves none. Unlink returns the number of removed files.
func (s *Service) Unlink(ctx context.Context) (removed int, err error) {
	select {
	case s.unlinking <- struct{}{}:
		defer func() { <-s.unlinking }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	var errs []error
	for after := ""; ; {
		var names []string
		err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			names, err = tx.MediaUnlinks(after, unlinkBatch)
			return err
		})
		if err != nil || len(names) == 0 {
			return removed, errors.Join(append(errs, err)...)
		}
		after = names[len(names)-1]
		n, err := s.unlink(ctx, names)
		removed += n
		errs = append(errs, err)
		if ctx.Err() != nil {
			return removed, ctx.Err()
		}
	}
}

// unlink removes files, and their names from the queue. It continues after a file that cannot be removed.
func (s *Service) unlink(ctx context.Context, names []string) (removed int, err error) {
	var errs []error
	gone := make([]string, 0, len(names))
	for _, name := range names {
		if err := s.removeFile(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("remove a media file: %w", err))
			continue
		}
		gone = append(gone, name)
	}
	if len(gone) == 0 {
		return 0, errors.Join(errs...)
	}
	if err := s.files.syncRemoved(gone); err != nil {
		return 0, errors.Join(append(errs, err)...)
	}
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.MediaUnlinked(gone) })
	unlinked.Add(float64(len(gone)))
	return len(gone), errors.Join(append(errs, err)...)
}

// removeFile removes a file to which no row refers, and its thumbnails.
func (s *Service) removeFile(ctx context.Context, name string) error {
	release, err := s.files.claims.Acquire(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	return s.files.remove(name)
}

func (s *Service) unlinkAll(ctx context.Context) error {
	_, err := s.Unlink(ctx)
	return err
}
