//go:build goexperiment.jsonv2

package pdu

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/canonicaljson"
	"maunium.net/go/mautrix/federation/pdu"
	"maunium.net/go/mautrix/federation/signutil"
	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
)

// peer reads an event as mautrix does.
func peer(t *testing.T, v *Version, raw []byte) pdu.AnyPDU {
	t.Helper()
	var e pdu.AnyPDU = &pdu.PDU{}
	if v.EventIDFormat == EventIDFromServer {
		e = &pdu.RoomV1PDU{}
	}
	if err := json.Unmarshal(raw, e); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return e
}

// knownDifference reports whether e is an event on which mautrix departs from the specification: since room version 11
// its redaction drops a third_party_invite without signed, of which other servers keep an empty object.
func knownDifference(v *Version, e *Event) bool {
	invite, _ := canonjson.Get(e.Content(), "third_party_invite")
	_, signed := canonjson.Get(invite, "signed")
	return e.Type() == typeMember && v.RedactionV11 && isObject(invite) && !signed
}

func TestMautrixAgreesOnBuiltEvents(t *testing.T) {
	s := specKey(t)
	getKey := func(server string, _ id.KeyID, _ time.Time) (id.SigningKey, time.Time, error) {
		return id.SigningKey(base64.RawStdEncoding.EncodeToString(publicKey(s))), time.Now().AddDate(100, 0, 0), nil
	}
	eachVersion(t, func(t *testing.T, v *Version) {
		rng, skipped := rand.New(rand.NewPCG(7, 8)), 0
		for range 400 {
			e := mustBuild(t, v, randomProto(rng, v), s)
			other := peer(t, v, e.JSON())
			if !other.VerifyContentHash() {
				t.Errorf("content hash of %s is refused", e.JSON())
			}
			if knownDifference(v, e) {
				skipped++
				continue
			}
			if got, err := other.GetEventID(v.ID); err != nil || got != e.ID() {
				t.Errorf("%s is %s, %v; for us %s", e.JSON(), got, err, e.ID())
			}
			if err := other.VerifySignature(v.ID, s.Server, getKey); err != nil {
				t.Errorf("signature of %s is refused: %v", e.JSON(), err)
			}
			if hash, err := other.GetReferenceHash(v.ID); err != nil || hash != e.ReferenceHash() {
				t.Errorf("reference hash of %s differs: %v", e.JSON(), err)
			}
		}
		if skipped > 200 {
			t.Errorf("%d of 400 events differ in a known way", skipped)
		}
	})
}

// Events with members that Build never writes.
func TestMautrixAgreesOnStrangeEvents(t *testing.T) {
	s := specKey(t)
	strange := []string{"prev_state", "origin", "membership", "age_ts", "msc1234.x", "redacts", "state_key"}
	eachVersion(t, func(t *testing.T, v *Version) {
		rng := rand.New(rand.NewPCG(9, 10))
		for range 200 {
			built := mustBuild(t, v, randomProto(rng, v), s)
			raw := built.JSON()
			for range rng.IntN(4) {
				raw = with(t, raw, strange[rng.IntN(len(strange))], `"$x:domain"`)
			}
			raw = canonjson.Without(raw, "hashes", "signatures")
			other := peer(t, v, raw)
			if err := other.Sign(v.ID, s.Server, s.KeyID, s.Key); err != nil {
				t.Fatal(err)
			}
			signed, err := canonicaljson.Marshal(other)
			if err != nil {
				t.Fatal(err)
			}
			e, err := Parse(v, signed)
			if err != nil {
				t.Fatalf("Parse(%s): %v", signed, err)
			}
			if !e.CheckContentHash() {
				t.Errorf("content hash of %s is refused", signed)
			}
			if knownDifference(v, e) {
				continue
			}
			if err := e.VerifySignature(s.Server, string(s.KeyID), publicKey(s)); err != nil {
				t.Errorf("signature of %s is refused: %v", signed, err)
			}
			if sealed, _ := seal(v, e.Type(), canonjson.Without(signed, "hashes", "signatures"), s); !bytes.Equal(sealed, signed) {
				t.Errorf("we sign\n%s, they\n%s", sealed, signed)
			}
		}
	})
}

func TestMautrixAgreesOnSignedJSON(t *testing.T) {
	s, rng := specKey(t), rand.New(rand.NewPCG(11, 12))
	for range 300 {
		obj := []byte("{}")
		for range rng.IntN(8) {
			obj = with(t, obj, someKeys[rng.IntN(len(someKeys))], someValues[rng.IntN(len(someValues))])
		}
		signed, err := SignJSON(obj, s)
		if err != nil {
			t.Fatal(err)
		}
		key := id.SigningKey(base64.RawStdEncoding.EncodeToString(publicKey(s)))
		if err := signutil.VerifyJSON(s.Server, s.KeyID, key, json.RawMessage(slices.Clone(signed))); err != nil {
			t.Errorf("%s: %v", signed, err)
		}
	}
}
