package accounts

import (
	"context"

	"ebb/storage"
)

// idleBatch is the number of devices that one write signs out. It keeps writes short.
const idleBatch = 100

// endIdleSessions signs out the devices that have not been used for Options.IdleLifetime. Only the goroutine that calls
// StoreSeen may call it: it stores first when devices were last seen.
func (s *Service) endIdleSessions(ctx context.Context) error {
	if s.opts.IdleLifetime == 0 {
		return nil
	}
	if err := s.StoreSeen(ctx); err != nil {
		return err
	}
	now := s.opts.Now()
	if s.opts.SteadyTime != nil {
		steady, err := s.opts.SteadyTime(ctx)
		if err != nil {
			return err
		}
		now = steady
	}
	since := now.Add(-s.opts.IdleLifetime).UnixMilli()
	for n := idleBatch; n == idleBatch && ctx.Err() == nil; {
		idle, err := s.idleSessions(ctx, since)
		if n = len(idle); err != nil || n == 0 {
			return err
		}
		if _, err := s.EndSessions(ctx, "not used for "+s.opts.IdleLifetime.String(), func(*storage.Tx) ([]storage.OAuthSession, error) { return idle, nil }); err != nil {
			return err
		}
	}
	return nil
}

// idleSessions lists some devices that were last used before a time (ms).
func (s *Service) idleSessions(ctx context.Context, since int64) (idle []storage.OAuthSession, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		idle, err = tx.IdleSessions(since, idleBatch)
		return err
	})
	return idle, err
}
