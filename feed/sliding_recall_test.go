package feed_test

import (
	"strings"
	"testing"

	"ebb/feed"
	"ebb/mxerr"
)

// recalled asks without decoding the body, which the service must recall.
func (c *sliding) recalled() string {
	c.w.t.Helper()
	q := feed.SlidingRequest{Requester: c.Requester, Pos: c.pos}
	if !c.w.feed.RecallSliding(&q, []byte(c.body)) {
		c.w.t.Fatal("the body is not recalled")
	}
	raw, err := c.w.feed.SlidingSync(c.w.t.Context(), &q)
	c.must(err)
	return string(raw)
}

func TestRepeatedSlidingBodyNeedNotBeDecoded(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	c := alice.sliding(`{"conn_id":"a","txn_id":"t",` + allRooms[1:len(allRooms)-1] + `,"extensions":{"typing":{"enabled":true},"to_device":{"enabled":true}}}`)
	c.next()
	for _, text := range []string{"one", "two"} {
		alice.say(room, text)
		if raw := c.recalled(); !strings.Contains(raw, `"body":"`+text+`"`) || !strings.Contains(raw, `"txn_id":"t"`) || !strings.Contains(raw, `"to_device":`) {
			t.Errorf("after %q: %s", text, raw)
		}
		c.next()
	}
	if raw := c.recalled(); !strings.Contains(raw, `"rooms":{}`) || !strings.Contains(raw, `"txn_id":"t"`) {
		t.Errorf("with nothing new: %s", raw)
	}
}

func TestOnlyTheSameSlidingBodyOfTheSameConnectionIsRecalled(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	c := alice.sliding(allRooms)
	c.next()
	for name, q := range map[string]feed.SlidingRequest{
		"without pos": {Requester: alice.Requester}, "merged": {Requester: alice.Requester, Pos: c.pos, Merged: true}, "bad pos": {Requester: alice.Requester, Pos: "s1_x"},
	} {
		if w.feed.RecallSliding(&q, []byte(c.body)) {
			t.Errorf("%s: recalled", name)
		}
	}
	// One that differs takes effect, and then the first one again.
	for _, body := range []string{strings.Replace(allRooms, `"timeline_limit":10`, `"timeline_limit":0`, 1), allRooms} {
		q := feed.SlidingRequest{Requester: alice.Requester, Pos: c.pos}
		if w.feed.RecallSliding(&q, []byte(body)) {
			t.Errorf("recalled: %s", body)
		}
		c.body = body
		alice.say(room, "news")
		if a := c.next(); strings.Contains(a.raw, "news") != (body == allRooms) {
			t.Errorf("for %s: %s", body, a.raw)
		}
	}
	// An invalid one is refused, and does not replace the last one.
	valid := c.body
	for _, body := range []string{`{"extensions":{"to_device":{"enabled":true,"since":"x"}}}`, `{"lists":{"a":{"ranges":[[5,1]]}}}`} {
		c.body = body
		if _, err := c.try(c.pos, 0); mxerr.Code(err) != mxerr.CodeInvalidParam {
			t.Errorf("%s: %v", body, err)
		}
	}
	c.body = valid
	c.recalled()
}

func TestRecalledSlidingBodyOfSomebodyElseIsOfNoUse(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.user("alice"), w.user("bob")
	alice.create("private_chat")
	c := alice.sliding(allRooms)
	c.next()
	q := feed.SlidingRequest{Requester: bob.Requester, Pos: c.pos}
	w.feed.RecallSliding(&q, []byte(c.body))
	_, err := w.feed.SlidingSync(t.Context(), &q)
	if mxerr.Code(err) != mxerr.CodeUnknownPos {
		t.Errorf("got %v, want M_UNKNOWN_POS", err)
	}
}
