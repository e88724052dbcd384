package adminapi

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
)

// Erasure describes how far the erasure of everything about a user has come.
type Erasure struct {
	User      id.UserID  `json:"user"`
	Requested time.Time  `json:"requested"`
	Stage     string     `json:"stage"`
	Held      bool       `json:"held,omitempty"` // it waits for a legal hold
	Redacted  int64      `json:"redacted"`       // events for which a redaction was sent
	Removed   int64      `json:"removed"`        // events that were only removed from this server
	Media     int64      `json:"media"`          // files that were deleted besides those of redacted events
	Finished  *time.Time `json:"finished,omitempty"`
}

// userErase closes an account, if it is open, and erases the user.
func (a *API) userErase(ctx context.Context, u UserArgs) (any, error) {
	user, err := a.userID(u.User)
	if err != nil {
		return nil, err
	}
	if err := a.Accounts.Erase(ctx, user, accounts.ErasureOf(true, u.Everything)); err != nil || !u.Everything {
		return struct{}{}, err
	}
	return a.userErasure(ctx, u)
}

// userErasure shows how far the erasure of everything about a user has come.
func (a *API) userErasure(ctx context.Context, u UserArgs) (any, error) {
	user, err := a.localUser(ctx, u.User)
	if err != nil {
		return nil, err
	}
	e, err := a.Erasure.Status(ctx, user)
	if err != nil {
		return nil, err
	}
	out := Erasure{User: e.User, Requested: e.Requested.UTC(), Stage: e.Stage, Held: e.Held, Redacted: e.Redacted, Removed: e.Removed, Media: e.Media}
	if !e.Finished.IsZero() {
		finished := e.Finished.UTC()
		out.Finished = &finished
	}
	return out, nil
}
