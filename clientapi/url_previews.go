package clientapi

import (
	"math"
	"time"

	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) urlPreviewRoutes() []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: "/_matrix/client/v1/media/preview_url", OperationID: "getUrlPreviewAuthed", File: "authed-content-repo.yaml", Auth: httpapi.User, Rate: httpapi.Uploads, Handler: a.getURLPreview},
		{Method: "GET", Path: "/_matrix/media/v3/preview_url", Aliases: []string{"/_matrix/media/r0/preview_url"}, OperationID: "getUrlPreview", File: "content-repo.yaml", Auth: httpapi.User, Rate: httpapi.Uploads, Handler: a.getURLPreview},
	}
}

// getURLPreview serves getUrlPreviewAuthed and getUrlPreview.
// Spec: client-server-api#get_matrixclientv1mediapreview_url
func (a *API) getURLPreview(r *httpapi.Request) (any, error) {
	if a.Previews == nil {
		return nil, mxerr.Forbidden("This server does not generate link previews") // the error that MSC4452 prescribes
	}
	at, err := r.QueryInt("ts", a.Now().UnixMilli(), 0, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	body, err := a.Previews.Preview(r.Context(), r.UserNID, r.Query("url"), time.UnixMilli(at))
	if err != nil {
		return nil, err
	}
	return httpapi.Raw{Body: body}, nil
}
