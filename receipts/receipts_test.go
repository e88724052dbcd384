package receipts

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

// reader is a local user in a room who reads it.
type reader struct {
	*testing.T
	db    *storage.DB
	rooms *rooms.Service
	svc   *Service
	ident.Requester
	room id.RoomID
}

func newReader(t *testing.T, db *storage.DB) *reader {
	r := &reader{T: t, db: db}
	r.rooms = r.open()
	r.svc = New(r.rooms, time.Now)
	r.Requester = r.user("alice")
	var err error
	r.room, err = r.rooms.Create(t.Context(), r.Requester, rooms.CreateRoom{Preset: "public_chat"})
	r.ok(err)
	return r
}

// open returns a new rooms.Service on the database, as after a restart.
func (r *reader) open() *rooms.Service {
	r.Helper()
	svc, err := rooms.New(r.Context(), rooms.Options{
		DB: r.db, Server: "here", Hub: wake.New(),
		Signer: pdu.Signer{Server: "here", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))},
	})
	r.ok(err)
	return svc
}

func (r *reader) user(name string) ident.Requester {
	r.Helper()
	user := id.UserID("@" + name + ":here")
	nid, err := r.rooms.UserNID(r.Context(), user)
	r.ok(err)
	return ident.Requester{UserNID: nid, UserID: user}
}

func (r *reader) ok(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// wants fails the test unless err has the code.
func (r *reader) wants(code string, err error) {
	r.Helper()
	if mxerr.Code(err) != code {
		r.Errorf("got %v, want %s", err, code)
	}
}

func (r *reader) send(typ, content string) id.EventID {
	r.Helper()
	e, err := r.rooms.Send(r.Context(), rooms.NewEvent{Room: r.room, Sender: r.Requester, Type: typ, Content: json.RawMessage(content)})
	r.ok(err)
	return e
}

func (r *reader) set(typ string, event id.EventID, thread string) error {
	return r.svc.Set(r.Context(), r.Requester, r.room, Marker{Type: typ, Event: event, Thread: thread})
}

// receipts returns the stored receipts of the reader; names are the events' names.
func (r *reader) receipts(names map[id.EventID]string) string {
	r.Helper()
	var out []string
	room, err := r.rooms.Room(r.Context(), r.room)
	r.ok(err)
	r.ok(r.db.Read(r.Context(), func(tx *storage.Tx) error {
		rows, err := tx.OwnReceipts(room.NID(), r.UserNID, r.db.Settled())
		for _, row := range rows {
			out = append(out, fmt.Sprint(row.Type, "/", row.Thread, "=", names[id.EventID(row.EventID)]))
		}
		return err
	}))
	return strings.Join(out, " ")
}

func (r *reader) last(svc *rooms.Service) (event, receipt storage.Pos) {
	r.Helper()
	room, err := svc.Room(r.Context(), r.room)
	r.ok(err)
	return room.Last(), room.LastReceipt()
}

func TestReceiptsGoForward(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := newReader(t, db)
		one, two := r.send("m.room.message", `{"body":"1"}`), r.send("m.room.message", `{"body":"2"}`)
		reply := r.send("m.room.message", `{"m.relates_to":{"rel_type":"m.thread","event_id":"`+string(one)+`"}}`)
		names := map[id.EventID]string{one: "one", two: "two", reply: "reply"}
		r.wants("M_FORBIDDEN", r.svc.Set(t.Context(), r.user("bob"), r.room, Marker{Type: rooms.ReadReceipt, Event: one}))
		r.wants("M_FORBIDDEN", r.svc.Set(t.Context(), r.Requester, "!unknown:here", Marker{Type: rooms.ReadReceipt, Event: one}))
		r.wants("M_INVALID_PARAM", r.set("m.other", one, ""))
		r.wants("M_NOT_FOUND", r.set(rooms.ReadReceipt, "$none", ""))
		r.wants("M_INVALID_PARAM", r.set(rooms.FullyRead, one, mainThread))
		r.wants("M_INVALID_PARAM", r.set(rooms.ReadReceipt, reply, mainThread))
		r.wants("M_INVALID_PARAM", r.set(rooms.ReadReceipt, two, string(one)))
		r.wants("M_INVALID_PARAM", r.set(rooms.ReadReceipt, two, "$none"))
		r.ok(r.set(rooms.ReadReceipt, two, ""))
		before, _ := r.last(r.rooms)
		r.ok(r.set(rooms.ReadReceipt, one, ""))
		if after, _ := r.last(r.rooms); after != before {
			t.Error("a receipt that does not move is news")
		}
		r.ok(r.set(rooms.PrivateReadReceipt, one, ""))
		r.ok(r.set(rooms.ReadReceipt, one, mainThread))
		r.ok(r.set(rooms.ReadReceipt, one, string(one)))
		r.ok(r.set(rooms.ReadReceipt, reply, string(one)))
		if got, want := r.receipts(names), "m.read/=two m.read.private/=one m.read/main=one m.read/"+string(one)+"=reply"; got != want {
			t.Errorf("receipts %s, want %s", got, want)
		}
		reference := r.send("m.room.message", `{"m.relates_to":{"rel_type":"m.reference","event_id":"`+string(one)+`"}}`)
		reaction := r.send("m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"`+string(reference)+`","key":"x"}}`)
		r.ok(r.set(rooms.PrivateReadReceipt, reaction, string(one)))
		live, liveReceipt := r.last(r.rooms)
		if stored, receipt := r.last(r.open()); stored != live || receipt != liveReceipt {
			t.Errorf("in memory the room ends at %d, %d; after a restart at %d, %d", live, liveReceipt, stored, receipt)
		}
	})
}

func TestFullyReadMovesForwardWithReceipts(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := newReader(t, db)
		one, two := r.send("m.room.message", `{"body":"1"}`), r.send("m.room.message", `{"body":"2"}`)
		r.ok(r.svc.Set(t.Context(), r.Requester, r.room, Marker{Type: rooms.FullyRead, Event: two}, Marker{Type: rooms.PrivateReadReceipt, Event: two}))
		r.ok(r.set(rooms.FullyRead, one, ""))
		room, err := r.rooms.Room(t.Context(), r.room)
		r.ok(err)
		r.ok(db.Read(t.Context(), func(tx *storage.Tx) error {
			if got, _, err := tx.AccountData(r.UserNID, room.NID(), rooms.FullyRead); got != `{"event_id":"`+string(two)+`"}` {
				t.Errorf("fully read up to %s, %v", got, err)
			}
			return nil
		}))
		if got := r.receipts(map[id.EventID]string{two: "two"}); got != "m.read.private/=two" {
			t.Errorf("receipts %s", got)
		}
	})
}
