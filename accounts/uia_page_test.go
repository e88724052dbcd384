package accounts

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"ebb/mxerr"
	"ebb/storage"
)

func TestAnApprovalIsUsedByOneOfManyRequests(t *testing.T) {
	each(t, Options{AccountPage: "https://example.org/account"}, func(t *testing.T, s *Service, _ *clock) {
		alice := mustSession(t, s, mustCreate(t, s, "alice").Access)
		err := s.opts.DB.Write(t.Context(), func(tx *storage.Tx) error {
			return tx.AddOAuthSession(storage.OAuthSession{Device: alice.DeviceNID, Client: "c", Family: "f"})
		})
		if err != nil {
			t.Fatal(err)
		}
		ask := func() error {
			return s.Confirm(t.Context(), Asked{Operation: "uploadCrossSigningKeys", Requester: alice, Body: body(t, `{"master_key":{}}`)})
		}
		var asking sync.WaitGroup
		for range 8 { // requests at the same time have one session
			asking.Go(func() {
				if err := ask(); mxerr.Code(err) != "" || err == nil {
					t.Errorf("%v", err)
				}
			})
		}
		asking.Wait()
		waiting, err := s.Approvals(t.Context(), alice.UserNID)
		if err != nil || len(waiting) != 1 {
			t.Fatalf("%+v, %v", waiting, err)
		}
		if err := s.Decide(t.Context(), alice.UserNID, waiting[0].Session, true); err != nil {
			t.Fatal(err)
		}
		var passed atomic.Int32
		for range 8 {
			asking.Go(func() {
				var e *mxerr.Error
				if err := ask(); err == nil {
					passed.Add(1)
				} else if !errors.As(err, &e) || e.Status != 401 {
					t.Errorf("%v", err)
				}
			})
		}
		asking.Wait()
		if passed.Load() != 1 {
			t.Errorf("%d requests passed", passed.Load())
		}
	})
}
