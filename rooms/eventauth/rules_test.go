package eventauth

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ebb/canonjson"
	"ebb/rooms/pdu"
)

// ruleFamilies are the numbers of the top rules and of the parts of the rule on members in each room version, read off
// the specification. A case names a rule as "family.point".
var ruleFamilies = map[string]string{
	"create":     "1-12:1",
	"room":       "12:2",
	"authEvents": "1-11:2 12:3",
	"federate":   "1-11:3 12:4",
	"aliases":    "1-5:4",
	"member":     "1-5:5 6-11:4 12:5",
	"via":        "8-11:4.2 12:5.2",
	"join":       "1-5:5.2 6-7:4.2 8-11:4.3 12:5.3",
	"invite":     "1-5:5.3 6-7:4.3 8-11:4.4 12:5.4",
	"leave":      "1-5:5.4 6-7:4.4 8-11:4.5 12:5.5",
	"ban":        "1-5:5.5 6-7:4.5 8-11:4.6 12:5.6",
	"knock":      "7:4.6 8-11:4.7 12:5.7",
	"unknown":    "1-5:5.6 6:4.6 7:4.7 8-11:4.8 12:5.8",
	"joined":     "1-5:6 6-11:5 12:6",
	"3pid":       "1-5:7 6-11:6 12:7",
	"level":      "1-5:8 6-11:7 12:8",
	"stateKey":   "1-5:9 6-11:8 12:9",
	"levels":     "1-5:10 6-11:9 12:10",
	"redaction":  "1-2:11",
	"otherwise":  "1-2:12 3-5:11 6-11:10 12:11",
}

// everyRule are the rules at which a judgement can end, version by version. Left out is the point on rejected auth
// events (2.3, in version 12 3.3), which callers check.
var everyRule = []struct{ versions, rules string }{
	{"1-12", "create.1 create.2 create.3 create.4 authEvents.1 authEvents.2 authEvents.4 federate"},
	{"1-10", "create.5"},
	{"12", "create.5 room"},
	{"1-11", "authEvents.5"},
	{"1-5", "aliases.1 aliases.2 aliases.3"},
	{"1-12", "member.1 join.1 join.2 join.3 join.4 join.6"},
	{"1-7", "join.5"},
	{"8-12", "via.1 join.5.1 join.5.2 join.5.3 join.7"},
	{"1-12", "invite.1.1 invite.1.2 invite.1.3 invite.1.4 invite.1.5 invite.1.6 invite.1.7 invite.1.8"},
	{"1-12", "invite.2 invite.3 invite.4 invite.5"},
	{"1-12", "leave.1 leave.2 leave.3 leave.4 leave.5 ban.1 ban.2 ban.3 unknown"},
	{"7-12", "knock.1 knock.2 knock.3 knock.4"},
	{"1-12", "joined 3pid.1 level stateKey otherwise"},
	{"1-9", "levels.1 levels.2 levels.3.1 levels.3.2 levels.4.1 levels.5.1 levels.6.1 levels.7.1 levels.8"},
	{"10-11", "levels.1 levels.2 levels.3 levels.4 levels.5.1 levels.5.2 levels.6.1 levels.7.1 levels.8.1 levels.9.1 levels.10"},
	{"12", "levels.1 levels.2 levels.3 levels.4 levels.5 levels.6.1 levels.6.2 levels.7.1 levels.8.1 levels.9.1 levels.10.1 levels.11"},
	{"1-2", "redaction.1 redaction.2 redaction.3"},
}

// inRange tells whether version n is in a range like "3" or "1-5".
func inRange(n int, versions string) bool {
	first, last, isRange := strings.Cut(versions, "-")
	if !isRange {
		last = first
	}
	a, _ := strconv.Atoi(first)
	b, _ := strconv.Atoi(last)
	return a <= n && n <= b
}

// pick returns the value for version n of a list like "1-5:x 6:y"; a value without range is for all versions.
func pick(n int, list string) string {
	for _, item := range strings.Fields(list) {
		versions, value, ok := strings.Cut(item, ":")
		if !ok {
			return item
		}
		if inRange(n, versions) {
			return value
		}
	}
	return ""
}

// number turns "family.point" into the number in version n; "" if the version lacks the rule.
func number(n int, rule string) string {
	family, point, _ := strings.Cut(rule, ".")
	prefix := pick(n, ruleFamilies[family])
	if prefix == "" || point == "" {
		return prefix
	}
	return prefix + "." + point
}

// ev is an event of a test room. The zero key means that it is no state event; "=" stands for the empty key.
type ev struct {
	typ, sender, key, content string
	id, room, redacts         string
	prev, auth                []string
}

func member(sender, target, membership string) ev {
	return ev{typ: typeMember, sender: sender, key: target, content: `{"membership":"` + membership + `"}`}
}

func state(typ, sender, content string) ev {
	return ev{typ: typ, sender: sender, key: "=", content: content}
}

func joinRules(content string) ev { return state(typeJoinRules, alice, content) }

func levels(content string) ev { return state(typePowerLevels, alice, content) }

func (e ev) with(content string) ev { e.content = content; return e }

// The people of the test room: alice created it, admin and mod have 100 and 50, bob and carol are plain members.
const (
	alice, admin, mod  = "@alice:a", "@admin:a", "@mod:a"
	bob, carol         = "@bob:b", "@carol:c"
	invited, knocking  = "@invited:b", "@knocking:b"
	banned, gone, anon = "@banned:b", "@gone:b", "@anon:b"
)

const baseLevels = `{"users":{"@admin:a":100,"@mod:a":50},"events":{"m.room.name":50,"m.room.power_levels":50,"m.room.topic":0},"invite":0,"notifications":{"room":50}}`

func baseState(v *pdu.Version) []ev {
	create := ev{
		typ: typeCreate, sender: alice, key: "=", id: "$create", auth: []string{},
		content: `{"creator":"@alice:a","room_version":"` + string(v.ID) + `"}`,
	}
	if v.RoomIDIsCreateHash {
		create.room = "-"
	}
	return []ev{
		create, levels(baseLevels), joinRules(`{"join_rule":"invite"}`),
		member(alice, alice, join), member(admin, admin, join), member(mod, mod, join),
		member(bob, bob, join), member(carol, carol, join),
		member(mod, invited, invite), member(knocking, knocking, knock), member(mod, banned, ban), member(gone, gone, leave),
	}
}

// build makes an event of a room of version v.
func build(t testing.TB, v *pdu.Version, e ev) *pdu.Event {
	t.Helper()
	obj := map[string]any{
		"type": e.typ, "sender": e.sender, "content": json.RawMessage(e.content), "origin_server_ts": 1, "depth": 5,
		"event_id": e.id, "prev_events": references(v, e.prev), "auth_events": references(v, e.auth),
	}
	if e.id == "" {
		obj["event_id"] = fmt.Sprintf("$%s|%s|%s:a", e.typ, e.key, e.sender)
	}
	if e.prev == nil {
		obj["prev_events"] = references(v, []string{"$before"})
	}
	switch {
	case e.room == "?" && !v.RoomIDIsCreateHash:
		obj["room_id"] = "!room:a"
	case e.room != "" && e.room != "-" && e.room != "?":
		obj["room_id"] = e.room
	case e.room == "" && v.RoomIDIsCreateHash:
		obj["room_id"] = "!create"
	case e.room == "":
		obj["room_id"] = "!room:a"
	}
	if e.key != "" {
		obj["state_key"] = strings.TrimPrefix(e.key, "=")
	}
	if e.redacts != "" {
		obj["redacts"] = e.redacts
	}
	raw, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	event, err := pdu.ParseLenient(v, raw)
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return event
}

// references gives event ids the form that the room version has for them.
func references(v *pdu.Version, ids []string) any {
	if v.EventIDFormat != pdu.EventIDFromServer {
		return append([]string{}, ids...)
	}
	pairs := []any{}
	for _, eventID := range ids {
		pairs = append(pairs, []any{eventID, map[string]string{"sha256": ""}})
	}
	return pairs
}

// buildState makes the test room's state with changes on top; an event without content takes an entry away.
func buildState(t testing.TB, v *pdu.Version, changes []ev) StateMap {
	t.Helper()
	state := make(StateMap)
	for _, e := range append(baseState(v), changes...) {
		key := pdu.StateKey{Type: e.typ, Key: strings.TrimPrefix(e.key, "=")}
		if e.content == "" {
			delete(state, key)
			continue
		}
		state[key] = build(t, v, e)
	}
	return state
}

// ruleCase is an event and the rule that decides about it.
type ruleCase struct {
	name  string
	rule  string // like "join.1" or "1-7:join.5 8-12:join.6"; versions not named are left out
	ok    bool
	state []ev
	event ev
}

func forVersions(t *testing.T, f func(t *testing.T, n int, v *pdu.Version)) {
	for i, name := range pdu.Versions() {
		v, _ := pdu.VersionOf(name)
		t.Run("v"+string(name), func(t *testing.T) { f(t, i+1, v) })
	}
}

func TestEveryRuleOfEveryVersionDecidesAsSpecified(t *testing.T) {
	forVersions(t, func(t *testing.T, n int, v *pdu.Version) {
		reached := make(map[string]bool)
		for _, tc := range slices.Concat(createCases, memberCases, inviteCases(), levelCases, otherCases) {
			want := number(n, pick(n, tc.rule))
			if want == "" {
				continue
			}
			reached[want] = true
			state, event := buildState(t, v, tc.state), build(t, v, tc.event)
			c := check{v: v, n: numbersOf(v), e: event, auth: state}
			if got := c.judge(); got.rule != want || (got.msg == "") != tc.ok {
				t.Errorf("%s: decided by %q (%s), want %q, allowed %v", tc.name, got.rule, got.msg, want, tc.ok)
			}
			checkVerdictIsReported(t, v, tc, event, state, want)
		}
		for _, tc := range authEventCases {
			if want := number(n, pick(n, tc.rule)); want != "" {
				reached[want] = true
				checkAuthEventCase(t, v, tc, want)
			}
		}
		compareReached(t, n, reached)
	})
}

// leveled is a State that knows its power levels.
type leveled struct {
	State
	levels *PowerLevels
}

func (l leveled) Levels() *PowerLevels { return l.levels }

func withLevels(v *pdu.Version, auth State) State {
	return leveled{auth, Levels(v, auth.Get(typeCreate, ""), auth.Get(typePowerLevels, ""))}
}

// checkVerdictIsReported calls Check with a State that knows its power levels and with one that does not.
func checkVerdictIsReported(t *testing.T, v *pdu.Version, tc ruleCase, event *pdu.Event, state StateMap, want string) {
	t.Helper()
	for _, auth := range []State{state, withLevels(v, state)} {
		err := Check(v, event, auth)
		rejection, isRejection := err.(*Rejection)
		if tc.ok && err != nil || !tc.ok && (!isRejection || rejection.Rule != want || rejection.Msg == "") {
			t.Errorf("%s: Check says %v", tc.name, err)
		}
	}
}

func compareReached(t *testing.T, n int, reached map[string]bool) {
	t.Helper()
	specified := make(map[string]bool)
	for _, part := range everyRule {
		if inRange(n, part.versions) {
			for _, rule := range strings.Fields(part.rules) {
				specified[number(n, rule)] = true
			}
		}
	}
	for _, rule := range slices.Sorted(maps.Keys(specified)) {
		if !reached[rule] {
			t.Errorf("no case reaches rule %s", rule)
		}
	}
	for _, rule := range slices.Sorted(maps.Keys(reached)) {
		if !specified[rule] {
			t.Errorf("a case reaches rule %s, which this version does not have", rule)
		}
	}
}

var createCases = []ruleCase{
	{"create after another event", "create.1", false, nil, ev{typ: typeCreate, sender: alice, key: "=", content: `{"creator":"@alice:a"}`, prev: []string{"$x"}, room: "-"}},
	{"create in a room of another server", "1-11:create.2", false, nil, ev{typ: typeCreate, sender: alice, key: "=", content: `{"creator":"@alice:a"}`, prev: []string{}, room: "!r:b"}},
	{"create without a server in the room id", "1-11:create.2", false, nil, ev{typ: typeCreate, sender: alice, key: "=", content: `{"creator":"@alice:a"}`, prev: []string{}, room: "!r"}},
	{"create with a room id", "12:create.2", false, nil, ev{typ: typeCreate, sender: alice, key: "=", content: `{}`, prev: []string{}, room: "!create"}},
	{"create of an unknown version", "create.3", false, nil, newCreate(`{"creator":"@alice:a","room_version":"99"}`)},
	{"create with a number as version", "create.3", false, nil, newCreate(`{"creator":"@alice:a","room_version":1}`)},
	{"create without creator", "1-10:create.4", false, nil, newCreate(`{}`)},
	{"create with creator", "1-10:create.5 11:create.4 12:create.5", true, nil, newCreate(`{"creator":"@alice:a","room_version":"6"}`)},
	{"create without creator", "11:create.4 12:create.5", true, nil, newCreate(`{}`)},
	{"additional creators are not a list", "12:create.4", false, nil, newCreate(`{"additional_creators":"@bob:b"}`)},
	{"an additional creator is not a string", "12:create.4", false, nil, newCreate(`{"additional_creators":["@bob:b",1]}`)},
	{"an additional creator is not a user id", "12:create.4", false, nil, newCreate(`{"additional_creators":["@bob:b","bob"]}`)},
	{"an additional creator is too long", "12:create.4", false, nil, newCreate(`{"additional_creators":["@` + strings.Repeat("b", 254) + `:b"]}`)},
	{"additional creators", "12:create.5", true, nil, newCreate(`{"additional_creators":["@bob:b","@:c"]}`)},
	{"additional creators mean nothing yet", "1-10:create.5 11:create.4", true, nil, newCreate(`{"creator":"@alice:a","additional_creators":1}`)},
}

// newCreate is a create event whose room id fits every version: none in version 12, one of alice's server before.
func newCreate(content string) ev {
	return ev{typ: typeCreate, sender: alice, key: "=", content: content, prev: []string{}, room: "?"}
}

// signInvite makes the content of an invitation whose third party part is signed by a key.
func signInvite(signed map[string]any, key ed25519.PrivateKey) string {
	message := canonical(signed)
	signature := base64.RawStdEncoding.EncodeToString(ed25519.Sign(key, message))
	full := maps.Clone(signed)
	full["signatures"] = map[string]any{"id.example": map[string]string{"ed25519:0": signature}}
	full["unsigned"] = map[string]int{"age": 1}
	return string(canonical(map[string]any{
		"membership": "invite", "third_party_invite": map[string]any{"display_name": "d", "signed": full},
	}))
}

// canonical returns the canonical JSON of v.
func canonical(v map[string]any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	raw, err = canonjson.Canonical(raw, true)
	if err != nil {
		panic(err)
	}
	return raw
}

func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune('a'+seed)), ed25519.SeedSize)))
}

func public(key ed25519.PrivateKey, encoding *base64.Encoding) string {
	return encoding.EncodeToString(key.Public().(ed25519.PublicKey))
}
