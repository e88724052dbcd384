package feed_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/feed"
)

func (u *user) ask(b *testing.B, q feed.SyncRequest) json.RawMessage {
	q.Requester, q.SetPresence = u.Requester, "offline"
	raw, err := u.w.feed.Sync(b.Context(), &q)
	if err != nil {
		b.Fatal(err)
	}
	return raw
}

// BenchmarkNothingNew measures a sync without news of a user with 50 rooms, also while other rooms are busy.
func BenchmarkNothingNew(b *testing.B) {
	w := newWorld(b)
	alice, bob := w.user("alice"), w.user("bob")
	for range 50 {
		alice.create("private_chat")
	}
	elsewhere := bob.create("private_chat")
	for _, c := range []struct {
		name string
		busy bool
	}{{"idle", false}, {"busy", true}} {
		b.Run(c.name, func(b *testing.B) {
			alice.sync()
			alice.sync()
			since := alice.since
			if c.busy {
				bob.say(elsewhere, "x")
			}
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				alice.ask(b, feed.SyncRequest{Since: since})
			}
		})
	}
}

const lazy = `{"room":{"timeline":{"limit":20},"state":{"lazy_load_members":true}}}`

// manyRooms makes a user with 500 rooms, each with 50 messages of four people.
func manyRooms(b *testing.B) (*world, *user) {
	w := newWorld(b)
	people := []*user{w.user("alice"), w.user("bob"), w.user("carol"), w.user("dave")}
	for range 500 {
		room := people[0].create("public_chat")
		for _, p := range people[1:] {
			p.join(room)
		}
		for i := range 50 {
			people[i%len(people)].say(room, fmt.Sprint("message ", i))
		}
	}
	return w, people[0]
}

// BenchmarkColdSync measures syncs after a start of the server: first ones, one after a gap in each room, and one with
// a message in each room. The CPU time is that of the process.
func BenchmarkColdSync(b *testing.B) {
	w, alice := manyRooms(b)
	first, bob := alice.sync(), w.user("bob")
	for room := range first.Rooms.Join {
		for range 30 {
			bob.say(room, "more than is in memory")
		}
		alice.say(room, "read")
	}
	second := alice.sync()
	for room := range first.Rooms.Join {
		bob.say(room, "news")
	}
	for _, c := range []struct{ name, filter, since string }{{"lazy", lazy, ""}, {"full", "", ""}, {"gap", "", first.NextBatch}, {"news", "", second.NextBatch}} {
		b.Run(c.name, func(b *testing.B) {
			var used time.Duration
			for range b.N {
				b.StopTimer()
				w.restart()
				before := cpu(b)
				b.StartTimer()
				alice.ask(b, feed.SyncRequest{Filter: c.filter, Since: c.since})
				used += cpu(b) - before
			}
			b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "CPU-ms/op")
		})
	}
}

// cpu returns the CPU time that the process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFirstSync measures a first sync under lazy loading.
func BenchmarkFirstSync(b *testing.B) {
	_, alice := manyRooms(b)
	n := len(alice.ask(b, feed.SyncRequest{Filter: lazy}))
	b.ReportMetric(float64(n)/1e6, "MB")
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		alice.ask(b, feed.SyncRequest{Filter: lazy})
	}
}

// BenchmarkFanOut measures one message sent to 200 waiting clients of /sync.
func BenchmarkFanOut(b *testing.B) {
	fanOut(b, func(u *user) func(ctx context.Context) (messages int, err error) {
		u.filter = lazy
		u.sync()
		u.since = u.sync().NextBatch
		return func(ctx context.Context) (messages int, err error) {
			raw, err := u.w.feed.Sync(ctx, &feed.SyncRequest{Requester: u.Requester, Since: u.since, Filter: u.filter, SetPresence: "offline", Timeout: time.Minute})
			if err == nil {
				u.since = after(raw, `"next_batch":"`)
			}
			return bytes.Count(raw, []byte(`"m.room.message"`)), err
		}
	})
}

// elementXRooms is a request like those of the room list of Element X.
const elementXRooms = `{"conn_id":"room-list","lists":{"all_rooms":{"ranges":[[0,19]],"timeline_limit":20,"required_state":[["m.room.name",""],` +
	`["m.room.encryption",""],["m.room.member","$LAZY"],["m.room.member","$ME"],["m.room.topic",""],["m.room.avatar",""],["m.room.canonical_alias",""],` +
	`["m.room.power_levels",""],["m.room.create",""],["m.room.join_rules",""],["m.room.tombstone",""],["m.room.history_visibility",""]],` +
	`"filters":{"not_room_types":["m.space"]}}},"extensions":{"account_data":{"enabled":true},"receipts":{"enabled":true,"rooms":["*"]},"typing":{"enabled":true}}}`

// BenchmarkSlidingFanOut is like BenchmarkFanOut, for clients of sliding sync.
func BenchmarkSlidingFanOut(b *testing.B) {
	fanOut(b, func(u *user) func(ctx context.Context) (messages int, err error) {
		pos, body := u.sliding(elementXRooms).next().Pos, []byte(elementXRooms)
		return func(ctx context.Context) (messages int, err error) {
			q := feed.SlidingRequest{Requester: u.Requester, Pos: pos, SetPresence: "offline", Timeout: time.Minute}
			if !u.w.feed.RecallSliding(&q, body) {
				if err := json.Unmarshal(body, &q.Body); err != nil {
					return 0, err
				}
			}
			raw, err := u.w.feed.SlidingSync(ctx, &q)
			if err == nil {
				pos = after(raw, `"pos":"`)
			}
			return bytes.Count(raw, []byte(`"m.room.message"`)), err
		}
	})
}

// after returns the rest of a JSON string that begins with mark.
func after(raw []byte, mark string) string {
	_, rest, _ := bytes.Cut(raw, []byte(mark))
	value, _, _ := bytes.Cut(rest, []byte{'"'})
	return string(value)
}

// fanOut measures one message sent to 200 waiting clients. client makes a client of a user that has joined the room; it
// returns a function that waits for messages and returns their number.
func fanOut(b *testing.B, client func(u *user) func(ctx context.Context) (messages int, err error)) {
	w := newWorld(b)
	host := w.user("host")
	room := host.create("public_chat")
	const readers = 200
	var heard, all sync.WaitGroup
	ctx, cancel := context.WithCancel(b.Context())
	users := make([]*user, readers)
	for i := range users {
		users[i] = w.user(fmt.Sprint("u", i))
		users[i].join(room)
	}
	for _, u := range users {
		listen := client(u)
		all.Go(func() {
			for {
				messages, err := listen(ctx)
				if err != nil {
					return
				}
				heard.Add(-messages)
			}
		})
	}
	for w.hub.Parked() < readers {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	before := cpu(b)
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		heard.Add(readers)
		host.say(room, "hello")
		heard.Wait()
	}
	b.StopTimer()
	b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/1000/float64(b.N)/readers, "CPU-µs/client")
	cancel()
	all.Wait()
}

// BenchmarkParked measures the memory of a waiting request, without its connection.
func BenchmarkParked(b *testing.B) {
	w := newWorld(b)
	w.feed = feed.New(feed.Options{DB: w.db, Rooms: w.Service, AccountData: w.data, History: w.history, E2EE: w.e2ee, Hub: w.hub, Now: w.clock, Log: slog.New(slog.DiscardHandler)})
	const readers = 1000
	var users []*user
	host := w.user("host")
	rms := []id.RoomID{}
	for range 10 {
		rms = append(rms, host.create("public_chat"))
	}
	for i := range readers {
		u := w.user(fmt.Sprint("u", i))
		u.join(rms[i%10])
		u.filter = lazy
		users = append(users, u)
	}
	for _, u := range users {
		u.sync()
		u.sync()
	}
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		ctx, cancel := context.WithCancel(b.Context())
		var all sync.WaitGroup
		for _, u := range users {
			all.Go(func() {
				_, _ = w.feed.Sync(ctx, &feed.SyncRequest{Requester: u.Requester, Since: u.since, Filter: u.filter, SetPresence: "offline", Timeout: time.Minute})
			})
		}
		for w.hub.Parked() < readers {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(50 * time.Millisecond)
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse)/readers, "B/client")
		cancel()
		all.Wait()
	}
}
