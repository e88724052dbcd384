package adminapi

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/factors"
	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
)

// MFAArgs are the arguments of user mfa.
type MFAArgs struct {
	User string `json:"user"`
	Mode string `json:"mode"` // off, optional, required or default
}

// userMFA sets the policy on second factors for one account.
func (a *API) userMFA(ctx context.Context, args MFAArgs) (any, error) {
	user, err := a.userID(args.User)
	if err != nil {
		return nil, err
	}
	mode := gate.Mode(args.Mode)
	switch {
	case mode == "":
		return nil, mxerr.MissingParam("mode is missing: off, optional, required or default")
	case mode == "default":
		mode = ""
	case mode != gate.Off && !a.Config.OAuth.Enabled:
		return nil, mxerr.Forbidden("Users set up and show second factors on the web pages of this server: set oauth.enabled first")
	}
	return struct{}{}, a.Accounts.SetMFA(ctx, ident.Requester{}, user, mode)
}

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
