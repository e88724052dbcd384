package storage_test

import (
	"errors"
	"slices"
	"testing"

	"ebb/storage"
	"ebb/storage/storagetest"
)

func TestOutboxKeepsWhatOtherServersAreToGet(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		var member, message, nid storage.Pos
		ok(t, db.Write(ctx, func(tx *storage.Tx) error {
			member, message, nid = tx.NextPos(), tx.NextPos(), tx.NextPos()
			e := storage.EventRow{Position: member, Room: 7, EventID: "$member", Type: "m.room.member", StateKey: "@bob:b", IsState: true, JSON: []byte("{}")}
			m := storage.EventRow{Position: message, Room: 7, EventID: "$message", Type: "m.room.message", JSON: []byte("{}")}
			return errors.Join(tx.InsertEvent(&e), tx.InsertEvent(&m),
				tx.AddOutbox(storage.OutboxRow{Position: member, Room: 7}), tx.AddOutbox(storage.OutboxRow{Position: message, Room: 7}),
				tx.AddOutbox(storage.OutboxRow{Position: nid, Room: 7})) // its event was purged
		}))
		ok(t, db.Read(ctx, func(tx *storage.Tx) error {
			rows, err := tx.Outbox(0, 10)
			if want := []storage.OutboxRow{{Position: member, Room: 7, About: "@bob:b"}, {Position: message, Room: 7}}; !slices.Equal(rows, want) {
				t.Errorf("the outbox is %v, want %v", rows, want)
			}
			return err
		}))
		ok(t, db.Write(ctx, func(tx *storage.Tx) error {
			n, err := tx.PruneOutbox(member)
			if n != 1 {
				t.Errorf("%d rows pruned", n)
			}
			return err
		}))
		ok(t, db.Read(ctx, func(tx *storage.Tx) error {
			rows, err := tx.Outbox(0, 10)
			if len(rows) != 1 || rows[0].Position != message {
				t.Errorf("after the pruning the outbox is %v", rows)
			}
			return err
		}))
	})
}

func TestDestinationsAndWhatWaitsForThem(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		last := storage.Destination{Server: "a", Delivered: 9, Failures: 2, FailingSince: 3, RetryTS: 4, ReachedTS: 5}
		var edus []int64
		ok(t, db.Write(ctx, func(tx *storage.Tx) error {
			for i := range 5 {
				n, err := tx.AddEDU("a", 0, []byte{'0' + byte(i)})
				if err != nil {
					return err
				}
				edus = append(edus, n)
			}
			_, err := tx.AddEDU("b", 0, []byte("x"))
			return errors.Join(err, tx.PutDestination(storage.Destination{Server: "a", Delivered: 1}), tx.PutDestination(last),
				tx.AddDestinationRoom("a", 7), tx.AddDestinationRoom("a", 7), tx.AddDestinationRoom("a", 8), tx.DeleteDestinationRoom("a", 8),
				tx.TrimEDUs("a", 4), tx.DeleteEDUs(edus[1:2]))
		}))
		ok(t, db.Read(ctx, func(tx *storage.Tx) error {
			d, err1 := tx.Destinations()
			rooms, err2 := tx.DestinationRooms()
			backlogs, err3 := tx.EDUBacklogs()
			left, err4 := tx.EDUs("a", 2)
			if !slices.Equal(d, []storage.Destination{last}) {
				t.Errorf("the destinations are %v", d)
			}
			if !slices.Equal(rooms, []storage.DestinationRoom{{Server: "a", Room: 7}}) {
				t.Errorf("the rooms are %v", rooms)
			}
			if !slices.Equal(backlogs, []storage.EDUBacklog{{Server: "a", Count: 3}, {Server: "b", Count: 1}}) {
				t.Errorf("the backlogs are %v", backlogs)
			}
			if len(left) != 2 || string(left[0].JSON) != "2" || string(left[1].JSON) != "3" || left[0].NID != edus[2] {
				t.Errorf("the oldest are %v", left)
			}
			return errors.Join(err1, err2, err3, err4)
		}))
	})
}

func TestMembersSinceListsMembersAndThoseWhoLeft(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ok(t, db.Write(ctx, func(tx *storage.Tx) error {
			for i, m := range []string{"join", "leave", "ban", "invite"} {
				nid, err := tx.UserNID("@" + m + ":b")
				if err != nil {
					return err
				}
				if err := tx.SetMembership(storage.MemberRow{User: nid, Room: 7, Membership: m, Position: storage.Pos(100 + i)}); err != nil {
					return err
				}
			}
			return nil
		}))
		for after, want := range map[storage.Pos][]string{0: {"@ban:b", "@join:b", "@leave:b"}, 101: {"@ban:b", "@join:b"}, 200: {"@join:b"}} {
			ok(t, db.Read(ctx, func(tx *storage.Tx) error {
				stays, err := tx.MembersSince(7, after)
				var users []string
				for _, s := range stays {
					users = append(users, s.User)
					if s.Membership == "join" && s.JoinedPos != 100 {
						t.Errorf("joined since %d", s.JoinedPos)
					}
				}
				if slices.Sort(users); !slices.Equal(users, want) {
					t.Errorf("after %d: %v, want %v", after, users, want)
				}
				return err
			}))
		}
	})
}
