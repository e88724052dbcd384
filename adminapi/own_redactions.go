package adminapi

import (
	"context"
	"maps"
	"math"
	"slices"
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
	// Daily is for the user's setting: every day, messages that are older than AgeMS. With Cancel, it is removed.
	Daily bool `json:"daily,omitempty"`
}

// OwnAnswer is the result of the commands "user redact" and "user redactions".
type OwnAnswer struct {
	Requests  []OwnRequest  `json:"requests"`
	Lifetimes []OwnLifetime `json:"lifetimes,omitempty"` // chosen by the user; the one for all rooms first
}

// OwnLifetime is the age at which the messages of a user are redacted.
type OwnLifetime struct {
	Room  id.RoomID `json:"room,omitempty"` // "": all rooms without a lifetime of their own
	AgeMS int64     `json:"age_ms"`
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

// userRedact requests that the messages of a user are redacted, once or daily, or cancels that.
func (a *API) userRedact(ctx context.Context, args OwnArgs) (any, error) {
	user, err := a.localUser(ctx, args.User)
	if err != nil {
		return nil, err
	}
	switch {
	case args.AgeMS < 0:
		return nil, mxerr.InvalidParam("The age must not be negative")
	case args.Daily:
		err = a.setLifetime(ctx, user, args)
	case args.Cancel:
		_, err = a.Redactions.CancelOwn(ctx, user)
	default:
		err = a.redactOnce(ctx, user, args)
	}
	if err != nil {
		return nil, err
	}
	return a.ownAnswer(ctx, user)
}

// setLifetime changes the setting of a user.
func (a *API) setLifetime(ctx context.Context, user ident.UserNID, args OwnArgs) error {
	if args.Cancel {
		_, err := a.Redactions.DropLifetime(ctx, user, args.Room)
		return err
	}
	d, err := redactions.CheckLifetime(args.AgeMS)
	if err != nil {
		return err
	}
	return a.Redactions.SetLifetime(ctx, user, args.Room, d)
}

// redactOnce requests that the messages of a user are redacted.
func (a *API) redactOnce(ctx context.Context, user ident.UserNID, args OwnArgs) error {
	own := redactions.Own{User: user, Reason: args.Reason}
	if args.Room != "" {
		room, err := a.Rooms.Room(ctx, args.Room)
		if err != nil {
			return err
		}
		own.Room = room.NID()
	}
	if args.AgeMS > 0 {
		own.Before = a.Now().Add(-time.Duration(min(args.AgeMS, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond)
	}
	_, err := a.Redactions.RedactOwn(ctx, own)
	return err
}

// userRedactions lists the requests to redact the messages of a user.
func (a *API) userRedactions(ctx context.Context, args OwnArgs) (any, error) {
	user, err := a.localUser(ctx, args.User)
	if err != nil {
		return nil, err
	}
	return a.ownAnswer(ctx, user)
}

func (a *API) ownAnswer(ctx context.Context, user ident.UserNID) (any, error) {
	requests, err := a.ownRequests(ctx, user)
	if err != nil {
		return nil, err
	}
	chosen, err := a.Redactions.Lifetimes(ctx, user)
	out := OwnAnswer{Requests: requests}
	if chosen.All != 0 {
		out.Lifetimes = []OwnLifetime{{AgeMS: chosen.All.Milliseconds()}}
	}
	for _, room := range slices.Sorted(maps.Keys(chosen.Rooms)) {
		out.Lifetimes = append(out.Lifetimes, OwnLifetime{Room: room, AgeMS: chosen.Rooms[room].Milliseconds()})
	}
	return out, err
}

func (a *API) ownRequests(ctx context.Context, user ident.UserNID) ([]OwnRequest, error) {
	list, err := a.Redactions.OwnRequests(ctx, user)
	out := make([]OwnRequest, 0, len(list))
	for i := range list {
		o := &list[i]
		r := OwnRequest{
			Requested: o.Position, Room: id.RoomID(o.RoomID), Reason: o.Reason, Daily: o.Daily, Counted: o.Counted, Found: o.Expected, Redacted: o.Redacted, Removed: o.Removed,
		}
		if o.Before != math.MaxInt64 && !o.Daily { // a daily one has a time for each room
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
