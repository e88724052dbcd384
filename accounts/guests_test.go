package accounts

import (
	"testing"
	"time"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

func TestUnusedGuestAccountsAreDeactivated(t *testing.T) {
	o := Options{Guests: true, GuestLifetime: time.Hour}
	each(t, o, func(t *testing.T, s *Service, c *clock) {
		mustCreate(t, s, "alice") // not a guest
		idle, err1 := s.CreateGuest(t.Context(), "", "")
		used, err2 := s.CreateGuest(t.Context(), "kiosk", "")
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		c.advance(50 * time.Minute)
		if who := mustSession(t, s, used.Access); !who.Guest {
			t.Errorf("the requester is %+v", who)
		}
		if err := s.StoreSeen(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.advance(20 * time.Minute)
		s.tidy(t.Context())
		_, err := s.Authenticate(t.Context(), idle.Access, "", "")
		refused(t, "the unused guest", err, mxerr.CodeUnknownToken)
		mustSession(t, s, used.Access)
		if err := s.Exists(t.Context(), idle.User); mxerr.Code(err) != mxerr.CodeForbidden {
			t.Errorf("the unused guest account: %v", err)
		}
		if err := s.Exists(t.Context(), "@alice:here"); err != nil {
			t.Errorf("the account of a user: %v", err)
		}
		err = s.opts.DB.Read(t.Context(), func(tx *storage.Tx) error {
			n, err := tx.CountGuests()
			if n != 1 {
				t.Errorf("%d guests are counted", n)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestGuestAccountsAreBounded(t *testing.T) {
	each(t, Options{Guests: true}, func(t *testing.T, s *Service, _ *clock) {
		err := s.opts.DB.Write(t.Context(), func(tx *storage.Tx) error {
			for i := range maxGuests {
				name := guestPrefix + letters(lowerAlphabet, 12)
				if _, err := tx.AddAccount(storage.AccountRow{NID: ident.UserNID(1_000_000 + i), Localpart: name, Guest: true}, ""); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.CreateGuest(t.Context(), "", "")
		refused(t, "one guest too many", err, mxerr.CodeLimitExceeded)
	})
}
