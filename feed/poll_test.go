package feed_test

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"testing"
	"time"

	"ebb/feed"
)

// beginPoll begins a long poll from the user's last token that has no news yet.
func (u *user) beginPoll() *feed.Poll {
	u.w.t.Helper()
	p, err := u.w.feed.PollSync(u.w.t.Context(), &feed.SyncRequest{Requester: u.Requester, Since: u.since, SetPresence: "offline", Timeout: 30 * time.Second})
	u.must(err)
	u.w.t.Cleanup(p.Close)
	if answer, err := p.Answer(u.w.t.Context()); answer != nil || err != nil {
		u.w.t.Fatalf("%s %v, want nothing", answer, err)
	}
	return p
}

func TestPollNotifiesOfNewsOnce(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	room := alice.create("public_chat")
	alice.sync()
	var calls atomic.Int64
	p := alice.beginPoll()
	p.Notify(func() { calls.Add(1) })
	bob.create("public_chat")
	if calls.Load() != 0 {
		t.Fatal("it was notified of news of somebody else")
	}
	alice.say(room, "one")
	alice.say(room, "two")
	if calls.Load() != 1 {
		t.Fatalf("it was notified %d times of two messages", calls.Load())
	}
	p.Notify(func() { calls.Add(1) }) // nobody has looked for the second one yet
	if calls.Load() != 2 {
		t.Fatal("it was not notified of news from before")
	}
	answer, err := p.Answer(t.Context())
	if err != nil || len(alice.read(answer.(json.RawMessage)).Rooms.Join[room].Timeline.Events) != 2 {
		t.Fatalf("%s %v", answer, err)
	}
}

func TestPollNotifiesOfItsTimeout(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	alice.sync()
	var calls atomic.Int64
	p := alice.beginPoll()
	p.Notify(func() { calls.Add(1) })
	w.pass(29 * time.Second)
	if calls.Load() != 0 {
		t.Fatal("it was notified too early")
	}
	w.pass(time.Second)
	answer, err := p.Answer(t.Context())
	if calls.Load() != 1 || err != nil || answer == nil {
		t.Fatalf("%d %s %v, want an answer without news", calls.Load(), answer, err)
	}
}

func TestClosedPollIsNotNotified(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	alice.sync()
	before := w.hub.Parked()
	p, err := w.feed.PollSync(t.Context(), &feed.SyncRequest{Requester: alice.Requester, Since: alice.since, SetPresence: "offline", Timeout: 30 * time.Second})
	alice.must(err)
	p.Notify(func() { t.Error("it was notified") })
	p.Close()
	w.hub.Users(alice.UserNID)
	w.pass(time.Minute)
	if w.hub.Parked() != before {
		t.Error("it is still registered for news")
	}
}

func TestWakeUpsOfAWaitingPollCountAsOne(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	alice.sync()
	p := alice.beginPoll()
	w.hub.Users(alice.UserNID)
	w.hub.Users(alice.UserNID)
	if woken, err := p.Wait(t.Context(), time.Hour); !woken || err != nil {
		t.Fatal(woken, err)
	}
	if woken, err := p.Wait(t.Context(), time.Millisecond); woken || err != nil {
		t.Fatal("it was woken twice", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Wait(ctx, 0); err == nil {
		t.Error("it waits for a client that is gone")
	}
}
