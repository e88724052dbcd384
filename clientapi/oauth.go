package clientapi

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"ebb/accounts/oauth"
	"ebb/httpapi"
	"ebb/mxerr"
)

// Maximum sizes in bytes of the bodies of OAuth 2.0 requests.
const (
	maxOAuthForm     = 16 << 10
	maxOAuthMetadata = 64 << 10
)

func (a *API) oauthRoutes() []httpapi.Route {
	post := func(path, operation string, body int64, handler func(*httpapi.Request) (any, error)) httpapi.Route {
		return httpapi.Route{Method: "POST", Path: path, OperationID: operation, Rate: httpapi.Anonymous, MaxBody: body, Handler: a.oauthHandler(handler), ErrorBody: oauthErrorBody}
	}
	return []httpapi.Route{
		{Method: "GET", Path: "/_matrix/client/v1/auth_metadata", OperationID: "getAuthMetadata", File: "oauth_server_metadata.yaml",
			Aliases: []string{"/_matrix/client/unstable/org.matrix.msc2965/auth_metadata", "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"},
			Handler: a.oauthHandler(a.getAuthMetadata)},
		{Method: "GET", Path: "/_matrix/client/unstable/org.matrix.msc2965/auth_issuer", OperationID: "getAuthIssuer", Handler: a.oauthHandler(a.getAuthIssuer)},
		{Method: "GET", Path: oauth.PathKeys, OperationID: "getOAuthKeys", Rate: httpapi.Anonymous, Handler: a.oauthHandler(a.getOAuthKeys)},
		post(oauth.PathRegister, "registerOAuthClient", maxOAuthMetadata, a.registerOAuthClient),
		post(oauth.PathToken, "getOAuthToken", maxOAuthForm, a.getOAuthToken),
		post(oauth.PathRevoke, "revokeOAuthToken", maxOAuthForm, a.revokeOAuthToken),
		post(oauth.PathDevice, "authorizeOAuthDevice", maxOAuthForm, a.authorizeOAuthDevice),
	}
}

// oauthHandler responds as if there were no such endpoint if OAuth 2.0 is off, and writes errors of OAuth 2.0 in its
// own form.
func (a *API) oauthHandler(handler func(*httpapi.Request) (any, error)) func(*httpapi.Request) (any, error) {
	return func(r *httpapi.Request) (any, error) {
		if a.OAuth == nil {
			return nil, mxerr.Unrecognized()
		}
		v, err := handler(r)
		var e *oauth.Error
		if !errors.As(err, &e) {
			return v, err
		}
		answer, err := uncached(e.Status, map[string]any{"error": e.Code, "error_description": e.Description})
		if e.Status == http.StatusUnauthorized && usesBasic(r) {
			answer.Header.Set("WWW-Authenticate", "Basic")
		}
		return answer, err
	}
}

// oauthErrorBody returns the body of an error that is not of OAuth 2.0. Errors that may pass have no member "error",
// because clients end their session when a refresh fails with one: matrix-js-sdk up to version 41 whatever the status,
// later versions if errcode is there too or the status is 429.
func oauthErrorBody(e *mxerr.Error) []byte {
	members := map[string]any{}
	maps.Copy(members, e.Extra)
	members["errcode"], members["error_description"] = e.Code, e.Msg
	switch {
	case e.Code == mxerr.CodeUnrecognized:
		members["error"] = e.Msg
	case e.Status < http.StatusInternalServerError && e.Status != http.StatusTooManyRequests:
		delete(members, "errcode")
		members["error"] = "invalid_request"
	}
	body, err := json.Marshal(members)
	if err != nil {
		return []byte(`{}`)
	}
	return body
}

// lockedPause is how long the client of a locked account is asked to wait before it tries to refresh its token again.
const lockedPause = time.Minute

// lockedAnswer is the response to a refresh of a locked account. The specification wants clients to keep the session of
// a locked account, and to end it if a refresh fails with any status below 500.
// Spec: client-server-api#account-locking, client-server-api#refresh-token-grant
func lockedAnswer(e *mxerr.Error) (any, error) {
	e = mxerr.New(http.StatusServiceUnavailable, e.Code, "%s", e.Msg).With("soft_logout", true).With("retry_after_ms", lockedPause.Milliseconds())
	h := http.Header{"Cache-Control": {"no-store"}, "Retry-After": {strconv.Itoa(int(lockedPause.Seconds()))}}
	return httpapi.Raw{Status: e.Status, Body: oauthErrorBody(e), Header: h}, nil
}

// uncached returns a JSON response that is not cached.
func uncached(status int, v any) (httpapi.Raw, error) {
	body, err := json.Marshal(v)
	return httpapi.Raw{Status: status, Body: body, Header: http.Header{"Cache-Control": {"no-store"}, "Pragma": {"no-cache"}}}, err
}

// getAuthMetadata returns the metadata of the authorization server.
// Spec: client-server-api#get_matrixclientv1auth_metadata
func (a *API) getAuthMetadata(*httpapi.Request) (any, error) {
	return a.OAuth.Metadata(), nil
}

// getAuthIssuer returns the issuer, from which clients of 2024, such as Element Web 1.11.81, derive the address of the
// metadata.
// Spec: MSC2965 before it had auth_metadata
func (a *API) getAuthIssuer(*httpapi.Request) (any, error) {
	return map[string]any{"issuer": a.OAuth.Issuer()}, nil
}

// registerOAuthClient registers a client.
// Spec: client-server-api#dynamic-client-registration-flow
func (a *API) registerOAuthClient(r *httpapi.Request) (any, error) {
	body, err := r.Body()
	if err != nil {
		return nil, err
	}
	c, err := a.OAuth.Register(r.Context(), body, func() error { return r.Limit(httpapi.NewClients, r.Network()) })
	if err != nil {
		return nil, err
	}
	return uncached(http.StatusCreated, c)
}

// form reads the body as a form, in which no parameter may occur twice. A client must not authenticate in another way,
// which could name another client.
// Spec: RFC 6749, 2.3 and 3.2
func form(r *httpapi.Request) (url.Values, error) {
	if usesBasic(r) {
		return nil, oauth.NoSecrets()
	}
	f, err := r.Form()
	if err != nil {
		return nil, err
	}
	for name, values := range f {
		if len(values) > 1 {
			return nil, oauth.BadRequest("The parameter %.40s occurs more than once", name)
		}
	}
	return f, nil
}

// usesBasic reports whether a client authenticates with a secret in a header.
func usesBasic(r *httpapi.Request) bool {
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Basic")
}

// getOAuthToken is the token endpoint.
// Spec: client-server-api#grant-types
func (a *API) getOAuthToken(r *httpapi.Request) (any, error) {
	f, err := form(r)
	if err != nil {
		return nil, err
	}
	var g oauth.Grant
	switch client := f.Get("client_id"); f.Get("grant_type") {
	case oauth.GrantCode:
		g, err = a.OAuth.Exchange(r.Context(), client, f.Get("code"), f.Get("redirect_uri"), f.Get("code_verifier"), r.Network())
	case oauth.GrantRefresh:
		g, err = a.OAuth.Refresh(r.Context(), client, f.Get("refresh_token"))
	case oauth.GrantDevice:
		g, err = a.OAuth.PollDevice(r.Context(), client, f.Get("device_code"), r.Network())
	case "":
		err = oauth.BadRequest("grant_type is missing")
	default:
		err = oauth.BadGrantType()
	}
	var locked *mxerr.Error
	switch {
	case errors.As(err, &locked) && locked.Code == mxerr.CodeUserLocked:
		return lockedAnswer(locked)
	case err != nil:
		return nil, err
	}
	answer := map[string]any{
		"access_token": g.Access, "token_type": "Bearer", "expires_in": int64(g.ExpiresIn.Seconds()), "refresh_token": g.Tokens.Refresh, "scope": g.Scope,
	}
	if g.IDToken != "" {
		answer["id_token"] = g.IDToken
	}
	return uncached(http.StatusOK, answer)
}

// getOAuthKeys returns the public keys of the signatures of ID tokens.
// See https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderMetadata.
func (a *API) getOAuthKeys(r *httpapi.Request) (any, error) {
	keys, err := a.OAuth.Keys(r.Context())
	return map[string]any{"keys": keys}, err
}

// revokeOAuthToken ends the session of a token.
// Spec: client-server-api#token-revocation
func (a *API) revokeOAuthToken(r *httpapi.Request) (any, error) {
	f, err := form(r)
	if err != nil {
		return nil, err
	}
	if f.Get("token") == "" {
		return nil, oauth.BadRequest("token is missing")
	}
	if err := a.OAuth.Revoke(r.Context(), f.Get("token")); err != nil {
		return nil, err
	}
	return uncached(http.StatusOK, map[string]any{})
}

// authorizeOAuthDevice begins a device authorization.
// Spec: client-server-api#device-authorisation-flow
func (a *API) authorizeOAuthDevice(r *httpapi.Request) (any, error) {
	f, err := form(r)
	if err != nil {
		return nil, err
	}
	d, err := a.OAuth.StartDevice(r.Context(), f.Get("client_id"), f.Get("scope"), r.ClientAddr)
	if err != nil {
		return nil, err
	}
	return uncached(http.StatusOK, map[string]any{
		"device_code": d.DeviceCode, "user_code": d.UserCode, "verification_uri": d.URL, "verification_uri_complete": d.URLComplete,
		"expires_in": int64(d.Expires.Seconds()), "interval": int64(d.Interval.Seconds()),
	})
}
