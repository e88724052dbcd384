package rooms

import (
	"encoding/json"
	"slices"

	"ebb/canonjson"
	"ebb/mxerr"
)

// Kinds of rooms in an EncryptionPolicy.
const (
	publicRooms  = "public"  // of the preset public_chat, and later those that anybody can join
	privateRooms = "private" // all others
	directRooms  = "direct"  // created with is_direct or the preset trusted_private_chat
)

// EncryptionPolicy says which rooms are encrypted, by kind: public, private and direct. A direct room is also public or
// private.
type EncryptionPolicy struct {
	Force           []string // rooms of these kinds are created encrypted
	Forbid          []string // rooms of these kinds cannot be encrypted, unless they must be
	RefusePlaintext bool     // local users cannot send plaintext messages to encrypted rooms
}

// megolm is the encryption algorithm of rooms.
const megolm = "m.megolm.v1.aes-sha2"

// typeSpace is the type of rooms that have no conversation, and so need no encryption.
const typeSpace = `"m.space"`

// kinds returns the kinds of a room that is being created.
func (c *creation) kinds() []string {
	kinds := []string{privateRooms}
	if c.req.Preset == presetPublic {
		kinds[0] = publicRooms
	}
	if c.req.IsDirect || c.req.Preset == presetTrusted {
		kinds = append(kinds, directRooms)
	}
	return kinds
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(kind string) bool { return slices.Contains(b, kind) })
}

// checkEncryption applies the policy to the initial state: it adds m.room.encryption where it is missing, or refuses
// it.
func (c *creation) checkEncryption() error {
	policy := &c.svc.opts.Encryption
	at := slices.IndexFunc(c.req.InitialState, func(e InitialState) bool { return e.Type == typeEncryption && e.StateKey == "" })
	force := overlap(c.kinds(), policy.Force) && string(c.content["type"]) != typeSpace
	switch {
	case force && at < 0:
		c.req.InitialState = append(slices.Clone(c.req.InitialState), InitialState{Type: typeEncryption, Content: object("algorithm", megolm)})
	case force && !encrypts(c.req.InitialState[at].Content):
		return mxerr.Forbidden("This server requires that such rooms are encrypted with %s", megolm)
	case !force && at >= 0 && overlap(c.kinds(), policy.Forbid):
		return mxerr.Forbidden("This server does not allow encryption in such rooms")
	}
	return nil
}

func encrypts(content json.RawMessage) bool {
	algorithm, _ := canonjson.Get(content, "algorithm")
	return canonjson.String(algorithm) == megolm
}

// checkEnabling returns an error if the policy does not allow to encrypt an existing room. Whether it was created as a
// direct one is not known any more.
func (r *Room) checkEnabling() error {
	kind := privateRooms
	if r.JoinRule() == "public" {
		kind = publicRooms
	}
	policy := &r.svc.opts.Encryption
	if slices.Contains(policy.Forbid, kind) && !slices.Contains(policy.Force, kind) {
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

// checkPlaintext returns an error for a plaintext message of a local user to an encrypted room, if the policy refuses
// such messages.
func (r *Room) checkPlaintext(p *proto) error {
	if !r.svc.opts.Encryption.RefusePlaintext || p.stateKey != nil || !conversation[p.typ] || !r.Encrypted() {
		return nil
	}
	if msgtype, _ := canonjson.Get(p.content, "msgtype"); canonjson.String(msgtype) == verificationRequest {
		return nil
	}
	return mxerr.Forbidden("This room is encrypted, and this server refuses messages to it that are not; use a client that encrypts them")
}
