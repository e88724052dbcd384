package processors

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// UseIdle makes all threads of this process, and those that they start later, run only on processors that are idle
// otherwise. The kernel puts a thread of another process that has something to do on such a processor at once. On a
// machine whose processors are all busy, the process stands almost still. There is no way back without privileges.
func UseIdle() error {
	for {
		changed, err := useIdle()
		if err != nil || !changed {
			return err
		}
	}
}

// useIdle changes the threads that exist now. changed reports whether there may be others, which a thread has started
// before it was changed.
func useIdle() (changed bool, err error) {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return false, err
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return false, err
		}
		now, err := unix.SchedGetAttr(id, 0)
		if err == nil && now.Policy == unix.SCHED_IDLE {
			continue
		}
		if err == nil {
			err = unix.SchedSetAttr(id, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) { // the thread may have ended
			return false, fmt.Errorf("use idle processors: %w", err)
		}
		changed = true
	}
	return changed, nil
}
