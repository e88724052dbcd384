package feed_test

import (
	"encoding/json"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/feed"
)

// slid is an answer of sliding sync as clients read it.
type slid struct {
	raw   string
	Pos   string `json:"pos"`
	TxnID string `json:"txn_id"`
	Lists map[string]struct {
		Count int `json:"count"`
	} `json:"lists"`
	Rooms      map[id.RoomID]slidRoom `json:"rooms"`
	Extensions struct {
		ToDevice *struct {
			NextBatch string `json:"next_batch"`
			Events    []ev   `json:"events"`
		} `json:"to_device"`
		E2EE *struct {
			Lists struct {
				Changed []id.UserID `json:"changed"`
				Left    []id.UserID `json:"left"`
			} `json:"device_lists"`
			Counts   map[string]int `json:"device_one_time_keys_count"`
			Fallback []string       `json:"device_unused_fallback_key_types"`
		} `json:"e2ee"`
		AccountData struct {
			Global []ev               `json:"global"`
			Rooms  map[id.RoomID][]ev `json:"rooms"`
		} `json:"account_data"`
		Receipts struct {
			Rooms map[id.RoomID]ev `json:"rooms"`
		} `json:"receipts"`
		Typing struct {
			Rooms map[id.RoomID]ev `json:"rooms"`
		} `json:"typing"`
	} `json:"extensions"`
}

type slidRoom struct {
	Name       *string `json:"name"`
	Avatar     *string `json:"avatar"`
	Initial    bool    `json:"initial"`
	IsDM       *bool   `json:"is_dm"`
	Membership string  `json:"membership"`
	Lists      []string
	Heroes     []struct {
		User   id.UserID `json:"user_id"`
		Name   string    `json:"displayname"`
		Avatar string    `json:"avatar_url"`
	}
	Joined      *int   `json:"joined_count"`
	Invited     *int   `json:"invited_count"`
	Notify      *int   `json:"notification_count"`
	Highlight   *int   `json:"highlight_count"`
	BumpStamp   int64  `json:"bump_stamp"`
	NumLive     int    `json:"num_live"`
	PrevBatch   string `json:"prev_batch"`
	Limited     bool   `json:"limited"`
	Expanded    bool   `json:"unstable_expanded_timeline"`
	ExpandedV4  bool   `json:"expanded_timeline"`
	Timeline    []ev   `json:"timeline"`
	State       []ev   `json:"required_state"`
	InviteState []ev   `json:"invite_state"`
	Stripped    []ev   `json:"stripped_state"`
}

// sliding is a client of sliding sync.
type sliding struct {
	*user
	pos    string
	merged bool
	body   string // without pos
}

func (u *user) sliding(body string) *sliding { return &sliding{user: u, body: body} }

func (c *sliding) try(pos string, timeout time.Duration) (slid, error) {
	q := feed.SlidingRequest{Requester: c.Requester, Merged: c.merged, Pos: pos, Timeout: timeout}
	if !c.w.feed.RecallSliding(&q, []byte(c.body)) {
		if err := json.Unmarshal([]byte(c.body), &q.Body); err != nil {
			c.w.t.Fatal(err)
		}
	}
	if c.merged {
		q.Pos, q.Body.Pos, q.Body.Timeout = "", pos, timeout.Milliseconds()
	}
	raw, err := c.w.feed.SlidingSync(c.w.t.Context(), &q)
	if err != nil {
		return slid{}, err
	}
	a := slid{raw: string(raw)}
	if err := json.Unmarshal(raw, &a); err != nil {
		c.w.t.Fatalf("%v: %s", err, raw)
	}
	return a, nil
}

// next asks for what is new, and goes on from there.
func (c *sliding) next() slid {
	c.w.t.Helper()
	a := c.again()
	c.pos = a.Pos
	return a
}

// again asks for what is new, as if the answer then got lost.
func (c *sliding) again() slid {
	c.w.t.Helper()
	a, err := c.try(c.pos, 0)
	c.must(err)
	return a
}

const allRooms = `{"lists":{"all":{"ranges":[[0,99]],"timeline_limit":10,"required_state":[["m.room.name",""],["m.room.member","$LAZY"],["m.room.member","$ME"]]}}}`

func TestSlidingFirstAnswerHasTheRoomAndTheNextOnlyWhatIsNew(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	room := alice.create("public_chat")
	alice.send(room, "m.room.name", `{"name":"Ebb"}`, "")
	alice.say(room, "one")
	c := alice.sliding(allRooms)
	a := c.next()
	r := a.Rooms[room]
	if !r.Initial || r.Name == nil || *r.Name != "Ebb" || a.Lists["all"].Count != 1 || *r.Joined != 1 {
		t.Errorf("first: %s", a.raw)
	}
	t.Log(a.raw)
	if a := c.next(); len(a.Rooms) != 0 || a.Lists["all"].Count != 1 {
		t.Errorf("nothing happened, but: %s", a.raw)
	}
	alice.say(room, "two")
	a = c.next()
	t.Log(a.raw)
	if r := a.Rooms[room]; r.Initial || len(r.Timeline) != 1 || r.NumLive != 1 || r.Limited || len(r.State) != 0 {
		t.Errorf("second: %s", a.raw)
	}
	t.Log(c.next().raw)
}

// slidingPoll is a long poll in progress.
type slidingPoll struct {
	c    *sliding
	done chan struct{}
	raw  slid
	err  error
}

// park starts a long poll and returns once it is parked.
func (c *sliding) park() *slidingPoll {
	c.w.t.Helper()
	p := &slidingPoll{c: c, done: make(chan struct{})}
	before := c.w.hub.Parked()
	go func() {
		defer close(p.done)
		p.raw, p.err = c.try(c.pos, 30*time.Second)
	}()
	for c.w.hub.Parked() == before {
		select {
		case <-p.done:
			return p
		case <-time.After(time.Millisecond):
		}
	}
	return p
}

// wait returns the answer of a long poll that should end now.
func (p *slidingPoll) wait() slid {
	p.c.w.t.Helper()
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.c.w.t.Fatal("the long poll was not woken")
	}
	p.c.must(p.err)
	p.c.pos = p.raw.Pos
	return p.raw
}
