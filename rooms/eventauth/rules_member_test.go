package eventauth

import (
	"encoding/base64"
	"strings"
)

func restrictedJoin(user, via string) ev {
	return member(user, user, join).with(`{"membership":"join","join_authorised_via_users_server":` + via + `}`)
}

var (
	restrictedRoom      = []ev{joinRules(`{"join_rule":"restricted","allow":[]}`)}
	knockRestrictedRoom = []ev{joinRules(`{"join_rule":"knock_restricted","allow":[]}`)}
	publicRoom          = []ev{joinRules(`{"join_rule":"public"}`)}
	knockRoom           = []ev{joinRules(`{"join_rule":"knock"}`)}
	inviteLevel50       = levels(`{"users":{"@admin:a":100,"@mod:a":50},"invite":50}`)
	without             = func(typ, key string) ev { return ev{typ: typ, key: key} }
)

// afterCreate makes the create event the only one before an event.
func afterCreate(e ev) ev {
	e.prev = []string{"$create"}
	return e
}

var memberCases = []ruleCase{
	{"member event without state_key", "member.1", false, nil, ev{typ: typeMember, sender: bob, content: `{"membership":"join"}`}},
	{"member event without membership", "member.1", false, nil, member(bob, bob, join).with(`{}`)},
	{"authorising user is not a string", "via.1", false, restrictedRoom, restrictedJoin(anon, `1`)},
	{"authorising user is not a user", "via.1", false, restrictedRoom, restrictedJoin(anon, `"mod"`)},
	{"authorising user on another membership", "via.1", false, nil, member(bob, bob, leave).with(`{"membership":"leave","join_authorised_via_users_server":""}`)},
	{"authorising user means nothing yet", "1-7:leave.1", true, nil, member(bob, bob, leave).with(`{"membership":"leave","join_authorised_via_users_server":""}`)},

	{"creator joins after create", "join.1", true, []ev{without(typeMember, alice)}, afterCreate(member(alice, alice, join))},
	{"creator joins after create though banned", "join.1", true, []ev{member(mod, alice, ban)}, afterCreate(member(alice, alice, join))},
	{"someone else joins after create", "1-7:join.6 8-12:join.7", false, nil, afterCreate(member(anon, anon, join))},
	{
		"the one who sent create joins, but another is the creator", "1-10:join.4 11-12:join.1", true,
		[]ev{state(typeCreate, alice, `{"creator":"@bob:b"}`).named("$create")}, afterCreate(member(alice, alice, join)),
	},
	{"creator joins after create and something else", "join.4", true, nil, member(alice, alice, join).after("$create", "$x")},
	{"joining another", "join.2", false, publicRoom, member(bob, anon, join)},
	{"the banned do not join", "join.3", false, publicRoom, member(banned, banned, join)},
	{"the invited join", "join.4", true, nil, member(invited, invited, join)},
	{"the joined change their profile", "join.4", true, nil, member(bob, bob, join)},
	{"without join rules only the invited join", "1-7:join.6 8-12:join.7", false, []ev{without(typeJoinRules, "=")}, member(anon, anon, join)},
	{"without a join rule only the invited join", "join.4", true, []ev{joinRules(`{}`)}, member(invited, invited, join)},
	{"strangers do not join", "1-7:join.6 8-12:join.7", false, nil, member(anon, anon, join)},
	{"those gone do not join again", "1-7:join.6 8-12:join.7", false, nil, member(gone, gone, join)},
	{"the knocking do not join", "7:join.6 8-12:join.7", false, knockRoom, member(knocking, knocking, join)},
	{"the invited join where one knocks", "7-12:join.4", true, knockRoom, member(invited, invited, join)},
	{"join rule knock is unknown", "1-6:join.6", false, knockRoom, member(invited, invited, join)},
	{"anyone joins a public room", "1-7:join.5 8-12:join.6", true, publicRoom, member(anon, anon, join)},
	{"private is no way in", "1-7:join.6 8-12:join.7", false, []ev{joinRules(`{"join_rule":"private"}`)}, member(invited, invited, join)},
	{"a join rule is a string", "1-7:join.6 8-12:join.7", false, []ev{joinRules(`{"join_rule":["public"]}`)}, member(invited, invited, join)},

	{"the invited join a restricted room", "8-12:join.5.1", true, restrictedRoom, member(invited, invited, join)},
	{"the joined stay in a restricted room", "8-12:join.5.1", true, restrictedRoom, member(bob, bob, join)},
	{"restricted join without voucher", "8-12:join.5.2", false, restrictedRoom, member(anon, anon, join)},
	{"restricted join by one who left", "8-12:join.5.2", false, restrictedRoom, restrictedJoin(anon, `"@gone:b"`)},
	{"restricted join by one who may not invite", "8-12:join.5.2", false, append([]ev{inviteLevel50}, restrictedRoom...), restrictedJoin(anon, `"@bob:b"`)},
	{"restricted join", "8-12:join.5.3", true, append([]ev{inviteLevel50}, restrictedRoom...), restrictedJoin(anon, `"@mod:a"`)},
	{"join rule restricted is unknown", "1-7:join.6", false, restrictedRoom, restrictedJoin(invited, `"@mod:a"`)},
	{"join into a room for knocks or by restriction", "10-12:join.5.3", true, knockRestrictedRoom, restrictedJoin(anon, `"@mod:a"`)},
	{"join rule knock_restricted is unknown", "1-7:join.6 8-9:join.7", false, knockRestrictedRoom, restrictedJoin(invited, `"@mod:a"`)},

	{"the joined leave", "leave.1", true, nil, member(bob, bob, leave)},
	{"the invited refuse", "leave.1", true, nil, member(invited, invited, leave)},
	{"the knocking go away", "7-12:leave.1", true, nil, member(knocking, knocking, leave)},
	{"knocking is not being there", "1-6:leave.1", false, nil, member(knocking, knocking, leave)},
	{"the banned do not unban themselves", "leave.1", false, nil, member(banned, banned, leave)},
	{"who never came does not leave", "leave.1", false, nil, member(anon, anon, leave)},
	{"strangers do not kick", "leave.2", false, nil, member(anon, bob, leave)},
	{"unban takes the right to ban", "leave.3", false, []ev{levels(`{"users":{"@mod:a":50},"ban":60}`)}, member(mod, banned, leave)},
	{"kick", "leave.4", true, nil, member(mod, bob, leave)},
	{"unban", "leave.4", true, nil, member(mod, banned, leave)},
	{"an invitation is taken back", "leave.4", true, nil, member(mod, invited, leave)},
	{"kick without the right", "leave.5", false, nil, member(bob, carol, leave)},
	{"kick of someone higher", "leave.5", false, nil, member(mod, admin, leave)},
	{"kick of an equal", "leave.5", false, []ev{levels(`{"users":{"@mod:a":50,"@bob:b":50}}`)}, member(mod, bob, leave)},
	{"unban takes the right to kick", "leave.5", false, []ev{levels(`{"users":{"@mod:a":50},"kick":60}`)}, member(mod, banned, leave)},
	{"creators are not kicked", "12:leave.5", false, nil, member(admin, alice, leave)},
	{"creators kick the highest", "12:leave.4", true, []ev{levels(`{"users":{"@admin:a":9007199254740991}}`)}, member(alice, admin, leave)},
	{"additional creators do not kick each other", "12:leave.5", false, []ev{additionalCreator}, member(bob, alice, leave)},

	{"strangers do not ban", "ban.1", false, nil, member(anon, bob, ban)},
	{"ban", "ban.2", true, nil, member(mod, bob, ban)},
	{"ban of who never came", "ban.2", true, nil, member(mod, anon, ban)},
	{"ban without the right", "ban.3", false, nil, member(bob, carol, ban)},
	{"ban of someone higher", "ban.3", false, nil, member(mod, admin, ban)},
	{"ban of an equal", "ban.3", false, []ev{levels(`{"users":{"@mod:a":50,"@bob:b":50}}`)}, member(mod, bob, ban)},
	{"creators are not banned", "12:ban.3", false, nil, member(admin, alice, ban)},
	{"additional creators ban", "12:ban.2", true, []ev{additionalCreator}, member(bob, admin, ban)},

	{"knock on an invite-only room", "7-12:knock.1", false, nil, member(anon, anon, knock)},
	{"knock on a public room", "7-12:knock.1", false, publicRoom, member(anon, anon, knock)},
	{"knock_restricted does not take knocks yet", "7-9:knock.1", false, knockRestrictedRoom, member(anon, anon, knock)},
	{"knock for another", "7-12:knock.2", false, knockRoom, member(anon, gone, knock)},
	{"knock", "7-12:knock.3", true, knockRoom, member(anon, anon, knock)},
	{"knock again", "7-12:knock.3", true, knockRoom, member(knocking, knocking, knock)},
	{"knock on a room with restriction", "10-12:knock.3", true, knockRestrictedRoom, member(gone, gone, knock)},
	{"the joined do not knock", "7-12:knock.4", false, knockRoom, member(bob, bob, knock)},
	{"the invited do not knock", "7-12:knock.4", false, knockRoom, member(invited, invited, knock)},
	{"the banned do not knock", "7-12:knock.4", false, knockRoom, member(banned, banned, knock)},

	{"knocking is unknown", "1-6:unknown", false, knockRoom, member(anon, anon, knock)},
	{"unknown membership", "unknown", false, nil, member(bob, bob, "dance")},
	{"membership is not a string", "unknown", false, nil, member(bob, bob, join).with(`{"membership":{"join":1}}`)},
}

var additionalCreator = state(typeCreate, alice, `{"room_version":"12","additional_creators":["@bob:b"]}`).named("$create").inNoRoom()

func (e ev) named(eventID string) ev    { e.id = eventID; return e }
func (e ev) after(prev ...string) ev    { e.prev = prev; return e }
func (e ev) inRoom(roomID string) ev    { e.room = roomID; return e }
func (e ev) inNoRoom() ev               { e.room = "?"; return e }
func (e ev) redacting(target string) ev { e.redacts = target; return e }

// inviteCases are those of rule 5.4. They sign invitations, so they are made when asked for.
func inviteCases() []ruleCase {
	first, second, other := testKey(0), testKey(1), testKey(2)
	signed := func(mxid string) map[string]any {
		return map[string]any{"mxid": mxid, "token": "tok", "sender": mod}
	}
	issue := func(content string) ev {
		return ev{typ: typeThirdPartyInvite, sender: mod, key: "tok", content: content}
	}
	std, url := base64.RawStdEncoding, base64.URLEncoding
	single := []ev{issue(`{"public_key":"` + public(first, std) + `"}`)}
	several := []ev{issue(`{"public_key":"","public_keys":[1,{"public_key":2},{"public_key":"` + public(second, url) + `"},{"public_key":"` + public(first, std) + `"}]}`)}
	thirdParty := func(sender, target, content string) ev { return member(sender, target, invite).with(content) }
	part := func(signedPart string) string {
		return `{"membership":"invite","third_party_invite":{"signed":` + signedPart + `}}`
	}
	many := []ev{issue(`{"public_keys":[` + strings.Repeat(`{"public_key":"`+public(other, std)+`"},`, 2*maxTries) + `{"public_key":"` + public(first, std) + `"}]}`)}
	return []ruleCase{
		{"invitation of the banned by third party", "invite.1.1", false, single, thirdParty(mod, banned, signInvite(signed(banned), first))},
		{"third party part is not an object", "invite.1.2", false, single, thirdParty(mod, anon, `{"membership":"invite","third_party_invite":true}`)},
		{"third party part is not signed", "invite.1.2", false, single, thirdParty(mod, anon, `{"membership":"invite","third_party_invite":{}}`)},
		{"signed part is not an object", "invite.1.3", false, single, thirdParty(mod, anon, part(`[]`))},
		{"signed part without mxid", "invite.1.3", false, single, thirdParty(mod, anon, part(`{"token":"tok"}`))},
		{"signed part without token", "invite.1.3", false, single, thirdParty(mod, anon, part(`{"mxid":"@anon:b"}`))},
		{"signed part for another", "invite.1.4", false, single, thirdParty(mod, anon, signInvite(signed(gone), first))},
		{"no such invitation", "invite.1.5", false, nil, thirdParty(mod, anon, signInvite(signed(anon), first))},
		{"invitation was made by another", "invite.1.6", false, single, thirdParty(admin, anon, signInvite(signed(anon), first))},
		{"signed by the one key", "invite.1.7", true, single, thirdParty(mod, anon, signInvite(signed(anon), first))},
		{"signed by the first of the keys", "invite.1.7", true, several, thirdParty(mod, anon, signInvite(signed(anon), second))},
		{"signed by the last of the keys", "invite.1.7", true, several, thirdParty(mod, anon, signInvite(signed(anon), first))},
		{"signed by another key", "invite.1.8", false, several, thirdParty(mod, anon, signInvite(signed(anon), other))},
		{"keys are none", "invite.1.8", false, []ev{issue(`{"public_keys":"x"}`)}, thirdParty(mod, anon, signInvite(signed(anon), first))},
		{"not signed", "invite.1.8", false, single, thirdParty(mod, anon, part(`{"mxid":"@anon:b","token":"tok"}`))},
		{"signatures are none", "invite.1.8", false, single, thirdParty(mod, anon, part(`{"mxid":"@anon:b","token":"tok","signatures":{"a":1,"b":{"ed25519:1":1}}}`))},
		{"key beyond the number that is tried", "invite.1.8", false, many, thirdParty(mod, anon, signInvite(signed(anon), first))},

		{"strangers do not invite", "invite.2", false, nil, member(anon, gone, invite)},
		{"the invited do not invite", "invite.2", false, nil, member(invited, gone, invite)},
		{"the joined are not invited", "invite.3", false, nil, member(mod, bob, invite)},
		{"the banned are not invited", "invite.3", false, nil, member(mod, banned, invite)},
		{"invite", "invite.4", true, nil, member(bob, anon, invite)},
		{"invite of one who knocks", "invite.4", true, nil, member(bob, knocking, invite)},
		{"invite without the right", "invite.5", false, []ev{inviteLevel50}, member(bob, anon, invite)},
		{"creators invite whatever the level", "12:invite.4", true, []ev{levels(`{"invite":9007199254740991}`)}, member(alice, anon, invite)},
	}
}
