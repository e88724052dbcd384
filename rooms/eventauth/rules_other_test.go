package eventauth

import (
	"slices"
	"testing"

	"ebb/rooms/pdu"
)

func message(sender, typ string) ev { return ev{typ: typ, sender: sender, content: `{}`} }

// foreignRoom is a create event that keeps other servers out.
func foreignRoom(federate string) []ev {
	return []ev{state(typeCreate, alice, `{"creator":"@alice:a","m.federate":`+federate+`}`).named("$create").inNoRoom()}
}

// otherCases are those of rules 2 to 4, 6 to 9 and 11.
var otherCases = []ruleCase{
	{"no create event", "1-11:authEvents.4 12:room", false, []ev{without(typeCreate, "=")}, message(bob, "m.room.message")},
	{"create event of another room", "1-11:authEvents.5 12:room", false, nil, message(bob, "m.room.message").inRoom("!other:a")},
	{"other servers are kept out", "federate", false, foreignRoom(`false`), message(bob, "m.room.message")},
	{"other servers do not join either", "federate", false, slices.Concat(foreignRoom(`false`), publicRoom), member(anon, anon, join)},
	{"the creator's server is at home", "otherwise", true, foreignRoom(`false`), message(mod, "m.room.message")},
	{"m.federate true", "otherwise", true, foreignRoom(`true`), message(bob, "m.room.message")},
	{"m.federate of another kind", "otherwise", true, foreignRoom(`"false"`), message(bob, "m.room.message")},

	{"aliases without state_key", "1-5:aliases.1", false, nil, message(bob, typeAliases)},
	{"aliases of another server", "1-5:aliases.2", false, nil, ev{typ: typeAliases, sender: bob, key: "a", content: `{}`}},
	{"aliases of a stranger's server", "1-5:aliases.3", true, nil, ev{typ: typeAliases, sender: anon, key: "b", content: `{}`}},
	{"aliases are like any state", "6-12:joined", false, nil, ev{typ: typeAliases, sender: anon, key: "b", content: `{}`}},
	{"aliases are like any state", "6-12:level", false, nil, ev{typ: typeAliases, sender: bob, key: "b", content: `{}`}},

	{"strangers do not write", "joined", false, nil, message(anon, "m.room.message")},
	{"the invited do not write", "joined", false, nil, message(invited, "m.room.message")},
	{"the banned do not write", "joined", false, nil, message(banned, "m.room.message")},
	{"who is gone does not write", "joined", false, nil, message(gone, "m.room.message")},

	{"third party invitation", "3pid.1", true, nil, ev{typ: typeThirdPartyInvite, sender: bob, key: "tok", content: `{}`}},
	{"third party invitation without the right", "3pid.1", false, []ev{inviteLevel50}, ev{typ: typeThirdPartyInvite, sender: bob, key: "tok", content: `{}`}},

	{"state below the default level", "level", false, nil, state("m.room.avatar", bob, `{}`)},
	{"state below its own level", "level", false, nil, state("m.room.name", bob, `{}`)},
	{"state at its own level", "otherwise", true, nil, state("m.room.name", mod, `{}`)},
	{"state with a level below the default", "otherwise", true, nil, state("m.room.topic", bob, `{}`)},
	{"message below events_default", "level", false, []ev{levels(`{"events_default":1}`)}, message(bob, "m.room.message")},
	{"users_default is enough", "otherwise", true, []ev{levels(`{"users_default":50}`)}, state("m.room.name", bob, `{}`)},
	{"without power levels all state is above members", "level", false, []ev{without(typePowerLevels, "=")}, state("m.room.name", mod, `{}`)},
	{"without power levels the creator has enough", "otherwise", true, []ev{without(typePowerLevels, "=")}, state("m.room.name", alice, `{}`)},
	{"without power levels members write", "otherwise", true, []ev{without(typePowerLevels, "=")}, message(bob, "m.room.message")},
	{"creators are not named in power levels and have none", "1-11:level", false, nil, state("m.room.avatar", alice, `{}`)},
	{"creators may whatever the level", "12:otherwise", true, []ev{levels(`{"state_default":9007199254740991}`)}, state("m.room.avatar", alice, `{}`)},
	{"redactions are like any event", "3-12:level", false, []ev{levels(`{"events":{"m.room.redaction":1}}`)}, message(bob, typeRedaction)},

	{"another user's state", "stateKey", false, nil, ev{typ: "m.room.topic", sender: admin, key: bob, content: `{}`}},
	{"one's own state", "otherwise", true, nil, ev{typ: "m.room.topic", sender: bob, key: bob, content: `{}`}},
	{"state that names no user", "otherwise", true, nil, ev{typ: "m.room.topic", sender: bob, key: "x@bob:b", content: `{}`}},

	{"redaction with the right", "1-2:redaction.1", true, nil, message(mod, typeRedaction).named("$1:a").redacting("$2:b")},
	{"redaction of an event of the own server", "1-2:redaction.2", true, nil, message(bob, typeRedaction).named("$1:b").redacting("$2:b")},
	{"redaction of another server's event", "1-2:redaction.3", false, nil, message(bob, typeRedaction).named("$1:b").redacting("$2:a")},
	{"redaction is for whoever applies it", "3-12:otherwise", true, nil, message(bob, typeRedaction).redacting("$2:a")},
	{"message", "otherwise", true, nil, message(bob, "m.room.message")},
}

// authEventCase is an event and a list of auth events, and the rule that refuses the list.
type authEventCase struct {
	name, rule string
	ok         bool
	event      ev
	cited      []ev
}

var (
	createdBy  = newCreate(`{"creator":"@alice:a"}`).named("$create")
	bobJoined  = member(bob, bob, join)
	modJoined  = member(mod, mod, join)
	itsInvite  = ev{typ: typeThirdPartyInvite, sender: mod, key: "tok", content: `{}`}
	somePowers = levels(`{}`)
	someRules  = joinRules(`{"join_rule":"public"}`)
	byToken    = member(mod, anon, invite).with(`{"membership":"invite","third_party_invite":{"signed":{"token":"tok"}}}`)
)

var authEventCases = []authEventCase{
	{"two events for one entry", "authEvents.1", false, message(bob, "m.room.message"), []ev{bobJoined, bobJoined.named("$another")}},
	{"an event that is not state", "authEvents.2", false, message(bob, "m.room.message"), []ev{createdBy, message(bob, typeMember)}},
	{"join rules for a message", "authEvents.2", false, message(bob, "m.room.message"), []ev{createdBy, bobJoined, someRules}},
	{"another user's member event", "authEvents.2", false, message(bob, "m.room.message"), []ev{createdBy, bobJoined, modJoined}},
	{"a voucher before there were any", "1-7:authEvents.2", false, restrictedJoin(bob, `"@mod:a"`), []ev{createdBy, bobJoined, modJoined}},
	{"the create event", "12:authEvents.2", false, message(bob, "m.room.message"), []ev{createdBy, bobJoined}},
	{"no create event", "1-11:authEvents.4", false, message(bob, "m.room.message"), []ev{bobJoined}},
	{"an event of another room", "1-11:authEvents.5 12:authEvents.4", false, message(bob, "m.room.message"), []ev{createdBy, bobJoined.inRoom("!other:a")}},
}

func checkAuthEventCase(t *testing.T, v *pdu.Version, tc authEventCase, want string) {
	t.Helper()
	cited := buildCited(t, v, tc.cited)
	if v.RoomIDIsCreateHash && tc.name != "the create event" {
		cited = slices.DeleteFunc(cited, func(e *pdu.Event) bool { return e.Type() == typeCreate })
	}
	err := CheckAuthEvents(build(t, v, tc.event), cited)
	if rejection, ok := err.(*Rejection); !ok || rejection.Rule != want || rejection.Msg == "" {
		t.Errorf("%s: CheckAuthEvents says %v, want rule %s", tc.name, err, want)
	}
}

func buildCited(t *testing.T, v *pdu.Version, evs []ev) []*pdu.Event {
	t.Helper()
	var events []*pdu.Event
	for _, e := range evs {
		events = append(events, build(t, v, e))
	}
	return events
}

// TestSelectedAuthEventsPassTheirCheck builds what the selection asks for and hands it to CheckAuthEvents.
func TestSelectedAuthEventsPassTheirCheck(t *testing.T) {
	all := []ev{createdBy, somePowers, someRules, bobJoined, modJoined, itsInvite, member(mod, anon, invite), member(gone, gone, leave)}
	forVersions(t, func(t *testing.T, n int, v *pdu.Version) {
		for _, tc := range []struct {
			name  string
			event ev
			want  []string // type and key
		}{
			{"message", message(bob, "m.room.message"), []string{"create", "power_levels", "member@bob:b"}},
			{"state", state("m.room.name", bob, `{}`), []string{"create", "power_levels", "member@bob:b"}},
			{"own join", member(bob, bob, join), []string{"create", "power_levels", "member@bob:b", "join_rules"}},
			{"kick", member(mod, bob, leave), []string{"create", "power_levels", "member@mod:a", "member@bob:b"}},
			{"knock", member(anon, anon, knock), []string{"create", "power_levels", "member@anon:b", "join_rules"}},
			{"invite", member(mod, anon, invite), []string{"create", "power_levels", "member@mod:a", "member@anon:b", "join_rules"}},
			{"invite by third party without a token", member(mod, anon, invite).with(`{"membership":"invite","third_party_invite":{"signed":5}}`), []string{"create", "power_levels", "member@mod:a", "member@anon:b", "join_rules"}},
			{"invite by third party", byToken, []string{"create", "power_levels", "member@mod:a", "member@anon:b", "join_rules", "third_party_invitetok"}},
			{"restricted join", restrictedJoin(anon, `"@mod:a"`), []string{"create", "power_levels", "member@anon:b", "join_rules", "voucher@mod:a"}},
			{"create", newCreate(`{}`), nil},
		} {
			event := build(t, v, tc.event)
			keys := AuthKeys(v, event)
			if want := expectedKeys(n, tc.want); !slices.Equal(keys, want) {
				t.Errorf("%s: AuthKeys = %v, want %v", tc.name, keys, want)
			}
			var cited []*pdu.Event
			for _, e := range buildCited(t, v, all) {
				key, _ := e.StateKey()
				if slices.Contains(keys, pdu.StateKey{Type: e.Type(), Key: key}) {
					cited = append(cited, e)
				}
			}
			if err := CheckAuthEvents(event, cited); err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
		}
	})
}

// expectedKeys spells the short forms out: the create event is cited before version 12, vouchers since version 8.
func expectedKeys(n int, short []string) []pdu.StateKey {
	var keys []pdu.StateKey
	for _, s := range short {
		for _, known := range []string{"create", "power_levels", "join_rules", "third_party_invite", "member", "voucher"} {
			key, ok := cutPrefix(s, known)
			if !ok || known == "create" && n >= 12 || known == "voucher" && n < 8 {
				continue
			}
			if known == "voucher" {
				known = "member"
			}
			keys = append(keys, pdu.StateKey{Type: "m.room." + known, Key: key})
		}
	}
	return keys
}

func cutPrefix(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || s[:len(prefix)] != prefix {
		return "", false
	}
	return s[len(prefix):], true
}

func TestMissingAuthEventIsRefused(t *testing.T) {
	v, _ := pdu.VersionOf("11")
	err := CheckAuthEvents(build(t, v, message(bob, "m.room.message")), []*pdu.Event{nil})
	if rejection, ok := err.(*Rejection); !ok || rejection.Rule != "2.2" {
		t.Errorf("CheckAuthEvents = %v", err)
	}
}

// TestRedactionNeedsTheRightOrTheSameServer is the rule of versions 3 and later, outside the authorisation rules.
func TestRedactionNeedsTheRightOrTheSameServer(t *testing.T) {
	v, _ := pdu.VersionOf("11")
	power := Levels(v, nil, build(t, v, levels(baseLevels)))
	for _, tc := range []struct {
		sender, of string
		want       bool
	}{{mod, bob, true}, {bob, anon, true}, {bob, bob, true}, {bob, mod, false}, {carol, bob, false}} {
		redaction := build(t, v, message(tc.sender, typeRedaction))
		if got := MayRedact(power, redaction.Sender(), build(t, v, message(tc.of, "m.room.message")).Sender()); got != tc.want {
			t.Errorf("%s redacts %s: %v", tc.sender, tc.of, got)
		}
	}
}
