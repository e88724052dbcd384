package federation

import (
	"encoding/json"
	"errors"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/rooms"
)

func (a *API) invitesRoutes() []httpapi.Route {
	routes := []httpapi.Route{
		route("PUT", v1+"/invite/{roomId}/{eventId}", "sendInviteV1", "invites-v1.yaml", a.sendInviteV1),
		route("PUT", v2+"/invite/{roomId}/{eventId}", "sendInviteV2", "invites-v2.yaml", a.sendInviteV2),
	}
	for i := range routes {
		routes[i].Rate = httpapi.ServerInvites
	}
	return routes
}

// sendInviteV1 receives an invite to a room of version 1 or 2.
// Spec: server-server-api#put_matrixfederationv1inviteroomideventid
func (a *API) sendInviteV1(r *httpapi.Request) (any, error) {
	var event json.RawMessage
	if err := r.DecodeEvents(&event); err != nil {
		return nil, err
	}
	unsigned, _ := canonjson.Get(event, "unsigned")
	state, _ := canonjson.Get(unsigned, "invite_room_state")
	var stripped []json.RawMessage
	if len(state) > 0 && json.Unmarshal(state, &stripped) != nil {
		return nil, mxerr.BadJSON("invite_room_state must be an array of events")
	}
	var signed json.RawMessage
	var err error
	for _, v := range []id.RoomVersion{id.RoomV1, id.RoomV2} {
		signed, err = a.invite(r, v, event, stripped)
		var known *mxerr.Error
		if err == nil || errors.As(err, &known) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal([]any{200, map[string]any{"event": signed}})
	return json.RawMessage(raw), err
}

// sendInviteV2 receives an invite.
// Spec: server-server-api#put_matrixfederationv2inviteroomideventid
func (a *API) sendInviteV2(r *httpapi.Request) (any, error) {
	var body struct {
		Version  id.RoomVersion    `json:"room_version"`
		Event    json.RawMessage   `json:"event"`
		Stripped []json.RawMessage `json:"invite_room_state"`
	}
	if err := r.DecodeEvents(&body); err != nil {
		return nil, err
	}
	if body.Version == "" || len(body.Event) == 0 {
		return nil, mxerr.MissingParam("room_version and event are required")
	}
	signed, err := a.invite(r, body.Version, body.Event, body.Stripped)
	return map[string]any{"event": signed}, err
}

// invite receives an invite. It counts towards the rate limits of its sender and of its receiver. The limit of the
// receiver is separate for each server, so that a server that floods a user does not block invites from other servers.
func (a *API) invite(r *httpapi.Request, version id.RoomVersion, event json.RawMessage, stripped []json.RawMessage) (json.RawMessage, error) {
	key, _ := canonjson.Get(event, "state_key")
	user, _ := canonjson.Unquote(key)
	member, _ := canonjson.Get(event, "sender")
	sender, _ := canonjson.Unquote(member)
	for _, who := range []string{"by " + sender, "of " + user} {
		if err := r.Limit(httpapi.Invites, r.Server+" "+who); err != nil {
			return nil, err
		}
	}
	if err := a.Accounts.Exists(r.Context(), id.UserID(user)); err != nil {
		return nil, err
	}
	return a.Rooms.ReceiveInvite(r.Context(), rooms.ReceivedInvite{
		Origin: r.Server, Version: version, Room: roomID(r), Event: eventID(r), PDU: event, Stripped: stripped,
	})
}
