package eventauth

import (
	"maunium.net/go/mautrix/id"
)

// judgePowerLevels applies authorisation rule 10, about m.room.power_levels.
func (c *check) judgePowerLevels() verdict {
	next := readLevels(c.v, c.e.Content())
	if d := c.judgeLevelShape(next); d.msg != "" {
		return d
	}
	// 10.5 Without previous power levels the event is allowed.
	if c.auth.Get(typePowerLevels, "") == nil {
		return allow(c.n.first)
	}
	return c.judgeLevelChanges(next)
}

// judgeLevelShape checks the format of the content of m.room.power_levels: auth rules 10.1 to 10.4.
func (c *check) judgeLevelShape(next *givenLevels) verdict {
	if c.v.IntegerPowerLevels && next.badNamed { // 10.1
		return reject(c.n.named, "a power level is not an integer")
	}
	if c.v.IntegerPowerLevels && next.badMaps { // 10.2
		return reject(c.n.maps, "events or notifications is not an object of integers")
	}
	// 10.3. Before version 6 the event is also rejected if any other number is out of range.
	// Spec: rooms/v1#mroompower_levels-events-accept-values-as-floats
	if next.badUsers || next.beyondAll {
		return reject(c.n.users, "users is not an object of user IDs and integers")
	}
	for _, creator := range privilegedCreators(c.v, c.create) { // 10.4
		if _, ok := next.users[creator]; ok {
			return reject(c.n.creators, "users contains a creator of the room")
		}
	}
	return verdict{}
}

// judgeLevelChanges applies rules 10.6 to 10.10: users may neither change levels above their own nor grant such levels.
func (c *check) judgeLevelChanges(next *givenLevels) verdict {
	level := c.power().UserLevel(c.e.Sender())
	old := readLevels(c.v, c.auth.Get(typePowerLevels, "").Content())
	// 10.6
	for i := range levelNames {
		if old.has[i] == next.has[i] && old.named[i] == next.named[i] {
			continue
		}
		if old.has[i] && old.named[i] > level { // 10.6.1
			return reject(c.n.changedNamed+".1", levelNames[i]+" is above the sender's power level")
		}
		if next.has[i] && next.named[i] > level { // 10.6.2
			return reject(c.n.changedNamed+".2", levelNames[i]+" would be above the sender's power level")
		}
	}
	// 10.7.1
	if above(old.events, next.events, level) || c.v.NotificationsAuth && above(old.notifications, next.notifications, level) {
		return reject(c.n.removedEntry+".1", "an entry is above the sender's power level")
	}
	// 10.8.1
	if above(next.events, old.events, level) || c.v.NotificationsAuth && above(next.notifications, old.notifications, level) {
		return reject(c.n.addedEntry+".1", "an entry would be above the sender's power level")
	}
	// 10.9.1
	for user, was := range old.users {
		if now, ok := next.users[user]; user != c.e.Sender() && (!ok || now != was) && was >= level {
			return reject(c.n.removedUser+".1", "another user's level is not below the sender's")
		}
	}
	// 10.10.1
	if above(next.users, old.users, level) {
		return reject(c.n.addedUser+".1", "a user's level would be above the sender's")
	}
	return allow(c.n.otherwiseLevels) // 10.11
}

// above reports whether a has an entry that is greater than level and that b lacks or has with another value.
func above[K comparable](a, b map[K]int64, level int64) bool {
	for key, value := range a {
		if other, ok := b[key]; (!ok || other != value) && value > level {
			return true
		}
	}
	return false
}

// MayRedact reports whether a redaction sent by redactor applies to an event sent by sender. Either redactor must have
// the power level for redactions, or both must be users of the same server. In versions 1 and 2 the authorisation rules
// contain a similar rule.
//
// Spec: rooms/v3#handling-redactions
func MayRedact(levels *PowerLevels, redactor, sender id.UserID) bool {
	return levels.UserLevel(redactor) >= levels.Redact || sameServer(redactor, sender)
}

func sameServer(a, b id.UserID) bool { return domain(string(a)) == domain(string(b)) }
