package eventauth

import (
	"encoding/json"
	"errors"
	"testing"

	"ebb/rooms/pdu"
)

// FuzzCheck judges an event of any content against a state that holds another event of any content. Whatever they are,
// the verdict is a known rule, is the same twice and with compiled levels, and nobody outside writes messages.
func FuzzCheck(f *testing.F) {
	f.Add(uint8(12), []byte(`{"type":"m.room.message","sender":"@bob:b","room_id":"!create","content":{}}`), []byte(`{}`))
	f.Add(uint8(1), []byte(`{"type":"m.room.power_levels","sender":"@mod:a","room_id":"!room:a","state_key":"","content":{"users":{"@mod:a":"50"}}}`), []byte(`{"type":"m.room.power_levels","state_key":"","content":{"users":{"@mod:a":" 100 ","@bob:b":1e300}}}`))
	f.Add(uint8(10), []byte(`{"type":"m.room.member","sender":"@bob:b","room_id":"!room:a","state_key":"@bob:b","content":{"membership":"join","join_authorised_via_users_server":"@mod:a"}}`), []byte(`{"type":"m.room.join_rules","state_key":"","content":{"join_rule":"restricted"}}`))
	f.Add(uint8(11), []byte(`{"type":"m.room.member","sender":"@mod:a","room_id":"!room:a","state_key":"@bob:b","content":{"membership":"invite","third_party_invite":{"signed":{"mxid":"@bob:b","token":"t","signatures":{"x":{"ed25519:1":"AA"}}}}}}`), []byte(`{"type":"m.room.third_party_invite","state_key":"t","sender":"@mod:a","content":{"public_keys":[{"public_key":"AA"}]}}`))
	f.Add(uint8(12), []byte(`{"type":"m.room.create","sender":"@alice:a","state_key":"","content":{"additional_creators":["@bob:b"]}}`), []byte(`{"type":"m.room.create","state_key":"","content":{"additional_creators":[1]}}`))
	versions := pdu.Versions()
	f.Fuzz(func(t *testing.T, n uint8, rawEvent, rawOther []byte) {
		v, _ := pdu.VersionOf(versions[int(n)%len(versions)])
		event, ok := parseFuzzed(v, rawEvent)
		if !ok {
			return
		}
		state := buildState(t, v, nil)
		if other, ok := parseFuzzed(v, rawOther); ok {
			if key, isState := other.StateKey(); isState {
				state[pdu.StateKey{Type: other.Type(), Key: key}] = other
			}
		}
		err := Check(v, event, state)
		var rejection *Rejection
		if err != nil && (!errors.As(err, &rejection) || rejection.Rule == "" || rejection.Msg == "") {
			t.Fatalf("Check = %v, which is not a rejection with a rule", err)
		}
		for _, again := range []error{Check(v, event, state), Check(v, event, withLevels(v, state))} {
			if (err == nil) != (again == nil) || err != nil && err.Error() != again.Error() {
				t.Fatalf("Check = %v, then %v", err, again)
			}
		}
		sender := state.Get(typeMember, string(event.Sender()))
		if err == nil && event.Type() == "m.room.message" && Membership(sender) != join {
			t.Fatalf("%s writes as %s", event.Sender(), Membership(sender))
		}
		_ = CheckAuthEvents(event, []*pdu.Event{event, state.Get(typeCreate, "")})
	})
}

// parseFuzzed reads an event, giving it an id if it has none.
func parseFuzzed(v *pdu.Version, raw []byte) (*pdu.Event, bool) {
	var obj map[string]json.RawMessage
	if json.Unmarshal(raw, &obj) != nil || obj == nil {
		return nil, false
	}
	obj["event_id"] = json.RawMessage(`"$fuzzed:a"`)
	full, err := json.Marshal(obj)
	if err != nil {
		return nil, false
	}
	event, err := pdu.ParseLenient(v, full)
	return event, err == nil
}
