package pushrules

import (
	"encoding/json"
	"slices"
	"strings"
)

// Defaults selects server-default rules that are optional.
type Defaults struct {
	Legacy       bool // the legacy mention rules
	AllEncrypted bool // the rule that notifies of every encrypted event, so that clients can decide (MSC4028)
}

// defaultRules returns the server-default rules of one user.
// Spec: client-server-api#predefined-rules
func defaultRules(user string, d Defaults) *Ruleset {
	id, err := json.Marshal(user)
	if err != nil {
		id = []byte(`""`) // cannot happen, because strings always encode
	}
	me := string(id)
	set := &Ruleset{
		Override: []Rule{
			{ID: masterRule, Default: true, Enabled: false, Conditions: raws(), Actions: raws()},
			on(".m.rule.suppress_notices", raws(), match("content.msgtype", `"m.notice"`)),
			on(".m.rule.invite_for_me", raws(notify, sound("default")), match("type", `"m.room.member"`), match("content.membership", `"invite"`), match("state_key", me)),
			on(".m.rule.member_event", raws(), match("type", `"m.room.member"`)),
			on(".m.rule.is_user_mention", raws(notify, sound("default"), highlight), `{"kind":"event_property_contains","key":"content.m\\.mentions.user_ids","value":`+me+`}`),
			on(".m.rule.is_room_mention", raws(notify, highlight), `{"kind":"event_property_is","key":"content.m\\.mentions.room","value":true}`, `{"kind":"sender_notification_permission","key":"room"}`),
			on(".m.rule.tombstone", raws(notify, highlight), match("type", `"m.room.tombstone"`), match("state_key", `""`)),
			on(".m.rule.reaction", raws(), match("type", `"m.reaction"`)),
			on(".m.rule.room.server_acl", raws(), match("type", `"m.room.server_acl"`), match("state_key", `""`)),
			on(".m.rule.suppress_edits", raws(), `{"kind":"event_property_is","key":"content.m\\.relates_to.rel_type","value":"m.replace"}`),
			on(pollRule+"response", raws(), match("type", `"org.matrix.msc3381.poll.response"`)),
		},
		PostContent: []Rule{
			{ID: unsubscribedThreadRule, Default: true, Conditions: raws(threadCondition("false")), Actions: raws()},
			on(subscribedThreadRule, raws(notify, sound("default")), threadCondition("true")),
		},
		Underride: []Rule{
			on(".m.rule.call", raws(notify, sound("ring")), match("type", `"m.call.invite"`)),
			on(".m.rule.encrypted_room_one_to_one", raws(notify, sound("default")), twoMembers, match("type", `"m.room.encrypted"`)),
			on(".m.rule.room_one_to_one", raws(notify, sound("default")), twoMembers, match("type", `"m.room.message"`)),
			on(".m.rule.message", raws(notify), match("type", `"m.room.message"`)),
			on(".m.rule.encrypted", raws(notify), match("type", `"m.room.encrypted"`)),
			on(pollRule+"start_one_to_one", raws(notify, sound("default")), twoMembers, match("type", `"org.matrix.msc3381.poll.start"`)),
			on(pollRule+"start", raws(notify), match("type", `"org.matrix.msc3381.poll.start"`)),
			on(pollRule+"end_one_to_one", raws(notify, sound("default")), twoMembers, match("type", `"org.matrix.msc3381.poll.end"`)),
			on(pollRule+"end", raws(notify), match("type", `"org.matrix.msc3381.poll.end"`)),
		},
	}
	if d.AllEncrypted {
		set.insertAfter(masterRule, on(encryptedRule, raws(notify, `{"set_tweak":"org.matrix.msc4062.dont_email"}`), `{"kind":"event_property_is","key":"type","value":"m.room.encrypted"}`))
	}
	if d.Legacy {
		set.addLegacy(user)
	}
	return set
}

// addLegacy inserts the legacy mention rules where earlier versions of the specification had them.
func (s *Ruleset) addLegacy(user string) {
	s.insertAfter(".m.rule.is_user_mention",
		on(displayNameRule, raws(notify, sound("default"), highlight), `{"kind":"`+displayNameKind+`"}`))
	s.insertAfter(".m.rule.is_room_mention",
		on(roomRule, raws(notify, highlight), match("content.body", `"@room"`), `{"kind":"sender_notification_permission","key":"room"}`))
	s.Content = []Rule{{ID: userNameRule, Default: true, Enabled: true, Actions: raws(notify, sound("default"), highlight), Pattern: localpart(user)}}
}

// insertAfter inserts an override rule after the one with the given ID.
func (s *Ruleset) insertAfter(ruleID string, r Rule) {
	s.Override = slices.Insert(s.Override, indexRule(s.Override, ruleID)+1, r)
}

// encryptedRule is the unstable ID of the rule. The rule is enabled for everybody, like the stable one.
// Spec: MSC4028
const encryptedRule = ".org.matrix.msc4028.encrypted_event"

// pollRule is the prefix of the unstable IDs of the rules about polls. Users are notified when a poll starts or ends,
// but not of votes. Clients send polls with their unstable types.
// Spec: MSC3930, MSC3381
const pollRule = ".org.matrix.msc3930.rule.poll_"

// The legacy mention rules match texts that contain the user's display name, @room or the user's localpart. They apply
// only to events without m.mentions, since bots, bridges and old clients mention people in the text only.
// Deviation: version 1.17 removed these rules. Synapse still has them, and the settings page of Element Web before
// September 2026 depends on them.
// Spec: client-server-api#predefined-rules (v1.7 to v1.16)
const (
	displayNameRule = ".m.rule.contains_display_name"
	roomRule        = ".m.rule.roomnotif"
	userNameRule    = ".m.rule.contains_user_name"
)

// The rules about threads of MSC4306 silence the threads that a user is not subscribed to.
// Deviation: the first one is disabled until the user subscribes to a thread. Otherwise users whose clients do not
// support subscriptions would not be notified of any thread.
const (
	unsubscribedThreadRule = ".io.element.msc4306.rule.unsubscribed_thread"
	subscribedThreadRule   = ".io.element.msc4306.rule.subscribed_thread"
)

const threadSubscriptionKind = "io.element.msc4306.thread_subscription"

func threadCondition(subscribed string) string {
	return `{"kind":"` + threadSubscriptionKind + `","subscribed":` + subscribed + `}`
}

// localpart returns the localpart of a user ID. It returns the placeholder ownUserID unchanged.
func localpart(user string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(user, "@"), ":")
	return name
}

// masterRule is the only default rule that is checked before the user's own rules.
const masterRule = ".m.rule.master"

const (
	notify    = `"notify"`
	highlight = `{"set_tweak":"highlight"}`
)

func sound(name string) string { return `{"set_tweak":"sound","value":"` + name + `"}` }

func on(ruleID string, actions []json.RawMessage, conditions ...string) Rule {
	return Rule{ID: ruleID, Default: true, Enabled: true, Actions: actions, Conditions: raws(conditions...)}
}

func match(key, pattern string) string {
	return `{"kind":"event_match","key":"` + key + `","pattern":` + pattern + `}`
}

const twoMembers = `{"kind":"room_member_count","is":"2"}`

func raws(texts ...string) []json.RawMessage {
	out := make([]json.RawMessage, len(texts))
	for i, t := range texts {
		out[i] = json.RawMessage(t)
	}
	return out
}
