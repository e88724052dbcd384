// Package identity sends requests to identity servers, which map e-mail addresses to users. It contacts only servers
// that the configuration lists, on behalf of a user who has signed in there and supplies the access token.
//
// A method of Client calls call, which checks the server, sends the request through netguard's client and bounds the
// response. An error of the identity server is passed on to the client, except for codes that would make the client
// consider itself signed out.
package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/mxerr"
	"ebb/storage"
)

// Options are the dependencies and settings of a Client.
type Options struct {
	HTTP    *http.Client // made by netguard, with a timeout
	Servers []string     // the servers that may be contacted, as HOST or HOST:PORT
	Signer  *fedclient.Client
}

// Client sends requests to identity servers. It is safe for concurrent use.
type Client struct{ opts Options }

// New returns a Client.
func New(o Options) *Client { return &Client{opts: o} }

const (
	base      = "/_matrix/identity/v2"
	maxAnswer = 64 << 10 // bytes in a response
	// maxThreepid bounds the address in a response, in bytes.
	maxThreepid = 512
)

// Threepid is a third-party identifier, such as an e-mail address.
type Threepid struct {
	Medium  string `json:"medium"`
	Address string `json:"address"`
}

// Trusts returns an error unless the configuration lists the given identity server.
//
// Errors: M_MISSING_PARAM, M_SERVER_NOT_TRUSTED.
func (c *Client) Trusts(server string) error {
	switch {
	case server == "":
		return mxerr.MissingParam("id_server is missing")
	case !slices.Contains(c.opts.Servers, server):
		return mxerr.New(http.StatusForbidden, mxerr.CodeServerNotTrusted, "This server does not use the identity server %.255q", server)
	}
	return nil
}

// Bind binds an address to a user at an identity server, where the user has verified it.
// Spec: identity-service-api#post_matrixidentityv23pidbind
func (c *Client) Bind(ctx context.Context, server, token string, user id.UserID, sid, clientSecret string) (bound Threepid, err error) {
	body := map[string]any{"sid": sid, "client_secret": clientSecret, "mxid": user}
	err = c.call(ctx, request{server: server, method: http.MethodPost, path: "/3pid/bind", token: token, body: body}, &bound)
	if err == nil && (bound.Medium == "" || bound.Address == "" || len(bound.Medium)+len(bound.Address) > maxThreepid) {
		err = unusable(errors.New("the binding has no address"))
	}
	return bound, err
}

// Unbind removes the binding of an address to a user at an identity server. done is false if the server does not
// support that.
// Spec: identity-service-api#post_matrixidentityv23pidunbind
func (c *Client) Unbind(ctx context.Context, server string, user id.UserID, t Threepid) (done bool, err error) {
	err = c.call(ctx, request{server: server, method: http.MethodPost, path: "/3pid/unbind", body: map[string]any{"mxid": user, "threepid": t}}, nil)
	var answer *mxerr.Error
	if errors.As(err, &answer) && (answer.Status == http.StatusNotFound || answer.Status == http.StatusNotImplemented || answer.Code == mxerr.CodeUnrecognized) {
		return false, nil
	}
	return err == nil, err
}

// UnbindAll removes the bindings of a user whose account is closed, and reports whether all identity servers did so. It
// continues if one refuses.
func (c *Client) UnbindAll(ctx context.Context, user id.UserID, bindings []storage.IdentityBinding) bool {
	all := true
	for _, b := range bindings {
		done, err := c.Unbind(ctx, b.IDServer, user, Threepid{Medium: b.Medium, Address: b.Address})
		all = all && done && err == nil
	}
	return all
}

// Lookup returns the user to whom an address is bound, or "" if there is none. It sends only a hash of the address to
// the identity server.
// Spec: identity-service-api#post_matrixidentityv2lookup
func (c *Client) Lookup(ctx context.Context, server, token string, t Threepid) (id.UserID, error) {
	const algorithm = "sha256"
	var details struct {
		Pepper     string   `json:"lookup_pepper"`
		Algorithms []string `json:"algorithms"`
	}
	if err := c.call(ctx, request{server: server, method: http.MethodGet, path: "/hash_details", token: token}, &details); err != nil {
		return "", err
	}
	if !slices.Contains(details.Algorithms, algorithm) {
		return "", unusable(errors.New("it does not support sha256"))
	}
	sum := sha256.Sum256([]byte(t.Address + " " + t.Medium + " " + details.Pepper))
	hash := base64.RawURLEncoding.EncodeToString(sum[:])
	var found struct {
		Mappings map[string]id.UserID `json:"mappings"`
	}
	body := map[string]any{"addresses": []string{hash}, "algorithm": algorithm, "pepper": details.Pepper}
	err := c.call(ctx, request{server: server, method: http.MethodPost, path: "/lookup", token: token, body: body}, &found)
	return found.Mappings[hash], err
}

// PublicKey is a public key for verifying the identity server's signature of an invite.
type PublicKey struct {
	PublicKey      string `json:"public_key"`
	KeyValidityURL string `json:"key_validity_url"`
}

// Stored is an invite that an identity server has stored until the address is bound.
type Stored struct {
	Token       string      `json:"token"`
	DisplayName string      `json:"display_name"`
	PublicKeys  []PublicKey `json:"public_keys"`
}

// StoreInvite makes an identity server store an invite and notify the owner of the address.
// Spec: identity-service-api#post_matrixidentityv2store-invite
func (c *Client) StoreInvite(ctx context.Context, server, token string, t Threepid, about map[string]string) (s Stored, err error) {
	body := map[string]string{"medium": t.Medium, "address": t.Address}
	for key, value := range about {
		body[key] = value
	}
	if err = c.call(ctx, request{server: server, method: http.MethodPost, path: "/store-invite", token: token, body: body}, &s); err != nil {
		return s, err
	}
	if s.Token == "" || len(s.Token) > 255 || len(s.PublicKeys) == 0 {
		return s, unusable(errors.New("the stored invite has no token or no keys"))
	}
	return s, nil
}

// request is a request to an identity server. A request without a token is signed by this server.
type request struct {
	server, method, path, token string
	body                        any
}

func unusable(err error) error {
	return mxerr.New(http.StatusBadGateway, mxerr.CodeUnknown, "The identity server sent an invalid response; try again later").Because(err)
}

// call sends a request and decodes its response.
func (c *Client) call(ctx context.Context, q request, answer any) error {
	if err := c.Trusts(q.server); err != nil {
		return err
	}
	var body []byte
	var err error
	if q.body != nil {
		if body, err = json.Marshal(q.body); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(ctx, q.method, "https://"+q.server+base+q.path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	if q.token != "" {
		r.Header.Set("Authorization", "Bearer "+q.token)
	} else {
		header, err := c.opts.Signer.SignRequest(q.method, base+q.path, q.server, body)
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", header)
	}
	resp, err := c.opts.HTTP.Do(r)
	if err != nil {
		return unusable(err)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	_ = resp.Body.Close() // the body was only read
	switch {
	case err != nil:
		return unusable(err)
	case resp.StatusCode != http.StatusOK:
		return passedOn(resp.StatusCode, raw)
	case answer == nil:
		return nil
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return unusable(err)
	}
	return nil
}

var errorCode = regexp.MustCompile(`^M_[A-Z_]{1,60}$`)

// maxMessage bounds the error text that is passed on, in bytes.
const maxMessage = 300

// passedOn returns an error of an identity server in the form for the client. It replaces the status 401 and the codes
// for missing and unknown tokens, because the client would take them to mean that it is signed out of this server.
func passedOn(status int, raw []byte) error {
	var e struct {
		Code  string `json:"errcode"`
		Error string `json:"error"`
	}
	if json.Unmarshal(raw, &e) != nil || !errorCode.MatchString(e.Code) {
		e.Code, e.Error = mxerr.CodeUnknown, "no details"
	}
	text := strings.ToValidUTF8(e.Error[:min(len(e.Error), maxMessage)], "")
	if e.Code == mxerr.CodeUnknownToken || e.Code == mxerr.CodeMissingToken {
		e.Code = mxerr.CodeForbidden
	}
	switch {
	case status == http.StatusUnauthorized:
		status = http.StatusForbidden
	case status < 400 || status > 499:
		status, e.Code = http.StatusBadGateway, mxerr.CodeUnknown
	}
	return mxerr.Relayed(status, e.Code, "The identity server returned an error: %s", text)
}
