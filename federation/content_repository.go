package federation

import (
	"fmt"
	"io"
	"mime/multipart"
	"net/http"

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

// getContent returns a local file.
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

// getContentThumbnail returns a thumbnail of a local file.
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

// twoParts streams a file after a part with empty metadata, and closes the file. The parts are written by hand because
// mime/multipart sorts the headers of a part, and Synapse finds the file name only if Content-Type comes first.
func twoParts(f *media.File) httpapi.Stream {
	return func(w http.ResponseWriter, _ *http.Request) {
		defer func() { _ = f.Close() }() // opened for reading only
		boundary := multipart.NewWriter(w).Boundary()
		w.Header().Set("Content-Type", "multipart/mixed; boundary="+boundary)
		// An error after this point is visible to the other server as a missing end of the body.
		_, err := fmt.Fprintf(w, "--%[1]s\r\nContent-Type: application/json\r\n\r\n{}\r\n--%[1]s\r\nContent-Type: %[2]s\r\nContent-Disposition: %[3]s\r\n\r\n",
			boundary, f.ContentType, media.Disposition(f.ContentType, f.Filename))
		if err != nil {
			return
		}
		if _, err := io.Copy(w, f.Content); err != nil {
			return
		}
		_, _ = fmt.Fprintf(w, "\r\n--%s--\r\n", boundary) // the peer may have disconnected
	}
}
