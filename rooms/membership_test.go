package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/pushrules"
	"ebb/rooms/newroom"
	"ebb/rooms/pdu"
	"ebb/rooms/txns"
	"ebb/storage"
)

func TestMemberships(t *testing.T) {
	eachHouse(t, func(h *house) {
		ctx := h.Context()
		alice, bob, carol := h.user("alice"), h.user("bob"), h.user("carol")
		room := h.create(alice, CreateRoom{})
		s := h.svc
		h.refused(s.Join(ctx, bob, room, ""), "M_FORBIDDEN")
		h.refused(s.Leave(ctx, bob, room, ""), "M_FORBIDDEN")
		h.refused(s.Invite(ctx, bob, room, carol.UserID, ""), "M_FORBIDDEN")
		h.refused(s.Invite(ctx, alice, room, "bob", ""), "M_INVALID_PARAM")
		h.refused(s.Invite(ctx, alice, room, "", ""), "M_MISSING_PARAM")
		h.refused(s.Invite(ctx, alice, room, "@bob:elsewhere", ""), "M_FORBIDDEN")
		h.refused(s.Invite(ctx, alice, room, alice.UserID, ""), "M_FORBIDDEN")
		h.refused(s.Kick(ctx, alice, room, bob.UserID, ""), "M_FORBIDDEN")
		h.refused(s.Unban(ctx, alice, room, bob.UserID, ""), "M_FORBIDDEN")
		h.ok(s.Invite(ctx, alice, room, bob.UserID, "come"))
		h.membership(room, bob, Invite)
		if got := h.content(room, typeMember, string(bob.UserID)); got != `{"membership":"invite","reason":"come"}` {
			h.Errorf("the invite is %s", got)
		}
		h.refused(s.Forget(ctx, bob, room), "M_UNKNOWN")
		h.ok(s.Leave(ctx, bob, room, "no"))
		h.membership(room, bob, Leave)
		h.ok(s.Leave(ctx, bob, room, "no"))
		h.refused(s.Join(ctx, bob, room, ""), "M_FORBIDDEN")
		h.ok(s.Invite(ctx, alice, room, bob.UserID, ""))
		h.ok(s.Join(ctx, bob, room, ""))
		h.refused(s.Invite(ctx, alice, room, bob.UserID, ""), "M_FORBIDDEN")
		h.refused(s.Kick(ctx, bob, room, alice.UserID, ""), "M_FORBIDDEN")
		h.refused(s.Ban(ctx, bob, room, alice.UserID, ""), "M_FORBIDDEN")
		h.ok(s.Kick(ctx, alice, room, bob.UserID, "out"))
		h.membership(room, bob, Leave)
		h.ok(s.Ban(ctx, alice, room, bob.UserID, ""))
		h.membership(room, bob, Ban)
		h.refused(s.Invite(ctx, alice, room, bob.UserID, ""), "M_FORBIDDEN")
		h.refused(s.Kick(ctx, alice, room, bob.UserID, ""), "M_FORBIDDEN")
		h.refused(s.Join(ctx, bob, room, ""), "M_FORBIDDEN")
		h.refused(s.Leave(ctx, bob, room, ""), "M_FORBIDDEN")
		h.ok(s.Unban(ctx, alice, room, bob.UserID, ""))
		h.membership(room, bob, Leave)
		h.ok(s.Forget(ctx, bob, room))
		if list, err := s.Memberships(ctx, bob.UserNID); err != nil || len(list) != 1 || !list[0].Forgotten {
			h.Errorf("memberships %+v", list)
		}
		h.ok(s.Forget(ctx, carol, room))
		h.refused(s.Forget(ctx, carol, "!none:here"), "M_NOT_FOUND")
		h.refused(s.Join(ctx, carol, "!none:here", ""), "M_NOT_FOUND")
		h.ok(s.Invite(ctx, alice, room, bob.UserID, ""))
		if list, err := s.Memberships(ctx, bob.UserNID); err != nil || list[0].Forgotten || list[0].Membership != Invite {
			h.Errorf("memberships %+v", list)
		}
		if again, err := h.open().Memberships(ctx, bob.UserNID); err != nil || fmt.Sprint(again) != fmt.Sprint(must(s.Memberships(ctx, bob.UserNID))) {
			h.Errorf("memberships differ after a restart: %v", again)
		}
		h.chained(room)
		h.matchesDisk(room)
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestKnocking(t *testing.T) {
	h := oneHouse(t)
	ctx := h.Context()
	alice, bob := h.user("alice"), h.user("bob")
	room := h.create(alice, CreateRoom{})
	h.refused(h.svc.Knock(ctx, bob, room, nil, ""), "M_FORBIDDEN")
	h.set(alice, room, typeJoinRules, "", `{"join_rule":"knock"}`)
	h.refused(h.svc.Join(ctx, bob, room, ""), "M_FORBIDDEN")
	h.ok(h.svc.Knock(ctx, bob, room, nil, "please"))
	h.ok(h.svc.Knock(ctx, bob, room, nil, "pretty please"))
	h.membership(room, bob, Knock)
	h.ok(h.svc.Leave(ctx, bob, room, ""))
	h.ok(h.svc.Knock(ctx, bob, room, nil, ""))
	h.ok(h.svc.Kick(ctx, alice, room, bob.UserID, "no"))
	h.ok(h.svc.Knock(ctx, bob, room, nil, ""))
	h.ok(h.svc.Invite(ctx, alice, room, bob.UserID, ""))
	h.refused(h.svc.Knock(ctx, bob, room, nil, ""), "M_FORBIDDEN")
	h.ok(h.svc.Join(ctx, bob, room, ""))
	h.refused(h.svc.Knock(ctx, bob, room, nil, ""), "M_FORBIDDEN")
	h.ok(h.svc.Ban(ctx, alice, room, bob.UserID, ""))
	h.refused(h.svc.Knock(ctx, bob, room, nil, ""), "M_FORBIDDEN")
	h.matchesDisk(room)
}

func TestRestrictedJoin(t *testing.T) {
	for _, rule := range []string{"restricted", "knock_restricted"} {
		h := oneHouse(t)
		ctx := h.Context()
		alice, bob, carol := h.user("alice"), h.user("bob"), h.user("carol")
		club := h.public(carol)
		room := h.create(alice, CreateRoom{PowerLevelOverride: json.RawMessage(`{"invite":50}`)})
		allow := func(to string) {
			h.set(alice, room, typeJoinRules, "", `{"join_rule":"`+rule+`","allow":`+to+`}`)
		}
		for _, bad := range []string{`[]`, `{}`, `"x"`, `[7,{"type":"m.room_membership"},{"type":"other","room_id":"` + string(club) + `"}]`, `[{"type":"m.room_membership","room_id":"!none:here"}]`} {
			allow(bad)
			h.refused(h.svc.Join(ctx, bob, room, ""), "M_FORBIDDEN")
		}
		allow(`[{"type":"m.room_membership","room_id":"` + string(club) + `"}]`)
		h.refused(h.svc.Join(ctx, bob, room, ""), "M_FORBIDDEN")
		h.ok(h.svc.Join(ctx, bob, club, ""))
		h.ok(h.svc.Join(ctx, bob, room, ""))
		if got := h.content(room, typeMember, string(bob.UserID)); got != `{"join_authorised_via_users_server":"@alice:here","membership":"join"}` {
			t.Errorf("the join is %s, want one that names the authorising user", got)
		}
		h.ok(h.svc.ProfileChanged(ctx, bob, Profile{DisplayName: "Bobby"}))
		if got := h.content(room, typeMember, string(bob.UserID)); got != `{"displayname":"Bobby","membership":"join"}` {
			t.Errorf("after a new display name the member event is %s, want one without the authorising user", got)
		}
		h.set(bob, room, typeMember, string(bob.UserID), `{"membership":"join","displayname":"Bob","join_authorised_via_users_server":"unused"}`)
		if got := h.content(room, typeMember, string(bob.UserID)); got != `{"displayname":"Bob","membership":"join"}` {
			t.Errorf("set as a state event, the member event is %s", got)
		}
		h.ok(h.svc.Leave(ctx, bob, room, ""))
		h.ok(h.svc.Leave(ctx, bob, club, ""))
		h.refused(h.svc.Join(ctx, bob, room, ""), "M_FORBIDDEN")
		h.ok(h.svc.Invite(ctx, alice, room, bob.UserID, ""))
		h.ok(h.svc.Join(ctx, bob, room, ""))
		h.matchesDisk(room)
	}
}

func TestMembershipAsState(t *testing.T) {
	h := oneHouse(t)
	alice, bob := h.user("alice"), h.user("bob")
	room := h.public(alice)
	set := func(who ident.Requester, key, content string) error {
		_, err := h.trySet(who, room, typeMember, key, content)
		return err
	}
	h.refused(set(alice, "bob", `{"membership":"invite"}`), "M_INVALID_PARAM")
	h.refused(set(alice, "@bob:here", `{}`), "M_BAD_JSON")
	h.refused(set(alice, "@bob:here", `{"membership":"friend"}`), "M_BAD_JSON")
	h.refused(set(alice, "@bob:elsewhere", `{"membership":"invite"}`), "M_FORBIDDEN")
	h.refused(set(alice, "@bob:here", `{"membership":"join"}`), "M_FORBIDDEN")
	h.ok(set(bob, "@bob:here", `{"membership":"join","displayname":"B"}`))
	h.membership(room, bob, Join)
	h.ok(set(bob, "@bob:here", `{"membership":"join","displayname":"C"}`))
	list := must(h.svc.Memberships(t.Context(), bob.UserNID))
	if list[0].JoinedPos == list[0].Position || list[0].JoinedPos == 0 {
		t.Errorf("after a new display name JoinedPos is that of the name, or 0: %+v", list[0])
	}
	h.ok(set(alice, "@bob:here", `{"membership":"ban"}`))
	h.membership(room, bob, Ban)
	_, err := h.trySet(alice, room, typeCreate, "", `{"room_version":"12"}`)
	h.refused(err, "M_INVALID_PARAM")
	h.matchesDisk(room)
}

func TestProfileReachesEveryRoom(t *testing.T) {
	profile := Profile{DisplayName: "Bob", AvatarURL: "mxc://here/b"}
	h := oneHouse(t, func(o *Options) {
		o.Profile = func(_ context.Context, user id.UserID) (Profile, error) {
			if user == "@bob:here" {
				return profile, nil
			}
			return Profile{}, nil
		}
	})
	alice, bob := h.user("alice"), h.user("bob")
	var rooms []id.RoomID
	for range 20 {
		rooms = append(rooms, h.public(alice, bob))
	}
	left := h.public(alice, bob)
	h.ok(h.svc.Leave(t.Context(), bob, left, ""))
	if got := h.content(rooms[0], typeMember, string(bob.UserID)); got != `{"avatar_url":"mxc://here/b","displayname":"Bob","membership":"join"}` {
		t.Errorf("the join is %s, want one with the profile", got)
	}
	h.ok(h.svc.ProfileChanged(t.Context(), bob, Profile{DisplayName: "Robert"}))
	for _, room := range rooms {
		if got := h.content(room, typeMember, string(bob.UserID)); got != `{"displayname":"Robert","membership":"join"}` {
			t.Errorf("after the change of the display name the member event is %s", got)
		}
	}
	if got := h.content(left, typeMember, string(bob.UserID)); got != `{"membership":"leave"}` {
		t.Errorf("in a room that bob has left, the member event is %s, want it unchanged", got)
	}
	h.ok(h.svc.LeaveAll(t.Context(), bob))
	for _, room := range rooms {
		h.membership(room, bob, Leave)
		h.matchesDisk(room)
	}
}

func TestRedaction(t *testing.T) {
	eachHouse(t, func(h *house) {
		alice, bob, eve := h.user("alice"), h.user("bob"), h.user("eve")
		for _, v := range []id.RoomVersion{"1", "9", "11", "12"} {
			room := h.create(alice, CreateRoom{RoomVersion: v, Preset: newroom.Public})
			h.ok(h.svc.Join(h.Context(), bob, room, ""))
			target := h.say(bob, room, "secret")
			redact := func(s ident.Requester, e id.EventID) (id.EventID, error) {
				return h.svc.Redact(h.Context(), s, room, e, "why", &txns.Txn{Path: string("/redact/" + e), ID: "1"})
			}
			_, err := redact(eve, target)
			h.refused(err, "M_FORBIDDEN")
			_, err = redact(bob, "$nothing")
			h.refused(err, "M_NOT_FOUND")
			_, err = redact(bob, h.say(alice, room, "mine"))
			h.refused(err, "M_FORBIDDEN")
			_, err = redact(alice, h.room(room).State(typeCreate, "").ID())
			h.refused(err, "M_FORBIDDEN")
			_, err = h.trySend(alice, room, typeRedaction, `{}`)
			h.refused(err, "M_MISSING_PARAM")
			by, err := redact(alice, target)
			h.ok(err)
			if again, err := redact(alice, target); err != nil || again != by {
				h.Errorf("repeated: %s %v", again, err)
			}
			name := h.set(alice, room, typeName, "", `{"name":"secret too"}`)
			h.send(alice, room, typeRedaction, `{"redacts":"`+string(name)+`","reason":"x"}`)
			for _, e := range append(h.timeline(room), must(h.room(room).FindEvent(h.Context(), target)), h.room(room).State(typeName, "")) {
				if strings.Contains(string(e.JSON()), "secret") {
					h.Errorf("version %s: %s still says %s", v, e.ID(), e.JSON())
				}
				if e.ID() == by && e.Redacts() != target {
					h.Errorf("version %s: the redaction redacts %q", v, e.Redacts())
				}
			}
			ring, _ := h.room(room).Recent(0)
			for _, e := range ring {
				if (e.RedactedBy != 0) != (e.ID() == target || e.ID() == name) {
					h.Errorf("%s is redacted by %d", e.ID(), e.RedactedBy)
				}
			}
			h.chained(room)
			h.matchesDisk(room)
		}
	})
}

func TestRelations(t *testing.T) {
	h := oneHouse(t)
	alice := h.user("alice")
	room := h.public(alice)
	root := h.say(alice, room, "root")
	relate := func(rel string, to id.EventID, more string) (id.EventID, error) {
		return h.trySend(alice, room, "m.room.message", `{"body":"x","m.relates_to":{"rel_type":"`+rel+`","event_id":"`+string(to)+`"`+more+`}}`)
	}
	find := func(e id.EventID) *Event { return must(h.room(room).FindEvent(t.Context(), e)) }
	thread := func() (latest ident.Order) {
		h.ok(h.db.Read(t.Context(), func(tx *storage.Tx) (err error) {
			latest, err = tx.ThreadLatest(find(root).Pos)
			return err
		}))
		return latest
	}
	first := must(relate(relThread, root, ""))
	second := must(relate(relThread, root, ""))
	reaction := must(h.trySend(alice, room, "m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"`+string(first)+`","key":"+"}}`))
	for _, e := range []id.EventID{first, second, reaction} {
		if find(e).ThreadRoot != find(root).Pos {
			t.Errorf("%s has ThreadRoot %d, want %d", e, find(e).ThreadRoot, find(root).Pos)
		}
	}
	if e := must(relate("m.reference", root, "")); find(e).ThreadRoot != 0 {
		t.Error("an event that refers to a thread root counts as part of the thread")
	}
	_, err := relate(relThread, first, "")
	h.refused(err, "M_UNKNOWN")
	_, err = h.trySend(alice, room, "m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"`+string(first)+`","key":"+"}}`)
	h.refused(err, "M_DUPLICATE_ANNOTATION")
	must(h.trySend(alice, room, "m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"`+string(first)+`","key":"-"}}`))
	if thread() != find(second).Order {
		t.Error("the thread's latest reply is not the second")
	}
	for _, c := range []struct {
		redact id.EventID
		want   ident.Order
	}{{second, find(first).Order}, {reaction, find(first).Order}, {first, 0}} {
		must(h.svc.Redact(t.Context(), alice, room, c.redact, "", nil))
		if thread() != c.want {
			t.Errorf("after the redaction of %s the latest reply has order %d, want %d", c.redact, thread(), c.want)
		}
	}
	for _, odd := range []string{`7`, `{}`, `{"rel_type":7,"event_id":"$x"}`, `{"rel_type":"m.thread"}`, `{"rel_type":"m.thread","event_id":"$unknown"}`, `{"rel_type":"m.thread","event_id":"` + strings.Repeat("x", 300) + `"}`} {
		h.send(alice, room, "m.room.message", `{"m.relates_to":`+odd+`}`)
	}
	h.chained(room)
}

// outcomes is a rule set that notifies everybody and highlights every event for bob.
type outcomes struct{ bob ident.UserNID }

func (o outcomes) FollowThreads(context.Context, ident.UserNID, id.UserID) error { return nil }

func (o outcomes) Follow(context.Context, ident.UserNID, id.UserID, id.RoomID, id.RoomID) error {
	return nil
}

func (o outcomes) Evaluate(e *pdu.Event, room pushrules.RoomInfo) pushrules.Outcome {
	out := pushrules.Outcome{Default: pushrules.Notify}
	if _, in := room.LocalMember("@bob:here"); in && room.JoinedCount() > 1 {
		out.Users = map[ident.UserNID]pushrules.Class{o.bob: pushrules.Notify | pushrules.Highlight}
	}
	return out
}

func TestPushOutcomeIsStored(t *testing.T) {
	h := oneHouse(t)
	alice, bob := h.user("alice"), h.user("bob")
	h.svc.opts.Push = outcomes{bob.UserNID}
	room := h.public(alice, bob)
	e := h.say(alice, room, "hello bob")
	found := must(h.room(room).FindEvent(t.Context(), e))
	class := func() (n int64) {
		h.ok(h.db.Read(t.Context(), func(tx *storage.Tx) (err error) {
			n, err = tx.EventPush(bob.UserNID, found.Room, found.Pos)
			return err
		}))
		return n
	}
	if found.Push != pushrules.Notify || class() != int64(pushrules.Notify|pushrules.Highlight) {
		t.Errorf("the class of the event is %d, and %d for bob; want notify, and notify and highlight for bob", found.Push, class())
	}
	must(h.svc.Redact(t.Context(), alice, room, e, "", nil))
	if class() != 0 || must(h.room(room).FindEvent(t.Context(), e)).Push != 0 {
		t.Error("a redacted event still has a push class")
	}
}

func TestChangesWakeTheUsersConcerned(t *testing.T) {
	h := oneHouse(t)
	alice, bob, eve := h.user("alice"), h.user("bob"), h.user("eve")
	room := h.public(alice)
	woken := func(s ident.Requester, do func()) bool {
		var woken atomic.Bool
		sub := h.svc.opts.Hub.Park(s.UserNID, s.DeviceNID, func() { woken.Store(true) })
		defer sub.Close()
		do()
		return woken.Load()
	}
	if !woken(alice, func() { h.say(alice, room, "x") }) || woken(eve, func() { h.say(alice, room, "x") }) {
		t.Error("a message did not wake a member, or it woke a user outside the room")
	}
	if !woken(bob, func() { h.ok(h.svc.Invite(t.Context(), alice, room, bob.UserID, "")) }) {
		t.Error("an invite does not wake the invited user")
	}
	h.ok(h.svc.Join(t.Context(), bob, room, ""))
	if !woken(bob, func() { h.ok(h.svc.Kick(t.Context(), alice, room, bob.UserID, "")) }) {
		t.Error("a kick does not wake the kicked user")
	}
	if woken(bob, func() { h.say(alice, room, "x") }) {
		t.Error("a message wakes a user who was kicked before")
	}
	if woken(bob, func() {
		if err := h.sendFailing(t.Context(), alice, room); !errors.Is(err, errInjected) {
			t.Error(err)
		}
	}) {
		t.Error("a failed request wakes a user")
	}
}
