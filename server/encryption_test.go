package server_test

import (
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
)

const megolm = "m.megolm.v1.aes-sha2"

// encryptionOf returns the encryption algorithm of a room, or nil.
func encryptionOf(d *device, room string) any {
	status, _, _ := d.Raw("GET", "/v3/rooms/"+room+"/state/m.room.encryption/", nil)
	if status != 200 {
		return nil
	}
	return d.Do("GET", "/v3/rooms/"+room+"/state/m.room.encryption/", nil)["algorithm"]
}

func TestRoomsAreEncryptedByPolicy(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) {
		c.Encryption.Force, c.Encryption.Forbid = []string{"private", "direct"}, []string{"public"}
	})
	alice := signUp(t, s, "alice")
	encryption := func(algorithm string) []obj {
		return []obj{{"type": "m.room.encryption", "content": obj{"algorithm": algorithm}}}
	}
	for _, c := range []struct {
		what string
		body obj
		want any
	}{
		{"private", obj{}, megolm},
		{"private by preset", obj{"preset": "private_chat"}, megolm},
		{"direct", obj{"preset": "trusted_private_chat", "is_direct": true}, megolm},
		{"private, encrypted by the client", obj{"initial_state": encryption(megolm)}, megolm},
		{"public", obj{"preset": "public_chat"}, nil},
		{"a space", obj{"creation_content": obj{"type": "m.space"}}, nil},
	} {
		room, _ := alice.Do("POST", "/v3/createRoom", c.body)["room_id"].(string)
		if got := encryptionOf(alice, room); got != c.want {
			t.Errorf("%s: encrypted with %v", c.what, got)
		}
	}
	alice.Refused("POST", "/v3/createRoom", obj{"initial_state": encryption("none")}, 403, "M_FORBIDDEN")
	alice.Refused("POST", "/v3/createRoom", obj{"preset": "public_chat", "initial_state": encryption(megolm)}, 403, "M_FORBIDDEN")
	public, _ := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	alice.Refused("PUT", "/v3/rooms/"+public+"/state/m.room.encryption", obj{"algorithm": megolm}, 403, "M_FORBIDDEN")
	features := alice.Do("GET", "/versions", nil)["unstable_features"]
	for flag, want := range map[string]bool{"public": false, "private": true, "trusted_private": true} {
		if got := get(features, "io.element.e2ee_forced."+flag); got != want {
			t.Errorf("the flag for %s rooms is %v", flag, got)
		}
	}
	if got := alice.Do("GET", "/.well-known/matrix/client", nil); get(got, "io.element.e2ee", "default") != true {
		t.Errorf("the document for clients is %v", got)
	}
}

func TestPlaintextIsRefusedInEncryptedRoomsByPolicy(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) { c.Encryption.RefusePlaintext = true })
	alice, bob := signUp(t, s, "alice"), signUp(t, s, "bob")
	_, plain := together(nil, alice, bob)
	_, base := together(obj{"initial_state": []obj{{"type": "m.room.encryption", "content": obj{"algorithm": megolm}}}}, alice, bob)
	first := alice.say(plain, "plaintext is fine here")
	if first == "" {
		t.Fatal("no event")
	}
	message := obj{"msgtype": "m.text", "body": "x"}
	for i, typ := range []string{"m.room.message", "m.sticker", "m.poll.start", "org.matrix.msc3381.poll.response"} {
		alice.Refused("PUT", base+"/send/"+typ+"/"+string(rune('a'+i)), message, 403, "M_FORBIDDEN")
	}
	sent, _ := alice.Do("PUT", base+"/send/m.room.encrypted/1", obj{"algorithm": megolm, "ciphertext": "x"})["event_id"].(string)
	alice.Do("PUT", base+"/send/m.reaction/2", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": sent, "key": "x"}})
	alice.Do("PUT", base+"/send/m.call.invite/3", obj{"call_id": "x"})
	alice.Do("PUT", base+"/send/m.room.message/4", obj{"msgtype": "m.key.verification.request", "body": "x", "to": bob.User})
	alice.Do("PUT", base+"/state/m.room.topic", obj{"topic": "x"})
	alice.Do("PUT", base+"/redact/"+sent+"/5", obj{})
}
