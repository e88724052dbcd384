package redactions

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
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

// step is how many related events each step examines in these tests.
const step = 10

// house is a server with a Service.
type house struct {
	t          *testing.T
	db         *storage.DB
	rooms      *rooms.Service
	redactions *Service
	alice, bob ident.Requester // alice has created the room
	room       id.RoomID
	target     id.EventID // by bob
	clock      time.Time
}

func newHouse(t *testing.T, db *storage.DB) *house {
	t.Helper()
	h := &house{t: t, db: db, clock: time.UnixMilli(1_800_000_000_000)}
	h.start()
	h.alice, h.bob = h.user("alice"), h.user("bob")
	var err error
	if h.room, err = h.rooms.Create(t.Context(), h.alice, rooms.CreateRoom{Preset: "public_chat"}); err != nil {
		t.Fatal(err)
	}
	h.ok(h.rooms.Join(t.Context(), h.bob, h.room, ""))
	h.target = h.send(h.bob, "m.room.message", `{"msgtype":"m.text","body":"target"}`)
	return h
}

// start opens the services on the database, as a restart does.
func (h *house) start() {
	h.t.Helper()
	var err error
	h.rooms, err = rooms.New(h.t.Context(), rooms.Options{
		DB: h.db, Server: "here", Hub: wake.New(), Commits: rooms.NewCommits(),
		Now:    func() time.Time { return h.clock },
		Signer: pdu.Signer{Server: "here", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))},
	})
	h.ok(err)
	h.redactions = New(Options{DB: h.db, Rooms: h.rooms, Step: step, Now: func() time.Time { return h.clock }})
}

func (h *house) ok(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) user(name string) ident.Requester {
	h.t.Helper()
	who := ident.Requester{UserID: id.NewUserID(name, "here")}
	h.ok(h.db.Write(h.t.Context(), func(tx *storage.Tx) (err error) {
		if who.UserNID, err = tx.UserNID(string(who.UserID)); err != nil {
			return err
		}
		_, err = tx.AddAccount(storage.AccountRow{NID: who.UserNID, Localpart: name}, "")
		return err
	}))
	return who
}

func (h *house) send(who ident.Requester, typ, content string) id.EventID {
	h.t.Helper()
	sent, err := h.rooms.Send(h.t.Context(), rooms.NewEvent{Room: h.room, Sender: who, Type: typ, Content: json.RawMessage(content)})
	h.ok(err)
	return sent
}

// relate sends n events that relate to the target.
func (h *house) relate(who ident.Requester, n int, relType string) (sent []id.EventID) {
	h.t.Helper()
	for i := range n {
		sent = append(sent, h.send(who, "org.example.note", fmt.Sprintf(`{"n":%d,"m.relates_to":{"rel_type":%q,"event_id":%q}}`, i, relType, h.target)))
	}
	return sent
}

func (h *house) redact(who ident.Requester, relTypes ...string) {
	h.t.Helper()
	_, err := h.redactions.Redact(h.t.Context(), who, h.room, h.target, "spam", nil, relTypes)
	h.ok(err)
}

// step does one step, and reports whether there are more.
func (h *house) step() bool {
	h.t.Helper()
	more, err := h.redactions.Step(h.t.Context())
	h.ok(err)
	return more
}

// redacted counts the redacted events among some.
func (h *house) redacted(events []id.EventID) (n int) {
	h.t.Helper()
	room, err := h.rooms.Room(h.t.Context(), h.room)
	h.ok(err)
	for _, e := range events {
		found, err := room.FindEvent(h.t.Context(), e)
		h.ok(err)
		if found.RedactedBy != 0 {
			n++
		}
	}
	return n
}

// stored counts the redactions whose related events are not all done.
func (h *house) stored() int {
	h.t.Helper()
	var rows []storage.RelatedRedaction
	h.ok(h.db.Read(h.t.Context(), func(tx *storage.Tx) (err error) {
		rows, err = tx.RelatedRedactions(0, 100)
		return err
	}))
	return len(rows)
}

func TestRelatedEventsBeyondTheFirstAreRedactedAcrossARestart(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newHouse(t, db)
		notes := h.relate(h.bob, 2*step, "org.example.a")
		others := h.relate(h.bob, step, "org.example.b")
		notes = append(notes, h.relate(h.alice, 5, "org.example.a")...)
		h.redact(h.alice, "org.example.a")
		late := h.relate(h.bob, 1, "org.example.a")
		if got := h.redacted(append(notes, h.target)); got != step+1 {
			t.Fatalf("with the response, %d events are redacted", got)
		}
		if !h.step() || h.redacted(notes) != 2*step {
			t.Fatalf("after a step, %d events are redacted", h.redacted(notes))
		}
		h.start()
		for h.step() {
		}
		if h.redacted(notes) != len(notes) || h.redacted(others) != 0 || h.redacted(late) != 0 {
			t.Errorf("redacted are %d of %d, %d of another type, and %d later ones", h.redacted(notes), len(notes), h.redacted(others), h.redacted(late))
		}
		if n := h.stored(); n != 0 {
			t.Errorf("%d redactions are stored at the end", n)
		}
	})
}

func TestRelatedEventsAreNotRedactedForAUserWhoMayNoLongerDoSo(t *testing.T) {
	for name, change := range map[string]func(*house){
		"left": func(h *house) { h.ok(h.rooms.Leave(h.t.Context(), h.alice, h.room, "")) },
		"locked": func(h *house) {
			h.ok(h.db.Write(h.t.Context(), func(tx *storage.Tx) error { return tx.SetLocked(h.alice.UserNID, true) }))
		},
		"suspended": func(h *house) {
			h.ok(h.db.Write(h.t.Context(), func(tx *storage.Tx) error { return tx.SetSuspended(h.alice.UserNID, true) }))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, storagetest.Open(t, storage.Config{}))
			notes := h.relate(h.bob, 2*step+1, "m.reference")
			h.redact(h.alice, "*")
			change(h)
			for h.step() {
			}
			if got := h.redacted(notes); got != step || h.stored() != 0 {
				t.Errorf("%d events are redacted, %d redactions stored", got, h.stored())
			}
		})
	}
}

func TestARepeatedRedactionReplacesTheStoredOne(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	notes := h.relate(h.alice, 4*step, "m.reference")
	h.redact(h.alice, "m.reference", "m.thread")
	h.redact(h.alice, "m.thread", "m.reference")
	if n := h.stored(); n != 1 {
		t.Errorf("%d redactions are stored", n)
	}
	for h.step() {
	}
	if got := h.redacted(notes); got != len(notes) {
		t.Errorf("%d of %d are redacted", got, len(notes))
	}
}
