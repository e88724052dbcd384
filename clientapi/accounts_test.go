package clientapi

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accountdata"
	"ebb/accounts"
	"ebb/config"
	"ebb/delayed"
	"ebb/e2ee"
	"ebb/history"
	"ebb/httpapi"
	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/sharing"
	"ebb/storage"
	"ebb/storage/storagetest"
	"ebb/wake"
)

// home is the API with accounts and rooms on a real database, wired as in a server.
type home struct {
	t    *testing.T
	api  *API
	door *httpapi.Server
	ms   atomic.Int64
}

func (h *home) now() time.Time { return time.UnixMilli(h.ms.Load()) }

// newHome returns a new home; change may modify its configuration.
func newHome(t *testing.T, change func(*config.Config)) *home {
	h := &home{t: t}
	h.ms.Store(1_750_000_000_000)
	cfg := config.Default()
	cfg.ServerName, cfg.Registration.Mode = "here", "open"
	if change != nil {
		change(cfg)
	}
	db, hub := storagetest.Open(t, storage.Config{Now: h.now}), wake.New()
	commits := rooms.NewCommits()
	svc, err := rooms.New(t.Context(), rooms.Options{
		DB: db, Server: "here", Hub: hub, Commits: commits, Now: h.now,
		Signer: pdu.Signer{Server: "here", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))},
	})
	if err != nil {
		t.Fatal(err)
	}
	keys := e2ee.New(e2ee.Options{DB: db, Server: "here", Hub: hub, Now: h.now, Rooms: sharing.New(svc, hub)})
	var terms []accounts.Term
	for _, term := range cfg.Registration.Terms {
		terms = append(terms, accounts.Term{ID: term.ID, Version: term.Version, Name: term.Name, URL: term.URL})
	}
	data := accountdata.New(accountdata.Options{DB: db, Rooms: svc, Commits: commits})
	h.api = New(API{Config: cfg, Now: h.now, Log: slog.New(slog.DiscardHandler), Rooms: svc, AccountData: data, History: history.New(history.Options{DB: db, Rooms: svc, AccountData: data, Commits: commits, Now: h.now}), E2EE: keys, Delayed: delayed.New(delayed.Options{DB: db, Rooms: svc, MaxDelay: time.Hour, MaxPerUser: 10, Now: h.now}), Accounts: accounts.New(accounts.Options{
		DB: db, Server: "here", Registration: accounts.Mode(cfg.Registration.Mode), Terms: terms, Now: h.now, Hooks: accounts.Hooks{
			DeviceGone: keys.DeviceGone, DevicesChanged: keys.DevicesChanged, Erase: svc.Erase,
			ProfileChanged: func(ctx context.Context, nid ident.UserNID, user id.UserID, displayName, avatarURL string) error {
				return svc.ProfileChanged(ctx, ident.Requester{UserNID: nid, UserID: user}, rooms.Profile{DisplayName: displayName, AvatarURL: avatarURL})
			},
			LeaveRooms: func(ctx context.Context, nid ident.UserNID, user id.UserID) error {
				return svc.LeaveAll(ctx, ident.Requester{UserNID: nid, UserID: user})
			},
		},
	})})
	h.door = httpapi.New(httpapi.Options{Routes: h.api.Routes(), Log: slog.New(slog.DiscardHandler), Authenticate: func(ctx context.Context, token string, r *httpapi.Request) (ident.Requester, error) {
		return h.api.Accounts.Authenticate(ctx, token, r.ClientAddr, r.UserAgent())
	}})
	return h
}

// obj is a JSON object.
type obj = map[string]any

// call sends a request to a path below /_matrix/client.
func (h *home) call(token, method, path string, body any) (int, obj) {
	h.t.Helper()
	text, ok := body.(string)
	if !ok {
		raw, err := json.Marshal(body)
		if err != nil {
			h.t.Fatal(err)
		}
		text = string(raw)
	}
	if !strings.HasPrefix(path, "/.well-known") {
		path = "/_matrix/client" + path
	}
	r := httptest.NewRequestWithContext(h.t.Context(), method, path, strings.NewReader(text))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.door.ServeHTTP(w, r)
	var out obj
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		h.t.Fatalf("%s %s: %d, no JSON: %q", method, path, w.Code, w.Body)
	}
	if w.Code >= 500 {
		h.t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	return w.Code, out
}

// must sends a request that must succeed with 200.
func (h *home) must(token, method, path string, body any) obj {
	h.t.Helper()
	status, out := h.call(token, method, path, body)
	if status != http.StatusOK {
		h.t.Fatalf("%s %s: %d %v", method, path, status, out)
	}
	return out
}

// refused sends a request that must fail with a status and an error code.
func (h *home) refused(token, method, path string, body any, status int, code string) obj {
	h.t.Helper()
	got, out := h.call(token, method, path, body)
	if gotCode, _ := out["errcode"].(string); got != status || gotCode != code {
		h.t.Errorf("%s %s %v: %d %v, want %d %s", method, path, body, got, out, status, code)
	}
	return out
}

const aPassword = "correct horse"

// register creates an account and returns its access token.
func (h *home) register(name string) string {
	h.t.Helper()
	out := h.must("", "POST", "/v3/register", obj{"username": name, "password": aPassword, "auth": obj{"type": "m.login.dummy"}})
	return str(out, "access_token")
}

func str(o obj, key string) string {
	s, _ := o[key].(string)
	return s
}

func byPassword(user, password string) obj {
	return obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": user}, "password": password}
}

func (h *home) login(name string) (token, device string) {
	h.t.Helper()
	out := h.must("", "POST", "/v3/login", byPassword(name, aPassword))
	return str(out, "access_token"), str(out, "device_id")
}

func TestRegisterAndWhoami(t *testing.T) {
	h := newHome(t, nil)
	out := h.refused("", "POST", "/v3/register", "{}", 401, "")
	if str(out, "session") == "" || fmt.Sprint(out["flows"]) != "[map[stages:[m.login.dummy]]]" {
		t.Errorf("%v", out)
	}
	body := obj{"username": "User-UPPER", "password": "übers3kr1t", "device_id": "DEV", "initial_device_display_name": "Phone",
		"refresh_token": true, "auth": obj{"type": "m.login.dummy", "session": out["session"]}}
	made := h.must("", "POST", "/v3/register", body)
	if made["user_id"] != "@user-upper:here" || made["device_id"] != "DEV" || str(made, "refresh_token") == "" || made["expires_in_ms"] != 3600000.0 {
		t.Errorf("%v", made)
	}
	me := h.must(str(made, "access_token"), "GET", "/v3/account/whoami", "")
	if me["user_id"] != "@user-upper:here" || me["device_id"] != "DEV" || me["is_guest"] != false {
		t.Errorf("%v", me)
	}
	if d := h.must(str(made, "access_token"), "GET", "/v3/devices/DEV", ""); d["display_name"] != "Phone" {
		t.Errorf("%v", d)
	}
	silent := h.must("", "POST", "/v3/register", obj{"password": aPassword, "inhibit_login": true, "auth": obj{"type": "m.login.dummy"}})
	if len(silent) != 1 || !strings.HasSuffix(str(silent, "user_id"), ":here") {
		t.Errorf("inhibit_login: %v", silent)
	}
	h.refused("", "POST", "/v3/register", obj{"username": "user-upper", "password": "x"}, 400, "M_USER_IN_USE")
	h.refused("", "POST", "/v3/register", obj{"username": "a:b"}, 400, "M_INVALID_USERNAME")
	h.refused("", "POST", "/v3/register", obj{"username": ""}, 400, "M_INVALID_USERNAME")
	h.refused("", "POST", "/v3/register", obj{"username": "x", "auth": obj{"type": "m.login.dummy"}}, 400, "M_WEAK_PASSWORD")
	h.refused("", "POST", "/v3/register?kind=guest", "{}", 403, "M_GUEST_ACCESS_FORBIDDEN")
	h.refused("", "POST", "/v3/register?kind=cat", "{}", 400, "M_INVALID_PARAM")
	h.refused("", "POST", "/v3/register", "{ \"test\":\"a\x81\" }", 400, "M_NOT_JSON")
	h.refused("", "POST", "/v3/register", `{"username":1}`, 400, "M_BAD_JSON")
	h.refused("", "POST", "/v3/register", `{"username":"x","auth":[]}`, 400, "M_BAD_JSON")
	h.refused("", "GET", "/v3/register", "", 405, "M_UNRECOGNIZED")
	h.refused("", "GET", "/v3/account/whoami", "", 401, "M_MISSING_TOKEN")
}

func TestUsernameAvailability(t *testing.T) {
	h := newHome(t, nil)
	h.register("alice")
	if out := h.must("", "GET", "/v3/register/available?username=bob", ""); out["available"] != true {
		t.Errorf("%v", out)
	}
	h.refused("", "GET", "/v3/register/available?username=alice", "", 400, "M_USER_IN_USE")
	h.refused("", "GET", "/v3/register/available?username=a,b", "", 400, "M_INVALID_USERNAME")
	h.refused("", "GET", "/v3/register/available", "", 400, "M_INVALID_USERNAME")
}

func TestRegistrationTokenAndTerms(t *testing.T) {
	h := newHome(t, func(c *config.Config) {
		c.Registration.Mode = "token"
		c.Registration.Terms = []config.Term{{ID: "privacy", Version: "1.2", Name: "Privacy", URL: "https://example.org/p"}}
	})
	one := int64(1)
	if _, err := h.api.Accounts.CreateToken(t.Context(), accounts.RegistrationToken{Token: "once", Uses: &one}); err != nil {
		t.Fatal(err)
	}
	const validity = "/v1/register/m.login.registration_token/validity"
	for token, want := range map[string]bool{"once": true, "other": false, "": false} {
		if out := h.must("", "GET", validity+"?token="+token, ""); out["valid"] != want {
			t.Errorf("%q: %v", token, out)
		}
	}
	h.refused("", "GET", validity, "", 400, "M_MISSING_PARAM")
	body := obj{"username": "alice", "password": aPassword}
	try := func(auth obj) (int, obj) { body["auth"] = auth; return h.call("", "POST", "/v3/register", body) }
	_, out := try(nil)
	policy, _ := json.Marshal(out["params"])
	if string(policy) != `{"m.login.terms":{"policies":{"privacy":{"en":{"name":"Privacy","url":"https://example.org/p"},"version":"1.2"}}}}` {
		t.Errorf("%s", policy)
	}
	session := out["session"]
	if status, out := try(obj{"type": "m.login.registration_token", "token": "wrong", "session": session}); status != 401 || out["errcode"] != "M_FORBIDDEN" || out["flows"] == nil || out["session"] != session {
		t.Errorf("wrong token: %d %v", status, out)
	}
	if status, out := try(obj{"type": "m.login.dummy", "session": session}); status != 401 || out["errcode"] != "M_UNRECOGNIZED" {
		t.Errorf("dummy: %d %v", status, out)
	}
	if status, out := try(obj{"type": "m.login.registration_token", "token": "once", "session": session}); status != 401 || out["errcode"] != nil || fmt.Sprint(out["completed"]) != "[m.login.registration_token]" {
		t.Errorf("token: %d %v", status, out)
	}
	if status, out := try(obj{"type": "m.login.terms", "session": session}); status != 200 || out["user_id"] != "@alice:here" {
		t.Errorf("terms: %d %v", status, out)
	}
	if out := h.must("", "GET", validity+"?token=once", ""); out["valid"] != false {
		t.Errorf("used up: %v", out)
	}
}

func TestClosedRegistration(t *testing.T) {
	h := newHome(t, func(c *config.Config) { c.Registration.Mode = "closed" })
	h.refused("", "POST", "/v3/register", "{}", 403, "M_FORBIDDEN")
	h.refused("", "GET", "/v1/register/m.login.registration_token/validity?token=x", "", 403, "M_FORBIDDEN")
}

func TestRegistrationTokensCanBeCheckedWhereNobodyNeedsOne(t *testing.T) {
	h := newHome(t, func(c *config.Config) { c.Registration.Mode = "open" })
	if _, err := h.api.Accounts.CreateToken(t.Context(), accounts.RegistrationToken{Token: "made-earlier"}); err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]bool{"made-earlier": true, "other": false} {
		if out := h.must("", "GET", "/v1/register/m.login.registration_token/validity?token="+token, ""); out["valid"] != want {
			t.Errorf("%q: %v", token, out)
		}
	}
}

func TestLoginWithEveryIdentifier(t *testing.T) {
	h := newHome(t, nil)
	h.register("alice")
	flows := h.must("", "GET", "/v3/login", "")
	if text := fmt.Sprint(flows["flows"]); !strings.Contains(text, "m.login.password") || !strings.Contains(text, "m.login.token") {
		t.Errorf("%v", flows)
	}
	login := func(body obj) obj {
		body["type"], body["password"] = "m.login.password", aPassword
		return body
	}
	for _, body := range []obj{
		login(obj{"identifier": obj{"type": "m.id.user", "user": "alice"}}),
		login(obj{"identifier": obj{"type": "m.id.user", "user": "@alice:here"}}),
		login(obj{"identifier": obj{"type": "m.id.user", "user": "@ALICE:here"}}),
		login(obj{"user": "alice"}),
		login(obj{"user": "@alice:here", "device_id": "MINE"}),
	} {
		out := h.must("", "POST", "/v3/login", body)
		if me := h.must(str(out, "access_token"), "GET", "/v3/account/whoami", ""); me["user_id"] != "@alice:here" || me["device_id"] != out["device_id"] {
			t.Errorf("%v: %v", body, me)
		}
		if want, given := body["device_id"]; given && out["device_id"] != want {
			t.Errorf("%v", out)
		}
	}
	for _, c := range []struct {
		body   any
		status int
		code   string
	}{
		{byPassword("alice", "wrong"), 403, "M_FORBIDDEN"},
		{byPassword("nobody", aPassword), 403, "M_FORBIDDEN"},
		{byPassword("@alice:elsewhere", aPassword), 403, "M_FORBIDDEN"},
		{login(obj{"identifier": obj{"type": "m.id.thirdparty", "medium": "email", "address": "a@b"}}), 403, "M_FORBIDDEN"},
		{login(obj{"identifier": obj{"type": "m.id.phone", "country": "GB", "phone": "1"}}), 403, "M_FORBIDDEN"},
		{login(obj{"medium": "email", "address": "a@b"}), 403, "M_FORBIDDEN"},
		{login(obj{"identifier": obj{"type": "m.id.cat"}}), 400, "M_INVALID_PARAM"},
		{login(obj{}), 400, "M_MISSING_PARAM"},
		{obj{"type": "m.login.cat"}, 400, "M_UNKNOWN"},
		{obj{"type": "m.login.token", "token": "x"}, 403, "M_FORBIDDEN"},
		{"{}", 400, "M_MISSING_PARAM"},
		{login(obj{"user": "alice", "device_id": strings.Repeat("x", 256)}), 400, "M_INVALID_PARAM"},
		{login(obj{"user": "alice", "device_id": "a\nb"}), 400, "M_INVALID_PARAM"},
		{`{"type":["m.login.password"]}`, 400, "M_BAD_JSON"},
		{`[]`, 400, "M_BAD_JSON"},
	} {
		h.refused("", "POST", "/v3/login", c.body, c.status, c.code)
	}
}

func TestLoginTokenSignsAnotherDeviceIn(t *testing.T) {
	h := newHome(t, nil)
	alice := h.register("alice")
	h.refused(alice, "POST", "/v1/login/get_token", "{}", 401, "")
	out := h.must(alice, "POST", "/v1/login/get_token", obj{"auth": byPassword("alice", aPassword)})
	if out["expires_in_ms"] != 120000.0 {
		t.Errorf("%v", out)
	}
	in := h.must("", "POST", "/v3/login", obj{"type": "m.login.token", "token": out["login_token"]})
	if in["user_id"] != "@alice:here" {
		t.Errorf("%v", in)
	}
	h.refused("", "POST", "/v3/login", obj{"type": "m.login.token", "token": out["login_token"]}, 403, "M_FORBIDDEN")
}

func TestLogoutEndsTheSession(t *testing.T) {
	h := newHome(t, nil)
	first := h.register("alice")
	second, device := h.login("alice")
	h.must(second, "POST", "/v3/logout", "")
	if out := h.refused(second, "GET", "/v3/account/whoami", "", 401, "M_UNKNOWN_TOKEN"); out["soft_logout"] != nil {
		t.Errorf("%v", out)
	}
	h.refused(first, "GET", "/v3/devices/"+device, "", 404, "M_NOT_FOUND")
	third, _ := h.login("alice")
	h.must(third, "POST", "/v3/logout/all", "{}")
	for _, token := range []string{first, third} {
		h.refused(token, "GET", "/v3/account/whoami", "", 401, "M_UNKNOWN_TOKEN")
	}
	h.refused("x", "POST", "/v3/logout", "", 401, "M_UNKNOWN_TOKEN")
	h.refused("", "POST", "/v3/logout", "", 401, "M_MISSING_TOKEN")
}

func TestRefreshGivesNewTokens(t *testing.T) {
	h := newHome(t, nil)
	h.register("alice")
	body := byPassword("alice", aPassword)
	body["refresh_token"] = true
	first := h.must("", "POST", "/v3/login", body)
	h.ms.Add(time.Hour.Milliseconds())
	if out := h.refused(str(first, "access_token"), "GET", "/v3/account/whoami", "", 401, "M_UNKNOWN_TOKEN"); out["soft_logout"] != true {
		t.Errorf("an expired token: %v", out)
	}
	refresh := func(token any) (int, obj) {
		return h.call("", "POST", "/v3/refresh", obj{"refresh_token": token})
	}
	h.must("", "POST", "/v3/refresh", obj{"refresh_token": first["refresh_token"]}) // as if the response had been lost
	status, second := refresh(first["refresh_token"])
	if status != 200 || second["expires_in_ms"] != 3600000.0 || str(second, "refresh_token") == "" {
		t.Fatalf("the old refresh token again: %d %v", status, second)
	}
	h.must(str(second, "access_token"), "GET", "/v3/account/whoami", "")
	if status, out := refresh(first["refresh_token"]); status != 401 || out["errcode"] != "M_UNKNOWN_TOKEN" {
		t.Errorf("after the new token was used: %d %v", status, out)
	}
	h.refused("", "POST", "/v3/refresh", "{}", 400, "M_MISSING_PARAM")
	h.refused("", "POST", "/v3/refresh", `{"refresh_token":7}`, 400, "M_BAD_JSON")
}

func TestChangePassword(t *testing.T) {
	h := newHome(t, nil)
	mine := h.register("alice")
	other, _ := h.login("alice")
	const path = "/v3/account/password"
	change := func(old, new string, logout any) obj {
		return obj{"auth": byPassword("@alice:here", old), "new_password": new, "logout_devices": logout}
	}
	h.refused("", "POST", path, "{}", 401, "M_MISSING_TOKEN")
	h.refused(mine, "POST", path, obj{"new_password": "new one"}, 401, "")
	h.refused(mine, "POST", path, change("wrong", "new one", nil), 401, "M_FORBIDDEN")
	h.refused(mine, "POST", path, change(aPassword, "", nil), 400, "M_WEAK_PASSWORD")
	h.must(mine, "POST", path, change(aPassword, "new one", nil))
	h.must(mine, "GET", "/v3/account/whoami", "")
	h.refused(other, "GET", "/v3/account/whoami", "", 401, "M_UNKNOWN_TOKEN")
	h.refused("", "POST", "/v3/login", byPassword("alice", aPassword), 403, "M_FORBIDDEN")
	third := str(h.must("", "POST", "/v3/login", byPassword("alice", "new one")), "access_token")
	h.must(mine, "POST", path, change("new one", "the third", false))
	h.must(third, "GET", "/v3/account/whoami", "")
}

func TestDevicesAreListedRenamedAndDeleted(t *testing.T) {
	h := newHome(t, nil)
	mine := h.register("alice")
	bob := h.register("bob")
	second, device := h.login("alice")
	list := h.must(mine, "GET", "/v3/devices", "")["devices"].([]any)
	if len(list) != 2 {
		t.Fatalf("%v", list)
	}
	one := "/v3/devices/" + device
	h.must(mine, "PUT", one, obj{"display_name": "Renamed"})
	h.must(mine, "PUT", one, "{}")
	if d := h.must(mine, "GET", one, ""); d["display_name"] != "Renamed" || d["device_id"] != device || d["last_seen_ts"] == nil {
		t.Errorf("%v", d)
	}
	h.refused(bob, "GET", one, "", 404, "M_NOT_FOUND")
	h.refused(bob, "PUT", one, obj{"display_name": "x"}, 404, "M_NOT_FOUND")
	h.refused(mine, "PUT", "/v3/devices/unknown", obj{"display_name": "x"}, 404, "M_NOT_FOUND")
	h.refused(mine, "PUT", "/v3/devices/unknown", "{}", 404, "M_NOT_FOUND")
	h.refused(mine, "PUT", one, obj{"display_name": strings.Repeat("x", 300)}, 400, "M_INVALID_PARAM")

	first := h.refused(mine, "DELETE", one, "", 401, "")
	if first["params"] == nil || first["flows"] == nil || str(first, "session") == "" {
		t.Errorf("%v", first)
	}
	wrong := h.refused(mine, "DELETE", one, obj{"auth": byPassword("alice", "wrong")}, 401, "M_FORBIDDEN")
	if wrong["params"] == nil || wrong["flows"] == nil || wrong["session"] == nil || wrong["error"] == nil {
		t.Errorf("%v", wrong)
	}
	h.refused(mine, "DELETE", one, obj{"auth": byPassword("bob", aPassword)}, 403, "M_FORBIDDEN")
	h.must(mine, "GET", one, "")
	auth := byPassword("alice", aPassword)
	auth["session"] = first["session"]
	h.must(mine, "DELETE", one, obj{"auth": auth})
	h.refused(mine, "GET", one, "", 404, "M_NOT_FOUND")
	h.refused(second, "GET", "/v3/account/whoami", "", 401, "M_UNKNOWN_TOKEN")

	third, thirdDevice := h.login("alice")
	_, fourthDevice := h.login("alice")
	many := obj{"devices": []string{thirdDevice, fourthDevice, "unknown"}}
	h.refused(mine, "POST", "/v3/delete_devices", many, 401, "")
	many["auth"] = byPassword("alice", aPassword)
	h.must(mine, "POST", "/v3/delete_devices", many)
	h.refused(third, "GET", "/v3/account/whoami", "", 401, "M_UNKNOWN_TOKEN")
	if list := h.must(mine, "GET", "/v3/devices", "")["devices"].([]any); len(list) != 1 {
		t.Errorf("%v", list)
	}
	h.refused(mine, "POST", "/v3/delete_devices", obj{"auth": byPassword("alice", aPassword)}, 400, "M_MISSING_PARAM")
	h.refused(mine, "POST", "/v3/delete_devices", obj{"devices": make([]string, 501)}, 400, "M_INVALID_PARAM")
}

// member returns a user's member event.
func (h *home) member(token, room, user string) obj {
	h.t.Helper()
	return h.must(token, "GET", "/v3/rooms/"+room+"/state/m.room.member/"+user, "")
}

func TestProfileIsPublicAndReachesTheRooms(t *testing.T) {
	h := newHome(t, nil)
	alice, bob := h.register("alice"), h.register("bob")
	if out := h.must("", "GET", "/v3/profile/@alice:here", ""); len(out) != 1 || out["displayname"] != "alice" {
		t.Errorf("a new profile: %v", out)
	}
	room := str(h.must(alice, "POST", "/v3/createRoom", obj{"preset": "public_chat"}), "room_id")
	const name, avatar = "/v3/profile/@alice:here/displayname", "/v3/profile/@alice:here/avatar_url"
	h.must(alice, "PUT", name, obj{"displayname": "Alice"})
	h.must(alice, "PUT", avatar, obj{"avatar_url": "mxc://here/pic"})
	if m := h.member(alice, room, "@alice:here"); m["displayname"] != "Alice" || m["avatar_url"] != "mxc://here/pic" || m["membership"] != "join" {
		t.Errorf("the member event: %v", m)
	}
	if out := h.must("", "GET", name, ""); len(out) != 1 || out["displayname"] != "Alice" {
		t.Errorf("%v", out)
	}
	const tz = "/v3/profile/@alice:here/m.tz"
	h.must(alice, "PUT", tz, obj{"m.tz": "Europe/London"})
	h.must(alice, "PUT", "/unstable/uk.tcpip.msc4133/profile/@alice:here/org.example.x", `{"org.example.x":{"a":[1]}}`)
	if out := h.must(bob, "GET", "/v3/profile/@alice:here", ""); len(out) != 4 || out["m.tz"] != "Europe/London" || fmt.Sprint(out["org.example.x"]) != "map[a:[1]]" {
		t.Errorf("%v", out)
	}
	h.must(alice, "DELETE", tz, "")
	h.refused("", "GET", tz, "", 404, "M_NOT_FOUND")
	h.must(alice, "DELETE", name, "")
	if m := h.member(alice, room, "@alice:here"); m["displayname"] != nil || m["avatar_url"] != "mxc://here/pic" {
		t.Errorf("the member event without name: %v", m)
	}
	h.refused(bob, "PUT", name, obj{"displayname": "x"}, 403, "M_FORBIDDEN")
	h.refused(bob, "DELETE", name, "", 403, "M_FORBIDDEN")
	h.refused("", "PUT", name, obj{"displayname": "x"}, 401, "M_MISSING_TOKEN")
	h.refused(alice, "PUT", name, "{}", 400, "M_MISSING_PARAM")
	h.refused(alice, "PUT", name, obj{"displayname": 7}, 400, "M_INVALID_PARAM")
	h.refused(alice, "PUT", "/v3/profile/@alice:here/BAD", obj{"BAD": 7}, 400, "M_INVALID_PARAM")
	h.refused(alice, "PUT", "/v3/profile/@alice:here/a."+strings.Repeat("x", 300), "{}", 400, "M_MISSING_PARAM")
	h.refused(alice, "PUT", "/v3/profile/@alice:here/org.example.big", obj{"org.example.big": strings.Repeat("x", 70_000)}, 400, "M_PROFILE_TOO_LARGE")
	h.refused("", "GET", "/v3/profile/@alice:here/org.example.none", "", 404, "M_NOT_FOUND")
	h.refused("", "GET", "/v3/profile/@nobody:here", "", 404, "M_NOT_FOUND")
	h.refused("", "GET", "/v3/profile/nonsense", "", 404, "M_NOT_FOUND")
}

func TestDeactivateAccount(t *testing.T) {
	h := newHome(t, nil)
	alice, bob := h.register("alice"), h.register("bob")
	room := str(h.must(bob, "POST", "/v3/createRoom", obj{"preset": "public_chat"}), "room_id")
	h.must(alice, "POST", "/v3/join/"+room, "{}")
	const path = "/v3/account/deactivate"
	if out := h.refused(alice, "POST", path, "{}", 401, ""); fmt.Sprint(out["flows"]) != "[map[stages:[m.login.password]]]" {
		t.Errorf("%v", out)
	}
	h.refused(alice, "POST", path, obj{"auth": byPassword("alice", "wrong")}, 401, "M_FORBIDDEN")
	out := h.must(alice, "POST", path, obj{"erase": true, "auth": byPassword("alice", aPassword)})
	if out["id_server_unbind_result"] != "success" {
		t.Errorf("%v", out)
	}
	h.refused(alice, "GET", "/v3/account/whoami", "", 401, "M_UNKNOWN_TOKEN")
	h.refused("", "POST", "/v3/login", byPassword("alice", aPassword), 403, "M_FORBIDDEN")
	h.refused("", "POST", "/v3/register", obj{"username": "alice"}, 400, "M_USER_IN_USE")
	if m := h.member(bob, room, "@alice:here"); m["membership"] != "leave" {
		t.Errorf("%v", m)
	}
}

func TestErasedUsersAreRedactedForUsersWhoJoinLater(t *testing.T) {
	h := newHome(t, nil)
	alice, bob, carol := h.register("alice"), h.register("bob"), h.register("carol")
	room := str(h.must(bob, "POST", "/v3/createRoom", obj{"preset": "public_chat"}), "room_id")
	h.must(alice, "POST", "/v3/join/"+room, "{}")
	sent := str(h.must(alice, "PUT", "/v3/rooms/"+room+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": "remember me"}), "event_id")
	h.must(alice, "POST", "/v3/account/deactivate", obj{"erase": true, "auth": byPassword("alice", aPassword)})
	h.must(carol, "POST", "/v3/join/"+room, "{}")
	event := "/v3/rooms/" + room + "/event/" + sent
	if out := h.must(bob, "GET", event, ""); out["content"].(obj)["body"] != "remember me" {
		t.Errorf("who was there: %v", out)
	}
	if out := h.must(carol, "GET", event, ""); len(out["content"].(obj)) != 0 {
		t.Errorf("who joined later: %v", out)
	}
}

func TestUserDirectorySearch(t *testing.T) {
	h := newHome(t, nil)
	alice, bob, eve := h.register("alice"), h.register("bob"), h.register("eve")
	h.must(alice, "PUT", "/v3/profile/@alice:here/displayname", obj{"displayname": "Alice Cooper"})
	h.must(alice, "POST", "/v3/createRoom", obj{"visibility": "public"})
	private := str(h.must(bob, "POST", "/v3/createRoom", obj{"invite": []string{"@alice:here"}}), "room_id")
	h.must(alice, "POST", "/v3/join/"+private, "{}")
	h.must(alice, "PUT", "/v3/rooms/"+private+"/state/m.room.member/@alice:here", obj{"membership": "join", "displayname": "Freddy"})
	search := func(token, term string) []any {
		return h.must(token, "POST", "/v3/user_directory/search", obj{"search_term": term})["results"].([]any)
	}
	for _, token := range []string{bob, eve} {
		for _, term := range []string{"Alice Cooper", "@al", "cooper"} {
			found := search(token, term)
			if len(found) != 1 || found[0].(obj)["user_id"] != "@alice:here" || found[0].(obj)["display_name"] != "Alice Cooper" {
				t.Errorf("%s: %v", term, found)
			}
		}
		if found := search(token, "Freddy"); len(found) != 0 {
			t.Errorf("a name that is only in a room is found: %v", found)
		}
	}
	if found := search(eve, "bob"); len(found) != 0 {
		t.Errorf("eve finds bob, who is in no room with her and in no public one: %v", found)
	}
	h.refused(eve, "POST", "/v3/user_directory/search", "{}", 400, "M_MISSING_PARAM")
	h.refused(eve, "POST", "/v3/user_directory/search", obj{"search_term": "x", "limit": -1}, 400, "M_INVALID_PARAM")
	h.refused(eve, "POST", "/v3/user_directory/search", obj{"search_term": "x", "limit": 1.5}, 400, "M_BAD_JSON")
	h.refused("", "POST", "/v3/user_directory/search", "{}", 401, "M_MISSING_TOKEN")
}

func TestVersionsListEveryVersionOfTheSpecification(t *testing.T) {
	h := newHome(t, nil)
	out := h.must("", "GET", "/versions", "")
	list := out["versions"].([]any)
	for i := range 16 {
		if want := fmt.Sprint("v1.", i+1); !slices.Contains(list, any(want)) {
			t.Errorf("%s is missing in %v", want, list)
		}
	}
	for name, value := range out["unstable_features"].(obj) {
		if _, isBool := value.(bool); !isBool {
			t.Errorf("%s is %v", name, value)
		}
	}
}

func TestCapabilitiesNameTheRoomVersions(t *testing.T) {
	h := newHome(t, nil)
	caps := h.must(h.register("alice"), "GET", "/v3/capabilities", "")["capabilities"].(obj)
	versions := caps["m.room_versions"].(obj)
	if versions["default"] != "12" || len(versions["available"].(obj)) != 12 || versions["available"].(obj)["10"] != "stable" {
		t.Errorf("%v", versions)
	}
	if caps["m.profile_fields"].(obj)["enabled"] != true || caps["m.3pid_changes"].(obj)["enabled"] != false {
		t.Errorf("%v", caps)
	}
	h.refused("", "GET", "/v3/capabilities", "", 401, "M_MISSING_TOKEN")
}

func TestWellKnownFollowsTheConfiguration(t *testing.T) {
	bare := newHome(t, nil)
	bare.refused("", "GET", "/.well-known/matrix/server", "", 404, "M_NOT_FOUND")
	bare.refused("", "GET", "/.well-known/matrix/support", "", 404, "M_NOT_FOUND")
	h := newHome(t, func(c *config.Config) {
		c.PublicURL = "https://matrix.example.org"
		c.WellKnown = config.WellKnown{Server: "matrix.example.org:443", SupportPage: "https://example.org/help",
			Contacts: []config.SupportContact{{Role: "m.role.admin", MatrixID: "@admin:example.org"}}}
	})
	for path, want := range map[string]string{
		"client":  `{"m.homeserver":{"base_url":"https://matrix.example.org"}}`,
		"server":  `{"m.server":"matrix.example.org:443"}`,
		"support": `{"contacts":[{"matrix_id":"@admin:example.org","role":"m.role.admin"}],"support_page":"https://example.org/help"}`,
	} {
		if got, _ := json.Marshal(h.must("", "GET", "/.well-known/matrix/"+path, "")); string(got) != want {
			t.Errorf("%s: %s", path, got)
		}
	}
}

func TestRequestsOfElementAtItsStartGetEmptyResponses(t *testing.T) {
	h := newHome(t, nil)
	alice := h.register("alice")
	for path, want := range map[string]string{
		"/v3/account/3pid": `{"threepids":[]}`, "/v3/thirdparty/protocols": `{}`,
	} {
		if got, _ := json.Marshal(h.must(alice, "GET", path, "")); string(got) != want {
			t.Errorf("%s: %s", path, got)
		}
		h.refused("", "GET", path, "", 401, "M_MISSING_TOKEN")
	}
}
