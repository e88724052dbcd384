package gate

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
	"ebb/storage/storagetest"
)

var ctx = context.Background()

// lab is a database with one account that has one device.
type lab struct {
	t      *testing.T
	db     *storage.DB
	ms     atomic.Int64
	user   ident.UserNID
	device ident.DeviceNID
}

func each(t *testing.T, f func(t *testing.T, l *lab)) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		l := &lab{t: t}
		l.ms.Store(1_750_000_000_000)
		l.db = storagetest.Open(t, storage.Config{DSN: dsn, Now: l.now})
		l.write(func(tx *storage.Tx) (err error) {
			if l.user, err = tx.UserNID("@alice:here"); err != nil {
				return err
			}
			if _, err = tx.AddAccount(storage.AccountRow{NID: l.user, Localpart: "alice"}, ""); err != nil {
				return err
			}
			l.device, err = tx.AddDevice(l.user, "DEVICE", nil)
			return err
		})
		f(t, l)
	})
}

func (l *lab) now() time.Time { return time.UnixMilli(l.ms.Load()) }

func (l *lab) write(f func(*storage.Tx) error) {
	l.t.Helper()
	if err := l.db.Write(ctx, f); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) gate(p Policy, factors Factors) *Gate {
	l.t.Helper()
	g := New(Options{Policy: p, Factors: factors, Now: l.now})
	if err := g.Load(ctx, l.db); err != nil {
		l.t.Fatal(err)
	}
	return g
}

// try passes the gate on a path with the given evidence, and creates the tokens.
func (l *lab) try(g *Gate, path Path, shown Evidence) error {
	return l.db.Write(ctx, func(tx *storage.Tx) error {
		p, err := g.Admit(tx, Attempt{Path: path, User: l.user, Shown: shown, Guess: &Guess{}})
		switch {
		case err != nil:
			return err
		case rules[path].handsOver:
			_, err = p.LoginToken(time.Minute)
		case rules[path].tokens:
			_, err = p.Tokens(l.device, TokenOptions{Refresh: true, Lifetime: time.Hour})
		}
		return err
	})
}

// enrolled maps accounts to their second factors.
type enrolled map[ident.UserNID]Evidence

func (e enrolled) Enrolled(_ *storage.Tx, user ident.UserNID) (Evidence, error) { return e[user], nil }

// likely is the evidence that is presented on each path without a second factor.
var likely = map[Path]Evidence{
	PathPassword: Password, PathLoginToken: Password, PathRefresh: Password, PathRegister: Password | Invitation | Email,
	PathGuest: 0, PathSharedSecret: Invitation | Password, PathHandOver: Password, PathReset: Email,
	PathAppService: AppService, PathMachine: Administrator, PathCode: Password, PathDevice: Password, PathOAuthRefresh: Password, PathSSO: Password, PathJWT: Upstream,
}

func TestNoPathLetsOneFactorThroughWhereTwoAreRequired(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		policies := map[string]*Gate{
			"required":                l.gate(Policy{MFA: Required}, nil),
			"optional, one enrolled":  l.gate(Policy{MFA: Optional}, enrolled{l.user: TOTP}),
			"optional, none enrolled": l.gate(Policy{MFA: Optional}, nil),
			"off":                     l.gate(Policy{MFA: Off}, enrolled{l.user: TOTP}),
		}
		for _, path := range Paths() {
			shown, known := likely[path]
			if !known {
				t.Errorf("%s: say what this path shows", path)
			}
			passes := path == PathReset || path == PathAppService || path == PathMachine
			for name, want := range map[string]bool{"required": passes, "optional, one enrolled": passes, "optional, none enrolled": true, "off": true} {
				if err := l.try(policies[name], path, shown); (err == nil) != want {
					t.Errorf("%s, %s: %v", path, name, err)
				}
			}
			for _, more := range []Evidence{TOTP, RecoveryCode, SecurityKey} {
				if err := l.try(policies["required"], path, shown|Password|more); err != nil {
					t.Errorf("%s with a second factor: %v", path, err)
				}
				if err := l.try(policies["required"], path, shown&^first|more); err == nil && !passes {
					t.Errorf("%s with a second factor alone passes", path)
				}
			}
			if err := l.try(policies["required"], path, shown|Passkey); err != nil {
				t.Errorf("%s with a passkey: %v", path, err)
			}
		}
	})
}

func TestNothingPassesWithoutTheEvidenceOfItsPath(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		g := l.gate(Policy{}, nil)
		for _, path := range Paths() {
			if err := l.try(g, path, 0); (err == nil) != rules[path].inherits {
				t.Errorf("%s with nothing: %v", path, err)
			}
			if !rules[path].counted {
				continue
			}
			err := l.db.Write(ctx, func(tx *storage.Tx) error {
				_, err := g.Admit(tx, Attempt{Path: path, User: l.user, Shown: Password})
				return err
			})
			if err == nil {
				t.Errorf("%s passes although nothing was counted", path)
			}
		}
		if err := l.try(g, "teleportation", Password|TOTP); err == nil {
			t.Error("a path without a rule passes")
		}
		if _, err := (Pass{}).Tokens(l.device, TokenOptions{}); err == nil {
			t.Error("tokens without a pass")
		}
	})
}

func TestClosedAccountsPassOnNoPath(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		g := l.gate(Policy{}, nil)
		check := func(what string, codes ...string) {
			t.Helper()
			for _, path := range Paths() {
				err := l.try(g, path, likely[path])
				known := false
				for _, code := range codes {
					known = known || mxerr.Code(err) == code
				}
				if !known {
					t.Errorf("%s, %s: %v", what, path, err)
				}
			}
		}
		l.write(func(tx *storage.Tx) error { return tx.SetLocked(l.user, true) })
		check("locked", mxerr.CodeUserLocked)
		l.write(func(tx *storage.Tx) error {
			if err := tx.SetLocked(l.user, false); err != nil {
				return err
			}
			return tx.SetSuspended(l.user, true)
		})
		check("suspended", "") // a suspended user may log in
		l.write(func(tx *storage.Tx) error { _, err := tx.Deactivate(l.user, storage.NotErased); return err })
		check("deactivated", mxerr.CodeForbidden, mxerr.CodeUnknownToken, mxerr.CodeUserDeactivated)
	})
}

func TestGraceBeginsWhenASecondFactorBecomesRequired(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		policy := Policy{MFA: Required, Grace: time.Hour}
		g := l.gate(policy, nil)
		if err := l.try(g, PathPassword, Password); err != nil || !g.OffersPassword() {
			t.Errorf("within the grace period: %v, offered %v", err, g.OffersPassword())
		}
		l.ms.Add(time.Hour.Milliseconds())
		g = l.gate(policy, nil) // after a restart
		if err := l.try(g, PathPassword, Password); err == nil || g.OffersPassword() {
			t.Errorf("after it: %v, offered %v", err, g.OffersPassword())
		}
		l.gate(Policy{MFA: Optional}, nil) // the policy is switched off and on again
		if err := l.try(l.gate(policy, nil), PathPassword, Password); err != nil {
			t.Errorf("a new grace period: %v", err)
		}
	})
}

func TestPolicyOfOneAccountAndOfAdministrators(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		set := func(mode Mode) {
			l.write(func(tx *storage.Tx) error {
				a, _, err := tx.Account(l.user)
				if err != nil {
					return err
				}
				return SetMode(tx, a, mode)
			})
		}
		pass := func(p Policy) bool { return l.try(l.gate(p, nil), PathPassword, Password) == nil }
		set(Off)
		if !pass(Policy{MFA: Required}) {
			t.Error("an account that is exempt does not pass")
		}
		set(Required)
		if pass(Policy{}) || !pass(Policy{Grace: time.Hour}) {
			t.Error("an account of which a second factor is required")
		}
		l.ms.Add(time.Hour.Milliseconds())
		set(Required) // setting it again does not restart the grace period
		if pass(Policy{Grace: time.Hour}) {
			t.Error("passes after its grace period")
		}
		set("")
		administrators := Policy{MFA: Off, Administrators: Required}
		if !pass(administrators) {
			t.Error("a user does not pass")
		}
		l.write(func(tx *storage.Tx) error { return tx.SetAdmin(l.user, true) })
		if pass(administrators) || pass(Policy{MFA: Required, Administrators: Off}) {
			t.Error("an administrator passes")
		}
		err := l.db.Write(ctx, func(tx *storage.Tx) error { return SetMode(tx, storage.AccountRow{NID: l.user}, "sometimes") })
		if mxerr.Code(err) != mxerr.CodeInvalidParam {
			t.Errorf("an unknown policy: %v", err)
		}
	})
}

func TestEvidenceOfASessionIsRecordedAndGrows(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		g := l.gate(Policy{}, nil)
		evidence := func() (e int64) {
			l.write(func(tx *storage.Tx) (err error) { e, err = tx.Evidence(l.device); return err })
			return e
		}
		if err := l.try(g, PathPassword, Password); err != nil || Evidence(evidence()) != Password {
			t.Errorf("%v, %v", evidence(), err)
		}
		l.write(func(tx *storage.Tx) error { return Strengthen(tx, l.device, TOTP) })
		if e := Evidence(evidence()); e != Password|TOTP {
			t.Errorf("%v after another factor", e)
		}
		if err := l.try(g, PathRefresh, 0); err != nil || Evidence(evidence()) != Password|TOTP {
			t.Errorf("%v after a refresh, %v", evidence(), err)
		}
	})
}

func TestFiveCodesInFifteenMinutes(t *testing.T) {
	now := time.UnixMilli(1_750_000_000_000)
	g := New(Options{Now: func() time.Time { return now }})
	for range 20 { // correct ones do not count
		at, err := g.GuessCode(TOTP, 1, "")
		if err != nil {
			t.Fatal(err)
		}
		at.Right()
	}
	wrong := map[Evidence]int{}
	for range 60 { // every minute
		for _, kind := range []Evidence{TOTP, RecoveryCode} {
			for range 2 {
				if _, err := g.GuessCode(kind, 1, ""); err == nil {
					wrong[kind]++
				}
			}
		}
		now = now.Add(time.Minute)
	}
	if wrong[TOTP] != 20 || wrong[RecoveryCode] != 20 {
		t.Errorf("guesses in an hour: %v", wrong)
	}
	if _, err := g.GuessCode(TOTP, 2, ""); err != nil {
		t.Errorf("another account: %v", err)
	}
}

// quota is a Budget that never refills.
type quota struct {
	max  int
	used map[string]int
}

func (q *quota) Take(key string) time.Duration {
	if q.used[key] == q.max {
		return time.Second
	}
	q.used[key]++
	return 0
}

func (q *quota) Return(key string) { q.used[key]-- }

func TestSprayingOverManyAccountsCountsForTheWholeServer(t *testing.T) {
	g := New(Options{Budgets: Budgets{Server: &quota{10, map[string]int{}}}})
	from := func(known bool) func() (bool, error) { return func() (bool, error) { return known, nil } }
	wrong := 0
	for i := range 30 { // with another account and another network each time
		name := strings.Repeat("x", i+1)
		if _, err := g.GuessPassword(name, name, from(false)); err == nil {
			wrong++
		}
	}
	if wrong != 10 {
		t.Errorf("%d guesses", wrong)
	}
	if _, err := g.GuessPassword("alice", "home", from(true)); err != nil {
		t.Errorf("where a device of the owner is: %v", err)
	}
}

func TestGuessesCountForTheirTargetTheirNetworkAndTheServer(t *testing.T) {
	away := func() (bool, error) { return false, nil }
	token := func(kind Kind) func(*Gate, int, string) error {
		return func(g *Gate, _ int, network string) error { _, err := g.GuessToken(kind, network); return err }
	}
	const free = 200 // attempts
	for name, c := range map[string]struct {
		guess func(g *Gate, account int, network string) error
		// How many wrong guesses are possible: at one account from one network, at other accounts from one network, at
		// one account from other networks, and at other accounts from other networks.
		one, network, account, server int
	}{
		"password": {func(g *Gate, account int, network string) error {
			_, err := g.GuessPassword(strings.Repeat("x", account+1), network, away)
			return err
		}, 3, 10, 20, 50},
		"own password": {func(g *Gate, account int, _ string) error {
			_, err := g.GuessOwn(ident.Requester{DeviceNID: ident.DeviceNID(account)})
			return err
		}, 3, free, 3, free}, // needs a session of the account
		"code": {func(g *Gate, account int, network string) error {
			_, err := g.GuessCode(TOTP, ident.UserNID(account+1), network)
			return err
		}, 5, 10, 5, 50},
		"code of either kind": {func(g *Gate, account int, network string) error {
			_, err := g.GuessCode(TOTP, ident.UserNID(account+1), network)
			_, also := g.GuessCode(RecoveryCode, ident.UserNID(account+1), network)
			return cmp.Or(err, also)
		}, 5, 5, 5, 25}, // a pair of codes in each try
		"user code":          {token(UserCodes), 3, 3, 50, 50},
		"registration token": {token(RegistrationTokens), 3, 3, 50, 50},
		"shared secret":      {token(SharedSecrets), 3, 3, 50, 50},
		"login token":        {token(LoginTokens), 3, 3, free, free},
		"JSON Web Token":     {token(JSONWebTokens), 3, 3, free, free},
		"upstream code":      {token(UpstreamCodes), 3, 3, free, free},
	} {
		for kind, want := range map[string]int{"one": c.one, "network": c.network, "account": c.account, "server": c.server} {
			g := New(Options{Budgets: Budgets{
				Guesses: &quota{3, map[string]int{}}, Networks: &quota{10, map[string]int{}}, Accounts: &quota{20, map[string]int{}}, Server: &quota{50, map[string]int{}},
			}})
			wrong := 0
			for i := range free {
				account, network := 0, "home"
				if kind == "network" || kind == "server" {
					account = i
				}
				if kind == "account" || kind == "server" {
					network = strconv.Itoa(i)
				}
				if c.guess(g, account, network) == nil {
					wrong++
				}
			}
			if wrong != want {
				t.Errorf("%s, %s: %d wrong guesses, want %d", name, kind, wrong, want)
			}
		}
	}
	g := New(Options{Budgets: Budgets{Networks: &quota{10, map[string]int{}}}})
	all := 0
	for i := range 30 { // of several kinds
		if _, err := g.GuessToken([]Kind{LoginTokens, JSONWebTokens, UserCodes}[i%3], "home"); err == nil {
			all++
		}
	}
	if all != 10 {
		t.Errorf("%d wrong tokens of several kinds from one network", all)
	}
}
