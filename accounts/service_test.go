package accounts

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/hashing"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// clock is a clock that tests can set.
type clock struct{ ms atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ms.Store(1_750_000_000_000)
	return c
}

func (c *clock) now() time.Time          { return time.UnixMilli(c.ms.Load()) }
func (c *clock) advance(d time.Duration) { c.ms.Add(d.Milliseconds()) }

// each runs a test with a service on every kind of database.
func each(t *testing.T, o Options, f func(t *testing.T, s *Service, c *clock)) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		c := newClock()
		o := o
		o.DB, o.Server, o.Now = storagetest.Open(t, storage.Config{DSN: dsn, Now: c.now}), "here", c.now
		f(t, New(o), c)
	})
}

const goodPassword = "correct horse battery staple"

// mustCreate creates a logged-in account whose device has no name.
func mustCreate(t *testing.T, s *Service, name string) SignedIn {
	t.Helper()
	out, err := s.Create(t.Context(), NewAccount{Username: name, Password: goodPassword, SignIn: &NewSession{}})
	if err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
	return out
}

func mustSession(t *testing.T, s *Service, token string) ident.Requester {
	t.Helper()
	who, err := s.Authenticate(t.Context(), token, "192.0.2.1", "")
	if err != nil {
		t.Fatalf("authenticate: %v", err)
	}
	return who
}

// refused fails the test unless err has the given code.
func refused(t *testing.T, what string, err error, code string) {
	t.Helper()
	if got := mxerr.Code(err); err == nil || got != code {
		t.Errorf("%s: %v, want %s", what, err, code)
	}
}

func TestUserNamesFollowTheGrammar(t *testing.T) {
	s := &Service{opts: Options{Server: "here"}}
	for name, want := range map[string]string{"alice": "alice", "User-UPPER": "user-upper", "q3._=-/+": "q3._=-/+", "9": "9"} {
		if got, err := s.newLocalpart(name); got != want || err != nil {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
	long := string(make([]byte, 255))
	for _, name := range []string{"", "a b", "a:b", "@a", "é", "a\x00", "a\n", "us,er", "K" /* Kelvin sign folds to k */, long} {
		if got, err := s.newLocalpart(name); err == nil && got != "k" {
			t.Errorf("%q became %q", name, got)
		}
	}
}

func TestEveryFormOfIdentifierLogsIn(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, _ *clock) {
		alice := mustCreate(t, s, "alice")
		for _, user := range []string{"alice", "ALICE", "@alice:here", "@Alice:here"} {
			in, err := s.LoginPassword(t.Context(), Identifier{User: user}, goodPassword, NewSession{})
			if err != nil || in.User != alice.User || in.Device == "" || in.Device == alice.Device {
				t.Errorf("%s: %+v, %v", user, in, err)
			}
		}
		for _, bad := range [][2]string{{"alice", "wrong"}, {"alice", ""}, {"nobody", goodPassword}, {"@alice:elsewhere", goodPassword}, {"@alice", goodPassword}} {
			_, err := s.LoginPassword(t.Context(), Identifier{User: bad[0]}, bad[1], NewSession{})
			refused(t, bad[0]+"/"+bad[1], err, mxerr.CodeForbidden)
		}
	})
}

func TestHistoricalNamesLogIn(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, _ *clock) {
		hash, err := s.hasher.hash(t.Context(), goodPassword)
		if err != nil {
			t.Fatal(err)
		}
		err = s.write(t.Context(), func(w *write) error { // as importing an account would
			nid, err := w.UserNID("@Old One!:here")
			if err != nil {
				return err
			}
			_, err = w.AddAccount(storage.AccountRow{NID: nid, Localpart: "Old One!", Password: hash}, "")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		in, err := s.LoginPassword(t.Context(), Identifier{User: "@Old One!:here"}, goodPassword, NewSession{})
		if err != nil || in.User != "@Old One!:here" {
			t.Fatalf("%+v, %v", in, err)
		}
	})
}

func TestUnknownUsersCostAsMuchAsKnownOnes(t *testing.T) {
	h := newHasher(1, hashing.NewProcesses(nil, nil))
	real, err := h.hash(t.Context(), goodPassword)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		password, stored string
		want             bool
	}{{goodPassword, real, true}, {"other", real, false}, {"", real, false}, {goodPassword, "", false}, {"", "", false}, {goodPassword, storage.UnusablePassword, false}} {
		if got, err := h.verify(t.Context(), c.password, c.stored); got != c.want || err != nil {
			t.Errorf("%q: %v, %v", c.password, got, err)
		}
		h.working <- struct{}{} // the worker is busy
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h.verify(gone, c.password, c.stored); err == nil {
			t.Errorf("%q was compared with %q without a worker", c.password, c.stored)
		}
		<-h.working
	}
	if _, err := h.verify(t.Context(), goodPassword, "$2b$12$abc"); err == nil {
		t.Error("an unknown form was read")
	}
}

func TestHashingIsBounded(t *testing.T) {
	h := newHasher(1, nil)
	h.working <- struct{}{} // the worker is busy
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, maxWaiting+1)
	for range cap(h.waiting) {
		go func() { done <- h.work(ctx, func() {}) }()
	}
	for len(h.waiting) < cap(h.waiting) {
		select {
		case err := <-done:
			t.Fatal(err)
		default:
		}
	}
	refused(t, "one more", h.work(ctx, func() {}), mxerr.CodeLimitExceeded)
	cancel()
	for range cap(h.waiting) {
		if err := <-done; err == nil {
			t.Error("ran without a worker")
		}
	}
}

func TestUsedNamesAndInvalidPasswordsAreRefused(t *testing.T) {
	each(t, Options{Hooks: Hooks{Exclusive: func(_, localpart string) bool { return localpart == "_bridge" }}}, func(t *testing.T, s *Service, _ *clock) {
		mustCreate(t, s, "alice")
		refused(t, "available", s.Available(t.Context(), "Alice"), mxerr.CodeUserInUse)
		refused(t, "exclusive", s.Available(t.Context(), "_bridge"), mxerr.CodeExclusive)
		refused(t, "grammar", s.Available(t.Context(), "a,b"), mxerr.CodeInvalidUsername)
		if err := s.Available(t.Context(), "bob"); err != nil {
			t.Error(err)
		}
		_, err := s.Create(t.Context(), NewAccount{Username: "alice", Password: goodPassword})
		refused(t, "taken", err, mxerr.CodeUserInUse)
		_, err = s.Create(t.Context(), NewAccount{Username: "bob"})
		refused(t, "empty password", err, mxerr.CodeWeakPassword)
		_, err = s.Create(t.Context(), NewAccount{Username: "bob", Password: string(make([]byte, 600))})
		refused(t, "long password", err, mxerr.CodeInvalidParam)
		out, err := s.Create(t.Context(), NewAccount{Password: goodPassword})
		if err != nil || out.User == "" || out.Access != "" || out.Device != "" {
			t.Errorf("a chosen name, not signed in: %+v, %v", out, err)
		}
	})
}

func TestAccountsAreListedAndAdministered(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, _ *clock) {
		alice := mustCreate(t, s, "alice")
		mustCreate(t, s, "bob")
		if mustSession(t, s, alice.Access).IsAdmin {
			t.Error("alice began as an administrator")
		}
		if err := s.SetAdmin(t.Context(), alice.User, true); err != nil {
			t.Fatal(err)
		}
		if !mustSession(t, s, alice.Access).IsAdmin {
			t.Error("a session in use does not know that its user is an administrator now")
		}
		list, err := s.List(t.Context(), "", 10)
		if err != nil || len(list) != 2 || list[0].User != alice.User || !list[0].Admin || list[1].Admin {
			t.Errorf("%+v, %v", list, err)
		}
		if list, err = s.List(t.Context(), "alice", 10); err != nil || len(list) != 1 || list[0].User != "@bob:here" {
			t.Errorf("after alice: %+v, %v", list, err)
		}
		refused(t, "nobody", s.SetAdmin(t.Context(), "@nobody:here", true), mxerr.CodeNotFound)
		refused(t, "a remote user", s.SetAdmin(t.Context(), "@alice:elsewhere", true), mxerr.CodeNotFound)
	})
}

func TestNewPasswordReplacesTheOld(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, _ *clock) {
		alice := mustCreate(t, s, "alice")
		other, err := s.LoginPassword(t.Context(), Identifier{User: "alice"}, goodPassword, NewSession{})
		if err != nil {
			t.Fatal(err)
		}
		mustSession(t, s, other.Access)
		if err := s.SetPassword(t.Context(), alice.User, "another one", PasswordChange{SignOut: true, Device: alice.Device}); err != nil {
			t.Fatal(err)
		}
		_, err = s.LoginPassword(t.Context(), Identifier{User: "alice"}, goodPassword, NewSession{})
		refused(t, "old password", err, mxerr.CodeForbidden)
		mustSession(t, s, alice.Access)
		_, err = s.Authenticate(t.Context(), other.Access, "", "")
		refused(t, "other device", err, mxerr.CodeUnknownToken)
		third, err := s.LoginPassword(t.Context(), Identifier{User: "alice"}, "another one", NewSession{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SetPassword(t.Context(), alice.User, "a third", PasswordChange{}); err != nil {
			t.Fatal(err)
		}
		mustSession(t, s, third.Access)
	})
}

func TestDeactivatedAccountsAreClosedForGood(t *testing.T) {
	var left, erased []id.UserID
	var fail bool
	hooks := Hooks{
		LeaveRooms: func(_ context.Context, _ ident.UserNID, user id.UserID) error {
			if fail {
				return context.DeadlineExceeded
			}
			left = append(left, user)
			return nil
		},
		Erase: func(_ context.Context, nid ident.UserNID) error {
			erased = append(erased, id.UserID(rune('0'+nid)))
			return nil
		},
	}
	each(t, Options{Hooks: hooks}, func(t *testing.T, s *Service, _ *clock) {
		left, erased, fail = nil, nil, false
		alice, bob := mustCreate(t, s, "alice"), mustCreate(t, s, "bob")
		a := mustSession(t, s, alice.Access)
		token, _, err := s.CreateLoginToken(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Deactivate(t.Context(), alice.User, NotErased); err != nil {
			t.Fatal(err)
		}
		_, err = s.Authenticate(t.Context(), alice.Access, "", "")
		refused(t, "access token", err, mxerr.CodeUnknownToken)
		_, err = s.LoginPassword(t.Context(), Identifier{User: "alice"}, goodPassword, NewSession{})
		refused(t, "password", err, mxerr.CodeForbidden)
		_, err = s.LoginPassword(t.Context(), Identifier{User: "alice"}, "", NewSession{})
		refused(t, "empty password", err, mxerr.CodeForbidden)
		_, err = s.LoginToken(t.Context(), token, NewSession{})
		refused(t, "login token", err, mxerr.CodeForbidden)
		refused(t, "the name", s.Available(t.Context(), "alice"), mxerr.CodeUserInUse)
		refused(t, "new password", s.SetPassword(t.Context(), alice.User, "x", PasswordChange{}), mxerr.CodeNotFound)
		refused(t, "again", s.Deactivate(t.Context(), alice.User, Erased), mxerr.CodeNotFound)
		if len(left) != 1 || left[0] != alice.User || len(erased) != 0 {
			t.Errorf("left %v, erased %v", left, erased)
		}

		fail = true // leaving rooms fails now, and is retried later
		if err := s.SetProfileField(t.Context(), mustSession(t, s, bob.Access), "org.example.x", []byte(`1`)); err != nil {
			t.Fatal(err)
		}
		if err := s.Deactivate(t.Context(), bob.User, Erased); err != nil {
			t.Fatal(err)
		}
		fail = false
		s.resumeDeactivations(t.Context())
		s.resumeDeactivations(t.Context())
		if len(left) != 2 || left[1] != bob.User || len(erased) != 2 {
			t.Errorf("after resuming: left %v, erased %v", left, erased)
		}
		if fields, err := s.Profile(t.Context(), bob.User); len(fields) != 0 || err != nil {
			t.Errorf("an erased user has a profile: %v, %v", fields, err)
		}
	})
}
