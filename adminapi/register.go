package adminapi

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // the protocol's choice
	"encoding/hex"
	"sync"
	"time"

	"ebb/accounts"
	"ebb/httpapi"
	"ebb/mxerr"
)

// Routes lists what scripts know from other servers, on addresses that serve admin.
func (a *API) Routes() []httpapi.Route {
	if a.Config.Registration.SharedSecret == "" {
		return nil
	}
	const register = "/_synapse/admin/v1/register"
	return []httpapi.Route{
		{Method: "GET", Path: register, OperationID: "getRegistrationNonce", Rate: httpapi.Logins, Handler: a.registrationNonce},
		{Method: "POST", Path: register, OperationID: "registerWithSharedSecret", Rate: httpapi.Logins, Handler: a.registerWithSecret},
	}
}

// registrationNonce gives a nonce for one registration.
func (a *API) registrationNonce(*httpapi.Request) (any, error) {
	return map[string]string{"nonce": a.nonces.next()}, nil
}

type registration struct {
	Nonce       string `json:"nonce"`
	Username    string `json:"username"`
	DisplayName string `json:"displayname"`
	Password    string `json:"password"`
	Admin       bool   `json:"admin"`
	UserType    string `json:"user_type"`
	MAC         string `json:"mac"`
}

// registerWithSecret makes an account for somebody who knows registration.shared_secret, and signs a device in.
func (a *API) registerWithSecret(r *httpapi.Request) (any, error) {
	var body registration
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if !a.nonces.take(body.Nonce) {
		return nil, mxerr.New(400, mxerr.CodeUnknown, "Unknown nonce")
	}
	if !body.signedWith(a.Config.Registration.SharedSecret) {
		return nil, mxerr.Forbidden("HMAC incorrect")
	}
	made, err := a.Accounts.Create(r.Context(), accounts.NewAccount{
		Username: body.Username, Password: body.Password, DisplayName: body.DisplayName, Admin: body.Admin, SignIn: &accounts.NewSession{},
	})
	if err != nil {
		return nil, err
	}
	return map[string]any{"user_id": made.User, "home_server": a.Config.ServerName, "access_token": made.Access, "device_id": made.Device}, nil
}

// signedWith checks the HMAC-SHA1 over the members, with NUL between them.
func (b registration) signedWith(secret string) bool {
	mac := hmac.New(sha1.New, []byte(secret))
	admin := "notadmin"
	if b.Admin {
		admin = "admin"
	}
	text := b.Nonce + "\x00" + b.Username + "\x00" + b.Password + "\x00" + admin
	if b.UserType != "" {
		text += "\x00" + b.UserType
	}
	mac.Write([]byte(text))
	given, err := hex.DecodeString(b.MAC)
	return err == nil && hmac.Equal(given, mac.Sum(nil))
}

// nonces are good once and for a minute.
type nonces struct {
	now func() time.Time
	// mu guards given; a leaf lock.
	mu    sync.Mutex
	given map[string]time.Time
}

const (
	nonceLifetime = time.Minute
	maxNonces     = 10000
)

func newNonces(now func() time.Time) *nonces {
	return &nonces{now: now, given: map[string]time.Time{}}
}

func (n *nonces) next() string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails (crypto/rand)
	nonce := hex.EncodeToString(raw[:])
	n.mu.Lock()
	defer n.mu.Unlock()
	for old, at := range n.given {
		if n.now().Sub(at) > nonceLifetime || len(n.given) >= maxNonces {
			delete(n.given, old)
		}
	}
	n.given[nonce] = n.now()
	return nonce
}

func (n *nonces) take(nonce string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	at, known := n.given[nonce]
	delete(n.given, nonce)
	return known && n.now().Sub(at) <= nonceLifetime
}
