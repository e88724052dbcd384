package adminapi

import (
	"context"
	"math"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/redactions"
	"ebb/storage"
)

// OwnArgs are the arguments of the commands "user redact" and "user redactions".
type OwnArgs struct {
	User   string    `json:"user"` // @localpart:server, or the localpart
	Room   id.RoomID `json:"room,omitempty"`
	AgeMS  int64     `json:"age_ms,omitempty"` // only messages that are older
	Reason string    `json:"reason,omitempty"`
	Cancel bool      `json:"cancel,omitempty"` // end the unfinished requests instead
}

// OwnRequest is a request to redact the messages of a user.
type OwnRequest struct {
	Requested storage.Pos `json:"request"`          // identifies the request
	Room      id.RoomID   `json:"room,omitempty"`   // "": all rooms
	Before    *time.Time  `json:"before,omitempty"` // only messages from before this time
	Reason    string      `json:"reason,omitempty"`
	Daily     bool        `json:"daily,omitempty"` // made because of the user's setting
	Counted   bool        `json:"counted"`         // whether Found is final
	Found     int64       `json:"found"`           // messages to redact
	Redacted  int64       `json:"redacted"`        // for which a redaction was sent
	Removed   int64       `json:"removed"`         // that were only removed from this server
	Finished  *time.Time  `json:"finished,omitempty"`
}

// localUser returns the number of the account that is named in the arguments of a command.
func (a *API) localUser(ctx context.Context, name string) (user ident.UserNID, err error) {
	full, err := a.userID(name)
	if err != nil {
		return 0, err
	}
	found := false
	err = a.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if user, found, err = tx.LookupUser(string(full)); err == nil && found {
			_, found, err = tx.Account(user)
		}
		return err
	})
	if err == nil && !found {
		err = mxerr.NotFound("There is no account %s on this server", full)
	}
	return user, err
}

// userRedact requests that the messages of a user are redacted, or cancels such requests.
func (a *API) userRedact(ctx context.Context, args OwnArgs) (any, error) {
	user, err := a.localUser(ctx, args.User)
	if err != nil {
		return nil, err
	}
	if args.Cancel {
		if _, err := a.Redactions.CancelOwn(ctx, user); err != nil {
			return nil, err
		}
		return a.ownRequests(ctx, user)
	}
	own := redactions.Own{User: user, Reason: args.Reason}
	if args.Room != "" {
		room, err := a.Rooms.Room(ctx, args.Room)
		if err != nil {
			return nil, err
		}
		own.Room = room.NID()
	}
	if args.AgeMS < 0 {
		return nil, mxerr.InvalidParam("The age must not be negative")
	}
	if args.AgeMS > 0 {
		own.Before = a.Now().Add(-time.Duration(min(args.AgeMS, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond)
	}
	if _, err := a.Redactions.RedactOwn(ctx, own); err != nil {
		return nil, err
	}
	return a.ownRequests(ctx, user)
}

// userRedactions lists the requests to redact the messages of a user.
func (a *API) userRedactions(ctx context.Context, args OwnArgs) (any, error) {
	user, err := a.localUser(ctx, args.User)
	if err != nil {
		return nil, err
	}
	return a.ownRequests(ctx, user)
}

func (a *API) ownRequests(ctx context.Context, user ident.UserNID) ([]OwnRequest, error) {
	list, err := a.Redactions.OwnRequests(ctx, user)
	out := make([]OwnRequest, 0, len(list))
	for i := range list {
		o := &list[i]
		r := OwnRequest{
			Requested: o.Position, Room: id.RoomID(o.RoomID), Reason: o.Reason, Daily: o.Daily, Counted: o.Counted, Found: o.Expected, Redacted: o.Redacted, Removed: o.Removed,
		}
		if o.Before != math.MaxInt64 {
			before := time.UnixMilli(o.Before).UTC()
			r.Before = &before
		}
		if o.FinishedTS != 0 {
			finished := time.UnixMilli(o.FinishedTS).UTC()
			r.Finished = &finished
		}
		out = append(out, r)
	}
	return out, err
}
