package rooms

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/expiry"
)

func TestDetailsSayWhatTheRoomInMemorySays(t *testing.T) {
	eachHouse(t, func(h *house) {
		alice, bob, carol := h.user("alice"), h.user("bob"), h.user("carol")
		plain := h.public(alice, bob)
		h.ok(h.svc.Leave(h.Context(), bob, plain, ""))
		full := h.create(alice, CreateRoom{
			Name: "Tea", AliasName: "tea", Visibility: "public", RoomVersion: id.RoomV10,
			InitialState: []InitialState{
				{Type: typeEncryption, Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2"}`)},
				{Type: typeRetention, Content: json.RawMessage(`{"max_lifetime":86400000}`)},
			},
			Preset: "public_chat",
		})
		h.ok(h.svc.Join(h.Context(), bob, full, ""))
		h.ok(h.svc.Join(h.Context(), carol, full, ""))
		overridden, day := h.create(alice, CreateRoom{}), 24*time.Hour
		h.ok(h.svc.SetRetentionOverride(h.Context(), overridden, &expiry.Policy{Min: &day}))
		list, err := h.svc.ListRooms(h.Context(), 0, 10)
		h.ok(err)
		if len(list) != 3 || list[0].ID != plain || list[1].ID != full || list[2].ID != overridden {
			t.Fatalf("the rooms are %+v", list)
		}
		for i := range list {
			r, d := h.room(list[i].ID), &list[i]
			name := r.head.text(typeName, "name")
			if d.Name != name || d.Alias != r.head.text(typeCanonicalAlias, "alias") || d.Joined != r.Count(Join) {
				t.Errorf("%+v is %s", d, name)
			}
			if d.NID != r.NID() || d.Version != r.Version().ID || d.Encrypted != r.Encrypted() || d.Published != r.Published() ||
				policyText(d.Retention) != policyText(r.Retention()) || (d.Override == nil) != (r.Override() == nil) || time.Since(d.Created) > time.Hour {
				t.Errorf("%+v is %s", d, name)
			}
			one, err := h.svc.RoomDetails(h.Context(), r.ID())
			h.ok(err)
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
		if _, err := h.svc.RoomDetails(h.Context(), "!none"); !errors.Is(err, ErrNoRoom) {
			t.Errorf("an unknown room: %v", err)
		}
	})
}

func policyText(p expiry.Policy) string {
	text, _ := json.Marshal(p)
	return string(text)
}

func TestListingRoomsLoadsNone(t *testing.T) {
	h := oneHouse(t)
	alice := h.user("alice")
	want := map[id.RoomID]string{}
	for i := range 7 {
		name := fmt.Sprint("Room ", i)
		want[h.create(alice, CreateRoom{Name: name})] = name
	}
	h.svc = h.open()
	for after, pages := ident.RoomNID(0), 0; len(want) > 0; pages++ {
		list, err := h.svc.ListRooms(h.Context(), after, 3)
		h.ok(err)
		if len(list) == 0 || pages > 2 {
			t.Fatalf("%d rooms are missing", len(want))
		}
		for _, d := range list {
			if want[d.ID] != d.Name || d.Joined != 1 {
				t.Errorf("%+v", d)
			}
			if h.svc.cache.byID(d.ID) != nil {
				t.Errorf("%s was loaded", d.Name)
			}
			delete(want, d.ID)
			after = d.NID
		}
	}
}
