package storage_test

import (
	"context"
	"errors"
	"testing"

	"ebb/storage"
	"ebb/storage/shares"
	"ebb/storage/storagetest"
)

// hold starts a read that lasts until the returned function is called.
func hold(t *testing.T, db *storage.DB, ctx context.Context) (end func()) { //nolint:revive // ctx is what is tested
	t.Helper()
	begun, over, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- db.Read(ctx, func(*storage.Tx) error {
			close(begun)
			<-over
			return nil
		})
	}()
	select {
	case <-begun:
	case err := <-done:
		t.Fatalf("the read does not begin: %v", err)
	}
	return func() {
		close(over)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestOneRequesterDoesNotTakeAllConnections(t *testing.T) {
	db := storagetest.Open(t, storage.Config{ReadConns: 8})
	alice, cancel := context.WithCancel(shares.Requested(t.Context(), "alice"))
	var ends []func()
	for range 2 {
		ends = append(ends, hold(t, db, alice))
	}
	waiting := make(chan error)
	ran := false
	go func() { waiting <- db.Read(alice, func(*storage.Tx) error { ran = true; return nil }) }()
	// Others can read while alice holds all connections that one requester may have.
	for _, other := range []string{"bob", "carol"} {
		ends = append(ends, hold(t, db, shares.Requested(t.Context(), other)), hold(t, db, shares.Requested(t.Context(), other)))
	}
	ends = append(ends, hold(t, db, t.Context()), hold(t, db, t.Context()))
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) || ran {
		t.Errorf("a third read of alice: %v, ran %v", err, ran)
	}
	for _, end := range ends[2:] {
		end()
	}
	for _, end := range ends[:2] { // their context has ended, but no statement has run since
		end()
	}
	hold(t, db, shares.Requested(t.Context(), "alice"))()
}

func TestReadsOfManyRequestersLeaveConnectionsToTheOthers(t *testing.T) {
	db := storagetest.Open(t, storage.Config{ReadConns: 4})
	var ends []func()
	for _, who := range []string{"alice", "bob"} {
		ends = append(ends, hold(t, db, shares.Requested(t.Context(), who)))
	}
	late, cancel := context.WithCancel(shares.Requested(t.Context(), "carol"))
	waiting := make(chan error)
	go func() { waiting <- db.Read(late, func(*storage.Tx) error { return nil }) }()
	ends = append(ends, hold(t, db, t.Context()), hold(t, db, t.Context()))
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("a read beyond the shared connections: %v", err)
	}
	for _, end := range ends {
		end()
	}
}
