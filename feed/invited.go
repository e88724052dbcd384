package feed

import (
	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms"
)

// writeInvited appends the entry of a room that the user is invited to, unless by somebody whom the user ignores.
func (b *builder) writeInvited(m *rooms.RoomMembership) error {
	return b.writeStripped(m, "invite_state")
}

// writeKnocked appends the entry of a room that the user knocks at.
func (b *builder) writeKnocked(m *rooms.RoomMembership) error {
	return b.writeStripped(m, "knock_state")
}

func (b *builder) writeStripped(m *rooms.RoomMembership, section string) error {
	room, err := b.opts.Rooms.RoomByNID(b.ctx, m.Room)
	if err != nil {
		return err
	}
	own := room.State(memberType, string(b.UserID))
	if own == nil || !b.admits(room) || b.ignores(own.Sender()) {
		return nil
	}
	b.key(string(room.ID()))
	b.out = append(b.out, `{"`...)
	b.out = append(b.out, section...)
	b.out = append(b.out, `":{"events":[`...)
	events, err := b.opts.Rooms.StrippedState(b.ctx, b.UserNID, room)
	if err != nil {
		return err
	}
	for _, e := range events {
		b.stripped(e)
	}
	if own.Sender() != b.UserID { // who invites has a name and a face
		if e := room.State(memberType, string(own.Sender())); e != nil && room.Resident() {
			b.stripped(e.JSON())
		}
	}
	b.stripped(own.JSON())
	b.out = append(b.out, `]}},`...)
	return nil
}

// stripped appends the stripped form of a state event. The create event keeps its time too.
// Spec: client-server-api#stripped-state
func (b *builder) stripped(event []byte) {
	typ, _ := canonjson.Get(event, "type")
	members := strippedMembers
	if string(typ) != `"m.room.create"` {
		members = members[1:]
	}
	b.out = append(b.list(), '{')
	for _, name := range members {
		value, ok := canonjson.Get(event, name)
		if !ok {
			continue
		}
		if b.out[len(b.out)-1] != '{' {
			b.out = append(b.out, ',')
		}
		b.key(name)
		b.out = append(b.out, value...)
	}
	b.out = append(b.out, '}')
}

var strippedMembers = []string{"origin_server_ts", "content", "sender", "state_key", "type"}

// ignores tells whether the user ignores another one.
func (b *builder) ignores(user id.UserID) bool {
	_, ignored := b.ignored[user]
	return ignored
}
