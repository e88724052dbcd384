package adminapi

import (
	"context"

	"ebb/mxerr"
)

// AppserviceArgs are the arguments of the commands "appservice …".
type AppserviceArgs struct {
	ID string `json:"id"` // the ID in the registration
}

// Pinged is the result of the command "appservice ping".
type Pinged struct {
	Millis int64 `json:"duration_ms"`
}

func (a *API) appserviceList(context.Context, struct{}) (any, error) { return a.Apps.List(), nil }

func (a *API) appservicePing(ctx context.Context, args AppserviceArgs) (any, error) {
	if args.ID == "" {
		return nil, mxerr.MissingParam("The ID of the application service is missing")
	}
	took, err := a.Apps.Ping(ctx, args.ID, "")
	return Pinged{took.Milliseconds()}, err
}
