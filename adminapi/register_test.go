package adminapi

import (
	"crypto/hmac"
	"crypto/sha1" // required by the protocol
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"ebb/accounts"
	"ebb/config"
	"ebb/httpapi"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// desk serves the registration routes.
type desk struct {
	t    *testing.T
	api  *API
	door *httpapi.Server
	now  time.Time
}

func newDesk(t *testing.T, secret string) *desk {
	d := &desk{t: t, now: time.UnixMilli(1_750_000_000_000)}
	clock := func() time.Time { return d.now }
	cfg := config.Default()
	cfg.ServerName, cfg.Registration.Mode, cfg.Registration.SharedSecret = "here", "closed", secret
	d.api = New(API{Config: cfg, Now: clock, Log: slog.New(slog.DiscardHandler), Accounts: accounts.New(accounts.Options{
		DB: storagetest.Open(t, storage.Config{Now: clock}), Server: "here", Registration: accounts.Closed, Now: clock})})
	d.door = httpapi.New(httpapi.Options{Routes: d.api.Routes(), Log: slog.New(slog.DiscardHandler)})
	return d
}

func (d *desk) call(method, body string) (int, map[string]any) {
	d.t.Helper()
	w := httptest.NewRecorder()
	d.door.ServeHTTP(w, httptest.NewRequestWithContext(d.t.Context(), method, "/_synapse/admin/v1/register", strings.NewReader(body)))
	var out map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		d.t.Fatalf("%d %q", w.Code, w.Body)
	}
	return w.Code, out
}

// post registers a user with a MAC computed from secret.
func (d *desk) post(secret, nonce, name string, admin bool) (int, map[string]any) {
	d.t.Helper()
	role := map[bool]string{true: "admin", false: "notadmin"}[admin]
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(nonce + "\x00" + name + "\x00pass word\x00" + role))
	body, err := json.Marshal(map[string]any{"nonce": nonce, "username": name, "password": "pass word", "admin": admin, "mac": hex.EncodeToString(mac.Sum(nil))})
	if err != nil {
		d.t.Fatal(err)
	}
	return d.call("POST", string(body))
}

func (d *desk) nonce() string {
	d.t.Helper()
	status, out := d.call("GET", "")
	nonce, _ := out["nonce"].(string)
	if status != 200 || nonce == "" {
		d.t.Fatalf("%d %v", status, out)
	}
	return nonce
}

func TestSharedSecretRegistersWhereRegistrationIsClosed(t *testing.T) {
	d := newDesk(t, "secret")
	status, out := d.post("secret", d.nonce(), "Admin-USER", true)
	if status != 200 || out["user_id"] != "@admin-user:here" || out["home_server"] != "here" || out["device_id"] == "" {
		t.Fatalf("%d %v", status, out)
	}
	who, err := d.api.Accounts.Authenticate(t.Context(), out["access_token"].(string), "", "")
	if err != nil || !who.IsAdmin {
		t.Errorf("%+v, %v", who, err)
	}
	status, out = d.post("secret", d.nonce(), "plain", false)
	if status != 200 {
		t.Fatalf("%d %v", status, out)
	}
	if who, err := d.api.Accounts.Authenticate(t.Context(), out["access_token"].(string), "", ""); err != nil || who.IsAdmin {
		t.Errorf("%+v, %v", who, err)
	}
	if status, out := d.post("secret", d.nonce(), "plain", false); status != 400 || out["errcode"] != "M_USER_IN_USE" {
		t.Errorf("taken: %d %v", status, out)
	}
	if status, out := d.post("secret", d.nonce(), "us,er", false); status != 400 || out["errcode"] != "M_INVALID_USERNAME" {
		t.Errorf("grammar: %d %v", status, out)
	}
}

func TestSharedSecretNeedsItsNonceAndMac(t *testing.T) {
	d := newDesk(t, "secret")
	nonce := d.nonce()
	if status, out := d.post("guess", nonce, "eve", true); status != 403 || out["errcode"] != "M_FORBIDDEN" {
		t.Errorf("wrong secret: %d %v", status, out)
	}
	if status, _ := d.post("secret", nonce, "eve", true); status != 400 {
		t.Errorf("the nonce of a wrong attempt: %d", status)
	}
	if status, _ := d.post("secret", "invented", "eve", true); status != 400 {
		t.Errorf("an invented nonce: %d", status)
	}
	nonce = d.nonce()
	d.now = d.now.Add(nonceLifetime)
	if status, _ := d.post("secret", nonce, "eve", true); status != 400 {
		t.Errorf("an old nonce: %d", status)
	}
	nonce = d.nonce()
	for _, body := range []string{`{}`, `{"nonce":"` + nonce + `","username":"eve","password":"x","mac":"zz"}`, `{"nonce":1}`, `x`} {
		if status, out := d.call("POST", body); status != 400 && status != 403 || out["errcode"] == "" {
			t.Errorf("%s: %d %v", body, status, out)
		}
	}
	for range maxNonces + 5 {
		nonce = d.nonce()
	}
	if len(d.api.nonces.expire) > maxNonces || len(d.api.nonces.order) > maxNonces {
		t.Errorf("%d nonces wait", len(d.api.nonces.expire))
	}
	if status, _ := d.post("secret", nonce, "alice", false); status != 200 {
		t.Errorf("the last one: %d", status)
	}
}

func TestWithoutSharedSecretNobodyRegistersByIt(t *testing.T) {
	d := newDesk(t, "")
	if status, out := d.call("GET", ""); status != 400 || out["errcode"] != "M_UNKNOWN" {
		t.Errorf("%d %v", status, out)
	}
	if status, out := d.post("", "", "eve", true); status != 400 || out["errcode"] != "M_UNKNOWN" {
		t.Errorf("%d %v", status, out)
	}
}
