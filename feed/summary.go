package feed

import (
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms"
)

// summary is the summary of a joined room: its heroes, and the numbers of its members.
// Spec: client-server-api#get_matrixclientv3sync, RoomSummary
type summary struct {
	changed         bool        // may differ from what the client has
	completed       bool        // all members are known now, since the token
	heroes          []id.UserID // nil if the room has a name
	joined, invited int
}

// gatherSummary gathers the summary of a room if a membership may have changed, or if all its members have become
// known.
func (b *builder) gatherSummary(n *roomNews) {
	s := &n.summary
	s.completed = n.room.Completed() > n.since
	if s.changed = n.fresh() || n.full || s.completed || n.changedMembers(); !s.changed {
		return
	}
	if !named(n.room) {
		s.heroes = heroes(n.room, b.UserID)
	}
	s.joined, s.invited = n.room.Count(rooms.Join), n.room.Count(rooms.Invite)
}

// changedMembers reports whether a membership of the room may have changed since the position up to which the client
// has the room.
func (n *roomNews) changedMembers() bool {
	return !n.window.whole || slices.ContainsFunc(n.window.events, func(e *rooms.Event) bool { return e.Type() == memberType })
}

// named reports whether a room has a name or a canonical alias, so that it needs no heroes.
func named(room *rooms.Room) bool {
	for _, by := range [...]struct{ typ, key string }{{"m.room.name", "name"}, {"m.room.canonical_alias", "alias"}} {
		if e := room.State(by.typ, ""); e != nil {
			if raw, ok := canonjson.Get(e.Content(), by.key); ok && len(raw) > len(`""`) && raw[0] == '"' {
				return true
			}
		}
	}
	return false
}

// maxHeroes bounds the members by whom a room without a name is called.
const maxHeroes = 5

// heroes returns the members after whom clients name a room without a name: joined or invited members, or, if there are
// no others, former members.
func heroes(room *rooms.Room, self id.UserID) []id.UserID {
	for _, of := range [][]rooms.Membership{{rooms.Join, rooms.Invite}, {rooms.Leave, rooms.Ban}} {
		members := slices.DeleteFunc(room.Members(of...), func(m *rooms.Member) bool { return m.User == self })
		if len(members) == 0 {
			continue
		}
		slices.SortFunc(members, func(a, b *rooms.Member) int { return int(a.Pos - b.Pos) })
		names := make([]id.UserID, 0, maxHeroes)
		for _, m := range members[:min(maxHeroes, len(members))] {
			names = append(names, m.User)
		}
		return names
	}
	return []id.UserID{}
}
