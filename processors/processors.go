// Package processors keeps work that computes without a pause from delaying everything else. Raise raises GOMAXPROCS
// while such work occupies the scheduler's processors; UseIdle is for processes that do nothing else.
//
// Decoding a picture or canonicalising a large body occupies one of them for as long as it takes. On a machine with
// two, one or none is left for everything else: while a commit waits for the disk, nobody reads from the network until
// the runtime notices, up to 10 ms later, and what becomes ready waits for its turn. With more processors than the
// machine has, there is always one for work that has just become ready, and the operating system shares the real ones
// fairly. Otherwise the setting is not changed, because changing it stops the world.
package processors

import (
	"os"
	"runtime"
	"sync"
)

// setting is a number of processors that several callers raise.
type setting struct {
	set   func(n int) (was int) // runtime.GOMAXPROCS
	reset func(was int)

	// mu guards the fields below; a leaf lock.
	mu    sync.Mutex
	users int
	was   int
	more  int // the most that a caller has asked for since there were none
}

// ofProcess is the only setting of a process.
var ofProcess = &setting{set: runtime.GOMAXPROCS, reset: resetProcessors}

// resetProcessors ends a raise. Unless an environment variable has set GOMAXPROCS, the runtime adapts it to the limits
// of its container again.
func resetProcessors(was int) {
	if os.Getenv("GOMAXPROCS") != "" {
		runtime.GOMAXPROCS(was)
		return
	}
	runtime.SetDefaultGOMAXPROCS()
}

// Raise adds processors until release is called. Callers at the same time share them: they get the most that one of
// them has asked for.
func Raise(more int) (release func()) { return ofProcess.raise(more) }

func (s *setting) raise(more int) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users++; s.users == 1 {
		s.was, s.more = s.set(0), 0 // changes nothing
	}
	if more > s.more {
		s.more = more
		s.set(s.was + more)
	}
	return s.release
}

func (s *setting) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 {
		s.reset(s.was)
	}
}
