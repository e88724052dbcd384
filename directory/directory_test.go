package directory

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/storage/storagetest"
	"ebb/wake"
)

// house is a server with a room directory, in a real database.
type house struct {
	testing.TB
	rooms *rooms.Service
	svc   *Service
}

func newHouse(t testing.TB, db *storage.DB) *house {
	h := &house{TB: t}
	now := func() time.Time { return time.UnixMilli(1_750_000_000_000) }
	commits := rooms.NewCommits()
	h.rooms = h.open(db, commits)
	h.svc = New(Options{DB: db, Server: "here", Rooms: h.rooms, Commits: commits, Now: now})
	return h
}

// open returns a service with no room in memory.
func (h *house) open(db *storage.DB, commits *rooms.Commits) *rooms.Service {
	h.Helper()
	s, err := rooms.New(h.Context(), rooms.Options{
		DB: db, Server: "here", Hub: wake.New(), Commits: commits, Now: func() time.Time { return time.UnixMilli(1_750_000_000_000) },
		Signer: pdu.Signer{Server: "here", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))},
	})
	h.ok(err)
	return s
}

func (h *house) ok(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// refused fails the test unless err has this error code.
func (h *house) refused(err error, code string) {
	h.Helper()
	if mxerr.Code(err) != code {
		h.Fatalf("got %v, want %s", err, code)
	}
}

func (h *house) user(name string) ident.Requester {
	h.Helper()
	user := id.UserID("@" + name + ":here")
	nid, err := h.rooms.UserNID(h.Context(), user)
	h.ok(err)
	return ident.Requester{UserNID: nid, UserID: user}
}

func (h *house) create(s ident.Requester, req rooms.CreateRoom) id.RoomID {
	h.Helper()
	room, err := h.rooms.Create(h.Context(), s, req)
	h.ok(err)
	return room
}

// public creates a public room and makes the members join it.
func (h *house) public(s ident.Requester, members ...ident.Requester) id.RoomID {
	h.Helper()
	room := h.create(s, rooms.CreateRoom{Preset: "public_chat"})
	for _, m := range members {
		h.ok(h.rooms.Join(h.Context(), m, room, ""))
	}
	return room
}

// setAlias sends the room's m.room.canonical_alias.
func (h *house) setAlias(s ident.Requester, room id.RoomID, content string) error {
	h.Helper()
	key := ""
	_, err := h.rooms.Send(h.Context(), rooms.NewEvent{Room: room, Sender: s, Type: typeCanonicalAlias, StateKey: &key, Content: json.RawMessage(content)})
	return err
}

func TestDirectoryPages(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	alice, bob, carol := h.user("alice"), h.user("bob"), h.user("carol")
	for i := range 5 {
		room := h.create(alice, rooms.CreateRoom{Visibility: "public", Name: fmt.Sprint("Room ", i), Topic: "All about TEA"})
		for _, s := range []ident.Requester{bob, carol}[:i/2] {
			h.ok(h.rooms.Join(h.Context(), s, room, ""))
		}
	}
	h.create(alice, rooms.CreateRoom{Name: "hidden tea"})
	space := h.create(alice, rooms.CreateRoom{Name: "space", CreationContent: json.RawMessage(`{"type":"m.space"}`)})
	h.refused(h.svc.SetPublished(h.Context(), bob, space, true), "M_FORBIDDEN")
	h.ok(h.svc.SetPublished(h.Context(), alice, space, true))
	if on, err := h.svc.IsPublished(h.Context(), space); err != nil || !on {
		t.Error("the space is not listed")
	}
	var names []string
	since, last := "", 100
	for {
		page, err := h.svc.PublicRooms(h.Context(), PublicRoomsQuery{Limit: 4, Since: since})
		h.ok(err)
		for _, r := range page.Chunk {
			names = append(names, r.Name)
			if r.JoinedMembers > last {
				t.Error("not sorted by members")
			}
			last = r.JoinedMembers
		}
		if page.Total != 6 || (page.PrevBatch == "") != (since == "") {
			t.Errorf("page %+v", page)
		}
		if since = page.NextBatch; since == "" {
			break
		}
	}
	if len(names) != 6 {
		t.Errorf("listed %v", names)
	}
	found, err := h.svc.PublicRooms(h.Context(), PublicRoomsQuery{Search: "tea"})
	if err != nil || len(found.Chunk) != 5 {
		t.Errorf("found %+v, %v", found, err)
	}
	typ := "m.space"
	for _, c := range []struct {
		types []*string
		want  int
	}{{[]*string{&typ}, 1}, {[]*string{nil}, 5}, {[]*string{nil, &typ}, 6}} {
		if page, err := h.svc.PublicRooms(h.Context(), PublicRoomsQuery{Types: c.types}); err != nil || len(page.Chunk) != c.want {
			t.Errorf("%d rooms of types %v, want %d", len(page.Chunk), c.types, c.want)
		}
	}
	_, err = h.svc.PublicRooms(h.Context(), PublicRoomsQuery{Since: "x1"})
	h.refused(err, "M_INVALID_PARAM")
	h.ok(h.svc.SetPublished(h.Context(), alice, space, false))
	if on, err := h.svc.IsPublished(h.Context(), space); err != nil || on {
		t.Error("the space is still listed")
	}
}

func TestAliases(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newHouse(t, db)
		ctx, s := h.Context(), h.svc
		alice, bob, eve := h.user("alice"), h.user("bob"), h.user("eve")
		room, other := h.public(alice, bob), h.public(bob)
		for _, bad := range []string{"", "x", "#:here", "#a", "#a b:here", "#a:elsewhere", "#a\x00:here", "#" + strings.Repeat("a", 255) + ":here"} {
			h.refused(s.CreateAlias(ctx, alice, id.RoomAlias(bad), room), "M_INVALID_PARAM")
		}
		h.refused(s.CreateAlias(ctx, eve, "#a:here", room), "M_FORBIDDEN")
		h.refused(s.CreateAlias(ctx, alice, "#a:here", "!none:here"), "M_NOT_FOUND")
		h.ok(s.CreateAlias(ctx, bob, "#老虎:here", room))
		h.ok(s.CreateAlias(ctx, bob, "#a:here", room))
		h.refused(s.CreateAlias(ctx, bob, "#a:here", other), "M_UNKNOWN")
		h.ok(s.CreateAlias(ctx, bob, "#b:here", other))
		h.refused(s.DeleteAlias(ctx, eve, "#a:here"), "M_FORBIDDEN")
		h.refused(s.DeleteAlias(ctx, alice, "#none:here"), "M_NOT_FOUND")
		if _, err := s.LocalAliases(ctx, eve, room); mxerr.Code(err) != "M_FORBIDDEN" {
			h.Errorf("a stranger reads the aliases: %v", err)
		}
		if got, err := s.LocalAliases(ctx, alice, room); err != nil || len(got) != 2 {
			h.Errorf("aliases %v: %v", got, err)
		}
		for content, code := range map[string]string{
			`{"alias":"#none:here"}`: "M_BAD_ALIAS", `{"alias":"nonsense"}`: "M_INVALID_PARAM", `{"alias":"#b:here"}`: "M_BAD_ALIAS", `{"alias":"#none:here","ALIAS":"#a:here"}`: "M_BAD_ALIAS", `{"alias":7}`: "M_BAD_JSON",
			`{"alt_aliases":["#none:here"]}`: "M_BAD_ALIAS", `{"alt_aliases":["x"]}`: "M_INVALID_PARAM", `{"alias":"#a:here","alt_aliases":["#b:here"]}`: "M_BAD_ALIAS",
		} {
			h.refused(h.setAlias(alice, room, content), code)
		}
		h.ok(h.setAlias(alice, room, `{"alias":"#a:here","alt_aliases":["#a:here","#老虎:here"]}`))
		h.ok(s.DeleteAlias(ctx, bob, "#a:here"))
		h.ok(h.setAlias(alice, room, `{"alias":"#a:here"}`)) // the alias was already in the event
		h.ok(s.CreateAlias(ctx, bob, "#a:here", room))
		h.ok(h.setAlias(alice, room, `{"alias":"#a:here","alt_aliases":["#a:here","#老虎:here"]}`))
		h.ok(s.DeleteAlias(ctx, alice, "#a:here"))
		r, err := h.rooms.Room(ctx, room)
		h.ok(err)
		if got := r.State(typeCanonicalAlias, "").Content(); string(got) != `{"alt_aliases":["#老虎:here"]}` {
			h.Errorf("after the alias is gone m.room.canonical_alias is %s", got)
		}
		if _, _, err := s.ResolveAlias(ctx, "#a:here"); mxerr.Code(err) != "M_NOT_FOUND" {
			h.Errorf("a deleted alias leads somewhere: %v", err)
		}
		if got, _, err := s.ResolveRoom(ctx, "#老虎:here"); err != nil || got != room {
			h.Errorf("the alias leads to %s", got)
		}
		_, _, err = s.ResolveRoom(ctx, "room")
		h.refused(err, "M_INVALID_PARAM")
	})
}
