package storage_test

import (
	"context"
	"slices"
	"testing"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// A removed address could otherwise reset the password of its former owner.
func TestARemovedEmailAddressDoesNotComeBackWithABackup(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		db := storagetest.Open(t, storage.Config{DSN: dsn, Ledger: true})
		old := storage.EmailRow{Address: "old@example.org", User: 1, AddedTS: 1000}
		kept := storage.EmailRow{Address: "new@example.org", User: 1, AddedTS: 2000}
		err := db.Write(context.Background(), func(tx *storage.Tx) error {
			for _, e := range []storage.EmailRow{old, kept} {
				if _, err := tx.AddEmail(e); err != nil {
					return err
				}
			}
			if gone, err := tx.DeleteEmail(2, old.Address); err != nil || gone {
				t.Errorf("another user removes the address: %v, %v", gone, err)
			}
			if gone, err := tx.DeleteEmail(1, old.Address); err != nil || !gone {
				t.Errorf("the address is removed: %v, %v", gone, err)
			}
			if _, err := tx.AddEmail(old); err != nil { // the backup still has it
				return err
			}
			queue, err := tx.LedgerQueue(9)
			if len(queue) != 1 || queue[0].Kind != storage.LedgerEmail {
				t.Fatalf("the ledger gets %v, %v", queue, err)
			}
			if err := tx.DeleteEmailAgain(ident.UserNID(queue[0].Ref), queue[0].Value); err != nil {
				return err
			}
			left, err := tx.Emails(1, 9)
			if len(left) != 1 || left[0] != kept {
				t.Errorf("after the backup was restored: %v", left)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

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
