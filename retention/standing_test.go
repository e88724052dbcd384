package retention

import (
	"encoding/json"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/storage"
	"ebb/storage/storagetest"
)

func (f *fixture) wantReport(events, waiting int, when string) {
	f.Helper()
	if r := f.purged(); r.Events != events || r.Waiting != waiting {
		f.Errorf("%s: %d messages were purged and %d wait, want %d and %d", when, r.Events, r.Waiting, events, waiting)
	}
}

func (f *fixture) setPolicy(room id.RoomID, content string) {
	f.Helper()
	_, err := f.opts.Rooms.Send(f.Context(), rooms.NewEvent{Room: room, Sender: f.alice, Type: "m.room.retention", StateKey: new(string), Content: json.RawMessage(content)})
	f.ok(err)
}

func TestMessagesFromBeforeAPolicyWait(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := newFixture(t, db, rooms.Retention{})
		pass := func(d time.Duration) { f.now = f.now.Add(d); f.purged() } // a run an hour, or the clock seems to jump
		room := f.room("", 3)
		pass(50 * time.Minute)
		f.setPolicy(room, `{"max_lifetime":60000}`)
		_, err := f.opts.Rooms.Send(f.Context(), rooms.NewEvent{Room: room, Sender: f.alice, Type: "m.room.message", Content: json.RawMessage(`{"body":"under the policy"}`)})
		f.ok(err)
		f.now = f.now.Add(10 * time.Minute)
		f.wantReport(1, 3, "what was sent under the policy")
		for range 28 {
			pass(50 * time.Minute)
		}
		f.now = f.now.Add(25 * time.Minute)
		f.wantReport(0, 3, "before the day is over")
		f.now = f.now.Add(5 * time.Minute)
		f.wantReport(3, 0, "when it has stood for a day")
	})
}

func TestPurgeOfEverythingWaitsForNothing(t *testing.T) {
	f := newFixture(t, storagetest.Open(t, storage.Config{}), rooms.Retention{})
	room, minute := f.room("", 3), time.Minute
	f.now = f.now.Add(time.Minute)
	f.ok(f.opts.Rooms.SetRetentionOverride(t.Context(), room, &expiry.Policy{Max: &minute}))
	f.wantReport(0, 3, "at first")
	f.now = f.now.Add(30 * 24 * time.Hour) // a jump of the clock as well
	f.room("60000", 2)
	f.now = f.now.Add(time.Minute)
	r, err := f.Purge(t.Context(), true)
	if f.ok(err); r.Events != 5 || r.Waiting != 0 {
		t.Errorf("%+v", r)
	}
}

func TestAPolicyThatIsTakenBackPurgesNothing(t *testing.T) {
	f := newFixture(t, storagetest.Open(t, storage.Config{}), rooms.Retention{})
	room := f.room("86400000", 3)
	f.wantReport(0, 0, "at first")
	f.now = f.now.Add(10 * time.Minute)
	for range 100 {
		f.setPolicy(room, `{"max_lifetime":1}`)
		f.setPolicy(room, `{"max_lifetime":86400000}`)
		f.now = f.now.Add(10 * time.Millisecond)
	}
	f.setPolicy(room, `{"max_lifetime":1}`)
	f.now = f.now.Add(10 * time.Minute)
	f.wantReport(0, 3, "while it is short")
	f.setPolicy(room, `{}`)
	f.now = f.now.Add(50 * time.Minute)
	f.wantReport(0, 0, "when it was taken back")
	f.setPolicy(room, `{"max_lifetime":1}`)
	f.now = f.now.Add(10 * time.Minute)
	f.wantReport(0, 3, "when it is short again")
}

// State resolution can make an older policy current, and so can the completion of a partial state.
func TestAnOldPolicyThatBecomesCurrentWaits(t *testing.T) {
	f := newFixture(t, storagetest.Open(t, storage.Config{}), rooms.Retention{})
	room := f.room("60000", 3)
	for range 30 {
		f.now = f.now.Add(50 * time.Minute)
		f.purged()
	}
	_, err := f.opts.Rooms.Send(t.Context(), rooms.NewEvent{Room: room, Sender: f.alice, Type: "m.room.message", Content: json.RawMessage(`{"body":"x"}`)})
	f.ok(err)
	r, err := f.opts.Rooms.Room(t.Context(), room)
	f.ok(err)
	year := int64(365 * 24 * time.Hour / time.Millisecond)
	f.ok(f.opts.DB.Write(t.Context(), func(tx *storage.Tx) error { // as if the room had had a longer policy until now
		return tx.SetRoomPolicy(storage.RoomPolicy{Room: r.NID(), Max: &year, BeforeMax: &year})
	}))
	f.now = f.now.Add(2 * time.Minute)
	f.wantReport(0, 1, "at once")
	for range 30 {
		f.now = f.now.Add(50 * time.Minute)
		f.purged()
	}
	f.wantReport(0, 0, "a day later")
	if n := f.runs[len(f.runs)-2].Waiting; n != 0 {
		t.Errorf("%d messages still wait", n)
	}
}

func TestAChangedDefaultWaits(t *testing.T) {
	db := storagetest.Open(t, storage.Config{})
	f := newFixture(t, db, rooms.Retention{})
	f.now = f.now.Add(-50 * time.Minute)
	f.room("", 3)
	minute := time.Minute
	f = newFixture(t, db, rooms.Retention{Default: expiry.Policy{Max: &minute}}) // another start with another configuration
	f.wantReport(0, 3, "after the start")
	for range 29 {
		f.now = f.now.Add(50 * time.Minute)
		f.restart()
		f.purged()
	}
	if n := f.runs[len(f.runs)-1]; n.Waiting != 0 {
		t.Errorf("after a day %+v", n)
	}
}

func TestAnUnusualNumberOfMessagesWaits(t *testing.T) {
	f := newFixture(t, storagetest.Open(t, storage.Config{}), rooms.Retention{})
	for range breakerDays {
		f.ok(f.opts.DB.Write(t.Context(), func(tx *storage.Tx) error {
			return tx.AddPurged(f.now.UnixMilli()/dayMillis-1-int64(len(f.runs)), 5, 0)
		}))
		f.purged()
	}
	f.ok(f.opts.DB.Write(t.Context(), func(tx *storage.Tx) error { return tx.AddPurged(f.now.UnixMilli()/dayMillis, breakerFloor-2, 0) }))
	f.room("60000", 3)
	f.room("60000", 4)
	f.now = f.now.Add(time.Minute)
	r := f.purged()
	if r.Events != 3 || !r.Stopped || r.StoppedUntil == nil || !r.StoppedUntil.Equal(f.now.Add(24*time.Hour)) {
		t.Fatalf("%+v", r)
	}
	f.now = f.now.Add(50 * time.Minute)
	f.restart()
	if r := f.purged(); r.Events != 0 || r.StoppedUntil == nil {
		t.Errorf("after a restart: %+v", r)
	}
	if r, err := f.Purge(t.Context(), true); err != nil || r.Events != 4 || r.StoppedUntil != nil {
		t.Errorf("everything: %+v, %v", r, err)
	}
	if s := f.Status(); s.Running || s.Last.Events != 4 || !s.Started.Equal(f.now) {
		t.Errorf("the status is %+v", s)
	}
}

func TestTrialCountsWithoutPurging(t *testing.T) {
	f := newFixture(t, storagetest.Open(t, storage.Config{Server: "here"}), rooms.Retention{})
	roomID := f.room("", 3)
	_, err := f.opts.Rooms.Send(t.Context(), rooms.NewEvent{Room: roomID, Sender: f.alice, Type: "m.room.message", Content: json.RawMessage(`{"url":"mxc://here/a","info":{"thumbnail_url":"mxc://here/b"}}`)})
	f.ok(err)
	for _, m := range []storage.Media{{ID: "a", Size: 10_000}, {ID: "b", Size: 200}, {ID: "c", Size: 4000}} { // c is used by a message that stays
		m.User, m.Blob = f.alice.UserNID, "blob of "+m.ID
		f.ok(f.opts.DB.Write(t.Context(), func(tx *storage.Tx) error { return tx.InsertMedia(m) }))
	}
	_, err = f.opts.Rooms.Send(t.Context(), rooms.NewEvent{Room: roomID, Sender: f.alice, Type: "m.room.message", Content: json.RawMessage(`{"url":"mxc://here/c","also":"mxc://elsewhere/x"}`)})
	f.ok(err)
	eve := f.user("@eve:here") // whose files are under a legal hold
	f.ok(f.opts.DB.Write(t.Context(), func(tx *storage.Tx) error {
		if err := tx.InsertMedia(storage.Media{ID: "d", User: eve.UserNID, Blob: "blob of d", Size: 60_000}); err != nil {
			return err
		}
		_, err := tx.AddLegalHold(storage.LegalHold{User: eve.UserNID, Reason: "case 7"})
		return err
	}))
	_, err = f.opts.Rooms.Send(t.Context(), rooms.NewEvent{Room: roomID, Sender: f.alice, Type: "m.room.message", Content: json.RawMessage(`{"url":"mxc://here/d"}`)})
	f.ok(err)
	f.now = f.now.Add(time.Hour)
	_, err = f.opts.Rooms.Send(t.Context(), rooms.NewEvent{Room: roomID, Sender: f.alice, Type: "m.room.message", Content: json.RawMessage(`{"url":"mxc://here/c"}`)})
	f.ok(err)
	room, err := f.opts.Rooms.Room(t.Context(), roomID)
	f.ok(err)
	minute := time.Minute
	g, err := f.Try(t.Context(), room, expiry.Policy{Max: &minute})
	if f.ok(err); g.Messages != 6 || g.Media != 2 || g.Bytes < 10_200+5*100 || g.Bytes > 14_000 {
		t.Errorf("%+v", g)
	}
	if g, err = f.Try(t.Context(), room, expiry.Policy{}); err != nil || g != (Gone{}) {
		t.Errorf("without a maximum: %+v, %v", g, err)
	}
	f.wantReport(0, 0, "afterwards")
}
