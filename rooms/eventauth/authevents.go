package eventauth

import (
	"encoding/json"
	"slices"

	"ebb/canonjson"
	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

// AuthKeys returns the types and state keys of the state events that an event must name in auth_events, as far as the
// room has such events.
//
// Spec: server-server-api#auth-events-selection
func AuthKeys(v *pdu.Version, e *pdu.Event) []pdu.StateKey {
	var stateKey *string
	if key, ok := e.StateKey(); ok {
		stateKey = &key
	}
	return AuthKeysFor(v, e.Type(), stateKey, e.Sender(), e.Content())
}

// AuthKeysFor is like AuthKeys, but for an event that does not exist yet. stateKey is nil if the event is not a state
// event.
func AuthKeysFor(v *pdu.Version, typ string, stateKey *string, sender id.UserID, content json.RawMessage) []pdu.StateKey {
	if typ == typeCreate {
		return nil
	}
	keys := make([]pdu.StateKey, 0, 6)
	if !v.RoomIDIsCreateHash {
		keys = append(keys, pdu.StateKey{Type: typeCreate})
	}
	keys = append(keys, pdu.StateKey{Type: typePowerLevels}, pdu.StateKey{Type: typeMember, Key: string(sender)})
	if typ == typeMember && stateKey != nil {
		keys = memberKeys(v, keys, *stateKey, content)
	}
	return keys
}

// memberKeys appends the keys that only an m.room.member event needs.
func memberKeys(v *pdu.Version, keys []pdu.StateKey, target string, content json.RawMessage) []pdu.StateKey {
	add := func(typ, key string) {
		if k := (pdu.StateKey{Type: typ, Key: key}); !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	add(typeMember, target)
	membership := getString(content, "membership")
	if membership == join || membership == invite || membership == knock {
		add(typeJoinRules, "")
	}
	if membership == invite {
		if token, ok := inviteToken(content); ok {
			add(typeThirdPartyInvite, token)
		}
	}
	if membership == join && v.Restricted {
		if via := getString(content, "join_authorised_via_users_server"); via != "" {
			add(typeMember, via)
		}
	}
	return keys
}

// inviteToken returns third_party_invite.signed.token.
func inviteToken(content json.RawMessage) (string, bool) {
	raw, _ := canonjson.Get(content, "third_party_invite")
	if !isObject(raw) {
		return "", false
	}
	signed, _ := canonjson.Get(raw, "signed")
	if !isObject(signed) {
		return "", false
	}
	token, ok := canonjson.Get(signed, "token")
	if !ok {
		return "", false
	}
	return canonjson.Unquote(token)
}

// CheckAuthEvents checks the list of an event's auth events: rule 2 of versions 1 to 11, rule 3 of version 12.
// authEvents are the events that auth_events names, all of which must have been found. Point 3 of the rule, whether one
// of them was rejected, is left to the caller. CheckAuthEvents returns nil or a *Rejection.
func CheckAuthEvents(e *pdu.Event, authEvents []*pdu.Event) error {
	if e.Type() == typeCreate {
		return nil
	}
	n := numbersOf(e.Version())
	if d := judgeAuthEvents(n, e, authEvents); d.msg != "" {
		return &Rejection{Rule: d.rule, Msg: d.msg}
	}
	return nil
}

func judgeAuthEvents(n *numbers, e *pdu.Event, authEvents []*pdu.Event) verdict {
	keys := make([]pdu.StateKey, len(authEvents))
	for i, a := range authEvents {
		if a == nil {
			return reject(n.authEvents+".2", "an auth event is missing")
		}
		key, isState := a.StateKey()
		if !isState {
			return reject(n.authEvents+".2", "an auth event is not state")
		}
		keys[i] = pdu.StateKey{Type: a.Type(), Key: key}
		// 3.1 There are no duplicates.
		if slices.Contains(keys[:i], keys[i]) {
			return reject(n.authEvents+".1", "two auth events have the same type and state_key")
		}
	}
	// 3.2 All are in the selection, which in version 12 does not include the create event.
	selection := AuthKeys(e.Version(), e)
	for _, key := range keys {
		if !slices.Contains(selection, key) {
			return reject(n.authEvents+".2", "an auth event is not in the auth events selection")
		}
	}
	// 2.4 in versions 1 to 11. The create event is among them.
	if !e.Version().RoomIDIsCreateHash && !slices.Contains(keys, pdu.StateKey{Type: typeCreate}) {
		return reject(n.noCreate, "the create event is not among the auth events")
	}
	// 3.4 All belong to the event's room (2.5 in versions 1 to 11).
	for _, a := range authEvents {
		if a.RoomID() != e.RoomID() {
			return reject(n.authRoom, "an auth event belongs to another room")
		}
	}
	return verdict{}
}
