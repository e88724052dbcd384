package adminapi

import (
	"context"
	"time"

	"ebb/accounts"
)

// IdentityArgs are the arguments of the commands for identities at other services.
type IdentityArgs struct {
	User    string `json:"user"`   // @localpart:server, or the localpart
	Issuer  string `json:"issuer"` // of an OpenID Connect provider, or "ldap"
	Subject string `json:"subject"`
}

// Identity is the account of a local user at another service that signs the user in.
type Identity struct {
	Issuer  string    `json:"issuer"`
	Subject string    `json:"subject"`
	Name    string    `json:"name,omitempty"` // the user's name there, as the service stated it when it was linked
	Created time.Time `json:"created"`
}

func (a *API) userIdentities(ctx context.Context, i IdentityArgs) (any, error) {
	user, err := a.userID(i.User)
	if err != nil {
		return nil, err
	}
	all, err := a.Accounts.Identities(ctx, user)
	out := make([]Identity, len(all))
	for n, one := range all {
		out[n] = Identity{Issuer: one.Issuer, Subject: one.Subject, Name: one.Label, Created: one.Created}
	}
	return out, err
}

func (a *API) userLink(ctx context.Context, i IdentityArgs) (any, error) {
	user, err := a.userID(i.User)
	if err != nil {
		return nil, err
	}
	return struct{}{}, a.Accounts.Link(ctx, user, accounts.Identity{Issuer: i.Issuer, Subject: i.Subject})
}

func (a *API) userUnlink(ctx context.Context, i IdentityArgs) (any, error) {
	user, err := a.userID(i.User)
	if err != nil {
		return nil, err
	}
	return struct{}{}, a.Accounts.Unlink(ctx, user, accounts.Identity{Issuer: i.Issuer, Subject: i.Subject})
}
