package retention

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// stored returns how many of the events are stored.
func (f *fixture) stored(room id.RoomID, events []id.EventID) (n int) {
	f.Helper()
	r, err := f.opts.Rooms.Room(f.Context(), room)
	f.ok(err)
	for _, e := range events {
		found, err := r.FindEvent(f.Context(), e)
		f.ok(err)
		if found != nil {
			n++
		}
	}
	return n
}

func (f *fixture) say(room id.RoomID, body string) id.EventID {
	f.Helper()
	content, err := json.Marshal(map[string]string{"body": body})
	f.ok(err)
	event, err := f.opts.Rooms.Send(f.Context(), rooms.NewEvent{Room: room, Sender: f.alice, Type: "m.room.message", Content: content})
	f.ok(err)
	return event
}

// A purge needs space for the write-ahead log before it frees any.
func TestAPurgeThatAFullDiskInterruptsIsFinishedLater(t *testing.T) {
	dir := storagetest.TinyDisk(t, 64<<20)
	f := newFixture(t, storagetest.Open(t, storage.Config{DSN: "sqlite:" + filepath.Join(dir, "ebb.db")}), rooms.Retention{})
	const marker = "a-word-that-expires"
	fading, staying := f.room("60000", 0), f.room("", 0)
	var gone, kept []id.EventID
	for range 300 {
		gone = append(gone, f.say(fading, marker+strings.Repeat(" and more", 400)))
	}
	for range 20 {
		kept = append(kept, f.say(staying, "stays"))
	}
	f.now = f.now.Add(time.Hour)
	kept = append(kept, f.say(fading, "is new"))
	f.ok(f.opts.DB.Maintain(t.Context()))
	ballast := filepath.Join(dir, "ballast")
	storagetest.Fill(t, ballast)
	if _, err := f.Purge(t.Context(), true); !errors.Is(err, storage.ErrFull) {
		t.Fatalf("a purge on a full disk: %v, want ErrFull", err)
	}
	if n := f.stored(staying, kept[:20]) + f.stored(fading, kept[20:]); n != len(kept) {
		t.Errorf("%d of %d messages are left that should stay", n, len(kept))
	}
	f.ok(os.Remove(ballast))
	if _, err := f.Purge(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if n := f.stored(fading, gone); n != 0 || onDisk(t, dir, marker) {
		t.Errorf("%d expired messages are left, in a file: %v", n, onDisk(t, dir, marker))
	}
	if n := f.stored(staying, kept[:20]) + f.stored(fading, kept[20:]); n != len(kept) {
		t.Errorf("afterwards %d of %d messages are left that should stay", n, len(kept))
	}
}

// Whoever shortens a policy by mistake, even again and again, loses nothing if it has stood for less than the delay.
func TestAPolicyThatChangesAllTheTimePurgesNothing(t *testing.T) {
	f := newFixture(t, storagetest.Open(t, storage.Config{}), rooms.Retention{})
	room := f.room("", 0)
	var sent []id.EventID
	for range 20 {
		sent = append(sent, f.say(room, "x"))
	}
	f.now = f.now.Add(time.Hour)
	short, long := time.Minute, 24*time.Hour
	for range 100 {
		for _, p := range []*expiry.Policy{{Max: &short}, {Max: &long}, nil} {
			f.ok(f.opts.Rooms.SetRetentionOverride(t.Context(), room, p))
			f.now = f.now.Add(3 * time.Millisecond)
			f.wantPurged(0, "while the policy changes")
		}
	}
	if n := f.stored(room, sent); n != len(sent) {
		t.Errorf("%d of %d messages are left", n, len(sent))
	}
	f.ok(f.opts.Rooms.SetRetentionOverride(t.Context(), room, &expiry.Policy{Max: &short}))
	f.wantPurged(0, "after the last change")
	f.now = f.now.Add(24 * time.Hour)
	f.restart()
	f.Purge(t.Context(), false)
	f.now = f.now.Add(24 * time.Hour)
	f.purged()
	if n := f.stored(room, sent[:19]); n != 0 {
		t.Errorf("%d messages are left once the policy has stood for long enough", n)
	}
}
