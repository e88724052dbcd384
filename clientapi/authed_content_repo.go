package clientapi

import (
	"net/http"
	"strconv"
	"time"

	"ebb/httpapi"
	"ebb/media"
	"ebb/mxerr"
)

func (a *API) authedContentRepoRoutes() []httpapi.Route {
	const file = "authed-content-repo.yaml"
	const base = "/_matrix/client/v1/media"
	return []httpapi.Route{
		{Method: "GET", Path: base + "/download/{serverName}/{mediaId}", OperationID: "getContentAuthed", File: file, Auth: httpapi.User, Handler: a.download},
		{Method: "GET", Path: base + "/download/{serverName}/{mediaId}/{fileName}", OperationID: "getContentOverrideNameAuthed", File: file, Auth: httpapi.User, Handler: a.download},
		{Method: "GET", Path: base + "/thumbnail/{serverName}/{mediaId}", OperationID: "getContentThumbnailAuthed", File: file, Auth: httpapi.User, Handler: a.thumbnail},
		{Method: "GET", Path: base + "/config", OperationID: "getConfigAuthed", File: file, Auth: httpapi.User, Handler: a.mediaConfig},
	}
}

// defaultMediaWait is timeout_ms where the client gives none.
// Spec: client-server-api#get_matrixclientv1mediadownloadservernamemediaid
const defaultMediaWait = 20 * time.Second

// download serves getContentAuthed and getContentOverrideNameAuthed, and getContent where old addresses are allowed.
// Spec: client-server-api#get_matrixclientv1mediadownloadservernamemediaid
func (a *API) download(r *httpapi.Request) (any, error) {
	wait, err := a.localMedia(r)
	if err != nil {
		return nil, err
	}
	f, err := a.Media.Open(r.Context(), r.Var("mediaId"), wait)
	if err != nil {
		return nil, err
	}
	if name := r.Var("fileName"); name != "" {
		f.Filename = name
	}
	return serveFile(f), nil
}

// thumbnail serves getContentThumbnailAuthed, and getContentThumbnail where old addresses are allowed.
// Spec: client-server-api#get_matrixclientv1mediathumbnailservernamemediaid
func (a *API) thumbnail(r *httpapi.Request) (any, error) {
	wait, err := a.localMedia(r)
	if err != nil {
		return nil, err
	}
	size, err := thumbnailSize(r)
	if err != nil {
		return nil, err
	}
	f, err := a.Media.Thumbnail(r.Context(), r.Var("mediaId"), size, wait)
	if err != nil {
		return nil, err
	}
	return serveFile(f), nil
}

func thumbnailSize(r *httpapi.Request) (size media.Size, err error) {
	const largest = 1 << 20 // more than any picture; larger wishes are met by the largest thumbnail
	for _, side := range []struct {
		name string
		to   *int
	}{{"width", &size.Width}, {"height", &size.Height}} {
		if r.Query(side.name) == "" {
			return size, mxerr.MissingParam("A thumbnail needs a %s", side.name)
		}
		n, err := r.QueryInt(side.name, 0, 1, largest)
		if err != nil {
			return size, err
		}
		*side.to = int(n)
	}
	switch r.Query("method") {
	case "crop":
		size.Crop = true
	case "", "scale":
	default:
		return size, mxerr.InvalidParam("method must be crop or scale")
	}
	size.Animated, err = r.QueryBool("animated", false)
	return size, err
}

// localMedia refuses media of other servers, and reads how long to wait for an upload.
func (a *API) localMedia(r *httpapi.Request) (wait time.Duration, err error) {
	wait, err = r.QueryMillis("timeout_ms", defaultMediaWait, time.Minute)
	if err == nil && r.Var("serverName") != a.Config.ServerName {
		err = mxerr.NotFound("There is no such file")
	}
	return wait, err
}

// mediaConfig serves getConfigAuthed and getConfig.
// Spec: client-server-api#get_matrixclientv1mediaconfig
func (a *API) mediaConfig(*httpapi.Request) (any, error) {
	return map[string]int64{"m.upload.size": int64(a.Config.Media.MaxUploadSize)}, nil
}

// contentPolicy keeps a browser from running anything that was uploaded.
// Spec: client-server-api#content-repo-security-considerations
const contentPolicy = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';"

// serveFile streams a file, ranges included, and closes it.
func serveFile(f *media.File) httpapi.Stream {
	return func(w http.ResponseWriter, r *http.Request) {
		defer func() { _ = f.Close() }() // only read
		h := w.Header()
		h.Set("Content-Type", f.ContentType)
		h.Set("Content-Disposition", media.Disposition(f.ContentType, f.Filename))
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Resource-Policy", "cross-origin")
		h.Set("Cache-Control", "private, max-age=86400, immutable") // a media id never changes what it names
		h.Set("ETag", strconv.Quote(f.ETag()))
		http.ServeContent(w, r, "", time.Time{}, f.File)
	}
}
