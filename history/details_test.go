package history

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/expiry"
)

func TestDetailsAgreeWithTheRoomInMemory(t *testing.T) {
	onBoth(t, func(t *testing.T, l *library) {
		alice, bob, carol := l.user("alice"), l.user("bob"), l.user("carol")
		plain := l.public(alice, bob)
		l.leave(bob, plain)
		full, err := l.rooms.Create(t.Context(), alice, rooms.CreateRoom{
			Name: "Tea", AliasName: "tea", Visibility: "public", RoomVersion: id.RoomV10,
			InitialState: []rooms.InitialState{
				{Type: "m.room.encryption", Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2"}`)},
				{Type: "m.room.retention", Content: json.RawMessage(`{"max_lifetime":86400000}`)},
			},
			Preset: "public_chat",
		})
		l.check(err)
		l.join(bob, full)
		l.join(carol, full)
		overridden, day := l.public(alice), 24*time.Hour
		l.check(l.rooms.SetRetentionOverride(t.Context(), overridden, &expiry.Policy{Min: &day}))
		list, err := l.svc.ListRooms(t.Context(), 0, 10)
		l.check(err)
		if len(list) != 3 || list[0].ID != plain || list[1].ID != full || list[2].ID != overridden {
			t.Fatalf("the rooms are %+v", list)
		}
		for i := range list {
			r, d := l.load(list[i].ID), &list[i]
			if d.NID != r.NID() || d.Version != r.Version().ID || d.Encrypted != r.Encrypted() || d.Published != r.Published() || d.Joined != r.Count(rooms.Join) ||
				policyText(d.Retention) != policyText(r.Retention()) || (d.Override == nil) != (r.Override() == nil) || time.Since(d.Created) > time.Hour {
				t.Errorf("%+v does not agree with the room", d)
			}
			one, err := l.svc.RoomDetails(t.Context(), r.ID())
			l.check(err)
			if one.NID != d.NID || one.Joined != d.Joined || one.Name != d.Name {
				t.Errorf("alone %+v, in the list %+v", one, d)
			}
		}
		if d := list[1]; d.Name != "Tea" || d.Alias != "#tea:here" || d.Joined != 3 || !d.Encrypted || !d.Published || *d.Retention.Max != day || d.Version != id.RoomV10 {
			t.Errorf("the full room is %+v", d)
		}
		if d := list[2]; *d.Override.Min != day {
			t.Errorf("the override is %+v", d.Override)
		}
		if _, err := l.svc.RoomDetails(t.Context(), "!none"); !errors.Is(err, rooms.ErrNoRoom) {
			t.Errorf("an unknown room: %v", err)
		}
	})
}

func policyText(p expiry.Policy) string {
	text, _ := json.Marshal(p)
	return string(text)
}

func TestListingRoomsLoadsNone(t *testing.T) {
	l := newLibrary(t)
	alice := l.user("alice")
	want := map[id.RoomID]string{}
	for i := range 7 {
		name := fmt.Sprint("Room ", i)
		room, err := l.rooms.Create(t.Context(), alice, rooms.CreateRoom{Name: name})
		l.check(err)
		want[room] = name
	}
	l.restart()
	for after, pages := ident.RoomNID(0), 0; len(want) > 0; pages++ {
		list, err := l.svc.ListRooms(t.Context(), after, 3)
		l.check(err)
		if len(list) == 0 || pages > 2 {
			t.Fatalf("%d rooms are missing", len(want))
		}
		for _, d := range list {
			if want[d.ID] != d.Name || d.Joined != 1 {
				t.Errorf("%+v", d)
			}
			if l.rooms.Cached(d.NID) != nil {
				t.Errorf("%s was loaded", d.Name)
			}
			delete(want, d.ID)
			after = d.NID
		}
	}
}
