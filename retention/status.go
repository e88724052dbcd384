package retention

import (
	"sync"
	"time"
)

// Status describes the purge for administrators.
type Status struct {
	Running bool
	Started time.Time // of the current or the last run; zero if there was none since the server was started
	Last    Report    // what the current run has done so far, or else the last one
	// Compacting is set until what purges have left is stored together, so that the file becomes smaller.
	Compacting bool
}

// status is updated during a run, so that it can be read meanwhile.
type status struct {
	mu  sync.Mutex // guards now; a leaf lock
	now Status
}

func (s *status) begin(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = Status{Running: true, Started: at, Compacting: s.now.Compacting}
}

func (s *status) progress(r *Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Last = *r
}

func (s *status) end(r *Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Running, s.now.Last = false, *r
}

func (s *status) compacting(due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Compacting = due
}

// Status returns the state of the current run, or else the result of the last one.
func (j *Job) Status() Status {
	j.status.mu.Lock()
	defer j.status.mu.Unlock()
	return j.status.now
}
