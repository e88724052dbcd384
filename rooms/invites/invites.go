// Package invites decides whether a local user may be invited: by the filter that the user has set, and by bounds of
// the invites that are pending.
package invites

import (
	"context"
	"net/http"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/storage"
)

// Policy decides about invites of local users. It is safe for concurrent use.
type Policy struct {
	db      *storage.DB
	server  string
	filters *keyed.Memo[ident.UserNID, *filter]
}

// NewPolicy returns a Policy for the users of a server.
func NewPolicy(db *storage.DB, server string, cache keyed.Budget) *Policy {
	return &Policy{db: db, server: server, filters: keyed.NewMemo(keyed.Options[ident.UserNID, *filter]{Bytes: cache.Bytes(maxCached), Size: sizeOf})}
}

// Changed is called when a user's global account data of the given type has changed. If the user's filter depends on
// it, the cached filter is dropped.
func (p *Policy) Changed(user ident.UserNID, typ string) {
	if slices.Contains(configs, typ) {
		p.filters.Forget(user)
	}
}

// Hides reports whether a local user does not want to see the invites of another user, who is blocked or ignored.
func (p *Policy) Hides(ctx context.Context, user ident.UserNID, inviter id.UserID) (bool, error) {
	f, err := p.filterOf(ctx, user)
	return f.decide(inviter) != allow, err
}

// Check returns an error if a local user blocks the inviter, or has too many invites in total or from the inviter.
// Spec: client-server-api#invite-permission
func (p *Policy) Check(ctx context.Context, user ident.UserNID, inviter id.UserID) error {
	f, err := p.filterOf(ctx, user)
	if err != nil {
		return err
	}
	if f.decide(inviter) == block {
		return mxerr.New(http.StatusForbidden, mxerr.CodeInviteBlocked, "The user does not accept invites")
	}
	return p.checkPending(ctx, user, inviter)
}

// Bounds of a user's pending invites, which are part of every initial /sync: all of them, and those by one local user
// or by the users of one other server. Bytes include the stripped state.
const (
	maxPending      = 2000
	maxPendingBytes = 16 << 20
	maxOfInviter    = 500 // a bridge on another server may have hundreds of rooms for one user
	maxInviterBytes = 4 << 20
)

// checkPending returns an error if the user has too many pending invites.
func (p *Policy) checkPending(ctx context.Context, user ident.UserNID, inviter id.UserID) error {
	var pending []storage.PendingInvite
	err := p.db.Read(ctx, func(tx *storage.Tx) (err error) {
		pending, err = tx.PendingInvites(user)
		return err
	})
	if err != nil {
		return err
	}
	var all, same, allBytes, sameBytes int64
	for _, other := range pending {
		all, allBytes = all+1, allBytes+other.Size
		if countsAs(p.server, id.UserID(other.Inviter)) == countsAs(p.server, inviter) {
			same, sameBytes = same+1, sameBytes+other.Size
		}
	}
	if all >= maxPending || allBytes >= maxPendingBytes || same >= maxOfInviter || sameBytes >= maxInviterBytes {
		return mxerr.Forbidden("The user already has too many pending invites")
	}
	return nil
}

// countsAs returns the name under which the invites of a user are counted: the user's own ID for a local user, and
// otherwise the user's server.
func countsAs(server string, inviter id.UserID) string {
	if ident.ServerOf(inviter) == server {
		return string(inviter)
	}
	return ident.ServerOf(inviter)
}
