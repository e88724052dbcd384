package retention

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/rooms/pdu"
	"ebb/search"
	"ebb/storage"
	"ebb/storage/storagetest"
	"ebb/wake"
)

// fixture has a job for rooms in a real database.
type fixture struct {
	*testing.T
	*Job
	now   time.Time
	alice ident.Requester
	runs  []Report
}

func newFixture(t *testing.T, db *storage.DB, policy rooms.Retention) *fixture {
	f := &fixture{T: t, now: time.UnixMilli(1_750_000_000_000)}
	commits := rooms.NewCommits()
	svc, err := rooms.New(t.Context(), rooms.Options{
		Commits: commits, DB: db, Server: "here", Hub: wake.New(), Now: func() time.Time { return f.now }, Retention: policy,
		Signer: pdu.Signer{Server: "here", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))},
	})
	f.ok(err)
	f.Job, err = New(t.Context(), Options{
		DB: db, Rooms: svc, Commits: commits, Policy: policy, Interval: time.Millisecond, Delay: 24 * time.Hour, Now: func() time.Time { return f.now }, Observe: func(r Report) { f.runs = append(f.runs, r) }, Log: slog.New(slog.DiscardHandler),
	})
	f.ok(err)
	f.alice.UserID = "@alice:here"
	f.alice.UserNID, err = svc.UserNID(t.Context(), f.alice.UserID)
	f.ok(err)
	return f
}

func (f *fixture) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// room creates a room with messages. An empty lifetime means a room without a policy.
func (f *fixture) room(lifetime string, messages int) id.RoomID {
	f.Helper()
	room, err := f.opts.Rooms.Create(f.Context(), f.alice, rooms.CreateRoom{Preset: "private_chat"})
	f.ok(err)
	if lifetime != "" {
		_, err := f.opts.Rooms.Send(f.Context(), rooms.NewEvent{Room: room, Sender: f.alice, Type: "m.room.retention", StateKey: new(string), Content: json.RawMessage(`{"max_lifetime":` + lifetime + `}`)})
		f.ok(err)
	}
	for i := range messages {
		_, err := f.opts.Rooms.Send(f.Context(), rooms.NewEvent{Room: room, Sender: f.alice, Type: "m.room.message", Content: fmt.Appendf(nil, `{"body":"%d"}`, i)})
		f.ok(err)
	}
	return room
}

func (f *fixture) purged() Report {
	f.Helper()
	r, err := f.Purge(f.Context(), false)
	f.ok(err)
	return r
}

func TestRoomsWithTheirOwnPolicyArePurged(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := newFixture(t, db, rooms.Retention{})
		f.room("60000", 3)
		f.room("", 3)
		overridden, hour := f.room("", 2), time.Hour
		f.ok(f.opts.Rooms.SetRetentionOverride(t.Context(), overridden, &expiry.Policy{Max: &hour}))
		if r := f.purged(); r.Events != 0 || r.Rooms != 2 {
			t.Errorf("nothing is expired, yet %+v", r)
		}
		f.now = f.now.Add(time.Minute)
		if r := f.purged(); r.Events != 3 || r.Rooms != 2 {
			t.Errorf("after a minute: %+v", r)
		}
		f.now = f.now.Add(time.Hour)
		if r := f.purged(); r.Events != 2 {
			t.Errorf("after an hour: %+v", r)
		}
		if r := f.purged(); r.Events != 0 || len(f.runs) != 4 {
			t.Errorf("again: %+v, %d runs observed", r, len(f.runs))
		}
	})
}

func TestDefaultPolicyPurgesEveryRoom(t *testing.T) {
	minute := time.Minute
	f := newFixture(t, storagetest.Open(t, storage.Config{}), rooms.Retention{Default: expiry.Policy{Max: &minute}})
	f.room("", 3)
	f.room("3600000", 3)
	f.now = f.now.Add(time.Minute)
	if r := f.purged(); r.Events != 3 || r.Rooms != 2 {
		t.Errorf("%+v", r)
	}
}

func TestServerLimitOverridesLongerRoomPolicies(t *testing.T) {
	minute := time.Minute
	f := newFixture(t, storagetest.Open(t, storage.Config{}), rooms.Retention{Limits: expiry.Limits{MaxLifetime: expiry.Bounds{Max: &minute}}})
	f.room("3600000", 3)
	f.now = f.now.Add(time.Minute)
	if r := f.purged(); r.Events != 3 {
		t.Errorf("%+v", r)
	}
}

func TestRunPurgesAtOnceAndAgainUntilItIsStopped(t *testing.T) {
	f := newFixture(t, storagetest.Open(t, storage.Config{}), rooms.Retention{})
	f.room("60000", 3)
	f.now = f.now.Add(time.Minute)
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	observed := make(chan Report)
	f.opts.Observe = func(r Report) {
		select {
		case observed <- r:
		case <-ctx.Done():
		}
	}
	done := make(chan error)
	go func() { done <- f.Job.Run(ctx) }()
	for i, want := range []int{3, 0, 0} {
		if r := <-observed; r.Events != want {
			t.Errorf("run %d: %+v", i, r)
		}
	}
	stop()
	f.ok(<-done)
}

func TestInterruptedRunIsFinishedByTheNext(t *testing.T) {
	f := newFixture(t, storagetest.Open(t, storage.Config{}), rooms.Retention{})
	f.room("60000", 3)
	f.now = f.now.Add(time.Minute)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Purge(gone, false); err == nil || !f.owed {
		t.Errorf("a run without time succeeds: %v", err)
	}
	if r := f.purged(); r.Events != 3 || f.owed {
		t.Errorf("%+v, owed %v", r, f.owed)
	}
}

// What was purged by an interrupted run, its messages and all, leaves the search index in the next.
func TestWordsLeftByAnInterruptedRunGoWithTheNext(t *testing.T) {
	db := storagetest.Open(t, storage.Config{})
	f := newFixture(t, db, rooms.Retention{})
	f.room("60000", 3)
	index, err := search.New(t.Context(), search.Options{DB: db, Log: slog.New(slog.DiscardHandler)})
	f.ok(err)
	f.ok(index.CatchUp(t.Context()))
	f.ok(index.Flush(t.Context()))
	f.now = f.now.Add(time.Minute)
	var report Report
	r, err := f.begin(t.Context(), false, &report)
	f.ok(err)
	f.ok(f.purgeRooms(t.Context(), r, &report))
	blocks := func() (stale, all int) {
		f.ok(db.Read(t.Context(), func(tx *storage.Tx) error {
			nids, err := tx.AllRooms(0, 10)
			f.ok(err)
			found, err := tx.SearchBlocks(nids, 10)
			for _, b := range found {
				if all++; b.Stale > 0 {
					stale++
				}
			}
			return err
		}))
		return stale, all
	}
	if stale, all := blocks(); report.Events != 3 || stale != 1 || all != 1 {
		t.Fatalf("%d messages were purged, and %d of %d blocks are marked", report.Events, stale, all)
	}
	f.owed = false
	f.ok(f.cleanSearch(t.Context()))
	if _, all := blocks(); all != 0 || !f.owed {
		t.Errorf("%d blocks are left; the files may contain their words: %v", all, f.owed)
	}
}

func TestRoomsOfEveryPageArePurged(t *testing.T) {
	minute := time.Minute
	for name, policy := range map[string]rooms.Retention{"policies of rooms": {}, "a default": {Default: expiry.Policy{Max: &minute}}} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, storagetest.Open(t, storage.Config{}), policy)
			for range 2*roomsPerPage + 1 {
				f.room("60000", 1)
			}
			f.now = f.now.Add(time.Minute)
			if r := f.purged(); r.Events != 2*roomsPerPage+1 || r.Rooms != r.Events {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestTheNextRunRemovesRedactedContentFromTheFiles(t *testing.T) {
	dir := t.TempDir()
	f := newFixture(t, storagetest.Open(t, storage.Config{DSN: "sqlite:" + filepath.Join(dir, "ebb.db")}), rooms.Retention{})
	room := f.room("", 1)
	const marker = "a-word-that-is-taken-back"
	event, err := f.opts.Rooms.Send(t.Context(), rooms.NewEvent{Room: room, Sender: f.alice, Type: "m.room.message", Content: json.RawMessage(`{"body":"` + marker + `"}`)})
	f.ok(err)
	f.purged() // which finishes what an earlier process may have left
	_, err = f.opts.Rooms.Redact(t.Context(), f.alice, room, event, "", nil)
	f.ok(err)
	if !onDisk(t, dir, marker) {
		t.Fatal("the redacted content is in no file: the test proves nothing")
	}
	f.purged()
	if onDisk(t, dir, marker) {
		t.Error("the redacted content is in a file after the next run")
	}
}

// onDisk reports whether a file of a folder contains a text.
func onDisk(t *testing.T, dir, text string) bool {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, []byte(text)) {
			return true
		}
	}
	return false
}
