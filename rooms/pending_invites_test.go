package rooms

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/handshake"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// floodInvite invites a user to a room that does not exist, with as much state as an invite may have.
func (n *network) floodInvite(victim *peer, user ident.Requester, i int) error {
	key := string(user.UserID)
	v, _ := pdu.VersionOf(id.RoomV11)
	room := id.RoomID(fmt.Sprintf("!%d:evil", i))
	invite, err := pdu.Build(v, pdu.Proto{
		RoomID: room, Type: typeMember, StateKey: &key, Sender: id.UserID(fmt.Sprintf("@m%d:evil", i)), OriginServerTS: victim.now.UnixMilli(), Depth: 9,
		Content: json.RawMessage(`{"membership":"invite","x":"` + strings.Repeat("x", 50_000) + `"}`), PrevEvents: []id.EventID{"$a"}, AuthEvents: []id.EventID{"$a"},
	}, n.signer("evil").Current())
	victim.ok(err)
	shown := []json.RawMessage{json.RawMessage(`{"type":"m.room.name","state_key":"","sender":"@m:evil","content":{"name":"buy"}}`)}
	for k := range 9 {
		shown = append(shown, json.RawMessage(fmt.Sprintf(`{"type":"x.%d","state_key":"","sender":"@m:evil","content":{"x":%q}}`, k, strings.Repeat("x", 50_000))))
	}
	_, err = victim.svc.ReceiveInvite(n.Context(), ReceivedInvite{
		Origin: "evil", Version: id.RoomV11, Room: room, Event: invite.ID(), PDU: invite.JSON(), Stripped: shown,
	})
	return err
}

func TestInviteFloodIsBoundedAndBlocksNoOtherInvites(t *testing.T) {
	n := newNetwork(t)
	a, b := n.add("a"), n.add("b")
	alice, bob, carol := a.user("alice"), b.user("bob"), b.user("carol")
	taken := 0
	for i := range 100 {
		switch err := n.floodInvite(b, bob, i); mxerr.Code(err) {
		case "":
			b.ok(err)
			taken++
		case mxerr.CodeForbidden:
		default:
			b.ok(err)
		}
	}
	var size int64
	b.ok(b.db.Read(t.Context(), func(tx *storage.Tx) error {
		pending, err := tx.PendingInvites(bob.UserNID)
		for _, p := range pending {
			size += p.Size
		}
		return err
	}))
	const largest = pdu.MaxSize + 80<<10
	if size > (4<<20)+largest || taken < (4<<20)/largest || taken == 100 {
		t.Errorf("%d invites with %d bytes of stripped state were accepted", taken, size)
	}
	told, err := b.svc.StrippedState(t.Context(), bob.UserNID, b.room("!0:evil"))
	b.ok(err)
	if handshake.TypeOf(told[0]) != typeName || len(told) > 2 {
		t.Errorf("the stripped state has %d events, the first of type %s; want at most 2, the name first", len(told), handshake.TypeOf(told[0]))
	}
	room := a.create(alice, CreateRoom{Invite: []id.UserID{bob.UserID}})
	if m := b.room(room).Membership(bob.UserID); m != Invite {
		t.Errorf("after the flood and alice's invite bob's membership is %q, want invite", m)
	}
	b.ok(b.svc.Invite(t.Context(), carol, b.create(carol, CreateRoom{}), bob.UserID, ""))
	for i := range taken { // declined invites do not count
		b.ok(b.svc.Leave(t.Context(), bob, id.RoomID(fmt.Sprintf("!%d:evil", i)), ""))
	}
	b.ok(n.floodInvite(b, bob, 1000))
}

func TestInvitesFromOneUserToAnotherAreBounded(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}))
	alice, bob, carol := h.user("alice"), h.user("bob"), h.user("carol")
	big := strings.Repeat("x", 60_000)
	refused := false
	for range (4<<20)/60_000 + 10 {
		room := h.create(alice, CreateRoom{})
		content := json.RawMessage(`{"membership":"invite","x":"` + big + `"}`)
		key := string(bob.UserID)
		_, err := h.svc.Send(t.Context(), NewEvent{Room: room, Sender: alice, Type: typeMember, StateKey: &key, Content: content})
		if refused = mxerr.Code(err) == mxerr.CodeForbidden; refused {
			break
		}
		h.ok(err)
	}
	if !refused {
		t.Error("no invite was refused")
	}
	h.ok(h.svc.Invite(t.Context(), carol, h.create(carol, CreateRoom{}), bob.UserID, ""))
}
