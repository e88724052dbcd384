package accounts

import (
	"os"
	"runtime"
	"sync"
)

// processors raises GOMAXPROCS while requests wait for a password to be hashed.
//
// A worker computes without a pause and so occupies one of the scheduler's processors as long as there is a queue. On a
// machine with two, only one is left for everything else: while it waits for the disk in a commit, nobody reads from
// the network until the runtime notices, up to 10 ms later. With more processors than the machine has, there is always
// one for work that has just become ready, and the operating system shares the real ones fairly. Without a queue the
// setting is not changed, because changing it stops the world.
type processors struct {
	set   func(n int) (was int) // runtime.GOMAXPROCS
	reset func(was int)

	// mu guards the fields below; a leaf lock.
	mu    sync.Mutex
	users int
	was   int
}

// ofProcess raises GOMAXPROCS for all hashers, since the process has one such setting.
var ofProcess = &processors{set: runtime.GOMAXPROCS, reset: resetProcessors}

// resetProcessors ends a raise. Unless an environment variable has set GOMAXPROCS, the runtime adapts it to the limits
// of its container again.
func resetProcessors(was int) {
	if os.Getenv("GOMAXPROCS") != "" {
		runtime.GOMAXPROCS(was)
		return
	}
	runtime.SetDefaultGOMAXPROCS()
}

// raise adds more processors until release is called, unless another caller has added some already.
func (p *processors) raise(more int) (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users++; p.users == 1 {
		p.was = p.set(0) // changes nothing
		p.set(p.was + more)
	}
	return p.release
}

func (p *processors) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users--; p.users == 0 {
		p.reset(p.was)
	}
}
