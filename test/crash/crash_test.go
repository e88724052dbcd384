// Package crash kills the real binary in the middle of its work and checks that nothing is lost. It also watches the
// system calls of the binary, because a kill does not show what a power cut would do.
package crash

import (
	"database/sql"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	_ "github.com/mattn/go-sqlite3" // runs integrity_check

	"ebb/test/process"
)

// config allows the test to register users and to send as fast as it can.
const config = "registration: {mode: open}\nrate_limits: {enabled: false}"

// kills returns how often the server is killed: EBB_TEST_KILLS times, or 5 times.
func kills(t *testing.T) int {
	text := os.Getenv("EBB_TEST_KILLS")
	if text == "" {
		return 5
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("EBB_TEST_KILLS=%q is no number", text)
	}
	return n
}

func TestNothingAcknowledgedIsLostByKill(t *testing.T) {
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, process.Start(t, binary, process.Options{Config: config}))
	for done, rounds := 0, 0; done < kills(t); rounds++ {
		if rounds > 2*kills(t)+3 {
			t.Fatalf("only %d of %d rounds left %d requests in flight", done, rounds, minInFlight)
		}
		inFlight := w.round(t, minAcked+rand.Int64N(300))
		acked := w.acked.Load()
		w.checkFiles(t)
		w.server.Up(t)
		w.check(t)
		if inFlight >= minInFlight && acked >= minAcked {
			done++
		}
		t.Logf("killed with %d requests in flight, %d messages acknowledged in this round", inFlight, acked)
	}
	if err := w.server.Stop(); err != nil {
		t.Fatalf("after all rounds: %v", err)
	}
}

// checkFiles runs SQLite's integrity check after a kill. It works on a copy, so that the server itself finds the files
// as the kill left them.
func (w *world) checkFiles(t *testing.T) {
	t.Helper()
	var verdict string
	fromFiles(t, w.server, "PRAGMA integrity_check", &verdict)
	if verdict != "ok" {
		t.Fatalf("integrity_check: %s", verdict)
	}
}

// fromFiles reads a row from a copy of the files of a server that was killed.
func fromFiles(t *testing.T, s *process.Server, query string, into ...any) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"ebb.db", "ebb.db-wal"} {
		raw, err := os.ReadFile(filepath.Join(s.DataDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db, err := sql.Open("sqlite3", filepath.Join(dir, "ebb.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(t.Context(), query).Scan(into...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// check verifies the results of all rounds, before and after repeating the requests that got no response.
func (w *world) check(t *testing.T) {
	t.Helper()
	if err := errors.Join(w.failure, w.seen.failure); err != nil {
		t.Fatal(err)
	}
	w.checkMessages(t, w.timelines(t))
	w.checkReceipts(t, w.timelines(t))
	for _, a := range slices.Concat(w.messages, w.toDevice) {
		if a.acked {
			continue
		}
		for range 2 { // the second time the response is known, and try compares the two
			if err := a.try(t.Context()); err != nil {
				t.Fatalf("asked again: %v", err)
			}
		}
	}
	w.checkMessages(t, w.timelines(t))
	w.checkSync(t)
}

// timelines reads the rooms through /messages, from their beginning.
func (w *world) timelines(t *testing.T) map[string][]process.Object {
	t.Helper()
	all := map[string][]process.Object{}
	for _, room := range w.rooms {
		for from, first := "", true; first || from != ""; first = false {
			path := process.Path("rooms", room, "messages") + "?dir=f&limit=500"
			if !first {
				path += "&from=" + from
			}
			page := w.reader.Must(t, http.MethodGet, path, nil)
			for _, e := range process.List(page, "chunk") {
				all[room] = append(all[room], objects(e))
			}
			from = process.Text(page, "end")
		}
	}
	return all
}

// checkMessages checks that every acknowledged message exists exactly once under its ID, and every other message at
// most once.
func (w *world) checkMessages(t *testing.T, timelines map[string][]process.Object) {
	t.Helper()
	ids, bodies := map[string]int{}, map[string][]string{}
	for _, events := range timelines {
		for _, e := range events {
			ids[process.Text(e, "event_id")]++
			if body := process.Text(e, "content", "body"); body != "" {
				bodies[body] = append(bodies[body], process.Text(e, "event_id"))
			}
		}
	}
	for id, n := range ids {
		if n != 1 {
			t.Fatalf("%s is there %d times", id, n)
		}
	}
	for _, a := range w.messages {
		found := bodies[a.marker]
		if a.acked && !slices.Equal(found, []string{a.answer}) {
			t.Fatalf("%s was acknowledged as %s, and there is %v", a.marker, a.answer, found)
		}
		if len(found) > 1 {
			t.Fatalf("%s is there as %v", a.marker, found)
		}
	}
}

// checkReceipts checks that the reader's receipt is not older than the last acknowledged one, and that the unread count
// is the number of messages after it.
func (w *world) checkReceipts(t *testing.T, timelines map[string][]process.Object) {
	t.Helper()
	full := w.reader.Must(t, http.MethodGet, process.Path("sync"), nil)
	for _, room := range w.rooms {
		joined := process.At(full, "rooms", "join", room)
		index := map[string]int{}
		for i, e := range timelines[room] {
			index[process.Text(e, "event_id")] = i
		}
		acked := -1
		for _, r := range w.receipts[room] {
			if r.acked {
				acked = max(acked, index[r.eventID])
			}
		}
		own := receiptOf(joined, w.reader.UserID)
		at, known := index[own]
		if own == "" {
			at, known = -1, acked < 0
		}
		if !known || at < acked {
			t.Fatalf("the receipt is at %q (%d), event %d was acknowledged", own, at, acked)
		}
		if at < 0 {
			continue
		}
		want := 0
		for _, e := range timelines[room][at+1:] {
			if process.Text(e, "type") == "m.room.message" {
				want++
			}
		}
		if got := process.Number(joined, "unread_notifications", "notification_count"); got != want {
			t.Fatalf("%d unread in %s, counted again %d", got, room, want)
		}
	}
}

// receiptOf returns the ID of the event to which the user's m.read receipt points.
func receiptOf(joined any, userID string) string {
	for _, e := range process.List(joined, "ephemeral", "events") {
		for eventID, kinds := range objects(process.At(e, "content")) {
			if process.At(kinds, "m.read", userID) != nil {
				return eventID
			}
		}
	}
	return ""
}

// checkSync checks that the token from before the kill still works. Over all restarts, /sync must have returned every
// event and every to-device message once, with the messages of each sender in order.
func (w *world) checkSync(t *testing.T) {
	t.Helper()
	w.seen.catchUp(t)
	for room, events := range w.timelines(t) {
		var want []string
		for _, e := range events {
			want = append(want, process.Text(e, "event_id"))
		}
		if got := w.seen.events[room]; !slices.Equal(got, want[max(0, len(want)-len(got)):]) || len(got) < len(want)-20 {
			t.Fatalf("/sync gave %d events of %s, /messages %d, and they differ", len(got), room, len(want))
		}
	}
	want := make([]string, 0, len(w.toDevice))
	for _, a := range w.toDevice {
		want = append(want, a.marker)
	}
	if !slices.Equal(w.seen.toDevice, want) {
		t.Fatalf("to-device messages: got %d, sent %d; %s", len(w.seen.toDevice), len(want), firstDifference(w.seen.toDevice, want))
	}
}

func firstDifference(got, want []string) string {
	for i, w := range want {
		if i >= len(got) || got[i] != w {
			return "the first difference is at " + w + " after " + strings.Join(got[max(0, i-2):min(i+2, len(got))], ", ")
		}
	}
	return "too many"
}
