package pushrules

import (
	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
)

// Class says what an event does to a reader's unread counts. It is stored as it is (events.push, event_push.push).
type Class int64

// The bits of a Class; a highlight always notifies too.
const (
	Notify    Class = 1
	Highlight Class = 2
)

// Outcome is what the push rules say of one event: Default for every local member who is not in Users. The sender is in
// neither: one's own events never notify.
type Outcome struct {
	Default Class
	Users   map[int64]Class // by user nid
}

// For is the class of the event for one user.
func (o Outcome) For(user int64) Class {
	if c, ok := o.Users[user]; ok {
		return c
	}
	return o.Default
}

// RoomInfo is what the rules look at besides the event: the room before it.
type RoomInfo interface {
	// JoinedCount is the number of joined members, remote ones included.
	JoinedCount() int
	// LocalMember finds a joined or invited member of this server.
	LocalMember(user id.UserID) (nid int64, ok bool)
	// LocalCount is about how many joined or invited members are of this server.
	LocalCount() int
	// EachLocal calls f for every joined or invited member of this server.
	EachLocal(f func(nid int64, user id.UserID))
	// EachNamedIn calls f for the joined and invited members of this server whose display names stand in a text, which is in
	// lower case. It may call f several times for one.
	EachNamedIn(text string, f func(nid int64, user id.UserID))
	// DisplayName is the member's display name in the room, "" if none.
	DisplayName(user id.UserID) string
	// MayNotify says whether the sender's power level reaches the room's level for notifications of this key.
	MayNotify(sender id.UserID, key string) bool
}

// Event is what the rules match: an event of a room.
type Event = pdu.Event
