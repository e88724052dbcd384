//go:build goexperiment.jsonv2

package eventauth

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/federation/eventauth"
	mpdu "maunium.net/go/mautrix/federation/pdu"
	"maunium.net/go/mautrix/id"
)

// TestVerdictsAgreeWithMautrix judges random events by random states here and in mautrix.
//
// What is known to differ is not generated: mautrix has no rule on m.room.aliases and looks at notifications in every
// version, takes floats and before version 10 booleans for levels, never finds a third party invitation signed, and
// panics over a removed user whose level is the sender's (which ours must refuse).
func TestVerdictsAgreeWithMautrix(t *testing.T) {
	const rounds = 1500
	forVersions(t, func(t *testing.T, n int, v *pdu.Version) {
		if n < 3 {
			t.Skip("events of versions 1 and 2 have another form in mautrix")
		}
		rng := rand.New(rand.NewPCG(uint64(n), 7))
		verdicts := make(map[bool]int)
		for i := range rounds {
			d := newDifferential(t, v, rng)
			event := d.event()
			rule, ours := d.judge(event)
			theirs, panicked := d.askMautrix(event)
			if panicked && ours == nil {
				t.Fatalf("round %d: mautrix panics and we allow\n%s", i, event)
			}
			if !panicked && (ours == nil) != (theirs == nil) {
				t.Fatalf("round %d: decided by rule %s: %v, mautrix says %v\nevent %s\nstate %s", i, rule, ours, theirs, event, d.describe())
			}
			verdicts[ours == nil]++
		}
		if verdicts[true] < rounds/20 || verdicts[false] < rounds/20 {
			t.Errorf("verdicts %v: the random events are too much alike", verdicts)
		}
	})
}

type differential struct {
	t      *testing.T
	v      *pdu.Version
	rng    *rand.Rand
	room   id.RoomID
	create id.EventID
	state  map[pdu.StateKey]json.RawMessage
	key    ed25519.PrivateKey
}

func newDifferential(t *testing.T, v *pdu.Version, rng *rand.Rand) *differential {
	d := &differential{t: t, v: v, rng: rng, room: "!room:a", state: make(map[pdu.StateKey]json.RawMessage), key: testKey(0)}
	content := map[string]any{"creator": alice, "room_version": v.ID}
	if rng.IntN(8) == 0 {
		content["m.federate"] = false
	}
	if v.PrivilegedCreators && rng.IntN(2) == 0 {
		content["additional_creators"] = []string{mod}
	}
	if v.RoomIDIsCreateHash {
		d.room = ""
	}
	create := d.raw(typeCreate, alice, "=", content, []string{}, []string{})
	parsed := d.parse(create)
	var err error
	if d.create, err = parsed.GetEventID(v.ID); err != nil {
		t.Fatal(err)
	}
	if v.RoomIDIsCreateHash {
		d.room = id.RoomID("!" + d.create[1:])
	}
	d.state[pdu.StateKey{Type: typeCreate}] = create
	d.fill()
	return d
}

var people = []string{alice, admin, mod, bob, carol, anon}

func choose[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

// fill gives the room members, join rules and power levels, each perhaps.
func (d *differential) fill() {
	for _, user := range people {
		if membership := choose(d.rng, join, join, join, invite, leave, ban, knock, ""); membership != "" {
			d.put(typeMember, user, "="+user, map[string]any{"membership": membership})
		}
	}
	if d.rng.IntN(6) > 0 {
		d.put(typeJoinRules, alice, "=", map[string]any{"join_rule": d.joinRule()})
	}
	if d.rng.IntN(6) > 0 {
		d.put(typePowerLevels, alice, "=", d.levels(false))
	}
}

func (d *differential) joinRule() string {
	return choose(d.rng, "public", "invite", "knock", "restricted", "knock_restricted", "private", "other")
}

// levels makes the content of a power levels event; a wild one may have a wrong shape.
func (d *differential) levels(wild bool) map[string]any {
	content := make(map[string]any)
	for _, name := range levelNames {
		if d.rng.IntN(4) == 0 {
			content[name] = d.level(wild)
		}
	}
	users := make(map[string]any)
	for _, user := range people {
		creator := d.v.PrivilegedCreators && (user == alice || user == mod)
		if d.rng.IntN(3) > 0 && (!creator || wild && d.rng.IntN(9) == 0) {
			users[user] = d.level(wild)
		}
	}
	if wild && d.rng.IntN(20) == 0 {
		users["nobody"] = 1
	}
	events := make(map[string]any)
	for _, typ := range []string{"m.room.name", typePowerLevels, "m.room.message"} {
		if d.rng.IntN(2) == 0 {
			events[typ] = d.level(wild)
		}
	}
	content["users"], content["events"] = users, events
	if d.v.NotificationsAuth && d.rng.IntN(2) == 0 {
		content["notifications"] = map[string]any{"room": d.level(wild)}
	}
	return content
}

// level makes a power level. Wrong ones stand in wild contents of versions that refuse them wherever they stand.
func (d *differential) level(wild bool) any {
	level := choose(d.rng, 0, 0, 10, 50, 50, 100, -1)
	if wild && d.v.IntegerPowerLevels && d.rng.IntN(40) == 0 {
		return choose[any](d.rng, "50", nil, true)
	}
	if !d.v.IntegerPowerLevels && d.rng.IntN(4) == 0 {
		return fmt.Sprintf(choose(d.rng, "%d", " %d ", "%+d", "%05d"), level)
	}
	return level
}

func (d *differential) put(typ, sender, key string, content map[string]any) {
	d.state[pdu.StateKey{Type: typ, Key: key[1:]}] = d.raw(typ, sender, key, content, []string{string(d.create)}, nil)
}

// event makes an event that may or may not be allowed.
func (d *differential) event() json.RawMessage {
	sender, target := choose(d.rng, people...), choose(d.rng, people...)
	prev := []string{choose(d.rng, string(d.create), "$other")}
	switch d.rng.IntN(10) {
	case 0:
		return d.raw("m.room.message", sender, "", map[string]any{}, prev, nil)
	case 1:
		return d.raw("m.room.name", sender, choose(d.rng, "=", "="+sender, "="+target), map[string]any{}, prev, nil)
	case 2:
		return d.raw(typeThirdPartyInvite, sender, "=token", map[string]any{}, prev, nil)
	case 3, 4, 5:
		return d.raw(typePowerLevels, sender, "=", d.nearLevels(), prev, nil)
	}
	if d.rng.IntN(2) == 0 {
		target = sender
	}
	content := map[string]any{"membership": choose(d.rng, join, join, join, invite, leave, ban, knock, "other")}
	if d.rng.IntN(2) == 0 {
		content["join_authorised_via_users_server"] = choose(d.rng, people...)
	}
	auth := []string{}
	if prev[0] != string(d.create) {
		auth = append(auth, "$one", "$two")
	}
	return d.raw(typeMember, sender, "="+target, content, prev, auth)
}

// nearLevels changes little in the room's power levels, since changing all is hardly ever allowed.
func (d *differential) nearLevels() map[string]any {
	next := d.levels(true)
	var now struct{ Content map[string]any }
	raw, ok := d.state[pdu.StateKey{Type: typePowerLevels}]
	if !ok || d.rng.IntN(8) == 0 || json.Unmarshal(raw, &now) != nil {
		return next
	}
	for range d.rng.IntN(3) {
		part := choose(d.rng, append([]string{"users", "events", "notifications"}, levelNames[:]...)...)
		if value, ok := next[part]; ok {
			now.Content[part] = value
		} else if part != "users" {
			delete(now.Content, part)
		}
	}
	return now.Content
}

func (d *differential) raw(typ, sender, key string, content map[string]any, prev, auth []string) json.RawMessage {
	obj := map[string]any{
		"type": typ, "sender": sender, "content": content, "prev_events": prev, "auth_events": append([]string{}, auth...),
		"origin_server_ts": 1, "depth": 1, "hashes": map[string]string{"sha256": ""},
	}
	if d.room != "" {
		obj["room_id"] = d.room
	}
	if key != "" {
		obj["state_key"] = key[1:]
	}
	raw, err := json.Marshal(obj)
	if err != nil {
		d.t.Fatal(err)
	}
	return raw
}

func (d *differential) parse(raw json.RawMessage) *mpdu.PDU {
	var event *mpdu.PDU
	if err := json.Unmarshal(raw, &event); err != nil {
		d.t.Fatalf("mautrix does not read %s: %v", raw, err)
	}
	return event
}

func (d *differential) judge(raw json.RawMessage) (rule string, err error) {
	state := make(StateMap)
	for key, raw := range d.state {
		state[key] = d.ours(key, raw)
	}
	event := d.ours(pdu.StateKey{Type: "judged"}, raw)
	c := check{v: d.v, n: numbersOf(d.v), e: event, auth: state}
	return c.judge().rule, Check(d.v, event, state)
}

func (d *differential) ours(key pdu.StateKey, raw json.RawMessage) *pdu.Event {
	eventID := id.EventID("$" + key.Type + key.Key)
	if key.Type == typeCreate {
		eventID = d.create
	}
	event, err := pdu.ParseStored(d.v, eventID, raw)
	if err != nil {
		d.t.Fatal(err)
	}
	return event
}

func (d *differential) askMautrix(raw json.RawMessage) (err error, panicked bool) {
	defer func() {
		if r := recover(); r != nil {
			panicked = true
		}
	}()
	event := d.parse(raw)
	for _, server := range []string{"a", "b", "c"} { // rule 5.2.1 is checked there
		if event.Type != typeMember {
			break
		}
		if err := event.Sign(d.v.ID, server, "ed25519:0", d.key); err != nil {
			d.t.Fatal(err)
		}
	}
	auth := []*mpdu.PDU{}
	for _, key := range event.AuthEventSelection(d.v.ID) {
		if raw, ok := d.state[pdu.StateKey{Type: key.Type, Key: key.StateKey}]; ok {
			auth = append(auth, d.parse(raw))
		}
	}
	getEvents := func([]id.EventID) ([]*mpdu.PDU, error) {
		return []*mpdu.PDU{d.parse(d.state[pdu.StateKey{Type: typeCreate}])}, nil
	}
	getKey := func(string, id.KeyID, time.Time) (id.SigningKey, time.Time, error) {
		return id.SigningKey(strings.TrimRight(public(d.key, base64.RawStdEncoding), "=")), time.Now().Add(time.Hour), nil
	}
	return eventauth.Authorize(d.v.ID, event, auth, getEvents, getKey), false
}

func (d *differential) describe() string {
	var lines []string
	for key, raw := range d.state {
		lines = append(lines, fmt.Sprintf("%s %s: %s", key.Type, key.Key, raw))
	}
	return strings.Join(lines, "\n")
}
