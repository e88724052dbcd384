package server_test

import (
	"fmt"
	"net/url"
	"runtime"
	"sync"
	"testing"
	"time"

	"ebb/internal/testserver"
)

// BenchmarkExport exports the account of a user who has sent 100,000 messages. It reports the time from the request to
// the complete archive, and the largest heap meanwhile above that of the idle server.
func BenchmarkExport(b *testing.B) {
	const messages, senders = 100_000, 32
	s := testserver.New(b, nil)
	alice := s.Register("alice")
	room := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	var senderGroup sync.WaitGroup
	for i := range senders {
		senderGroup.Go(func() {
			for j := range messages / senders {
				alice.Do("PUT", fmt.Sprintf("/v3/rooms/%s/send/m.room.message/%d-%d", url.PathEscape(room), i, j), obj{"msgtype": "m.text", "body": fmt.Sprint("message ", i, " ", j, " of a user who has written a lot in the course of the years")})
			}
		})
	}
	senderGroup.Wait()
	s.Reopen() // so that the caches are empty, and the garbage collector runs as it does for a small heap
	b.ResetTimer()
	for range b.N {
		runtime.GC()
		var before runtime.MemStats
		runtime.ReadMemStats(&before)
		stop, peak := make(chan struct{}), make(chan uint64)
		go func() {
			largest := uint64(0)
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					peak <- largest
					return
				case <-tick.C:
				}
				var now runtime.MemStats
				runtime.ReadMemStats(&now)
				largest = max(largest, now.HeapInuse)
			}
		}()
		start := time.Now()
		status := built(b, s, "alice")
		took := time.Since(start)
		close(stop)
		b.ReportMetric(took.Seconds(), "s/export")
		b.ReportMetric(float64(max(<-peak, before.HeapInuse)-before.HeapInuse)/(1<<20), "MB")
		b.ReportMetric(float64(status.Size)/(1<<20), "MB/archive")
		if _, err := s.Control(b.Context(), "user export drop", []byte(`{"user":"alice"}`)); err != nil {
			b.Fatal(err)
		}
	}
}
