package storage_test

import (
	"testing"

	"ebb/storage"
	"ebb/storage/storagetest"
)

// A program that sends without a pause has millions of transaction IDs within two days. The write in which its device
// is deleted must not delete them too.
func TestTransactionIDsOfADeletedDeviceAreDeletedWhenTheyAreOld(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ok(t, db.Write(ctx, func(tx *storage.Tx) error {
			if _, err := tx.InsertTxn(7, storage.TxnRow{Hash: 1, Answer: "$e"}); err != nil {
				return err
			}
			ok(t, tx.DeleteDevice(7))
			if _, found, err := tx.Txn(7, 1); err != nil || !found {
				t.Errorf("the deletion of the device has deleted its transaction IDs too, %v", err)
			}
			if n, err := tx.PruneTxns(tx.Now().UnixMilli()+1, 10); err != nil || n != 1 {
				t.Errorf("%d old transaction IDs were deleted, %v", n, err)
			}
			return nil
		}))
	})
}
