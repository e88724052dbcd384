package server_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"ebb/internal/testserver"
)

// crossSigningKeys creates the three cross-signing keys of a user, two of them signed by the first.
func crossSigningKeys(t *testing.T, user string) obj {
	t.Helper()
	encode := base64.RawStdEncoding.EncodeToString
	var master ed25519.PrivateKey
	var masterID string
	keys := obj{}
	for _, usage := range []string{"master", "self_signing", "user_signing"} {
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		key := obj{"user_id": user, "usage": []string{usage}, "keys": obj{"ed25519:" + encode(public): encode(public)}}
		if usage == "master" {
			master, masterID = private, "ed25519:"+encode(public)
		} else {
			canonical, err := json.Marshal(key) // json.Marshal sorts maps, and nothing here needs escaping
			if err != nil {
				t.Fatal(err)
			}
			key["signatures"] = obj{user: obj{masterID: encode(ed25519.Sign(master, canonical))}}
		}
		keys[usage+"_key"] = key
	}
	return keys
}

func TestOneTimeKeysAreClaimedOnceOldestFirstAndNeverChange(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	upload := func(id, key string) obj {
		return obj{"one_time_keys": obj{"signed_curve25519:" + id: obj{"key": key, "signatures": obj{alice.User: obj{"ed25519:X": "s"}}}}}
	}
	for i, id := range []string{"z", "m", "a"} { // the order of the IDs is not the order of upload
		alice.Do("POST", "/v3/keys/upload", upload(id, fmt.Sprint(i)))
	}
	if again := alice.Do("POST", "/v3/keys/upload", upload("z", "0")); get(again, "one_time_key_counts", "signed_curve25519") != 3.0 {
		t.Errorf("the answer to the same upload again is %v, want three keys", again)
	}
	alice.Refused("POST", "/v3/keys/upload", upload("z", "other"), 400, "M_INVALID_PARAM")
	alice.Do("POST", "/v3/keys/upload", obj{"fallback_keys": obj{"signed_curve25519:f": obj{"key": "last", "fallback": true}}})
	claim := obj{"one_time_keys": obj{alice.User: obj{alice.DeviceID: "signed_curve25519"}}}
	for i, id := range []string{"z", "m", "a", "f", "f"} {
		given, _ := get(bob.Do("POST", "/v3/keys/claim", claim), "one_time_keys", alice.User, alice.DeviceID).(obj)
		if len(given) != 1 || given["signed_curve25519:"+id] == nil {
			t.Errorf("claim %d returns %v, want %s", i, given, id)
		}
		if i == 2 {
			if left := alice.sync(); get(left, "device_unused_fallback_key_types", 0) != "signed_curve25519" {
				t.Errorf("before the fallback key is used, device_unused_fallback_key_types is %v", left["device_unused_fallback_key_types"])
			}
		}
	}
	if left := alice.sync(); get(left, "device_one_time_keys_count", "signed_curve25519") != 0.0 || len(list(left, "device_unused_fallback_key_types")) != 0 {
		t.Errorf("after all claims the count is %v and the unused fallback keys are %v; want 0 and none", left["device_one_time_keys_count"], left["device_unused_fallback_key_types"])
	}
}

func TestDeviceKeysKeepUnknownMembers(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	share(alice.Client, bob.Client)
	const future = `"org.example.future":{"b":1.50,"a":["\u00e9",null,12345678901234567890]}`
	keys := fmt.Sprintf(`{"user_id":%q,"device_id":%q,"algorithms":["m.olm.v1.curve25519-aes-sha2"],"keys":{"ed25519:%s":"k"},"signatures":{},%s}`,
		alice.User, alice.DeviceID, alice.DeviceID, future)
	alice.Do("POST", "/v3/keys/upload", []byte(`{"device_keys":`+keys+`}`))
	for _, d := range []*device{alice, bob} {
		status, _, raw := d.Raw("POST", "/v3/keys/query", obj{"device_keys": obj{alice.User: []string{}}})
		if status != 200 || !strings.Contains(string(raw), future) {
			t.Errorf("to %s the device keys are %s, want the unknown key in them", d.User, raw)
		}
	}
}

func TestUserSigningKeyIsSentOnlyToItsOwner(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	share(alice.Client, bob.Client)
	keys := crossSigningKeys(t, alice.User)
	alice.Do("POST", "/v3/keys/device_signing/upload", keys) // the first upload needs no password
	for d, own := range map[*device]bool{alice: true, bob: false} {
		answer := d.Do("POST", "/v3/keys/query", obj{"device_keys": obj{alice.User: []string{}}})
		if get(answer, "master_keys", alice.User) == nil || get(answer, "self_signing_keys", alice.User) == nil {
			t.Errorf("%s does not get the master key and the self-signing key: %v", d.User, answer)
		}
		if (get(answer, "user_signing_keys", alice.User) != nil) != own {
			t.Errorf("%s gets the user-signing keys %v, want them only for their owner", d.User, answer["user_signing_keys"])
		}
	}
}
