package feed

import (
	"context"
	"maunium.net/go/mautrix/id"

	"ebb/rooms"
)

// gatherStripped gathers the stripped state of a room that the user is invited to or knocks on. It reports whether the
// room is part of the answer; invites by users whom the user ignores are not.
func (b *builder) gatherStripped(ctx context.Context, m *rooms.RoomMembership, n *roomNews) (bool, error) {
	room, err := b.opts.Rooms.RoomByNID(ctx, m.Room)
	if err != nil {
		return false, err
	}
	own := room.State(memberType, string(b.UserID))
	if own == nil || !b.admits(room) || b.ignores(own.Sender()) {
		return false, nil
	}
	events, err := b.opts.Rooms.StrippedState(ctx, b.UserNID, room)
	if err != nil {
		return false, err
	}
	n.reset(roomQuery{room: room})
	n.stripped = append(n.stripped, events...)
	if own.Sender() != b.UserID { // clients show the inviter's name and avatar
		if e := room.State(memberType, string(own.Sender())); e != nil && room.Resident() {
			n.stripped = append(n.stripped, e.JSON())
		}
	}
	n.stripped = append(n.stripped, own.JSON())
	return true, nil
}

// ignores reports whether the user ignores another one.
func (b *builder) ignores(user id.UserID) bool {
	_, ignored := b.ignored[user]
	return ignored
}
