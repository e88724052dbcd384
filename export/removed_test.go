package export

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebb/audit"
	"ebb/ident"
	"ebb/rooms"
	"ebb/secrets"
	"ebb/storage"
)

// removing is Files that removes a room from the server while a file is exported, after the messages of the room were.
type removing struct{ remove func() }

func (r removing) OpenUpload(context.Context, string) (io.ReadCloser, error) {
	r.remove()
	return io.NopCloser(strings.NewReader("a file")), nil
}

// leave lets alice leave the room of the fixture, after some messages.
func (f *fixture) leave(messages int) {
	f.t.Helper()
	alice := ident.Requester{UserNID: f.alice, UserID: aliceID}
	room, err := f.rooms.RoomByNID(f.t.Context(), f.room)
	for i := range messages {
		if err == nil {
			_, err = f.rooms.Send(f.t.Context(), rooms.NewEvent{Room: room.ID(), Sender: alice, Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"body":"gone-%d"}`, i))})
		}
	}
	if err == nil {
		err = f.rooms.Leave(f.t.Context(), alice, room.ID(), "")
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// remove removes the room, unless that was done before.
func (f *fixture) remove() {
	f.t.Helper()
	if _, err := f.rooms.RemoveLeft(f.t.Context(), f.room); err != nil {
		f.t.Error(err)
	}
}

func TestTheFileOfARoomEndsWhenTheRoomIsRemoved(t *testing.T) {
	f := newFixture(t)
	f.leave(page + 10)
	b := &builder{s: &Service{opts: Options{DB: f.db, Rooms: f.rooms, Now: time.Now}}, ctx: t.Context(), e: &export{user: aliceID}, user: f.alice, leftOut: map[storage.Pos]bool{}}
	p := &pages{b: b, room: f.room, read: b.sent}
	first, err := p.page()
	if err != nil || len(first) != page {
		t.Fatalf("%d events, %v", len(first), err)
	}
	f.remove()
	if next, err := p.page(); err != nil || len(next) != 0 || !p.end {
		t.Errorf("after the room was removed: %d events, %v", len(next), err)
	}
}

func TestAnExportDuringWhichARoomIsRemovedIsBuiltWithoutIt(t *testing.T) {
	f := newFixture(t)
	f.leave(20)
	f.start()
	f.number = 100_000
	f.fill("accounts")
	f.fill("media")
	ring, err := secrets.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{
		Dir: filepath.Join(t.TempDir(), "exports"), Server: "here", DB: f.db, Rooms: f.rooms, Commits: f.commits, Files: removing{f.remove},
		Audit: audit.New(audit.Options{DB: f.db, Server: "here", Secrets: ring, Now: time.Now}),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	owner := Owner{User: f.alice}
	status, err := s.Start(t.Context(), owner, aliceID, false)
	for deadline := time.Now().Add(time.Minute); err == nil && status.State == Building && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		status = s.Status(owner)
	}
	if err != nil || status.State != Ready {
		t.Fatalf("%+v, %v", status, err)
	}
	s.mu.Lock()
	in := s.exports[owner].contents.rooms
	s.mu.Unlock()
	if in[f.room] != nil {
		t.Error("the export has events of the room that was removed")
	}
}
