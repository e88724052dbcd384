package media

import (
	"context"
	"fmt"
	"time"

	"ebb/deletions"
	"ebb/ident"
	"ebb/storage"
)

// Lifetimes determines how long media may be used if nothing that this server can read refers to them.
type Lifetimes interface {
	// Undeclared returns the longest lifetime of messages in the encrypted rooms of a user, because the user may have
	// sent media to any of them. It returns false if one of the rooms has no limit, so that the media may be used for
	// ever.
	Undeclared(ctx context.Context, user ident.UserNID) (time.Duration, bool, error)
}

const (
	// unusedWait is how long an unused upload waits for its deletion. Nobody gets it meanwhile, but a new message that
	// refers to it brings it back.
	unusedWait = 24 * time.Hour
	// unusedInterval is how often Run searches for unused uploads, which reads all rows of media.
	unusedInterval = 6 * time.Hour
	// unusedPage is how many uploads are examined together.
	unusedPage = 500
)

// Count is a number of files and their size.
type Count struct {
	Files int
	Bytes int64
}

func (c *Count) add(m storage.SweptMedia) {
	c.Files++
	c.Bytes += m.Size
}

// Unused is the result of CollectUnused. It counts the unused uploads: those to which nothing refers that this server
// can read.
type Unused struct {
	Deleted    Count // whose time of waiting was over; in a dry run they are not deleted
	Waiting    Count // that wait for their deletion; in a dry run also those that would begin to
	Young      Count // that are not older than Options.UnusedLifetime
	Undeclared Count // that may be used in an encrypted room, where messages have not expired
}

// collectUnused is one of the jobs of Run. It calls CollectUnused every unusedInterval.
func (s *Service) collectUnused(ctx context.Context) error {
	now := s.opts.Now()
	if now.Sub(s.collected) < unusedInterval && now.After(s.collected) {
		return nil
	}
	u, err := s.CollectUnused(ctx, false)
	if err == nil {
		s.collected = now
	}
	if u.Deleted.Files > 0 {
		s.opts.Log.Info("unused uploads were deleted", "files", u.Deleted.Files, "bytes", u.Deleted.Bytes)
	}
	return err
}

// CollectUnused finds the uploads to which nothing refers. Uploads that have been unused for long enough begin to wait
// for their deletion; those that have waited for unusedWait are deleted. A dry run changes nothing.
func (s *Service) CollectUnused(ctx context.Context, dry bool) (u Unused, err error) {
	now, err := s.removeBy(ctx)
	if err != nil {
		return u, err
	}
	c := collection{svc: s, now: now, dry: dry, lifetimes: map[ident.UserNID]lifetime{}}
	for after := ""; ; {
		var page []storage.SweptMedia
		err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			page, err = tx.SweepMedia(after, unusedPage)
			return err
		})
		if err != nil {
			return c.result, err
		}
		if err := c.process(ctx, page); err != nil {
			return c.result, err
		}
		if len(page) < unusedPage {
			break
		}
		after = page[len(page)-1].ID
	}
	return c.result, s.unlinkAll(ctx)
}

// collection is one run of CollectUnused.
type collection struct {
	svc       *Service
	now       time.Time
	dry       bool
	lifetimes map[ident.UserNID]lifetime
	result    Unused
}

type lifetime struct {
	longest time.Duration
	limited bool
}

// fate is what happens to an upload.
type fate int

const (
	used fate = iota
	young
	undeclared
	unused // begins to wait
	waiting
	over // has waited for long enough
)

// process decides the fate of each upload in a page, and carries the decisions out.
func (c *collection) process(ctx context.Context, page []storage.SweptMedia) error {
	var begin, end, remove []string
	for _, m := range page {
		f, err := c.fate(ctx, m)
		if err != nil {
			return err
		}
		switch f {
		case young:
			c.result.Young.add(m)
		case undeclared:
			c.result.Undeclared.add(m)
		case unused:
			c.result.Waiting.add(m)
			begin = append(begin, m.ID)
		case waiting:
			c.result.Waiting.add(m)
		case over:
			c.result.Deleted.add(m)
			remove = append(remove, m.ID)
		}
		if f < unused && m.Unused != 0 {
			end = append(end, m.ID)
		}
	}
	if c.dry || len(begin)+len(end)+len(remove) == 0 {
		return nil
	}
	return c.svc.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		for _, id := range remove {
			deleted, err := tx.DeleteUnusedMedia(id, c.now.Add(-unusedWait).UnixMilli())
			if err == nil && deleted {
				err = c.svc.opts.Deletions.Count(tx, 0, deletions.Media, 0, 1)
			}
			if err != nil {
				return err
			}
		}
		if err := tx.SetMediaUnused(begin, c.now.UnixMilli()); err != nil {
			return err
		}
		return tx.SetMediaUnused(end, 0)
	})
}

func (c *collection) fate(ctx context.Context, m storage.SweptMedia) (fate, error) {
	keep := c.svc.opts.UnusedLifetime
	age := c.now.Sub(time.UnixMilli(m.Created))
	if m.Referenced || m.Quarantined {
		return used, nil
	}
	if keep == 0 || age < keep {
		return young, nil
	}
	l, err := c.lifetime(ctx, m.User)
	if err != nil {
		return used, err
	}
	switch {
	case !l.limited || age < l.longest:
		return undeclared, nil
	case m.Unused == 0, m.Unused > c.now.UnixMilli(): // or the clock was set back
		return unused, nil
	case c.now.Sub(time.UnixMilli(m.Unused)) < unusedWait:
		return waiting, nil
	}
	return over, nil
}

// lifetime returns how long the unused uploads of a user may be used. It asks Lifetimes only once for each user.
func (c *collection) lifetime(ctx context.Context, user ident.UserNID) (lifetime, error) {
	if l, known := c.lifetimes[user]; known || c.svc.opts.Lifetimes == nil {
		return l, nil
	}
	longest, limited, err := c.svc.opts.Lifetimes.Undeclared(ctx, user)
	c.lifetimes[user] = lifetime{longest, limited}
	return c.lifetimes[user], err
}

// referencePage is how many texts one write of recordReferences reads.
const referencePage = 500

// recordReferences records which texts refer to which media, if the database is older than the version of Ebb that
// began to record references. Until all are recorded, no media may be deleted together with a message, so New calls
// recordReferences before the server runs.
func (s *Service) recordReferences(ctx context.Context) error {
	var done bool
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		done, err = tx.MediaRefsRecorded()
		return err
	})
	if err != nil || done {
		return err
	}
	for after, more := storage.Pos(0), true; more; {
		err := s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
			after, err = tx.RecordEventMedia(after, referencePage)
			more = after != 0
			return err
		})
		if err != nil {
			return fmt.Errorf("of events: %w", err)
		}
	}
	for _, kind := range []storage.MediaRefKind{storage.DelayedMedia, storage.ProfileMedia, storage.AccountDataMedia} {
		for after, more := (storage.MediaOwner{Kind: kind}), true; more; {
			err := s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
				after, more, err = tx.RecordOtherMedia(after, referencePage)
				return err
			})
			if err != nil {
				return fmt.Errorf("of profiles and account data: %w", err)
			}
		}
	}
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.SetMediaRefsRecorded() })
}
