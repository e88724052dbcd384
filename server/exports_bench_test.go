package server_test

import (
	"fmt"
	"net/url"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"ebb/internal/testserver"
)

// writeALot sends 100,000 messages to a new room.
func writeALot(c *testserver.Client) (room string) {
	const messages, senders = 100_000, 32
	room = c.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	var senderGroup sync.WaitGroup
	for i := range senders {
		senderGroup.Go(func() {
			for j := range messages / senders {
				c.Do("PUT", fmt.Sprintf("/v3/rooms/%s/send/m.room.message/%d-%d", url.PathEscape(room), i, j), obj{"msgtype": "m.text", "body": fmt.Sprint("message ", i, " ", j, " of a user who has written a lot in the course of the years")})
			}
		})
	}
	senderGroup.Wait()
	return room
}

// BenchmarkExport exports the account of a user who has sent 100,000 messages, from the request to the complete
// archive. It reports the time, and, in a second run, by how much the heap grows. In that one the garbage collector
// runs more often, which takes time: the test itself holds hundreds of megabytes, and there would be as much garbage.
func BenchmarkExport(b *testing.B) {
	s := testserver.New(b, nil)
	writeALot(s.Register("alice"))
	s.Reopen() // so that nothing is cached
	b.ResetTimer()
	for range b.N {
		start := time.Now()
		status := built(b, s, "alice")
		b.ReportMetric(time.Since(start).Seconds(), "s/export")
		b.ReportMetric(float64(status.Size)/(1<<20), "MB/archive")
		drop(b, s)
		b.ReportMetric(growth(func() { built(b, s, "alice") }), "MB")
		drop(b, s)
	}
}

// BenchmarkExportOfConversations exports 100,000 messages that others have sent.
func BenchmarkExportOfConversations(b *testing.B) {
	s := testserver.New(b, nil)
	bob, alice := s.Register("bob"), s.Register("alice")
	room := writeALot(bob)
	alice.Do("POST", "/v3/join/"+url.PathEscape(room), obj{})
	s.Reopen() // so that nothing is cached
	b.ResetTimer()
	for range b.N {
		start := time.Now()
		status := builtWith(b, s, withConversations)
		b.ReportMetric(time.Since(start).Seconds(), "s/export")
		b.ReportMetric(float64(status.Size)/(1<<20), "MB/archive")
		drop(b, s)
		b.ReportMetric(growth(func() { builtWith(b, s, withConversations) }), "MB")
		drop(b, s)
	}
}

func drop(b *testing.B, s *testserver.Server) {
	b.Helper()
	if _, err := s.Control(b.Context(), "user export drop", []byte(`{"user":"alice"}`)); err != nil {
		b.Fatal(err)
	}
}

// growth returns by how many megabytes the heap grows at most while f runs.
func growth(f func()) float64 {
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before := m.HeapInuse
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		largest := before
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				peak <- largest
				return
			case <-tick.C:
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			largest = max(largest, m.HeapInuse)
		}
	}()
	f()
	close(stop)
	return float64(<-peak-before) / (1 << 20)
}
