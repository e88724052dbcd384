package export

import (
	"slices"
	"sync"
	"time"

	"ebb/ident"
	"ebb/rooms/expiry"
	"ebb/storage"
)

const (
	// expiryMargin is how long a message must still live to be exported, and at most a quarter of its room's lifetime
	// is required (marginOf). Otherwise an export with one message that expires in a minute would live for a minute.
	expiryMargin = time.Hour
	marginPart   = 4
)

// marginOf returns how long a message must still live to be exported under a policy.
func marginOf(p expiry.Policy) time.Duration {
	if p.Max == nil {
		return 0
	}
	return min(expiryMargin, *p.Max/marginPart)
}

// contents records which events an export contains, and so until when it may be given out.
type contents struct {
	// mu guards the fields below; a leaf lock, which a listener takes for every redaction while there is an export.
	mu     sync.Mutex
	rooms  map[ident.RoomNID]*roomContents
	media  []string  // IDs of uploads
	broken bool      // an event was redacted or purged, so the export must not be given out any more
	end    time.Time // when the first original of a redacted event is not kept any more; zero: there is none
}

// roomContents are the events of a room that an export contains.
type roomContents struct {
	positions []storage.Pos
	sorted    bool
	sent      int64 // ms; the smallest of the times from which max_lifetime counts; 0: only state events
	received  int64 // ms; the smallest of the times from which min_lifetime counts
}

// add records an event before it is written.
func (c *contents) add(room ident.RoomNID, p storage.Pos, isState bool, originTS, receivedTS int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rooms == nil {
		c.rooms = map[ident.RoomNID]*roomContents{}
	}
	in := c.rooms[room]
	if in == nil {
		in = &roomContents{}
		c.rooms[room] = in
	}
	in.positions, in.sorted = append(in.positions, p), false
	if sent := min(originTS, receivedTS); !isState {
		if in.sent == 0 || sent < in.sent {
			in.sent = max(sent, 1)
		}
		if in.received == 0 || receivedTS < in.received {
			in.received = receivedTS
		}
	}
}

// spoil marks the export as broken if it contains one of the given events.
func (c *contents) spoil(room ident.RoomNID, gone []storage.Pos, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.rooms[room]
	if in == nil {
		return
	}
	if !in.sorted {
		slices.Sort(in.positions) // which is quick for positions that are nearly in order
		in.sorted = true
	}
	for _, p := range gone {
		_, found := slices.BinarySearch(in.positions, p)
		all = all || found
	}
	c.broken = c.broken || all
}

// oldest are the times from which the lifetimes of the first messages of a room that expire count, in ms.
type oldest struct {
	room           ident.RoomNID
	sent, received int64
}

// expiry returns when the first of the messages expires under a policy, and false if none does.
func (o oldest) expiry(p expiry.Policy) (at time.Time, found bool) {
	if p.Max == nil {
		return at, false
	}
	at = time.UnixMilli(o.sent).Add(*p.Max)
	if p.Min != nil {
		if kept := time.UnixMilli(o.received).Add(*p.Min); kept.After(at) {
			at = kept
		}
	}
	return at, true
}

// oldest returns the oldest messages of every room.
func (c *contents) oldest() (list []oldest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for room, in := range c.rooms {
		if in.sent != 0 {
			list = append(list, oldest{room: room, sent: in.sent, received: in.received})
		}
	}
	return list
}

// reset forgets everything, so that the archive can be written again.
func (c *contents) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rooms, c.media, c.broken, c.end = nil, nil, false, time.Time{}
}

// endBy records that the export must not be given out at a time and later.
func (c *contents) endBy(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end.IsZero() || at.Before(c.end) {
		c.end = at
	}
}

// ends returns the first time that was given to endBy, or zero.
func (c *contents) ends() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end
}

func (c *contents) isBroken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

func (c *contents) addMedia(mediaID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.media = append(c.media, mediaID)
}

func (c *contents) uploads() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.media // which is only extended
}
