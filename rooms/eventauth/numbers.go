package eventauth

import (
	"strconv"

	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

// numbers has the numbers of the authorisation rules in one room version. They differ between versions because versions
// insert and remove rules.
type numbers struct {
	noCreate, otherRoom                         string // 2.4 and 2.5 before version 12, both 2 in version 12
	authEvents, authRoom                        string // the rule about auth_events, and its point about the room ID
	federate, aliases, member, joined           string
	thirdParty, level, stateKey                 string
	powerLevels, redaction, otherwise           string
	via, join, invite, leave, ban, knock, other string // points of the rule about m.room.member
	restricted, public, noJoin                  string // points of the rule about joins
	named, maps, users, creators, first         string // points of the rule about m.room.power_levels, in order
	changedNamed, removedEntry, addedEntry      string
	removedUser, addedUser, otherwiseLevels     string
}

var numbersByVersion = buildNumbers()

func buildNumbers() map[id.RoomVersion]*numbers {
	table := make(map[id.RoomVersion]*numbers)
	for _, name := range pdu.Versions() {
		v, _ := pdu.VersionOf(name)
		table[name] = count(v)
	}
	return table
}

func numbersOf(v *pdu.Version) *numbers {
	if n, ok := numbersByVersion[v.ID]; ok {
		return n
	}
	return count(v)
}

// counter returns consecutive rule numbers, such as 5.1, 5.2 and so on for the prefix "5.".
type counter struct {
	prefix string
	last   int
}

func (c *counter) next() string {
	c.last++
	return c.prefix + strconv.Itoa(c.last)
}

// nextIf returns the next number if has is true, because the version has the rule, and otherwise "".
func (c *counter) nextIf(has bool) string {
	if !has {
		return ""
	}
	return c.next()
}

// count numbers the rules of a room version in the order in which the specification lists them.
func count(v *pdu.Version) *numbers {
	n := &numbers{}
	rule := counter{last: 1} // 1 is m.room.create in all versions
	if v.RoomIDIsCreateHash {
		n.noCreate = rule.next()
		n.otherRoom = n.noCreate
	}
	n.authEvents = rule.next()
	n.authRoom = n.authEvents + ".4"
	if !v.RoomIDIsCreateHash {
		n.noCreate, n.otherRoom = n.authEvents+".4", n.authEvents+".5"
		n.authRoom = n.otherRoom
	}
	n.federate = rule.next()
	n.aliases = rule.nextIf(v.SpecialAliasesAuth)
	n.member = rule.next()
	n.joined = rule.next()
	n.thirdParty = rule.next()
	n.level = rule.next()
	n.stateKey = rule.next()
	n.powerLevels = rule.next()
	n.redaction = rule.nextIf(v.RedactionByAuthRules)
	n.otherwise = rule.next()
	countMember(v, n)
	countPowerLevels(v, n)
	return n
}

func countMember(v *pdu.Version, n *numbers) {
	part := counter{prefix: n.member + ".", last: 1} // .1 requires state_key and membership
	n.via = part.nextIf(v.Restricted)
	n.join = part.next()
	n.invite = part.next()
	n.leave = part.next()
	n.ban = part.next()
	n.knock = part.nextIf(v.Knock)
	n.other = part.next()

	joins := counter{prefix: n.join + ".", last: 4} // .4 is join_rule invite
	n.restricted = joins.nextIf(v.Restricted)
	n.public = joins.next()
	n.noJoin = joins.next()
}

func countPowerLevels(v *pdu.Version, n *numbers) {
	part := counter{prefix: n.powerLevels + "."}
	n.named = part.nextIf(v.IntegerPowerLevels)
	n.maps = part.nextIf(v.IntegerPowerLevels)
	n.users = part.next()
	n.creators = part.nextIf(v.PrivilegedCreators)
	n.first = part.next()
	n.changedNamed = part.next()
	n.removedEntry = part.next()
	n.addedEntry = part.next()
	n.removedUser = part.next()
	n.addedUser = part.next()
	n.otherwiseLevels = part.next()
}
