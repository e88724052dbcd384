package accountdata

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/storage/storagetest"
	"ebb/wake"
)

// start returns a service with a user and a room.
func start(t *testing.T, db *storage.DB) (*Service, ident.UserNID, id.RoomID) {
	t.Helper()
	commits := rooms.NewCommits()
	r, err := rooms.New(t.Context(), rooms.Options{
		DB: db, Server: "here", Hub: wake.New(), Commits: commits,
		Signer: pdu.Signer{Server: "here", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))},
	})
	if err != nil {
		t.Fatal(err)
	}
	svc := New(Options{DB: db, Rooms: r, Commits: commits})
	nid, err := r.UserNID(t.Context(), "@alice:here")
	if err != nil {
		t.Fatal(err)
	}
	room, err := r.Create(t.Context(), ident.Requester{UserNID: nid, UserID: "@alice:here"}, rooms.CreateRoom{})
	if err != nil {
		t.Fatal(err)
	}
	return svc, nid, room
}

func TestAccountDataAndTags(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := t.Context()
		s, alice, room := start(t, db)
		wants := func(code string, err error) {
			t.Helper()
			if mxerr.Code(err) != code || code == "" && err != nil {
				t.Errorf("got %v, want %q", err, code)
			}
		}
		is := func(room id.RoomID, typ, want string) {
			t.Helper()
			if got, err := s.Get(ctx, alice, room, typ); err != nil || string(got) != want {
				t.Errorf("%s is %s, %v; want %s", typ, got, err, want)
			}
		}
		for _, r := range []id.RoomID{"", room} {
			_, err := s.Get(ctx, alice, r, "x.y")
			wants("M_NOT_FOUND", err)
			wants("", s.Set(ctx, alice, r, "x.y", json.RawMessage(`{"in":"`+string(r)+`"}`)))
			is(r, "x.y", `{"in":"`+string(r)+`"}`)
			for _, typ := range []string{rooms.FullyRead, typePushRules} {
				wants("M_BAD_JSON", s.Set(ctx, alice, r, typ, json.RawMessage(`{}`)))
			}
		}
		wants("M_BAD_JSON", s.Set(ctx, alice, "", "x", json.RawMessage(`[]`)))
		wants("M_INVALID_PARAM", s.Set(ctx, alice, "", strings.Repeat("x", 256), json.RawMessage(`{}`)))
		wants("M_TOO_LARGE", s.Set(ctx, alice, "", "x", json.RawMessage(`{"x":"`+strings.Repeat("x", maxContent)+`"}`)))
		wants("M_INVALID_PARAM", s.Set(ctx, alice, "nonsense", "x", json.RawMessage(`{}`)))
		if tags, err := s.Tags(ctx, alice, room); err != nil || tags == nil || len(tags) != 0 {
			t.Errorf("tags %v, %v", tags, err)
		}
		wants("", s.PutTag(ctx, alice, room, "m.favourite", json.RawMessage(`{"order":0.25}`)))
		wants("", s.PutTag(ctx, alice, room, "u.x", json.RawMessage(`{}`)))
		wants("M_BAD_JSON", s.PutTag(ctx, alice, room, "u.x", json.RawMessage(`{"order":"first"}`)))
		wants("M_INVALID_PARAM", s.PutTag(ctx, alice, room, "u.x", json.RawMessage(`{"order":2}`)))
		wants("M_INVALID_PARAM", s.PutTag(ctx, alice, room, "", json.RawMessage(`{}`)))
		wants("", s.DeleteTag(ctx, alice, room, "u.x"))
		wants("", s.DeleteTag(ctx, alice, room, "u.none"))
		is(room, typeTags, `{"tags":{"m.favourite":{"order":0.25}}}`)
	})
}

func TestIgnoredUsersAreReadAgainAfterAChange(t *testing.T) {
	s, alice, _ := start(t, storagetest.Open(t, storage.Config{}))
	for _, c := range []struct {
		content string
		want    int
	}{
		{`{"ignored_users":{"@bob:here":{},"@alice:here":{}}}`, 1}, // nobody ignores themselves
		{`{"ignored_users":{"@bob:here":{},"@eve:there":{}}}`, 2},
		{`{"ignored_users":["@bob:here"]}`, 0},
		{`{}`, 0},
	} {
		if err := s.Set(t.Context(), alice, "", typeIgnoredUsers, json.RawMessage(c.content)); err != nil {
			t.Fatal(err)
		}
		for range 2 { // from the database, then from memory
			if list, err := s.Ignores(t.Context(), nil, alice); err != nil || len(list) != c.want {
				t.Errorf("%s: %d users are ignored, want %d; %v", c.content, len(list), c.want, err)
			}
		}
	}
}
