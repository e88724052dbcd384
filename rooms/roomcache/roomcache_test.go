package roomcache_test

import (
	"fmt"
	"slices"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/roomcache"
)

type room struct {
	size, used int64
	kept       bool
	retired    bool
}

func entry() roomcache.Entry[room] {
	return roomcache.Entry[room]{
		Size: func(r *room) int64 { return r.size }, Used: func(r *room) int64 { return r.used },
		Retire: func(r *room) bool { r.retired = !r.kept; return r.retired },
	}
}

func roomID(n int) id.RoomID { return id.RoomID(fmt.Sprint("!", n, ":x")) }

func TestARoomIsAddedOnce(t *testing.T) {
	c := roomcache.New(1000, entry())
	first, second := &room{size: 10}, &room{size: 10}
	if c.Add("!a:x", 1, first) != first || c.Add("!a:x", 1, second) != first {
		t.Error("the room that was added first is not the one that stays")
	}
	if n, bytes := c.Size(); n != 1 || bytes != 10 {
		t.Errorf("%d rooms of %d bytes", n, bytes)
	}
	found, missing := c.List([]ident.RoomNID{2, 1, 3})
	if c.ByID("!a:x") != first || c.ByNID(1) != first || c.ByID("!b:x") != nil || c.ByNID(2) != nil ||
		!slices.Equal(found, []*room{nil, first, nil}) || !slices.Equal(missing, []ident.RoomNID{2, 3}) {
		t.Errorf("found %v, missing %v", found, missing)
	}
}

func TestRoomsAreEvictedUntilATenthOfTheBudgetIsFree(t *testing.T) {
	c := roomcache.New(1000, entry())
	rooms := make([]*room, 11)
	for i := range rooms {
		rooms[i] = &room{size: 100, used: int64(i)}
		c.Add(roomID(i), ident.RoomNID(i+1), rooms[i])
	}
	n, bytes := c.Size()
	if n != 9 || bytes != 900 {
		t.Errorf("%d rooms of %d bytes", n, bytes)
	}
	for i, r := range rooms {
		if in := c.ByNID(ident.RoomNID(i+1)) == r; in == r.retired || in != (c.ByID(roomID(i)) == r) {
			t.Errorf("room %d: cached %v, retired %v", i, in, r.retired)
		}
	}
	if rooms[10].retired {
		t.Error("the room that was added last is evicted")
	}
}

func TestARoomInUseIsKept(t *testing.T) {
	c := roomcache.New(100, entry())
	busy := &room{size: 90, kept: true}
	c.Add("!busy:x", 1, busy)
	c.Add("!b:x", 2, &room{size: 90, used: 1})
	if c.ByNID(1) != busy || c.ByNID(2) == nil {
		t.Error("a room in use is evicted")
	}
	busy.kept = false
	c.Add("!c:x", 3, &room{size: 90, used: 2})
	if n, bytes := c.Size(); n != 1 || bytes != 90 || c.ByNID(3) == nil {
		t.Errorf("%d rooms of %d bytes are left", n, bytes)
	}
}

func TestASingleRoomMayBeLargerThanTheBudget(t *testing.T) {
	c := roomcache.New(100, entry())
	large := &room{size: 5000}
	if c.Add("!a:x", 1, large) != large || large.retired || c.ByID("!a:x") != large {
		t.Error("the only room is evicted")
	}
}

// Rooms grow while they are in use, which the budget must notice although no room is added.
func TestRoomsThatGrowAreMeasuredAgain(t *testing.T) {
	c := roomcache.New(1600, entry())
	rooms := []*room{{size: 1, used: 1}, {size: 1, used: 2}}
	for i, r := range rooms {
		c.Add(roomID(i), ident.RoomNID(i+1), r)
	}
	rooms[0].size = 99
	c.Grew(99)
	c.Trim()
	if n, bytes := c.Size(); n != 2 || bytes != 2 {
		t.Errorf("after little growth there are %d rooms of %d bytes as measured, want the sizes at the start", n, bytes)
	}
	rooms[0].size = 1600
	c.Grew(1501)
	c.Trim()
	if n, bytes := c.Size(); n != 1 || bytes != 1 || !rooms[0].retired || rooms[1].retired {
		t.Errorf("%d rooms of %d bytes are left, want only the small one", n, bytes)
	}
	rooms[1].size = 1599
	c.Grew(1598)
	c.Trim()
	if n, bytes := c.Size(); n != 1 || bytes != 1599 || rooms[1].retired {
		t.Errorf("%d rooms of %d bytes are left, want the one that is within the budget", n, bytes)
	}
}
