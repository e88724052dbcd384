package clientapi

import (
	"fmt"

	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) contentRepoRoutes() []httpapi.Route {
	const file = "content-repo.yaml"
	const v3 = "/_matrix/media/v3"
	limit := int64(a.Config.Media.MaxUploadSize)
	routes := []httpapi.Route{
		{Method: "POST", Path: v3 + "/upload", Aliases: []string{"/_matrix/media/r0/upload"}, OperationID: "uploadContent", File: file, Auth: httpapi.User, Rate: httpapi.Uploads, MaxBody: limit, Handler: a.uploadContent},
		{Method: "PUT", Path: v3 + "/upload/{serverName}/{mediaId}", OperationID: "uploadContentToMXC", File: file, Auth: httpapi.User, Rate: httpapi.Uploads, MaxBody: limit, Handler: a.uploadContentToMXC},
		{Method: "POST", Path: "/_matrix/media/v1/create", OperationID: "createContent", File: file, Auth: httpapi.User, Rate: httpapi.Uploads, Handler: a.createContent},
		{Method: "GET", Path: v3 + "/config", Aliases: []string{"/_matrix/media/r0/config"}, OperationID: "getConfig", File: file, Auth: httpapi.User, Handler: a.mediaConfig},
		{Method: "GET", Path: v3 + "/download/{serverName}/{mediaId}", OperationID: "getContent", File: file, Handler: a.unauthenticated(a.download)},
		{Method: "GET", Path: v3 + "/download/{serverName}/{mediaId}/{fileName}", OperationID: "getContentOverrideName", File: file, Handler: a.unauthenticated(a.download)},
		{Method: "GET", Path: v3 + "/thumbnail/{serverName}/{mediaId}", OperationID: "getContentThumbnail", File: file, Handler: a.unauthenticated(a.thumbnail)},
	}
	return routes
}

// unauthenticated returns a handler for a deprecated media endpoint that requires no access token. The handler calls h
// if the administrator allows such requests, and refuses them otherwise.
// Spec: client-server-api#content-repo-client-behaviour (deprecated since v1.11)
func (a *API) unauthenticated(h func(*httpapi.Request) (any, error)) func(*httpapi.Request) (any, error) {
	return func(r *httpapi.Request) (any, error) {
		if !a.Config.Media.AllowUnauthenticated {
			return nil, mxerr.NotFound("This server requires an access token for media; use /_matrix/client/v1/media")
		}
		remote, err := r.QueryBool("allow_remote", true)
		if err != nil {
			return nil, err
		}
		if !remote && r.Var("serverName") != a.Config.ServerName {
			return nil, mxerr.NotFound("There is no such file on this server")
		}
		return h(r)
	}
}

// uploadContent stores a file.
// Spec: client-server-api#post_matrixmediav3upload
func (a *API) uploadContent(r *httpapi.Request) (any, error) {
	mediaID, err := a.Media.Upload(r.Context(), r.UserNID, r.Header.Get("Content-Type"), r.Query("filename"), r.Request.Body)
	return map[string]string{"content_uri": a.mxc(mediaID)}, err
}

// uploadContentToMXC stores a file under a reserved media ID.
// Spec: client-server-api#put_matrixmediav3uploadservernamemediaid
func (a *API) uploadContentToMXC(r *httpapi.Request) (any, error) {
	if r.Var("serverName") != a.Config.ServerName {
		return nil, mxerr.Forbidden("This media ID belongs to another server")
	}
	return nil, a.Media.Put(r.Context(), r.UserNID, r.Var("mediaId"), r.Header.Get("Content-Type"), r.Query("filename"), r.Request.Body)
}

// createContent reserves a media ID.
// Spec: client-server-api#post_matrixmediav1create
func (a *API) createContent(r *httpapi.Request) (any, error) {
	mediaID, expires, err := a.Media.Create(r.Context(), r.UserNID)
	return map[string]any{"content_uri": a.mxc(mediaID), "unused_expires_at": expires.UnixMilli()}, err
}

func (a *API) mxc(mediaID string) string {
	return fmt.Sprintf("mxc://%s/%s", a.Config.ServerName, mediaID)
}
