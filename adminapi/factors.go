package adminapi

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/factors"
	"ebb/ident"
	"ebb/mxerr"
)

// EnrolLink is a link with which a user sets up a second factor.
type EnrolLink struct {
	User    id.UserID `json:"user"`
	By      id.UserID `json:"by,omitempty"` // the administrator who made it; "": made on the command line
	URL     string    `json:"url,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

// link returns a link as the commands print it. Its URL is set only for a new link, for which the token is known.
func (a *API) link(l factors.Link, token string) EnrolLink {
	out := EnrolLink{User: l.User, By: l.By, Created: l.Created, Expires: l.Expires}
	if token != "" {
		out.URL = strings.TrimSuffix(a.Config.PublicURL, "/") + factors.LinkPath + "?" + url.Values{"token": {token}}.Encode()
	}
	return out
}

// userEnrolLink makes a link with which the given user can set up a second factor.
func (a *API) userEnrolLink(ctx context.Context, u UserArgs) (any, error) {
	user, err := a.userID(u.User)
	if err != nil {
		return nil, err
	}
	token, l, err := a.Factors.NewLink(ctx, ident.Requester{}, user)
	return a.link(l, token), err
}

// adminRecover makes a link with which an administrator who cannot sign in any more can set up a new second factor.
func (a *API) adminRecover(ctx context.Context, u UserArgs) (any, error) {
	user, err := a.userID(u.User)
	if err != nil {
		return nil, err
	}
	token, l, err := a.Factors.Recover(ctx, user)
	return a.link(l, token), err
}

func (a *API) userEnrolList(ctx context.Context, args ListArgs) (any, error) {
	after := int64(0)
	if args.After != "" {
		var err error
		if after, err = strconv.ParseInt(args.After, 10, 64); err != nil {
			return nil, mxerr.InvalidParam("after is not the end of a page")
		}
	}
	return pageOf(args, func(limit int) ([]factors.Link, error) { return a.Factors.Links(ctx, ident.UserNID(after), limit) },
		func(l factors.Link) string { return strconv.FormatInt(int64(l.NID), 10) }, func(l factors.Link) EnrolLink { return a.link(l, "") })
}

func (a *API) userEnrolRevoke(ctx context.Context, u UserArgs) (any, error) {
	user, err := a.userID(u.User)
	if err != nil {
		return nil, err
	}
	return struct{}{}, a.Factors.RevokeLink(ctx, "", user)
}
