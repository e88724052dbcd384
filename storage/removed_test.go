package storage_test

import (
	"context"
	"slices"
	"testing"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// The entries of the ledger are applied after a backup was restored.
func TestWhatADisavowalRemovesDoesNotComeBackWithABackup(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		db := storagetest.Open(t, storage.Config{DSN: dsn, Ledger: true})
		var user ident.UserNID
		write := func(f func(*storage.Tx) error) {
			t.Helper()
			if err := db.Write(context.Background(), f); err != nil {
				t.Fatal(err)
			}
		}
		add := func(tx *storage.Tx, name string) error {
			_, err := tx.AddUpstreamIdentity(storage.UpstreamIdentity{Issuer: "https://id.example.org", Subject: name, User: user})
			return err
		}
		var kinds []string
		write(func(tx *storage.Tx) (err error) {
			if user, err = tx.UserNID("@alice:here"); err != nil {
				return err
			}
			if _, err := tx.AddPasskey(storage.PasskeyRow{CredentialID: "thief's", User: user, CreatedTS: tx.Now().UnixMilli()}); err != nil {
				return err
			}
			return add(tx, "thief's")
		})
		write(func(tx *storage.Tx) error {
			if err := tx.RemoveSince(user, 0); err != nil {
				return err
			}
			queue, err := tx.LedgerQueue(100)
			for _, e := range queue {
				kinds = append(kinds, e.Kind)
				if e.Kind == storage.LedgerIdentity { // the backup still has it, and another one
					for _, name := range []string{"thief's", "own"} {
						if err := add(tx, name); err != nil {
							return err
						}
					}
					if err := tx.DeleteIdentityAgain(user, e.Name); err != nil {
						return err
					}
				}
			}
			return err
		})
		if !slices.Contains(kinds, storage.LedgerPasskey) || !slices.Contains(kinds, storage.LedgerIdentity) {
			t.Errorf("the ledger gets %v", kinds)
		}
		write(func(tx *storage.Tx) error {
			left, err := tx.UpstreamIdentities(user, 9)
			if len(left) != 1 || left[0].Subject != "own" {
				t.Errorf("after the backup was restored: %v", left)
			}
			return err
		})
	})
}
