package accounts

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// soft reports whether an error has soft_logout set, so that the client keeps its keys.
func soft(err error) bool {
	var e *mxerr.Error
	return errors.As(err, &e) && e.Extra["soft_logout"] == true
}

func TestTokensInUseAreCached(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, _ *clock) {
		alice := mustCreate(t, s, "alice")
		who := mustSession(t, s, alice.Access)
		// The token is deleted behind the service's back: if the cache answers, the database was not read.
		if err := s.write(t.Context(), func(w *write) error { return w.DeleteDevice(who.DeviceNID) }); err != nil {
			t.Fatal(err)
		}
		if again := mustSession(t, s, alice.Access); again != who || again.UserID != "@alice:here" || again.DeviceID != alice.Device {
			t.Errorf("%+v, %+v", who, again)
		}
		for _, bad := range []string{"", "x", alice.Access + "x", alice.Access[1:]} {
			_, err := s.Authenticate(t.Context(), bad, "", "")
			refused(t, bad, err, mxerr.CodeUnknownToken)
		}
	})
}

func TestTokensAreStoredAsHashes(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, _ *clock) {
		alice := mustCreate(t, s, "alice")
		_ = s.opts.DB.Read(t.Context(), func(tx *storage.Tx) error {
			if _, found, err := tx.AccessToken(alice.Access); found || err != nil {
				t.Errorf("the token itself is in the database: %v", err)
			}
			if _, found, err := tx.AccessToken(keyOf(alice.Access).String()); !found || err != nil {
				t.Errorf("the hash is not: %v", err)
			}
			return nil
		})
	})
}

func TestDeletedDevicesGetNoSoftLogout(t *testing.T) {
	var gone []string
	changed := 0
	hooks := Hooks{
		DeviceGone: func(_ *storage.Tx, _ ident.DeviceNID, _ ident.UserNID, deviceID string) error {
			gone = append(gone, deviceID)
			return nil
		},
		DevicesChanged: func(*storage.Tx, ident.UserNID, ...string) (func(), error) { return func() { changed++ }, nil },
	}
	each(t, Options{Hooks: hooks}, func(t *testing.T, s *Service, _ *clock) {
		gone, changed = nil, 0
		alice := mustCreate(t, s, "alice")
		second, err := s.LoginPassword(t.Context(), Identifier{User: "alice"}, goodPassword, NewSession{Device: "SECOND", DisplayName: "Second", Refresh: true})
		if err != nil {
			t.Fatal(err)
		}
		if changed != 2 {
			t.Errorf("%d changes of the device list after two sign-ins", changed)
		}
		who := mustSession(t, s, second.Access)
		if err := s.DeleteDevices(t.Context(), who.UserNID, []id.DeviceID{"SECOND", "UNKNOWN"}); err != nil {
			t.Fatal(err)
		}
		_, err = s.Authenticate(t.Context(), second.Access, "", "")
		refused(t, "access token", err, mxerr.CodeUnknownToken)
		if soft(err) {
			t.Error("a deleted device is told to keep its keys")
		}
		_, err = s.Refresh(t.Context(), second.Refresh)
		refused(t, "refresh token", err, mxerr.CodeUnknownToken)
		if len(gone) != 1 || gone[0] != "SECOND" || changed != 3 {
			t.Errorf("gone %v, %d changes", gone, changed)
		}
		mustSession(t, s, alice.Access)
	})
}

func TestSigningInAgainOnADeviceReplacesItsToken(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, _ *clock) {
		mustCreate(t, s, "alice")
		first, err := s.LoginPassword(t.Context(), Identifier{User: "alice"}, goodPassword, NewSession{Device: "D", DisplayName: "one"})
		if err != nil {
			t.Fatal(err)
		}
		before := mustSession(t, s, first.Access)
		again, err := s.LoginPassword(t.Context(), Identifier{User: "alice"}, goodPassword, NewSession{Device: "D", DisplayName: "two"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Authenticate(t.Context(), first.Access, "", "")
		refused(t, "the token before", err, mxerr.CodeUnknownToken)
		after := mustSession(t, s, again.Access)
		if after.DeviceNID != before.DeviceNID {
			t.Error("it is another device")
		}
		if d, err := s.Device(t.Context(), after.UserNID, "D"); err != nil || *d.DisplayName != "one" {
			t.Errorf("%+v, %v", d, err)
		}
	})
}

func TestRefreshTokenLivesUntilItsSuccessorsAreUsed(t *testing.T) {
	each(t, Options{AccessTokenLifetime: time.Minute}, func(t *testing.T, s *Service, c *clock) {
		mustCreate(t, s, "alice")
		first, err := s.LoginPassword(t.Context(), Identifier{User: "alice"}, goodPassword, NewSession{Refresh: true})
		if err != nil || first.ExpiresIn != time.Minute {
			t.Fatalf("%+v, %v", first, err)
		}
		mustSession(t, s, first.Access)
		c.advance(time.Minute)
		_, err = s.Authenticate(t.Context(), first.Access, "", "")
		refused(t, "expired, from memory", err, mxerr.CodeUnknownToken)
		if !soft(err) {
			t.Error("an expired token is no soft logout")
		}

		lost, err := s.Refresh(t.Context(), first.Refresh) // the response gets lost
		if err != nil {
			t.Fatal(err)
		}
		second, err := s.Refresh(t.Context(), first.Refresh)
		if err != nil {
			t.Fatalf("the old refresh token was gone before its successor was used: %v", err)
		}
		_, err = s.Authenticate(t.Context(), lost.Access, "", "")
		refused(t, "the lost access token", err, mxerr.CodeUnknownToken)
		mustSession(t, s, second.Access) // the first use of the new token invalidates the old one
		mustSession(t, s, second.Access)
		_, err = s.Refresh(t.Context(), first.Refresh)
		refused(t, "the first refresh token", err, mxerr.CodeUnknownToken)

		third, err := s.Refresh(t.Context(), second.Refresh)
		if err != nil {
			t.Fatal(err)
		}
		mustSession(t, s, second.Access) // still valid
		fourth, err := s.Refresh(t.Context(), third.Refresh)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Refresh(t.Context(), second.Refresh)
		refused(t, "the second refresh token, whose successor was used to refresh", err, mxerr.CodeUnknownToken)
		_, err = s.Authenticate(t.Context(), second.Access, "", "")
		refused(t, "the second access token", err, mxerr.CodeUnknownToken)
		mustSession(t, s, third.Access)
		mustSession(t, s, fourth.Access)
		_, err = s.Authenticate(t.Context(), third.Access, "", "")
		refused(t, "the third access token", err, mxerr.CodeUnknownToken)
	})
}

func TestExpiredTokensReadFromTheDatabaseGetASoftLogout(t *testing.T) {
	each(t, Options{AccessTokenLifetime: time.Minute}, func(t *testing.T, s *Service, c *clock) {
		mustCreate(t, s, "alice")
		in, err := s.LoginPassword(t.Context(), Identifier{User: "alice"}, goodPassword, NewSession{Refresh: true})
		if err != nil {
			t.Fatal(err)
		}
		c.advance(time.Hour)
		if _, err := s.Authenticate(t.Context(), in.Access, "", ""); !soft(err) {
			t.Error(err)
		}
		if _, err := s.Refresh(t.Context(), "nonsense"); mxerr.Code(err) != mxerr.CodeUnknownToken {
			t.Error(err)
		}
	})
}

func TestLoginTokensWorkOnceAndForTwoMinutes(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, c *clock) {
		alice := mustCreate(t, s, "alice")
		who := mustSession(t, s, alice.Access)
		make := func() string {
			token, lifetime, err := s.CreateLoginToken(t.Context(), who)
			if err != nil || lifetime != 2*time.Minute {
				t.Fatal(lifetime, err)
			}
			return token
		}
		token := make()
		in, err := s.LoginToken(t.Context(), token, NewSession{})
		if err != nil || in.User != alice.User {
			t.Fatalf("%+v, %v", in, err)
		}
		_, err = s.LoginToken(t.Context(), token, NewSession{})
		refused(t, "a second use", err, mxerr.CodeForbidden)
		token = make()
		c.advance(2 * time.Minute)
		_, err = s.LoginToken(t.Context(), token, NewSession{})
		refused(t, "too late", err, mxerr.CodeForbidden)
		_, err = s.LoginToken(t.Context(), "", NewSession{})
		refused(t, "none", err, mxerr.CodeForbidden)
	})
}

func TestOneLoginTokenSignsInOnceConcurrently(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, _ *clock) {
		who := mustSession(t, s, mustCreate(t, s, "alice").Access)
		token, _, err := s.CreateLoginToken(t.Context(), who)
		if err != nil {
			t.Fatal(err)
		}
		results := make(chan error, 8)
		for range cap(results) {
			go func() { _, err := s.LoginToken(t.Context(), token, NewSession{}); results <- err }()
		}
		good := 0
		for range cap(results) {
			if <-results == nil {
				good++
			}
		}
		if good != 1 {
			t.Errorf("%d sign-ins with one token", good)
		}
	})
}

func TestNoRequestUsesATokenAfterItsLogoutWasAnswered(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, _ *clock) {
		mustCreate(t, s, "alice")
		for i := range 20 {
			in, err := s.LoginPassword(t.Context(), Identifier{User: "alice"}, goodPassword, NewSession{Device: id.DeviceID(fmt.Sprint("D", i))})
			if err != nil {
				t.Fatal(err)
			}
			user := mustSession(t, s, in.Access).UserNID
			s.sessions.dropUser(user) // makes the reads below reach the database and race with the logout
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() { _, _ = s.Authenticate(t.Context(), in.Access, "192.0.2.1", "") })
			}
			if err := s.DeleteDevices(t.Context(), user, []id.DeviceID{in.Device}); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
			_, err = s.Authenticate(t.Context(), in.Access, "", "")
			refused(t, "after the logout", err, mxerr.CodeUnknownToken)
		}
	})
}

func TestDevicesShowWhenTheyWereLastSeen(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, c *clock) {
		alice := mustCreate(t, s, "alice")
		c.advance(time.Hour)
		who := mustSession(t, s, alice.Access)
		seen := c.now()
		check := func(s *Service, where string) {
			t.Helper()
			d, err := s.Device(t.Context(), who.UserNID, alice.Device)
			if err != nil || !d.LastSeen.Equal(seen) || d.Address != "192.0.2.1" {
				t.Errorf("%s: %+v, %v, want %v", where, d, err, seen)
			}
		}
		check(s, "in memory")
		if err := s.StoreSeen(t.Context()); err != nil {
			t.Fatal(err)
		}
		fresh := New(s.opts)
		check(fresh, "after a restart")
		if err := fresh.RenameDevice(t.Context(), who.UserNID, alice.Device, "Laptop"); err != nil {
			t.Fatal(err)
		}
		list, err := fresh.Devices(t.Context(), who.UserNID)
		if err != nil || len(list) != 1 || *list[0].DisplayName != "Laptop" {
			t.Errorf("%+v, %v", list, err)
		}
		refused(t, "rename another", fresh.RenameDevice(t.Context(), who.UserNID, "X", "x"), mxerr.CodeNotFound)
		refused(t, "a long name", fresh.RenameDevice(t.Context(), who.UserNID, alice.Device, string(make([]byte, 300))), mxerr.CodeInvalidParam)
	})
}

func TestTheDeviceUnusedForLongestIsDeleted(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, c *clock) {
		alice := mustCreate(t, s, "alice")
		who := mustSession(t, s, alice.Access)
		err := s.write(t.Context(), func(w *write) error {
			for i := range MaxDevices - 1 {
				if _, err := w.AddDevice(who.UserNID, fmt.Sprint("D", i), nil); err != nil {
					return err
				}
			}
			return w.DeviceSeen(who.DeviceNID, c.now().Add(-time.Hour).UnixMilli(), "", "")
		})
		if err != nil {
			t.Fatal(err)
		}
		// The first device was last seen when it was created; the others a second later.
		c.advance(time.Second)
		err = s.opts.DB.Write(t.Context(), func(tx *storage.Tx) error {
			for i := range MaxDevices - 1 {
				d, _, err := tx.Device(who.UserNID, fmt.Sprint("D", i))
				if err == nil {
					err = tx.DeviceSeen(d.NID, c.now().UnixMilli(), "", "")
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.LoginPassword(t.Context(), Identifier{User: "alice"}, goodPassword, NewSession{Device: "NEW"}); err != nil {
			t.Fatal(err)
		}
		list, err := s.Devices(t.Context(), who.UserNID)
		if err != nil || len(list) != MaxDevices {
			t.Fatalf("%d devices, %v", len(list), err)
		}
		_, err = s.Authenticate(t.Context(), alice.Access, "", "")
		refused(t, "the oldest device", err, mxerr.CodeUnknownToken)
	})
}

func TestADeviceCannotHaveTheNameOfACrossSigningKey(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, _ *clock) {
		who := mustSession(t, s, mustCreate(t, s, "alice").Access)
		err := s.opts.DB.Write(t.Context(), func(tx *storage.Tx) error {
			return tx.SetCrossSigningKey(who.UserNID, "master", `{"keys":{"ed25519:PUBLIC":"PUBLIC"}}`)
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.LoginPassword(t.Context(), Identifier{User: "alice"}, goodPassword, NewSession{Device: "PUBLIC"})
		refused(t, "the key's name", err, mxerr.CodeForbidden)
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	s := New(Options{DB: storagetest.Open(b, storage.Config{}), Server: "here"})
	in, err := s.Create(b.Context(), NewAccount{Username: "alice", Password: goodPassword, SignIn: &NewSession{}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Authenticate(b.Context(), in.Access, "192.0.2.1", ""); err != nil {
			b.Fatal(err)
		}
	}
}
