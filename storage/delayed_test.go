package storage_test

import (
	"testing"

	"ebb/ident"
	"ebb/storage"
)

func TestDelayedEventsFromScheduleToPrune(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		alice := got[ident.UserNID](t)(tx.UserNID("@alice:test"))
		ok(t, tx.InsertRoom(&storage.RoomRow{NID: 1, RoomID: "!1", Version: "12"}))
		const now = int64(1_900_000_000_000)
		key := "key"
		add := func(delayID string, stateKey *string, send int64) {
			ok(t, tx.AddDelayedEvent(&storage.DelayedEvent{
				DelayID: delayID, User: alice, Room: 1, Type: "t", StateKey: stateKey, Content: `{"x":1}`, Delay: 5_000, ScheduledTS: now, SendTS: send,
			}))
		}
		add("late", nil, now+9_000)
		add("state", &key, now+5_000)
		add("first", nil, now+1_000)
		order := func(list []storage.DelayedEvent, err error) (out string) {
			for _, d := range got[[]storage.DelayedEvent](t)(list, err) {
				out += d.DelayID + " "
			}
			return out
		}
		if due := order(tx.DueEvents(now+5_000, 10)); due != "first state " {
			t.Errorf("due are %s", due)
		}
		if next := got[int64](t)(tx.NextDue()); next != now+1_000 {
			t.Errorf("the next one is due at %d", next)
		}
		if !got[bool](t)(tx.RescheduleEvent("first", now+2_000)) || got[bool](t)(tx.RescheduleEvent("nosuch", now)) {
			t.Error("restarts")
		}
		d, _, err := tx.DelayedEvent("first")
		ok(t, err)
		if d.SendTS != now+7_000 || d.ScheduledTS != now+2_000 || d.RoomID != "!1" || d.UserID != "@alice:test" || d.StateKey != nil || d.Deactivated {
			t.Errorf("after a restart: %+v", d)
		}
		if got[bool](t)(tx.FinaliseEvent("first", now, "$1", "", now+1_000)) {
			t.Error("an event is finalised for a time that it is not scheduled for any more")
		}
		if !got[bool](t)(tx.FinaliseEvent("first", now+7_000, "$1", "", now+7_000)) || !got[bool](t)(tx.FinaliseEvent("state", now+8_000, "", `{}`, 0)) {
			t.Error("an event is not finalised")
		}
		if d, _, err = tx.DelayedEvent("state"); err != nil || d.Content != "" || d.Error != `{}` || d.StateKey == nil || *d.StateKey != key {
			t.Errorf("after it failed: %+v, %v", d, err)
		}
		if count, first, err := tx.ScheduledCount(alice); err != nil || count != 1 || first != now+9_000 {
			t.Errorf("%d are scheduled, the first for %d, %v", count, first, err)
		}
		if list := order(tx.ScheduledEvents(alice, 10)) + order(tx.FinalisedEvents(alice, 10)); list != "late state first " {
			t.Errorf("scheduled and finalised: %s", list)
		}
		ok(t, tx.PostponeEvent("late", now+9_000, now+20_000), tx.PostponeEvent("late", now+9_000, now+30_000), tx.TrimFinalisedEvents(alice, 1))
		if next := got[int64](t)(tx.NextDue()); next != now+20_000 {
			t.Errorf("after it was put off it is due at %d", next)
		}
		if list := order(tx.FinalisedEvents(alice, 10)); list != "state " {
			t.Errorf("kept are %s", list)
		}
		if n := got[int64](t)(tx.PruneDelayedEvents(now+8_001, 10)); n != 1 {
			t.Errorf("%d rows are pruned", n)
		}
		ok(t, tx.DeleteDelayedEvents(alice))
		if next := got[int64](t)(tx.NextDue()); next != 0 {
			t.Errorf("after all are deleted: %d", next)
		}
		return nil
	})
}
