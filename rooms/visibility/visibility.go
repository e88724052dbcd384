// Package visibility decides which events of a room a user may see, by the room's history visibility and the user's
// membership.
//
// It is pure: the caller looks up the room state at the event and puts it into a View, and CanSee decides. Other
// reasons to hide an event (retention, ignored users, redaction) are not handled here.
package visibility

import "encoding/json"

// History is the value of m.room.history_visibility.
type History string

// The history visibilities of the specification.
const (
	WorldReadable History = "world_readable"
	Shared        History = "shared"
	Invited       History = "invited"
	Joined        History = "joined"
)

// Membership is a user's membership in a room: the membership of their m.room.member event, or Leave if there is none.
type Membership string

// The memberships that CanSee distinguishes; all others count as Leave.
const (
	Join   Membership = "join"
	Invite Membership = "invite"
	Leave  Membership = "leave"
)

// ParseHistory returns the history visibility in the content of an m.room.history_visibility event. It returns Shared
// if content is nil, as for a room without such an event, or if the value is missing or unknown.
//
// Spec: client-server-api#server-behaviour-5 (room history visibility)
func ParseHistory(content json.RawMessage) History {
	var c map[string]any // not a struct, because encoding/json would also match HISTORY_VISIBILITY
	if json.Unmarshal(content, &c) != nil {
		return Shared
	}
	value, _ := c["history_visibility"].(string)
	switch h := History(value); h {
	case WorldReadable, Shared, Invited, Joined:
		return h
	}
	return Shared
}

// View describes one event from the point of view of one user.
type View struct {
	// History and Membership are taken from the room state before the event. An empty History means Shared, an empty
	// Membership means Leave.
	History    History
	Membership Membership

	// HistoryAfter is set only for a history visibility event: the value that it sets.
	HistoryAfter History
	// MembershipAfter is set only for the user's own m.room.member event: the membership that it sets.
	MembershipAfter Membership

	// JoinedSince reports whether the user was joined at any time after the event. It is true for current members.
	JoinedSince bool
}

// CanSee reports whether the user may see the event. A history visibility event is visible if either the value before
// it or the value that it sets allows it, and a user's own member event if their membership before or after it allows
// it.
//
//	history \ membership   join   invite               other
//	world_readable         yes    yes                  yes
//	shared                 yes    if joined since      if joined since
//	invited                yes    yes                  no
//	joined                 yes    no                   no
//
// Spec: client-server-api#server-behaviour-5 (room history visibility)
func CanSee(v View) bool {
	if v.HistoryAfter != "" && permits(v.HistoryAfter, v.Membership, v.JoinedSince) {
		return true
	}
	if v.MembershipAfter != "" && permits(v.History, v.MembershipAfter, v.JoinedSince) {
		return true
	}
	return permits(v.History, v.Membership, v.JoinedSince)
}

func permits(h History, m Membership, joinedSince bool) bool {
	switch {
	case h == WorldReadable: // 1
		return true
	case m == Join: // 2
		return true
	case h == Invited: // 4
		return m == Invite
	case h == Joined: // 5
		return false
	}
	return joinedSince // 3
}
