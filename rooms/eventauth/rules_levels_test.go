package eventauth

// change is a power levels event by someone, where the room has the levels given.
func change(name, rule string, ok bool, sender, old, next string) ruleCase {
	return ruleCase{name, rule, ok, []ev{levels(old)}, state(typePowerLevels, sender, next)}
}

const (
	shape      = "1-9:levels.1 10-12:levels.3" // users
	named1     = "1-9:levels.3.1 10-11:levels.5.1 12:levels.6.1"
	named2     = "1-9:levels.3.2 10-11:levels.5.2 12:levels.6.2"
	removed    = "1-9:levels.4.1 10-11:levels.6.1 12:levels.7.1"
	removed6   = "6-9:levels.4.1 10-11:levels.6.1 12:levels.7.1"
	added      = "1-9:levels.5.1 10-11:levels.7.1 12:levels.8.1"
	added6     = "6-9:levels.5.1 10-11:levels.7.1 12:levels.8.1"
	removedOne = "1-9:levels.6.1 10-11:levels.8.1 12:levels.9.1"
	addedOne   = "1-9:levels.7.1 10-11:levels.9.1 12:levels.10.1"
	allowed    = "1-9:levels.8 10-11:levels.10 12:levels.11"
)

// old50 is a room where mod has 50 and may change power levels.
const old50 = `{"users":{"@mod:a":50,"@admin:a":100},"events":{"m.room.power_levels":50}`

// levelCases are those of rule 10.
var levelCases = []ruleCase{
	change("users is not an object", shape, false, mod, old50+`}`, `{"users":[]}`),
	change("users names what is not a user", shape, false, mod, old50+`}`, `{"users":{"mod":1}}`),
	change("users names a user without server", shape, false, mod, old50+`}`, `{"users":{"@mod":1}}`),
	change("a user's level is null", shape, false, mod, old50+`}`, `{"users":{"@mod:a":null}}`),
	change("a user's level is a list", shape, false, mod, old50+`}`, `{"users":{"@mod:a":[1]}}`),
	change("a user's level is true", shape, false, mod, old50+`}`, `{"users":{"@mod:a":true}}`),
	change("a user's level is a word", shape, false, mod, old50+`}`, `{"users":{"@mod:a":"all"}}`),
	change("a user's level is an empty string", shape, false, mod, old50+`}`, `{"users":{"@mod:a":" "}}`),
	change("a user's level has two signs", shape, false, mod, old50+`}`, `{"users":{"@mod:a":"+-1"}}`),
	change("a user's level is a float in a string", shape, false, mod, old50+`}`, `{"users":{"@mod:a":"1.5"}}`),
	change("a user's level is a float", "6-9:levels.1 10-12:levels.3", false, mod, old50+`}`, `{"users":{"@mod:a":1.5}}`),
	change("a user's level is beyond doubles", "1-5:levels.1", false, mod, old50+`}`, `{"users":{"@mod:a":1e400}}`),
	change("another level is beyond doubles", "1-5:levels.1", false, mod, old50+`}`, `{"kick":-1e400}`),
	change("a user's level is a string", "10-12:levels.3", false, mod, old50+`}`, `{"users":{"@mod:a":"50"}}`),
	change("a level is a string", "10-12:levels.1", false, mod, old50+`}`, `{"kick":"50"}`),
	change("a level is null", "10-12:levels.1", false, mod, old50+`}`, `{"ban":null}`),
	change("a level is a float", "10-12:levels.1", false, mod, old50+`}`, `{"users_default":0.5}`),
	change("events is not an object", "10-12:levels.2", false, mod, old50+`}`, `{"events":1}`),
	change("an event's level is a string", "10-12:levels.2", false, mod, old50+`}`, `{"events":{"x":"1"}}`),
	change("notifications is not an object", "10-12:levels.2", false, mod, old50+`}`, `{"notifications":[]}`),
	change("a notification's level is a string", "10-12:levels.2", false, mod, old50+`}`, `{"notifications":{"room":"1"}}`),
	change("bad values of old are left out", "1-9:levels.8", true, mod, old50+`}`, old50+`,"ban":null,"events":1,"notifications":"x"}`),
	change("the sender of create is named", "12:levels.4", false, alice, old50+`}`, `{"users":{"@alice:a":1}}`),
	change("a creator of content means nothing", "12:levels.11", true, alice, old50+`}`, old50+`,"state_default":9007199254740991}`),
	{"an additional creator is named", "12:levels.4", false, []ev{additionalCreator}, state(typePowerLevels, alice, `{"users":{"@bob:b":1}}`)},

	{"first power levels", "1-9:levels.2 10-11:levels.4 12:levels.5", true, []ev{without(typePowerLevels, "=")}, state(typePowerLevels, alice, `{"users":{"@bob:b":1000},"ban":1000}`)},
	{"first power levels are checked for their shape", shape, false, []ev{without(typePowerLevels, "=")}, state(typePowerLevels, alice, `{"users":7}`)},

	change("a level above one's own is changed", named1, false, mod, old50+`,"ban":60}`, old50+`,"ban":50}`),
	change("a level above one's own is removed", named1, false, mod, old50+`,"redact":60}`, old50+`}`),
	change("a level is set above one's own", named2, false, mod, old50+`,"invite":0}`, old50+`,"invite":51}`),
	change("a level is added above one's own", named2, false, mod, old50+`}`, old50+`,"users_default":51}`),
	change("levels up to one's own", allowed, true, mod, old50+`,"kick":50,"state_default":10,"events_default":1}`, old50+`,"kick":40,"ban":50,"state_default":50}`),
	change("a level above one's own stays", allowed, true, mod, old50+`,"ban":60}`, old50+`,"ban":60,"kick":1}`),

	change("an event's level above one's own is changed", removed, false, mod, old50[:len(old50)-1]+`,"x":60}}`, old50[:len(old50)-1]+`,"x":50}}`),
	change("an event's level above one's own is removed", removed, false, mod, old50[:len(old50)-1]+`,"x":60}}`, old50+`}`),
	change("a notification's level above one's own is removed", removed6, false, mod, old50+`,"notifications":{"room":60}}`, old50+`}`),
	change("notifications mean nothing yet", "1-5:levels.8", true, mod, old50+`,"notifications":{"room":60}}`, old50+`,"notifications":{"room":70}}`),
	change("an event's level is added above one's own", added, false, mod, old50+`}`, old50[:len(old50)-1]+`,"x":51}}`),
	change("an event's level is raised above one's own", added, false, mod, old50[:len(old50)-1]+`,"x":1}}`, old50[:len(old50)-1]+`,"x":51}}`),
	change("a notification's level is added above one's own", added6, false, mod, old50+`}`, old50+`,"notifications":{"room":51}}`),
	change("events' levels up to one's own", allowed, true, mod, old50[:len(old50)-1]+`,"x":50,"z":60},"notifications":{"room":50}}`, old50[:len(old50)-1]+`,"y":50,"z":60}}`),

	change("an equal's level is changed", removedOne, false, mod, `{"users":{"@mod:a":50,"@bob:b":50}}`, `{"users":{"@mod:a":50,"@bob:b":40}}`),
	change("a higher one's level is removed", removedOne, false, mod, old50+`}`, `{"users":{"@mod:a":50},"events":{"m.room.power_levels":50}}`),
	change("one's own level is given up", allowed, true, mod, old50+`}`, `{"users":{"@admin:a":100},"events":{"m.room.power_levels":50}}`),
	change("one's own level is raised", addedOne, false, mod, old50+`}`, `{"users":{"@admin:a":100,"@mod:a":51},"events":{"m.room.power_levels":50}}`),
	change("another's level is set above one's own", addedOne, false, mod, `{"users":{"@mod:a":50}}`, `{"users":{"@mod:a":50,"@bob:b":51}}`),
	change("others' levels up to one's own", allowed, true, mod, `{"users":{"@mod:a":50,"@bob:b":49,"@carol:c":1}}`, `{"users":{"@mod:a":50,"@bob:b":1,"@gone:b":50}}`),
	change("the creator does as well as is named", "1-11:level", false, alice, old50+`}`, old50+`}`),

	change("strings of integers", "1-9:levels.8", true, mod, old50+`,"kick":"40"}`, `{"users":{"@mod:a":" +050 ","@admin:a":"100"},"events":{"m.room.power_levels":"50"},"kick":40}`),
	change("a string above one's own level", "1-9:levels.3.2", false, mod, old50+`}`, old50+`,"kick":"51"}`),
	change("a string beyond all numbers", "1-9:levels.7.1", false, mod, old50+`}`, `{"users":{"@mod:a":50,"@admin:a":100,"@bob:b":"99999999999999999999"},"events":{"m.room.power_levels":50}}`),
	change("floats are cut off", "1-5:levels.8", true, mod, old50+`}`, `{"users":{"@mod:a":50.9,"@admin:a":1e2},"events":{"m.room.power_levels":5.01E1}}`),
	change("a number beyond 64 bits", "1-5:levels.7.1", false, mod, old50+`}`, `{"users":{"@mod:a":50,"@admin:a":100,"@bob:b":1e300},"events":{"m.room.power_levels":50}}`),
	change("a number far below", "1-5:levels.8", true, mod, old50+`}`, old50+`,"invite":-1e300,"kick":-99999999999999999999}`),
}
