package feed

import (
	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms"
)

// strippedTypes are what a room shows of itself to whom it does not let in yet.
// Spec: client-server-api#stripped-state
var strippedTypes = []string{
	"m.room.create", "m.room.name", "m.room.avatar", "m.room.topic", "m.room.join_rules", "m.room.canonical_alias", "m.room.encryption",
}

// writeInvited appends the entry of a room that the user is invited to, unless by somebody whom the user ignores.
func (b *builder) writeInvited(m *rooms.RoomMembership) error {
	return b.writeStripped(m, "invite_state")
}

// writeKnocked appends the entry of a room that the user knocks at.
func (b *builder) writeKnocked(m *rooms.RoomMembership) error {
	return b.writeStripped(m, "knock_state")
}

func (b *builder) writeStripped(m *rooms.RoomMembership, section string) error {
	room, err := b.Rooms.RoomByNID(b.ctx, m.Room)
	if err != nil {
		return err
	}
	own := room.State(memberType, string(b.ID))
	if own == nil || !b.admits(room) || b.ignores(own.Sender()) {
		return nil
	}
	b.key(string(room.ID()))
	b.out = append(b.out, `{"`...)
	b.out = append(b.out, section...)
	b.out = append(b.out, `":{"events":[`...)
	for _, typ := range strippedTypes {
		b.stripped(room.State(typ, ""))
	}
	if own.Sender() != b.ID { // who invites has a name and a face
		b.stripped(room.State(memberType, string(own.Sender())))
	}
	b.stripped(own)
	b.out = append(b.out, `]}},`...)
	return nil
}

// stripped appends the stripped form of a state event.
func (b *builder) stripped(e *rooms.Event) {
	if e == nil {
		return
	}
	key, _ := e.StateKey()
	b.out = append(b.list(), `{"content":`...)
	b.out = append(b.out, e.Content()...)
	b.out = append(b.out, `,"sender":`...)
	b.out = canonjson.AppendString(b.out, string(e.Sender()))
	b.out = append(b.out, `,"state_key":`...)
	b.out = canonjson.AppendString(b.out, key)
	b.out = append(b.out, `,"type":`...)
	b.out = canonjson.AppendString(b.out, e.Type())
	b.out = append(b.out, '}')
}

// ignores tells whether the user ignores another one.
func (b *builder) ignores(user id.UserID) bool {
	_, ignored := b.ignored[user]
	return ignored
}
