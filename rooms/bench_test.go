package rooms

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/txns"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// BenchmarkSend sends messages to one room from 16 senders, with and without a slow disk. It reports the CPU time of
// the whole process per message.
func BenchmarkSend(b *testing.B) {
	for _, delay := range []time.Duration{0, 5 * time.Millisecond} {
		b.Run(fmt.Sprint("commit+", delay), func(b *testing.B) {
			h := newHouse(b, storagetest.Open(b, storage.Config{CommitDelay: delay}))
			alice := h.user("alice")
			benchmarkSend(b, h, alice, h.public(alice))
		})
	}
}

// BenchmarkSendToManyMembers is BenchmarkSend in a room with 50,000 local members.
func BenchmarkSendToManyMembers(b *testing.B) {
	h := newHouse(b, storagetest.Open(b, storage.Config{}))
	alice := h.user("alice")
	room := h.public(alice)
	h.crowd(room, 50_000)
	start := time.Now()
	h.room(room)
	b.Logf("loading the room took %v", time.Since(start))
	benchmarkSend(b, h, alice, room)
}

// BenchmarkJoinManyMembers measures joins to a room with 50,000 members.
func BenchmarkJoinManyMembers(b *testing.B) {
	h := newHouse(b, storagetest.Open(b, storage.Config{}))
	alice := h.user("alice")
	room := h.public(alice)
	h.crowd(room, 50_000)
	users := make([]ident.Requester, b.N)
	for i := range users {
		users[i] = h.user(fmt.Sprint("new", i))
	}
	b.ResetTimer()
	for _, u := range users {
		if err := h.svc.Join(b.Context(), u, room, ""); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkSend(b *testing.B, h *house, sender ident.Requester, room id.RoomID) {
	const senders = 16
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	cpu := cpuTime()
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for {
				n := left.Add(-1)
				if n < 0 {
					return
				}
				_, err := h.svc.Send(b.Context(), NewEvent{
					Room: room, Sender: ident.Requester{UserNID: sender.UserNID, UserID: sender.UserID, DeviceNID: ident.DeviceNID(s + 1)}, Type: "m.room.message",
					Content: json.RawMessage(`{"msgtype":"m.text","body":"a message of usual length, as people write them"}`),
					Txn:     &txns.Txn{Path: "/_matrix/client/v3/rooms/x/send/m.room.message", ID: fmt.Sprint("m", n)},
				})
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sends/s")
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// crowd adds n members to a room without sending a join for each: their member events are copies of one event.
func (h *house) crowd(room id.RoomID, n int) {
	h.Helper()
	r := h.room(room)
	sample := h.user("sample")
	h.ok(h.svc.Join(h.Context(), sample, room, ""))
	e := must(h.svc.memberEvent(r, r.MemberOf(sample.UserID)))
	h.ok(h.db.Write(h.Context(), func(tx *storage.Tx) error {
		for i := range n {
			user := fmt.Sprintf("@member%d:here", i)
			nid, err := tx.UserNID(user)
			if err != nil {
				return err
			}
			row := e.Row()
			row.Position, row.EventID, row.StateKey, row.Sender = tx.NextPos(), fmt.Sprintf("$copy%d", i), user, nid
			row.Order = -ident.Order(row.Position)
			if err := tx.InsertEvent(&row); err != nil {
				return err
			}
			if err := tx.SetCurrentState(r.nid, typeMember, user, row.Position, 0); err != nil {
				return err
			}
			if err := tx.SetMembership(storage.MemberRow{User: nid, Room: r.nid, Membership: Join, Position: row.Position}); err != nil {
				return err
			}
		}
		return nil
	}))
	h.svc = h.open()
}
