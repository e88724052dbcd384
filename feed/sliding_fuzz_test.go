package feed_test

import (
	"encoding/json"
	"errors"
	"testing"

	"ebb/feed"
	"ebb/mxerr"
)

// FuzzSlidingRequest sends bodies of both forms, each without and with the pos of a connection. The answer must be
// JSON, and an error one that is the client's.
func FuzzSlidingRequest(f *testing.F) {
	w := newWorld(f)
	alice := w.user("alice")
	room := alice.create("public_chat")
	alice.say(room, "hi")
	first := alice.sliding(allRooms).next()
	for _, body := range []string{
		allRooms, `{}`, `{"pos":"` + first.Pos + `"}`, subscribed(room, 3, `[["*","*"]]`), subscribed(room, 3, `{"include":[{}],"exclude":[{"type":"m.room.create"}],"lazy_members":true}`),
		`{"lists":{"a":{"ranges":[[0,0],[1,9007199254740991]],"filters":{"is_dm":true,"spaces":["!x"],"tags":[],"room_types":[null]}}}}`,
		`{"extensions":{"to_device":{"enabled":true,"since":"5","limit":-1},"e2ee":{"enabled":true},"typing":{"enabled":true,"lists":["*"],"rooms":[]},"receipts":{"enabled":true},"account_data":{"enabled":true}}}`,
		`{"lists":null,"room_subscriptions":null,"extensions":null,"timeout":-5}`, `{"lists":{"a":null},"room_subscriptions":{"":null}}`,
	} {
		f.Add(body, first.Pos)
	}
	f.Fuzz(func(t *testing.T, body, pos string) {
		for _, merged := range []bool{false, true} {
			q := feed.SlidingRequest{Requester: alice.Requester, Merged: merged, Pos: pos}
			if json.Unmarshal([]byte(body), &q.Body) != nil {
				return // the handler has refused it
			}
			q.Body.Timeout = 0
			raw, err := w.feed.SlidingSync(t.Context(), &q)
			var own *mxerr.Error
			switch {
			case errors.As(err, &own) && own.Status < 500:
			case err != nil:
				t.Errorf("%s: %v", body, err)
			case !json.Valid(raw):
				t.Errorf("%s: %s", body, raw)
			}
		}
	})
}

// FuzzSlidingState reads stored states, which must be refused or be what is written again.
func FuzzSlidingState(f *testing.F) {
	for _, state := range feed.SlidingStates() {
		f.Add(state)
	}
	f.Fuzz(func(t *testing.T, data []byte) { feed.ReencodeSliding(t, data) })
}
