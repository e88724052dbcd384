package federation

import (
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"

	"ebb/httpapi"
	"ebb/media"
)

func (a *API) contentRepositoryRoutes() []httpapi.Route {
	const file = "content_repository.yaml"
	return []httpapi.Route{
		route("GET", v1+"/media/download/{mediaId}", "getContent", file, a.getContent),
		route("GET", v1+"/media/thumbnail/{mediaId}", "getContentThumbnail", file, a.getContentThumbnail),
	}
}

// getContent gives a file of this server.
// Spec: server-server-api#get_matrixfederationv1mediadownloadmediaid
func (a *API) getContent(r *httpapi.Request) (any, error) {
	wait, err := media.ReadWait(r)
	if err != nil {
		return nil, err
	}
	f, err := a.Media.Open(r.Context(), r.Var("mediaId"), wait)
	if err != nil {
		return nil, err
	}
	return twoParts(f), nil
}

// getContentThumbnail gives a thumbnail of a file of this server.
// Spec: server-server-api#get_matrixfederationv1mediathumbnailmediaid
func (a *API) getContentThumbnail(r *httpapi.Request) (any, error) {
	wait, err := media.ReadWait(r)
	if err != nil {
		return nil, err
	}
	size, err := media.ReadSize(r)
	if err != nil {
		return nil, err
	}
	f, err := a.Media.Thumbnail(r.Context(), r.Var("mediaId"), size, wait)
	if err != nil {
		return nil, err
	}
	return twoParts(f), nil
}

// twoParts streams a file behind an empty description of it, and closes it.
func twoParts(f *media.File) httpapi.Stream {
	return func(w http.ResponseWriter, _ *http.Request) {
		defer func() { _ = f.Close() }() // only read
		parts := multipart.NewWriter(w)
		w.Header().Set("Content-Type", "multipart/mixed; boundary="+parts.Boundary())
		// From here on the other server sees by the missing end that something failed.
		about, err := parts.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/json"}})
		if err != nil {
			return
		}
		if _, err := io.WriteString(about, "{}"); err != nil {
			return
		}
		file, err := parts.CreatePart(textproto.MIMEHeader{
			"Content-Type": {f.ContentType}, "Content-Disposition": {media.Disposition(f.ContentType, f.Filename)},
		})
		if err != nil {
			return
		}
		if _, err := io.Copy(file, f); err != nil {
			return
		}
		_ = parts.Close() // the peer may be gone
	}
}
