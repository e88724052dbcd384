package adminapi

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" // required by the protocol; HMAC-SHA1 is not broken
	"encoding/hex"
	"slices"
	"strings"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/accounts/gate"
	"ebb/httpapi"
	"ebb/mxerr"
)

// Routes returns the routes of the admin API, which are served on the addresses whose configuration includes it.
func (a *API) Routes() []httpapi.Route {
	const path = "/_synapse/admin/v1/register"
	return append(slices.Concat(a.holdRoutes(), a.userRoutes(), a.noticeRoutes()), []httpapi.Route{
		{Method: "GET", Path: path, OperationID: "getRegistrationNonce", Rate: httpapi.Anonymous, Handler: a.sharedSecretNonce},
		{Method: "POST", Path: path, OperationID: "registerWithSharedSecret", Rate: httpapi.Anonymous, Handler: a.sharedSecretRegister},
		{Method: "GET", Path: "/_synapse/admin/v1/users/{userId}/admin", OperationID: "getUserIsAdmin", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getUserIsAdmin},
	}...)
}

// getUserIsAdmin reports to administrators whether a local user is an administrator. Clients ask this about their own
// user when they start, to find out whether to show settings for administrators, and treat an error as a no. An answer
// about oneself therefore does not ask for approval on the account page.
func (a *API) getUserIsAdmin(r *httpapi.Request) (any, error) {
	user := id.UserID(r.Var("userId"))
	if user == r.UserID && r.IsAdmin {
		return map[string]bool{"admin": true}, nil
	}
	if err := a.Accounts.Administer(r.Context(), r.Requester); err != nil {
		return nil, err
	}
	admin, err := a.Accounts.IsAdmin(r.Context(), user)
	return map[string]bool{"admin": admin}, err
}

// nonceLifetime is how long a nonce is valid. maxNonces bounds the unused nonces; beyond it, the oldest is dropped.
const (
	nonceLifetime = time.Minute
	maxNonces     = 1000
)

// nonces holds the nonces that have been issued but not used.
type nonces struct {
	now func() time.Time
	// mu guards the fields below; a leaf lock.
	mu     sync.Mutex
	expire map[string]time.Time
	order  []string
}

func newNonces(now func() time.Time) *nonces {
	return &nonces{now: now, expire: map[string]time.Time{}}
}

func (n *nonces) make() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	nonce := hex.EncodeToString(b[:])
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.order) > 0 && (len(n.order) >= maxNonces || !n.expire[n.order[0]].After(n.now())) {
		delete(n.expire, n.order[0])
		n.order = n.order[1:]
	}
	n.expire[nonce] = n.now().Add(nonceLifetime)
	n.order = append(n.order, nonce)
	return nonce
}

// use removes a nonce and reports whether it was valid: issued, unused and not expired.
func (n *nonces) use(nonce string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	until, known := n.expire[nonce]
	delete(n.expire, nonce)
	return known && until.After(n.now())
}

// SetSharedSecret changes registration.shared_secret while the server runs.
func (a *API) SetSharedSecret(secret string) { a.secret.Store(&secret) }

// errNoSecret returns the error for a server that has no shared secret.
func errNoSecret() error {
	return mxerr.New(400, mxerr.CodeUnknown, "registration.shared_secret is not set on this server")
}

// sharedSecretNonce returns the nonce for a registration with the shared secret.
// Deviation: not part of the specification; scripts written for Synapse use it.
func (a *API) sharedSecretNonce(*httpapi.Request) (any, error) {
	if *a.secret.Load() == "" {
		return nil, errNoSecret()
	}
	return map[string]string{"nonce": a.nonces.make()}, nil
}

// sharedSecretRegister creates an account for a client that knows the shared secret, regardless of the registration
// mode. Only requests with a wrong MAC count towards the rate limit of the client's network, so a script may create any
// number of accounts.
func (a *API) sharedSecretRegister(r *httpapi.Request) (any, error) {
	secret := *a.secret.Load()
	if secret == "" {
		return nil, errNoSecret()
	}
	var body registration
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Nonce == "" || body.Username == "" || body.Password == "" || body.MAC == "" {
		return nil, mxerr.MissingParam("nonce, username, password and mac are required")
	}
	if !a.nonces.use(body.Nonce) {
		return nil, mxerr.New(400, mxerr.CodeUnknown, "The nonce is unknown, used or expired; get a new one")
	}
	takeBack, err := a.Accounts.GuessSharedSecret(r.Network())
	if err != nil {
		return nil, err
	}
	mac, err := hex.DecodeString(body.MAC)
	if err != nil || !hmac.Equal(mac, body.sum(secret)) {
		a.Log.InfoContext(r.Context(), "registration by shared secret refused", "reason", "wrong mac", "user", body.Username)
		return nil, mxerr.Forbidden("mac does not match")
	}
	takeBack()
	n := accounts.NewAccount{Username: body.Username, Password: body.Password, DisplayName: body.DisplayName, Admin: body.Admin, Path: gate.PathSharedSecret}
	if !body.InhibitLogin {
		n.SignIn = &accounts.NewSession{}
	}
	out, err := a.Accounts.Create(r.Context(), n)
	if err != nil {
		return nil, err
	}
	return registered{UserID: out.User, HomeServer: a.Config.ServerName, DeviceID: out.Device, AccessToken: out.Access}, nil
}

// registration is the body of a request to register with the shared secret.
type registration struct {
	Nonce        string  `json:"nonce"`
	Username     string  `json:"username"`
	Password     string  `json:"password"`
	DisplayName  string  `json:"displayname"`
	Admin        bool    `json:"admin"`
	UserType     *string `json:"user_type"`
	InhibitLogin bool    `json:"inhibit_login"`
	MAC          string  `json:"mac"`
}

type registered struct {
	UserID      id.UserID   `json:"user_id"`
	HomeServer  string      `json:"home_server"`
	DeviceID    id.DeviceID `json:"device_id,omitempty"`
	AccessToken string      `json:"access_token,omitempty"`
}

// sum returns the expected MAC, computed over the fields separated by NUL bytes.
func (r registration) sum(secret string) []byte {
	role := "notadmin"
	if r.Admin {
		role = "admin"
	}
	fields := []string{r.Nonce, r.Username, r.Password, role}
	if r.UserType != nil {
		fields = append(fields, *r.UserType)
	}
	h := hmac.New(sha1.New, []byte(secret))
	_, _ = h.Write([]byte(strings.Join(fields, "\x00"))) // never fails (hash.Hash)
	return h.Sum(nil)
}
