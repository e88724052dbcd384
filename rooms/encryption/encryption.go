// Package encryption applies the server's policy on encryption: which rooms are created encrypted, which may be
// encrypted, and whether plaintext messages may be sent to encrypted rooms.
package encryption

import (
	"encoding/json"
	"slices"

	"ebb/canonjson"
	"ebb/mxerr"
	"ebb/rooms/newroom"
)

// Kinds of rooms in a Policy.
const (
	publicRooms  = "public"  // of the preset public_chat, and later those that anybody can join
	privateRooms = "private" // all others
	directRooms  = "direct"  // created with is_direct or the preset trusted_private_chat
)

// Policy says which rooms are encrypted, by kind: public, private and direct. A direct room is also public or
// private.
type Policy struct {
	Force           []string // rooms of these kinds are created encrypted
	Forbid          []string // rooms of these kinds cannot be encrypted, unless they must be
	RefusePlaintext bool     // local users cannot send plaintext messages to encrypted rooms
}

// megolm is the encryption algorithm of rooms.
const megolm = "m.megolm.v1.aes-sha2"

// typeSpace is the type of rooms that have no conversation, and so need no encryption.
const typeSpace = `"m.space"`

// kindsOf returns the kinds of a room that is being created.
func kindsOf(req *newroom.Request) []string {
	kinds := []string{privateRooms}
	if req.Preset == newroom.Public {
		kinds[0] = publicRooms
	}
	if req.IsDirect || req.Preset == newroom.Trusted {
		kinds = append(kinds, directRooms)
	}
	return kinds
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(kind string) bool { return slices.Contains(b, kind) })
}

// Apply checks a request to create a room against the policy. If the policy requires encryption and the request has no
// m.room.encryption event in its initial state, Apply adds one. roomType is the type in the create event, as JSON.
func (p *Policy) Apply(req *newroom.Request, roomType []byte) error {
	at := slices.IndexFunc(req.InitialState, func(e newroom.StateEvent) bool { return e.Type == "m.room.encryption" && e.StateKey == "" })
	force := overlap(kindsOf(req), p.Force) && string(roomType) != typeSpace
	switch {
	case force && at < 0:
		req.InitialState = append(slices.Clone(req.InitialState), newroom.StateEvent{Type: "m.room.encryption", Content: json.RawMessage(`{"algorithm":"` + megolm + `"}`)})
	case force && !encrypts(req.InitialState[at].Content):
		return mxerr.Forbidden("This server requires that such rooms are encrypted with %s", megolm)
	case !force && at >= 0 && overlap(kindsOf(req), p.Forbid):
		return mxerr.Forbidden("This server does not allow encryption in such rooms")
	}
	return nil
}

func encrypts(content json.RawMessage) bool {
	algorithm, _ := canonjson.Get(content, "algorithm")
	return canonjson.String(algorithm) == megolm
}

// MayEnable returns an error if the policy does not allow encryption to be enabled in an existing room with the given
// join rule. It cannot consider whether the room was created as a direct one, because that is not stored.
func (p *Policy) MayEnable(joinRule string) error {
	kind := privateRooms
	if joinRule == "public" {
		kind = publicRooms
	}
	if slices.Contains(p.Forbid, kind) && !slices.Contains(p.Force, kind) {
		return mxerr.Forbidden("This server does not allow encryption in such rooms")
	}
	return nil
}

// conversation are the types of events that clients encrypt in encrypted rooms. Others are not refused there:
// reactions, redactions, calls, verification between users, and types that this server does not know.
var conversation = map[string]bool{
	"m.room.message": true, "m.sticker": true, "m.location": true,
	"m.poll.start": true, "m.poll.response": true, "m.poll.end": true,
	"org.matrix.msc3381.poll.start": true, "org.matrix.msc3381.poll.response": true, "org.matrix.msc3381.poll.end": true,
	"m.beacon": true, "org.matrix.msc3672.beacon": true,
	"m.message": true, "m.emote": true, "m.notice": true, "m.image": true, "m.video": true, "m.audio": true, "m.voice": true, "m.file": true,
	"org.matrix.msc1767.message": true,
}

// verificationRequest is the msgtype of the message that asks a user for verification, which some clients send in
// plaintext.
const verificationRequest = "m.key.verification.request"

// MaySend returns an error if the policy refuses the given plaintext event in encrypted rooms. Events that clients do
// not encrypt, such as reactions, are never refused.
func (p *Policy) MaySend(typ string, content []byte) error {
	if !p.RefusePlaintext || !conversation[typ] {
		return nil
	}
	if msgtype, _ := canonjson.Get(content, "msgtype"); canonjson.String(msgtype) == verificationRequest {
		return nil
	}
	return mxerr.Forbidden("This room is encrypted, and this server refuses messages to it that are not; use a client that encrypts them")
}
