package feed_test

import (
	"encoding/json"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/receipts"
	"ebb/rooms"
	"ebb/storage"
)

func (u *user) create(preset string) id.RoomID {
	u.w.t.Helper()
	u.w.pass(time.Millisecond) // two rooms of one user and moment would be one
	room, err := u.w.Create(u.w.t.Context(), u.Requester, rooms.CreateRoom{Preset: preset})
	u.must(err)
	return room
}

func (u *user) join(room id.RoomID) {
	u.w.t.Helper()
	u.must(u.w.Join(u.w.t.Context(), u.Requester, room, ""))
}

func (u *user) leave(room id.RoomID) {
	u.w.t.Helper()
	u.must(u.w.Leave(u.w.t.Context(), u.Requester, room, ""))
}

func (u *user) invite(room id.RoomID, whom *user) {
	u.w.t.Helper()
	u.must(u.w.Invite(u.w.t.Context(), u.Requester, room, whom.UserID, ""))
}

func (u *user) ban(room id.RoomID, whom *user) {
	u.w.t.Helper()
	u.must(u.w.Ban(u.w.t.Context(), u.Requester, room, whom.UserID, ""))
}

func (u *user) knock(room id.RoomID) {
	u.w.t.Helper()
	u.must(u.w.Knock(u.w.t.Context(), u.Requester, room, nil, ""))
}

// forget lets a user forget a room that they have left.
func (w *world) forget(u *user, room id.RoomID) *user {
	w.t.Helper()
	u.must(w.Forget(w.t.Context(), u.Requester, room))
	return u
}

func (u *user) accountData(room id.RoomID, typ, content string) {
	u.w.t.Helper()
	u.must(u.w.data.Set(u.w.t.Context(), u.UserNID, room, typ, json.RawMessage(content)))
}

func (u *user) receipt(room id.RoomID, typ string, event id.EventID) {
	u.w.t.Helper()
	u.must(receipts.New(u.w.Service, u.w.clock).Set(u.w.t.Context(), u.Requester, room, receipts.Marker{Type: typ, Event: event}))
}

// toDevice queues a message for a device, as the end-to-end encryption service does.
func (w *world) toDevice(u *user, json string) {
	w.t.Helper()
	u.must(w.db.Enqueue(storage.Write{
		Do: func(tx *storage.Tx) error {
			_, err := tx.AddToDevice(u.DeviceNID, json, storage.ToDeviceFrom{})
			return err
		},
		Committed: func() { w.hub.Users(u.UserNID) },
	}).Wait(w.t.Context()))
}

func (w *world) countToDevice(u *user) (n int) {
	w.t.Helper()
	u.must(w.db.Read(w.t.Context(), func(tx *storage.Tx) error {
		messages, err := tx.ToDevice(u.DeviceNID, 0, w.db.Settled(), 1000)
		n = len(messages)
		return err
	}))
	return n
}

// devicesChanged records that a user's devices changed, as after a login or an upload of keys.
func (w *world) devicesChanged(u *user) {
	w.t.Helper()
	var committed func()
	u.must(w.db.Enqueue(storage.Write{
		Do: func(tx *storage.Tx) (err error) {
			committed, err = w.e2ee.DevicesChanged(tx, u.UserNID)
			return err
		},
		Committed: func() { committed() },
	}).Wait(w.t.Context()))
}

// holdReaders occupies every read connection until release is called.
func (w *world) holdReaders() (release func()) {
	w.t.Helper()
	end := make(chan struct{})
	var held, done sync.WaitGroup
	for range readConns {
		held.Add(1)
		done.Go(func() {
			_ = w.db.Read(w.t.Context(), func(*storage.Tx) error {
				held.Done()
				<-end
				return nil
			})
		})
	}
	held.Wait()
	return func() {
		close(end)
		done.Wait()
	}
}

// ids returns the users of the m.typing event among ephemeral events; nil if there is none.
func (l list) ids(t *testing.T) []string {
	t.Helper()
	for _, e := range l.Events {
		if e.Type == "m.typing" {
			var c struct {
				UserIDs []string `json:"user_ids"`
			}
			if err := json.Unmarshal(e.Content, &c); err != nil || c.UserIDs == nil {
				t.Fatalf("%s: %v", e.Content, err)
			}
			return c.UserIDs
		}
	}
	return nil
}

func (u *user) kick(room id.RoomID, whom *user) {
	u.w.t.Helper()
	u.must(u.w.Kick(u.w.t.Context(), u.Requester, room, whom.UserID, ""))
}

func (u *user) createTyped(typ string) id.RoomID {
	u.w.t.Helper()
	u.w.pass(time.Millisecond)
	room, err := u.w.Create(u.w.t.Context(), u.Requester, rooms.CreateRoom{Preset: "public_chat", CreationContent: json.RawMessage(`{"type":"` + typ + `"}`)})
	u.must(err)
	return room
}
