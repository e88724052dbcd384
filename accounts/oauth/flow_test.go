package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ebb/accounts"
	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
	"ebb/storage/storagetest"
)

var ctx = context.Background()

// lab is an authorization server with one account, which is signed in in a browser.
type lab struct {
	*Service
	t        *testing.T
	db       *storage.DB
	accounts *accounts.Service
	ms       atomic.Int64
	user     ident.UserNID
	client   string
	browser  string // the cookie
}

func each(t *testing.T, f func(t *testing.T, l *lab), change ...func(*Options)) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		l := &lab{t: t, browser: "cookie"}
		l.ms.Store(1_750_000_000_000)
		l.db = storagetest.Open(t, storage.Config{DSN: dsn, Now: l.now})
		g := gate.New(gate.Options{Now: l.now})
		l.accounts = accounts.New(accounts.Options{DB: l.db, Server: "here", Gate: g, Now: l.now})
		o := Options{DB: l.db, Accounts: l.accounts, Gate: g, Issuer: "https://here", DeviceGrant: true, Now: l.now}
		for _, c := range change {
			c(&o)
		}
		l.Service = New(o)
		l.write(func(tx *storage.Tx) (err error) {
			if l.user, err = tx.UserNID("@alice:here"); err != nil {
				return err
			}
			if _, err = tx.AddAccount(storage.AccountRow{NID: l.user, Localpart: "alice"}, ""); err != nil {
				return err
			}
			return tx.AddWebSession(gate.KeyOf(l.browser).String(), storage.WebSession{User: l.user, Evidence: int64(gate.Password), ExpiresTS: l.now().Add(1000 * time.Hour).UnixMilli()}, 10)
		})
		l.client = l.register(nil)
		f(t, l)
	})
}

func (l *lab) now() time.Time          { return time.UnixMilli(l.ms.Load()) }
func (l *lab) advance(d time.Duration) { l.ms.Add(d.Milliseconds()) }

func (l *lab) write(f func(*storage.Tx) error) {
	l.t.Helper()
	if err := l.db.Write(ctx, f); err != nil {
		l.t.Fatal(err)
	}
}

// free admits every new client.
func free() error { return nil }

func (l *lab) register(change obj) string {
	l.t.Helper()
	r, err := l.Register(ctx, client(change), free)
	if err != nil {
		l.t.Fatal(err)
	}
	return r.ID
}

const redirect = "https://app.example.com/callback"

// code returns an authorization code.
func (l *lab) code() string {
	l.t.Helper()
	r, _, err := l.Authorize(ctx, request("client_id", l.client))
	if err != nil {
		l.t.Fatal(err)
	}
	to, err := l.Approve(ctx, r, l.browser)
	if err != nil {
		l.t.Fatal(err)
	}
	return parse(l.t, to).Get("code")
}

func (l *lab) exchange(code string) (Grant, error) {
	return l.Exchange(ctx, l.client, code, redirect, verifier, "")
}

// signIn returns the tokens of a new session.
func (l *lab) signIn() Grant {
	l.t.Helper()
	g, err := l.exchange(l.code())
	if err != nil {
		l.t.Fatal(err)
	}
	return g
}

func (l *lab) valid(access string) bool {
	_, err := l.accounts.Authenticate(ctx, access, "", "")
	return err == nil
}

func TestCodeGivesOneSession(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		code := l.code()
		g, err := l.exchange(code)
		if err != nil || g.Scope != goodScope || g.ExpiresIn != accessLifetime || g.Refresh == "" {
			t.Fatalf("%+v, %v", g, err)
		}
		who, err := l.accounts.Authenticate(ctx, g.Access, "", "")
		if err != nil || who.UserID != "@alice:here" || who.DeviceID != "TESTDEVICE" {
			t.Errorf("%+v, %v", who, err)
		}
		d, err := l.accounts.Device(ctx, l.user, "TESTDEVICE")
		if err != nil || d.DisplayName == nil || *d.DisplayName != "My App" {
			t.Errorf("the device is %+v, %v", d, err)
		}
		if _, err := l.exchange(code); codeOf(err) != errGrant {
			t.Errorf("the code again: %v", err)
		}
		if l.valid(g.Access) {
			t.Error("the session lives on after the code was replayed")
		}
	})
}

func TestReplayedCodeSparesALaterSessionOfTheDevice(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		code := l.code()
		if _, err := l.exchange(code); err != nil {
			t.Fatal(err)
		}
		later := l.signIn() // of the same device
		if _, err := l.exchange(code); codeOf(err) != errGrant || !l.valid(later.Access) {
			t.Errorf("%v, valid %v", err, l.valid(later.Access))
		}
	})
}

func TestCodesAreBoundToClientRedirectAndVerifier(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		code, other := l.code(), l.register(obj{"client_name": "Other"})
		for name, try := range map[string][4]string{
			"another client":       {other, code, redirect, verifier},
			"an unknown code":      {l.client, "ebb_c_x", redirect, verifier},
			"another redirect":     {l.client, code, redirect + "/", verifier},
			"another verifier":     {l.client, code, redirect, verifier + "x"},
			"no verifier":          {l.client, code, redirect, ""},
			"the challenge itself": {l.client, code, redirect, challenge},
		} {
			if _, err := l.Exchange(ctx, try[0], try[1], try[2], try[3], ""); codeOf(err) != errGrant {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := l.Exchange(ctx, "nobody", code, redirect, verifier, ""); codeOf(err) != errClient {
			t.Errorf("an unknown client: %v", err)
		}
		l.advance(codeLifetime)
		if _, err := l.exchange(code); codeOf(err) != errGrant {
			t.Errorf("after its lifetime: %v", err)
		}
	})
}

func TestOfTwoUsesOfACodeAtOnceAtMostOneLives(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		code := l.code()
		grants, errs := at2(func() (Grant, error) { return l.exchange(code) })
		lives := 0
		for i, g := range grants {
			if errs[i] == nil && l.valid(g.Access) {
				lives++
			}
		}
		if lives != 0 || errs[0] != nil && errs[1] != nil { // the second one is a replay, which ends the session
			t.Errorf("%d sessions, %v", lives, errs)
		}
	})
}

// at2 calls f twice at the same time.
func at2(f func() (Grant, error)) (grants [2]Grant, errs [2]error) {
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() { grants[i], errs[i] = f() })
	}
	wg.Wait()
	return grants, errs
}

func TestRefreshRotates(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		first := l.signIn()
		lost, err := l.Refresh(ctx, l.client, first.Refresh)
		if err != nil {
			t.Fatal(err)
		}
		second, err := l.Refresh(ctx, l.client, first.Refresh) // the answer was lost
		if err != nil || second.Scope != goodScope || second.ExpiresIn != accessLifetime {
			t.Fatalf("the old token while no new one was used: %+v, %v", second, err)
		}
		if !l.valid(first.Access) || !l.valid(second.Access) || l.valid(first.Access) {
			t.Error("the first use of a new token retires the old ones, and not before")
		}
		if _, err := l.Refresh(ctx, l.client, lost.Refresh); codeOf(err) != errGrant || !l.valid(second.Access) {
			t.Errorf("the lost token: %v", err)
		}
		if _, err := l.Refresh(ctx, l.client, first.Refresh); codeOf(err) != errGrant || l.valid(second.Access) {
			t.Errorf("reuse of a token that was replaced leaves the session: %v", err)
		}
		if _, err := l.Refresh(ctx, l.client, second.Refresh); codeOf(err) != errGrant {
			t.Errorf("the family lives on: %v", err)
		}
	})
}

func TestReuseIsNoticedAfterManyRefreshes(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		g := l.signIn()
		stolen := g.Refresh
		for range 5 {
			var err error
			if g, err = l.Refresh(ctx, l.client, g.Refresh); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := l.Refresh(ctx, l.client, stolen); codeOf(err) != errGrant || l.valid(g.Access) {
			t.Errorf("%v, valid %v", err, l.valid(g.Access))
		}
	})
}

func TestTwoRefreshesAtOnceLeaveASession(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		g := l.signIn()
		grants, errs := at2(func() (Grant, error) { return l.Refresh(ctx, l.client, g.Refresh) })
		if errs[0] != nil || errs[1] != nil {
			t.Fatal(errs)
		}
		if l.valid(grants[0].Access) == l.valid(grants[1].Access) {
			t.Error("not exactly one of the new tokens is valid")
		}
	})
}

func TestRefreshTokensAreBoundToTheirClientAndPath(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		g, other := l.signIn(), l.register(obj{"client_name": "Other"})
		for _, client := range []string{other, "", "nobody"} {
			if _, err := l.Refresh(ctx, client, g.Refresh); codeOf(err) != errGrant {
				t.Errorf("%q: %v", client, err)
			}
		}
		if _, err := l.accounts.Refresh(ctx, g.Refresh); mxerr.Code(err) != mxerr.CodeUnknownToken {
			t.Errorf("POST /refresh: %v", err)
		}
		for _, token := range []string{"", "ebb_r_x", "ebb_r_x.1.y", g.Refresh + "x", g.Access} {
			if _, err := l.Refresh(ctx, l.client, token); codeOf(err) != errGrant {
				t.Errorf("%q: %v", token, err)
			}
		}
		if _, err := l.Refresh(ctx, l.client, g.Refresh); err != nil {
			t.Errorf("the session has suffered: %v", err)
		}
	})
}

func TestSessionsEndWithTheirLifetimes(t *testing.T) {
	lifetimes := func(o *Options) { o.IdleLifetime, o.SessionLifetime = 10*time.Hour, 25*time.Hour }
	each(t, func(t *testing.T, l *lab) {
		g := l.signIn()
		for range 2 {
			l.advance(9 * time.Hour)
			var err error
			if g, err = l.Refresh(ctx, l.client, g.Refresh); err != nil {
				t.Fatal(err)
			}
		}
		l.advance(7*time.Hour - time.Minute)
		last, err := l.Refresh(ctx, l.client, g.Refresh)
		if err != nil || last.ExpiresIn != time.Minute {
			t.Fatalf("a minute before the end: %v, %v", last.ExpiresIn, err)
		}
		l.advance(time.Minute)
		if _, err := l.Refresh(ctx, l.client, last.Refresh); codeOf(err) != errGrant {
			t.Errorf("after the session's lifetime: %v", err)
		}
		idle := l.signIn()
		l.advance(10 * time.Hour)
		if _, err := l.Refresh(ctx, l.client, idle.Refresh); codeOf(err) != errGrant {
			t.Errorf("an idle session: %v", err)
		}
		if err := l.Tidy(ctx); err != nil {
			t.Fatal(err)
		}
		if d, err := l.accounts.Devices(ctx, l.user); err != nil || len(d) != 0 {
			t.Errorf("devices of expired sessions: %v, %v", d, err)
		}
	}, lifetimes)
}

func TestRevocationEndsTheSession(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		for _, token := range []func(Grant) string{func(g Grant) string { return g.Access }, func(g Grant) string { return g.Refresh }} {
			g := l.signIn()
			for range 2 {
				if err := l.Revoke(ctx, token(g)); err != nil {
					t.Error(err)
				}
			}
			if _, err := l.Refresh(ctx, l.client, g.Refresh); l.valid(g.Access) || codeOf(err) != errGrant {
				t.Errorf("tokens are still valid: %v", err)
			}
		}
		if err := l.Revoke(ctx, "nonsense"); err != nil {
			t.Errorf("an unknown token: %v", err)
		}
	})
}

func TestClosedAccountsGetNoTokens(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		g, code := l.signIn(), l.code()
		l.write(func(tx *storage.Tx) error { return tx.SetLocked(l.user, true) })
		if _, err := l.exchange(code); codeOf(err) != errGrant {
			t.Errorf("a code: %v", err)
		}
		if _, err := l.Refresh(ctx, l.client, g.Refresh); mxerr.Code(err) != mxerr.CodeUserLocked {
			t.Errorf("a refresh: %v", err)
		}
		r, _, err := l.Authorize(ctx, request("client_id", l.client))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Approve(ctx, r, l.browser); mxerr.Code(err) != mxerr.CodeForbidden {
			t.Errorf("a browser: %v", err)
		}
		l.write(func(tx *storage.Tx) error { return tx.SetLocked(l.user, false) })
		if _, err := l.Refresh(ctx, l.client, g.Refresh); err != nil {
			t.Errorf("a refresh when the account is unlocked: %v", err)
		}
	})
}

func TestIdenticalClientsShareAnID(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		if id := l.register(obj{"client_name#de": "Meine App"}); id != l.client {
			t.Error("the same client has two IDs")
		}
		if id := l.register(obj{"client_name": "Other"}); id == l.client {
			t.Error("two clients have one ID")
		}
		ids := make([]string, 8)
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() {
				if r, err := l.Register(ctx, client(obj{"client_name": "At once"}), free); err == nil {
					ids[i] = r.ID
				}
			})
		}
		wg.Wait()
		for _, id := range ids {
			if id == "" || id != ids[0] {
				t.Errorf("registered at once: %q", ids)
			}
		}
	})
}

// A stranger who registers one client after the other would displace those with which users are signing in.
func TestNewClientsAreLimitedAndSmall(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		full, asked := mxerr.LimitExceeded(time.Minute), 0
		admit := func() error { asked++; return full }
		if r, err := l.Register(ctx, client(nil), admit); err != nil || r.ID != l.client || asked != 0 {
			t.Errorf("a known client gets %v, and was counted %d times", err, asked)
		}
		if _, err := l.Register(ctx, client(obj{"client_name": "New"}), admit); !errors.Is(err, full) || asked != 1 {
			t.Errorf("a new client gets %v, and was counted %d times", err, asked)
		}
		var redirects []string
		for i := range 10 {
			redirects = append(redirects, fmt.Sprintf("https://app.example.com/%d/%s", i, strings.Repeat("x", 1000)))
		}
		if _, err := l.Register(ctx, client(obj{"redirect_uris": redirects}), free); err == nil {
			t.Error("a client with 10 KB of metadata is registered")
		}
	})
}

func TestUnusedClientsAreRemovedButNotThoseWithSessions(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		g := l.signIn()
		idle := l.register(obj{"client_name": "Idle"})
		l.advance(clientUnused + time.Second)
		fresh := l.register(obj{"client_name": "Fresh"})
		if err := l.Tidy(ctx); err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.Authorize(ctx, request("client_id", idle)); codeOf(err) != errClient {
			t.Errorf("an unused client: %v", err)
		}
		if _, _, err := l.Authorize(ctx, request("client_id", fresh)); err != nil {
			t.Errorf("a new client: %v", err)
		}
		if _, err := l.Refresh(ctx, l.client, g.Refresh); err != nil {
			t.Errorf("a client with a session: %v", err)
		}
	})
}

// device begins a device authorization.
func (l *lab) device() DeviceCodes {
	l.t.Helper()
	l.client = l.register(obj{"grant_types": []string{GrantDevice, GrantRefresh, GrantCode}})
	d, err := l.StartDevice(ctx, l.client, goodScope, "192.0.2.1")
	if err != nil {
		l.t.Fatal(err)
	}
	return d
}

// polls polls after a pause.
func (l *lab) polls(d DeviceCodes, pause time.Duration) (Grant, error) {
	l.advance(pause)
	return l.PollDevice(ctx, l.client, d.DeviceCode, "")
}

func TestDeviceGetsTokensWhenTheUserAllows(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		d := l.device()
		if _, err := l.polls(d, 0); codeOf(err) != "authorization_pending" {
			t.Errorf("%v", err)
		}
		if _, err := l.polls(d, firstPause-time.Millisecond); codeOf(err) != "slow_down" {
			t.Errorf("too early: %v", err)
		}
		if _, err := l.polls(d, firstPause); codeOf(err) != "slow_down" { // the pause is longer now
			t.Errorf("still too early: %v", err)
		}
		shown, err := l.Device(ctx, " "+d.UserCode+"\n", "home")
		if err != nil || shown.Addr != "192.0.2.1" || shown.Client.Title() != "My App" || shown.UserCode != d.UserCode {
			t.Errorf("%+v, %v", shown, err)
		}
		if err := l.DecideDevice(ctx, d.UserCode, l.browser, "home", true); err != nil {
			t.Fatal(err)
		}
		if err := l.DecideDevice(ctx, d.UserCode, l.browser, "home", false); mxerr.Code(err) != mxerr.CodeNotFound {
			t.Errorf("decided twice: %v", err)
		}
		l.advance(maxPause)
		grants, errs := at2(func() (Grant, error) { return l.PollDevice(ctx, l.client, d.DeviceCode, "") })
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("not exactly one of two polls gets tokens: %v", errs)
		}
		for i := range errs {
			if errs[i] == nil && !l.valid(grants[i].Access) {
				t.Error("the tokens are not valid")
			}
		}
	})
}

func TestDeviceCodesThatGiveNothing(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		d := l.device()
		if err := l.DecideDevice(ctx, d.UserCode, l.browser, "home", false); err != nil {
			t.Fatal(err)
		}
		if _, err := l.polls(d, firstPause); codeOf(err) != "access_denied" {
			t.Errorf("denied: %v", err)
		}
		d = l.device()
		if err := l.DecideDevice(ctx, d.UserCode, "another cookie", "home", true); mxerr.Code(err) != mxerr.CodeForbidden {
			t.Errorf("not signed in: %v", err)
		}
		other := l.register(obj{"client_name": "Other", "grant_types": []string{GrantDevice}})
		if _, err := l.PollDevice(ctx, other, d.DeviceCode, ""); codeOf(err) != errGrant {
			t.Errorf("another client: %v", err)
		}
		if _, err := l.polls(d, deviceLifetime); codeOf(err) != "expired_token" {
			t.Errorf("late: %v", err)
		}
		if err := l.DecideDevice(ctx, d.UserCode, l.browser, "home", true); mxerr.Code(err) != mxerr.CodeNotFound {
			t.Errorf("approved late: %v", err)
		}
		if _, err := l.Device(ctx, "", "home"); mxerr.Code(err) != mxerr.CodeNotFound {
			t.Errorf("no code: %v", err)
		}
		plain := l.register(obj{"client_name": "No device grant"})
		if _, err := l.StartDevice(ctx, plain, goodScope, ""); codeOf(err) != "unauthorized_client" {
			t.Errorf("a client that did not register the grant: %v", err)
		}
	})
}

// three is a budget of three attempts.
type three map[string]int

func (b three) Take(key string) time.Duration {
	if b[key] == 3 {
		return time.Minute
	}
	b[key]++
	return 0
}

func (b three) Return(key string) { b[key]-- }

func TestGuessesOfUserCodesAreLimited(t *testing.T) {
	limited := func(o *Options) { o.Gate = gate.New(gate.Options{Budgets: gate.Budgets{Guesses: three{}}}) }
	each(t, func(t *testing.T, l *lab) {
		d := l.device()
		for range 5 { // right ones do not count
			if _, err := l.Device(ctx, d.UserCode, "home"); err != nil {
				t.Fatal(err)
			}
		}
		codes := map[string]int{}
		for i := range 6 {
			_, err := l.Device(ctx, fmt.Sprintf("BCDF-GH%c%c", userAlphabet[i], userAlphabet[i]), "away")
			if i%2 == 1 {
				err = l.DecideDevice(ctx, "XXXX-XXXX", l.browser, "away", true)
			}
			codes[mxerr.Code(err)]++
		}
		if codes[mxerr.CodeLimitExceeded] == 0 || codes[mxerr.CodeNotFound] > 3 {
			t.Errorf("%v", codes)
		}
	}, limited)
}

func TestSignedOutUserLosesPendingCodes(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		code := l.code()
		if err := l.accounts.DeleteAllDevices(ctx, l.user, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := l.exchange(code); codeOf(err) != errGrant {
			t.Errorf("a code outlives the sign-out of all devices: %v", err)
		}
		r, _, err := l.Authorize(ctx, request("client_id", l.client))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Approve(ctx, r, l.browser); mxerr.Code(err) != mxerr.CodeForbidden {
			t.Errorf("a browser: %v", err)
		}
	})
}

func parse(t *testing.T, to string) url.Values {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query()
}

func TestNoCodeGivesTokensForAPasswordAlone(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		d, g, code := l.device(), l.signIn(), l.code()
		if err := l.DecideDevice(ctx, d.UserCode, l.browser, "home", true); err != nil {
			t.Fatal(err)
		}
		l.write(func(tx *storage.Tx) error { return gate.SetMode(tx, storage.AccountRow{NID: l.user}, gate.Required) })
		for name, try := range map[string]func() (Grant, error){
			"a code":          func() (Grant, error) { return l.exchange(code) },
			"a device code":   func() (Grant, error) { return l.polls(d, firstPause) },
			"a refresh token": func() (Grant, error) { return l.Refresh(ctx, l.client, g.Refresh) },
		} {
			if g, err := try(); codeOf(err) != errGrant || g.Access != "" {
				t.Errorf("%s: %+v, %v", name, g, err)
			}
		}
		l.write(func(tx *storage.Tx) error {
			return tx.AddWebSession(gate.KeyOf("both").String(), storage.WebSession{User: l.user, Evidence: int64(gate.Password | gate.TOTP), ExpiresTS: l.now().Add(time.Hour).UnixMilli()}, 10)
		})
		l.browser = "both"
		if _, err := l.exchange(l.code()); err != nil {
			t.Errorf("with a second factor: %v", err)
		}
	})
}
