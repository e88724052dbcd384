package retention

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"ebb/rooms"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// restart creates a new job over the same database, as another start of the server does. Its log goes to the returned
// buffer.
func (f *fixture) restart() *bytes.Buffer {
	o, log := f.opts, &bytes.Buffer{}
	o.Commits = nil // nobody may subscribe after the first commit
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	var err error
	f.Job, err = New(f.Context(), o)
	f.ok(err)
	return log
}

func (f *fixture) wantPurged(events int, when string) {
	f.Helper()
	if r := f.purged(); r.Events != events {
		f.Errorf("%s %d messages were purged, want %d", when, r.Events, events)
	}
}

func TestMessagesThatExpiredThroughAClockJumpAreKeptForADay(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := newFixture(t, db, rooms.Retention{})
		f.room("3600000", 2)
		f.now = f.now.Add(30 * time.Minute)
		f.room("3600000", 3)
		f.wantPurged(0, "at first")
		f.now = f.now.Add(45 * time.Minute) // the first two have expired while the server was stopped
		f.now = f.now.Add(30 * 24 * time.Hour)
		log := f.restart()
		f.wantPurged(0, "after the jump")
		if r := f.runs[len(f.runs)-1]; r.KeptUntil == nil || !r.KeptUntil.Equal(f.now.Add(24*time.Hour)) {
			t.Errorf("kept until %v", r.KeptUntil)
		}
		if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "The clock is far ahead") {
			t.Errorf("the log says %q", log)
		}
		f.now = f.now.Add(31 * time.Minute)
		f.wantPurged(2, "what would have expired by now without the jump")
		if log = f.restart(); f.purged().KeptUntil == nil || log.Len() == 0 {
			t.Error("another start forgets the jump")
		}
		f.now = f.now.Add(23*time.Hour + 28*time.Minute)
		f.room("3600000", 1)
		f.wantPurged(3, "what would have expired by then")
		f.now = f.now.Add(time.Hour)
		if r := f.purged(); r.KeptUntil != nil || r.Events != 1 {
			t.Errorf("after the day: %+v", r)
		}
	})
}

func TestCorrectingAJumpedClockPurgesNothing(t *testing.T) {
	f := newFixture(t, storagetest.Open(t, storage.Config{}), rooms.Retention{})
	day := 24 * time.Hour
	f.room("864000000", 4) // ten days
	f.purged()
	right := f.now
	f.now = right.Add(30 * day)
	f.restart()
	f.wantPurged(0, "after the jump")
	f.now = right.Add(time.Minute)
	f.restart()
	if r := f.purged(); r.Events != 0 || r.KeptUntil != nil {
		t.Errorf("once it is right: %+v", r)
	}
	f.now = right.Add(30 * day) // the clock is wrong again
	f.restart()
	f.wantPurged(0, "after another jump")
	f.now = f.now.Add(20 * day) // and again, before the day of waiting is over
	f.restart()
	f.wantPurged(0, "after a jump on a jump")
	f.now = f.now.Add(day)
	f.wantPurged(4, "a day later")
}

func TestAJumpIsNoticedWithoutAnyRecordOfTheClock(t *testing.T) {
	f := newFixture(t, storagetest.Open(t, storage.Config{}), rooms.Retention{})
	f.room("3600000", 4)
	f.now = f.now.Add(30 * 24 * time.Hour)
	f.wantPurged(0, "at the first start of this version") // the newest event shows when the server last ran
}

func TestAnOrdinaryRestartDelaysNothing(t *testing.T) {
	f := newFixture(t, storagetest.Open(t, storage.Config{}), rooms.Retention{})
	f.room("60000", 4)
	f.wantPurged(0, "at first")
	f.now = f.now.Add(59 * time.Minute)
	f.restart()
	f.wantPurged(4, "after a restart")
}

func TestAClockThatJumpsWhileTheServerRunsIsNoticed(t *testing.T) {
	f := newFixture(t, storagetest.Open(t, storage.Config{}), rooms.Retention{})
	var steady time.Duration
	f.opts.Elapsed = func() time.Duration { return steady }
	f.room("3600000", 4)
	f.wantPurged(0, "at first")
	f.now, steady = f.now.Add(30*time.Minute), steady+30*time.Minute
	f.wantPurged(0, "in time")
	f.now, steady = f.now.Add(3*time.Hour), steady+time.Minute
	f.wantPurged(0, "after the jump")
	f.now, steady = f.now.Add(29*time.Minute), steady+29*time.Minute
	f.wantPurged(4, "what has expired by the steady clock")
}

func TestOtherRemovalsUseTheSameTime(t *testing.T) {
	f := newFixture(t, storagetest.Open(t, storage.Config{}), rooms.Retention{})
	want := func(by time.Time, when string) {
		t.Helper()
		if got, err := f.Time(t.Context()); err != nil || !got.Equal(by) {
			t.Errorf("%s it is %v, want %v (%v)", when, got, by, err)
		}
	}
	want(f.now, "at first")
	right := f.now
	f.now = right.Add(30 * 24 * time.Hour)
	log := f.restart()
	want(right, "after a jump")
	if !strings.Contains(log.String(), "The clock is far ahead") {
		t.Errorf("the log says %q", log)
	}
	f.purged()
	f.now = f.now.Add(time.Hour)
	want(right.Add(time.Hour), "an hour later")
	f.now = f.now.Add(23 * time.Hour)
	want(f.now, "a day later")
}

// A clock that was years ahead for a while has left times that are years away. Nothing waits for them.
func TestNothingWaitsForATimeThatTheClockHasNotReached(t *testing.T) {
	f := newFixture(t, storagetest.Open(t, storage.Config{}), rooms.Retention{})
	minute := time.Minute
	room := f.room("", 3)
	right := f.now
	f.now = right.Add(10 * 365 * 24 * time.Hour)
	f.setPolicy(room, `{"max_lifetime":60000}`)
	f.restart()
	f.wantReport(0, 3, "in ten years")
	f.ok(f.opts.DB.Write(t.Context(), func(tx *storage.Tx) error {
		return tx.SetPurgeState(storage.PurgeState{Config: f.state.Config, ConfigSince: f.now.UnixMilli(), Tripped: f.now.UnixMilli()})
	}))
	f.now = right.Add(minute)
	f.restart()
	f.wantReport(0, 3, "once the clock is right")
	if s := f.state; s.ConfigSince != f.now.UnixMilli() || s.Tripped > f.now.UnixMilli() {
		t.Errorf("the state is %+v at %d", s, f.now.UnixMilli())
	}
	for range 29 {
		f.now = f.now.Add(50 * time.Minute)
		f.purged()
	}
	if r := f.runs[len(f.runs)-1]; r.Waiting != 0 {
		t.Errorf("a day later %+v", r)
	}
	f.wantPurged(0, "again")
}

func TestWorkThatIsDueOnceInAWhileGoesOnAfterTheClockWasSetBack(t *testing.T) {
	f := newLeftFixture(t, storagetest.Open(t, storage.Config{}))
	f.opts.Delay = 0
	left := f.left(1)
	right := f.now
	f.now = right.Add(365 * 24 * time.Hour)
	f.room("", 1) // a search of rooms and of kept messages, a year ahead
	day := 24 * time.Hour
	f.opts.LeftRooms = nil
	f.opts.ForgottenRooms = &day
	f.purged()
	f.ok(f.opts.Rooms.Forget(t.Context(), f.alice, left))
	f.now = right.Add(2 * day)
	f.purged()
	if f.known(left) {
		t.Error("the search for rooms that were left waits for a year")
	}
}
