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

// SignJSON returns the JSON object obj in canonical form with the signature of s added to those that it has. unsigned
// stays and is not covered. Errors are *Error.
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

// withSignature returns the signatures of the canonical object obj with another one added.
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

// VerifyJSON checks the signature that entity (a server name, for device keys a user id) made on the JSON object obj
// with the key keyID. The error is an *Error, of kind BadSignature where there is no such signature or it is wrong.
// Spec: appendices#checking-for-a-signature
func VerifyJSON(obj []byte, entity, keyID string, key ed25519.PublicKey) error {
	canonical, err := canonjson.Canonical(obj, false)
	if err != nil {
		return badJSON(err)
	}
	return verify(canonical, canonjson.Without(canonical, "signatures", "unsigned"), entity, keyID, key)
}

// verify looks the signature up in obj and checks it against text.
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

// VerifySignature checks the signature that a server made on the event with one of its keys. A redacted event verifies
// like the whole one. The error is an *Error of kind BadSignature.
func (e *Event) VerifySignature(server, keyID string, key ed25519.PublicKey) error {
	return verify(e.json, e.signedBytes(), server, keyID, key)
}

// Signatures walks over the event's signatures: server name and key id of each.
func (e *Event) Signatures() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		signatures, _ := canonjson.Get(e.json, "signatures")
		// The error only says that the consumer has seen enough.
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

var errEnough = errors.New("enough")

// RequiredSigners names the servers without whose valid signatures the event must be dropped: the sender's (save for a
// third-party invite, which another server may send), in room versions 1 and 2 that of the event id, and for a
// restricted join that of the user who vouches for it.
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
		voucher, _ := canonjson.Get(e.content, "join_authorised_via_users_server")
		user, _ := canonjson.Unquote(voucher)
		add(user)
	}
	return servers
}

// membership is the membership that an m.room.member event sets, empty for other events.
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

// Sign returns the event with the signature of s added, as for an invite of one of its users or a restricted join that one
// of them vouches for. The id stays the same.
func (e *Event) Sign(s Signer) (*Event, error) {
	return e.WithSignature(s.Server, string(s.KeyID), base64.RawStdEncoding.EncodeToString(ed25519.Sign(s.Key, e.signedBytes())))
}

// WithSignature returns the event with a signature added that somebody else made, which is not verified here.
func (e *Event) WithSignature(server, keyID, signature string) (*Event, error) {
	signatures, err := withSignature(e.json, server, keyID, signature)
	if err != nil {
		return nil, err
	}
	return ParseStored(e.version, e.id, canonjson.AppendWith(nil, e.json, "signatures", signatures))
}

// Countersigned returns the event with the signatures that a server added to it, as another copy of the event has them. Of
// that copy nothing else is taken.
func (e *Event) Countersigned(server string, copied json.RawMessage) (*Event, error) {
	given, _ := canonjson.Get(copied, "signatures")
	keys, ok := canonjson.Get(given, server)
	if !ok || !isObject(keys) {
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
