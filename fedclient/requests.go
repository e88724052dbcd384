package fedclient

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
	"ebb/rooms/pdu"
)

const (
	v1 = "/_matrix/federation/v1"
	v2 = "/_matrix/federation/v2"
)

// ServerKeys requests a server's signing keys. It does not verify the response.
// Spec: server-server-api#get_matrixkeyv2server
func (c *Client) ServerKeys(ctx context.Context, server string) (answer json.RawMessage, err error) {
	err = c.do(ctx, request{server: server, method: http.MethodGet, path: "/_matrix/key/v2/server", unsigned: true, size: maxKeyAnswer}, &answer)
	return answer, err
}

// QueryKeys requests keys of servers from a notary. For each server and key ID, wanted has the time in milliseconds at
// which the key must still be valid. A server without key IDs stands for all its keys. QueryKeys does not verify the
// responses.
// Spec: server-server-api#post_matrixkeyv2query
func (c *Client) QueryKeys(ctx context.Context, notary string, wanted map[string]map[id.KeyID]int64) ([]json.RawMessage, error) {
	type criteria struct {
		Until int64 `json:"minimum_valid_until_ts"`
	}
	about := map[string]map[id.KeyID]criteria{}
	for server, keys := range wanted {
		about[server] = map[id.KeyID]criteria{}
		for keyID, until := range keys {
			about[server][keyID] = criteria{until}
		}
	}
	var answer struct {
		ServerKeys []json.RawMessage `json:"server_keys"`
	}
	body := map[string]any{"server_keys": about}
	err := c.do(ctx, request{server: notary, method: http.MethodPost, path: "/_matrix/key/v2/query", body: body, unsigned: true, size: int64(len(wanted)) * maxKeyAnswer}, &answer)
	return answer.ServerKeys, err
}

// Version requests the name and version of the software that a server runs.
// Spec: server-server-api#get_matrixfederationv1version
func (c *Client) Version(ctx context.Context, server string) (name, version string, err error) {
	var answer struct {
		Server struct{ Name, Version string } `json:"server"`
	}
	err = c.do(ctx, request{server: server, method: http.MethodGet, path: v1 + "/version", unsigned: true}, &answer)
	return answer.Server.Name, answer.Server.Version, err
}

// sendTime bounds the time that a server may take to process a transaction.
const sendTime = time.Minute

// SendTransaction sends PDUs and EDUs. It returns the errors of those events that the server did not accept.
// Spec: server-server-api#put_matrixfederationv1sendtxnid
func (c *Client) SendTransaction(ctx context.Context, server, txnID string, pdus, edus []json.RawMessage) (map[id.EventID]string, error) {
	if pdus == nil {
		pdus = []json.RawMessage{}
	}
	body := map[string]any{"origin": c.opts.Server, "origin_server_ts": c.opts.Now().UnixMilli(), "pdus": pdus}
	if len(edus) > 0 {
		body["edus"] = edus
	}
	var answer struct {
		PDUs map[id.EventID]struct {
			Error string `json:"error"`
		} `json:"pdus"`
	}
	err := c.do(ctx, request{server: server, method: http.MethodPut, path: path(v1+"/send", txnID), body: body, time: sendTime}, &answer)
	refused := map[id.EventID]string{}
	for eventID, result := range answer.PDUs {
		if result.Error != "" {
			refused[eventID] = result.Error
		}
	}
	return refused, err
}

// transaction has the fields of a transaction. Some responses, such as that of /backfill, also have this form.
type transaction struct {
	PDUs []json.RawMessage `json:"pdus"`
}

var errNoEvent = errors.New("the response has no event")

// GetEvent requests an event.
// Spec: server-server-api#get_matrixfederationv1eventeventid
func (c *Client) GetEvent(ctx context.Context, server string, event id.EventID) (json.RawMessage, error) {
	var answer transaction
	if err := c.do(ctx, request{server: server, method: http.MethodGet, path: path(v1+"/event", string(event)), size: maxItem}, &answer); err != nil {
		return nil, err
	}
	if len(answer.PDUs) == 0 {
		return nil, errNoEvent
	}
	return answer.PDUs[0], nil
}

// GetMissingEvents requests the events between two sets of events.
// Spec: server-server-api#post_matrixfederationv1get_missing_eventsroomid
func (c *Client) GetMissingEvents(ctx context.Context, server string, room id.RoomID, earliest, latest []id.EventID, limit int, minDepth int64) ([]json.RawMessage, error) {
	if earliest == nil {
		earliest = []id.EventID{}
	}
	body := map[string]any{"earliest_events": earliest, "latest_events": latest, "limit": limit, "min_depth": minDepth}
	var answer struct {
		Events []json.RawMessage `json:"events"`
	}
	err := c.do(ctx, request{server: server, method: http.MethodPost, path: path(v1+"/get_missing_events", string(room)), body: body}, &answer)
	return answer.Events, err
}

func atEvent(event id.EventID) url.Values { return url.Values{"event_id": {string(event)}} }

// keep returns a function that handles the elements of a list. The function appends to out each element that decode
// accepts, and counts it towards the bound on responses in memory.
func keep[T any](ctx context.Context, c *Client, h *hold, server string, out *[]T, decode func(json.RawMessage) (T, bool)) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		item, ok := decode(raw)
		if !ok {
			return nil
		}
		*out = append(*out, item)
		return c.answers.hold(ctx, h, server, int64(len(raw))+heldItem)
	}
}

func anyEvent(raw json.RawMessage) (json.RawMessage, bool) { return raw, true }

// State requests the state of a room before an event, and returns the events that wanted accepts.
// Spec: server-server-api#get_matrixfederationv1stateroomid
func (c *Client) State(ctx context.Context, server string, room id.RoomID, event id.EventID, wanted func(json.RawMessage) bool) (state, authChain []json.RawMessage, err error) {
	h, release := holdOf(ctx)
	defer release()
	only := func(raw json.RawMessage) (json.RawMessage, bool) { return raw, wanted(raw) }
	err = c.doPieces(ctx, request{
		server: server, method: http.MethodGet, path: path(v1+"/state", string(room)), query: atEvent(event), time: longTime, size: longSize,
	}, pieces{lists: map[string]func(json.RawMessage) error{
		"pdus": keep(ctx, c, h, server, &state, only), "auth_chain": keep(ctx, c, h, server, &authChain, only),
	}})
	return state, authChain, err
}

// StateIDs requests the IDs of the events that State would return.
// Spec: server-server-api#get_matrixfederationv1state_idsroomid
func (c *Client) StateIDs(ctx context.Context, server string, room id.RoomID, event id.EventID) (state, authChain []id.EventID, err error) {
	h, release := holdOf(ctx)
	defer release()
	decode := func(raw json.RawMessage) (eventID id.EventID, ok bool) {
		return eventID, json.Unmarshal(raw, &eventID) == nil && len(eventID) <= pdu.MaxIDLength
	}
	err = c.doPieces(ctx, request{
		server: server, method: http.MethodGet, path: path(v1+"/state_ids", string(room)), query: atEvent(event), time: longTime, size: longSize,
	}, pieces{lists: map[string]func(json.RawMessage) error{
		"pdu_ids": keep(ctx, c, h, server, &state, decode), "auth_chain_ids": keep(ctx, c, h, server, &authChain, decode),
	}})
	return state, authChain, err
}

// EventAuth requests the auth chain of an event.
// Spec: server-server-api#get_matrixfederationv1event_authroomideventid
func (c *Client) EventAuth(ctx context.Context, server string, room id.RoomID, event id.EventID) (authChain []json.RawMessage, err error) {
	h, release := holdOf(ctx)
	defer release()
	err = c.doPieces(ctx, request{
		server: server, method: http.MethodGet, path: path(v1+"/event_auth", string(room), string(event)), time: longTime, size: longSize,
	}, pieces{lists: map[string]func(json.RawMessage) error{"auth_chain": keep(ctx, c, h, server, &authChain, anyEvent)}})
	return authChain, err
}

// Backfill requests up to limit events, going backwards from the given ones.
// Spec: server-server-api#get_matrixfederationv1backfillroomid
func (c *Client) Backfill(ctx context.Context, server string, room id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	for _, e := range from {
		query.Add("v", string(e))
	}
	var answer transaction
	err := c.do(ctx, request{server: server, method: http.MethodGet, path: path(v1+"/backfill", string(room)), query: query}, &answer)
	return answer.PDUs, err
}

// TimestampToEvent requests the event closest to a time, which is in milliseconds.
// Spec: server-server-api#get_matrixfederationv1timestamp_to_eventroomid
func (c *Client) TimestampToEvent(ctx context.Context, server string, room id.RoomID, ts int64, dir string) (id.EventID, int64, error) {
	query := url.Values{"ts": {strconv.FormatInt(ts, 10)}, "dir": {dir}}
	var answer struct {
		EventID   id.EventID `json:"event_id"`
		Timestamp int64      `json:"origin_server_ts"`
	}
	err := c.do(ctx, request{server: server, method: http.MethodGet, path: path(v1+"/timestamp_to_event", string(room)), query: query}, &answer)
	return answer.EventID, answer.Timestamp, err
}

func (c *Client) template(ctx context.Context, operation, server string, room id.RoomID, user id.UserID, versions []id.RoomVersion) (t Template, err error) {
	query := url.Values{}
	for _, v := range versions {
		query.Add("ver", string(v))
	}
	err = c.do(ctx, request{server: server, method: http.MethodGet, path: path(v1+operation, string(room), string(user)), query: query}, &t)
	return t, err
}

// MakeJoin requests a template for a join.
// Spec: server-server-api#get_matrixfederationv1make_joinroomiduserid
func (c *Client) MakeJoin(ctx context.Context, server string, room id.RoomID, user id.UserID, versions []id.RoomVersion) (Template, error) {
	return c.template(ctx, "/make_join", server, room, user, versions)
}

// MakeLeave requests a template for a leave.
// Spec: server-server-api#get_matrixfederationv1make_leaveroomiduserid
func (c *Client) MakeLeave(ctx context.Context, server string, room id.RoomID, user id.UserID) (Template, error) {
	return c.template(ctx, "/make_leave", server, room, user, nil)
}

// MakeKnock requests a template for a knock.
// Spec: server-server-api#get_matrixfederationv1make_knockroomiduserid
func (c *Client) MakeKnock(ctx context.Context, server string, room id.RoomID, user id.UserID, versions []id.RoomVersion) (Template, error) {
	return c.template(ctx, "/make_knock", server, room, user, versions)
}

// SendJoin sends a signed join. omitMembers asks the server to leave out membership events that the join does not need
// from the state.
// Spec: server-server-api#put_matrixfederationv2send_joinroomideventid
func (c *Client) SendJoin(ctx context.Context, server string, room id.RoomID, event id.EventID, join json.RawMessage, omitMembers bool) (*JoinAnswer, error) {
	query := url.Values{}
	if omitMembers {
		query.Set("omit_members", "true")
	}
	h, release := holdOf(ctx)
	defer release()
	var answer JoinAnswer
	name := func(raw json.RawMessage) (server string, ok bool) {
		return server, json.Unmarshal(raw, &server) == nil && len(server) <= pdu.MaxIDLength
	}
	err := c.doPieces(ctx, request{
		server: server, method: http.MethodPut, path: path(v2+"/send_join", string(room), string(event)), query: query, body: join, time: longTime, size: longSize,
	}, pieces{
		lists: map[string]func(json.RawMessage) error{
			"state": keep(ctx, c, h, server, &answer.State, anyEvent), "auth_chain": keep(ctx, c, h, server, &answer.AuthChain, anyEvent),
			"servers_in_room": keep(ctx, c, h, server, &answer.ServersInRoom, name),
		},
		other: map[string]any{"origin": &answer.Origin, "event": &answer.Event, "members_omitted": &answer.MembersOmitted},
	})
	return &answer, err
}

// SendLeave sends a signed leave.
// Spec: server-server-api#put_matrixfederationv2send_leaveroomideventid
func (c *Client) SendLeave(ctx context.Context, server string, room id.RoomID, event id.EventID, leave json.RawMessage) error {
	return c.do(ctx, request{server: server, method: http.MethodPut, path: path(v2+"/send_leave", string(room), string(event)), body: leave}, nil)
}

// SendKnock sends a signed knock. It returns the stripped state of the room.
// Spec: server-server-api#put_matrixfederationv1send_knockroomideventid
func (c *Client) SendKnock(ctx context.Context, server string, room id.RoomID, event id.EventID, knock json.RawMessage) ([]json.RawMessage, error) {
	var answer struct {
		State []json.RawMessage `json:"knock_room_state"`
	}
	err := c.do(ctx, request{server: server, method: http.MethodPut, path: path(v1+"/send_knock", string(room), string(event)), body: knock}, &answer)
	return answer.State, err
}

// Invite sends an invite for one of the server's users, and returns it with that server's signature. If the server does
// not support v2 of the endpoint, v1 is used for room versions 1 and 2.
// Spec: server-server-api#put_matrixfederationv2inviteroomideventid
func (c *Client) Invite(ctx context.Context, server string, version id.RoomVersion, room id.RoomID, event id.EventID, invite json.RawMessage, stripped []json.RawMessage) (json.RawMessage, error) {
	body := map[string]any{"event": invite, "room_version": version, "invite_room_state": stripped}
	var answer struct {
		Event json.RawMessage `json:"event"`
	}
	err := c.do(ctx, request{server: server, method: http.MethodPut, path: path(v2+"/invite", string(room), string(event)), body: body}, &answer)
	var remote *RemoteError
	old := version == id.RoomV1 || version == id.RoomV2
	if !old || !errors.As(err, &remote) || remote.Code != mxerr.CodeUnrecognized && remote.Status != http.StatusNotFound {
		return answer.Event, err
	}
	var pair []json.RawMessage
	if err := c.do(ctx, request{server: server, method: http.MethodPut, path: path(v1+"/invite", string(room), string(event)), body: invite}, &pair); err != nil {
		return nil, err
	}
	if len(pair) != 2 || json.Unmarshal(pair[1], &answer) != nil {
		return nil, ErrBadAnswer
	}
	return answer.Event, nil
}

// ExchangeThirdPartyInvite asks the server that sent a third-party invite to invite the user who accepted it.
// Spec: server-server-api#put_matrixfederationv1exchange_third_party_inviteroomid
func (c *Client) ExchangeThirdPartyInvite(ctx context.Context, server string, room id.RoomID, invite any) error {
	return c.do(ctx, request{server: server, method: http.MethodPut, path: path(v1+"/exchange_third_party_invite", string(room)), body: invite}, nil)
}

// QueryProfile requests a user's profile, or one field of it.
// Spec: server-server-api#get_matrixfederationv1queryprofile
func (c *Client) QueryProfile(ctx context.Context, server string, user id.UserID, field string) (map[string]json.RawMessage, error) {
	query := url.Values{"user_id": {string(user)}}
	if field != "" {
		query.Set("field", field)
	}
	var answer map[string]json.RawMessage
	err := c.do(ctx, request{server: server, method: http.MethodGet, path: v1 + "/query/profile", query: query, size: maxSmallAnswer}, &answer)
	return answer, err
}

// maxSmallAnswer bounds responses about a single user or name, in bytes.
const maxSmallAnswer = 1 << 20

// QueryDirectory resolves a room alias to its room ID and the servers in the room.
// Spec: server-server-api#get_matrixfederationv1querydirectory
func (c *Client) QueryDirectory(ctx context.Context, server string, alias id.RoomAlias) (id.RoomID, []string, error) {
	var answer struct {
		RoomID  id.RoomID `json:"room_id"`
		Servers []string  `json:"servers"`
	}
	query := url.Values{"room_alias": {string(alias)}}
	err := c.do(ctx, request{server: server, method: http.MethodGet, path: v1 + "/query/directory", query: query, size: maxSmallAnswer}, &answer)
	return answer.RoomID, answer.Servers, err
}

// PublicRooms requests a server's public room directory. body is the body of the client's request.
// Spec: server-server-api#post_matrixfederationv1publicrooms
func (c *Client) PublicRooms(ctx context.Context, server string, body json.RawMessage) (answer json.RawMessage, err error) {
	err = c.do(ctx, request{server: server, method: http.MethodPost, path: v1 + "/publicRooms", body: body}, &answer)
	return answer, err
}

// Hierarchy requests a space and its children.
// Spec: server-server-api#get_matrixfederationv1hierarchyroomid
func (c *Client) Hierarchy(ctx context.Context, server string, room id.RoomID, suggestedOnly bool) (answer json.RawMessage, err error) {
	query := url.Values{"suggested_only": {strconv.FormatBool(suggestedOnly)}}
	err = c.do(ctx, request{server: server, method: http.MethodGet, path: path(v1+"/hierarchy", string(room)), query: query, size: maxSmallAnswer}, &answer)
	return answer, err
}

// UserDevices requests all devices of a user, with their keys.
// Spec: server-server-api#get_matrixfederationv1userdevicesuserid
func (c *Client) UserDevices(ctx context.Context, server string, user id.UserID) (answer json.RawMessage, err error) {
	err = c.do(ctx, request{server: server, method: http.MethodGet, path: path(v1+"/user/devices", string(user))}, &answer)
	return answer, err
}

// QueryDeviceKeys requests the device keys of users.
// Spec: server-server-api#post_matrixfederationv1userkeysquery
func (c *Client) QueryDeviceKeys(ctx context.Context, server string, users map[id.UserID][]id.DeviceID) (answer json.RawMessage, err error) {
	err = c.do(ctx, request{server: server, method: http.MethodPost, path: v1 + "/user/keys/query", body: map[string]any{"device_keys": users}}, &answer)
	return answer, err
}

// SignByPolicyServer asks a policy server to sign an event. It returns the signatures by server name and key ID. It
// returns none if the policy server refuses the event.
// Spec: server-server-api#post_matrixpolicyv1sign
func (c *Client) SignByPolicyServer(ctx context.Context, server string, event json.RawMessage) (map[string]map[string]string, error) {
	var answer map[string]map[string]string
	err := c.do(ctx, request{server: server, method: http.MethodPost, path: "/_matrix/policy/v1/sign", body: event, size: maxSmallAnswer}, &answer)
	return answer, err
}

// ClaimKeys claims one-time keys of devices.
// Spec: server-server-api#post_matrixfederationv1userkeysclaim
func (c *Client) ClaimKeys(ctx context.Context, server string, wanted map[id.UserID]map[id.DeviceID]string) (answer json.RawMessage, err error) {
	err = c.do(ctx, request{server: server, method: http.MethodPost, path: v1 + "/user/keys/claim", body: map[string]any{"one_time_keys": wanted}}, &answer)
	return answer, err
}
