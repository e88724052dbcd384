package push

import (
	"context"
	"time"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// loadPage bounds the pushers that are read at a time.
const loadPage = 1000

// load reads all pushers into memory. ctx and sending are the contexts of Run.
func (s *Service) load(ctx, sending context.Context) error {
	var rows []storage.PusherRow
	var pushed storage.Pos
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if pushed, err = tx.Pushed(); err != nil {
			return err
		}
		for after, more := ident.PusherNID(0), true; more; {
			page, err := tx.Pushers(after, loadPage)
			if err != nil {
				return err
			}
			rows = append(rows, page...)
			if more = len(page) == loadPage; more {
				after = page[len(page)-1].NID
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx, s.sending, s.stored, s.pushed = ctx, sending, pushed, pushed
	for i := range rows {
		if s.pushers[rows[i].NID] == nil {
			s.index(&rows[i])
		}
	}
	s.loaded = true
	return nil
}

// tick stores the progress, makes smaller unread counts due, retries pushers and gateways whose pause is over, and
// wakes the dispatcher and the e-mail loop.
func (s *Service) tick(ctx context.Context) {
	if err := s.store(ctx); err != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "Cannot store the progress of push notifications", "err", err)
	}
	s.lowerBadges()
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.pending {
		s.ready(p)
	}
	for p := range s.pending {
		s.start(p.gateway)
	}
	for _, c := range []chan struct{}{s.wake, s.emailTick} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// lowerBadges makes pushers send the unread counts of users that may have become smaller because messages were redacted
// or removed. It is called once in a while, because a purge takes many commits.
func (s *Service) lowerBadges() {
	s.mu.Lock()
	fewer := s.fewer
	s.fewer = map[ident.RoomNID]*rooms.Room{}
	s.mu.Unlock()
	for nid, r := range fewer {
		for _, user := range s.members(r) {
			s.badgeChanged(user, nid)
		}
	}
}

// progress is the delivery progress of one pusher, as it is to be stored.
type progress struct {
	p *pusher
	storage.PusherProgress
}

// store writes the delivery progress of all pushers to the database.
func (s *Service) store(ctx context.Context) error {
	rows, pushed, changed := s.progress()
	if !changed {
		return nil
	}
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		for _, row := range rows {
			if err := tx.SetPusherProgress(row.p.nid, row.PusherProgress); err != nil {
				return err
			}
		}
		return tx.SetPushed(pushed)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stored = pushed
	for _, row := range rows {
		row.p.stored = row.PusherProgress
	}
	return nil
}

// progress collects the progress to be stored: one row for each pusher that has been waiting since the last tick or
// longer, and the position up to which everything has been delivered to the others.
func (s *Service) progress() (rows []progress, pushed storage.Pos, changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pushed = s.pushed
	for p := range s.pending {
		now := storage.PusherProgress{Delivered: p.oldest(s.pushed), Pending: p.hasWork(), Failures: p.retry.Failures, FailingSince: millis(p.failingSince), RetryTS: millis(p.retry.At)}
		switch {
		case !now.Pending:
			if !p.running {
				delete(s.pending, p)
				p.slow = false
			}
			if !p.stored.Pending {
				continue
			}
		case !p.slow && !p.stored.Pending: // it will probably be served before the next tick
			p.slow = true
			pushed = min(pushed, now.Delivered)
			continue
		}
		if now != p.stored {
			rows = append(rows, progress{p, now})
		}
	}
	pushed = max(pushed, s.stored)
	return rows, pushed, len(rows) > 0 || pushed != s.stored
}

// oldest returns the position up to which everything was delivered to the pusher. pushed is the position up to which
// all events have been dispatched.
func (p *pusher) oldest(pushed storage.Pos) storage.Pos {
	switch {
	case len(p.queue) > 0:
		return p.queue[0].pos - 1
	case p.missed:
		return p.seen
	}
	return max(p.seen, pushed)
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
