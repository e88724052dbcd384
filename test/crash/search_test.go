package crash

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"ebb/test/process"
)

// The search index moves its tail to blocks when there are 4,096 messages: at once when a server starts, and otherwise
// within a second.
const (
	unindexedMessages = 4080
	indexedMessages   = 4112
)

func TestAKillWhileTheSearchIndexIsWrittenLosesAndRepeatsNothing(t *testing.T) {
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := process.Start(t, binary, process.Options{Config: config})
	alice := s.Register(t, "alice")
	var rooms []string
	for range 8 { // each has a block of its own, and several writes
		rooms = append(rooms, process.Text(alice.Must(t, http.MethodPost, process.Path("createRoom"), process.Object{}), "room_id"))
	}
	sent := sendNeedles(t, alice, rooms, 0, unindexedMessages)
	sent = append(sent, sendNeedles(t, alice, rooms, unindexedMessages, indexedMessages)...)
	s.Kill()
	slices.Sort(sent)

	within := 0 // kills between the first write of the index and the last one
	for i := range 6 * kills(t) {
		s.Up(t)
		time.Sleep(time.Duration(i) * 10 * time.Millisecond)
		s.Kill()
		var blocks, upTo int64
		fromFiles(t, s, `SELECT (SELECT count(*) FROM search_blocks), coalesce((SELECT value FROM meta WHERE name = 'search'), 0)`, &blocks, &upTo)
		if blocks > 0 && upTo == 0 {
			if within++; within == 1 {
				s.Up(t)
				checkNeedles(t, alice, sent, "with a part of them in blocks")
				s.Kill()
			}
		}
		if upTo > 0 {
			break
		}
	}
	s.Up(t)
	checkNeedles(t, alice, sent, "after the kills")
	t.Logf("%d kills were between two writes of the index", within)
}

// sendNeedles sends messages with a common word to all rooms, and returns the event IDs.
func sendNeedles(t *testing.T, c *process.Client, rooms []string, from, to int) (ids []string) {
	t.Helper()
	var mu sync.Mutex // guards ids
	var all sync.WaitGroup
	for sender := range senders {
		all.Go(func() {
			for i := from + sender; i < to; i += senders {
				path := process.Path("rooms", rooms[i%len(rooms)], "send", "m.room.message", fmt.Sprint("n", i))
				status, answer, err := c.Do(t.Context(), http.MethodPut, path, process.Object{"msgtype": "m.text", "body": fmt.Sprint("needle ", i)})
				if err != nil || status != http.StatusOK {
					t.Errorf("message %d: %d %v %v", i, status, answer, err)
					return
				}
				mu.Lock()
				ids = append(ids, process.Text(answer, "event_id"))
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return ids
}

// checkNeedles checks that a search finds each of the messages once.
func checkNeedles(t *testing.T, c *process.Client, want []string, when string) {
	t.Helper()
	var got []string
	for path, pages := "/_matrix/client/v3/search", 0; path != ""; pages++ {
		answer := c.Must(t, http.MethodPost, path, process.Object{"search_categories": process.Object{"room_events": process.Object{
			"search_term": "needle", "order_by": "recent", "filter": process.Object{"limit": 100},
		}}})
		for _, r := range process.List(answer, "search_categories", "room_events", "results") {
			got = append(got, process.Text(r, "result", "event_id"))
		}
		path = ""
		if next := process.Text(answer, "search_categories", "room_events", "next_batch"); next != "" && pages <= indexedMessages/100 {
			path = "/_matrix/client/v3/search?next_batch=" + next
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%s, a search finds %d messages, want %d; distinct: %d", when, len(got), len(want), len(slices.Compact(slices.Clone(got))))
	}
}
