package pdu

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
)

// specKey is the key of the specification's test values.
// Spec: appendices#cryptographic-test-vectors
func specKey(t testing.TB) Signer {
	t.Helper()
	seed, err := base64.RawStdEncoding.DecodeString("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	return Signer{Server: "domain", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(seed)}
}

func publicKey(s Signer) ed25519.PublicKey { return s.Key.Public().(ed25519.PublicKey) }

func versionOf(t testing.TB, room id.RoomVersion) *Version {
	t.Helper()
	v, ok := VersionOf(room)
	if !ok {
		t.Fatalf("no room version %s", room)
	}
	return v
}

// eachVersion runs a test for every room version.
func eachVersion(t *testing.T, f func(t *testing.T, v *Version)) {
	for _, room := range Versions() {
		t.Run("v"+string(room), func(t *testing.T) { f(t, versionOf(t, room)) })
	}
}

func mustBuild(t testing.TB, v *Version, p Proto, s Signer) *Event {
	t.Helper()
	e, err := Build(v, p, s)
	if err != nil {
		t.Fatalf("Build(%+v): %v", p, err)
	}
	return e
}

// roomID is a room id that version v takes.
func roomID(v *Version) id.RoomID {
	if v.RoomIDIsCreateHash {
		return "!QsfBjbeyKnZoYXVYvUtWMDMQEEYwCKTY2rcHLBMpFVE"
	}
	return "!room:domain"
}

// eventID is the nth of some ids of other events in a room of version v.
func eventID(v *Version, n int) id.EventID {
	if v.EventIDFormat == EventIDFromServer {
		return id.EventID(fmt.Sprintf("$other%d:domain", n))
	}
	return formatID(v, sha256.Sum256([]byte{byte(n)}))
}

func message(v *Version) Proto {
	return Proto{
		RoomID: roomID(v), Type: "m.room.message", Sender: "@u:domain", Content: json.RawMessage(`{"msgtype":"m.text","body":"hi"}`),
		PrevEvents: []id.EventID{eventID(v, 1)}, AuthEvents: []id.EventID{eventID(v, 2), eventID(v, 3)}, Depth: 7, OriginServerTS: 1_000_000,
	}
}

// with returns the canonical object obj with one member set.
func with(t testing.TB, obj []byte, key, value string) []byte {
	t.Helper()
	out := canonjson.AppendWith(nil, obj, key, []byte(value))
	if !json.Valid(out) {
		t.Fatalf("%s is not JSON", out)
	}
	return out
}

var (
	someTypes = []string{
		typeCreate, typeMember, typeJoinRules, typePowerLevels, typeAliases, typeHistoryVisibility, typeRedaction, "m.room.message", "org.example.\"odd\"",
	}
	someKeys = []string{
		"membership", "join_authorised_via_users_server", "third_party_invite", "creator", "room_version", "join_rule", "allow", "ban", "events",
		"events_default", "invite", "kick", "redact", "state_default", "users", "users_default", "notifications", "aliases", "history_visibility",
		"redacts", "body", "reason", "é", "😀",
	}
	someValues = []string{
		`"x"`, `0`, `50`, `null`, `true`, `[]`, `{}`, `["a",{"b":1}]`, `{"@u:domain":100,"a":{"b":[1,2]}}`, `{"signed":{"mxid":"@u:domain","token":"t"},"display_name":"d"}`,
		`"quote \" and \\ and \n and é and 😀"`, `9007199254740991`,
	}
)

// randomEvents is how many random events a test tries in each version.
func randomEvents() int {
	if testing.Short() {
		return 20
	}
	return 200
}

// randomProto makes an event of any of the types with a special meaning, with members in its content that some
// redaction algorithm knows.
func randomProto(rng *rand.Rand, v *Version) Proto {
	p := message(v)
	p.Type = someTypes[rng.IntN(len(someTypes))]
	if rng.IntN(2) == 0 {
		key := []string{"", "@u:domain", "é\"\\"}[rng.IntN(3)]
		p.StateKey = &key
	}
	content := []byte("{}")
	for range rng.IntN(8) {
		key, value := someKeys[rng.IntN(len(someKeys))], someValues[rng.IntN(len(someValues))]
		content = canonjson.AppendWith(nil, content, key, []byte(value))
	}
	if p.Type == typeRedaction {
		p.Redacts = eventID(v, 9)
	}
	p.Content, p.Depth, p.OriginServerTS = content, rng.Int64N(1000), rng.Int64N(1<<41)
	p.PrevEvents = make([]id.EventID, rng.IntN(MaxPrevEvents+1))
	for i := range p.PrevEvents {
		p.PrevEvents[i] = eventID(v, 10+i)
	}
	p.ReferenceHash = func(e id.EventID) ([sha256.Size]byte, bool) { return sha256.Sum256([]byte(e)), true }
	return p
}
