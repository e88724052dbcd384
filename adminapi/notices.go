package adminapi

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"maunium.net/go/mautrix/id"

	"ebb/audit"
	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/notices"
	"ebb/rooms/txns"
)

// NoticeArgs are the arguments of the command "notice send".
type NoticeArgs struct {
	User string `json:"user"` // @localpart:server, or the localpart; "" with All
	All  bool   `json:"all,omitempty"`
	Text string `json:"text"`
}

// Noticed is the result of the command "notice send".
type Noticed struct {
	Users int `json:"users"` // number of users to whom the notice is sent
}

func (a *API) noticeSend(ctx context.Context, args NoticeArgs) (any, error) {
	if args.All == (args.User != "") {
		return nil, mxerr.InvalidParam("Give either one user, or all")
	}
	user := id.UserID("")
	if !args.All {
		var err error
		if user, err = a.userID(args.User); err != nil {
			return nil, err
		}
	}
	sent, err := a.Notices.Announce(ctx, user, args.Text)
	return Noticed{Users: sent}, err
}

// noticePath is the path of requests that send an event to a user's room of server notices.
const noticePath = "/_synapse/admin/v1/send_server_notice"

func (a *API) noticeRoutes() []httpapi.Route {
	return []httpapi.Route{
		{Method: "POST", Path: noticePath, OperationID: "sendServerNotice", Auth: httpapi.Admin, Rate: httpapi.Sends, Handler: a.sendServerNotice},
		{Method: "PUT", Path: noticePath + "/{txnId}", OperationID: "sendServerNoticeOnce", Auth: httpapi.Admin, Rate: httpapi.Sends, Handler: a.sendServerNotice},
	}
}

// sendServerNotice sends an event with any content to a user's room of server notices.
// Deviation: not part of the specification; scripts written for Synapse and Dendrite use it.
func (a *API) sendServerNotice(r *httpapi.Request) (any, error) {
	var body struct {
		UserID   id.UserID       `json:"user_id"`
		Type     string          `json:"type"`
		StateKey *string         `json:"state_key"`
		Content  json.RawMessage `json:"content"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.UserID == "" || body.Content == nil {
		return nil, mxerr.MissingParam("user_id and content are required")
	}
	e := notices.Event{User: body.UserID, Type: cmp.Or(body.Type, "m.room.message"), StateKey: body.StateKey, Content: body.Content}
	if txnID := r.Var("txnId"); txnID != "" {
		e.Txn = &txns.Txn{Path: fmt.Sprintf("%s by %d", noticePath, r.Requester.Transactions()), ID: txnID}
	}
	ctx := audit.WithActor(r.Context(), string(r.Requester.UserID))
	eventID, err := a.Notices.Send(ctx, e)
	args, _ := json.Marshal(NoticeArgs{User: string(e.User)}) // cannot fail: strings
	if unrecorded := a.record(ctx, "notice send", args, err); err == nil {
		err = unrecorded
	}
	return map[string]id.EventID{"event_id": eventID}, err
}
