package storage_test

import (
	"fmt"
	"testing"

	"ebb/storage"
	"ebb/storage/storagetest"
)

func TestOnlyTheNewestAnswersOfServersAboutTheirKeysAreKept(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ok(t, db.Write(ctx, func(tx *storage.Tx) error {
			for i := range 10 {
				server := fmt.Sprint("s", i)
				if err := tx.PutServerKey(storage.ServerKey{Server: server, KeyID: "ed25519:1", PublicKey: "x"}); err != nil {
					return err
				}
				if err := tx.PutServerKeyAnswer(server, storage.ServerKeyAnswer{JSON: "{}", FetchedTS: int64(100 + i)}); err != nil {
					return err
				}
			}
			return tx.PutDestination(storage.Destination{Server: "s2"})
		}))
		for _, keep := range []int{10, 4, 4} {
			ok(t, db.Write(ctx, func(tx *storage.Tx) error { return tx.PruneServerKeys(keep) }))
			ok(t, db.Read(ctx, func(tx *storage.Tx) error {
				for i := range 10 {
					server := fmt.Sprint("s", i)
					_, answered, err := tx.ServerKeyAnswerOf(server)
					if err != nil {
						return err
					}
					keys, err := tx.ServerKeys(server)
					if err != nil {
						return err
					}
					newest := i >= 10-keep
					if answered != newest || (len(keys) == 1) != (newest || server == "s2") {
						t.Errorf("of ten, %d kept: %s answered: %v, keys: %v", keep, server, answered, keys)
					}
				}
				return nil
			}))
		}
	})
}
