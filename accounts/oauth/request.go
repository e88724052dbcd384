package oauth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// The scope tokens, in the form of the specification and in that of MSC2967, which clients in the field use.
// Spec: client-server-api#scope
const (
	scopeOpenID         = "openid" // asks for an ID token
	scopeAPI            = "urn:matrix:client:api:*"
	scopeDevice         = "urn:matrix:client:device:"
	unstableScopeAPI    = "urn:matrix:org.matrix.msc2967.client:api:*"
	unstableScopeDevice = "urn:matrix:org.matrix.msc2967.client:device:"
)

const (
	maxScope    = 4096 // bytes
	maxDeviceID = 255  // bytes
	maxState    = 2048 // bytes
	maxNonce    = 255  // bytes
)

// deviceIDForm matches what may be in a scope token (RFC 6749, section 3.3).
var deviceIDForm = regexp.MustCompile(`^[\x21\x23-\x5B\x5D-\x7E]+$`)

// Scope is the parsed scope of an authorization request.
type Scope struct {
	DeviceID string
	Granted  string // the tokens that this server knows, as the client wrote them
}

// parseScope reads a scope. Unknown tokens are ignored.
//
// Errors: invalid_scope.
func parseScope(text string) (s Scope, err error) {
	if len(text) > maxScope {
		return s, invalid(errScope, "The scope is too long")
	}
	var granted []string
	var api bool
	seen := map[string]bool{}
	for _, token := range strings.Fields(text) {
		if seen[token] {
			continue
		}
		seen[token] = true
		switch token {
		case scopeAPI, unstableScopeAPI:
			api, granted = true, append(granted, token)
			continue
		case scopeOpenID:
			granted = append(granted, token)
			continue
		}
		device, found := strings.CutPrefix(token, scopeDevice)
		if !found {
			device, found = strings.CutPrefix(token, unstableScopeDevice)
		}
		switch {
		case !found:
			continue
		case s.DeviceID != "" && s.DeviceID != device: // the same device in both forms is one device
			return s, invalid(errScope, "The scope must have exactly one device")
		case len(device) > maxDeviceID || !deviceIDForm.MatchString(device):
			return s, invalid(errScope, "The device ID in the scope is not valid")
		}
		s.DeviceID, granted = device, append(granted, token)
	}
	switch {
	case s.DeviceID == "":
		return s, invalid(errScope, "The scope must have exactly one device: %sDEVICE_ID", scopeDevice)
	case !api:
		return s, invalid(errScope, "The scope must have %s", scopeAPI)
	}
	s.Granted = strings.Join(granted, " ")
	return s, nil
}

// The response modes.
const (
	modeQuery    = "query"
	modeFragment = "fragment"
)

// promptCreate asks for the page on which users create an account.
// Spec: client-server-api#user-registration
const promptCreate = "create"

// Request is an authorization request that has been checked.
type Request struct {
	ClientID    string
	Client      Metadata
	RedirectURI string
	Scope       Scope
	State       string
	Challenge   string // PKCE, S256
	Nonce       string // for the ID token
	Prompt      string
	LoginHint   string
	mode        string
	issuer      string
}

var (
	challengeForm = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)
	verifierForm  = regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`)
)

// checkRequest checks the parameters of an authorization request, whose client and redirect URI are known to be right.
//
// Errors: invalid_request, unsupported_response_type, invalid_scope, interaction_required. They may be sent to the
// redirect URI.
func (r *Request) checkRequest(q url.Values) (err error) {
	for name, values := range q {
		if len(values) > 1 {
			return invalid(errRequest, "The parameter %.40s occurs more than once", name)
		}
	}
	switch {
	case q.Get("response_mode") != "" && q.Get("response_mode") != modeQuery && q.Get("response_mode") != modeFragment:
		return invalid(errRequest, "response_mode must be query or fragment")
	case q.Get("response_type") != "code":
		return invalid("unsupported_response_type", "response_type must be code")
	case q.Has("request") || q.Has("request_uri"):
		return invalid("request_not_supported", "request and request_uri are not supported")
	case r.State == "":
		return invalid(errRequest, "state is missing")
	case q.Get("code_challenge_method") != "S256":
		return invalid(errRequest, "code_challenge_method must be S256")
	case !challengeForm.MatchString(q.Get("code_challenge")):
		return invalid(errRequest, "code_challenge must be 43 characters of base64url")
	case len(q.Get("nonce")) > maxNonce:
		return invalid(errRequest, "nonce is too long")
	case q.Get("prompt") == "none":
		return invalid("interaction_required", "Signing in needs the user's consent")
	}
	r.Challenge, r.Nonce = q.Get("code_challenge"), q.Get("nonce")
	r.Prompt, r.LoginHint = q.Get("prompt"), q.Get("login_hint")
	r.Scope, err = parseScope(q.Get("scope"))
	return err
}

// verifies reports whether a code verifier belongs to a challenge.
func verifies(verifier, challenge string) bool {
	sum := sha256.Sum256([]byte(verifier))
	return verifierForm.MatchString(verifier) && subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(challenge)) == 1
}

// Answer returns the address at the client to which the browser is redirected with the outcome. It names the issuer, so
// that a client that uses several servers notices an answer from another one (RFC 9207).
func (r Request) Answer(params url.Values) string {
	if r.State != "" {
		params.Set("state", r.State)
	}
	params.Set("iss", r.issuer)
	switch {
	case r.mode == modeFragment:
		return r.RedirectURI + "#" + params.Encode()
	case strings.HasSuffix(r.RedirectURI, "?") || strings.HasSuffix(r.RedirectURI, "&"):
		return r.RedirectURI + params.Encode()
	case strings.Contains(r.RedirectURI, "?"):
		return r.RedirectURI + "&" + params.Encode()
	}
	return r.RedirectURI + "?" + params.Encode()
}

// Refuse returns the address to which the browser is sent with an error.
func (r Request) Refuse(e *Error) string {
	return r.Answer(url.Values{"error": {e.Code}, "error_description": {e.Description}})
}

// Denied is the error for a user who does not consent.
func Denied() *Error { return invalid("access_denied", "The user did not allow access") }

// SignUp reports whether the user wants to create an account.
func (r Request) SignUp() bool { return slices.Contains(strings.Fields(r.Prompt), promptCreate) }
