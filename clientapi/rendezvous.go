package clientapi

import (
	"encoding/json"
	"net/http"
	"strings"

	"ebb/accounts/rendezvous"
	"ebb/httpapi"
	"ebb/mxerr"
)

const (
	rendezvousPath2024 = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous"
	rendezvousPath     = "/_matrix/client/unstable/io.element.msc4388/rendezvous"
	rendezvousID       = "rendezvousId"
)

// rendezvousRoutes returns the routes by which two devices exchange messages when one signs the other in by a QR code:
// those of the version of MSC4108 from 2024, which clients use, and those of MSC4388, which will replace it.
func (a *API) rendezvousRoutes() []httpapi.Route {
	route := func(method, path, operation string, body int64, handler func(*httpapi.Request) (any, error)) httpapi.Route {
		return httpapi.Route{Method: method, Path: path, OperationID: operation, Rate: httpapi.Anonymous, MaxBody: body, Handler: a.rendezvousHandler(handler)}
	}
	const largest = rendezvous.MaxData
	return []httpapi.Route{
		route("POST", rendezvousPath2024, "createRendezvous2024", largest, a.createRendezvous2024),
		route("GET", rendezvousPath2024+"/{rendezvousId}", "getRendezvous2024", 0, a.getRendezvous2024),
		route("PUT", rendezvousPath2024+"/{rendezvousId}", "putRendezvous2024", largest, a.putRendezvous2024),
		route("DELETE", rendezvousPath2024+"/{rendezvousId}", "deleteRendezvous2024", 0, a.deleteRendezvous2024),
		route("GET", rendezvousPath, "discoverRendezvous", 0, a.discoverRendezvous),
		route("POST", rendezvousPath, "createRendezvous", 8*largest, a.createRendezvous), // JSON escapes a byte by up to six
		route("GET", rendezvousPath+"/{rendezvousId}", "getRendezvous", 0, a.getRendezvous),
		route("PUT", rendezvousPath+"/{rendezvousId}", "putRendezvous", 8*largest, a.putRendezvous),
		route("DELETE", rendezvousPath+"/{rendezvousId}", "deleteRendezvous", 0, a.deleteRendezvous),
	}
}

// rendezvousHandler responds as if there were no such endpoint unless a device can be signed in by another one. It
// refuses to show messages in a browser's window, since anybody can store them here.
func (a *API) rendezvousHandler(handler func(*httpapi.Request) (any, error)) func(*httpapi.Request) (any, error) {
	return func(r *httpapi.Request) (any, error) {
		switch {
		case a.OAuth == nil || !a.OAuth.OffersDeviceGrant():
			return nil, mxerr.Unrecognized()
		case r.Header.Get("Sec-Fetch-Mode") == "navigate":
			return nil, mxerr.Forbidden("This address is for clients, not for a browser's window")
		}
		return handler(r)
	}
}

// rendezvousAnswer returns a response of the version of 2024, which has the state of the session in its headers.
func rendezvousAnswer(status int, kind string, s rendezvous.Session, body []byte) (any, error) {
	return httpapi.Raw{Status: status, ContentType: kind, Body: body, Header: http.Header{
		"Etag": {`"` + s.Token + `"`}, "Expires": {s.Expires.UTC().Format(http.TimeFormat)}, "Last-Modified": {s.Modified.UTC().Format(http.TimeFormat)},
		"Cache-Control": {"no-store"}, "Pragma": {"no-cache"}, "X-Content-Type-Options": {"nosniff"}, "Access-Control-Expose-Headers": {"ETag, Retry-After, X-Request-Id"},
	}}, nil
}

const plainText = "text/plain"

// plainBody returns the body of a request whose content type is text/plain.
//
// Errors: M_MISSING_PARAM, M_INVALID_PARAM, M_TOO_LARGE.
func plainBody(r *httpapi.Request) (string, error) {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case plainText:
	case "":
		return "", missing("Content-Type")
	default:
		return "", mxerr.InvalidParam("Content-Type must be text/plain")
	}
	body, err := r.Body()
	return string(body), err
}

// createRendezvous2024 begins a session. Its address is what the QR code contains.
// See https://github.com/matrix-org/matrix-spec-proposals/pull/4108.
func (a *API) createRendezvous2024(r *httpapi.Request) (any, error) {
	data, err := plainBody(r)
	if err != nil {
		return nil, err
	}
	s, err := a.Rendezvous.Create(r.Network(), data)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(map[string]string{"url": strings.TrimSuffix(a.Config.PublicURL, "/") + rendezvousPath2024 + "/" + s.ID})
	if err != nil {
		return nil, err
	}
	return rendezvousAnswer(http.StatusCreated, "", s, body)
}

// getRendezvous2024 returns the message of a session, unless the client has it.
func (a *API) getRendezvous2024(r *httpapi.Request) (any, error) {
	s, err := a.Rendezvous.Get(r.Var(rendezvousID))
	if err != nil {
		return nil, err
	}
	if etag(r.Header.Get("If-None-Match")) == s.Token {
		return rendezvousAnswer(http.StatusNotModified, plainText, s, nil)
	}
	return rendezvousAnswer(http.StatusOK, plainText, s, []byte(s.Data))
}

// etag returns the token in an ETag.
func etag(header string) string { return strings.Trim(strings.TrimSpace(header), `"`) }

// putRendezvous2024 replaces the message of a session.
func (a *API) putRendezvous2024(r *httpapi.Request) (any, error) {
	data, err := plainBody(r)
	if err != nil {
		return nil, err
	}
	if r.Header.Get("If-Match") == "" {
		return nil, missing("If-Match")
	}
	s, ok, err := a.Rendezvous.Put(r.Var(rendezvousID), etag(r.Header.Get("If-Match")), data)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		body, err := json.Marshal(map[string]string{"errcode": mxerr.CodeUnknown, "error": "The other device has written in the meantime", "org.matrix.msc4108.errcode": "M_CONCURRENT_WRITE"})
		if err != nil {
			return nil, err
		}
		return rendezvousAnswer(http.StatusPreconditionFailed, "", s, body)
	}
	return rendezvousAnswer(http.StatusAccepted, plainText, s, nil)
}

// deleteRendezvous2024 ends a session.
func (a *API) deleteRendezvous2024(r *httpapi.Request) (any, error) {
	if err := a.Rendezvous.Delete(r.Var(rendezvousID)); err != nil {
		return nil, err
	}
	return httpapi.Raw{Status: http.StatusNoContent}, nil
}

// discoverRendezvous reports whether the client may begin a session. Everybody may, because the device that shows the
// QR code may be the one that is to be signed in.
// See https://github.com/matrix-org/matrix-spec-proposals/pull/4388.
func (a *API) discoverRendezvous(*httpapi.Request) (any, error) {
	return map[string]bool{"create_available": true}, nil
}

// rendezvousBody is the body of the requests of MSC4388.
type rendezvousBody struct {
	Data  *string `json:"data"`
	Token *string `json:"sequence_token"`
}

func (a *API) expiresIn(s rendezvous.Session) int64 { return s.Expires.Sub(a.Now()).Milliseconds() }

// createRendezvous begins a session.
func (a *API) createRendezvous(r *httpapi.Request) (any, error) {
	var body rendezvousBody
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Data == nil {
		return nil, missing("data")
	}
	s, err := a.Rendezvous.Create(r.Network(), *body.Data)
	if err != nil {
		return nil, err
	}
	return uncached(http.StatusOK, map[string]any{"id": s.ID, "sequence_token": s.Token, "expires_in_ms": a.expiresIn(s)})
}

// getRendezvous returns the message of a session.
func (a *API) getRendezvous(r *httpapi.Request) (any, error) {
	s, err := a.Rendezvous.Get(r.Var(rendezvousID))
	if err != nil {
		return nil, err
	}
	return uncached(http.StatusOK, map[string]any{"data": s.Data, "sequence_token": s.Token, "expires_in_ms": a.expiresIn(s)})
}

// putRendezvous replaces the message of a session. A repeated request succeeds again.
func (a *API) putRendezvous(r *httpapi.Request) (any, error) {
	var body rendezvousBody
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	switch {
	case body.Data == nil:
		return nil, missing("data")
	case body.Token == nil:
		return nil, missing("sequence_token")
	}
	s, ok, err := a.Rendezvous.Put(r.Var(rendezvousID), *body.Token, *body.Data)
	if err == nil && !ok && s.Data != *body.Data {
		err = mxerr.New(http.StatusConflict, "IO_ELEMENT_MSC4388_CONCURRENT_WRITE", "The other device has written in the meantime")
	}
	return map[string]any{"sequence_token": s.Token}, err
}

// deleteRendezvous ends a session.
func (a *API) deleteRendezvous(r *httpapi.Request) (any, error) {
	return nil, a.Rendezvous.Delete(r.Var(rendezvousID))
}
