package guests

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/storage/storagetest"
	"ebb/wake"
)

// office is a server with a Job.
type office struct {
	t   *testing.T
	db  *storage.DB
	svc *rooms.Service
	job *Job
}

func newOffice(t *testing.T, db *storage.DB) *office {
	t.Helper()
	o := &office{t: t, db: db}
	commits := rooms.NewCommits()
	var err error
	o.svc, err = rooms.New(t.Context(), rooms.Options{
		DB: db, Server: "here", Hub: wake.New(), Commits: commits,
		Signer: pdu.Signer{Server: "here", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))},
	})
	if err != nil {
		t.Fatal(err)
	}
	o.job = New(Options{DB: db, Rooms: o.svc, Commits: commits})
	return o
}

// user creates an account and returns its requester.
func (o *office) user(name string, guest bool) ident.Requester {
	o.t.Helper()
	who := ident.Requester{UserID: id.NewUserID(name, "here"), Guest: guest}
	err := o.db.Write(o.t.Context(), func(tx *storage.Tx) (err error) {
		if who.UserNID, err = tx.UserNID(string(who.UserID)); err != nil {
			return err
		}
		_, err = tx.AddAccount(storage.AccountRow{NID: who.UserNID, Localpart: name, Guest: guest}, "")
		return err
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return who
}

// create creates a room that guests may join, and makes members join it.
func (o *office) create(owner ident.Requester, members ...ident.Requester) id.RoomID {
	o.t.Helper()
	room, err := o.svc.Create(o.t.Context(), owner, rooms.CreateRoom{Preset: "public_chat", InitialState: []rooms.InitialState{access("can_join")}})
	if err != nil {
		o.t.Fatal(err)
	}
	for _, m := range members {
		if err := o.svc.Join(o.t.Context(), m, room, ""); err != nil {
			o.t.Fatal(err)
		}
	}
	return room
}

func access(value string) rooms.InitialState {
	return rooms.InitialState{Type: "m.room.guest_access", Content: json.RawMessage(`{"guest_access":"` + value + `"}`)}
}

// close ends the guest access of a room.
func (o *office) close(owner ident.Requester, room id.RoomID) {
	o.t.Helper()
	empty, s := "", access("forbidden")
	if _, err := o.svc.Send(o.t.Context(), rooms.NewEvent{Room: room, Sender: owner, Type: s.Type, StateKey: &empty, Content: s.Content}); err != nil {
		o.t.Fatal(err)
	}
}

func (o *office) membership(room id.RoomID, who ident.Requester) string {
	o.t.Helper()
	r, err := o.svc.Room(o.t.Context(), room)
	if err != nil {
		o.t.Fatal(err)
	}
	return r.Membership(who.UserID)
}

func TestGuestsLeaveWhenTheRoomEndsGuestAccess(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		o := newOffice(t, db)
		owner, user, guest := o.user("owner", false), o.user("user", false), o.user("guest", true)
		room, other := o.create(owner, user, guest), o.create(owner, guest)
		if err := o.job.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := o.membership(room, guest); got != rooms.Join {
			t.Fatalf("where guests may be, the guest is %q", got)
		}
		o.close(owner, room)
		if err := o.job.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := o.membership(room, guest); got != rooms.Leave {
			t.Errorf("the guest is %q", got)
		}
		if got := o.membership(room, user); got != rooms.Join {
			t.Errorf("the user with an account is %q", got)
		}
		if got := o.membership(other, guest); got != rooms.Join {
			t.Errorf("in another room the guest is %q", got)
		}
	})
}

func TestGuestsLeaveAfterARestartThatLostTheChange(t *testing.T) {
	db := storagetest.Open(t, storage.Config{})
	o := newOffice(t, db)
	owner := o.user("owner", false)
	var guests []ident.Requester
	for _, name := range []string{"a", "b", "c"} {
		guests = append(guests, o.user(name, true))
	}
	room := o.create(owner, guests...)
	o.close(owner, room)

	again := newOffice(t, db)
	done := make(chan error, 1)
	ctx := t.Context()
	go func() { done <- again.job.Run(ctx) }()
	t.Cleanup(func() { <-done })
	for _, g := range guests {
		for end := time.Now().Add(10 * time.Second); again.membership(room, g) != rooms.Leave; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s is still in the room", g.UserID)
			}
		}
	}
}

func TestARedactedGuestAccessRemovesGuests(t *testing.T) {
	o := newOffice(t, storagetest.Open(t, storage.Config{}))
	owner, guest := o.user("owner", false), o.user("guest", true)
	room := o.create(owner, guest)
	r, err := o.svc.Room(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.svc.Redact(t.Context(), owner, room, r.State("m.room.guest_access", "").ID(), "", nil); err != nil {
		t.Fatal(err)
	}
	if err := o.job.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := o.membership(room, guest); got != rooms.Leave {
		t.Errorf("the guest is %q", got)
	}
}
