package feed_test

import (
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/feed"
	"ebb/mxerr"
)

// peek starts waiting for new events of a room, and returns a function that waits for the result.
func (u *user) peek(room id.RoomID, from string) func() (feed.Peeked, error) {
	var p feed.Peeked
	var err error
	done := make(chan struct{})
	before := u.w.hub.Parked()
	go func() {
		defer close(done)
		p, err = u.w.feed.Peek(u.w.t.Context(), feed.PeekRequest{Requester: u.Requester, Room: room, From: from, Timeout: 30 * time.Second})
	}()
	for u.w.hub.Parked() == before {
		select {
		case <-done:
			return func() (feed.Peeked, error) { return p, err }
		case <-time.After(time.Millisecond):
		}
	}
	return func() (feed.Peeked, error) {
		<-done
		return p, err
	}
}

func TestPeekerHearsOfNewEventsUntilTheRoomCloses(t *testing.T) {
	w := newWorld(t)
	alice, eve := w.user("alice"), w.user("eve")
	room, other := alice.create("public_chat"), alice.create("public_chat")
	alice.send(room, "m.room.history_visibility", `{"history_visibility":"world_readable"}`, "")
	wait := eve.peek(room, "")
	alice.say(other, "elsewhere")
	alice.say(room, "one")
	p, err := wait()
	if err != nil || len(p.Chunk) != 1 || !strings.Contains(string(p.Chunk[0]), `"body":"one"`) {
		t.Fatalf("%s, %v; want one message", p.Chunk, err)
	}
	wait = eve.peek(room, p.End)
	w.pass(31 * time.Second)
	if p, err = wait(); err != nil || len(p.Chunk) != 0 {
		t.Fatalf("%s, %v after the timeout; want nothing", p.Chunk, err)
	}
	wait = eve.peek(room, p.End)
	alice.send(room, "m.room.history_visibility", `{"history_visibility":"joined"}`, "")
	if p, err = wait(); mxerr.Code(err) != mxerr.CodeForbidden {
		t.Fatalf("%s, %v after the room closed; want to be sent away", p.Chunk, err)
	}
	if n := w.hub.Parked(); n != 0 {
		t.Errorf("%d readers left over", n)
	}
}
