package pushrules

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/pdu"
)

// Class is the effect of an event on a user's unread counts. The database stores it in events.push and event_push.push.
type Class int64

// These are the bits of a Class. Highlight is never set without Notify.
const (
	Notify    Class = 1
	Highlight Class = 2
)

// Outcome is the result of the push rules for one event. Default applies to every local member who is not in Users.
// Neither applies to the sender, whose own events never notify them.
type Outcome struct {
	Default Class
	Users   map[ident.UserNID]Class // by user nid
}

// For returns the class of the event for one user.
func (o Outcome) For(user ident.UserNID) Class {
	if c, ok := o.Users[user]; ok {
		return c
	}
	return o.Default
}

// Actions returns the actions of a rule that gives an event exactly this class.
func (c Class) Actions() (actions []json.RawMessage) {
	if c&Notify != 0 {
		actions = append(actions, json.RawMessage(notify))
	}
	if c&Highlight != 0 {
		actions = append(actions, json.RawMessage(highlight))
	}
	return actions
}

// Tweaks returns the tweaks that actions set.
// Spec: client-server-api#actions
func Tweaks(actions []json.RawMessage) map[string]json.RawMessage {
	var tweaks map[string]json.RawMessage
	for _, a := range actions {
		var tweak struct {
			Name  string          `json:"set_tweak"`
			Value json.RawMessage `json:"value"`
		}
		if json.Unmarshal(a, &tweak) != nil || tweak.Name == "" {
			continue
		}
		if tweak.Value == nil {
			tweak.Value = json.RawMessage("true") // a highlight without a value
		}
		if tweaks == nil {
			tweaks = map[string]json.RawMessage{}
		}
		tweaks[tweak.Name] = tweak.Value
	}
	return tweaks
}

// State provides the conditions of push rules with the state of an event's room.
type State interface {
	// JoinedCount returns the number of joined members, including remote ones.
	JoinedCount() int
	// DisplayName returns a member's display name in the room, "" if there is none.
	DisplayName(user id.UserID) string
	// MayNotify reports whether the sender has the power level that the room requires for notifications of the given
	// kind, such as "room".
	MayNotify(sender id.UserID, key string) bool
	// InThread reports whether the event is in a thread.
	InThread() bool
	// IsSubscribed reports whether a local user is subscribed to the event's thread.
	IsSubscribed(user ident.UserNID) bool
}

// RoomInfo describes the room before the event. A local member is a local user who is joined or invited.
type RoomInfo interface {
	State
	// LocalMember returns the nid of a local member. It returns false for any other user.
	LocalMember(user id.UserID) (nid ident.UserNID, ok bool)
	// LocalCount returns the approximate number of local members.
	LocalCount() int
	// EachLocal calls f for every local member.
	EachLocal(f func(nid ident.UserNID, user id.UserID))
	// EachNamedIn calls f for the local members whose display names occur in a lower-case text. It may call f several
	// times for the same member.
	EachNamedIn(text string, f func(nid ident.UserNID, user id.UserID))
}

// Event is an event in the form that the rules are evaluated on.
type Event = pdu.Event
