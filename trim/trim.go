// Package trim returns memory to the system that a burst of work has left behind.
//
// The garbage collector lets the heap grow to twice what is in use, and does not run while nothing allocates. When two
// thousand clients come online at once, or a large export ends, the server would keep the garbage of that moment for
// minutes and the pages below it for good. Run collects the garbage as soon as the server is quiet and returns the free
// pages. While the server is busy it does nothing, because the memory would be needed again at once.
package trim

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"ebb/telemetry"
)

const (
	// interval is the time between two looks at the heap. One look takes some microseconds.
	interval = time.Second
	// The server is quiet if it has allocated less than quietBytes in each of the last quietLooks intervals. A message
	// to a room of 200 clients allocates about 2 MB.
	quietBytes = 4 << 20
	quietLooks = 2
	// A collection must return at least minGain bytes, and at least a quarter of what it has to go through.
	minGain  = 4 << 20
	gainPart = 4
	// restFactor bounds the cost: after a collection that took a time t, the next one begins restFactor times t later
	// at the earliest. So collections take at most half a percent of the time.
	restFactor = 200
)

var (
	trims   = telemetry.NewCounter("ebb_memory_trims_total", "Collections of garbage while the server was quiet, after which memory was returned to the system.")
	trimmed = telemetry.NewCounter("ebb_memory_trimmed_bytes_total", "Bytes that these collections returned to the system.")
)

// heap describes the heap at some moment, in bytes.
type heap struct {
	allocated uint64 // since the start of the process
	live      uint64 // in use at the end of the last collection
	held      uint64 // taken from the system for objects, garbage and free pages
}

// look reads the state of the heap. It does not stop the program.
func look() heap {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	return heap{
		allocated: samples[0].Value.Uint64(), live: samples[1].Value.Uint64(),
		held: samples[2].Value.Uint64() + samples[3].Value.Uint64(),
	}
}

// trimmer decides when to collect garbage. It is used by one goroutine.
type trimmer struct {
	last  heap
	quiet int       // the number of intervals for which the server has been quiet
	rest  time.Time // no collection before
}

// due reports whether it is time to collect garbage.
func (t *trimmer) due(h heap, now time.Time) bool {
	t.quiet++
	if h.allocated-t.last.allocated >= quietBytes {
		t.quiet = 0
	}
	t.last = h
	return t.quiet >= quietLooks && h.held >= h.live+max(minGain, h.live/gainPart) && !now.Before(t.rest)
}

// Run collects garbage whenever that is due, until ctx ends. A process needs it once.
func Run(ctx context.Context) {
	t := trimmer{last: look()}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if before := look(); t.due(before, time.Now()) {
			t.collect(before)
		}
	}
}

// collect collects garbage and returns free pages to the system.
func (t *trimmer) collect(before heap) {
	start := time.Now()
	debug.FreeOSMemory()
	now := time.Now()
	t.rest = now.Add(restFactor * now.Sub(start))
	t.last = look()
	trims.Inc()
	if before.held > t.last.held {
		trimmed.Add(float64(before.held - t.last.held))
	}
}
