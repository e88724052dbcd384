package eventauth

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"

	"ebb/canonjson"
	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

// Infinite is the power level of the room's creators in room version 12 and later. No power levels event can grant it.
const Infinite int64 = math.MaxInt64

// maxLevel is the highest level that an event can grant. Room versions before 6 do not limit numbers; larger ones count
// as maxLevel.
const maxLevel = Infinite - 1

// The levels that apply if the power levels event does not specify them.
// Spec: server-server-api#definitions, client-server-api#mroompower_levels
const (
	defaultInvite = 0
	defaultState  = 50 // also kick, ban, redact and notifications.room
	creatorLevel  = 100
)

// PowerLevels are the power levels of a room, which its create and power levels events determine. A PowerLevels never
// changes and may be shared.
type PowerLevels struct {
	Invite, Kick, Ban, Redact                 int64
	StateDefault, EventsDefault, UsersDefault int64

	given    *givenLevels // the content of the power levels event, nil without one
	users    map[id.UserID]int64
	creators []id.UserID // the users with infinite power, in version 12 and later
}

// Levels returns the power levels of a room with the given create and power levels events, each of which may be nil.
// Properties that are missing, or that are not integers by the rules of the room version, have their defaults.
func Levels(v *pdu.Version, create, pl *pdu.Event) *PowerLevels {
	p := &PowerLevels{creators: privilegedCreators(v, create)}
	if pl != nil {
		p.given = readLevels(v, pl.Content())
		p.users = p.given.users
	} else if creator := creatorOf(v, create); creator != "" && !v.PrivilegedCreators {
		p.users = map[id.UserID]int64{creator: creatorLevel}
	}
	p.UsersDefault = p.given.namedOr(usersDefault, 0)
	p.EventsDefault = p.given.namedOr(eventsDefault, 0)
	p.StateDefault = p.given.namedOr(stateDefault, defaultState)
	p.Ban = p.given.namedOr(banLevel, defaultState)
	p.Redact = p.given.namedOr(redactLevel, defaultState)
	p.Kick = p.given.namedOr(kickLevel, defaultState)
	p.Invite = p.given.namedOr(inviteLevel, defaultInvite)
	return p
}

// UserLevel returns a user's power level: Infinite for a creator of a room of version 12 or later.
func (p *PowerLevels) UserLevel(user id.UserID) int64 {
	if p.IsCreator(user) {
		return Infinite
	}
	if level, ok := p.users[user]; ok {
		return level
	}
	return p.UsersDefault
}

// IsCreator reports whether a user has infinite power as a creator of the room. It is false in room versions before 12.
func (p *PowerLevels) IsCreator(user id.UserID) bool { return slices.Contains(p.creators, user) }

// EventLevel returns the level required to send an event of a type.
func (p *PowerLevels) EventLevel(typ string, isState bool) int64 {
	if p.given != nil {
		if level, ok := p.given.events[typ]; ok {
			return level
		}
	}
	if isState {
		return p.StateDefault
	}
	return p.EventsDefault
}

// Notification returns the level required for a kind of notification, such as "room" for @room.
func (p *PowerLevels) Notification(key string) int64 {
	if p.given != nil {
		if level, ok := p.given.notifications[key]; ok {
			return level
		}
	}
	return defaultState
}

// creatorOf returns the room's creator according to the create event, or "" if it names none.
func creatorOf(v *pdu.Version, create *pdu.Event) id.UserID {
	if create == nil {
		return ""
	}
	if v.ImplicitRoomCreator {
		return create.Sender()
	}
	return id.UserID(getString(create.Content(), "creator"))
}

// Creators returns the creators of a room. Before version 12 there is exactly one.
func Creators(v *pdu.Version, create *pdu.Event) []id.UserID {
	if v.PrivilegedCreators {
		return privilegedCreators(v, create)
	}
	return []id.UserID{creatorOf(v, create)}
}

// privilegedCreators returns the users who have infinite power because they created the room. Before version 12 there
// are none.
// Spec: rooms/v12#authorisation-rules
func privilegedCreators(v *pdu.Version, create *pdu.Event) []id.UserID {
	if !v.PrivilegedCreators || create == nil {
		return nil
	}
	creators := []id.UserID{create.Sender()}
	raw, _ := canonjson.Get(create.Content(), "additional_creators")
	users, _ := userList(raw)
	for _, user := range users {
		creators = append(creators, id.UserID(user))
	}
	return creators
}

// The properties of a power levels event that are a single level.
const (
	usersDefault = iota
	eventsDefault
	stateDefault
	banLevel
	redactLevel
	kickLevel
	inviteLevel
	namedLevels
)

var levelNames = [namedLevels]string{"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"}

// givenLevels holds the levels that a power levels event contains; defaults are not filled in. The maps have only valid
// values; the fields bad… record whether there were invalid ones.
type givenLevels struct {
	named         [namedLevels]int64
	has           [namedLevels]bool
	users         map[id.UserID]int64
	events        map[string]int64
	notifications map[string]int64

	badNamed  bool // one of the named levels is not an integer
	badMaps   bool // events or notifications is not an object of integers
	badUsers  bool // users is not an object of user IDs and integers
	beyondAll bool // a number is too large for IEEE 754 double precision
}

// namedOr returns the level with the given name, such as banLevel, or otherwise if the event does not contain it.
func (g *givenLevels) namedOr(name int, otherwise int64) int64 {
	if g == nil || !g.has[name] {
		return otherwise
	}
	return g.named[name]
}

// readLevels reads the content of a power levels event by the rules of the room version.
func readLevels(v *pdu.Version, content json.RawMessage) *givenLevels {
	g := &givenLevels{}
	r := levelReader{v: v, beyond: &g.beyondAll}
	_ = canonjson.Each(content, func(key string, raw []byte) error {
		switch key {
		case "users":
			g.badUsers = !r.each(raw, func(user string, level int64) bool {
				if !looksLikeUser(user) {
					return false
				}
				put(&g.users, id.UserID(user), level)
				return true
			})
		case "events":
			g.badMaps = !r.each(raw, func(typ string, level int64) bool { return put(&g.events, typ, level) }) || g.badMaps
		case "notifications":
			g.badMaps = !r.each(raw, func(kind string, level int64) bool { return put(&g.notifications, kind, level) }) || g.badMaps
		default:
			if i := slices.Index(levelNames[:], key); i >= 0 {
				g.named[i], g.has[i] = r.level(raw)
				g.badNamed = g.badNamed || !g.has[i]
			}
		}
		return nil
	})
	return g
}

func put[K comparable](m *map[K]int64, key K, level int64) bool {
	if *m == nil {
		*m = make(map[K]int64)
	}
	(*m)[key] = level
	return true
}

// levelReader reads power levels in the forms that a room version allows.
type levelReader struct {
	v      *pdu.Version
	beyond *bool // set if a number exceeds IEEE 754 double precision
}

// each calls f for each key of an object whose value is a level. It returns false if raw is not an object, if a value
// is not a level, or if f returned false for a key.
func (r levelReader) each(raw []byte, f func(key string, level int64) bool) bool {
	if !isObject(raw) {
		return false
	}
	good := true
	_ = canonjson.Each(raw, func(key string, value []byte) error {
		level, ok := r.level(value)
		good = ok && f(key, level) && good
		return nil
	})
	return good
}

// level reads one power level: a JSON integer; in versions 1 to 9 also a string that contains an integer; in versions 1
// to 5 also a float, which is truncated.
//
// Spec: rooms/v1#mroompower_levels-events-accept-values-as-strings and -as-floats,
// rooms/v10#values-in-mroompower_levels-events-must-be-integers
func (r levelReader) level(raw []byte) (int64, bool) {
	switch {
	case len(raw) == 0:
		return 0, false
	case raw[0] == '"':
		s, ok := canonjson.Unquote(raw)
		if !ok || r.v.IntegerPowerLevels {
			return 0, false
		}
		return integerLevel(strings.TrimSpace(s))
	case raw[0] != '-' && (raw[0] < '0' || raw[0] > '9'):
		return 0, false // true, false, null, list or object
	case r.v.StrictCanonicalJSON:
		return integerLevel(string(raw))
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil {
		*r.beyond = true
		return 0, false
	}
	if level, ok := integerLevel(string(raw)); ok {
		return level, true
	}
	return saturate(f), true
}

// integerLevel reads a decimal integer with an optional sign and leading zeros.
func integerLevel(s string) (int64, bool) {
	digits := strings.TrimLeft(s, "+-")
	if len(s)-len(digits) > 1 || digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil && s[0] == '-' {
		return -maxLevel, true
	}
	if err != nil {
		return maxLevel, true
	}
	return max(-maxLevel, min(n, maxLevel)), true
}

// saturate truncates a float and limits it to the range of levels.
func saturate(f float64) int64 {
	const edge = 1 << 62 // an exact float far below the point where the conversion overflows
	switch {
	case f >= edge:
		return maxLevel
	case f <= -edge:
		return -maxLevel
	}
	return int64(f)
}
