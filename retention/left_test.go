package retention

import (
	"context"
	"errors"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
	"ebb/storage/pace"
	"ebb/storage/storagetest"
)

// account gives a user an account.
func (f *fixture) account(user ident.Requester) {
	f.Helper()
	f.ok(f.opts.DB.Write(f.Context(), func(tx *storage.Tx) error {
		_, err := tx.AddAccount(storage.AccountRow{NID: user.UserNID, Localpart: string(user.UserID[1:])}, "")
		return err
	}))
}

// newLeftFixture returns a fixture for rooms that are removed 10 days after they were left, or one day if forgotten.
func newLeftFixture(t *testing.T, db *storage.DB) *fixture {
	f := newFixture(t, db, rooms.Retention{})
	f.opts.LeftRooms, f.opts.ForgottenRooms = new(10*24*time.Hour), new(24*time.Hour)
	f.account(f.alice)
	return f
}

// known reports whether the server knows a room.
func (f *fixture) known(room id.RoomID) bool {
	f.Helper()
	_, err := f.opts.Rooms.Room(f.Context(), room)
	if err != nil && !errors.Is(err, rooms.ErrNoRoom) {
		f.Fatal(err)
	}
	return err == nil
}

// left creates a room that alice leaves.
func (f *fixture) left(messages int) id.RoomID {
	f.Helper()
	room := f.room("", messages)
	f.ok(f.opts.Rooms.Leave(f.Context(), f.alice, room, ""))
	return room
}

func TestRoomsGoSomeTimeAfterTheLastLocalUserHasLeft(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := newLeftFixture(t, db)
		joined, left, forgotten := f.room("", 3), f.left(3), f.left(3)
		f.ok(f.opts.Rooms.Forget(t.Context(), f.alice, forgotten))
		f.now = f.now.Add(24*time.Hour - time.Second)
		if r := f.all(); r.Removed != 0 || !f.known(forgotten) {
			t.Errorf("less than a day later: %+v", r)
		}
		f.now = f.now.Add(time.Second)
		if r := f.all(); r.Removed != 1 || r.RemovedEvents < 10 || f.known(forgotten) || !f.known(left) {
			t.Errorf("a day later: %+v; the room that was left is known: %v", r, f.known(left))
		}
		f.now = f.now.Add(9 * 24 * time.Hour)
		if r := f.all(); r.Removed != 1 || f.known(left) || !f.known(joined) {
			t.Errorf("ten days later: %+v; the room that nobody has left is known: %v", r, f.known(joined))
		}
		list, err := f.opts.Rooms.Memberships(t.Context(), f.alice.UserNID)
		if f.ok(err); len(list) != 1 {
			t.Errorf("alice's list has %d rooms, want 1", len(list))
		}
		f.ok(db.Read(t.Context(), func(tx *storage.Tx) error {
			rows, err := tx.UserMemberships(f.alice.UserNID)
			if len(rows) != 1 {
				t.Errorf("the database has %d memberships of alice, want 1", len(rows))
			}
			return err
		}))
	})
}

// all purges without waiting for the delay.
func (f *fixture) all() Report {
	f.Helper()
	r, err := f.Purge(f.Context(), true)
	f.ok(err)
	return r
}

func TestRoomsStayWhileSomethingNeedsThem(t *testing.T) {
	for name, c := range map[string]struct {
		need, release func(f *fixture, room id.RoomID, nid ident.RoomNID) error
	}{
		"an invite": {
			func(f *fixture, room id.RoomID, _ ident.RoomNID) error {
				bob := f.user("@bob:here")
				f.account(bob)
				return errors.Join(f.opts.Rooms.Invite(f.Context(), f.alice, room, bob.UserID, ""), f.opts.Rooms.Leave(f.Context(), f.alice, room, ""))
			},
			func(f *fixture, room id.RoomID, _ ident.RoomNID) error {
				return f.opts.Rooms.Leave(f.Context(), f.user("@bob:here"), room, "")
			},
		},
		"a legal hold on the room": {
			func(f *fixture, room id.RoomID, nid ident.RoomNID) error {
				return errors.Join(f.hold(storage.LegalHold{Room: nid}), f.opts.Rooms.Leave(f.Context(), f.alice, room, ""))
			},
			func(f *fixture, _ id.RoomID, _ ident.RoomNID) error { return f.lift() },
		},
		"a legal hold on a former member": {
			func(f *fixture, room id.RoomID, _ ident.RoomNID) error {
				return errors.Join(f.hold(storage.LegalHold{User: f.alice.UserNID}), f.opts.Rooms.Leave(f.Context(), f.alice, room, ""))
			},
			func(f *fixture, _ id.RoomID, _ ident.RoomNID) error { return f.lift() },
		},
		"an event that other servers have not got": {
			func(f *fixture, room id.RoomID, nid ident.RoomNID) error {
				return errors.Join(f.opts.Rooms.Leave(f.Context(), f.alice, room, ""), f.write(func(tx *storage.Tx) error {
					return tx.AddOutbox(storage.OutboxRow{Position: 1 << 40, Room: nid})
				}))
			},
			func(f *fixture, _ id.RoomID, _ ident.RoomNID) error {
				return f.write(func(tx *storage.Tx) error { _, err := tx.PruneOutbox(1 << 41); return err })
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newLeftFixture(t, storagetest.Open(t, storage.Config{}))
			room := f.room("", 2)
			r, err := f.opts.Rooms.Room(t.Context(), room)
			f.ok(err)
			nid := r.NID()
			f.ok(c.need(f, room, nid))
			f.now = f.now.Add(30 * 24 * time.Hour)
			if r := f.all(); r.Removed != 0 || !f.known(room) {
				t.Fatalf("the room is removed: %+v", r)
			}
			f.ok(c.release(f, room, nid))
			f.now = f.now.Add(30 * 24 * time.Hour)
			if r := f.all(); r.Removed != 1 || f.known(room) {
				t.Errorf("afterwards the room stays: %+v", r)
			}
		})
	}
}

func (f *fixture) user(name id.UserID) ident.Requester {
	f.Helper()
	nid, err := f.opts.Rooms.UserNID(f.Context(), name)
	f.ok(err)
	return ident.Requester{UserID: name, UserNID: nid}
}

// hold adds a legal hold, and lift lifts all.
func (f *fixture) hold(h storage.LegalHold) error {
	h.Reason, h.AddedBy, h.AddedTS, h.ReviewTS = "case 7", "admin", 1, 2
	return f.write(func(tx *storage.Tx) error { _, err := tx.AddLegalHold(h); return err })
}

func (f *fixture) lift() error {
	return f.write(func(tx *storage.Tx) error {
		holds, err := tx.StandingHolds()
		for _, h := range holds {
			_, lifted := tx.LiftLegalHold(h.NID, "admin", 3)
			err = errors.Join(err, lifted)
		}
		return err
	})
}

func (f *fixture) write(do func(tx *storage.Tx) error) error {
	return f.opts.DB.Write(f.Context(), do)
}

// A removal that is interrupted goes on in the next run, also after a restart and if it is switched off meanwhile.
// Nobody finds the room in between.
func TestAnInterruptedRemovalIsContinued(t *testing.T) {
	f := newLeftFixture(t, storagetest.Open(t, storage.Config{}))
	room := f.left(50)
	r, err := f.opts.Rooms.Room(t.Context(), room)
	f.ok(err)
	f.now = f.now.Add(11 * 24 * time.Hour)
	removed, err := f.opts.Rooms.RemoveLeft(t.Context(), r.NID())
	if f.ok(err); !removed || f.known(room) {
		t.Fatal("the room is not removed")
	}
	of := storage.RemovedRoom{NID: r.NID(), RoomID: string(room)}
	if _, more, err := f.opts.Rooms.RemoveRows(t.Context(), of, pace.Fixed(5)); err != nil || !more {
		t.Fatalf("one step: %v, %v", more, err)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Purge(stopped, true); err == nil {
		t.Error("a run that was stopped succeeds")
	}
	f.opts.LeftRooms, f.opts.ForgottenRooms = nil, nil
	f.restart()
	if r := f.purged(); r.RemovedEvents < 40 || r.Removed != 0 {
		t.Errorf("the next run: %+v", r)
	}
	if r := f.purged(); r.RemovedEvents != 0 {
		t.Errorf("the run after it: %+v", r)
	}
}

// Otherwise a wrong number in the configuration would cost rooms before anybody notices.
func TestRoomsAreRemovedOnlyOnceTheSettingHasStoodForTheDelay(t *testing.T) {
	f := newLeftFixture(t, storagetest.Open(t, storage.Config{}))
	room := f.left(1)
	for range 12 { // shorter than what counts as a jump of the clock
		f.now = f.now.Add(time.Hour)
		f.purged()
	}
	f.opts.LeftRooms = new(time.Hour)
	f.restart()
	for range 24 {
		if r := f.purged(); r.Removed != 0 || !f.known(room) {
			t.Fatalf("removed too early: %+v", r)
		}
		f.now = f.now.Add(time.Hour)
	}
	if r := f.purged(); r.Removed != 1 || f.known(room) {
		t.Errorf("a day later: %+v", r)
	}
}
