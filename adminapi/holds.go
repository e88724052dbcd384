package adminapi

import (
	"context"
	"mime"
	"net/http"
	"strconv"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/holds"
	"ebb/httpapi"
	"ebb/mxerr"
)

// HoldArgs are the arguments of the commands "hold …". Each command uses only some of them.
type HoldArgs struct {
	ListArgs
	ID     int64  `json:"id,omitempty"`
	Room   string `json:"room,omitempty"` // ID or alias
	User   string `json:"user,omitempty"`
	Reason string `json:"reason,omitempty"`
	Review string `json:"review,omitempty"` // YYYY-MM-DD
	Lifted bool   `json:"lifted,omitempty"` // for hold list: also those that were lifted
	// Token is an access token of the administrator who lifts or exports the hold: the command line does not say who
	// uses it.
	Token string `json:"token,omitempty"`
	// Recipients are those who can decrypt an export; nil: it is not encrypted.
	Recipients []string `json:"recipients,omitempty"`
}

// Hold is a legal hold in the results of commands and of the admin API.
type Hold struct {
	ID       int64      `json:"id"`
	Room     id.RoomID  `json:"room,omitempty"`
	User     id.UserID  `json:"user,omitempty"`
	Reason   string     `json:"reason"`
	AddedBy  string     `json:"added_by"`
	Added    time.Time  `json:"added"`
	Review   string     `json:"review"`             // YYYY-MM-DD
	Overdue  bool       `json:"overdue"`            // the review date is over
	AskedBy  string     `json:"asked_by,omitempty"` // who asked for it to be lifted
	Asked    *time.Time `json:"asked,omitempty"`
	LiftedBy string     `json:"lifted_by,omitempty"`
	Lifted   *time.Time `json:"lifted,omitempty"`
	// Also are rooms that the hold covers because they replace its room or were replaced by it. Lists do not have them.
	Also []CoveredRoom `json:"also_covers,omitempty"`
}

// CoveredRoom is a room that a hold covers because of an upgrade.
type CoveredRoom struct {
	Room  id.RoomID `json:"room"`
	Since time.Time `json:"since"`
}

func (a *API) holdOf(h holds.Hold) Hold {
	out := Hold{
		ID: h.ID, Room: h.Room, User: h.User, Reason: h.Reason, AddedBy: h.AddedBy, Added: h.Added, Review: h.Review.UTC().Format(time.DateOnly),
		AskedBy: h.AskedBy, LiftedBy: h.LiftedBy,
	}
	if h.AskedBy != "" {
		out.Asked = &h.Asked
	}
	if !h.Lifted.IsZero() {
		out.Lifted = &h.Lifted
	}
	for _, c := range h.Also {
		out.Also = append(out.Also, CoveredRoom(c))
	}
	out.Overdue = out.Lifted == nil && !h.Review.After(a.Now())
	return out
}

// parseDay parses a review date. A hold is to be reviewed when that day begins, in UTC.
func parseDay(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, mxerr.MissingParam("The review date is missing")
	}
	day, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return day, mxerr.InvalidParam("The review date must have the form YYYY-MM-DD")
	}
	return day, nil
}

func (a *API) holdAdd(ctx context.Context, args HoldArgs) (any, error) {
	return a.addHold(ctx, args, "command line")
}

func (a *API) addHold(ctx context.Context, args HoldArgs, by string) (any, error) {
	review, err := parseDay(args.Review)
	if err != nil {
		return nil, err
	}
	n := holds.NewHold{Reason: args.Reason, Review: review, By: by}
	if args.Room != "" {
		if n.Room, err = a.roomID(ctx, args.Room); err != nil {
			return nil, err
		}
	}
	if args.User != "" {
		if n.User, err = a.userID(args.User); err != nil {
			return nil, err
		}
	}
	h, err := a.Holds.Add(ctx, n)
	if err != nil {
		return nil, err
	}
	return a.holdOf(h), nil
}

func (a *API) holdList(ctx context.Context, args HoldArgs) (any, error) {
	after, err := numberAfter(args.ListArgs)
	if err != nil {
		return nil, err
	}
	read := func(limit int) ([]holds.Hold, error) { return a.Holds.List(ctx, after, args.Lifted, limit) }
	return pageOf(args.ListArgs, read, func(h holds.Hold) string { return strconv.FormatInt(h.ID, 10) }, a.holdOf)
}

func (a *API) holdShow(ctx context.Context, args HoldArgs) (any, error) {
	h, err := a.Holds.Hold(ctx, args.ID)
	if err != nil {
		return nil, err
	}
	return a.holdOf(h), nil
}

func (a *API) holdReview(ctx context.Context, args HoldArgs) (any, error) {
	return a.reviewHold(ctx, args, "command line")
}

func (a *API) reviewHold(ctx context.Context, args HoldArgs, by string) (any, error) {
	review, err := parseDay(args.Review)
	if err != nil {
		return nil, err
	}
	h, err := a.Holds.Review(ctx, args.ID, review, by)
	if err != nil {
		return nil, err
	}
	return a.holdOf(h), nil
}

// administrator returns the administrator to whom an access token belongs, if the token is good for administration.
func (a *API) administrator(ctx context.Context, token string) (id.UserID, error) {
	if token == "" {
		return "", mxerr.MissingParam("An access token of an administrator is needed, which says who you are")
	}
	by, err := a.Accounts.Authenticate(ctx, token, "", "")
	if err == nil {
		err = a.Accounts.Administer(ctx, by)
	}
	return by.UserID, err
}

// holdLift asks for a hold to be lifted, or confirms that, as the administrator whose access token is given.
func (a *API) holdLift(ctx context.Context, args HoldArgs) (any, error) {
	by, err := a.administrator(ctx, args.Token)
	if err != nil {
		return nil, err
	}
	return a.liftHold(ctx, args.ID, by)
}

// holdExport returns an export of what a hold covers, for the administrator whose access token is given.
func (a *API) holdExport(ctx context.Context, args HoldArgs) (any, error) {
	by, err := a.administrator(ctx, args.Token)
	if err != nil {
		return nil, err
	}
	return a.Holds.Export(ctx, args.ID, by, args.Recipients)
}

// streamed returns an export as an answer. If the export fails, the connection is broken off, so that nobody takes what
// was sent for all of it.
func (a *API) streamed(e *holds.Export) httpapi.Stream {
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": e.Name()}))
		h.Set("Cache-Control", "no-store")
		if err := e.Write(r.Context(), w); err != nil {
			if r.Context().Err() == nil {
				a.Log.Error("The export of a legal hold failed", "err", err)
			}
			panic(http.ErrAbortHandler)
		}
	}
}

func (a *API) liftHold(ctx context.Context, nid int64, by id.UserID) (any, error) {
	h, err := a.Holds.Lift(ctx, nid, by)
	if err != nil {
		return nil, err
	}
	return a.holdOf(h), nil
}

const holdsPath = "/_ebb/admin/v1/holds"

// holdRoutes returns the routes by which administrators manage holds.
func (a *API) holdRoutes() []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: holdsPath, OperationID: "getHolds", Auth: httpapi.Admin, Rate: httpapi.Reads, Handler: a.getHolds},
		{Method: "POST", Path: holdsPath, OperationID: "addHold", Auth: httpapi.Admin, Rate: httpapi.Sends, Handler: a.postHold},
		{Method: "GET", Path: holdsPath + "/{holdId}/export", OperationID: "exportHold", Auth: httpapi.Admin, Rate: httpapi.Sends, Handler: a.getHoldExport},
		{Method: "POST", Path: holdsPath + "/{holdId}/lift", OperationID: "liftHold", Auth: httpapi.Admin, Rate: httpapi.Sends, Handler: a.postHoldLift},
		{Method: "POST", Path: holdsPath + "/{holdId}/review", OperationID: "reviewHold", Auth: httpapi.Admin, Rate: httpapi.Sends, Handler: a.postHoldReview},
	}
}

func (a *API) getHolds(r *httpapi.Request) (any, error) {
	lifted, err := r.QueryBool("lifted", false)
	if err != nil {
		return nil, err
	}
	return a.holdList(r.Context(), HoldArgs{ListArgs: ListArgs{After: r.Query("after")}, Lifted: lifted})
}

func (a *API) postHold(r *httpapi.Request) (any, error) {
	var args HoldArgs
	if err := r.Decode(&args); err != nil {
		return nil, err
	}
	return a.addHold(r.Context(), args, string(r.Requester.UserID))
}

func holdID(r *httpapi.Request) (int64, error) {
	n, err := strconv.ParseInt(r.Var("holdId"), 10, 64)
	if err != nil {
		return 0, mxerr.NotFound("There is no hold %q", r.Var("holdId"))
	}
	return n, nil
}

func (a *API) getHoldExport(r *httpapi.Request) (any, error) {
	nid, err := holdID(r)
	if err != nil {
		return nil, err
	}
	e, err := a.Holds.Export(r.Context(), nid, r.Requester.UserID, r.URL.Query()["recipient"])
	if err != nil {
		return nil, err
	}
	return a.streamed(e), nil
}

func (a *API) postHoldLift(r *httpapi.Request) (any, error) {
	nid, err := holdID(r)
	if err != nil {
		return nil, err
	}
	return a.liftHold(r.Context(), nid, r.Requester.UserID)
}

func (a *API) postHoldReview(r *httpapi.Request) (any, error) {
	var args HoldArgs
	err := r.Decode(&args)
	if err == nil {
		args.ID, err = holdID(r)
	}
	if err != nil {
		return nil, err
	}
	return a.reviewHold(r.Context(), args, string(r.Requester.UserID))
}
