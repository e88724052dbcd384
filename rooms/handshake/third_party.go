package handshake

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/mxerr"
	"ebb/rooms/pdu"
)

// ThirdPartyInvite is an invite to a third-party identifier, such as an email address, after it became known to which
// user the identifier belongs.
type ThirdPartyInvite struct {
	Room    id.RoomID
	Sender  id.UserID // the sender of the m.room.third_party_invite event
	Invitee id.UserID
	Signed  json.RawMessage // signed by the identity server: mxid, token, signatures
}

// Event returns the member event of the invite as one server sends it to another, without a signature. displayName is
// the name by which the third party is shown.
func (t *ThirdPartyInvite) Event(displayName string) map[string]any {
	return map[string]any{
		"type": "m.room.member", "room_id": t.Room, "sender": t.Sender, "state_key": t.Invitee, "content": t.Content(displayName),
	}
}

// Content returns the content of the invite's member event.
func (t *ThirdPartyInvite) Content(displayName string) map[string]any {
	return map[string]any{"membership": "invite", "third_party_invite": map[string]any{"display_name": displayName, "signed": t.Signed}}
}

// Check verifies that the signed part is about the invited user. The authorisation rules check the signature.
func (t *ThirdPartyInvite) Check() error {
	if !canonjson.IsObject(t.Signed) {
		return mxerr.InvalidParam("third_party_invite must have signed")
	}
	mxid, _ := canonjson.Get(t.Signed, "mxid")
	if !pdu.ValidUserID(t.Invitee) || canonjson.String(mxid) != string(t.Invitee) {
		return mxerr.InvalidParam("mxid in signed must be the invited user")
	}
	return nil
}
