package crash

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"ebb/test/process"
)

// The server is killed while delayed events become due, and while some are being sent.
func TestEveryDelayedEventIsSentOnceInSpiteOfKills(t *testing.T) {
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := process.Start(t, binary, process.Options{Config: config})
	alice := s.Register(t, "alice")
	room := process.Text(alice.Must(t, http.MethodPost, "/_matrix/client/v3/createRoom", process.Object{}), "room_id")
	const events = 60
	for i := range events {
		path := process.Path("rooms", room, "send", "m.room.message", fmt.Sprint("late", i))
		alice.Must(t, http.MethodPut, path+fmt.Sprint("?org.matrix.msc4140.delay=", 1+20*i), process.Object{"body": fmt.Sprint("late ", i)})
	}
	for range 3 {
		s.Kill()
		s.Up(t)
		time.Sleep(100 * time.Millisecond) // makes kills between two events likely
	}
	const list = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
	process.Await(t, 30*time.Second, "no event is scheduled any more", func() bool {
		return len(process.List(alice.Must(t, http.MethodGet, list, nil), "delayed_events")) == 0
	})
	sent := map[string]int{}
	for _, e := range process.List(alice.Must(t, http.MethodGet, process.Path("rooms", room, "messages")+"?dir=b&limit=500", nil), "chunk") {
		if body := process.Text(e, "content", "body"); body != "" {
			sent[body]++
		}
	}
	for i := range events {
		if n := sent[fmt.Sprint("late ", i)]; n != 1 {
			t.Errorf("event %d was sent %d times", i, n)
		}
	}
}
