package accounts

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

const (
	openIDLifetime = time.Hour
	// maxOpenIDTokens bounds the valid tokens of a user. Each widget and bridge requests one.
	maxOpenIDTokens = 50
)

// CreateOpenIDToken creates a token with which another service can verify the identity of its owner, and nothing else.
// Spec: client-server-api#post_matrixclientv3useruseridopenidrequest_token
func (s *Service) CreateOpenIDToken(ctx context.Context, user ident.UserNID) (token string, lifetime time.Duration, err error) {
	token = secret("ebb_o_", 32)
	err = s.write(ctx, func(w *write) error {
		return w.AddOpenIDToken(keyOf(token).String(), user, s.opts.Now().Add(openIDLifetime).UnixMilli(), maxOpenIDTokens)
	})
	return token, openIDLifetime, err
}

// OpenIDUser returns the owner of a token that CreateOpenIDToken created.
//
// Errors: M_UNKNOWN_TOKEN 401.
// Spec: server-server-api#get_matrixfederationv1openiduserinfo
func (s *Service) OpenIDUser(ctx context.Context, token string) (user id.UserID, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		nid, found, err := tx.OpenIDTokenUser(keyOf(token).String(), s.opts.Now().UnixMilli())
		if err != nil {
			return err
		}
		if !found {
			return mxerr.New(401, mxerr.CodeUnknownToken, "The token is unknown or has expired")
		}
		name, err := tx.UserID(nid)
		user = id.UserID(name)
		return err
	})
	return user, err
}
