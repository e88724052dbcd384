package feed

import (
	"context"
	"maunium.net/go/mautrix/id"

	"ebb/rooms"
)

// gatherStripped gathers the stripped state of a room that the user is invited to or knocks on. It reports whether the
// room is part of the answer; invites that the user does not want to see are not.
func (b *builder) gatherStripped(ctx context.Context, m *rooms.RoomMembership, n *roomNews) (bool, error) {
	room, err := b.opts.Rooms.RoomByNID(ctx, m.Room)
	if err != nil {
		return false, err
	}
	own := room.State(memberType, string(b.UserID))
	if own == nil || !b.admits(room) {
		return false, nil
	}
	if hidden, err := b.hidesInvite(ctx, m, own.Sender()); err != nil || hidden {
		return false, err
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

// hidesInvite reports whether the user does not want to see an invite: its sender is ignored, or the user's account
// data blocks or ignores such invites.
func (b *builder) hidesInvite(ctx context.Context, m *rooms.RoomMembership, inviter id.UserID) (bool, error) {
	if b.ignores(inviter) || m.Membership != rooms.Invite {
		return b.ignores(inviter), nil
	}
	return b.opts.Rooms.HidesInvite(ctx, b.UserNID, inviter)
}

// ignores reports whether the user of the request ignores the given user.
func (b *builder) ignores(user id.UserID) bool {
	_, ignored := b.ignored[user]
	return ignored
}
