package feed_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/feed"
	"ebb/history"
	"ebb/ident"
	"ebb/rooms"
)

// follower syncs in a loop and collects the messages of a room, filling gaps by /messages as clients do.
type follower struct {
	*user
	room id.RoomID
	seen []string
}

func (f *follower) run(ctx context.Context, want int) error {
	for len(f.seen) < want {
		raw, err := f.w.feed.Sync(ctx, &feed.SyncRequest{Requester: f.Requester, Since: f.since, Filter: f.filter, SetPresence: "offline", Timeout: 30 * time.Second})
		if err != nil {
			return fmt.Errorf("%d of %d messages seen: %w", len(f.seen), want, err)
		}
		var a answer
		if err := json.Unmarshal(raw, &a); err != nil {
			return err
		}
		j := a.Rooms.Join[f.room]
		if j.Timeline.Limited {
			page, err := f.w.history.Messages(ctx, f.room, ident.Requester{UserNID: f.UserNID, UserID: f.UserID}, history.PageRequest{
				From: j.Timeline.PrevBatch, To: f.since, Backwards: true, Limit: 1000,
			})
			if err != nil {
				return err
			}
			slices.Reverse(page.Chunk)
			for _, raw := range page.Chunk {
				var e ev
				if err := json.Unmarshal(raw, &e); err != nil {
					return err
				}
				f.note(e)
			}
		}
		for _, e := range j.Timeline.Events {
			f.note(e)
		}
		f.since = a.NextBatch
	}
	return nil
}

func (f *follower) note(e ev) {
	if e.Type == "m.room.message" {
		f.seen = append(f.seen, e.String())
	}
}

func TestEveryReaderSeesEveryEventOnceAndInOrder(t *testing.T) {
	w := newWorld(t)
	const writers, readers, each = 6, 6, 50
	host := w.user("host")
	room := host.create("public_chat")
	var authors []*user
	for i := range writers {
		u := w.user(fmt.Sprint("writer", i))
		u.join(room)
		authors = append(authors, u)
	}
	var followers []*follower
	for i := range readers {
		f := &follower{user: w.user(fmt.Sprint("reader", i)), room: room}
		f.join(room)
		f.filter = fmt.Sprintf(`{"room":{"timeline":{"limit":%d}}}`, []int{1, 3, 100}[i%3])
		f.sync()
		followers = append(followers, f)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, f := range followers {
		wg.Go(func() {
			if err := f.run(ctx, writers*each); err != nil {
				t.Error(f.UserID, err)
			}
		})
	}
	for _, u := range authors {
		wg.Go(func() {
			for i := range each {
				body := fmt.Sprintf(`{"msgtype":"m.text","body":"%s/%d"}`, u.UserID.Localpart(), i)
				_, err := w.Send(ctx, rooms.NewEvent{Room: room, Sender: u.Requester, Type: "m.room.message", Content: json.RawMessage(body)})
				if err != nil {
					t.Error(u.UserID, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, f := range followers[1:] {
		same(t, string(f.UserID)+" against "+string(followers[0].UserID), f.seen, followers[0].seen)
	}
	sorted := slices.Sorted(slices.Values(followers[0].seen))
	if n := len(slices.Compact(sorted)); n != writers*each || len(followers[0].seen) != n {
		t.Errorf("%d messages, %d of them different; want %d", len(followers[0].seen), n, writers*each)
	}
}

func TestJoinsAndLeavesAmidTrafficAreEachToldAndNothingIsDoubled(t *testing.T) {
	w := newWorld(t)
	host, guest := w.user("host"), w.user("guest")
	room := host.create("public_chat")
	guest.sync()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	const turns = 20
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range turns * 10 {
			if _, err := w.Send(ctx, rooms.NewEvent{Room: room, Sender: host.Requester, Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"body":"%d"}`, i))}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	wg.Go(func() {
		for range turns {
			if err := w.Join(ctx, guest.Requester, room, ""); err != nil {
				t.Error(err)
			}
			if err := w.Leave(ctx, guest.Requester, room, ""); err != nil {
				t.Error(err)
			}
		}
		if err := w.Join(ctx, guest.Requester, room, ""); err != nil {
			t.Error(err)
		}
	})
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	in, last := false, ""
	for ended := false; ; {
		a := guest.sync()
		if _, both := a.Rooms.Leave[room]; both && len(a.Rooms.Join) > 0 {
			t.Fatalf("left and joined at once: %s", a.raw)
		}
		if _, left := a.Rooms.Leave[room]; left {
			in = false
		}
		if j, joined := a.Rooms.Join[room]; joined {
			in = true
			if n := j.Timeline.of("m.room.message"); len(n) > 0 {
				last = n[len(n)-1]
			}
		}
		if ended {
			break
		}
		select {
		case <-done:
			ended = true
		default:
		}
	}
	if !in {
		t.Error("the last join was not told")
	}
	if want := fmt.Sprint(turns*10 - 1); last != want {
		t.Logf("the last message seen is %s", last)
		if a := guest.syncFrom(""); !slices.Contains(a.Rooms.Join[room].Timeline.of("m.room.message"), want) {
			t.Errorf("the last message is %s: %s", want, a.raw)
		}
	}
}

func TestMessagesThatArriveDuringARequestAreNotSkipped(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	alice.sync()
	const total = 3000
	var want, got []string
	for i := range total {
		want = append(want, fmt.Sprint(i))
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for _, n := range want {
			w.toDevice(alice, fmt.Sprintf(`{"type":%q}`, n))
		}
	}()
	for last := false; !last; {
		select {
		case <-sent:
			last = true
		default:
		}
		for more := true; more; { // an answer has a bounded number of messages
			types := alice.sync().ToDevice.types()
			got, more = append(got, types...), last && len(types) > 0
		}
	}
	same(t, "messages to the device", got, want)
}

// A reader of a room must not lock it a second time: it would deadlock with a writer that waits for the lock in
// between.
func TestReadersWhoWereAwayAndWritersDoNotStopEachOther(t *testing.T) {
	w := newWorld(t)
	host, reader := w.user("host"), w.user("reader")
	room := host.create("public_chat")
	reader.join(room)
	for i := range 40 {
		w.user(fmt.Sprint("member", i)).join(room)
	}
	reader.filter = lazy
	reader.sync()
	for i := range 200 { // more than memory keeps
		host.say(room, fmt.Sprint(i))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for range 200 {
					if _, err := w.feed.Sync(t.Context(), &feed.SyncRequest{Requester: reader.Requester, Since: reader.since, Filter: lazy, SetPresence: "offline"}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for writer := range 4 {
			all.Go(func() {
				for i := range 200 {
					body := json.RawMessage(fmt.Sprintf(`{"body":"%d/%d"}`, writer, i))
					if _, err := w.Send(t.Context(), rooms.NewEvent{Room: room, Sender: host.Requester, Type: "m.room.message", Content: body}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
	}()
	select {
	case <-done:
	case <-time.After(60 * time.Second):
		t.Fatal("readers and writers wait for each other")
	}
}
