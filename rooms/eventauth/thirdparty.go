package eventauth

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"

	"ebb/canonjson"
	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

// maxTries bounds how many pairs of signature and key are tried for one invite. Deviation: the specification has no
// bound, so other servers would accept an invite whose valid pair comes later. But an event has room for so many
// signatures and keys that trying all pairs would take half a minute. 512 tries take about 25 ms, and identity servers
// produce one signature and two keys.
const maxTries = 512

// judgeThirdPartyInvite applies authorisation rule 5.4.1, about invites with third_party_invite.
func (c *check) judgeThirdPartyInvite(target id.UserID, raw []byte) verdict {
	rule := c.n.invite + ".1"
	// 5.4.1.1
	if c.membership(target) == ban {
		return reject(rule+".1", "user is banned")
	}
	// 5.4.1.2
	var signed []byte
	if isObject(raw) {
		signed, _ = canonjson.Get(raw, "signed")
	}
	if signed == nil {
		return reject(rule+".2", "third_party_invite has no signed property")
	}
	// 5.4.1.3
	var mxid, token string
	if isObject(signed) {
		mxid, token = getString(signed, "mxid"), getString(signed, "token")
	}
	if mxid == "" || token == "" {
		return reject(rule+".3", "signed has no mxid or no token")
	}
	// 5.4.1.4
	if mxid != string(target) {
		return reject(rule+".4", "signed is for another user")
	}
	// 5.4.1.5
	issued := c.auth.Get(typeThirdPartyInvite, token)
	if issued == nil {
		return reject(rule+".5", "there is no third-party invite with this token")
	}
	// 5.4.1.6
	if issued.Sender() != c.e.Sender() {
		return reject(rule+".6", "sender did not send the third-party invite")
	}
	// 5.4.1.7
	if signedByAny(signed, inviteKeys(issued)) {
		return allow(rule + ".7")
	}
	return reject(rule+".8", "signed is not signed with a key of the third-party invite") // 5.4.1.8
}

// inviteKeys returns the public keys of a third-party invite.
func inviteKeys(issued *pdu.Event) []ed25519.PublicKey {
	var keys []ed25519.PublicKey
	add := func(s string) {
		if key := decodeBase64(s); len(key) == ed25519.PublicKeySize {
			keys = append(keys, key)
		}
	}
	// 5.4.1.7.1 The single key.
	add(getString(issued.Content(), "public_key"))
	// 5.4.1.7.2 The list of keys.
	raw, _ := canonjson.Get(issued.Content(), "public_keys")
	items, _ := canonjson.Elements(raw)
	for _, item := range items {
		if isObject(item) {
			add(getString(item, "public_key"))
		}
	}
	return keys
}

// signedByAny reports whether an object has an Ed25519 signature that was made with one of the keys. The server names
// and key IDs of the signatures do not matter.
func signedByAny(obj []byte, keys []ed25519.PublicKey) bool {
	signatures, _ := canonjson.Get(obj, "signatures")
	message, err := canonjson.Canonical(canonjson.Without(obj, "signatures", "unsigned"), false)
	if err != nil {
		return false
	}
	found, tries := false, 0
	try := func(keyID string, raw []byte) error {
		text, _ := canonjson.Unquote(raw)
		signature := decodeBase64(text)
		if !strings.HasPrefix(keyID, "ed25519:") || len(signature) != ed25519.SignatureSize {
			return nil
		}
		for _, key := range keys {
			if tries++; tries > maxTries {
				return errStop
			}
			if ed25519.Verify(key, message, signature) {
				found = true
				return errStop
			}
		}
		return nil
	}
	_ = canonjson.Each(signatures, func(_ string, ofServer []byte) error {
		if !isObject(ofServer) {
			return nil
		}
		return canonjson.Each(ofServer, try)
	})
	return found
}

// decodeBase64 decodes standard and URL-safe base64 with or without padding, all of which identity servers use. It
// returns nil for anything else.
func decodeBase64(s string) []byte {
	s = strings.TrimRight(s, "=")
	encoding := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		encoding = base64.RawURLEncoding
	}
	raw, err := encoding.DecodeString(s)
	if err != nil {
		return nil
	}
	return raw
}
