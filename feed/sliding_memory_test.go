package feed_test

import (
	"fmt"
	"runtime"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
)

// heap returns the bytes of the heap in use.
func heap() int64 {
	for range 3 { // pools keep what they hold for two collections
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestWaitingSlidingClientHoldsNoCopyOfItsRooms measures what a waiting client adds to the heap: its connection with
// all rooms sent, and its request, without what belongs to HTTP.
func TestWaitingSlidingClientHoldsNoCopyOfItsRooms(t *testing.T) {
	const rooms, devices = 250, 100
	w := newWorld(t)
	alice := w.user("alice")
	var last id.RoomID
	for range rooms {
		last = alice.create("public_chat")
	}
	body := fmt.Sprintf(`{"lists":{"all":{"ranges":[[0,%d]],"timeline_limit":1,"required_state":[["m.room.name",""],["m.room.member","$LAZY"]]}},"extensions":{"receipts":{"enabled":true},"typing":{"enabled":true}}}`, rooms)
	alice.sliding(body).next() // what all devices share
	before := heap()
	clients, polls := make([]*sliding, devices), make([]*slidingPoll, devices)
	for i := range clients {
		u := *alice
		u.DeviceNID += ident.DeviceNID(1_000_000 * (i + 1))
		clients[i] = u.sliding(body)
		clients[i].next()
		clients[i].next()
		polls[i] = clients[i].park()
	}
	each := (heap() - before) / devices
	t.Logf("%d bytes for each client", each)
	if each > 6000 {
		t.Errorf("a waiting client with %d rooms takes %d bytes of the heap, want at most 6,000", rooms, each)
	}
	alice.say(last, "wake up")
	for _, p := range polls {
		p.wait()
	}
}
