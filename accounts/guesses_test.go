package accounts

import (
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mail"
	"ebb/mxerr"
	"ebb/storage"
)

// quota is a Budget that never refills.
type quota struct {
	mu   sync.Mutex
	max  int
	used map[string]int
}

func newQuota(max int) *quota { return &quota{max: max, used: map[string]int{}} }

func (q *quota) Take(key string) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.used[key] == q.max {
		return time.Second
	}
	q.used[key]++
	return 0
}

func (q *quota) Return(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.used[key]--; q.used[key] == 0 {
		delete(q.used, key)
	}
}

const (
	home     = "192.0.2.1"    // the network in which mustSession logs in
	stranger = "198.51.100.1" // a network in which local users have no devices
)

// withGuesses runs a test in which three guesses are allowed for each account and network, and atOneAccount guesses for
// one account in total.
func withGuesses(t *testing.T, atOneAccount int, f func(t *testing.T, s *Service, limits gate.Budgets)) {
	each(t, Options{Network: func(addr string) string { return addr }}, func(t *testing.T, s *Service, _ *clock) {
		s.opts.Budgets = Budgets{NewAccounts: newQuota(2)}
		limits := gate.Budgets{Guesses: newQuota(3), Networks: newQuota(1000), Accounts: newQuota(atOneAccount)}
		s.gate = gate.New(gate.Options{Budgets: limits, Now: s.opts.Now})
		f(t, s, limits)
	})
}

func login(t *testing.T, s *Service, user, password, network string) error {
	t.Helper()
	_, err := s.LoginPassword(t.Context(), Identifier{User: user}, password, NewSession{Network: network})
	return err
}

func TestStrangersWhoGuessDoNotLockTheOwnerOut(t *testing.T) {
	withGuesses(t, 1000, func(t *testing.T, s *Service, _ gate.Budgets) {
		alice := mustSession(t, s, mustCreate(t, s, "alice").Access)
		for range 3 {
			refused(t, "a guess", login(t, s, "@Alice:here", "wrong", stranger), mxerr.CodeForbidden)
		}
		refused(t, "one guess more", login(t, s, "alice", "wrong", stranger), mxerr.CodeLimitExceeded)
		refused(t, "the right one after them", login(t, s, "alice", goodPassword, stranger), mxerr.CodeLimitExceeded)
		if err := login(t, s, "alice", goodPassword, home); err != nil {
			t.Errorf("the owner signs in elsewhere: %v", err)
		}
		if err := s.Confirm(t.Context(), Asked{Operation: "changePassword", Requester: alice, Body: body(t, `{"auth":`+passwordAuth("alice", goodPassword, "")+`}`)}); err != nil {
			t.Errorf("the owner changes the password: %v", err)
		}
		if err := login(t, s, "nobody", "wrong", stranger); mxerr.Code(err) != mxerr.CodeForbidden {
			t.Errorf("a guess at another account from there: %v", err)
		}
	})
}

func TestCorrectPasswordsDoNotCountAsGuesses(t *testing.T) {
	withGuesses(t, 3, func(t *testing.T, s *Service, limits gate.Budgets) {
		alice := mustSession(t, s, mustCreate(t, s, "alice").Access)
		refused(t, "a guess", login(t, s, "alice", "wrong", home), mxerr.CodeForbidden)
		for range 10 {
			if err := login(t, s, "alice", goodPassword, home); err != nil {
				t.Fatal(err)
			}
			auth := `{"devices":["X"],"auth":` + passwordAuth("alice", goodPassword, "") + `}`
			if err := s.Confirm(t.Context(), Asked{Operation: "deleteDevices", Requester: alice, Body: body(t, auth)}); err != nil {
				t.Fatal(err)
			}
		}
		want := map[string]int{"password\x00alice\x00" + home: 1}
		if got := limits.Guesses.(*quota).used; !maps.Equal(got, want) {
			t.Errorf("counted guesses %v", got)
		}
	})
}

func TestGuessesInOneSessionDoNotBlockOthers(t *testing.T) {
	withGuesses(t, 1000, func(t *testing.T, s *Service, _ gate.Budgets) {
		stolen := mustSession(t, s, mustCreate(t, s, "alice").Access)
		in, err := s.LoginPassword(t.Context(), Identifier{User: "alice"}, goodPassword, NewSession{Network: home})
		if err != nil {
			t.Fatal(err)
		}
		own := mustSession(t, s, in.Access)
		ask := func(who ident.Requester, password string) error {
			return s.Confirm(t.Context(), Asked{Operation: "changePassword", Requester: who, Body: body(t, `{"auth":`+passwordAuth("alice", password, "")+`}`)})
		}
		for range 3 {
			readChallenge(t, ask(stolen, "wrong"))
		}
		refused(t, "one guess more", ask(stolen, goodPassword), mxerr.CodeLimitExceeded)
		if err := ask(own, goodPassword); err != nil {
			t.Errorf("another session of the owner: %v", err)
		}
	})
}

func TestGuessesAtOneAccountFromManyNetworksAreBounded(t *testing.T) {
	withGuesses(t, 5, func(t *testing.T, s *Service, _ gate.Budgets) {
		mustSession(t, s, mustCreate(t, s, "alice").Access)
		wrong := 0
		for _, network := range []string{"198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4"} {
			for range 3 {
				if mxerr.Code(login(t, s, "alice", "wrong", network)) == mxerr.CodeForbidden {
					wrong++
				}
			}
		}
		if wrong != 5 {
			t.Errorf("%d guesses from all networks", wrong)
		}
		if err := login(t, s, "alice", goodPassword, home); err != nil {
			t.Errorf("the owner, where a device of theirs is: %v", err)
		}
	})
}

// If guesses by address counted for the name of the account, or the other way round, the limit would show to a stranger
// that the address belongs to the account.
func TestLimitsDoNotShowWhoseAnAddressIs(t *testing.T) {
	byClient := func(s *Service, target string) error {
		who := Identifier{User: target}
		if strings.Contains(target, "@") {
			who = Identifier{Type: "m.id.thirdparty", Medium: "email", Address: target}
		}
		_, err := s.LoginPassword(t.Context(), who, "wrong", NewSession{Network: stranger})
		return err
	}
	onPage := func(s *Service, target string) error {
		_, err := s.VerifyPassword(t.Context(), target, "wrong", stranger)
		return err
	}
	const own, unknown = "alice@example.org", "nobody@example.org"
	for name, guess := range map[string]func(*Service, string) error{"client": byClient, "page": onPage} {
		for _, order := range [][]string{{"alice", own, unknown}, {own, "alice", "bob"}} {
			t.Run(name+" "+order[0], func(t *testing.T) {
				withGuesses(t, 1000, func(t *testing.T, s *Service, _ gate.Budgets) {
					s.opts.Emails.Sender = &mail.Sender{}
					alice := mustSession(t, s, mustCreate(t, s, "alice").Access)
					mustCreate(t, s, "bob")
					err := s.write(t.Context(), func(w *write) error {
						_, err := w.AddEmail(storage.EmailRow{Address: own, User: alice.UserNID})
						return err
					})
					if err != nil {
						t.Fatal(err)
					}
					for range 3 {
						refused(t, "a guess", guess(s, order[0]), mxerr.CodeForbidden)
					}
					refused(t, "one guess more", guess(s, order[0]), mxerr.CodeLimitExceeded)
					for _, other := range order[1:] {
						for range 3 {
							refused(t, "a guess at "+other, guess(s, other), mxerr.CodeForbidden)
						}
						refused(t, "one more at "+other, guess(s, other), mxerr.CodeLimitExceeded)
					}
				})
			})
		}
	}
}

func TestOnlyWrongRegistrationTokensCountAsGuesses(t *testing.T) {
	withGuesses(t, 1000, func(t *testing.T, s *Service, _ gate.Budgets) {
		s.opts.Registration = WithToken
		if _, err := s.CreateToken(t.Context(), RegistrationToken{Token: "good"}); err != nil {
			t.Fatal(err)
		}
		session := ""
		admit := func(auth string) error {
			_, err := s.Admit(t.Context(), body(t, `{"auth":{`+auth+`"session":"`+session+`"}}`), home)
			return err
		}
		session = readChallenge(t, admit("")).session
		for range 20 { // requests that a client sends while somebody guesses tokens
			readChallenge(t, admit(""))
			readChallenge(t, admit(`"type":"m.login.registration_token",`))
			if usable, err := s.TokenUsable(t.Context(), "good", home); !usable || err != nil {
				t.Fatalf("the token: %v, %v", usable, err)
			}
		}
		for range 3 {
			readChallenge(t, admit(`"type":"m.login.registration_token","token":"wrong",`))
		}
		refused(t, "a fourth wrong token", admit(`"type":"m.login.registration_token","token":"wrong",`), mxerr.CodeLimitExceeded)
		if _, err := s.TokenUsable(t.Context(), "wrong", home); mxerr.Code(err) != mxerr.CodeLimitExceeded {
			t.Errorf("asked another way: %v", err)
		}
		if _, err := s.TokenUsable(t.Context(), "wrong", stranger); err != nil {
			t.Errorf("somebody elsewhere: %v", err)
		}
	})
}

func TestNewAccountsOfANetworkAreBounded(t *testing.T) {
	withGuesses(t, 1000, func(t *testing.T, s *Service, _ gate.Budgets) {
		add := func(name, network string) error {
			_, err := s.Create(t.Context(), NewAccount{Username: name, Password: goodPassword, Network: network})
			return err
		}
		for _, name := range []string{"a", "b"} {
			if err := add(name, home); err != nil {
				t.Fatal(err)
			}
		}
		refused(t, "a third one", add("c", home), mxerr.CodeLimitExceeded)
		if err := add("c", stranger); err != nil {
			t.Errorf("elsewhere: %v", err)
		}
		if err := add("d", ""); err != nil {
			t.Errorf("by the administrator: %v", err)
		}
		if err := s.Exists(t.Context(), id.UserID("@d:here")); err != nil {
			t.Error(err)
		}
	})
}

func TestWrongLoginTokensAreBounded(t *testing.T) {
	withGuesses(t, 1000, func(t *testing.T, s *Service, _ gate.Budgets) {
		who := mustSession(t, s, mustCreate(t, s, "alice").Access)
		for range 5 {
			token, _, err := s.CreateLoginToken(t.Context(), who)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.LoginToken(t.Context(), token, NewSession{Network: home}); err != nil {
				t.Fatalf("a good token: %v", err)
			}
		}
		for range 3 {
			_, err := s.LoginToken(t.Context(), "x", NewSession{Network: home})
			refused(t, "a wrong token", err, mxerr.CodeForbidden)
		}
		_, err := s.LoginToken(t.Context(), "x", NewSession{Network: home})
		refused(t, "a fourth one", err, mxerr.CodeLimitExceeded)
	})
}
