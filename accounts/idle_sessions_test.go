package accounts

import (
	"context"
	"testing"
	"time"

	"ebb/mxerr"
)

func TestDevicesThatAreNotUsedAreSignedOut(t *testing.T) {
	each(t, Options{IdleLifetime: 30 * 24 * time.Hour, Guests: true}, func(t *testing.T, s *Service, c *clock) {
		day := 24 * time.Hour
		idle, used := mustCreate(t, s, "idle"), mustCreate(t, s, "used")
		program, err := s.IssueToken(t.Context(), idle.User, "BUILD", 0)
		if err != nil {
			t.Fatal(err)
		}
		bridged := mustSession(t, s, idle.Access).UserNID
		if _, err := s.PutDevice(t.Context(), bridged, "BRIDGE", nil); err != nil {
			t.Fatal(err)
		}
		guest, err := s.CreateGuest(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		end := func(wantIdle string) {
			t.Helper()
			if err := s.endIdleSessions(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Authenticate(t.Context(), idle.Access, "", ""); mxerr.Code(err) != wantIdle {
				t.Errorf("the unused device: %v", err)
			}
			mustSession(t, s, program.Access)
			mustSession(t, s, guest.Access)
			if _, err := s.Device(t.Context(), bridged, "BRIDGE"); err != nil {
				t.Errorf("a device of an application service: %v", err)
			}
		}
		for range 3 { // the last use is in memory only
			c.advance(9 * day)
			if _, err := s.Authenticate(t.Context(), used.Access, "192.0.2.1", "client"); err != nil {
				t.Fatal(err)
			}
			end("")
		}
		c.advance(3*day + time.Second)
		s.opts.SteadyTime = func(context.Context) (time.Time, error) { return c.now().Add(-day), nil } // the clock may have jumped
		end("")
		s.opts.SteadyTime = nil
		end(mxerr.CodeUnknownToken)
		mustSession(t, s, used.Access)
		if err := s.endIdleSessions(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestForgottenAddressesDoNotComeBackFromMemory(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, c *clock) {
		alice := mustCreate(t, s, "alice")
		who, err := s.Authenticate(t.Context(), alice.Access, "192.0.2.1", "client")
		if err != nil {
			t.Fatal(err)
		}
		shown := func() string {
			d, err := s.Device(t.Context(), who.UserNID, alice.Device)
			if err != nil {
				t.Fatal(err)
			}
			return d.Address + d.UserAgent
		}
		if got := shown(); got != "192.0.2.1client" {
			t.Errorf("before it is stored: %q", got)
		}
		if err := s.StoreSeen(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := shown(); got != "192.0.2.1client" {
			t.Errorf("after it was stored: %q", got)
		}
		if err := s.write(t.Context(), func(w *write) error {
			_, err := w.ForgetClients(c.now().UnixMilli()+1, 10)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if got := shown(); got != "" {
			t.Errorf("after it was forgotten: %q", got)
		}
	})
}
