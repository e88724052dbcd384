package pdu

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"strings"

	"ebb/canonjson"
)

// SignJSON returns the JSON object obj in canonical form with the signature of s added to its signatures. It keeps
// unsigned, which the signature does not cover. Errors are *Error.
// Spec: appendices#signing-details
func SignJSON(obj []byte, s Signer) ([]byte, error) {
	canonical, err := canonjson.Canonical(obj, true)
	if err != nil {
		return nil, badJSON(err)
	}
	if !isObject(canonical) {
		return nil, failf(BadShape, "only objects can be signed")
	}
	text := canonjson.Without(canonical, "signatures", "unsigned")
	signature := base64.RawStdEncoding.EncodeToString(ed25519.Sign(s.Key, text))
	signatures, err := withSignature(canonical, s.Server, string(s.KeyID), signature)
	if err != nil {
		return nil, err
	}
	return canonjson.AppendWith(nil, canonical, "signatures", signatures), nil
}

// withSignature returns the signatures of the canonical object obj with another signature added.
func withSignature(obj []byte, server, keyID, signature string) ([]byte, error) {
	signatures, keys := json.RawMessage("{}"), json.RawMessage("{}")
	if old, ok := canonjson.Get(obj, "signatures"); ok {
		signatures = old
	}
	if old, ok := canonjson.Get(signatures, server); ok {
		keys = old
	}
	if !isObject(signatures) || !isObject(keys) {
		return nil, failf(BadShape, "signatures is not an object of objects")
	}
	keys = canonjson.AppendWith(nil, keys, keyID, canonjson.AppendString(nil, signature))
	return canonjson.AppendWith(nil, signatures, server, keys), nil
}

// VerifyJSON verifies the signature on the JSON object obj by an entity, which is a server name or, for device keys, a
// user ID, with the key keyID. The error is an *Error, of kind BadSignature if the signature is missing or wrong.
// Spec: appendices#checking-for-a-signature
func VerifyJSON(obj []byte, entity, keyID string, key ed25519.PublicKey) error {
	canonical, err := canonjson.Canonical(obj, false)
	if err != nil {
		return badJSON(err)
	}
	return verify(canonical, canonjson.Without(canonical, "signatures", "unsigned"), entity, keyID, key)
}

// verify verifies that obj contains a signature over text that was made by entity with the key keyID.
func verify(obj, text []byte, entity, keyID string, key ed25519.PublicKey) error {
	if !strings.HasPrefix(keyID, "ed25519:") {
		return failf(BadSignature, "signing algorithm of key %q is not ed25519", keyID)
	}
	if len(key) != ed25519.PublicKeySize {
		return failf(BadSignature, "public key %q has the wrong length", keyID)
	}
	signatures, _ := canonjson.Get(obj, "signatures")
	keys, _ := canonjson.Get(signatures, entity)
	raw, _ := canonjson.Get(keys, keyID)
	encoded, ok := canonjson.Unquote(raw)
	if !ok {
		return failf(BadSignature, "no signature of %q with key %q", entity, keyID)
	}
	signature, err := decodeBase64(encoded)
	if err != nil || !ed25519.Verify(key, text, signature) {
		return failf(BadSignature, "wrong signature of %q with key %q", entity, keyID)
	}
	return nil
}

// VerifySignature verifies the signature that a server made on the event with the given key. A signature covers only
// the parts of an event that a redaction keeps. The error is an *Error of kind BadSignature.
func (e *Event) VerifySignature(server, keyID string, key ed25519.PublicKey) error {
	return verify(e.json, e.signedBytes(), server, keyID, key)
}

// Signatures returns an iterator over the server names and key IDs of the event's signatures.
func (e *Event) Signatures() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		signatures, _ := canonjson.Get(e.json, "signatures")
		// The only error is errEnough.
		_ = canonjson.Each(signatures, func(server string, keys []byte) error {
			return canonjson.Each(keys, func(keyID string, _ []byte) error {
				if !yield(server, keyID) {
					return errEnough
				}
				return nil
			})
		})
	}
}

// errEnough ends an iteration.
var errEnough = errors.New("enough")

// RequiredSigners returns the servers whose valid signatures the event must have: the sender's server (except for a
// third-party invite, which another server may send), in room versions 1 and 2 the server in the event ID, and for a
// restricted join the server of the authorising user.
// Spec: server-server-api#validating-hashes-and-signatures-on-received-events, rooms/v8#authorisation-rules
func RequiredSigners(e *Event) []string {
	var servers []string
	add := func(userOrEventID string) {
		if _, server, ok := strings.Cut(userOrEventID, ":"); ok && !slices.Contains(servers, server) {
			servers = append(servers, server)
		}
	}
	if !e.isThirdPartyInvite() {
		add(string(e.sender))
	}
	if e.version.EventIDFormat == EventIDFromServer {
		add(string(e.id))
	}
	if e.version.Restricted && e.membership() == "join" {
		raw, _ := canonjson.Get(e.content, "join_authorised_via_users_server")
		authorisingUser, _ := canonjson.Unquote(raw)
		add(authorisingUser)
	}
	return servers
}

// membership returns the membership that an m.room.member event sets, or "" for other events.
func (e *Event) membership() string {
	if e.typ != typeMember {
		return ""
	}
	raw, _ := canonjson.Get(e.content, "membership")
	membership, _ := canonjson.Unquote(raw)
	return membership
}

func (e *Event) isThirdPartyInvite() bool {
	_, ok := canonjson.Get(e.content, "third_party_invite")
	return ok && e.membership() == "invite"
}

// Sign returns the event with the signature of s added. A server signs an event of another server if the event invites
// one of its users, or is a restricted join that one of its users authorises.
func (e *Event) Sign(s Signer) (*Event, error) {
	return e.WithSignature(s.Server, string(s.KeyID), base64.RawStdEncoding.EncodeToString(ed25519.Sign(s.Key, e.signedBytes())))
}

// WithSignature returns the event with another server's signature added. It does not verify the signature.
func (e *Event) WithSignature(server, keyID, signature string) (*Event, error) {
	signatures, err := withSignature(e.json, server, keyID, signature)
	if err != nil {
		return nil, err
	}
	return ParseStored(e.version, e.id, canonjson.AppendWith(nil, e.json, "signatures", signatures))
}

// Countersigned returns the event with the signatures of a server added. It takes them from copied, a copy of the
// event, and ignores everything else in the copy.
func (e *Event) Countersigned(server string, copied json.RawMessage) (*Event, error) {
	given, _ := canonjson.Get(copied, "signatures")
	keys, _ := canonjson.Get(given, server)
	if !isObject(keys) {
		return nil, failf(BadSignature, "no signature of %q", server)
	}
	signatures, _ := canonjson.Get(e.json, "signatures")
	signatures = canonjson.AppendWith(nil, signatures, server, keys)
	raw, err := canonjson.Canonical(canonjson.AppendWith(nil, e.json, "signatures", signatures), e.version.StrictCanonicalJSON)
	if err != nil {
		return nil, badJSON(err)
	}
	return Parse(e.version, raw)
}
