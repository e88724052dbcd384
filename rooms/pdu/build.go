package pdu

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strconv"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
)

// Proto describes a new event. Build adds the hashes, the signature and the ID.
type Proto struct {
	RoomID                 id.RoomID // ignored for the create event of a version 12 room
	Type                   string
	StateKey               *string // nil for events other than state events
	Sender                 id.UserID
	Content                json.RawMessage // any JSON object
	Redacts                id.EventID      // the target of an m.room.redaction; Build writes it where the room version requires
	PrevEvents, AuthEvents []id.EventID
	Depth                  int64  // one more than the greatest depth of PrevEvents; Build limits it to the room version's range
	OriginServerTS         int64  // milliseconds since 1970
	StickyMS               *int64 // for how many milliseconds the event is sticky; nil: it is not sticky

	// ReferenceHash returns the hash of another event, which events of room versions 1 and 2 state next to its ID. If
	// it is nil or returns false, the hash is omitted, which no known server rejects. Later versions do not use it.
	ReferenceHash func(id.EventID) ([sha256.Size]byte, bool)
}

// Signer is a server's signing key.
type Signer struct {
	Server string   // the server's name
	KeyID  id.KeyID // for example "ed25519:abc"
	Key    ed25519.PrivateKey
}

// SignerSource returns the current signing key of a server that may change its key. A Signer is the SignerSource of a
// server that never does.
type SignerSource interface{ Current() Signer }

// Current returns s. It implements SignerSource.
func (s Signer) Current() Signer { return s }

// Build creates the event that p describes, with its hashes and the signature of s. It returns an *Error if the event
// is invalid or too large. It does not check whether the event is allowed in its room.
// Spec: server-server-api#adding-hashes-and-signatures-to-outgoing-events
func Build(v *Version, p Proto, s Signer) (*Event, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	unsealed, err := p.compose(v)
	if err != nil {
		return nil, err
	}
	if v.EventIDFormat == EventIDFromServer {
		unsealed = canonjson.AppendWith(make([]byte, 0, len(unsealed)+MaxIDLength), unsealed, "event_id", newEventID(unsealed, s))
	}
	sealed, hash := seal(v, p.Type, unsealed, s)
	if len(sealed) > MaxSize {
		return nil, failf(TooLarge, "event is larger than %d bytes", MaxSize)
	}
	var m fields
	if err := m.scan(sealed); err != nil {
		return nil, badJSON(err)
	}
	e := newCitingEvent(v, sealed, &m)
	if v.EventIDFormat == EventIDFromServer {
		e.setID(e.computeID(&m))
	} else {
		e.setID(formatID(v, hash))
	}
	if err := e.checkSizes(); err != nil {
		return nil, err
	}
	if err := e.checkIDs(&m); err != nil {
		return nil, err
	}
	return e, nil
}

func (p *Proto) check() error {
	switch {
	case p.Type == "":
		return failf(BadShape, "event has no type")
	case len(p.PrevEvents) > MaxPrevEvents:
		return failf(BadShape, "prev_events has more than %d entries", MaxPrevEvents)
	case len(p.AuthEvents) > MaxAuthEvents:
		return failf(BadShape, "auth_events has more than %d entries", MaxAuthEvents)
	case len(p.Content) > maxRawSize:
		return failf(TooLarge, "event is larger than %d bytes", MaxSize)
	}
	return nil
}

// compose returns the event as canonical JSON without hashes, signatures and event_id. Since canonical JSON is sorted,
// it writes the keys in alphabetical order.
func (p *Proto) compose(v *Version) ([]byte, error) {
	b := make([]byte, 0, len(p.Content)+1024) // 1024 bytes hold the other keys of a typical event
	b = p.appendReferences(append(b, `{"auth_events":`...), v, p.AuthEvents)
	b, err := p.appendContent(append(b, `,"content":`...), v)
	if err != nil {
		return nil, err
	}
	b = strconv.AppendInt(append(b, `,"depth":`...), min(max(p.Depth, 0), maxDepth(v)), 10)
	if p.StickyMS != nil {
		b = appendSticky(b, *p.StickyMS)
	}
	b = strconv.AppendInt(append(b, `,"origin_server_ts":`...), p.OriginServerTS, 10)
	b = p.appendReferences(append(b, `,"prev_events":`...), v, p.PrevEvents)
	if p.Redacts != "" && !v.RedactsInContent {
		b = canonjson.AppendString(append(b, `,"redacts":`...), string(p.Redacts))
	}
	if !v.RoomIDIsCreateHash || p.Type != typeCreate {
		b = canonjson.AppendString(append(b, `,"room_id":`...), string(p.RoomID))
	}
	b = canonjson.AppendString(append(b, `,"sender":`...), string(p.Sender))
	if p.StateKey != nil {
		b = canonjson.AppendString(append(b, `,"state_key":`...), *p.StateKey)
	}
	b = canonjson.AppendString(append(b, `,"type":`...), p.Type)
	return append(b, '}'), nil
}

func (p *Proto) appendContent(dst []byte, v *Version) ([]byte, error) {
	start := len(dst)
	out, err := canonjson.AppendCanonical(dst, p.Content, v.StrictCanonicalJSON)
	if err != nil {
		return nil, badJSON(err)
	}
	content := out[start:]
	if !isObject(content) {
		return nil, failf(BadShape, "content must be an object")
	}
	if p.Redacts == "" || !v.RedactsInContent {
		return out, nil
	}
	target := canonjson.AppendString(nil, string(p.Redacts))
	return append(dst, canonjson.AppendWith(nil, content, "redacts", target)...), nil
}

// appendReferences appends a list of event IDs. In room versions 1 and 2 it appends a list of pairs instead, each of an
// event ID and the hashes of that event.
func (p *Proto) appendReferences(dst []byte, v *Version, ids []id.EventID) []byte {
	dst = append(dst, '[')
	for i, ref := range ids {
		if i > 0 {
			dst = append(dst, ',')
		}
		if v.EventIDFormat != EventIDFromServer {
			dst = canonjson.AppendString(dst, string(ref))
			continue
		}
		dst = canonjson.AppendString(append(dst, '['), string(ref))
		dst = append(p.appendHash(append(dst, ','), ref), ']')
	}
	return append(dst, ']')
}

func (p *Proto) appendHash(dst []byte, ref id.EventID) []byte {
	if p.ReferenceHash != nil {
		if hash, ok := p.ReferenceHash(ref); ok {
			return appendHashes(dst, hash)
		}
	}
	return append(dst, "{}"...)
}

// maxDepth returns the greatest depth that an event of a room version can have.
func maxDepth(v *Version) int64 {
	if v.StrictCanonicalJSON {
		return canonjson.MaxInt
	}
	return 1<<63 - 1
}

// newEventID returns the ID of a new event of room version 1 or 2, as a JSON string. The ID is a hash of the event
// rather than a random number. It is unique because two events of this server in one room differ at least in
// prev_events or time.
func newEventID(unsealed []byte, s Signer) []byte {
	hash := sha256.Sum256(unsealed)
	eventID := base64.RawURLEncoding.AppendEncode([]byte("$"), hash[:18]) // 144 bits rule out collisions
	return canonjson.AppendString(nil, string(eventID)+":"+s.Server)
}

// seal adds the content hash and the signature of s to a canonical event of type typ. It returns the event and its
// reference hash.
func seal(v *Version, typ string, unsealed []byte, s Signer) (sealed []byte, reference [sha256.Size]byte) {
	hashes := appendHashes(make([]byte, 0, 64), sha256.Sum256(unsealed))
	hashed := canonjson.AppendWith(make([]byte, 0, len(unsealed)+80), unsealed, "hashes", hashes)
	signed := appendRedacted(make([]byte, 0, len(hashed)), v, typ, hashed)
	signatures := appendSignature(make([]byte, 0, 256), s, signed)
	sealed = canonjson.AppendWith(make([]byte, 0, len(hashed)+len(signatures)+16), hashed, "signatures", signatures)
	return sealed, sha256.Sum256(signed)
}

func appendHashes(dst []byte, hash [sha256.Size]byte) []byte {
	dst = base64.RawStdEncoding.AppendEncode(append(dst, `{"sha256":"`...), hash[:])
	return append(dst, `"}`...)
}

// appendSignature appends a signatures object that contains the signature of s over text.
func appendSignature(dst []byte, s Signer, text []byte) []byte {
	dst = append(canonjson.AppendString(append(dst, '{'), s.Server), ':', '{')
	dst = append(canonjson.AppendString(dst, string(s.KeyID)), ':', '"')
	dst = base64.RawStdEncoding.AppendEncode(dst, ed25519.Sign(s.Key, text))
	return append(dst, `"}}`...)
}
