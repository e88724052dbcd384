package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/rooms"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// directory returns the names of the rooms in the directory, reading pages from the token in q on. between is called
// after each page.
func (h *house) directory(q PublicRoomsQuery, between func(page PublicRooms)) (names []string) {
	h.Helper()
	for range 20 {
		page, err := h.svc.PublicRooms(h.Context(), q)
		h.ok(err)
		for _, r := range page.Chunk {
			names = append(names, r.Name)
		}
		if q.Since = page.NextBatch; q.Since == "" {
			return names
		}
		between(page)
	}
	h.Fatal("the directory has no end")
	return nil
}

// listed creates published rooms. Each has a letter as its name, and as many additional members as the digit after the
// letter says.
func (h *house) listed(names string) {
	h.Helper()
	owner := h.user("owner")
	for name := range strings.FieldsSeq(names) {
		room := h.create(owner, rooms.CreateRoom{Preset: "public_chat", Visibility: "public", Name: name[:1]})
		for i := range int(name[1] - '0') {
			h.ok(h.rooms.Join(h.Context(), h.user(fmt.Sprint("guest", i)), room, ""))
		}
	}
}

func (h *house) publish(name string, on bool) {
	h.Helper()
	owner := h.user("owner")
	list, err := h.rooms.JoinedRooms(h.Context(), owner.UserNID)
	h.ok(err)
	for _, roomID := range list {
		r, err := h.rooms.Room(h.Context(), id.RoomID(roomID))
		h.ok(err)
		if e := r.State("m.room.name", ""); e != nil && e.ContentString("name") == name {
			h.ok(h.svc.SetPublished(h.Context(), owner, r.ID(), on))
			return
		}
	}
	h.Fatalf("there is no room %s", name)
}

func TestRoomsThatAreListedBetweenPagesHideNoOthers(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newHouse(t, db)
		h.listed("a1 b3 c0 d2 e1 f0 g0 h4")
		h.publish("h", false)
		q := PublicRoomsQuery{Limit: 2}
		if got := strings.Join(h.directory(q, func(PublicRooms) {}), ""); got != "bdaecfg" {
			t.Errorf("the directory is %s", got)
		}
		first := true
		got := strings.Join(h.directory(q, func(PublicRooms) {
			if first {
				h.publish("h", true)  // before the first page
				h.publish("d", false) // where the first page ended
				h.publish("c", false) // on a later page
			}
			first = false
		}), "")
		if got != "bdaefg" {
			t.Errorf("while rooms come and go the directory is %s", got)
		}
	})
}

func TestDirectoryPagesCanBeReadBackwards(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	h.listed("a1 b3 c0 d2 e1 f0 g0")
	var pages []string
	var last PublicRooms
	names := func(p PublicRooms) (text string) {
		for _, r := range p.Chunk {
			text += r.Name
		}
		return text
	}
	read := func(since string) PublicRooms {
		page, err := h.svc.PublicRooms(h.Context(), PublicRoomsQuery{Limit: 3, Since: since})
		h.ok(err)
		if page.Total != 7 {
			t.Errorf("%d rooms in total", page.Total)
		}
		return page
	}
	last = read("")
	for pages = append(pages, names(last)); last.NextBatch != ""; pages = append(pages, names(last)) {
		last = read(last.NextBatch)
	}
	if !slices.Equal(pages, []string{"bda", "ecf", "g"}) {
		t.Fatalf("forwards: %v", pages)
	}
	back := []string{}
	for last.PrevBatch != "" {
		last = read(last.PrevBatch)
		back = append(back, names(last))
	}
	if !slices.Equal(back, []string{"ecf", "bda"}) || last.NextBatch == "" || names(read(last.NextBatch)) != "ecf" {
		t.Errorf("backwards: %v, and then %+v", back, last)
	}
}

func TestAPageBeyondTheEndOfTheDirectoryLeadsBack(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	h.listed("a1 b0 c0")
	page, err := h.svc.PublicRooms(h.Context(), PublicRoomsQuery{Limit: 2})
	h.ok(err)
	h.publish("c", false)
	empty, err := h.svc.PublicRooms(h.Context(), PublicRoomsQuery{Limit: 2, Since: page.NextBatch})
	if err != nil || len(empty.Chunk) != 0 || empty.Chunk == nil || empty.NextBatch != "" {
		t.Fatalf("%+v, %v", empty, err)
	}
	again, err := h.svc.PublicRooms(h.Context(), PublicRoomsQuery{Limit: 2, Since: empty.PrevBatch})
	if err != nil || len(again.Chunk) != 2 || again.Chunk[1].Name != "b" {
		t.Errorf("back again: %+v, %v", again, err)
	}
}

func TestTheDirectoryIsReadInBatches(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	owner, guest := h.user("owner"), h.user("guest")
	for i := range 2*directoryBatch + 1 {
		room := h.create(owner, rooms.CreateRoom{Preset: "public_chat", Visibility: "public", Name: fmt.Sprint(i)})
		if i%50 == 0 {
			h.ok(h.rooms.Join(h.Context(), guest, room, ""))
		}
	}
	got := h.directory(PublicRoomsQuery{Limit: 90}, func(PublicRooms) {})
	if len(got) != 2*directoryBatch+1 || !slices.Equal(got[:6], []string{"0", "50", "100", "150", "200", "1"}) || got[200] != "199" {
		t.Errorf("%d rooms: %v", len(got), got)
	}
}

// Anybody can read the directory, again and again. The rooms of a large one do not fit into memory.
func TestTheDirectoryDoesNotLoadItsRoomsForEachRequest(t *testing.T) {
	var statements atomic.Int64
	db := storagetest.Open(t, storage.Config{OnStatement: func(context.Context, string) { statements.Add(1) }})
	h := newHouse(t, db)
	h.listed("a0 b1 c2 d0 e0")
	listing := func() (names []string, joined []int, took int64) {
		h.svc.rooms = h.open(db, rooms.NewCommits()) // no room is in memory
		before := statements.Load()
		page, err := h.svc.PublicRooms(h.Context(), PublicRoomsQuery{Stranger: true})
		h.ok(err)
		for _, r := range page.Chunk {
			names, joined = append(names, r.Name), append(joined, r.JoinedMembers)
		}
		return names, joined, statements.Load() - before
	}
	if _, _, took := listing(); took < 5 {
		t.Errorf("at first it takes %d statements, so the rooms were in memory", took)
	}
	names, joined, took := listing()
	if took != 1 || !slices.Equal(names, []string{"c", "b", "a", "d", "e"}) {
		t.Errorf("the rooms %v took %d statements, want one that lists their numbers", names, took)
	}
	first, err := h.svc.PublicRooms(h.Context(), PublicRoomsQuery{Limit: 1})
	h.ok(err)
	owner := h.user("owner")
	empty := ""
	_, err = h.rooms.Send(h.Context(), rooms.NewEvent{Room: first.Chunk[0].RoomID, Sender: owner, Type: "m.room.name", StateKey: &empty, Content: json.RawMessage(`{"name":"z"}`)})
	h.ok(err)
	h.ok(h.rooms.Join(h.Context(), h.user("another"), first.Chunk[0].RoomID, ""))
	if names, now, _ := listing(); names[0] != "z" || now[0] != joined[0]+1 {
		t.Errorf("after a new name and a join the rooms are %v with %v members", names, now)
	}
}

func TestStrangersReadTheDirectoryOneAfterTheOther(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	h.listed("a0")
	h.svc.strangers <- struct{}{} // one is reading
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		query PublicRoomsQuery
		waits bool
	}{{PublicRoomsQuery{}, false}, {PublicRoomsQuery{Stranger: true}, true}, {PublicRoomsQuery{Federated: true}, true}} {
		ctx := ctx
		if !c.waits {
			ctx = t.Context()
		}
		if _, err := h.svc.PublicRooms(ctx, c.query); errors.Is(err, context.Canceled) != c.waits {
			t.Errorf("%+v: %v", c.query, err)
		}
	}
}

func TestWrongTokensOfTheDirectoryAreRefused(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	for _, since := range []string{"x", "n", "p", "d100", "n1", "n.1", "n1.", "x1.1", "n1.1.1", "p1,1", "n99999999999999999999.1"} {
		_, err := h.svc.PublicRooms(h.Context(), PublicRoomsQuery{Since: since})
		h.refused(err, "M_INVALID_PARAM")
	}
}
