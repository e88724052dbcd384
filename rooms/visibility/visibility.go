// Package visibility decides which events of a room a user may see, by the room's history visibility and the user's
// membership.
//
// It is pure: a caller looks up what the room's state was at the event and puts it into a View; CanSee answers. What
// else may hide an event (retention, ignored users, redaction) is not decided here.
package visibility

import "encoding/json"

// History is the value of m.room.history_visibility.
type History string

// The values of the specification.
const (
	WorldReadable History = "world_readable"
	Shared        History = "shared"
	Invited       History = "invited"
	Joined        History = "joined"
)

// Membership is the membership of a user: the value of m.room.member, or Leave for one who never had any.
type Membership string

// The memberships that make a difference; the others count as Leave.
const (
	Join   Membership = "join"
	Invite Membership = "invite"
	Leave  Membership = "leave"
)

// ParseHistory reads the content of a history visibility event; nil stands for a room without one. What is missing or
// not understood is Shared.
//
// Spec: client-server-api#server-behaviour-5 (room history visibility)
func ParseHistory(content json.RawMessage) History {
	var c map[string]any // no struct: encoding/json would take HISTORY_VISIBILITY for the member
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

// View is how a user stands to one event.
type View struct {
	// History and Membership are those of the room's state before the event. The zero History is Shared and the zero
	// Membership is Leave.
	History    History
	Membership Membership

	// HistoryAfter is set for a history visibility event: the value that it sets.
	HistoryAfter History
	// MembershipAfter is set for the user's own member event: the membership that it gives.
	MembershipAfter Membership

	// JoinedSince tells whether the user was joined at any point after the event. It is true for whoever is joined now.
	JoinedSince bool
}

// CanSee tells whether the user may see the event. A history visibility event is seen by whom the value on either side
// of it lets see it, and a user's own member event by that user's membership on either side.
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
