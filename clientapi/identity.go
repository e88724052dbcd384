package clientapi

import (
	"context"
	"encoding/json"
	"net/http"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/httpapi"
	"ebb/ident"
	"ebb/identity"
	"ebb/mxerr"
	"ebb/rooms"
)

// bind3PID binds an address to the user at an identity server. The user has verified the address there.
// Spec: client-server-api#post_matrixclientv3account3pidbind
func (a *API) bind3PID(r *httpapi.Request) (any, error) {
	var body struct {
		ClientSecret string `json:"client_secret"`
		SID          string `json:"sid"`
		IDServer     string `json:"id_server"`
		Token        string `json:"id_access_token"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	switch {
	case body.ClientSecret == "":
		return nil, missing("client_secret")
	case body.SID == "":
		return nil, missing("sid")
	case body.Token == "":
		return nil, missing("id_access_token")
	}
	bound, err := a.Identity.Bind(r.Context(), body.IDServer, body.Token, r.UserID, body.SID, body.ClientSecret)
	if err != nil {
		return nil, err
	}
	return nil, a.Accounts.AddBinding(r.Context(), r.UserNID, accounts.Binding{Medium: bound.Medium, Address: bound.Address, IDServer: body.IDServer})
}

// unbind3pidFromAccount removes the binding of an address at an identity server.
// Spec: client-server-api#post_matrixclientv3account3pidunbind
func (a *API) unbind3pidFromAccount(r *httpapi.Request) (any, error) {
	var body threepid
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if err := body.check(); err != nil {
		return nil, err
	}
	return a.unbind(r, body)
}

// unbindResult is the response of operations that remove bindings.
type unbindResult struct {
	Result string `json:"id_server_unbind_result"`
}

func unbound(done bool) unbindResult {
	if done {
		return unbindResult{"success"}
	}
	return unbindResult{"no-support"}
}

// unbind removes the bindings of an address at the given identity server. If none is given, it does so at all servers
// where the user has bound the address.
func (a *API) unbind(r *httpapi.Request, t threepid) (any, error) {
	if t.IDServer != "" {
		done, err := a.unbindAt(r.Context(), r.Requester, accounts.Binding{Medium: t.Medium, Address: t.Address, IDServer: t.IDServer})
		return unbound(done), err
	}
	known, err := a.Accounts.Bindings(r.Context(), r.UserNID)
	if err != nil {
		return nil, err
	}
	all, some := true, false
	for _, b := range known {
		if b.Medium != t.Medium || b.Address != t.Address {
			continue
		}
		done, err := a.unbindAt(r.Context(), r.Requester, b)
		if err != nil {
			return nil, err
		}
		all, some = all && done, true
	}
	return unbound(all && some), nil
}

// unbindAt removes one binding and reports whether the identity server did so.
func (a *API) unbindAt(ctx context.Context, who ident.Requester, b accounts.Binding) (done bool, err error) {
	done, err = a.Identity.Unbind(ctx, b.IDServer, who.UserID, identity.Threepid{Medium: b.Medium, Address: b.Address})
	if err == nil && done {
		err = a.Accounts.RemoveBinding(ctx, who.UserNID, b)
	}
	return done, err
}

// addressInvite is an invite to the owner of an address, who need not have an account yet.
// Spec: client-server-api#thirdparty_post_matrixclientv3roomsroomidinvite
type addressInvite struct {
	IDServer string `json:"id_server"`
	Token    string `json:"id_access_token"`
	Medium   string `json:"medium"`
	Address  string `json:"address"`
}

// checkAddressInvite checks the fields of an invite, and whether this server may contact the identity server named in
// it.
//
// Errors: M_MISSING_PARAM, M_SERVER_NOT_TRUSTED, M_THREEPID_MEDIUM_NOT_SUPPORTED, M_INVALID_PARAM.
func (a *API) checkAddressInvite(i *addressInvite) (err error) {
	switch {
	case i.Medium == "":
		return missing("medium")
	case i.Address == "":
		return missing("address")
	case i.Token == "":
		return missing("id_access_token")
	}
	if i.Address, err = accounts.CanonicalAddress(i.Medium, i.Address); err != nil {
		return err
	}
	return a.Identity.Trusts(i.IDServer)
}

// inviteAddress invites the user who has an address. If the identity server knows no such user, it stores the invite
// until the address is bound, and the room gets an m.room.third_party_invite event.
func (a *API) inviteAddress(ctx context.Context, who ident.Requester, room id.RoomID, i addressInvite, reason string) error {
	if err := a.Rooms.MayInviteAddress(ctx, who, room); err != nil { // checked before mail is sent to the owner of the address
		return err
	}
	t := identity.Threepid{Medium: i.Medium, Address: i.Address}
	user, err := a.Identity.Lookup(ctx, i.IDServer, i.Token, t)
	if err != nil {
		return err
	}
	if user != "" {
		return a.Rooms.Invite(ctx, who, room, user, reason)
	}
	stored, err := a.Identity.StoreInvite(ctx, i.IDServer, i.Token, t, map[string]string{"room_id": string(room), "sender": string(who.UserID)})
	if err != nil {
		return err
	}
	content, err := json.Marshal(map[string]any{
		"display_name": stored.DisplayName, "public_key": stored.PublicKeys[0].PublicKey, "key_validity_url": stored.PublicKeys[0].KeyValidityURL, "public_keys": stored.PublicKeys,
	})
	if err != nil {
		return err
	}
	_, err = a.Rooms.Send(ctx, rooms.NewEvent{Room: room, Sender: who, Type: "m.room.third_party_invite", StateKey: &stored.Token, Content: content})
	return err
}

// maxAddressInvites bounds how many addresses can be invited to a new room.
const maxAddressInvites = 20

// readAddressInvites reads and checks the field invite_3pid of createRoom.
func (a *API) readAddressInvites(raw []json.RawMessage) ([]addressInvite, error) {
	if len(raw) > maxAddressInvites {
		return nil, mxerr.New(http.StatusBadRequest, mxerr.CodeInvalidParam, "A new room can have at most %d invites to e-mail addresses", maxAddressInvites)
	}
	list := make([]addressInvite, len(raw))
	for i := range raw {
		if err := httpapi.DecodeJSON(raw[i], &list[i]); err != nil {
			return nil, err
		}
		if err := a.checkAddressInvite(&list[i]); err != nil {
			return nil, err
		}
	}
	return list, nil
}
