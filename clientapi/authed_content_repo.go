package clientapi

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"ebb/httpapi"
	"ebb/media"
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

// download serves the operations getContentAuthed and getContentOverrideNameAuthed, and also getContent if
// unauthenticated media is allowed.
// Spec: client-server-api#get_matrixclientv1mediadownloadservernamemediaid
func (a *API) download(r *httpapi.Request) (any, error) {
	wait, err := media.ReadWait(r)
	if err != nil {
		return nil, err
	}
	f, err := a.openMedia(r, wait)
	if err != nil {
		return nil, err
	}
	if name := r.Var("fileName"); name != "" {
		f.Filename = name
	}
	return serveFile(f), nil
}

func (a *API) openMedia(r *httpapi.Request, wait time.Duration) (*media.File, error) {
	if server := r.Var("serverName"); server != a.Config.ServerName {
		return a.Media.OpenRemote(r.Context(), server, r.Var("mediaId"), wait)
	}
	return a.Media.Open(r.Context(), r.Var("mediaId"), wait)
}

// thumbnail serves the operation getContentThumbnailAuthed, and also getContentThumbnail if unauthenticated media is
// allowed.
// Spec: client-server-api#get_matrixclientv1mediathumbnailservernamemediaid
func (a *API) thumbnail(r *httpapi.Request) (any, error) {
	wait, err := media.ReadWait(r)
	if err != nil {
		return nil, err
	}
	size, err := media.ReadSize(r)
	if err != nil {
		return nil, err
	}
	f, err := a.openThumbnail(r, size, wait)
	if err != nil {
		return nil, err
	}
	return serveFile(f), nil
}

func (a *API) openThumbnail(r *httpapi.Request, size media.Size, wait time.Duration) (*media.File, error) {
	if server := r.Var("serverName"); server != a.Config.ServerName {
		return a.Media.ThumbnailRemote(r.Context(), server, r.Var("mediaId"), size, wait)
	}
	return a.Media.Thumbnail(r.Context(), r.Var("mediaId"), size, wait)
}

// mediaConfig serves getConfigAuthed and getConfig.
// Spec: client-server-api#get_matrixclientv1mediaconfig
func (a *API) mediaConfig(*httpapi.Request) (any, error) {
	return map[string]int64{"m.upload.size": int64(a.Config.Media.MaxUploadSize)}, nil
}

// contentPolicy keeps browsers from executing uploaded content.
// Spec: client-server-api#content-repo-security-considerations
const contentPolicy = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';"

// serveFile streams a file, with support for ranges, and closes it.
func serveFile(f *media.File) httpapi.Stream {
	return func(w http.ResponseWriter, r *http.Request) {
		defer func() { _ = f.Close() }() // opened for reading only
		h := w.Header()
		h.Set("Content-Type", f.ContentType)
		h.Set("Content-Disposition", media.Disposition(f.ContentType, f.Filename))
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Resource-Policy", "cross-origin")
		h.Set("Cache-Control", "private, max-age=86400, immutable") // the content of a media ID never changes
		h.Set("ETag", strconv.Quote(f.ETag()))
		if !strings.HasPrefix(r.Header.Get("Range"), "bytes=") {
			r.Header.Del("Range") // an unknown range unit is ignored: RFC 9110, section 14.2
		}
		http.ServeContent(media.Writer(w), r, "", time.Time{}, f.Content)
	}
}
