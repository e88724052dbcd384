package outbox

import (
	"context"
	"slices"
	"strings"
	"time"

	"ebb/mxerr"
	"ebb/storage"
)

// Status describes the state of the delivery to a server.
type Status struct {
	Server       string     `json:"server"`
	Events       int64      `json:"events"` // pending events
	Rooms        int        `json:"rooms"`  // rooms for which only the newest events will be sent
	EDUs         int64      `json:"edus"`   // pending EDUs, including those in memory
	Failures     int64      `json:"failures"`
	FailingSince *time.Time `json:"failing_since"` // nil if the server responds
	Retry        *time.Time `json:"retry"`         // time of the next attempt; nil while the server responds
	Reached      *time.Time `json:"reached"`       // when the server last responded; nil if never
}

// Status returns the delivery status of one server, or of all if server is empty, failing ones first.
func (s *Service) Status(ctx context.Context, server string) ([]Status, error) {
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	var backlogs []storage.EDUBacklog
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		backlogs, err = tx.EDUBacklogs()
		return err
	})
	if err != nil {
		return nil, err
	}
	edus := map[string]int64{}
	for _, b := range backlogs {
		edus[b.Server] = b.Count
	}
	out := []Status{}
	s.mu.Lock()
	for name, d := range s.known {
		if server == "" && !d.reached.IsZero() || server == name || d.hasWork() && server == "" {
			st := d.status()
			st.EDUs += edus[name]
			out = append(out, st)
		}
	}
	s.mu.Unlock()
	if server != "" && len(out) == 0 {
		return nil, errUnknown()
	}
	slices.SortFunc(out, func(a, b Status) int {
		if (a.Failures > 0) != (b.Failures > 0) {
			return int(min(b.Failures, 1) - min(a.Failures, 1))
		}
		return strings.Compare(a.Server, b.Server)
	})
	return out, nil
}

func errUnknown() error { return mxerr.NotFound("Nothing has been sent to this server yet") }

func (d *destination) status() Status {
	st := Status{
		Server: d.server, Events: int64(len(d.queue)) + d.missed, Rooms: len(d.behind), EDUs: int64(len(d.volatile)),
		Failures: d.failures, Reached: timeOf(d.reached),
	}
	if d.failures > 0 {
		st.FailingSince, st.Retry = timeOf(d.since), timeOf(d.retry)
	}
	return st
}

func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Retry ends the delay of a server, so that the next attempt is made at once.
func (s *Service) Retry(ctx context.Context, server string) error {
	if err := s.load(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	d := s.known[server]
	if d == nil {
		s.mu.Unlock()
		return errUnknown()
	}
	d.dirty = true
	s.retryNow(d)
	s.mu.Unlock()
	return s.store(ctx)
}
