package adminapi

import (
	"context"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
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
