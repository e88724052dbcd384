package parking

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"
)

func TestParkedEventsAreBoundedInBytes(t *testing.T) {
	now := time.UnixMilli(1_750_000_000_000)
	l := NewLot()
	event := make(json.RawMessage, 60<<10)
	sums := func() (all int, servers map[string]int) {
		servers = map[string]int{}
		for key, p := range l.parked {
			for _, raw := range p.pdus {
				all += len(raw) + eventBytes
				servers[key.Origin] += len(raw) + eventBytes
			}
		}
		return all, servers
	}
	refused := 0
	for i := range 100 {
		refused += len(l.Park(now, Key{"evil", id.RoomID(fmt.Sprint("!", i%7))}, []json.RawMessage{event, event}))
	}
	if all, _ := sums(); all > maxServerBytes || all < maxServerBytes/2 || refused == 0 {
		t.Errorf("one server has parked %d bytes, %d events were refused", all, refused)
	}
	for i := range 100 {
		for range 30 {
			l.Park(now, Key{fmt.Sprint("evil", i), "!r"}, []json.RawMessage{event})
		}
	}
	if all, _ := sums(); all > maxBytes || all != l.bytes {
		t.Errorf("%d bytes are parked, %d counted", all, l.bytes)
	}
	if refused := l.Park(now, Key{"good", "!r"}, []json.RawMessage{event}); len(refused) != 0 || l.parked[Key{"good", "!r"}] == nil {
		t.Error("others leave no room")
	}
	if _, servers := sums(); fmt.Sprint(servers) != fmt.Sprint(l.servers) {
		t.Errorf("counted are %v, not %v", l.servers, servers)
	}
	for i := range 2 * maxKeys {
		l.Park(now, Key{"many", id.RoomID(fmt.Sprint("!", i))}, []json.RawMessage{{}})
	}
	if len(l.parked) > maxKeys {
		t.Errorf("events of %d rooms are parked", len(l.parked))
	}
	if ready := l.Due(now.Add(lifetime+1), func(Key) bool { return false }); len(ready) != 0 || l.bytes != 0 || len(l.servers) != 0 {
		t.Errorf("after their time %d bytes of %v are parked", l.bytes, l.servers)
	}
}

func TestFetchesOfMembershipsAreBounded(t *testing.T) {
	now := time.UnixMilli(1_750_000_000_000)
	l := NewLot()
	count := func(server string) (n int) {
		for l.MayFetch(server, now) {
			n++
		}
		return n
	}
	if n := count("a"); n != maxFetches {
		t.Errorf("one server: %d", n)
	}
	now = now.Add(3 * fetchPause)
	if n := count("a"); n != 3 {
		t.Errorf("after three pauses: %d", n)
	}
	now = now.Add(time.Hour)
	sum := 0
	for i := range 100 {
		sum += count(fmt.Sprint("s", i))
	}
	if sum != maxAllFetches {
		t.Errorf("all servers: %d", sum)
	}
	if len(l.fetches) > maxAllFetches+1 {
		t.Errorf("%d servers are remembered", len(l.fetches))
	}
}
