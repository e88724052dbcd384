package rooms

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/eventauth"
	"ebb/rooms/expiry"
	"ebb/rooms/newroom"
	"ebb/rooms/pdu"
	"ebb/rooms/settings"
	"ebb/storage"
)

func TestRoomsOfEveryVersionCanBeCreated(t *testing.T) {
	h := oneHouse(t)
	alice, bob := h.user("alice"), h.user("bob")
	for _, v := range pdu.Versions() {
		room := h.create(alice, CreateRoom{RoomVersion: v, Invite: []id.UserID{bob.UserID}, Name: "n", Topic: "t"})
		h.ok(h.svc.Join(h.Context(), bob, room, ""))
		target := h.say(bob, room, "hello")
		_, err := h.svc.Redact(h.Context(), alice, room, target, "", nil)
		h.ok(err)
		h.set(alice, room, "m.room.name", "", `{"name":"other"}`)
		events := h.chained(room)
		for _, e := range events {
			parsed, err := pdu.Parse(h.room(room).version, e.JSON())
			if err != nil || parsed.ID() != e.ID() {
				t.Fatalf("version %s: %s is not valid: %v", v, e.Type(), err)
			}
			key := h.svc.opts.Signer.Current().Key.Public()
			if err := parsed.VerifySignature("here", "ed25519:1", key.(ed25519.PublicKey)); err != nil {
				t.Fatalf("version %s: %v", v, err)
			}
		}
		h.matchesDisk(room)
	}
}

func TestPresetsSetTheStateOfNewRooms(t *testing.T) {
	h := oneHouse(t)
	alice, bob := h.user("alice"), h.user("bob")
	for _, c := range []struct {
		req              CreateRoom
		join, hv, guests string
	}{
		{CreateRoom{}, "invite", "shared", "can_join"},
		{CreateRoom{Visibility: "public"}, "public", "shared", "forbidden"},
		{CreateRoom{Preset: newroom.Public}, "public", "shared", "forbidden"},
		{CreateRoom{Visibility: "public", Preset: newroom.Private}, "invite", "shared", "can_join"},
		{CreateRoom{Preset: newroom.Trusted}, "invite", "shared", "can_join"},
		{CreateRoom{Preset: newroom.Public, InitialState: []InitialState{{Type: typeJoinRules, Content: json.RawMessage(`{"join_rule":"knock"}`)}}}, "knock", "shared", "forbidden"},
	} {
		room := h.create(alice, c.req)
		r := h.room(room)
		guests := "forbidden"
		if e := r.State(typeGuestAccess, ""); e != nil {
			guests = e.ContentString("guest_access")
		}
		if r.JoinRule() != c.join || r.HistoryVisibility() != c.hv || guests != c.guests {
			t.Errorf("%+v: join rule %s, history visibility %s, guest access %s; want %s, %s, %s", c.req, r.JoinRule(), r.HistoryVisibility(), guests, c.join, c.hv, c.guests)
		}
		if r.Published() != (c.req.Visibility == "public") {
			t.Errorf("%+v: the room is listed in the directory: %v", c.req, r.Published())
		}
		h.matchesDisk(room)
	}
	trusted := CreateRoom{Preset: newroom.Trusted, Invite: []id.UserID{bob.UserID, bob.UserID}, IsDirect: true}
	old := trusted
	old.RoomVersion = id.RoomV11
	if got := h.room(h.create(alice, old)).Levels().UserLevel(bob.UserID); got != 100 {
		t.Errorf("a user who was invited to a trusted private chat has power level %d, want 100", got)
	}
	room := h.create(alice, trusted)
	if got := h.content(room, typeCreate, ""); got != `{"additional_creators":["@bob:here"],"room_version":"12"}` {
		t.Errorf("m.room.create is %s", got)
	}
	if got := h.content(room, typeMember, "@bob:here"); got != `{"is_direct":true,"membership":"invite"}` {
		t.Errorf("bob's member event is %s, want a direct invite", got)
	}
	if got := h.content(room, typePowerLevels, ""); !strings.Contains(got, `"users":{}`) || !strings.Contains(got, `"m.room.tombstone":150`) {
		t.Errorf("the power levels are %s; want no users, and 150 for tombstones", got)
	}
}

func TestCreateUsesEveryOption(t *testing.T) {
	eachHouse(t, func(h *house) {
		alice, bob := h.user("alice"), h.user("bob")
		room := h.create(alice, CreateRoom{
			Visibility: "public", AliasName: "Tea", Name: "Tea room", Topic: "leaves", Invite: []id.UserID{bob.UserID}, RoomVersion: id.RoomV12,
			CreationContent: json.RawMessage(`{"m.federate":false,"type":"m.space","creator":"@x:y","additional_creators":["@bob:here"]}`),
			InitialState: []InitialState{
				{Type: "m.room.topic", Content: json.RawMessage(`{"topic":"not this"}`)}, {Type: "x.y", StateKey: "k", Content: json.RawMessage(`{"a":1}`)},
			},
			PowerLevelOverride: json.RawMessage(`{"invite":50,"users":{"@carol:here":20}}`),
		})
		r := h.room(room)
		for key, want := range map[pdu.StateKey]string{
			{Type: typeCreate}: `{"additional_creators":["@bob:here"],"m.federate":false,"room_version":"12","type":"m.space"}`,
			{Type: typeName}:   `{"name":"Tea room"}`, {Type: typeTopic}: `{"m.topic":{"m.text":[{"body":"leaves"}]},"topic":"leaves"}`,
			{Type: "x.y", Key: "k"}: `{"a":1}`, {Type: typeCanonicalAlias}: `{"alias":"#Tea:here"}`,
		} {
			if got := h.content(room, key.Type, key.Key); got != want {
				h.Errorf("%v is %s, want %s", key, got, want)
			}
		}
		if l := r.Levels(); l.Invite != 50 || l.UserLevel("@carol:here") != 20 || l.StateDefault != 50 {
			h.Errorf("power levels are %s", h.content(room, typePowerLevels, ""))
		}
		if got := h.aliased("#Tea:here"); got != room {
			h.Errorf("the alias points to %s", got)
		}
		h.membership(room, bob, Invite)
		h.membership(room, alice, Join)
		_, err := h.svc.Create(h.Context(), alice, CreateRoom{AliasName: "Tea"})
		h.refused(err, "M_ROOM_IN_USE")
		h.chained(room)
		h.matchesDisk(room)
	})
}

func TestCreateRefusesInvalidOptions(t *testing.T) {
	h := oneHouse(t)
	alice := h.user("alice")
	for code, reqs := range map[string][]CreateRoom{
		"M_UNSUPPORTED_ROOM_VERSION": {{RoomVersion: "99"}},
		"M_INVALID_PARAM": {
			{Visibility: "secret"}, {Preset: "other"}, {AliasName: "a b"}, {AliasName: strings.Repeat("a", 255)}, {AliasName: "a:b"}, {Invite: []id.UserID{"bob"}},
			{InitialState: []InitialState{{Type: typeCreate, Content: json.RawMessage(`{}`)}}},
			{InitialState: []InitialState{{Type: typeMember, Content: json.RawMessage(`{}`)}}},
			{CreationContent: json.RawMessage(`{"additional_creators":"x"}`)}, {CreationContent: json.RawMessage(`{"additional_creators":["@a:b",42]}`)},
			{CreationContent: json.RawMessage(`{"additional_creators":["@invalid:dom$ain$.com"]}`)},
			{PowerLevelOverride: json.RawMessage(`{"users":{"@alice:here":100}}`)}, {InitialState: make([]InitialState, 1000)},
		},
		"M_BAD_JSON": {
			{CreationContent: json.RawMessage(`[]`)}, {PowerLevelOverride: json.RawMessage(`7`)}, {CreationContent: json.RawMessage(`{"m.federate":"no"}`)},
			{InitialState: []InitialState{{Type: "x", Content: json.RawMessage(`1`)}}},
			{InitialState: []InitialState{{Type: typeRetention, Content: json.RawMessage(`{"max_lifetime":"x"}`)}}},
		},
		"M_BAD_ALIAS": {{InitialState: []InitialState{{Type: typeCanonicalAlias, Content: json.RawMessage(`{"alias":"#a:here"}`)}}}},
		"M_INVALID_ROOM_STATE": {
			{RoomVersion: "11", Name: "n", PowerLevelOverride: json.RawMessage(`{"users":{"@alice:here":10}}`)},
		},
		"M_MISSING_PARAM": {{InitialState: []InitialState{{Content: json.RawMessage(`{}`)}}}},
		"M_FORBIDDEN":     {{Invite: []id.UserID{"@bob:elsewhere"}}, {Invite: []id.UserID{alice.UserID}}, {InviteThirdParty: []json.RawMessage{[]byte(`{}`)}}},
	} {
		for _, req := range reqs {
			_, err := h.svc.Create(h.Context(), alice, req)
			if mxerr.Code(err) != code {
				t.Errorf("%+v: got %v, want %s", req, err, code)
			}
		}
	}
	list, err := h.svc.Memberships(h.Context(), alice.UserNID)
	if err != nil || len(list) != 0 {
		t.Errorf("after refused requests there are the rooms %v, %v; want none", list, err)
	}
}

func TestUpgradeCreatesASuccessor(t *testing.T) {
	for _, from := range []id.RoomVersion{"1", "6", "10", "11", "12"} {
		for _, to := range []id.RoomVersion{"5", "11", "12"} {
			t.Run(fmt.Sprint(from, " to ", to), func(t *testing.T) { testUpgrade(t, from, to) })
		}
	}
}

// followed counts how often the push rules of a room are copied to its successor.
type followed struct {
	outcomes
	moved *int
}

func (f followed) Follow(context.Context, ident.UserNID, id.UserID, id.RoomID, id.RoomID) error {
	*f.moved++
	return nil
}

func testUpgrade(t *testing.T, from, to id.RoomVersion) {
	moved := 0
	h := oneHouse(t, func(o *Options) { o.Push = followed{moved: &moved} })
	alice, bob, carol, eve := h.user("alice"), h.user("bob"), h.user("carol"), h.user("eve")
	old := h.create(alice, CreateRoom{
		RoomVersion: from, Preset: newroom.Public, Visibility: "public", AliasName: "tea", Name: "Tea", CreationContent: json.RawMessage(`{"type":"x"}`),
		PowerLevelOverride: json.RawMessage(`{"events":{"m.room.tombstone":60,"m.room.power_levels":60}}`),
		InitialState:       []InitialState{{Type: typeRetention, Content: json.RawMessage(`{"max_lifetime":1000}`)}},
	})
	for _, s := range []ident.Requester{bob, carol, eve} {
		h.ok(h.svc.Join(h.Context(), s, old, ""))
	}
	h.ok(h.svc.Ban(h.Context(), alice, old, eve.UserID, "rude"))
	users := map[id.UserID]int{bob.UserID: 70, carol.UserID: 50}
	if from != "12" {
		users[alice.UserID] = 100
	}
	levels, err := json.Marshal(map[string]any{"users": users, "events": map[string]int{"m.room.tombstone": 60, "m.room.power_levels": 60}})
	h.ok(err)
	h.set(alice, old, typePowerLevels, "", string(levels))
	h.ok(h.reads().PutTag(h.Context(), old, bob.UserNID, "u.tea", `{"order":0.5}`))
	h.ok(h.reads().SetAccountData(h.Context(), "", bob.UserNID, settings.TypeDirect, `{"@alice:here":["`+string(old)+`"]}`))

	_, err = h.svc.Upgrade(h.Context(), carol, old, to, nil)
	h.refused(err, "M_FORBIDDEN")
	_, err = h.svc.Upgrade(h.Context(), bob, old, "77", nil)
	h.refused(err, "M_UNSUPPORTED_ROOM_VERSION")
	next, err := h.svc.Upgrade(h.Context(), bob, old, to, []id.UserID{carol.UserID})
	h.ok(err)

	if got := h.content(old, typeTombstone, ""); !strings.Contains(got, string(next)) {
		t.Errorf("the tombstone is %s, want one that names %s", got, next)
	}
	create := h.content(next, typeCreate, "")
	if !strings.Contains(create, string(old)) || !strings.Contains(create, `"type":"x"`) || strings.Contains(create, "additional_creators") != (to == "12") ||
		strings.Contains(create, `"event_id"`) != (to != "12") {
		t.Errorf("the create event of the new room is %s", create)
	}
	for _, typ := range []string{typeName, typeJoinRules, typeHistoryVisibility, typeRetention, typeCanonicalAlias} {
		if h.content(next, typ, "") == "" {
			t.Errorf("the new room lacks the state event %s", typ)
		}
	}
	if r := h.aliased("#tea:here"); r != next {
		t.Errorf("the alias points to %s, want the new room %s", r, next)
	}
	if h.room(old).Published() || !h.room(next).Published() {
		t.Error("the directory lists the old room, or does not list the new one")
	}
	h.membership(next, bob, Join)
	h.membership(next, eve, Ban)
	_, err = h.trySend(carol, old, "m.room.message", `{}`)
	if l := h.room(old).Levels(); l.EventsDefault != 50 || l.Invite != 50 || err != nil {
		t.Errorf("the power levels of the old room are %s; want 50 for events and invites (%v)", h.content(old, typePowerLevels, ""), err)
	}
	levelsAre(h, next, map[id.UserID]int64{bob.UserID: powerOf(to == "12", 70), carol.UserID: powerOf(to == "12", 50)})
	switch got := h.room(next).Levels().UserLevel(alice.UserID); {
	case from == "12" && to != "12" && got < 100, from != "12" && got != 100:
		t.Errorf("in the new room the creator of the old room has power level %d", got)
	}
	tags, err := h.reads().Tags(h.Context(), next, bob.UserNID)
	if err != nil || string(tags["u.tea"]) != `{"order":0.5}` {
		t.Errorf("the tags of the new room are %v (%v), want those of the old room", tags, err)
	}
	if direct, err := h.reads().AccountData(h.Context(), "", bob.UserNID, settings.TypeDirect); err != nil || !strings.Contains(string(direct), string(next)) {
		t.Errorf("m.direct is %s, want one that lists the new room", direct)
	}
	h.ok(h.svc.Join(h.Context(), alice, next, ""))
	if moved != 2 {
		t.Errorf("settings moved %d times, want 2", moved)
	}
	for _, r := range []id.RoomID{old, next} {
		h.chained(r)
		h.matchesDisk(r)
	}
	h.say(alice, next, "here we are")
}

func powerOf(creator bool, otherwise int64) int64 {
	if creator {
		return eventauth.Infinite
	}
	return otherwise
}

func levelsAre(h *house, room id.RoomID, want map[id.UserID]int64) {
	h.Helper()
	for user, level := range want {
		if got := h.room(room).Levels().UserLevel(user); got != level {
			h.Errorf("%s has power %d, want %d, by %s", user, got, level, h.content(room, typePowerLevels, ""))
		}
	}
}

// A user who may send a tombstone may upgrade the room, but must not have more power afterwards than before.
func TestAnUpgradeGivesNobodyPower(t *testing.T) {
	for _, v := range []id.RoomVersion{"1", "6", "10", "11"} {
		h := oneHouse(t)
		alice, bob, carol, dan := h.user("alice"), h.user("bob"), h.user("carol"), h.user("dan")
		old := h.create(alice, CreateRoom{RoomVersion: v, Preset: newroom.Public})
		for _, s := range []ident.Requester{bob, carol, dan} {
			h.ok(h.svc.Join(h.Context(), s, old, ""))
		}
		h.ok(h.svc.Ban(h.Context(), alice, old, dan.UserID, ""))
		h.set(alice, old, typePowerLevels, "", `{"users":{"@alice:here":100,"@bob:here":50,"@dan:here":100},"users_default":1,"events":{"m.room.tombstone":50,"m.room.name":90},"state_default":80,"ban":70}`)
		next, err := h.svc.Upgrade(h.Context(), bob, old, "11", nil)
		h.ok(err)
		levelsAre(h, next, map[id.UserID]int64{alice.UserID: 100, bob.UserID: 50, carol.UserID: 1, dan.UserID: 100})
		_, err = h.trySet(bob, next, typeName, "", `{"name":"mine"}`)
		h.refused(err, "M_FORBIDDEN")
		h.ok(h.svc.Join(h.Context(), alice, next, ""))
		h.set(alice, next, typeName, "", `{"name":"still hers"}`)
		h.membership(next, dan, Ban)
		h.chained(next)
		h.matchesDisk(next)
	}
}

func TestCreatorsKeepTheirPowerInAnOlderVersion(t *testing.T) {
	h := oneHouse(t)
	alice, bob, carol := h.user("alice"), h.user("bob"), h.user("carol")
	old := h.create(alice, CreateRoom{RoomVersion: "12", Preset: newroom.Public, CreationContent: json.RawMessage(`{"additional_creators":["@bob:here"]}`)})
	h.ok(h.svc.Join(h.Context(), bob, old, ""))
	h.ok(h.svc.Join(h.Context(), carol, old, ""))
	h.set(alice, old, typePowerLevels, "", `{"users":{"@carol:here":60},"events":{"m.room.tombstone":150}}`)
	next, err := h.svc.Upgrade(h.Context(), bob, old, "11", nil)
	h.ok(err)
	levelsAre(h, next, map[id.UserID]int64{alice.UserID: 150, bob.UserID: 150, carol.UserID: 60})
	h.ok(h.svc.Join(h.Context(), alice, next, ""))
	again, err := h.svc.Upgrade(h.Context(), alice, next, "12", []id.UserID{bob.UserID})
	h.ok(err)
	levelsAre(h, again, map[id.UserID]int64{alice.UserID: eventauth.Infinite, bob.UserID: eventauth.Infinite, carol.UserID: 60})
	third, err := h.svc.Upgrade(h.Context(), alice, again, "12", []id.UserID{carol.UserID}) // creators are not copied
	h.ok(err)
	levelsAre(h, third, map[id.UserID]int64{alice.UserID: eventauth.Infinite, bob.UserID: 0, carol.UserID: eventauth.Infinite})
}

// Clients that do not know additional_creators upgrade a room of version 12 too, also those of administrators who did
// not create it.
func TestCreatorsKeepTheirPowerIfTheRequestNamesNone(t *testing.T) {
	h := oneHouse(t)
	alice, bob, carol := h.user("alice"), h.user("bob"), h.user("carol")
	old := h.create(alice, CreateRoom{RoomVersion: "12", Preset: newroom.Public, CreationContent: json.RawMessage(`{"additional_creators":["@bob:here"]}`)})
	h.ok(h.svc.Join(h.Context(), carol, old, ""))
	h.set(alice, old, typePowerLevels, "", `{"users":{"@carol:here":150},"events":{"m.room.tombstone":150}}`)
	next, err := h.svc.Upgrade(h.Context(), carol, old, "12", nil)
	h.ok(err)
	levelsAre(h, next, map[id.UserID]int64{alice.UserID: 150, bob.UserID: 150, carol.UserID: eventauth.Infinite})
	h.ok(h.svc.Join(h.Context(), alice, next, ""))
	h.set(alice, next, typeName, "", `{"name":"still hers"}`)

	old = h.create(alice, CreateRoom{RoomVersion: "11", Preset: newroom.Public})
	h.ok(h.svc.Join(h.Context(), bob, old, ""))
	h.set(alice, old, typePowerLevels, "", `{"users":{"@alice:here":100},"events":{"m.room.tombstone":0}}`)
	next, err = h.svc.Upgrade(h.Context(), bob, old, "12", nil)
	h.ok(err)
	levelsAre(h, next, map[id.UserID]int64{alice.UserID: 100})
}

func TestAnUpgradedSpaceKeepsItsRooms(t *testing.T) {
	for _, to := range []id.RoomVersion{"11", "12"} {
		h := oneHouse(t)
		alice := h.user("alice")
		old := h.create(alice, CreateRoom{Preset: newroom.Public, CreationContent: json.RawMessage(`{"type":"m.space"}`)})
		child := h.create(alice, CreateRoom{})
		h.set(alice, old, typeSpaceChild, string(child), `{"via":["here"],"order":"a","suggested":true}`)
		h.set(alice, old, typeSpaceChild, "!removed:here", `{}`)
		next, err := h.svc.Upgrade(h.Context(), alice, old, to, nil)
		h.ok(err)
		if got := h.content(next, typeSpaceChild, string(child)); got != h.content(old, typeSpaceChild, string(child)) {
			t.Errorf("in the new space the child is %q", got)
		}
		if n := len(h.room(next).StateOfType(typeSpaceChild)); n != 1 {
			t.Errorf("the new space has %d children", n)
		}
		h.chained(next)
		h.matchesDisk(next)
	}
}

// Room versions up to 9 allow strings as power levels; newer versions do not.
func TestAnUpgradeMakesPowerLevelsIntegers(t *testing.T) {
	h := oneHouse(t)
	alice, bob := h.user("alice"), h.user("bob")
	old := h.create(alice, CreateRoom{RoomVersion: "9", Preset: newroom.Public})
	h.ok(h.svc.Join(h.Context(), bob, old, ""))
	h.set(alice, old, typePowerLevels, "", `{"users":{"@alice:here":"100","@bob:here":" 50 "},"events":{"m.room.name":"75"},"invite":"bad","ban":"60","x":"kept"}`)
	next, err := h.svc.Upgrade(h.Context(), alice, old, "11", nil)
	h.ok(err)
	levelsAre(h, next, map[id.UserID]int64{alice.UserID: 100, bob.UserID: 50})
	if got := h.content(next, typePowerLevels, ""); got != `{"ban":60,"events":{"m.room.name":75},"users":{"@alice:here":100,"@bob:here":50},"x":"kept"}` {
		t.Errorf("the power levels of the new room are %s", got)
	}
}

func TestRetentionPolicyOfARoom(t *testing.T) {
	day := 24 * time.Hour
	h := oneHouse(t, func(o *Options) {
		o.Retention = Retention{Default: expiry.Policy{Max: &day}, Limits: expiry.Limits{MaxLifetime: expiry.Bounds{Max: &day}}}
	})
	alice := h.user("alice")
	room := h.public(alice)
	want := func(max time.Duration) {
		t.Helper()
		if p := h.room(room).Retention(); p.Max == nil || *p.Max != max {
			t.Errorf("the policy is %v, want %v", p.Max, max)
		}
		h.matchesDisk(room)
	}
	want(day)
	for _, typ := range []string{typeRetention, typeRetentionUnstable} {
		for _, bad := range []string{`{"max_lifetime":"1"}`, `{"max_lifetime":-1}`, `{"max_lifetime":1,"min_lifetime":2}`, `{"min_lifetime":true}`, `{"max_lifetime":9007199254740992}`} {
			_, err := h.trySet(alice, room, typ, "", bad)
			h.refused(err, "M_BAD_JSON")
		}
	}
	h.set(alice, room, typeRetention, "", `{"max_lifetime":5000}`)
	want(5 * time.Second)
	e := h.set(alice, room, typeRetentionUnstable, "", `{"max_lifetime":7000}`)
	want(7 * time.Second)
	h.set(alice, room, typeRetention, "", `{"max_lifetime":999999999}`)
	want(day)
	h.set(alice, room, typeRetentionUnstable, "", `{"max_lifetime":8000}`)
	want(8 * time.Second)
	_, err := h.svc.Redact(h.Context(), alice, room, e, "", nil)
	h.ok(err)
	want(8 * time.Second)
	h.set(alice, room, typeRetentionUnstable, "", `{}`)
	want(day)
}

func TestDirectoryChangesAreTheSameInMemoryAndOnDisk(t *testing.T) {
	h := oneHouse(t)
	alice := h.user("alice")
	room := h.create(alice, CreateRoom{Visibility: "public", AliasName: "tea"})
	h.ok(h.svc.SetPublished(h.Context(), room, false))
	if h.room(room).Published() {
		t.Error("the room is still published")
	}
	h.matchesDisk(room)
	h.ok(h.svc.SetPublished(h.Context(), room, true))
	h.ok(h.svc.RemoveCanonicalAlias(h.Context(), alice, room, "#tea:here"))
	if got := h.content(room, typeCanonicalAlias, ""); got != `{}` {
		t.Errorf("m.room.canonical_alias is %s, want it without the alias", got)
	}
	h.matchesDisk(room)
}

// aliased returns the room to which an alias points.
func (h *house) aliased(alias string) id.RoomID {
	h.Helper()
	row, found, err := h.svc.aliasByName(h.Context(), alias)
	h.ok(err)
	if !found {
		h.Fatalf("there is no alias %s", alias)
	}
	r, err := h.svc.RoomByNID(h.Context(), row.Room)
	h.ok(err)
	return r.id
}

// TestFullSnapshotsAreRare checks that a large room state is seldom copied.
func TestFullSnapshotsAreRare(t *testing.T) {
	h := oneHouse(t)
	alice := h.user("alice")
	room := h.public(alice)
	for i := range 200 {
		h.set(alice, room, "x.state", fmt.Sprint(i), `{}`)
	}
	full := 0
	seen := map[int64]bool{}
	for _, e := range h.timeline(room) {
		if seen[e.Snapshot] {
			continue
		}
		seen[e.Snapshot] = true
		h.ok(h.db.Read(h.Context(), func(tx *storage.Tx) error {
			n, err := tx.SnapshotLength(e.Snapshot)
			if n == 0 && e.Snapshot != 0 {
				full++
			}
			return errors.Join(err)
		}))
	}
	if full < 2 || full > 4 {
		t.Errorf("%d full snapshots for 200 changes, want 2 to 4", full)
	}
}

func TestAnUpgradeByATombstoneCopiesSettings(t *testing.T) {
	h := oneHouse(t)
	alice := h.user("alice")
	old := h.public(alice)
	h.ok(h.reads().PutTag(h.Context(), old, alice.UserNID, "u.tea", `{}`))
	next := h.create(alice, CreateRoom{CreationContent: json.RawMessage(`{"predecessor":{"room_id":"` + string(old) + `"}}`)})
	tagged := func() bool {
		tags, err := h.reads().Tags(h.Context(), next, alice.UserNID)
		h.ok(err)
		return tags["u.tea"] != nil
	}
	if tagged() {
		t.Fatal("a room got the tags of another one that does not name it as its replacement")
	}
	h.set(alice, old, typeTombstone, "", `{"body":"moved","replacement_room":"`+string(next)+`"}`)
	if !tagged() {
		t.Fatal("the new room did not get the tag of the old one")
	}
	h.set(alice, old, typeTombstone, "", `{"body":"moved","replacement_room":"!unknown:here"}`)
	h.set(alice, old, typeTombstone, "", `{"replacement_room":5}`)
}
