package pdu

import (
	"crypto/sha256"
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
)

// Template returns the event that p describes, without hashes, signatures and ID, which another server adds.
func Template(v *Version, p Proto) (json.RawMessage, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	return p.compose(v)
}

// TemplateContent is a template in parsed form: a partial event with its position in the graph.
type TemplateContent struct {
	RoomID   id.RoomID // empty if the template has none
	Type     string
	Sender   id.UserID
	StateKey string // empty if the template has none
	Content  json.RawMessage

	PrevEvents, AuthEvents []id.EventID
	Depth                  int64
	hashes                 map[id.EventID][sha256.Size]byte
}

// ReferenceHash returns the hash that the template lists together with the given event ID, as in room versions 1 and 2.
func (p *TemplateContent) ReferenceHash(eventID id.EventID) ([sha256.Size]byte, bool) {
	hash, ok := p.hashes[eventID]
	return hash, ok
}

// ReadTemplate reads a template from another server. The caller must check that it is a template of the requested
// event.
func ReadTemplate(v *Version, raw json.RawMessage) (*TemplateContent, error) {
	if len(raw) > maxRawSize {
		return nil, failf(TooLarge, "template is larger than %d bytes", MaxSize)
	}
	canonical, err := canonjson.Canonical(raw, v.StrictCanonicalJSON)
	if err != nil {
		return nil, badJSON(err)
	}
	var m fields
	if err := m.scan(canonical); err != nil {
		return nil, badJSON(err)
	}
	e := newCitingEvent(v, canonical, &m)
	if err := e.checkReferences("prev_events", m.prev, e.PrevEvents(), MaxPrevEvents); err != nil {
		return nil, err
	}
	if err := e.checkReferences("auth_events", m.auth, e.AuthEvents(), MaxAuthEvents); err != nil {
		return nil, err
	}
	if !isObject(m.content) {
		return nil, failf(BadShape, "content must be an object")
	}
	p := &TemplateContent{
		RoomID: e.roomID, Type: e.typ, Sender: e.sender, StateKey: e.stateKey, Content: m.content,
		PrevEvents: e.PrevEvents(), AuthEvents: e.AuthEvents(), Depth: e.depth, hashes: map[id.EventID][sha256.Size]byte{},
	}
	if v.EventIDFormat == EventIDFromServer {
		p.readHashes(m.prev)
		p.readHashes(m.auth)
	}
	return p, nil
}

// readHashes collects the hashes that a list of references states for its event IDs. checkReferences has checked the
// form of the list.
func (p *TemplateContent) readHashes(list []byte) {
	elements, _ := canonjson.Elements(list)
	for _, element := range elements {
		pair, _ := canonjson.Elements(element)
		eventID, _ := canonjson.Unquote(pair[0])
		claim, _ := canonjson.Get(pair[1], "sha256")
		text, _ := canonjson.Unquote(claim)
		if hash, err := decodeBase64(text); err == nil && len(hash) == sha256.Size {
			p.hashes[id.EventID(eventID)] = [sha256.Size]byte(hash)
		}
	}
}
