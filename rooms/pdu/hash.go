package pdu

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
)

// EventIDOf returns the ID of an event that is given as JSON. It is like Parse but does not check the event.
func EventIDOf(v *Version, raw []byte) (id.EventID, error) {
	canonical, err := canonjson.Canonical(raw, v.StrictCanonicalJSON)
	if err != nil {
		return "", badJSON(err)
	}
	var m fields
	if err := m.scan(canonical); err != nil {
		return "", badJSON(err)
	}
	return newEvent(v, canonical, &m).computeID(&m), nil
}

// computeID returns the event's ID by the rules of its room version.
// Spec: rooms/v1#event-ids, rooms/v3#event-ids, rooms/v4#event-ids
func (e *Event) computeID(m *fields) id.EventID {
	if e.version.EventIDFormat == EventIDFromServer {
		given, _ := canonjson.Unquote(m.eventID)
		return id.EventID(given)
	}
	return formatID(e.version, e.ReferenceHash())
}

// formatID returns the event ID for a reference hash, in room version 3 and later.
func formatID(v *Version, hash [sha256.Size]byte) id.EventID {
	encoding := base64.RawURLEncoding
	if v.EventIDFormat == EventIDHash {
		encoding = base64.RawStdEncoding
	}
	text := make([]byte, 1, 1+hashLength)
	text[0] = '$'
	return id.EventID(encoding.AppendEncode(text, hash[:]))
}

// ReferenceHash returns the event's reference hash: the hash of its redacted form without signatures.
// Spec: server-server-api#calculating-the-reference-hash-for-an-event
func (e *Event) ReferenceHash() [sha256.Size]byte { return sha256.Sum256(e.signedBytes()) }

// signedBytes returns the form of the event that its signatures and its reference hash cover.
func (e *Event) signedBytes() []byte {
	return appendRedacted(make([]byte, 0, len(e.json)), e.version, e.typ, e.json, "signatures", "unsigned")
}

// CheckContentHash reports whether hashes.sha256 is the event's content hash. If it is not, the event must be redacted
// before it is used.
// Spec: server-server-api#validating-hashes-and-signatures-on-received-events
func (e *Event) CheckContentHash() bool {
	hashes, _ := canonjson.Get(e.json, "hashes")
	claim, _ := canonjson.Get(hashes, "sha256")
	text, _ := canonjson.Unquote(claim)
	want, err := decodeBase64(text)
	if err != nil {
		return false
	}
	got := sha256.Sum256(canonjson.Without(e.json, "hashes", "signatures", "unsigned"))
	return subtle.ConstantTimeCompare(got[:], want) == 1
}

// decodeBase64 decodes standard base64 with or without padding.
// Spec: appendices#unpadded-base64
func decodeBase64(text string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
}
